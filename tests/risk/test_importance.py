import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from ppl.risk.beta_binomial import DEFAULT_PRIOR, count_table, hyper_draws, log_posterior
from ppl.risk.fit import fit
from ppl.risk.importance import importance_draws

NUM = 4_000
SEEDS = range(3)


def agree(draws, mean, covariance, ess, kurtosis=4.0):
    """Mean and covariance within 5.5 Monte Carlo errors, a false alarm of 4e-8 each; `kurtosis`: a bound, 3 if normal.

    Weighted points have an error, and drawing from them adds another.
    """
    error = np.sqrt(1 / ess + 1 / len(draws))
    sd = np.sqrt(np.diag(covariance))
    assert np.abs((draws.mean(axis=0) - mean) / sd).max() < 5.5 * error
    got = np.cov(draws.T) / np.outer(sd, sd)
    assert np.abs(got - covariance / np.outer(sd, sd)).max() < 5.5 * np.sqrt(kurtosis) * error


CORRELATED = np.array([[1.0, 0.9 * 0.05], [0.9 * 0.05, 0.05**2]])


@pytest.mark.parametrize("seed", SEEDS)
def test_a_narrow_correlated_normal_far_from_the_proposal(seed):
    mean, precision = np.array([-3.0, 4.0]), jnp.asarray(np.linalg.inv(CORRELATED))

    def log_density(x):
        centred = x - jnp.asarray(mean)
        return -0.5 * centred @ precision @ centred + 1e4  # a constant of any size does not matter

    found = jax.jit(lambda key: importance_draws(key, log_density, jnp.zeros(2), 2 * jnp.ones(2), NUM))(
        jax.random.key(seed)
    )
    assert 0.5 * 4 * NUM < found.ess <= 4.2 * NUM  # a t of 3 degrees for a normal keeps 3 points of 4
    agree(np.asarray(found.draws, np.float64), mean, CORRELATED, float(found.ess))


def banana(x, y, xp):
    """A normal in (x, y - x^2 / 2), times a skewing factor."""
    log_cdf = jax.scipy.stats.norm.logcdf if xp is jnp else special.log_ndtr
    return -0.5 * (x**2 + ((y - x**2 / 2) / 0.5) ** 2) + log_cdf(3 * x)


def grid_moments(log_density, x, y):
    """Mean and covariance of a density on the grid of x [nx] and y [ny], in float64."""
    logs = log_density(x[:, None], y[None, :])
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    assert max(weights[0].sum(), weights[-1].sum(), weights[:, 0].sum(), weights[:, -1].sum()) < 1e-6  # it holds it all
    points = np.stack([np.broadcast_to(x[:, None], weights.shape), np.broadcast_to(y[None, :], weights.shape)])
    mean = (points * weights).sum(axis=(1, 2))
    centred = points - mean[:, None, None]
    return mean, np.einsum("iab,jab,ab->ij", centred, centred, weights)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_skewed_and_bent_density_against_a_grid(seed):
    mean, covariance = grid_moments(lambda x, y: banana(x, y, np), np.linspace(-3, 7, 1001), np.linspace(-4, 22, 1301))
    density = jax.jit(
        lambda key: importance_draws(
            key, lambda p: banana(p[0], p[1], jnp), jnp.zeros(2), 3 * jnp.ones(2), NUM, batch_size=64
        )
    )
    found = density(jax.random.key(seed))
    assert found.ess > 0.2 * 4 * NUM
    # y is skewed: its kurtosis is near 12.
    agree(np.asarray(found.draws, np.float64), mean, covariance, float(found.ess), kurtosis=15)


def test_a_density_that_is_nan_or_zero_somewhere_is_cut_off_there():
    def log_density(x):
        return jnp.where(x[0] < 0, jnp.nan, jnp.where(x[0] > 1, -jnp.inf, 0.0)) - 0.5 * x[1] ** 2

    found = importance_draws(jax.random.key(0), log_density, jnp.zeros(2), 5 * jnp.ones(2), NUM)
    draws = np.asarray(found.draws, np.float64)
    assert ((draws[:, 0] >= 0) & (draws[:, 0] <= 1)).all()
    agree(draws, [0.5, 0], np.diag([1 / 12, 1]), float(found.ess))


# --- the beta-binomial posterior

rng = np.random.default_rng(4)
DATA = {
    "skewed": (rng.binomial(50, rng.beta(0.2, 20, 200)), np.full(200, 50)),
    "uneven": (rng.binomial(np.arange(1, 41), rng.beta(1.0, 0.6, 40)), np.arange(1, 41)),
    "all zeros": (np.zeros(30, int), np.full(30, 100)),
    "all ones": (np.full(20, 7), np.full(20, 7)),
}


