import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from scipy import special

from ppl.risk.attempts import Attempts
from ppl.risk.next_problem import failure_moments, next_problem, variance_reduction


def moments(a, b, attempts):
    """Mean and variance of (1 - theta)^N in float64."""
    mean, second = (np.exp(special.betaln(a, b + k * attempts) - special.betaln(a, b)) for k in (1, 2))
    return mean, second - mean**2


def looked_ahead(a, b, attempts):
    """Variance now less the expected variance after one attempt, by going through both outcomes."""
    right = a / (a + b)
    after = right * moments(a + 1, b, attempts)[1] + (1 - right) * moments(a, b + 1, attempts)[1]
    return moments(a, b, attempts)[1] - after


@given(
    a=st.floats(0.05, 20), b=st.floats(0.2, 60), attempts=st.sampled_from([1, 2, 7, 50]), successes=st.integers(0, 3)
)
def test_reduction_is_the_enumerated_look_ahead(a, b, attempts, successes):
    a = a + successes
    expected = looked_ahead(a, b, attempts)
    got = float(variance_reduction(jnp.float32(a), jnp.float32(b), attempts))
    # The enumeration subtracts variances: it keeps 1e-12 of them in float64.
    assert got == pytest.approx(expected, rel=2e-4, abs=1e-12)
    assert float(failure_moments(jnp.float32(a), jnp.float32(b), attempts)[1]) == pytest.approx(
        moments(a, b, attempts)[1], rel=1e-3, abs=1e-9
    )


def test_reduction_is_right_for_a_million_attempts():
    # Against the law of total variance in float64, where the variances themselves are too close to subtract.
    a, b, n = 0.4, 54.0, 10**6
    right = a / (a + b)
    log_mean = special.betaln(a, b + n) - special.betaln(a, b)
    means = [
        np.exp(special.betaln(a + 1, b + n) - special.betaln(a + 1, b) - log_mean),
        np.exp(special.betaln(a, b + 1 + n) - special.betaln(a, b + 1) - log_mean),
    ]
    expected = right * (1 - right) * (means[1] - means[0]) ** 2 * np.exp(2 * log_mean)
    assert float(variance_reduction(jnp.float32(a), jnp.float32(b), n)) == pytest.approx(expected, rel=1e-4)


def test_next_problem_is_that_of_brute_force():
    rng = np.random.default_rng(0)
    trials = rng.integers(0, 40, 30)
    successes = rng.binomial(trials, rng.beta(0.4, 4, 30))
    result = next_problem(Attempts(successes, trials, rule="adaptive"), 100, prior=(0.4, 4.0))
    a, b = 0.4 + successes, 4.0 + trials - successes
    brute = looked_ahead(a, b, 100) / 30**2
    assert result.reduction == pytest.approx(brute, rel=1e-3, abs=1e-14)
    assert result.order[0] == str(np.argmax(brute))
    assert result.variance == pytest.approx(moments(a, b, 100)[1].sum() / 30**2, rel=1e-4)
    # 4,000 draws: the mean within 5 standard errors, the variance within 5 of its own (2.2% for near normal draws).
    assert result.draws["rate"].mean() == pytest.approx(
        1 - moments(a, b, 100)[0].mean(), abs=5 * np.sqrt(result.variance / 4000)
    )
    assert result.draws["rate"].var() == pytest.approx(result.variance, rel=0.15)
    assert result.table().index[0] == result.order[0]
    assert result.plot_reduction().axes
    assert result.to_arviz()["posterior"]["rate"].size == 4000


def test_an_unknown_population_is_learnt_by_each_attempt():
    # Three possible populations, unequally likely after all; each outcome of each attempt is gone through in float64.
    alpha, beta, attempts = np.array([0.3, 0.9, 0.9, 2.0]), np.array([1.0, 6.0, 6.0, 30.0]), 20
    successes, trials = np.array([0, 1, 4]), np.array([3, 2, 9])
    a, b = alpha[:, None] + successes, beta[:, None] + trials - successes

    def corpus(a, b, weights):
        """Posterior variance of the corpus rate given weights of the populations."""
        mean, own = moments(a, b, attempts)
        rate = mean.mean(axis=1)
        return weights @ (own.sum(axis=1) / 9 + (rate - weights @ rate) ** 2)

    equal, expected = np.full(4, 0.25), []
    for i, one in enumerate(np.eye(3)):
        right = a[:, i] / (a[:, i] + b[:, i])
        success, failure = equal @ right, equal @ (1 - right)
        after = success * corpus(a + one, b, equal * right / success)
        after += failure * corpus(a, b + one, equal * (1 - right) / failure)
        expected.append(corpus(a, b, equal) - after)
    result = next_problem(Attempts(successes, trials), attempts, prior=(alpha, beta))
    assert result.reduction == pytest.approx(expected, rel=1e-5)
    assert result.variance == pytest.approx(corpus(a, b, equal), rel=1e-5)
    assert 0 < result.shared < result.variance
    assert result.order[0] == str(np.argmax(expected))
    # 4,000 draws, a mixture with light tails: 5 standard errors of a variance of such draws.
    assert result.draws["rate"].var() == pytest.approx(result.variance, rel=0.15)
    known = next_problem(Attempts(successes, trials), attempts, prior=(0.9, 6.0))
    same = next_problem(Attempts(successes, trials), attempts, prior=(np.full(4, 0.9), np.full(4, 6.0)))
    assert same.reduction == pytest.approx(known.reduction, rel=1e-6)
    assert known.shared == 0.0
    assert same.shared == pytest.approx(0.0, abs=1e-15)


def test_edges():
    solved = next_problem(Attempts([5], 5), 10, prior=(0.4, 4.0), draws=20)
    never = next_problem(Attempts([0], 50), 10, prior=(0.4, 4.0), draws=20)
    assert 0 <= solved.reduction[0] < never.reduction[0]
    assert next_problem(Attempts([0], [0]), 1, prior=(1.0, 1.0), draws=20).reduction == pytest.approx([1 / 36])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: next_problem(Attempts([0], 1), 0, prior=(1.0, 1.0)), "attempts: at least 1 is wanted, got 0"),
        (lambda: next_problem(Attempts([0], 1), 5, prior=(0.0, 1.0)), "prior: alpha must be positive, got 0"),
        (
            lambda: next_problem(Attempts([0], 1), 5, prior=(np.ones(2), np.array([1.0, np.nan]))),
            "prior: beta must be positive, got nan",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
