"""Sums over particle weights, in log space and in float32."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Inexact

_BLOCK = 1024


def block_sum(x: Float[Array, " n"]) -> Float[Array, ""]:
    """The sum of a vector, accumulated in two levels.

    XLA's CPU reduction keeps a few running sums; over a million float32 terms each loses digits that a mean over
    particles needs. Blocks of about a thousand terms bound the error by a few units in the last place.
    """
    n = x.shape[0]
    if n <= _BLOCK:
        return jnp.sum(x)
    whole = n - n % _BLOCK
    return jnp.sum(jnp.sum(x[:whole].reshape(-1, _BLOCK), axis=1)) + jnp.sum(x[whole:])


def logmeanexp(log_weights: Float[Array, " n"]) -> Float[Array, ""]:
    """log of the mean of `exp(log_weights)`; `-inf` when all are, NaN when any is."""
    return weigh(log_weights)[0]


def ess(log_weights: Float[Array, " n"]) -> Float[Array, ""]:
    """Effective sample size $(\\sum w)^2 / \\sum w^2$ (Kong, Liu & Wong 1994); 0 when all weights are zero."""
    return weigh(log_weights)[1]


def weigh(log_weights: Float[Array, " n"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """`logmeanexp` and `ess` in one pass over the weights."""
    top, scaled = _scaled(log_weights)
    total = block_sum(scaled)
    size = total * total / jnp.maximum(block_sum(scaled * scaled), jnp.finfo(scaled.dtype).tiny)
    return top + jnp.log(total / scaled.shape[0]), size


def normalised(log_weights: Float[Array, " n"]) -> Float[Array, " n"]:
    """Weights that sum to one; equal weights when all are zero, so that a run without live particles can go on."""
    _, scaled = _scaled(log_weights)
    total = block_sum(scaled)
    return jnp.where(total > 0, scaled / total, 1 / scaled.shape[0])


def is_dead(log_weights: Float[Array, "*shape"]) -> Bool[Array, "*shape"]:
    """Whether a log weight is `-inf`."""
    return jnp.isneginf(log_weights)


def shifted(log_weights: Float[Array, " n"], shift: Float[Array, ""]) -> Float[Array, " n"]:
    """`log_weights - shift`, where all-dead weights (`shift = -inf`) stay `-inf` instead of becoming NaN."""
    return jnp.where(jnp.isneginf(shift), -jnp.inf, log_weights - shift)


def _scaled(log_weights: Float[Array, " n"]) -> tuple[Inexact[Array, ""], Float[Array, " n"]]:
    """The largest log weight, and the weights divided by it; zeros when all are dead (`-inf - -inf` would be NaN)."""
    top = jnp.max(log_weights)
    return top, jnp.exp(log_weights - jnp.where(jnp.isneginf(top), 0, top))
