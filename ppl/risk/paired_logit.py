r"""Two methods on shared problems as a bivariate logit-normal: the hierarchy behind `ppl.risk.comparison`.

Problem $i$ has a pair of log odds $(\eta_{iA}, \eta_{iB})$ from one bivariate normal, and successes are binomial given
them. The two log odds of each problem are integrated out (`ppl.risk.paired_rows`), afresh at every draw of the five
hyperparameters. These are drawn by importance sampling from two proposals together: the two log sds from a grid and the
other three from a multivariate t around their mode given the sds; and one t for all five. The second alone does not do:
with one attempt a problem, counts of 10,000 problems fix three numbers closely and two not at all, and the posterior is
a thin curved sheet.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int, Key
from scipy import special

from ppl.risk.paired_rows import Normal, Rows, draw_odds
from ppl.risk.paired_rows import log_likelihood as row_log_likelihood

# Hyperparameters: logits of the accuracies (A, B), log sds of log odds (A, B), atanh of their correlation; all normal.
# The first two are mean log odds over sqrt(1 + 0.346 sd^2), near the logit of the mean accuracy whatever the sd is:
# counts fix that one and not the mean log odds, so that the posterior has no curved ridge. Their sd of 1.8 makes the
# accuracies close to uniform; sds of log odds lie in 0.3 to 7 with 95%; problems that are hard for one method tend to
# be hard for the other, and the correlation's 95% is -0.75 to 0.96.
PRIOR_MEAN = np.array([0.0, 0.0, 0.4, 0.4, 0.5], np.float32)
PRIOR_SD = np.array([1.8, 1.8, 0.8, 0.8, 0.75], np.float32)

# Sd of log odds that each problem has for each method alone, on top of the above: no two problems are quite alike, and
# no shared grid of log odds resolves less.
OWN_SD = 0.3

_SLOPE2 = 256 / (75 * np.pi**2)  # of the normal law that is nearest to the logistic one (MacKay 1992)
_DEGREES = 6.0  # of the proposal's t: tails heavier than the normal priors', so the weights are bounded
_SIDE, _REACH = 7, 3.6  # grid over the two log sds: nodes on a side, and how far out, in posterior sds
# Newton steps at most, each at most 1 long, to the mode of the other three at a node. One grid after the other, each
# zoomed to where the one before has its mass and starting from what it found; the first is as wide as the prior.
_STEPS = (8, 3, 3, 3)
_BLUR = 0.1  # variance in squared steps that a grid adds, since a narrow posterior may lie between its nodes
_SPREAD = 0.1  # share of the draws for nodes of any mass
_FAR = 12.0  # nats below the best node from which on nodes are all alike
_AT_ONCE = 2**15  # rows, or problems, evaluated together
_GRID = np.linspace(-8.0, 8.0, 161)  # on these the trapezoid rule for a normal is exact to float32


class Sample(NamedTuple):
    """Draws of the hyperparameters, their log weights (not normalised), and each row's log-likelihood at each draw."""

    hyper: Float[Array, "draws 5"]
    log_weights: Float[Array, " draws"]
    log_likelihood: Float[Array, "draws rows"]


def log_likelihood(hyper: Float[Array, "5"], rows: Rows) -> Float[Array, " rows"]:
    """Log probability of each row's counts, its two log odds integrated out."""
    return row_log_likelihood(as_normal(hyper), rows)


def log_density(hyper: Float[Array, "5"], rows: Rows) -> Float[Array, ""]:
    """Log posterior density of the hyperparameters, up to a constant."""
    prior = -jnp.sum(((hyper - PRIOR_MEAN) / PRIOR_SD) ** 2) / 2
    return prior + jnp.sum(rows.problems * log_likelihood(hyper, rows))


