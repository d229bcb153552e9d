"""Reading solutions step by step with a reward model: pure functions that a particle filter jits and maps.

A step costs its own tokens, since what came before lies in the prompt's `Prefix` and the row's cache. A sequence
classifier reads the tokens as they were written. A step-wise model reads them in a `Frame`: a separator, or a question
in its chat form, after each step, and something between steps.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ppl.lm.decoder import Cache, Decoder, Prefix, empty_cache

# Log probabilities at most: float32 rounds a product or a mean to one, whose odds are infinite.
_LARGEST = np.float32(-(2.0**-24))


class Frame(NamedTuple):
    """What a step-wise reward model reads around a solution's steps.

    `ask` [a]: tokens after a step, at the last of which it is scored; `between` [b]: tokens before each further step;
    `silent` [vocab]: tokens that are left out at the end of a step (delimiter, end of text); `words` [2]: a judge's
    tokens for wrong and for right, None for a model with a score head; `aggregation`: `last`, `min`, `product` or
    `mean`, what makes one number of the steps' scores.
    """

    ask: Int[Array | np.ndarray, " a"]
    between: Int[Array | np.ndarray, " b"]
    silent: Bool[Array | np.ndarray, " vocab"]
    words: Int[Array | np.ndarray, " 2"] | None
    aggregation: str


class Scored(NamedTuple):
    """A reward model's reading of rows; every leaf has the row axis first.

    `log_odds` [n]: the score of all that was read; `total` [n] and `steps` [n]: what an aggregation sums, and how many
    steps it has.
    """

    cache: Cache
    log_odds: Float[Array, " n"]
    total: Float[Array, " n"]
    steps: Int[Array, " n"]


def step_slots(max_tokens: int, frame: Frame | None) -> int:
    """Cache slots that a step of at most `max_tokens` tokens takes."""
    return max_tokens if frame is None else len(frame.between) + max_tokens + len(frame.ask)


def read_prompt_scored(
    decoder: Decoder, prompt: Int[Array, " length"], known: Bool[Array, " length"], frame: Frame | None = None
) -> tuple[Prefix, Float[Array, ""]]:
    """Let a reward model read a prompt once: its keys and values, and the score after it (0 in a frame, which scores
    steps alone)."""
    hidden, prefix = decoder.read_prefix(prompt[None], known[None])
    if frame is not None:
        return prefix, jnp.zeros(())
    return prefix, decoder.scores(hidden[0, jnp.sum(known) - 1])[0]


def start_scoring(decoder: Decoder, prefix: Prefix, log_odds: Float[Array, ""], *, n: int, slots: int) -> Scored:
    """`n` rows that begin with `prefix`, with room for `slots` more tokens each."""
    cache = empty_cache(decoder.config, batch=n, slots=slots, prefix=prefix, dtype=decoder.dtype)
    return Scored(cache, jnp.broadcast_to(log_odds, n), jnp.zeros(n), jnp.zeros(n, jnp.int32))


def score_step(
    decoder: Decoder,
    prefix: Prefix,
    scored: Scored,
    tokens: Int[Array, "n max_tokens"],
    written: Bool[Array, "n max_tokens"],
    slot: int | Int[Array, ""],
    frame: Frame | None = None,
) -> tuple[Scored, Int[Array, " n"]]:
    """Read one more step, into the `step_slots` slots from `slot` on. A row without new tokens keeps its score.

    **Returns:** the reading, and how many tokens each row read for it [n].
    """
    if frame is None:
        read, new = written, jnp.any(written, axis=1)
        hidden, cache = decoder.hidden(tokens, read, scored.cache, slot, prefix)
        end = jnp.max(jnp.where(written, jnp.arange(tokens.shape[1]), 0), axis=1)
        newest = decoder.scores(jnp.take_along_axis(hidden, end[:, None, None], axis=1)[:, 0])[:, 0]
        total = scored.total
    else:
        speech = written & ~jnp.asarray(frame.silent)[tokens]
        kept = written & (jnp.flip(jnp.cumsum(jnp.flip(speech, 1), axis=1), 1) > 0)
        # A step of nothing is no step, unless the text begins with it and has no score yet.
        new = jnp.any(kept, axis=1) | (jnp.any(written, axis=1) & (scored.steps == 0))
        around = lambda ids: jnp.broadcast_to(jnp.asarray(ids, jnp.int32), (tokens.shape[0], len(ids)))  # noqa: E731
        wide = lambda mask, ids: jnp.broadcast_to(mask[:, None], (tokens.shape[0], len(ids)))  # noqa: E731
        ids = jnp.concatenate([around(frame.between), tokens, around(frame.ask)], axis=1)
        read = jnp.concatenate([wide(new & (scored.steps > 0), frame.between), kept, wide(new, frame.ask)], axis=1)
        hidden, cache = decoder.hidden(ids, read, scored.cache, slot, prefix)
        newest, total = _aggregated(frame, _step_log_odds(decoder, frame, hidden[:, -1]), scored)
    assert cache is not None
    keep = lambda one, other: jnp.where(new, one, other)  # noqa: E731
    scored = Scored(cache, keep(newest, scored.log_odds), keep(total, scored.total), scored.steps + new)
    return scored, jnp.sum(read, axis=1, dtype=jnp.int32)


def _step_log_odds(decoder: Decoder, frame: Frame, hidden: Float[Array, "n width"]) -> Float[Array, " n"]:
    """Log odds that a step is right, of one label, of two, or of a judge's two words."""
    if frame.words is not None:
        wrong_and_right = decoder.logits(hidden)[:, jnp.asarray(frame.words)]
    else:
        wrong_and_right = decoder.scores(hidden)
    return wrong_and_right[:, -1] - (wrong_and_right[:, 0] if wrong_and_right.shape[1] == 2 else 0.0)


def _aggregated(
    frame: Frame, newest: Float[Array, " n"], scored: Scored
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """Log odds of the whole, and the sum that it is of."""
    if frame.aggregation == "last":
        return newest, newest
    if frame.aggregation == "min":
        least = jnp.where(scored.steps == 0, newest, jnp.minimum(scored.total, newest))
        return least, least
    if frame.aggregation == "product":
        total = scored.total + jax.nn.log_sigmoid(newest)
        log_p = total
    elif frame.aggregation == "mean":
        total = scored.total + jax.nn.sigmoid(newest)
        log_p = jnp.log(total / (scored.steps + 1))
    else:
        raise ValueError(f"aggregation {frame.aggregation!r} does not go step by step")
    log_p = jnp.minimum(log_p, _LARGEST)
    return log_p - jnp.log(-jnp.expm1(log_p)), total
