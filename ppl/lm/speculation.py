"""Several tokens a pass of the decoder: the next ones are guessed, read together, and kept as far as they were right.

Each row has one uniform a token, and a token is the inverse distribution function of its law at that uniform. So what
will be drawn is settled by the text before it, and a draft is a guess of it: one pass reads the last token and the
drafted ones, gives the law after each, and draws by the row's own uniforms. All tokens up to the first that differs
from its draft are those that the loop without drafts would have drawn; that one, too, was drawn from its right law.
Nothing is accepted or rejected by chance, and the texts hang on the guesses not at all.

Rows keep different numbers of tokens, so each writes its own slots of the cache: those of rejected drafts are written
over by the next pass. (A common slot for all rows with holes for the rejected, closed up now and then, was measured,
too: writes a row cost next to nothing more on a CPU, and closing up costs 40 such writes.)

**Source:** Song et al. (2025), arXiv 2506.04708, for drafts from n-grams of sibling texts; Leviathan et al. (2023) for
speculative decoding. Both accept a draft with probability min(1, p / q), which agrees with the law of the next token
somewhat more often than a shared uniform does where draft law q and law p differ, but makes texts of other random
numbers than the plain loop does. Trees of drafts are not made.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from ppl.lm.decoder import Cache, Decoder, Prefix
from ppl.lm.ngrams import CONTEXT, NGrams, guess, learn
from ppl.lm.proposals import Proposal
from ppl.lm.rows import Constraint, Rows, Weights, draw, law_of_rows

MOST = 16  # drafted tokens a pass


class Drafts(NamedTuple):
    """What guesses are made from: `recent` [n, context], each row's last tokens, the latest last (-1 where there is
    none), and `grams`, what contexts were followed by, for all rows together."""

    recent: Int[Array, "n context"]
    grams: NGrams


@partial(jax.jit, static_argnames="num_samples", donate_argnames="grams")
def start_drafts(
    prompts: Int[Array, "prompts length"], known: Bool[Array, "prompts length"], num_samples: int, grams: NGrams
) -> Drafts:
    """Drafts after prompts (see `ppl.lm.generation.generate`), which teach what their own tokens are followed by."""
    size, length = prompts.shape
    start = jnp.concatenate([jnp.full((size, CONTEXT), -1, jnp.int32), prompts], axis=1)
    contexts = jnp.stack([start[:, i : i + length] for i in range(CONTEXT)], axis=-1)
    whole = jnp.zeros(size * length), jnp.ones(size * length)  # a follower is one for all uniforms
    grams = learn(grams, contexts.reshape(-1, CONTEXT), prompts.ravel(), *whole, known.ravel())
    end = jnp.sum(known, axis=1, dtype=jnp.int32)
    recent = jnp.take_along_axis(start, end[:, None] + jnp.arange(CONTEXT), axis=1)
    return Drafts(jnp.repeat(recent, num_samples, axis=0), grams)


@partial(
    jax.jit, static_argnames=("constraint", "eos", "last", "speculate"), donate_argnames=("rows", "cache", "drafts")
)
def write_ahead(
    model: Weights,
    prefix: Prefix,
    rows: Rows,
    cache: Cache,
    drafts: Drafts,
    uniforms: Float[Array, "max_tokens n"],
    proposal: Proposal,
    table: Int[Array, "states vocab"] | None,
    constraint: Constraint | None,
    eos: tuple[int, ...],
    last: int | None,
    speculate: int,
) -> tuple[Rows, Cache, Drafts]:
    """Draw tokens, some a pass, until the next pass of some row has no room in the cache or every row has ended.

    **Arguments:** as of `ppl.lm.generation`; `speculate`: drafted tokens a pass, 1 at least. To write `max_tokens`, the
    cache must in the end have `max_tokens + speculate` slots.
    """
    decoder: Decoder = nnx.merge(*model)
    slots, (most, n) = cache.valid.shape[1], uniforms.shape
    law = law_of_rows(n, proposal, table, constraint, eos, last)
    every, before = jnp.arange(n), prefix.length(n)

    def unfinished(rows):
        return ~rows.ended & (rows.length < most)

    def uniform_of(length):
        return uniforms[jnp.minimum(length, most - 1), every]

    def go_on(carry):
        rows, _, _ = carry
        active = unfinished(rows)
        return jnp.any(active) & (jnp.max(jnp.where(active, rows.length, 0)) + speculate < slots)

    def one_pass(carry):
        rows, cache, (recent, grams) = carry
        active = unfinished(rows)

        def one_guess(seen, ahead):
            token = guess(grams, seen, uniform_of(rows.length + ahead))
            return jnp.append(seen[:, 1:], token[:, None], axis=1), token

        def one_draw(carry, at):
            rows, alive = carry
            logits, guessed = at
            here, uniform = jnp.where(alive, rows.length, most), uniform_of(rows.length)
            put = lambda all_, new: all_.at[every, here].set(new, mode="drop")  # noqa: E731
            rows, span = draw(law, rows, jax.nn.log_softmax(logits), uniform, alive, put)
            return (rows, alive & (rows.last == guessed) & unfinished(rows)), (rows.last, *span, alive)

        _, guessed = jax.lax.scan(one_guess, recent, jnp.arange(speculate))
        block = jnp.concatenate([rows.last[None], guessed]).T
        # A row that has ended may have no room: it writes over its last slots, which nothing reads any more.
        start = jnp.minimum(rows.length, slots - speculate - 1)
        hidden, cache = decoder.hidden(block, jnp.broadcast_to(active[:, None], block.shape), cache, start, prefix)
        assert cache is not None
        logits = jnp.moveaxis(decoder.logits(hidden), 1, 0)
        # After the last guess one more token is drawn, which nothing goes on from.
        guessed = jnp.append(guessed, jnp.full((1, n), -1, jnp.int32), axis=0)
        (rows, _), (tokens, lower, upper, kept) = jax.lax.scan(one_draw, (rows, active), (logits, guessed))

        seen = jnp.concatenate([recent, tokens.T], axis=1)
        contexts = jnp.concatenate([seen[:, i : i + CONTEXT] for i in range(speculate + 1)])
        grams = learn(grams, contexts, *(x.ravel() for x in (tokens, lower, upper, kept)))
        new = jnp.sum(kept, axis=0, dtype=jnp.int32)
        recent = jnp.take_along_axis(seen, new[:, None] + jnp.arange(CONTEXT), axis=1)
        # What was read of wrong guesses is forgotten.
        cache = cache._replace(valid=jnp.arange(slots) < rows.length[:, None], length=before + rows.length)
        return rows._replace(passes=rows.passes + active), cache, Drafts(recent, grams)

    return jax.lax.while_loop(go_on, one_pass, (rows, cache, drafts))
