r"""Coverage of k attempts by posterior draws, and the line that continues it: the kernels under `ppl.risk.fit`.

Coverage is kept as the chance of a *miss*, $E[(1-\theta)^k]$, where it is near 1, and as itself where it is near 0: in
float32 neither is the other subtracted from 1.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from ppl.risk.beta_binomial import HyperDraws, theta_draws
from ppl.risk.draws import LogBeta
from ppl.risk.log_beta import log_failure

_POINTS = 30  # where the line is fitted
_LINE_FROM = 5
SLOPE_SPREAD = 0.12
LAST_LOG = 12 * np.log(10.0)  # attempts are counted up to a million millions
_BISECTIONS = 26


class Coverage(NamedTuple):
    """Coverage by draw: `miss` and its complement `cover`, each right to float32 where it is small."""

    miss: Float[Array, "*shape"]
    cover: Float[Array, "*shape"]


class Line(NamedTuple):
    r"""$\ln(-\ln \text{coverage}) = \text{height} - \text{slope} (\ln k - \text{middle})$, by draw."""

    height: Float[Array, " draws"]
    slope: Float[Array, " draws"]
    middle: Float[Array, ""]


class Predictive(NamedTuple):
    """Draws of success probabilities [draws, problems], and of the line through their coverage."""

    theta: LogBeta
    line: Line


class LinePoints(NamedTuple):
    """Where the line is fitted, and the weights of squared residuals: 30 places, padding among them with weight 0."""

    attempts: Float[np.ndarray | Array, " ks"]
    weights: Float[np.ndarray | Array, " ks"]


def line_points(reach: int) -> LinePoints:
    r"""Log-spaced from 5 attempts (or half of `reach`, if that is less) to `reach`, with weights $1/k^2$.

    **Source:** SABER-Fit as its code has it (Feng et al. 2026, arXiv 2601.22636): weights 1/k, which `polyfit` squares.
    """
    first = min(_LINE_FROM, max(1, reach // 2))
    points = np.unique(np.round(np.geomspace(first, reach, _POINTS)))
    weights = np.pad(points**-2.0, (0, _POINTS - len(points)))
    points = np.pad(points, (0, _POINTS - len(points)), mode="edge")
    return LinePoints(points.astype(np.float32), (weights / weights.sum()).astype(np.float32))


def coverage(
    log_rest: Float[Array, "draws problems"],
    attempts: Float[np.ndarray | Array, " ks"],
    weights: Float[Array, "draws problems"],
) -> Coverage:
    """Weighted mean over problems, [draws, ks]; `weights` of a draw sum to 1."""

    def at(k):
        log_miss = k * log_rest
        each = jnp.exp(log_miss)
        # By Taylor near 0, which takes a third of the time of expm1.
        series = -log_miss * (1 + log_miss * (1 / 2 + log_miss * (1 / 6 + log_miss / 24)))
        cover = jnp.sum(weights * jnp.where(log_miss > -0.03, series, 1 - each), 1)
        # Where every probability of a draw underflows, or every miss, its logarithm must still be a number.
        tiny = jnp.finfo(cover.dtype).tiny
        return Coverage(jnp.maximum(jnp.sum(weights * each, 1), tiny), jnp.maximum(cover, tiny))

    return Coverage(*(values.T for values in jax.lax.map(at, jnp.asarray(attempts))))


def fit_line(curve: Coverage, points: LinePoints) -> Line:
    r"""Least squares for each draw of the curve [draws, ks]."""
    y, x, weights = log_log(curve), jnp.log(points.attempts), jnp.asarray(points.weights)
    middle, height = weights @ x, y @ weights
    slope = -((y - height[:, None]) * (x - middle)) @ weights / (weights @ (x - middle) ** 2)
    return Line(height, slope, middle)


def log_log(curve: Coverage) -> Float[Array, "*shape"]:
    r"""$\ln(-\ln \text{coverage})$, right at both ends of (0, 1)."""
    low = curve.cover < 0.5
    # Each branch is kept from the other's end, where its logarithm is infinite.
    near_one = -jnp.log1p(-jnp.where(low, 0.5, curve.miss))
    return jnp.log(jnp.where(low, -jnp.log(jnp.where(low, curve.cover, 0.5)), near_one))


def line_miss(line: Line, attempts: float) -> Float[np.ndarray, " draws"]:
    """Chance of a miss by the line, in float64."""
    height, slope, middle = (np.asarray(value, np.float64) for value in line)
    return -np.expm1(-np.exp(height - slope * (np.log(attempts) - middle)))


def line_log_budget(line: Line, target: float) -> Float[np.ndarray, " draws"]:
    """Logarithm of the attempts by which the line reaches `target`."""
    height, slope, middle = (np.asarray(value, np.float64) for value in line)
    return middle + (height - np.log(-np.log(target))) / slope


@jax.jit
def corpus_log_budget(log_rest: Float[Array, "draws problems"], target: Float[Array, ""]) -> Float[Array, " draws"]:
    """Logarithm of the attempts by which these problems' mean coverage reaches `target`, by bisection."""
    return _root(lambda log_k: jnp.mean(jnp.exp(jnp.exp(log_k)[:, None] * log_rest), 1), 1 - target, len(log_rest))


