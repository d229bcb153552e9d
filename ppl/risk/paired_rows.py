r"""Probability of counts of two methods at a problem, its two log odds integrated out under a bivariate normal.

Few attempts say little, so that one grid of log odds serves all problems: exact to 1e-6, and a product of matrices.
Many attempts fix a problem's log odds more closely than any shared grid is fine: each has a quadrature of its own.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int, Key
from scipy import special

# Most attempts of a method, and nodes of the shared grid whose spacing resolves their likelihood to 5e-4 or better:
# 0.46 apart near 0 for 64, and wider outwards to the ends at +-33, where all that is left is how much mass lies beyond.
_SIZES = ((32, 64), (128, 128))
_BEND, _END = 6.0, 2.4
_SCALE = np.float32(1e18)
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(7)
_LOG_RULE = np.log(_WEIGHTS) + _NODES**2 / 2
_ROW_STEPS = 4  # to the mode of a row's two log odds; the quadrature corrects what they leave


class Normal(NamedTuple):
    """Means and sds of the two log odds, their correlation, and sqrt(1 - correlation^2), exact near 1."""

    mean: Float[Array, "2"]
    sd: Float[Array, "2"]
    rho: Float[Array, ""]
    rest: Float[Array, ""]


class Few(NamedTuple):
    """Distinct rows of counts on the shared grid, and how many problems have each; a row of no problem is padding.

    `likelihood`: of A and of B, relative to the largest; `log_ways`: what this leaves out.
    """

    likelihood: Float[Array, "2 rows nodes"]
    log_ways: Float[Array, " rows"]
    problems: Float[Array, " rows"]


class Many(NamedTuple):
    r"""Distinct rows of counts of A and B, and how many problems have each; a row of no problem is padding.

    Log-likelihoods are taken relative to those of the smoothed shares $(s + 1/2) / (n + 1)$: at $10^6$ trials the
    likelihood itself is a number near $10^6$, of which float32 keeps nothing that matters.

    `odds`: log odds of the smoothed share; `excess`: $s - n (s + 1/2) / (n + 1)$; `log_ways`: binomial coefficients and
    the log-likelihood of the smoothed shares.
    """

    successes: Float[Array, "rows 2"]
    trials: Float[Array, "rows 2"]
    odds: Float[Array, "rows 2"]
    excess: Float[Array, "rows 2"]
    log_ways: Float[Array, " rows"]
    problems: Float[Array, " rows"]


Rows = Few | Many


def distinct_rows(
    successes: Int[np.ndarray, "problems 2"], trials: Int[np.ndarray, "problems 2"]
) -> tuple[Rows, Int[np.ndarray, " problems"]]:
    """Distinct rows and, for each problem, the number of its own. Rows are padded (with no problem and no trial) to a
    power of two, so that data of like size share one compilation."""
    table, which, times = np.unique(
        np.concatenate([successes, trials - successes], axis=1), axis=0, return_inverse=True, return_counts=True
    )
    size = max(16, 1 << (len(table) - 1).bit_length())
    table = np.pad(table.astype(np.float64), ((0, size - len(table)), (0, 0)))
    s, f = table[:, :2], table[:, 2:]
    n = s + f
    ways = special.gammaln(n + 1) - special.gammaln(s + 1) - special.gammaln(f + 1)
    padded = np.pad(times, (0, size - len(times)))
    fitting = [nodes for most, nodes in _SIZES if n.max() <= most]
    if fitting:
        grid = _BEND * np.sinh(_places(fitting[0]))
        log = s[..., None] * special.log_expit(grid) + f[..., None] * special.log_expit(-grid)
        top = log.max(axis=2, keepdims=True)
        likelihood, ways = np.exp(log - top).transpose(1, 0, 2), (ways + top[..., 0]).sum(axis=1)
        return Few(*(jnp.asarray(v, jnp.float32) for v in (likelihood, ways, padded))), which.reshape(-1)
    odds = np.log(s + 0.5) - np.log(f + 0.5)
    ways += s * special.log_expit(odds) + f * special.log_expit(-odds)
    values = (s, n, odds, (s - f) / (2 * (n + 1)), ways.sum(axis=1), padded)
    return Many(*(jnp.asarray(value, jnp.float32) for value in values)), which.reshape(-1)


def log_likelihood(normal: Normal, rows: Rows) -> Float[Array, " rows"]:
    """Log probability of each row's counts."""
    if isinstance(rows, Few):
        a, b = rows.likelihood
        # Never 0, since a search for the mode may start where some rows are impossible; and scaled so that second
        # derivatives, which square the reciprocal, stay in range down to 1e-36.
        scaled = _SCALE * jnp.sum((a @ _masses(normal, a.shape[1])) * b, axis=1) + 1 / _SCALE
        return jnp.log(scaled) - np.float32(np.log(_SCALE)) + rows.log_ways
    return jax.nn.logsumexp(_quadrature(normal, rows)[0], axis=(1, 2)) + rows.log_ways


