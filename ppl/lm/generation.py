"""Continuations of many prompts at once: one read of each prompt, then one compiled loop over tokens.

A prompt's keys and values are held once and shared by its samples; a sample's own lie in slots that grow by doubling,
so that a short text does not pay for the longest one and few lengths compile. The loop ends when every row has ended.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, Key

from ppl.keys import as_key
from ppl.lm.completion import Completion
from ppl.lm.decoder import Cache, Decoder, Prefix, empty_cache
from ppl.lm.ngrams import NGrams, empty_table
from ppl.lm.placement import gathered, over_particles, particle_mesh
from ppl.lm.proposals import Proposal, check_proposal
from ppl.lm.rows import Constraint, Rows, Weights, draw, law_of_rows
from ppl.lm.speculation import MOST, start_drafts, write_ahead
from ppl.lm.stops import Stops, stop_table

ROWS_PER_CALL = 512  # rows (prompts x samples) in one compiled call: bounds memory
_FIRST_SLOTS = 128  # of a row's own tokens; doubled as texts go on


def generate(
    model: Weights,
    prompts: Int[np.ndarray, "prompts length"],
    known: Bool[np.ndarray, "prompts length"],
    keys: Key[Array, " prompts"],
    proposal: Proposal,
    stops: Stops | None,
    constraint: Constraint | None,
    *,
    num_samples: int,
    max_tokens: int,
    eos: tuple[int, ...],
    must_end: bool = False,
    speculate: int = 0,
    grams: NGrams | None = None,
) -> tuple[Rows, NGrams | None]:
    """Rows of `num_samples` continuations of each prompt, at most `max_tokens` each, as NumPy arrays; and what they
    taught `ppl.lm.ngrams`, for the next call (None without speculation).

    **Arguments:** `prompts`, `known` [prompts, length]: ids padded on the right, and which are tokens, one at least;
    `keys`: one a prompt, so that a prompt's samples do not hang on its neighbours; `must_end`: the last token that
    `max_tokens` lets a text have ends it; `speculate`: guesses a pass;
    `grams`: of an earlier call, which is used up.
    """
    table = None if stops is None else jnp.asarray(stops.table)
    last = max_tokens - 1 if must_end else None
    mesh = particle_mesh(model.params)
    ids, known_ids = jnp.asarray(prompts, jnp.int32), jnp.asarray(known)
    prefix, rows, uniforms = _begin(model, ids, known_ids, keys, constraint, num_samples, max_tokens, mesh)
    drafts = None
    if speculate:
        drafts = start_drafts(ids, known_ids, num_samples, empty_table() if grams is None else grams)
    # The last pass may read guesses beyond the last token.
    cache, done, end = None, 0, max_tokens + speculate
    while done < end:
        slots = min(max(_FIRST_SLOTS, 2 * done, speculate + 1), end)
        cache = _grow(model, cache, prefix, num_samples, slots, mesh)
        if drafts is None:
            rows, cache = _write(model, prefix, rows, cache, uniforms, proposal, table, constraint, done, eos, last)
        else:
            rows, cache, drafts = write_ahead(
                model, prefix, rows, cache, drafts, uniforms, proposal, table, constraint, eos, last, speculate
            )
        done = slots
        if done < end and bool(jnp.all(rows.ended)):
            break
    return gathered(rows._replace(constraint=None)), None if drafts is None else drafts.grams


def completions(
    rows: Rows, num_samples: int, decode: Sequence[Callable[[Sequence[int]], str]], stop: Sequence[str]
) -> list[list[Completion]]:
    """Each prompt's rows as texts by its `decode`, cut before the first stop string that they hold."""
    found = []
    for i, size in enumerate(rows.length.tolist()):
        ids = rows.tokens[i, :size].tolist()
        text = decode[i // num_samples](ids)
        cuts = [place for place in (text.find(end) for end in stop) if place >= 0]
        log_probs, log_proposals = (x[i, :size].tolist() for x in (rows.log_probs, rows.log_proposals))
        finish = "stop" if rows.ended[i] else "length"
        found.append(
            Completion(text[: min(cuts)] if cuts else text, ids, log_probs, log_proposals, finish, int(rows.passes[i]))
        )
    return [found[i : i + num_samples] for i in range(0, len(found), num_samples)]


class Request(NamedTuple):
    """What `LanguageModel.complete` is asked for, checked."""

    key: Key[Array, "*prompts"]
    num_samples: int
    max_tokens: int
    proposal: Proposal
    stops: Stops | None
    speculate: int


def request(
    tokenizer, vocab_size: int, key, num_samples: int, max_tokens: int, temperature, top_k, top_p, min_p, stop,
    speculate,
) -> Request:  # fmt: skip
    """A checked request. **Raises:** `ValueError` naming the argument that is out of range."""
    for name, value in (("num_samples", num_samples), ("max_tokens", max_tokens)):
        if not (isinstance(value, int | np.integer) and value >= 1):
            raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
    if isinstance(speculate, bool) or not (isinstance(speculate, int | np.integer) and 0 <= speculate <= MOST):
        raise ValueError(f"speculate must be a whole number in 0..{MOST}, got {speculate!r}")
    proposal = check_proposal(temperature, top_k, top_p, min_p)
    key = key if isinstance(key, jax.Array) and key.ndim == 1 else as_key(key)
    stops = stop_table(tokenizer, vocab_size, stop)
    return Request(key, int(num_samples), int(max_tokens), proposal, stops, int(speculate))


@partial(jax.jit, static_argnames=("constraint", "num_samples", "max_tokens", "mesh"))
def _begin(
    model: Weights,
    prompts: Int[Array, "prompts length"],
    known: Bool[Array, "prompts length"],
    keys: Key[Array, " prompts"],
    constraint: Constraint | None,
    num_samples: int,
    max_tokens: int,
    mesh: Mesh | None = None,
) -> tuple[Prefix, Rows, Float[Array, "max_tokens n"]]:
    """Read all but the last token of each prompt; that one is read when the first token is drawn."""
    decoder: Decoder = nnx.merge(*model)
    end = jnp.sum(known, axis=1, dtype=jnp.int32) - 1
    before = known & (jnp.arange(prompts.shape[1]) < end[:, None])
    _, prefix = decoder.read_prefix(prompts, before)
    n = prompts.shape[0] * num_samples
    last = jnp.repeat(jnp.take_along_axis(prompts, end[:, None], axis=1)[:, 0], num_samples)
    state = None if constraint is None else constraint.start(n)
    nothing = jnp.zeros((n, max_tokens))
    rows = Rows(
        last, jnp.zeros(n, bool), jnp.full(n, Stops.START, jnp.int32), state, jnp.zeros(n, jnp.int32),
        jnp.zeros(n, jnp.int32), nothing.astype(jnp.int32), nothing, nothing,
    )  # fmt: skip
    uniforms = jax.vmap(lambda key: jax.random.uniform(key, (max_tokens, num_samples)), out_axes=1)(keys)
    return prefix, over_particles(rows, mesh), uniforms.reshape(max_tokens, n)


@partial(jax.jit, static_argnames=("num_samples", "slots", "mesh"))
def _grow(
    model: Weights, cache: Cache | None, prefix: Prefix, num_samples: int, slots: int, mesh: Mesh | None = None
) -> Cache:
    """A cache of `slots` slots that begins with what `cache` holds."""
    decoder: Decoder = nnx.merge(*model)
    batch = num_samples * prefix.valid.shape[0]
    new = over_particles(
        empty_cache(decoder.config, batch=batch, slots=slots, prefix=prefix, dtype=decoder.dtype), mesh
    )
    if cache is None:
        return new
    put = lambda old, empty, axis: jax.lax.dynamic_update_slice_in_dim(empty, old, 0, axis)  # noqa: E731
    keys = tuple(put(a, b, 2) for a, b in zip(cache.keys, new.keys, strict=True))
    values = tuple(put(a, b, 2) for a, b in zip(cache.values, new.values, strict=True))
    return Cache(keys, values, put(cache.valid, new.valid, 1), cache.length)


@partial(jax.jit, static_argnames=("constraint", "eos", "last"), donate_argnames=("rows", "cache"))
def _write(
    model: Weights,
    prefix: Prefix,
    rows: Rows,
    cache: Cache,
    uniforms: Float[Array, "max_tokens n"],
    proposal: Proposal,
    table: Int[Array, "states vocab"] | None,
    constraint: Constraint | None,
    start: int | Int[Array, ""],
    eos: tuple[int, ...],
    last: int | None = None,
) -> tuple[Rows, Cache]:
    """Draw tokens into slots from `start` on until the cache is full or every row has ended."""
    decoder: Decoder = nnx.merge(*model)
    slots = cache.valid.shape[1]
    law = law_of_rows(rows.last.shape[0], proposal, table, constraint, eos, last)

    def go_on(carry):
        slot, rows, _ = carry
        return (slot < slots) & ~jnp.all(rows.ended)

    def one_token(carry):
        slot, rows, cache = carry
        active = ~rows.ended
        hidden, cache = decoder.hidden(rows.last[:, None], active[:, None], cache, slot, prefix)
        assert cache is not None
        log_p = jax.nn.log_softmax(decoder.logits(hidden[:, 0]))
        keep = lambda all_, new: jax.lax.dynamic_update_slice_in_dim(  # noqa: E731
            all_, jnp.where(active, new, 0).astype(all_.dtype)[:, None], slot, axis=1
        )
        rows, _ = draw(law, rows, log_p, uniforms[slot], active, keep)
        return slot + 1, rows._replace(passes=rows.passes + active), cache

    _, rows, cache = jax.lax.while_loop(go_on, one_token, (jnp.int32(start), rows, cache))
    return rows, cache