@partial(jax.jit, static_argnames="draws")
def sample(key: Key[Array, ""], rows: Rows, draws: int) -> Sample:
    """Importance sample of the hyperparameters: half of it from the grid, half from a multivariate t fit to the first.

    The weights are those of the mixture of both, so that each proposal bounds the weights where the other is poor.
    """
    first, second = jax.random.split(key)
    grid = _grid(rows)
    hyper = _from_grid(first, grid, draws - draws // 2)
    log_posterior, each = _evaluate(hyper, rows)
    # Truncated weights (Ionides 2008): one draw must not be the whole fit.
    log_weights = jax.nn.log_softmax(log_posterior - _log_grid(grid, hyper))
    weights = jax.nn.softmax(jnp.minimum(log_weights, -0.5 * jnp.log(len(hyper))))
    mean = weights @ hyper
    covariance = (weights * (hyper - mean).T) @ (hyper - mean)
    root = jnp.linalg.cholesky(covariance + 1e-6 * jnp.eye(5))
    more = mean + _student(second, (draws // 2, 5)) @ root.T
    log_posterior_more, each_more = _evaluate(more, rows)
    hyper = jnp.concatenate([hyper, more])
    log_t = _log_student(jax.scipy.linalg.solve_triangular(root, (hyper - mean).T, lower=True).T, jnp.diag(root))
    log_proposal = jnp.logaddexp(_log_grid(grid, hyper), log_t)
    log_posterior = jnp.concatenate([log_posterior, log_posterior_more])
    return Sample(hyper, log_posterior - log_proposal, jnp.concatenate([each, each_more]))


def _evaluate(hyper, rows):
    each = _mapped(partial(log_likelihood, rows=rows), hyper, len(rows.problems))
    prior = -jnp.sum(((hyper - PRIOR_MEAN) / PRIOR_SD) ** 2, axis=1) / 2
    return prior + each @ rows.problems, each


def _student(key, shape):
    normal, chi = jax.random.split(key)
    # A chi-squared of an even number of degrees is twice a sum of exponentials, which compile faster than gammas.
    scale = 2 * jnp.sum(jax.random.exponential(chi, (shape[0], int(_DEGREES) // 2)), axis=1) / _DEGREES
    return jax.random.normal(normal, shape) / jnp.sqrt(scale)[:, None]


def _log_student(standard, scales):
    """Log density of points, given as standardised by a triangular root with these scales on its diagonal."""
    size = standard.shape[1]
    half = _DEGREES / 2
    constant = special.gammaln(half + size / 2) - special.gammaln(half) - size / 2 * np.log(_DEGREES * np.pi)
    heavy = -(_DEGREES + size) / 2 * jnp.log1p(jnp.sum(standard**2, axis=1) / _DEGREES)
    return np.float32(constant) + heavy - jnp.sum(jnp.log(scales), axis=-1)


def _from_grid(key, grid, num):
    node, corner, student = jax.random.split(key, 3)
    # A node by its mass and a triangular step around it: the density is the masses' bilinear interpolation.
    chosen = jax.random.categorical(node, grid.log_mass.ravel(), shape=(num,))
    at = jnp.stack(jnp.unravel_index(chosen, (_SIDE, _SIDE)), axis=1)
    at = at + jnp.sum(jax.random.uniform(corner, (2, num, 2)), axis=0) - 1
    here = jax.vmap(partial(_bilinear, grid))(at)
    log_sd = grid.centre + (at - (_SIDE - 1) / 2) @ grid.step.T
    rest = here.mean + jnp.einsum("dij,dj->di", here.root, _student(student, (num, 3)))
    rest = rest.at[:, 2].add(jax.vmap(_ridge)(log_sd, here.product))
    return jnp.concatenate([rest[:, :2], log_sd, rest[:, 2:]], axis=1)


def _log_grid(grid, hyper):
    """Log density of `_from_grid`."""
    log_sd = hyper[:, 2:4]
    at = jnp.linalg.solve(grid.step, (log_sd - grid.centre).T).T + (_SIDE - 1) / 2
    here = jax.vmap(partial(_bilinear, grid))(at)
    rest = jnp.concatenate([hyper[:, :2], hyper[:, 4:]], axis=1) - here.mean
    rest = rest.at[:, 2].add(-jax.vmap(_ridge)(log_sd, here.product))
    standard = jax.vmap(partial(jax.scipy.linalg.solve_triangular, lower=True))(here.root, rest)
    volume = jnp.log(jnp.abs(jnp.linalg.det(grid.step)))
    return here.log_mass - volume + _log_student(standard, jnp.diagonal(here.root, axis1=1, axis2=2))


@jax.jit
def pass_at(hyper: Float[Array, "draws 5"], k: Float[Array, ""]) -> Float[Array, "draws 2"]:
    """Mean over the population of problems of the probability of a success in k attempts, for A and for B."""
    grid = jnp.asarray(_GRID, jnp.float32)
    weights = jnp.exp(-(grid**2) / 2)
    normal = jax.vmap(as_normal)(hyper)
    odds = normal.mean[:, :, None] + normal.sd[:, :, None] * grid
    return -jnp.expm1(-k * jax.nn.softplus(odds)) @ (weights / weights.sum())


@jax.jit
def pass_at_here(
    key: Key[Array, ""],
    hyper: Float[Array, "draws 5"],
    rows: Rows,
    which: Int[Array, " problems"],
    k: Float[Array, ""],
) -> Float[Array, "draws 2"]:
    """Mean over these problems of the probability of a success in k attempts: one draw of each problem's two log odds
    for each draw of the hyperparameters, from the nodes of its quadrature by their weights."""

    def one(inputs):
        odds = draw_odds(inputs[0], as_normal(inputs[1]), rows, which)
        return jnp.mean(-jnp.expm1(-k * jax.nn.softplus(odds)), axis=1)

    return _mapped(one, (jax.random.split(key, len(hyper)), hyper), len(which))


def as_normal(hyper: Float[Array, "5"]) -> Normal:
    """The bivariate normal of a problem's log odds."""
    alone = jnp.exp(hyper[2:4])
    variance = alone**2 + OWN_SD**2
    # 1 / cosh, since 1 - rho^2 rounds to 0 near a correlation of 1.
    determinant = jnp.prod(alone) ** 2 / jnp.cosh(hyper[4]) ** 2 + OWN_SD**2 * (jnp.sum(alone**2) + OWN_SD**2)
    sd, both = jnp.sqrt(variance), jnp.prod(variance)
    rho = jnp.tanh(hyper[4]) * jnp.prod(alone) / jnp.sqrt(both)
    return Normal(hyper[:2] * jnp.sqrt(1 + _SLOPE2 * variance), sd, rho, jnp.sqrt(determinant / both))


def _mapped(function, inputs, size):
    """`function` of each input, as many at once as memory allows for inputs of `size` rows or problems."""
    return jax.lax.map(function, inputs, batch_size=max(1, _AT_ONCE // size))


class _Grid(NamedTuple):
    """What is known of the other three hyperparameters (logits of A and B, correlation) at nodes over the log sds.

    `mean`: their mode less the ridge; `product`: which ridge; `root`: of their covariance; `log_mass`: of the node.
    """

    centre: Float[Array, "2"]
    step: Float[Array, "2 2"]
    mean: Float[Array, "*nodes 3"]
    product: Float[Array, "*nodes"]
    root: Float[Array, "*nodes 3 3"]
    log_mass: Float[Array, "*nodes"]


def _ridge(log_sd, product):
    r"""The coordinate of the correlation that gives the outcomes of A and B the correlation `product`, for log sds.

    With one attempt a problem, counts fix $\rho\,h(\sigma_A) h(\sigma_B)$ and little else of the three, so that nodes
    are interpolated in that product and not in the correlation.
    """
    return jnp.arctanh(jnp.clip(product / jnp.prod(_visible(log_sd)), -0.9999, 0.9999))


def _visible(log_sd):
    """Share of the spread of log odds in that of log odds and outcome together, as standard deviations."""
    return 1 / jnp.sqrt(1 + jnp.exp(-2 * log_sd) * (OWN_SD**2 + 1 / _SLOPE2))


def _bilinear(grid: _Grid, at: Float[Array, "2"]) -> _Grid:
    """The grid between its nodes; beyond its edge the mass falls to 0 within one step, and the rest stays."""
    low = jnp.floor(at).astype(jnp.int32)
    corners = low[:, None] + jnp.arange(2)
    weights = 1 - jnp.abs(at[:, None] - corners)
    inside = jnp.clip(corners, 0, _SIDE - 1)
    both = weights[0][:, None] * weights[1]

    def between(values):
        return jnp.tensordot(both, values[inside[0][:, None], inside[1]], axes=2)

    within = (inside == corners)[0][:, None] & (inside == corners)[1]
    mass = jnp.sum(both * within * jnp.exp(grid.log_mass[inside[0][:, None], inside[1]]))
    return grid._replace(
        mean=between(grid.mean), product=between(grid.product), root=between(grid.root), log_mass=jnp.log(mass)
    )


def _grid(rows: Rows) -> _Grid:
    places = jnp.stack(jnp.meshgrid(*(jnp.arange(_SIDE, dtype=jnp.float32),) * 2, indexing="ij"), axis=-1)
    middle, shape = (_SIDE - 1) / 2, (_SIDE, _SIDE)

    def at_node(inputs, steps):
        log_sd, mean, product = inputs
        start = mean.at[2].add(_ridge(log_sd, product))
        found, covariance, log_mass = _laplace(start, log_sd, rows, steps)
        product = jnp.tanh(found[2]) * jnp.prod(_visible(log_sd))
        return found.at[2].add(-_ridge(log_sd, product)), product, jnp.linalg.cholesky(covariance), log_mass

    def zoom(grid, steps):
        mass = jnp.exp(grid.log_mass)
        mean = jnp.tensordot(mass, places, axes=2)
        apart = places - mean
        spread = jnp.einsum("rc,rci,rcj->ij", mass, apart, apart) + _BLUR * jnp.eye(2)
        centre = grid.centre + grid.step @ (mean - middle)
        step = grid.step @ jnp.linalg.cholesky(spread) * (_REACH / middle)
        log_sd = centre + (places - middle) @ step.T
        # Where the new nodes lie on the old grid: what is known there is where they start from.
        old = mean + (places - middle) @ jnp.linalg.solve(grid.step, step).T
        start = jax.vmap(partial(_bilinear, grid))(old.reshape(-1, 2))
        inputs = (log_sd.reshape(-1, 2), start.mean, start.product)
        *found, log_mass = _mapped(partial(at_node, steps=steps), inputs, len(rows.problems))
        log_mass = log_mass - jnp.nanmax(log_mass)
        # Log sds that the counts rule out have no mode worth the name: there the old values stay, since others are
        # interpolated with them.
        good = log_mass > -_FAR
        kept = [
            jnp.where(good.reshape(-1, *[1] * (new.ndim - 1)), new, old).reshape(shape + new.shape[1:])
            for new, old in zip(found, (start.mean, start.product, start.root), strict=True)
        ]
        log_mass = jax.nn.log_softmax(jnp.where(good, log_mass, -_FAR).reshape(shape), axis=(0, 1))
        return _Grid(centre, step, kept[0], kept[1], kept[2], log_mass), None

    prior = jnp.asarray(PRIOR_MEAN)
    # Moments and reach of this grid of equal masses make the first zoom as wide as the prior.
    start = _Grid(
        prior[2:4],
        jnp.diag(jnp.asarray(PRIOR_SD[2:4])) / np.float32(np.sqrt((_SIDE**2 - 1) / 12 + _BLUR)),
        jnp.broadcast_to(jnp.stack([prior[0], prior[1], jnp.zeros(())]), (*shape, 3)),
        jnp.full(shape, jnp.tanh(prior[4]) * jnp.prod(_visible(prior[2:4]))),
        jnp.broadcast_to(jnp.eye(3), (*shape, 3, 3)),
        jnp.full(shape, np.float32(-2 * np.log(_SIDE))),
    )
    grid = jax.lax.scan(zoom, start, jnp.asarray(_STEPS))[0]
    # Some mass for all nodes alike bounds the weights where Laplace's masses are too small.
    return grid._replace(log_mass=jnp.log((1 - _SPREAD) * jnp.exp(grid.log_mass) + _SPREAD / _SIDE**2))


def _laplace(start, log_sd, rows, steps):
    """Mode of the other three for given log sds, covariance of the normal with the curvature there, log of its mass."""

    def density(values):
        return log_density(jnp.concatenate([values[:2], log_sd, values[2:]]), rows)

    def curvature(values):
        def slope(values):
            value, gradient = jax.value_and_grad(density)(values)
            return gradient, (gradient, value)

        # Value, gradient and Hessian from one differentiation: the compiler's time is the price of each.
        hessian, (gradient, value) = jax.jacfwd(slope, has_aux=True)(values)
        scales, vectors = jnp.linalg.eigh(-hessian)
        scales = jnp.maximum(scales, 0.5 / float(PRIOR_SD.max()) ** 2)  # away from the mode it need not be concave
        step = vectors @ ((vectors.T @ gradient) / scales)
        step = step / jnp.maximum(1, jnp.linalg.norm(step))
        # How far in posterior sds: a mode is found where that is little.
        far = jnp.sqrt(jnp.sum((vectors.T @ step) ** 2 * scales))
        return step, far, (vectors / scales) @ vectors.T, value - jnp.sum(jnp.log(scales)) / 2

    def ascend(state):
        number, values, (step, *_) = state
        values = values + step
        return number + 1, values, curvature(values)

    def going(state):
        number, _, (_, far, *_) = state
        return (number < steps) & (far > 0.1)

    nothing = (jnp.zeros(3), jnp.asarray(jnp.inf, jnp.float32), jnp.eye(3), jnp.zeros(()))
    _, mode, (_, _, covariance, log_mass) = jax.lax.while_loop(going, ascend, (0, start, nothing))
    return mode, covariance, log_mass