def draw_odds(
    key: Key[Array, ""], normal: Normal, rows: Rows, which: Int[Array, " problems"]
) -> Float[Array, "2 problems"]:
    """One posterior draw of the two log odds of each problem, from the nodes of its rule by their masses."""
    first, second = jax.random.uniform(key, (2, len(which), 1))
    if isinstance(rows, Few):
        a, b = rows.likelihood
        places = jnp.asarray(_places(a.shape[1]), jnp.float32)
        mass = _masses(normal, len(places))
        node_a = _pick(first, (a * (b @ mass.T))[which])
        node_b = _pick(second, mass[node_a] * b[which])
        # A uniform point of the cell around the node: draws of one problem are not lumped.
        shift = jax.random.uniform(jax.random.fold_in(key, 1), (2, len(which)), minval=-0.5, maxval=0.5)
        shifted = places[jnp.stack([node_a, node_b])] + (places[1] - places[0]) * shift
        return np.float32(_BEND) * jnp.sinh(shifted)
    log_mass, odds_a, odds_b = _quadrature(normal, rows)
    mass = jax.nn.softmax(log_mass, axis=(1, 2))
    node_a = _pick(first, mass.sum(axis=2)[which])
    node_b = _pick(second, mass[which, node_a])
    return jnp.stack([odds_a[which, node_a], odds_b[which, node_a, node_b]])


def _pick(uniform, mass):
    """Index by mass along the last axis."""
    cumulated = jnp.cumsum(mass, axis=-1)
    # The last is left out: where rounding leaves it below the uniform, the last index is meant all the same.
    return jnp.sum(uniform * cumulated[..., -1:] > cumulated[..., :-1], axis=-1)


def _places(nodes: int) -> Float[np.ndarray, " nodes"]:
    """Equal steps whose hyperbolic sines are the nodes of the shared grid."""
    return np.linspace(-_END, _END, nodes)


def _masses(normal, nodes):
    """Masses of the bivariate normal on the shared grid, A down and B across, summing to 1."""
    places = jnp.asarray(_places(nodes), jnp.float32)
    grid, cells = np.float32(_BEND) * jnp.sinh(places), jnp.log(jnp.cosh(places))
    a, b = (grid - normal.mean[0]) / normal.sd[0], (grid - normal.mean[1]) / normal.sd[1]
    log = (cells - a**2 / 2)[:, None] + cells - ((b - normal.rho * a[:, None]) / normal.rest) ** 2 / 2
    return jax.nn.softmax(log, axis=(0, 1))


