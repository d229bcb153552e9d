import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from ppl.risk.draws import log_beta_variates, log_gamma_variates

NUM = 20_000
SHAPES = (0.01, 0.1, 0.7, 1.0, 1.3, 10.0, 300.0, 1e4)
# Each table has under 100 tests of Kolmogorov-Smirnov: together they raise a false alarm with chance 1e-4.
LEAST_P = 1e-6

gamma = jax.jit(log_gamma_variates)
beta = jax.jit(log_beta_variates)


@pytest.fixture(scope="module")
def gammas():
    shapes = jnp.broadcast_to(jnp.asarray(SHAPES)[:, None], (len(SHAPES), NUM))
    return np.stack([np.asarray(gamma(jax.random.key(seed), shapes), np.float64) for seed in range(3)])


@pytest.mark.parametrize("shape", SHAPES)
def test_gamma_variates_have_their_law(gammas, shape):
    for logs in gammas[:, SHAPES.index(shape)]:
        # At 0.01 half of the variates are below 1e-30; their logarithms are not: there ln G = -E / a with E standard
        # exponential, and the distribution function is G^a / Gamma(a + 1).
        far = np.exp(np.minimum(shape * logs - special.gammaln(shape + 1), 0))
        probability = np.where(logs < -20, far, special.gammainc(shape, np.exp(logs)))
        assert stats.kstest(probability, "uniform").pvalue > LEAST_P


def test_logarithms_of_gamma_variates_have_the_moments_of_digamma(gammas):
    a = np.asarray(SHAPES)
    mean, variance = gammas.mean(axis=2), gammas.var(axis=2)
    sd = np.sqrt(special.polygamma(1, a))
    # 24 means, each within 5.5 standard errors: false alarm 1e-6. The kurtosis of ln G is below 9.
    assert np.abs((mean - special.digamma(a)) / sd).max() < 5.5 / np.sqrt(NUM)
    assert np.abs(variance / sd**2 - 1).max() < 5.5 * np.sqrt(8 / NUM)


def test_keys_and_elements_are_independent(gammas):
    means = gammas.reshape(3 * len(SHAPES), NUM)
    correlation = np.corrcoef(means) - np.eye(len(means))
    assert np.abs(correlation).max() < 5.5 / np.sqrt(NUM)  # 276 of them: false alarm 1e-5


BETAS = [(0.01, 0.01), (0.01, 20.0), (0.2, 0.5), (1.0, 1.0), (0.3, 4e3), (50.0, 2.0), (1e4, 3e3)]


def distribution(logs, a, b):
    """Of a beta variate, by its logarithm: far below the least float it is x^a / (a B(a, b))."""
    leading = np.exp(np.minimum(a * logs - np.log(a) - special.betaln(a, b), 0))
    return np.where(logs < -25, leading, special.betainc(a, b, np.exp(logs)))


@pytest.mark.parametrize(("a", "b"), BETAS)
def test_beta_variates_have_their_law_on_both_sides(a, b):
    for seed in range(3):
        found = beta(jax.random.key(seed), jnp.full(NUM, a), jnp.full(NUM, b))
        log_theta, log_rest = (np.asarray(value, np.float64) for value in found)
        assert max(log_theta.max(), log_rest.max()) <= 0
        np.testing.assert_allclose(np.exp(log_theta) + np.exp(log_rest), 1, rtol=2e-6)
        lower, upper = distribution(log_theta, a, b), 1 - distribution(log_rest, b, a)
        assert stats.kstest(np.where(log_theta < log_rest, lower, upper), "uniform").pvalue > LEAST_P


def test_what_is_no_shape_is_nan_and_comes_to_an_end():
    shapes = jnp.asarray([jnp.nan, jnp.inf, 0.0, -1.0, 2.0])
    found = np.asarray(gamma(jax.random.key(0), shapes))
    assert np.isnan(found).tolist() == [True] * 4 + [False]
    pair = beta(jax.random.key(0), shapes, jnp.full(5, 3.0))
    for logs in pair:
        assert np.isnan(np.asarray(logs)).tolist() == [True] * 4 + [False]


def test_one_and_no_element():
    assert gamma(jax.random.key(0), jnp.asarray(0.5)).shape == ()
    assert gamma(jax.random.key(0), jnp.zeros((0, 3))).shape == (0, 3)