@jax.jit
def population_log_budget(hyper: HyperDraws, target: Float[Array, ""]) -> Float[Array, " draws"]:
    """The same for the population: the root of $G(N) = 1 -$ `target`."""
    return _root(
        lambda log_k: jnp.exp(log_failure(hyper.alpha, hyper.beta, jnp.exp(log_k))), 1 - target, len(hyper.alpha)
    )


def _root(miss, wanted, num):
    """Where the falling `miss` of ln k comes down to `wanted`: in [0, LAST_LOG], and infinity beyond it."""

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) / 2
        above = miss(middle) > wanted
        return jnp.where(above, middle, low), jnp.where(above, high, middle)

    low, high = jax.lax.fori_loop(0, _BISECTIONS, halve, (jnp.zeros(num), jnp.full(num, LAST_LOG, jnp.float32)))
    return jnp.where(low > LAST_LOG - 1e-3, jnp.inf, (low + high) / 2)


def predict(
    key: Key[Array, ""],
    hyper: HyperDraws,
    successes: Float[Array, " problems"],
    failures: Float[Array, " problems"],
    points: LinePoints,
) -> Predictive:
    """What follows from draws of the beta law's parameters; made for `jax.jit` and `jax.vmap`."""
    key_theta, key_slope = jax.random.split(key)
    theta = theta_draws(key_theta, hyper, successes, failures)
    equal = jnp.full(theta.log_rest.shape, 1 / successes.size)
    curve = coverage(theta.log_rest, points.attempts, equal)
    line = spread(key_slope, fit_line(curve, points))
    return Predictive(theta, line)


def spread(key: Key[Array, ""], line: Line) -> Line:
    """The line with its exponent uncertain by 12%: no curve is quite a line.

    With less, the stack's intervals are too narrow where the beta law is the truth and the line but an approximation
    (the 12 settings of SABER); with more, they are wider than 10,000 attempts of five Pythia models ask for.
    """
    return line._replace(slope=line.slope * jnp.exp(SLOPE_SPREAD * jax.random.normal(key, line.slope.shape)))


@jax.jit
def population_line(key: Key[Array, ""], log_rest: Float[Array, "draws problems"], points: LinePoints) -> Line:
    """The line through the coverage of the population, by Dirichlet weights over problems (the Bayesian bootstrap)."""
    key_weights, key_slope = jax.random.split(key)
    # An exponential by inversion costs a fifth of a gamma variate with shape 1.
    raw = jax.random.exponential(key_weights, log_rest.shape)
    curve = coverage(log_rest, points.attempts, raw / raw.sum(axis=1, keepdims=True))
    return spread(key_slope, fit_line(curve, points))