def _quadrature(normal, rows):
    """Log masses [rows, nodes, nodes] of a rule over a row's two log odds, and these: of A [rows, nodes], of B.

    The nodes are centred at an approximate mode of the row's posterior and scaled by its curvature there. Any centre
    and scale make a valid rule, so a few Newton steps do.
    """
    mean, sd, rho, rest = normal
    (z_a, scale_a), (z_b, slope, scale_b) = jax.lax.stop_gradient(_row_modes(normal, rows))
    nodes, rule = jnp.asarray(_NODES, jnp.float32), jnp.asarray(_LOG_RULE, jnp.float32)
    shift = scale_a[:, None] * nodes
    u_a = z_a[:, None] + shift
    u_b = (z_b[:, None] + slope[:, None] * shift)[:, :, None] + scale_b[:, None, None] * nodes
    # The log odds are held fixed and only their normal density is differentiated: through the binomial terms, second
    # derivatives would be small differences of numbers near the trials.
    odds_a = jax.lax.stop_gradient(mean[0] + sd[0] * u_a)
    odds_b = jax.lax.stop_gradient(mean[1] + sd[1] * (rho * u_a[:, :, None] + rest * u_b))
    log_volume = jnp.log(sd[0] * sd[1] * rest)
    u_a = (odds_a - mean[0]) / sd[0]
    u_b = ((odds_b - mean[1]) / sd[1] - rho * u_a[:, :, None]) / rest
    term_a = _binomial(rows, 0, odds_a) - u_a**2 / 2 + rule
    term_b = _binomial(rows, 1, odds_b) - u_b**2 / 2 + rule
    scales = jnp.log(scale_a * scale_b) + jax.lax.stop_gradient(log_volume) - log_volume
    scales = scales - np.float32(np.log(2 * np.pi))
    return term_a[:, :, None] + term_b + scales[:, None, None], odds_a, odds_b


def _row_modes(normal, rows):
    mean, sd, rho, rest = normal
    n = rows.trials

    def newton(a, b):
        odds = jnp.stack([mean[0] + sd[0] * a, mean[1] + sd[1] * (rho * a + rest * b)], axis=1)
        p = jax.nn.sigmoid(odds)
        slope = (n * p - rows.successes) * sd
        curve = n * p * (1 - p) * sd**2
        grad_a, grad_b = a + slope[:, 0] + rho * slope[:, 1], b + rest * slope[:, 1]
        h_ab, h_bb = rho * rest * curve[:, 1], 1 + rest**2 * curve[:, 1]
        # Precision of a with b integrated out, h_aa - h_ab^2 / h_bb without its cancellation.
        left = 1 + curve[:, 0] + rho**2 * curve[:, 1] / h_bb
        step_a = (grad_a - h_ab / h_bb * grad_b) / left
        step_b = (grad_b - h_ab * step_a) / h_bb
        return step_a, step_b, left, h_ab / h_bb, h_bb

    # Between the prior's mean and the smoothed empirical log odds, by their precisions.
    p = jax.nn.sigmoid(rows.odds)
    weight = n * p * (1 - p) * sd**2
    start = (rows.odds - mean) / sd * weight / (1 + weight)
    a, b = start[:, 0], jnp.clip((start[:, 1] - rho * start[:, 0]) / rest, -4, 4)

    def descend(_, at):
        step_a, step_b, *_ = newton(*at)
        return at[0] - jnp.clip(step_a, -2, 2), at[1] - jnp.clip(step_b, -2, 2)

    a, b = jax.lax.fori_loop(0, _ROW_STEPS, descend, (a, b))
    _, _, left, slope, h_bb = newton(a, b)
    return (a, left**-0.5), (b, -slope, h_bb**-0.5)


def _binomial(rows, method, odds):
    """Log-likelihood of the counts of one method [rows] at log odds [rows, ...], less that of the smoothed shares."""
    shape = (-1,) + (1,) * (odds.ndim - 1)
    n, base, excess = (values[:, method].reshape(shape) for values in (rows.trials, rows.odds, rows.excess))
    delta = odds - base
    # ln(q + p e^d) - p d is convex with its minimum 0 at 0; from the side of the smaller exponential, so that it
    # neither overflows nor cancels by more than its first order.
    size = jnp.abs(delta)
    share = jnp.where(delta < 0, jax.nn.sigmoid(base), jax.nn.sigmoid(-base))
    return excess * delta - n * (jnp.log1p(share * jnp.expm1(-size)) + share * size)
