import itertools

import numpy as np
import pytest
from scipy import special, stats

from ppl.risk.clustered_rate import clustered_rate


def quantiles(draws, at=(0.05, 0.5, 0.95)):
    return np.quantile(draws, at)


@pytest.mark.parametrize(("successes", "num"), [(0, 40), (7, 60), (30, 30), (90, 4_000)])
def test_one_trial_a_cluster_gives_jeffreys_posterior(successes, num):
    outcome = (np.arange(num) < successes).astype(np.int64)
    draws = clustered_rate(outcome, np.ones(num, dtype=np.int64), 20_000, np.random.default_rng(0)).mean
    posterior = stats.beta(0.5 + successes, 0.5 + num - successes)
    # Masses below the drawn quantiles: their sd is at most sqrt(.25 / 2e4) = 3.5e-3; 5 of them, false alarm 1e-6.
    assert posterior.cdf(quantiles(draws)) == pytest.approx((0.05, 0.5, 0.95), abs=0.018)


def test_posterior_is_that_of_quadrature_in_other_coordinates():
    successes, trials = np.array([0, 1, 5, 2, 0, 4]), np.array([5, 8, 5, 6, 3, 9])
    draws = clustered_rate(successes, trials, 200_000, np.random.default_rng(1))
    nodes = (np.arange(600) + 0.5) / 600
    mean = np.sin(np.pi * nodes / 2) ** 2  # equal steps of Jeffreys' prior
    a, b = np.meshgrid(mean, nodes, indexing="ij")
    strength = (1 - b) / b
    log = sum(
        special.betaln(a * strength + s, (1 - a) * strength + n - s) - special.betaln(a * strength, (1 - a) * strength)
        for s, n in zip(successes, trials, strict=True)
    )
    weight = np.exp(log - log.max())
    weight /= weight.sum()
    for drawn, values in ((draws.mean, a), (draws.correlation, b)):
        middle = (weight * values).sum()
        sd = np.sqrt((weight * (values - middle) ** 2).sum())
        # 5 standard errors of 2e5 draws (1e-6), and one hundredth of the sd for both grids.
        assert drawn.mean() == pytest.approx(middle, abs=sd * (5 / np.sqrt(2e5) + 0.01))
        assert drawn.std() == pytest.approx(sd, rel=0.02)
    assert draws.mean + draws.complement == pytest.approx(1)


@pytest.mark.parametrize("seed", [0, 1])
def test_coverage_averaged_over_the_prior_is_the_level(seed):
    rng = np.random.default_rng(seed)
    inside = []
    for _ in range(100):
        mean, rho = rng.beta(0.5, 0.5), rng.uniform()
        strength = (1 - rho) / rho
        trials = rng.integers(1, 5, size=15)
        theta = rng.beta(np.maximum(mean * strength, 1e-300), np.maximum((1 - mean) * strength, 1e-300), size=15)
        draws = clustered_rate(rng.binomial(trials, theta), trials, 500, rng)
        inside.append([np.mean(draws.mean < mean), np.mean(draws.correlation < rho)])
    ranks = np.array(inside)
    # 90% intervals; binomial standard error 0.03, and 4 of them: false alarm 6e-5 each.
    assert np.abs(np.mean((ranks > 0.05) & (ranks < 0.95), axis=0) - 0.9) == pytest.approx(0, abs=0.12)


def test_log_likelihood_sums_to_one_over_outcomes():
    trials = 4
    every = np.array([sum(outcome) for outcome in itertools.product((0, 1), repeat=trials)])
    draws = clustered_rate(every, np.full(len(every), trials), 50, np.random.default_rng(2))
    assert np.exp(draws.log_likelihood).sum(axis=1) == pytest.approx(np.ones(50), rel=1e-5)


def test_clusters_without_trials_leave_the_prior():
    draws = clustered_rate(np.zeros(3, np.int64), np.zeros(3, np.int64), 100_000, np.random.default_rng(3))
    assert stats.beta(0.5, 0.5).cdf(quantiles(draws.mean)) == pytest.approx((0.05, 0.5, 0.95), abs=0.01)
    assert quantiles(draws.correlation) == pytest.approx((0.05, 0.5, 0.95), abs=0.01)
    assert draws.log_likelihood == pytest.approx(0)