def exact_log_posterior(successes, trials, prior=DEFAULT_PRIOR):
    """By its definition in float64."""

    def log_density(x, y):
        z = (x - np.log(prior.alpha)) / prior.log_alpha_scale
        logs = -(prior.freedom + 1) / 2 * np.log1p(z**2 / prior.freedom)
        logs = logs - 0.5 * ((y - np.log(prior.beta)) / prior.log_beta_sd) ** 2
        a, b = np.exp(x), np.exp(y)
        pairs, counts = np.unique([successes, trials], axis=1, return_counts=True)
        for (s, n), count in zip(pairs.T, counts, strict=True):
            logs = logs + count * (special.betaln(a + s, b + n - s) - special.betaln(a, b))
        return logs

    return log_density


@pytest.fixture(scope="module")
def draw():
    return jax.jit(hyper_draws, static_argnums=3)


def check_against(grid, log_density, draws, ess, moments):
    """Chances of what a grid has at its deciles, of each parameter, and moments where tails leave them finite."""
    logs = log_density(grid[0][:, None], grid[1][None, :])
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    edges = (weights[0], weights[-1], weights[:, 0], weights[:, -1])
    assert max(edge.sum() for edge in edges) < 1e-5  # nothing to speak of is beyond the grid
    error = np.sqrt(1 / ess + 1 / len(draws))
    for axis, points in enumerate(grid):
        cdf = np.cumsum(weights.sum(axis=1 - axis))
        ends = np.interp(np.linspace(0.1, 0.9, 9), cdf, points + (points[1] - points[0]) / 2)
        below = (draws[:, axis, None] < ends).mean(axis=0)
        # 5.5 standard errors of a share of one half: 216 such comparisons raise a false alarm with chance 1e-5.
        assert np.abs(below - np.linspace(0.1, 0.9, 9)).max() < 5.5 * 0.5 * error
    if moments:
        agree(draws, *grid_moments(log_density, *grid), ess, kurtosis=6)


# Data, the grid of ln(alpha) and ln(beta), and whether its moments can be compared: where counts bound alpha on one
# side only, the tail of its t prior with 4 degrees is all there is.
GRIDS = {
    "skewed": (np.linspace(-3.5, 1.5, 501), np.linspace(-1, 8, 501), True),
    "uneven": (np.linspace(-4, 3, 501), np.linspace(-4, 5, 501), True),
    "all zeros": (np.linspace(-22, 8, 1201), np.linspace(-10, 18, 701), False),
    "all ones": (np.linspace(-14, 45, 1201), np.linspace(-12, 16, 701), False),
}


@pytest.mark.parametrize("kind", DATA)
def test_posterior_draws_of_the_beta_law_against_a_grid(draw, kind):
    successes, trials = DATA[kind]
    x, y, moments = GRIDS[kind]
    for seed in SEEDS:
        found = draw(jax.random.key(seed), count_table(successes, trials, 64), jnp.asarray(DEFAULT_PRIOR), NUM)
        assert found.ess > NUM / 2
        logs = np.log(np.stack([found.alpha, found.beta], axis=1).astype(np.float64))
        check_against((x, y), exact_log_posterior(successes, trials), logs, float(found.ess), moments)


def test_the_log_posterior_is_its_definition_up_to_a_constant():
    successes, trials = DATA["skewed"]
    x, y = np.meshgrid(np.linspace(-4, 2, 7), np.linspace(-3, 9, 7))
    points = jnp.asarray(np.stack([x.ravel(), y.ravel()], axis=1), jnp.float32)
    table = count_table(successes, trials)
    got = jax.vmap(lambda point: log_posterior(point, table, jnp.asarray(DEFAULT_PRIOR)))(points)
    want = exact_log_posterior(successes, trials)(x, y).ravel()
    np.testing.assert_allclose(got - got[0], want - want[0], rtol=2e-5, atol=2e-3)


@pytest.mark.calibration
def test_nuts_agrees_with_importance_sampling():
    successes, trials = DATA["skewed"]
    num = 2_000
    ours, nuts = (fit(successes, trials, method=method, draws=num, key=5) for method in ("importance", "nuts"))
    assert nuts.attrs["method"] == "nuts"
    for name in ("alpha", "beta"):
        first, second = (np.log(found.draws[name].astype(np.float64)) for found in (ours, nuts))
        sd = first.std()
        # NUTS draws of four chains are correlated: counted as a fifth of their number. Five standard errors.
        error = 5 * np.sqrt(1 / num + 5 / num)
        assert abs(first.mean() - second.mean()) < error * sd
        assert abs(second.std() / sd - 1) < error
    for n in (1, 500):
        first, second = (found.miss(n, expert="beta") for found in (ours, nuts))
        assert abs(first.mean() - second.mean()) < 5 * first.std() * np.sqrt(1 / num + 5 / num)
        assert abs(second.std() / first.std() - 1) < 5 * np.sqrt(6 / num)
