"""Sampling from a decoder step by step: the pure, jitted-and-vmapped core under every decoding method.

A *step* is a run of tokens that ends at a delimiter, at the end of the text, or at `max_tokens`. All rows of a
batch write into the same cache slots (see `ppl.lm.decoder`); a row that has ended its step pauses.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from ppl.lm.decoder import Cache, Decoder, Prefix, empty_cache
from ppl.lm.proposals import Proposal, inverse_cdf, log_density
from ppl.lm.stops import HIT, Stops


class Writing(NamedTuple):
    """Rows of text being written; every leaf has the row (particle) axis first.

    `last` [n]: the newest token, which the decoder has not read yet; `finished` [n]: has the row ended its text.
    """

    cache: Cache
    last: Int[Array, " n"]
    finished: Bool[Array, " n"]


class Step(NamedTuple):
    """What one step wrote: `tokens` and `written` (which of them are tokens) [n, max_tokens]; `log_prob` under the
    model and `log_proposal` under what it was drawn from, sums over the step's tokens [n]."""

    tokens: Int[Array, "n max_tokens"]
    written: Bool[Array, "n max_tokens"]
    log_prob: Float[Array, " n"]
    log_proposal: Float[Array, " n"]


def read_prompt(
    decoder: Decoder, prompt: Int[Array, " length"], known: Bool[Array, " length"]
) -> tuple[Prefix, Int[Array, ""]]:
    """Read a prompt once, for all rows that will go on from it: its keys and values, and its last token.

    **Arguments:** `prompt` [length] ids padded on the right; `known` [length]: which of them are the prompt.
    All but the last token are read here; that one is read when the first token is drawn.
    """
    end = jnp.sum(known, dtype=jnp.int32) - 1
    _, prefix = decoder.read_prefix(prompt[None], (known & (jnp.arange(prompt.shape[0]) < end))[None])
    return prefix, prompt[end]


def start_writing(decoder: Decoder, prefix: Prefix, last: Int[Array, ""], *, n: int, slots: int) -> Writing:
    """`n` rows that begin with `prefix` and the token `last`, with room for `slots` more tokens each."""
    cache = empty_cache(decoder.config, batch=n, slots=slots, prefix=prefix, dtype=decoder.dtype)
    return Writing(cache, jnp.full(n, last), jnp.zeros(n, bool))


def write_step(
    decoder: Decoder,
    key: Key[Array, ""],
    prefix: Prefix,
    writing: Writing,
    slot: int | Int[Array, ""],
    proposal: Proposal,
    *,
    max_tokens: int,
    delimiter: int | Int[Array, "states vocab"] | None,
    eos: tuple[int, ...],
) -> tuple[Writing, Step]:
    """Let every unfinished row write one step, into cache slots `slot` .. `slot + max_tokens - 1`.

    **Arguments:** `prefix`: what all rows begin with; `proposal`: what tokens are drawn from; `delimiter` ends a step:
    one token, or the table of a text that may lie across tokens (`ppl.lm.stops`; None: only the end of the text and
    `max_tokens` do); `eos`: the tokens that end a text.
    """

    def one_token(carry, inputs):
        writing, active, stop, log_prob, log_proposal = carry
        uniform, offset = inputs
        hidden, cache = decoder.hidden(writing.last[:, None], active[:, None], writing.cache, slot + offset, prefix)
        assert cache is not None
        log_p = jax.nn.log_softmax(decoder.logits(hidden[:, 0]))
        log_q = log_density(proposal, log_p)
        token = inverse_cdf(uniform, log_q)
        chosen = lambda law: jnp.where(active, jnp.take_along_axis(law, token[:, None], axis=1)[:, 0], 0.0)  # noqa: E731
        log_prob, log_proposal = log_prob + chosen(log_p), log_proposal + chosen(log_q)
        ends = jnp.isin(token, jnp.asarray(eos, jnp.int32)) if eos else jnp.zeros(token.shape, bool)
        finished = writing.finished | (active & ends)
        written, token = active, jnp.where(active, token, 0)
        writing = Writing(cache, jnp.where(active, token, writing.last), finished)
        active = active & ~finished
        if isinstance(delimiter, int):
            active = active & (token != delimiter)
        elif delimiter is not None:
            stop = delimiter[stop, token].astype(jnp.int32)
            active = active & (stop != HIT)
        return (writing, active, stop, log_prob, log_proposal), (token, written)

    n = writing.last.shape[0]
    uniforms = jax.random.uniform(key, (max_tokens, n))
    zeros = jnp.zeros(n)
    start = (writing, ~writing.finished, jnp.full(n, Stops.START, jnp.int32), zeros, zeros)
    (writing, _, _, log_prob, log_proposal), (tokens, written) = jax.lax.scan(
        one_token, start, (uniforms, jnp.arange(max_tokens))
    )
    return writing, Step(tokens.T, written.T, log_prob, log_proposal)
