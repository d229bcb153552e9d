"""Posterior draws of a few parameters by adaptive importance sampling.

For two to four parameters whose log density is cheap this is exact up to Monte Carlo error, of fixed cost, free of
derivatives, and jitted and batched whole: hundreds of posteriors in one call. NUTS (`ppl.risk.nuts`) is what the tests
hold it to.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ppl.smc.resampling import systematic

_FREEDOM = 3  # degrees of freedom of the proposals: heavier tails than any prior here has (Student t with 4)
_ROUNDS = 10
_LEAST_SHARE = 0.1  # of a round's points that must count; fewer, and the weights are flattened
_HALVINGS = 12
_FINAL = 4  # weighted points for each draw, at least


class ImportanceDraws(NamedTuple):
    """Equal-weight draws, and how good the proposal was.

    - `draws`: [num, parameters];
    - `ess`: effective number of the weighted points, 4 `num` or some more, that they were resampled from.
    """

    draws: Float[Array, "num parameters"]
    ess: Float[Array, ""]


def importance_draws(
    key: Key[Array, ""],
    log_density: Callable[[Float[Array, " parameters"]], Float[Array, ""]],
    centre: Float[Array, " parameters"],
    scale: Float[Array, " parameters"],
    num: int,
    pilot: int = 512,
    batch_size: int | None = None,
) -> ImportanceDraws:
    r"""Draws of a density, from a Student t that rounds of importance sampling fit to it.

    A round draws `pilot` points, and takes their weighted mean and covariance for the next t. Weights of a proposal
    $q$ far wider than the target $\pi$ are flattened to $(\pi / q)^\gamma$, with the largest $\gamma \le 1$ by which a
    tenth of the points counts, so that the first rounds narrow step by step. Points of the last t, 4 `num` or some
    more, are then resampled systematically by their full weights.

    **Arguments:**

    - `log_density`: unnormalised, of unconstrained parameters [parameters].
    - `centre`, `scale`: of the first proposal, the prior's.
    - `batch_size`: at how many points the density is computed at a time, to bound memory. Default: all of a round.

    **Source:** Cappé et al. (2004), Population Monte Carlo; Koblents & Míguez (2015), for flattened weights.
    """
    key_rounds, key_resample = jax.random.split(key)
    final = -(-_FINAL * num // pilot)

    def round_(state, inputs):
        key, adapting = inputs
        mean, root = state
        points, log_weights = _weighted(key, log_density, mean, root, pilot, batch_size)
        weights = jax.nn.softmax(_flattened(log_weights, _LEAST_SHARE * pilot))
        moved = weights @ points
        centred = points - moved
        narrowed = _root((weights * centred.T) @ centred)
        state = (jnp.where(adapting, moved, mean), jnp.where(adapting, narrowed, root))
        return state, (points, log_weights)

    # One loop for the rounds that adapt and those that count: the density is compiled once, which is what takes time.
    keys = jax.random.split(key_rounds, _ROUNDS + final)
    adapting = jnp.arange(_ROUNDS + final) < _ROUNDS
    _, (points, log_weights) = jax.lax.scan(round_, (centre, jnp.diag(scale)), (keys, adapting))
    points, log_weights = points[_ROUNDS:].reshape(-1, centre.size), log_weights[_ROUNDS:].reshape(-1)
    ess = 1 / jnp.sum(jax.nn.softmax(log_weights) ** 2)
    return ImportanceDraws(points[systematic(key_resample, log_weights, num)], ess)


def _flattened(log_weights, least):
    """The log weights times the largest exponent up to 1 by which at least `least` points count."""

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) / 2
        enough = 1 / jnp.sum(jax.nn.softmax(middle * log_weights) ** 2) >= least
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    # In ln(exponent) the bisection would miss 1 itself; from (0, 2) its first middle is 1.
    low, _ = jax.lax.fori_loop(0, _HALVINGS, halve, (jnp.zeros(()), 2 * jnp.ones(())))
    # Where so many points have no density that no exponent is small enough, it is 0, and 0 times -inf is no number.
    return jnp.where(log_weights > -jnp.inf, jnp.minimum(low, 1) * log_weights, -jnp.inf)


def _root(covariance):
    return jnp.linalg.cholesky(covariance + 1e-8 * jnp.eye(len(covariance), dtype=covariance.dtype))


def _weighted(key, log_density, centre, root, num, batch_size):
    """Points of a multivariate t, and their log weights."""
    size = centre.size
    key_normal, key_scale = jax.random.split(key)
    normal = jax.random.normal(key_normal, (num, size), centre.dtype)
    squares = jax.random.normal(key_scale, (num, _FREEDOM), centre.dtype) ** 2
    standard = normal / jnp.sqrt(jnp.mean(squares, axis=1, keepdims=True))
    points = centre + standard @ root.T
    log_proposal = -(_FREEDOM + size) / 2 * jnp.log1p(jnp.sum(standard**2, axis=1) / _FREEDOM)
    density = jax.lax.map(log_density, points, batch_size=batch_size or num)
    # The first proposals reach parameters whose exponentials overflow: no density is there to speak of.
    return points, jnp.where(jnp.isnan(density), -jnp.inf, density) - log_proposal
