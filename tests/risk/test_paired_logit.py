import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from ppl.risk.paired_logit import (
    OWN_SD,
    PRIOR_MEAN,
    PRIOR_SD,
    log_density,
    log_likelihood,
    pass_at,
    pass_at_here,
    sample,
)
from ppl.risk.paired_rows import Few, Many, distinct_rows

SLOPE2 = 256 / (75 * np.pi**2)


def parts(hyper):
    """Means and covariance of the two log odds."""
    alone, rho = np.exp(np.asarray(hyper[2:4], np.float64)), np.tanh(float(hyper[4]))
    covariance = np.outer(alone, alone) * np.array([[1, rho], [rho, 1]]) + OWN_SD**2 * np.eye(2)
    return np.asarray(hyper[:2]) * np.sqrt(1 + SLOPE2 * np.diag(covariance)), covariance


def by_fine_grid(hyper, successes, trials):
    """Log probability of one problem's counts, on a fine float64 grid in log odds around where the integrand is."""
    mean, covariance = parts(hyper)
    sd = np.sqrt(np.diag(covariance))
    axes = []
    for s, n, m, spread in zip(successes, trials, mean, sd, strict=True):
        line = np.linspace(m - 9 * spread, m + 9 * spread, 40_001)
        log = stats.binom.logpmf(s, n, special.expit(line)) - 0.5 * ((line - m) / spread) ** 2
        kept = line[log > log.max() - 60]
        axes.append(np.linspace(kept[0], kept[-1], 901))
    a, b = axes
    log = stats.multivariate_normal(mean, covariance).logpdf(np.stack(np.meshgrid(a, b, indexing="ij"), axis=-1))
    log += stats.binom.logpmf(successes[0], trials[0], special.expit(a))[:, None]
    log += stats.binom.logpmf(successes[1], trials[1], special.expit(b))
    return special.logsumexp(log) + np.log((a[1] - a[0]) * (b[1] - b[0]))


HYPERS = [(0.4, 0.2, 0.4, 0.4, 0.5), (-1.5, 0.7, 1.0, -0.5, 1.3), (0.0, 0.0, 0.4, 0.9, -0.7)]


@pytest.mark.parametrize("hyper", HYPERS)
@pytest.mark.parametrize(
    ("successes", "trials", "accuracy"),
    [
        ((1, 0), (1, 1), 5e-4),
        ((0, 3), (0, 5), 5e-4),
        ((7, 16), (16, 16), 5e-4),
        ((90, 2), (128, 40), 1e-4),
        # Above 128 attempts by quadrature; the last one has an edge that 7 nodes do not resolve better.
        ((60, 200), (200, 300), 1e-3),
        ((0, 150), (150, 150), 0.03),
    ],
)
def test_integrated_likelihood_is_that_of_a_fine_grid(hyper, successes, trials, accuracy):
    rows, which = distinct_rows(np.array([successes]), np.array([trials]))
    assert isinstance(rows, Few if max(trials) <= 128 else Many)
    got = log_likelihood(jnp.asarray(hyper, jnp.float32), rows)[which[0]]
    assert float(got) == pytest.approx(by_fine_grid(hyper, successes, trials), abs=accuracy)


@pytest.mark.parametrize("num", [10**4, 10**6])
def test_a_million_attempts_are_nothing_special_in_float32(num):
    # So many attempts show the log odds themselves: the likelihood is the normal density there, times the density of
    # counts, 1 / (n p q) of a unit of log odds a success.
    hyper = HYPERS[0]
    mean, covariance = parts(hyper)
    p = special.expit(mean + np.sqrt(np.diag(covariance)) * np.array([0.3, -1.0]))
    successes = np.round(num * p).astype(int)
    rows, which = distinct_rows(successes[None], np.array([[num, num]]))
    share = successes / num
    expected = stats.multivariate_normal(mean, covariance).logpdf(special.logit(share))
    expected -= np.log(num * share * (1 - share)).sum()
    got = float(log_likelihood(jnp.asarray(hyper, jnp.float32), rows)[which[0]])
    assert got == pytest.approx(expected, abs=5e-3)


