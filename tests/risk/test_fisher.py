import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from ppl.risk.fisher import beta_binomial_information, delta_variance, weighted_scores


def closed_form(alpha, beta, trials):
    """SABER's Eq. 86-87, in float64."""
    s = np.arange(trials + 1)
    pmf = stats.betabinom.pmf(s, trials, alpha, beta)
    shared = special.polygamma(1, trials + alpha + beta) - special.polygamma(1, alpha + beta)
    first = special.polygamma(1, alpha) + shared - pmf @ special.polygamma(1, s + alpha)
    second = special.polygamma(1, beta) + shared - pmf @ special.polygamma(1, trials - s + beta)
    return np.array([[first, shared], [shared, second]])


@pytest.mark.parametrize(
    ("alpha", "beta", "trials"),
    [(0.4, 4, 10), (0.4, 4, 1), (2, 0.3, 7), (0.37, 50, 10_000), (0.05, 1000, 100), (30, 20, 50)],
)
def test_information_is_the_published_closed_form(alpha, beta, trials):
    assert np.asarray(beta_binomial_information(alpha, beta, trials)) == pytest.approx(
        closed_form(alpha, beta, trials), rel=2e-5
    )


def test_information_survives_where_the_closed_form_cancels():
    # alpha = 1e-3, beta = 1e4: the second score's variance is 1e-14, left by trigammas near 1e-4. By fractions instead.
    a, b, n = Fraction(1, 1000), Fraction(10_000), 30
    pmf, scores = [], []
    for s in range(n + 1):
        rising = math.prod(a + j for j in range(s)) * math.prod(b + j for j in range(n - s))
        pmf.append(math.comb(n, s) * rising / math.prod(a + b + j for j in range(n)))
        scores.append(sum(1 / (b + j) for j in range(n - s)) - sum(1 / (a + b + j) for j in range(n)))
    assert sum(pmf) == 1
    exact = sum(p * u * u for p, u in zip(pmf, scores, strict=True))
    assert float(beta_binomial_information(1e-3, 1e4, n)[1, 1]) == pytest.approx(float(exact), rel=1e-4)


def test_information_is_the_mean_curvature_of_the_log_likelihood():
    at, trials, step = np.array([0.8, 2.5]), 6, 1e-3
    s = np.arange(trials + 1)
    pmf = stats.betabinom.pmf(s, trials, *at)

    def mean_log_likelihood(point):
        return pmf @ stats.betabinom.logpmf(s, trials, *point)

    i, j = step * np.eye(2)
    mixed = [mean_log_likelihood(at + x * i + y * j) for x, y in ((1, 1), (1, -1), (-1, 1), (-1, -1))]
    straight = [mean_log_likelihood(at + e) - 2 * mean_log_likelihood(at) + mean_log_likelihood(at - e) for e in (i, j)]
    off = (mixed[0] - mixed[1] - mixed[2] + mixed[3]) / 4
    curvature = -np.array([[straight[0], off], [off, straight[1]]]) / step**2
    assert np.asarray(beta_binomial_information(*at, trials)) == pytest.approx(curvature, rel=1e-4)


def test_scores_average_to_zero_and_pad_with_zeros():
    scores = np.asarray(weighted_scores(np.array([0.4, 2.0]), 4.0, np.array([3, 8])), np.float64)
    assert scores.shape == (2, 9, 2)
    assert not scores[0, 4:].any()
    root = np.sqrt(stats.betabinom.pmf(np.arange(9), 8, 2.0, 4.0))
    assert root @ scores[1] == pytest.approx([0, 0], abs=1e-6)


def test_shapes_batch_trace_and_mirror():
    batch = beta_binomial_information(np.array([[0.4], [2.0]]), np.array([4.0, 1.0, 0.5]), 5)
    assert batch.shape == (2, 3, 2, 2)
    mirrored = beta_binomial_information(0.5, 2.0, 5)[::-1, ::-1]
    assert np.asarray(batch[1, 2]) == pytest.approx(np.asarray(mirrored), rel=1e-5)
    traced = jax.jit(jax.vmap(lambda a: beta_binomial_information(a, 4.0, 5)))(jnp.array([0.4, 2.0]))
    assert np.asarray(traced) == pytest.approx(np.asarray(batch[:, 0]), rel=1e-6)


def test_variance_by_factorisation_is_that_of_the_inverse():
    scores = weighted_scores(0.4, 4.0, 10)
    gradient = np.array([0.7, -0.2])
    exact = gradient @ np.linalg.solve(closed_form(0.4, 4.0, 10), gradient)
    assert float(delta_variance(scores, jnp.asarray(gradient, jnp.float32))) == pytest.approx(exact, rel=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0, 1.0, 3), "alpha: positive finite numbers are wanted, got 0.0"),
        ((1.0, np.array([2.0, np.nan]), 3), "beta: positive finite numbers are wanted, got nan"),
        ((1.0, 1.0, 0), "trials: whole numbers from 1 to 1000000 are wanted, got 0"),
        ((1.0, 1.0, 10**7), "trials: whole numbers"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        beta_binomial_information(*arguments)
