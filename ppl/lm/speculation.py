"""Several tokens a pass of the decoder: the next ones are guessed, read together, and kept as far as they were right.

Each row has one uniform a token, and a token is the inverse distribution function of its law at that uniform. So what
will be drawn is settled by the text before it, and a draft is a guess of it: one pass reads the last token and the
drafted ones, gives the law after each, and draws by the row's own uniforms. All tokens up to the first that differs
from its draft are those that the loop without drafts would have drawn; that one, too, was drawn from its right law.
Nothing is accepted or rejected by chance, and the texts hang on the guesses not at all.

Rows keep different numbers of tokens, so each writes its own slots of the cache: those of rejected drafts are written
over by the next pass. (A common slot for all rows with holes for the rejected, closed up now and then, was measured
first: writes a row cost next to nothing more, and closing up costs more than a pass.)

**Source:** Song et al. (2025), arXiv 2506.04708, for drafts from n-grams of sibling texts; Leviathan et al. (2023) for
speculative decoding. Trees of drafts are not made.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from ppl.lm.decoder import Cache, Decoder, Prefix
from ppl.lm.ngrams import CONTEXT, NGrams, guess, learn
from ppl.lm.proposals import Proposal
from ppl.lm.rows import Constraint, Rows, Weights, draw, law_of_rows

MOST = 16  # drafted tokens a pass


def start_context(
    prompts: Int[Array, "prompts length"], known: Int[Array, "prompts length"], num_samples: int
) -> Int[Array, "n context"]:
    """The last tokens of each row's prompt, the latest last; -1 where it is shorter."""
    place = jnp.sum(known, axis=1, dtype=jnp.int32)[:, None] - jnp.arange(CONTEXT, 0, -1)
    recent = jnp.take_along_axis(prompts, jnp.maximum(place, 0), axis=1)
    return jnp.repeat(jnp.where(place >= 0, recent, -1), num_samples, axis=0)


@partial(
    jax.jit, static_argnames=("constraint", "eos", "speculate"), donate_argnames=("rows", "cache", "table", "recent")
)
def write_ahead(
    model: Weights,
    prefix: Prefix,
    rows: Rows,
    cache: Cache,
    recent: Int[Array, "n context"],
    table: NGrams,
    uniforms: Float[Array, "max_tokens n"],
    proposal: Proposal,
    stops: Int[Array, "states vocab"] | None,
    constraint: Constraint | None,
    eos: tuple[int, ...],
    speculate: int,
) -> tuple[Rows, Cache, Int[Array, "n context"], NGrams]:
    """Draw tokens until a row has no room in the cache for `speculate` more, or every row has ended."""
    decoder: Decoder = nnx.merge(*model)
    slots, (most, n) = cache.valid.shape[1], uniforms.shape
    law = law_of_rows(n, proposal, stops, constraint, eos)
    every, before = jnp.arange(n), prefix.length(n)

    def unfinished(rows):
        return ~rows.ended & (rows.length < most)

    def uniform_of(length):
        return uniforms[jnp.minimum(length, most - 1), every]

    def go_on(carry):
        rows, *_ = carry
        active = unfinished(rows)
        return jnp.any(active) & (jnp.max(jnp.where(active, rows.length, 0)) + speculate < slots)

    def one_pass(carry):
        rows, cache, recent, table = carry
        active = unfinished(rows)

        def one_guess(seen, ahead):
            token = guess(table, seen, uniform_of(rows.length + ahead))
            return jnp.append(seen[:, 1:], token[:, None], axis=1), token

        _, draft = jax.lax.scan(one_guess, recent, jnp.arange(speculate))
        block = jnp.concatenate([rows.last[:, None], draft.T], axis=1)
        # An ended row writes its last slots over: nothing reads them any more.
        start = jnp.minimum(rows.length, slots - speculate - 1)
        read = jnp.broadcast_to(active[:, None], block.shape)
        hidden, cache = decoder.hidden(block, read, cache, start, prefix)
        assert cache is not None
        logits = jnp.moveaxis(decoder.logits(hidden), 1, 0)

        def one_draw(carry, at):
            rows, alive = carry
            logits, draft = at
            here, uniform = jnp.where(alive, rows.length, most), uniform_of(rows.length)
            put = lambda all_, new: all_.at[every, here].set(new, mode="drop")  # noqa: E731
            rows, drawn = draw(law, rows, jax.nn.log_softmax(logits), uniform, alive, put)
            return (rows, alive & (rows.last == draft) & unfinished(rows)), (rows.last, drawn, alive)

        wanted = jnp.append(draft, jnp.full((1, n), -1, jnp.int32), axis=0)
        (rows, _), (tokens, spans, kept) = jax.lax.scan(one_draw, (rows, active), (logits, wanted))
        seen = jnp.concatenate([recent, tokens.T], axis=1)
        contexts = jnp.stack([seen[:, i : i + CONTEXT] for i in range(speculate + 1)])
        flat = lambda x: x.reshape(-1, *x.shape[2:])  # noqa: E731
        table = learn(table, flat(contexts), *map(flat, (tokens, *spans, kept)))
        count = jnp.sum(kept, axis=0, dtype=jnp.int32)
        recent = jnp.take_along_axis(seen, count[:, None] + jnp.arange(CONTEXT), axis=1)
        valid = jnp.arange(slots) < rows.length[:, None]
        cache = cache._replace(valid=valid, length=before + rows.length)
        return rows._replace(passes=rows.passes + active), cache, recent, table

    return jax.lax.while_loop(go_on, one_pass, (rows, cache, recent, table))