def test_probabilities_of_all_counts_sum_to_one():
    every = np.array(list(itertools.product(range(5), range(4))))
    rows, which = distinct_rows(every, np.tile([4, 3], (20, 1)))
    for hyper in HYPERS:
        assert np.exp(log_likelihood(jnp.asarray(hyper, jnp.float32), rows))[which].sum() == pytest.approx(1, abs=1e-5)


def test_rows_are_counted_and_padded():
    successes, trials = np.array([[1, 0], [0, 0], [1, 0]]), np.array([[2, 1], [0, 3], [2, 1]])
    rows, which = distinct_rows(successes, trials)
    assert rows.problems.shape == (16,)
    assert rows.problems.sum() == 3
    assert which[0] == which[2] != which[1]
    assert rows.problems[which[0]] == 2


SUCCESSES = np.array([[2, 0], [3, 1], [0, 0], [1, 1], [3, 3], [0, 1]])
TRIALS = np.array([[3, 2], [3, 3], [2, 2], [1, 3], [3, 3], [0, 2]])


@functools.cache
def reference(num=10_000):
    """The posterior by weighted draws of the prior, a likelihood that owes nothing to the one tested."""
    rng = np.random.default_rng(0)
    hyper = rng.normal(PRIOR_MEAN, PRIOR_SD, (num, 5))
    alone, rho = np.exp(hyper[:, 2:4]), np.tanh(hyper[:, 4])
    sd = np.sqrt(alone**2 + OWN_SD**2)
    mean = hyper[:, :2] * np.sqrt(1 + SLOPE2 * sd**2)
    rho = rho * np.prod(alone / sd, axis=1)
    z = rng.normal(size=(400, 2))
    second = rho[:, None] * z[:, 0] + np.sqrt(1 - rho**2)[:, None] * z[:, 1]
    pair = np.stack([np.broadcast_to(z[:, 0], second.shape), second])
    theta = special.expit(mean.T[:, :, None] + sd.T[:, :, None] * pair)
    log_weight = np.zeros(num)
    for s, n in zip(SUCCESSES, TRIALS, strict=True):
        log = sum(special.xlogy(s[i], theta[i]) + special.xlog1py(n[i] - s[i], -theta[i]) for i in (0, 1))
        log_weight += special.logsumexp(log, axis=1)
    weight = np.exp(log_weight - log_weight.max())
    rates = theta.mean(axis=2).T
    difference = rates[:, 0] - rates[:, 1]
    weight /= weight.sum()
    middle = weight @ difference
    return middle, np.sqrt(weight @ (difference - middle) ** 2), weight @ (difference > 0), 1 / (weight**2).sum()


@pytest.mark.parametrize("key", [0, 1])
def test_posterior_is_that_of_the_prior_weighted(key):
    middle, sd, better, ess = reference()
    rows, _ = distinct_rows(SUCCESSES, TRIALS)
    found = sample(jax.random.key(key), rows, 1000)
    weights = np.asarray(jax.nn.softmax(found.log_weights), np.float64)
    rates = np.asarray(pass_at(found.hyper, jnp.float32(1)))
    difference = rates[:, 0] - rates[:, 1]
    own = 1 / (weights**2).sum()
    # 4.5 standard errors of both (7e-6 each), and of a mean over 400 draws of log odds, alike for all of the prior.
    error = sd * np.sqrt(1 / ess + 1 / own)
    assert ess > 300
    assert own > 400
    assert weights @ difference == pytest.approx(middle, abs=4.5 * error + 0.01)
    assert weights @ (difference > 0) == pytest.approx(better, abs=4.5 * 0.5 * np.sqrt(1 / ess + 1 / own) + 0.01)


