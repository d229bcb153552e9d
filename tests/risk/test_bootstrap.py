import jax
import numpy as np
import pytest
from scipy import stats

from ppl.risk.bootstrap import weighted_means


def test_draws_have_the_moments_of_dirichlet_means():
    values = np.random.default_rng(0).gamma(2.0, size=(30, 2))
    draws = weighted_means(jax.random.key(1), values, 20_000)
    # Mean and covariance of Dirichlet(1, ..., 1) means are known; 5 standard errors, false alarm 1e-6 each.
    covariance = np.cov(values.T, bias=True) / 31
    assert draws.mean(axis=0) == pytest.approx(values.mean(axis=0), abs=5 * np.sqrt(covariance.max() / 20_000))
    spread = np.sqrt((np.outer(np.diag(covariance), np.diag(covariance)) + covariance**2) / 20_000)
    assert np.abs(np.cov(draws.T) - covariance).max() < 5 * spread.max()


def test_ends_make_zeros_and_ones_jeffreys_posterior():
    values = np.array([[1.0]] * 3 + [[0.0]] * 17)
    draws = weighted_means(jax.random.key(0), values, 20_000, ends=np.array([[0.0], [1.0]]))[:, 0]
    # Kolmogorov's distance at 20,000 draws is above 0.0163 with chance 4e-5.
    assert stats.kstest(draws, stats.beta(3.5, 17.5).cdf).statistic < 0.0163


def test_one_problem_alone_has_no_spread():
    assert weighted_means(jax.random.key(0), np.array([[2.0, 3.0]]), 5) == pytest.approx(np.tile([2.0, 3.0], (5, 1)))
