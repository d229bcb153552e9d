"""Sampling from a decoder step by step: the pure, jitted-and-vmapped core under every decoding method.

A *step* is a run of tokens that ends at a delimiter, at the end of the text, or at `max_tokens`. All rows of a
batch write into the same cache slots (see `ppl.lm.decoder`); a row that has ended its step pauses.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from ppl.lm.decoder import Cache, Decoder, empty_cache


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
    decoder: Decoder, prompt: Int[Array, " length"], known: Bool[Array, " length"], *, n: int, slots: int
) -> Writing:
    """Read a prompt once and hand it to `n` rows with room for `slots` more tokens.

    **Arguments:** `prompt` [length] ids padded on the right; `known` [length]: which of them are the prompt.
    All but its last token are read here; that one is read when the first token is drawn.
    """
    length = prompt.shape[0]
    end = jnp.sum(known, dtype=jnp.int32) - 1
    cache = empty_cache(decoder.config, batch=1, slots=length + slots)
    _, cache = decoder.hidden(prompt[None], (known & (jnp.arange(length) < end))[None], cache, 0)
    assert cache is not None
    cache = jax.tree.map(lambda x: jnp.broadcast_to(x, (n, *x.shape[1:])), cache)
    return Writing(cache, jnp.full(n, prompt[end]), jnp.zeros(n, bool))


def write_step(
    decoder: Decoder,
    key: Key[Array, ""],
    writing: Writing,
    slot: int | Int[Array, ""],
    temperature: float | Float[Array, ""],
    *,
    max_tokens: int,
    delimiter: int | None,
    eos: int,
) -> tuple[Writing, Step]:
    """Let every unfinished row write one step, into cache slots `slot` .. `slot + max_tokens - 1`.

    **Arguments:** `delimiter` ends a step (None: only the end of text and `max_tokens` do); tokens are drawn from
    the model's next-token law at `temperature` > 0.
    """

    def one_token(carry, inputs):
        writing, active, log_prob, log_proposal = carry
        uniform, offset = inputs
        hidden, cache = decoder.hidden(writing.last[:, None], active[:, None], writing.cache, slot + offset)
        assert cache is not None
        log_p = jax.nn.log_softmax(decoder.logits(hidden[:, 0]))
        log_q = jax.nn.log_softmax(log_p / temperature)
        token = inverse_cdf(uniform, log_q)
        chosen = lambda law: jnp.where(active, jnp.take_along_axis(law, token[:, None], axis=1)[:, 0], 0.0)  # noqa: E731
        log_prob, log_proposal = log_prob + chosen(log_p), log_proposal + chosen(log_q)
        finished = writing.finished | (active & (token == eos))
        written, token = active, jnp.where(active, token, 0)
        writing = Writing(cache, jnp.where(active, token, writing.last), finished)
        active = active & ~finished
        if delimiter is not None:
            active = active & (token != delimiter)
        return (writing, active, log_prob, log_proposal), (token, written)

    n = writing.last.shape[0]
    uniforms = jax.random.uniform(key, (max_tokens, n))
    zeros = jnp.zeros(n)
    start = (writing, ~writing.finished, zeros, zeros)
    (writing, _, log_prob, log_proposal), (tokens, written) = jax.lax.scan(
        one_token, start, (uniforms, jnp.arange(max_tokens))
    )
    return writing, Step(tokens.T, written.T, log_prob, log_proposal)


def inverse_cdf(uniform: Float[Array, " n"], log_probs: Float[Array, "n vocab"]) -> Int[Array, " n"]:
    """A draw from each row's law, by one uniform a row.

    A Gumbel draw needs as many random numbers as the vocabulary has tokens, which at small models costs a third
    of the decoding time. Tokens of probability zero are never drawn.

    **Arguments:** `uniform` [n] in [0, 1); `log_probs` [n, vocab], with a token of positive probability in every row.
    """
    probs = jnp.exp(log_probs)
    # XLA sums a prefix as a tree, so rounding may raise the sum at a token of probability zero: skip those by name.
    cdf = jnp.where(probs > 0, jnp.cumsum(probs, axis=-1), 0.0)
    past = cdf > uniform[:, None] * jnp.max(cdf, axis=-1, keepdims=True)
    vocab = probs.shape[-1]
    return jnp.min(jnp.where(past, jnp.arange(vocab, dtype=jnp.int32), vocab - 1), axis=-1)


class Scored(NamedTuple):
    """A reward model's reading of rows; `log_odds` [n] is the score after the newest token read."""

    cache: Cache
    log_odds: Float[Array, " n"]


def read_prompt_scored(
    decoder: Decoder, prompt: Int[Array, " length"], known: Bool[Array, " length"], *, n: int, slots: int
) -> Scored:
    """Let a reward model read a prompt once, for `n` rows with room for `slots` more tokens."""
    cache = empty_cache(decoder.config, batch=1, slots=prompt.shape[0] + slots)
    hidden, cache = decoder.hidden(prompt[None], known[None], cache, 0)
    assert cache is not None
    end = jnp.sum(known) - 1
    cache = jax.tree.map(lambda x: jnp.broadcast_to(x, (n, *x.shape[1:])), cache)
    return Scored(cache, jnp.broadcast_to(decoder.scores(hidden[0, end])[0], n))


def score_step(
    decoder: Decoder,
    scored: Scored,
    tokens: Int[Array, "n max_tokens"],
    written: Bool[Array, "n max_tokens"],
    slot: int | Int[Array, ""],
) -> Scored:
    """Read one more step: its own tokens only, the prefix is in the cache. A row without new tokens keeps its score."""
    hidden, cache = decoder.hidden(tokens, written, scored.cache, slot)
    assert cache is not None
    slots = jnp.arange(tokens.shape[1])
    end = jnp.max(jnp.where(written, slots, -1), axis=1)
    newest = jnp.take_along_axis(hidden, jnp.maximum(end, 0)[:, None, None], axis=1)[:, 0]
    return Scored(cache, jnp.where(end >= 0, decoder.scores(newest)[:, 0], scored.log_odds))