@pytest.mark.parametrize(("problems", "trials"), [(1300, (1, 1)), (500, (1, 4)), (2000, (7, 1)), (14, (300, 300))])
def test_the_proposal_fits_where_counts_say_little_and_much(problems, trials):
    rng = np.random.default_rng(problems)
    z = rng.normal(size=(problems, 2)) @ np.array([[1, 0.7], [0, 0.7]])
    n = np.tile(trials, (problems, 1))
    rows, _ = distinct_rows(rng.binomial(n, special.expit([0.5, 0.3] + 1.5 * z)), n)
    weights = np.asarray(jax.nn.softmax(sample(jax.random.key(0), rows, 1000).log_weights), np.float64)
    assert 1 / (weights**2).sum() > 100


def test_derivatives_are_finite_and_right_at_a_million_attempts():
    rng = np.random.default_rng(0)
    n = np.full((14, 2), 10**6)
    rows, _ = distinct_rows(rng.binomial(n, special.expit(rng.normal(size=(14, 2)))), n)
    hyper = jnp.asarray(HYPERS[0], jnp.float32)
    gradient = jax.jit(jax.grad(log_density))(hyper, rows)
    # Differences of the density itself need float64: in float32 its rounding, 1e-7 of 14 million log odds, would show.
    with jax.enable_x64(True):
        exact = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), rows)
        centre, steps = jnp.asarray(HYPERS[0], jnp.float64), 1e-4 * np.eye(5)
        slopes = [(log_density(centre + h, exact) - log_density(centre - h, exact)) / 2e-4 for h in steps]
    assert np.asarray(gradient) == pytest.approx(np.asarray(slopes), rel=1e-3, abs=1e-3)


def test_population_rates_are_integrals():
    hyper = jnp.asarray(HYPERS, jnp.float32)
    for k in (1, 5):
        got = np.asarray(pass_at(hyper, jnp.float32(k)))
        for row, one in zip(got, HYPERS, strict=True):
            mean, covariance = parts(one)
            sd = np.sqrt(np.diag(covariance))
            nodes, weights = np.polynomial.hermite_e.hermegauss(80)
            fail = special.expit(-(mean[:, None] + sd[:, None] * nodes)) ** k
            exact = (1 - fail) @ weights / weights.sum()
            assert row == pytest.approx(exact, abs=1e-5)


@pytest.mark.parametrize("trials", [(3, 3), (200, 150)])
def test_rates_of_these_problems_have_their_posterior_means(trials):
    # One value of the hyperparameters, and per problem an integral on a fine grid: E[theta | s] is a ratio of
    # likelihoods with one success more.
    hyper = HYPERS[0]
    n = np.array([trials, trials, trials])
    s = np.array([[0, n[0, 1]], [n[0, 0] // 3, n[0, 1] // 2], [n[0, 0], 1]])
    rows, which = distinct_rows(s, n)
    draws = 4000
    tiled = jnp.tile(jnp.asarray(hyper, jnp.float32), (draws, 1))
    got = np.asarray(pass_at_here(jax.random.key(3), tiled, rows, jnp.asarray(which), jnp.float32(1)))
    exact = np.zeros(2)
    for successes, attempts in zip(s, n, strict=True):
        base = by_fine_grid(hyper, successes, attempts)
        for side in (0, 1):
            more = np.eye(2, dtype=int)[side]
            ratio = by_fine_grid(hyper, successes + more, attempts + more) - base
            # Binomial coefficients of n + 1 and s + 1 over those of n and s.
            exact[side] += np.exp(ratio) * (successes[side] + 1) / (attempts[side] + 1) / len(s)
    # 5 standard errors, false alarm 6e-7, and the nodes' own error.
    assert got.mean(axis=0) == pytest.approx(exact, abs=5 * got.std(axis=0).max() / np.sqrt(draws) + 5e-4)


def test_the_second_call_does_not_compile():
    n = np.full((7, 2), 3)
    first, _ = distinct_rows(n - 1, n)
    second, _ = distinct_rows(n[:5] - 2, n[:5])
    sample(jax.random.key(0), first, 1000)
    before = sample._cache_size()
    sample(jax.random.key(1), second, 1000)
    assert sample._cache_size() == before
