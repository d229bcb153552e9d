"""What tokens are drawn from: temperature, top-k, top-p and min-p as a law with its exact log density.

A truncated law is not the model's. Whoever weighs samples needs the density of what they were drawn from, so a proposal
here is a normalised law, and never a trick on logits whose normaliser is lost.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

_BLOCK = 256  # tokens whose probabilities `inverse_cdf` sums at once


class Proposal(NamedTuple):
    """How the next token is drawn; a part that is None is not applied, and compiles to nothing.

    In this order, as in `transformers`: `temperature` (a scalar or [n], 0 is greedy); `top_k`: only tokens at least as
    probable as the k-th; `top_p`: only the most probable ones, as many as it takes to hold `top_p` of the mass;
    `min_p`: only those at least `min_p` times as probable as the most probable one. Tokens of equal probability are
    kept or dropped together, so that the law does not hang on how a sort breaks ties.
    """

    temperature: float | Float[Array, "*n"] = 1.0
    top_k: int | Int[Array, ""] | None = None
    top_p: float | Float[Array, ""] | None = None
    min_p: float | Float[Array, ""] | None = None


def check_proposal(
    temperature: float | Sequence[float] | Float[np.ndarray, " n"],
    top_k: int | None,
    top_p: float | None,
    min_p: float | None,
) -> Proposal:
    """A proposal from a user's numbers, as arrays, so that other numbers do not compile anew.

    **Raises:** `ValueError` naming the argument that is out of range.
    """
    heat = np.asarray(temperature, np.float32)
    if not (np.all(heat >= 0) and np.all(np.isfinite(heat))):
        raise ValueError(f"temperature must be finite and at least 0, got {temperature}")
    if top_k is not None and not (isinstance(top_k, int | np.integer) and top_k >= 1):
        raise ValueError(f"top_k must be a whole number of at least 1, or None, got {top_k!r}")
    for name, value in (("top_p", top_p), ("min_p", min_p)):
        if value is not None and not 0 < value <= 1:
            raise ValueError(f"{name} must be in (0, 1], or None, got {value!r}")
    wrap = lambda value, kind: None if value is None else jnp.asarray(value, kind)  # noqa: E731
    return Proposal(jnp.asarray(heat), wrap(top_k, jnp.int32), wrap(top_p, jnp.float32), wrap(min_p, jnp.float32))


def log_density(
    proposal: Proposal, log_probs: Float[Array, "n vocab"], allowed: Bool[Array, "n vocab"] | None = None
) -> Float[Array, "n vocab"]:
    """Log density of the proposal over the next token, given the model's; tokens never drawn have -inf.

    **Arguments:** `allowed` [n, vocab]: tokens that a constraint admits, before anything else is applied; at least one
    in each row.
    """
    if allowed is not None:
        log_probs = jnp.where(allowed, log_probs, -jnp.inf)
    heat = jnp.broadcast_to(proposal.temperature, log_probs.shape[:1])[:, None]
    law = jax.nn.log_softmax(log_probs / jnp.where(heat > 0, heat, 1.0))
    if proposal.top_k is not None:
        k = proposal.top_k
        law = _kept(law, lambda kept: jnp.sum(kept, axis=-1) >= k)
    if proposal.top_p is not None:
        probs, mass = jnp.exp(law), proposal.top_p
        # A sum of all probabilities may round below one: then everything is kept.
        law = _kept(law, lambda kept: jnp.sum(jnp.where(kept, probs, 0.0), axis=-1) >= mass)
    if proposal.min_p is not None:
        floor = jnp.max(law, axis=-1, keepdims=True) + jnp.log(proposal.min_p)
        law = jax.nn.log_softmax(jnp.where(law >= floor, law, -jnp.inf))
    best = jnp.arange(law.shape[-1]) == jnp.argmax(law, axis=-1, keepdims=True)
    return jnp.where(heat > 0, law, jnp.where(best, 0.0, -jnp.inf))


def inverse_cdf(uniform: Float[Array, " n"], log_probs: Float[Array, "n vocab"]) -> Int[Array, " n"]:
    """A draw from each row's law, by one uniform a row.

    A Gumbel draw needs as many random numbers as the vocabulary has tokens, which at small models costs a third of the
    decoding time. The sums are of blocks first, then within the one block that the uniform falls in: one running sum
    over a large vocabulary took as long as the network. Tokens of probability zero are never drawn.

    **Arguments:** `uniform` [n] in [0, 1); `log_probs` [n, vocab], with a token of positive probability in every row.
    """
    return inverse_cdf_span(uniform, log_probs)[0]


def inverse_cdf_span(
    uniform: Float[Array, " n"], log_probs: Float[Array, "n vocab"]
) -> tuple[Int[Array, " n"], Float[Array, " n"], Float[Array, " n"]]:
    """As `inverse_cdf`, and from which uniform to which the same token would have been drawn."""
    rows, vocab = log_probs.shape
    size = _BLOCK if vocab > 4 * _BLOCK else vocab
    probs = jnp.pad(jnp.exp(log_probs), ((0, 0), (0, -vocab % size))).reshape(rows, -1, size)
    sums = jnp.sum(probs, axis=-1)
    block, below = _first_past(uniform, sums)
    inside = jnp.take_along_axis(probs, block[:, None, None], axis=1)[:, 0]
    share = jnp.take_along_axis(sums, block[:, None], axis=1)[:, 0]
    whole = jnp.sum(sums, axis=-1)
    token, inner = _first_past((uniform * whole - below) / share, inside)
    lower = (below + inner) / whole
    mass = jnp.take_along_axis(inside, token[:, None], axis=1)[:, 0]
    return block * size + token, lower, lower + mass / whole


def _first_past(
    uniform: Float[Array, " n"], masses: Float[Array, "n m"]
) -> tuple[Int[Array, " n"], Float[Array, " n"]]:
    """The first of `masses` with a running sum past `uniform` of the whole, never an empty one; and the sum before."""
    running = jnp.cumsum(masses, axis=-1)
    # XLA sums a prefix as a tree, so rounding may raise the sum at an empty place: skip those by name.
    filled = masses > 0
    past = filled & (running > uniform[:, None] * jnp.max(running, axis=-1, keepdims=True))
    places = jnp.arange(masses.shape[-1], dtype=jnp.int32)
    last = jnp.max(jnp.where(filled, places, 0), axis=-1)  # where rounding left the uniform past everything
    found = jnp.where(jnp.any(past, axis=-1), jnp.min(jnp.where(past, places, places[-1]), axis=-1), last)
    before = jnp.take_along_axis(running - masses, found[:, None], axis=-1)[:, 0]
    return found, before


def _kept(law: Float[Array, "n vocab"], enough) -> Float[Array, "n vocab"]:
    """The law cut to its most probable tokens, as few as are `enough` (a function of which are kept), renormalised.

    The least log-probability that is kept is found by bisection over the order of float32 numbers, which is exact after
    32 halvings and takes a fraction of a sort's time.
    """
    order = _ordered(law)

    def halve(_, ends):
        low, high = ends  # `low` keeps enough, `high` does not
        middle = low + (high - low) // 2
        good = enough(order >= middle[:, None])
        return jnp.where(good, middle, low), jnp.where(good, high, middle)

    low = jnp.zeros(law.shape[0], jnp.uint32)
    high = jnp.max(order, axis=-1) + 1
    low, _ = jax.lax.fori_loop(0, 32, halve, (low, high))
    return jax.nn.log_softmax(jnp.where(order >= low[:, None], law, -jnp.inf))


def _ordered(values: Float[Array, "n vocab"]) -> Array:
    """Unsigned integers in the order of float32 values."""
    bits = jax.lax.bitcast_convert_type(values, jnp.uint32)
    negative = bits >> 31 == 1
    return jnp.where(negative, ~bits, bits | jnp.uint32(1 << 31))
