import functools
import itertools
import math
from fractions import Fraction

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from scipy import stats

from ppl.risk.attempts import Attempts
from ppl.risk.pass_at import (
    asr_at_n,
    coverage,
    g_pass_at_k,
    log_no_success,
    log_spaced,
    mg_pass_at_k,
    pass_at_k,
    pass_hat_k,
)

# The example of scorio's docstrings: two problems, five attempts each.
SUCCESSES, TRIALS = np.array([3, 4]), np.array([5, 5])

log_no_success_float32 = jax.jit(functools.partial(log_no_success, xp=jnp))


def human_eval(n, c, k):
    """The estimator as its paper writes it."""
    return 1.0 if n - c < k else 1.0 - np.prod(1.0 - k / np.arange(n - c + 1, n + 1))


@given(n=st.integers(1, 400), share=st.floats(0, 1), size=st.floats(0, 1))
def test_pass_at_k_is_the_estimator_of_human_eval(n, share, size):
    c, k = round(share * n), max(1, round(size * n))
    assert pass_at_k(n, c, k) == pytest.approx(human_eval(n, c, k), rel=1e-11, abs=1e-13)


@given(n=st.sampled_from([1, 2, 15, 16, 17, 1000, 10**4, 10**6]), c=st.integers(0, 40), k=st.integers(1, 40))
def test_log_chance_of_no_success_is_exact_in_both_precisions(n, c, k):
    c, k = min(c, n), min(k, n)
    exact = Fraction(math.comb(n - c, k), math.comb(n, k))
    reached = float(1 - exact)
    assert pass_at_k(n, c, k) == pytest.approx(reached, rel=1e-11)
    assert float(-jnp.expm1(log_no_success_float32(*map(jnp.float32, (n, c, k))))) == pytest.approx(reached, rel=2e-6)
    right = float(Fraction(math.comb(c, k), math.comb(n, k)))
    assert pass_hat_k(n, c, k) == pytest.approx(right, rel=1e-11)


def test_every_metric_is_the_average_over_subsets():
    outcomes = np.array([1, 0, 0, 1, 1, 0, 1])
    for k in range(1, 8):
        right = np.array([sum(subset) for subset in itertools.combinations(outcomes, k)])
        assert pass_at_k(7, 4, k) == pytest.approx((right >= 1).mean())
        assert pass_hat_k(7, 4, k) == pytest.approx((right == k).mean(), abs=1e-15)
        for tau in (0.0, 0.3, 0.5, 2 / 3, 1.0):
            assert g_pass_at_k(7, 4, k, tau) == pytest.approx((right >= max(1, math.ceil(tau * k - 1e-9))).mean())
        terms = [(right >= i).mean() for i in range(math.ceil(k / 2) + 1, k + 1)]
        assert mg_pass_at_k(7, 4, k) == pytest.approx(2 / k * sum(terms))


def test_scorios_docstring_numbers():
    assert np.mean(pass_at_k(TRIALS, SUCCESSES, 1)) == pytest.approx(0.7)
    assert np.mean(pass_at_k(TRIALS, SUCCESSES, 2)) == pytest.approx(0.95)
    assert np.mean(pass_hat_k(TRIALS, SUCCESSES, 2)) == pytest.approx(0.45)
    assert np.mean(g_pass_at_k(TRIALS, SUCCESSES, 2, 0.5)) == pytest.approx(0.95)
    assert np.mean(g_pass_at_k(TRIALS, SUCCESSES, 2, 1.0)) == pytest.approx(0.45)
    assert np.mean(mg_pass_at_k(TRIALS, SUCCESSES, 2)) == pytest.approx(0.45)
    assert np.mean(mg_pass_at_k(TRIALS, SUCCESSES, 3)) == pytest.approx(0.166667, abs=1e-6)


@pytest.mark.parametrize("p", [0.02, 0.7])
def test_the_estimators_are_unbiased(p):
    n, k = 12, 5
    c = np.arange(n + 1)
    weight = stats.binom.pmf(c, n, p)
    assert weight @ pass_at_k(np.full(n + 1, n), c, k) == pytest.approx(1 - (1 - p) ** k, rel=1e-12)
    assert weight @ pass_hat_k(np.full(n + 1, n), c, k) == pytest.approx(p**k, rel=1e-12)
    assert weight @ g_pass_at_k(n, c, k, 0.6) == pytest.approx(stats.binom.sf(2, k, p), rel=1e-12)


def test_rounding_of_tau_times_k_does_not_raise_the_threshold():
    assert 0.28 * 25 > 7
    assert g_pass_at_k(30, 15, 25, 0.28) == g_pass_at_k(30, 15, 25, 7 / 25)


def test_a_million_attempts():
    assert pass_at_k(10**6, 1, 1) == pytest.approx(1e-6, rel=1e-11)
    assert pass_at_k(10**6, 500_000, 500_000) == 1.0
    assert pass_hat_k(10**6, 999_999, 1000) == pytest.approx(1 - 1e-3, rel=1e-11)
    assert g_pass_at_k(10**6, 10, 1000, 0.001) == pytest.approx(pass_at_k(10**6, 10, 1000), rel=1e-8)


def test_scalars_give_floats_and_arrays_broadcast():
    assert isinstance(pass_at_k(5, 3, 2), float)
    assert asr_at_n is pass_at_k
    table = pass_at_k(np.array([[5], [9]]), np.array([[3], [0]]), np.array([1, 2, 5]))
    assert table.shape == (2, 3)
    assert table[1].tolist() == [0.0, 0.0, 0.0]
    assert table[0, 1] == pass_at_k(5, 3, 2)


@pytest.mark.parametrize("c", [0, 2, 5])
def test_k_above_n_is_refused_and_never_one(c):
    with pytest.raises(ValueError, match="k: 6 is more than its n = 5 attempts.*ppl.risk.fit"):
        pass_at_k(5, c, 6)
    with pytest.raises(ValueError, match="k: 6 in row 1 is more than its n = 5"):
        pass_at_k(np.array([9, 5]), np.array([0, c]), 6)


@pytest.mark.parametrize(
    ("n", "c", "k", "message"),
    [
        (5, 6, 1, "c: 6 is more than its n = 5"),
        (np.array([5, 5]), np.array([1, -1]), 1, "c: -1 in row 1; whole numbers"),
        (np.array([5.0, np.nan]), np.array([1, 1]), 1, "n: nan in row 1"),
        (np.array([5, 5]), np.array([1.5, 1.0]), 1, "c: 1.5 in row 0"),
        (5, 1, 0, "k: at least 1 is wanted, got 0"),
    ],
)
def test_bad_counts_are_named(n, c, k, message):
    with pytest.raises(ValueError, match=message):
        pass_at_k(n, c, k)


def test_tau_outside_its_range_is_refused():
    with pytest.raises(ValueError, match="tau: must be in"):
        g_pass_at_k(5, 2, 2, 1.1)


def test_a_curve_over_uneven_trials_is_the_mean_of_each_problem():
    attempts = Attempts([3, 0, 20], [5, 8, 20])
    curve = coverage(attempts, at=[1, 3, 5])
    expected = np.mean([[human_eval(n, c, k) for k in (1, 3, 5)] for n, c in ((5, 3), (8, 0), (20, 20))], axis=0)
    assert curve.mean == pytest.approx(expected)
    assert coverage(attempts).at.tolist() == [1, 2, 3, 4, 5]
    with pytest.raises(ValueError, match="k: 6 in row 0"):
        coverage(attempts, at=[6])


@pytest.mark.parametrize(
    ("metric", "tau", "of_count"),
    [
        ("asr", None, pass_at_k),
        ("pass_hat", None, pass_hat_k),
        ("g_pass", 0.5, lambda n, c, k: g_pass_at_k(n, c, k, 0.5)),
        ("mg_pass", None, mg_pass_at_k),
    ],
)
def test_a_curve_of_each_metric(metric, tau, of_count):
    curve = coverage(SUCCESSES, TRIALS, [2, 3], metric=metric, tau=tau, draws=10)
    assert curve.mean == pytest.approx([np.mean(of_count(TRIALS, SUCCESSES, k)) for k in (2, 3)])


@pytest.mark.parametrize("right", [0, 3, 20])
def test_the_ends_are_those_of_a_proportion(right):
    # One attempt each: Dirichlet weights of right, wrong and half a problem more make betas of the mean.
    curve = coverage([1] * right + [0] * (20 - right), 1, [1], draws=20_000, key=1)
    for draws, beta in ((curve.low, (right, 20.5 - right)), (curve.high, (right + 0.5, 20 - right))):
        law = stats.beta(*beta) if min(beta) > 0 else stats.norm(float(right > 0), 1e-6)
        # Kolmogorov's distance at 20,000 draws is above 0.0163 with chance 4e-5.
        if min(beta) > 0:
            assert stats.kstest(draws[:, 0], law.cdf).statistic < 0.0163
        else:
            assert draws == pytest.approx(law.mean())


@pytest.mark.parametrize(
    ("alpha", "beta", "problems", "trials", "k"), [(0.4, 1.6, 40, 8, 4), (0.18, 66, 128, 50, 1), (3, 0.2, 50, 10, 1)]
)
def test_coverage_of_the_intervals(alpha, beta, problems, trials, k):
    # The population against the interval from these problems: middling, few successes (pass@1 of 0.27%), few failures.
    rng = np.random.default_rng(4)
    repeats, truth = 200, -np.expm1(stats.betabinom.logpmf(0, k, alpha, beta))
    above = below = 0
    for seed in range(repeats):
        successes = rng.binomial(trials, rng.beta(alpha, beta, problems))
        _, (lower, upper) = coverage(successes, trials, [k], key=seed, draws=500).estimate(0.9)
        above, below = above + (lower[0] > truth), below + (upper[0] < truth)
    # Each end misses at most 5%, by 600 simulations 0% to 5%; standard error .0155, four of them pass all but .003%.
    assert above / repeats < 0.112
    assert below / repeats < 0.112


@pytest.mark.parametrize("right", [0, 7])
def test_all_zeros_and_all_ones_have_intervals_of_some_width(right):
    _, (lower, upper) = coverage([right] * 30, 7, [1, 7]).estimate(0.9)
    # Nothing seen speaks against 0, or 1; the other end is the 5% quantile of Beta(30, 1/2) or its mirror image.
    other, far = (upper, 1 - lower)[right // 7], (lower, 1 - upper)[right // 7]
    assert far == pytest.approx(0)
    assert other == pytest.approx(1 - stats.beta(30, 0.5).ppf(0.05), abs=0.007)


def test_one_problem_is_enough():
    mean, (lower, upper) = coverage([2], [4], [1]).estimate()
    assert mean[0] == pytest.approx(0.5)
    assert lower[0] < 0.5 < upper[0]


def test_a_curve_says_what_it_is():
    curve = coverage(SUCCESSES, TRIALS, [1, 2], metric="pass_hat", problems=["a", "b"])
    table = curve.summary()
    assert list(table.columns) == ["pass^k", "lower", "upper"]
    assert table.loc[2, "pass^k"] == pytest.approx(0.45)
    data = curve.to_arviz()
    assert data["posterior"]["pass_hat_low"].dims == ("chain", "draw", "k")
    assert (data["posterior"]["pass_hat_low"] <= data["posterior"]["pass_hat_high"]).all()
    assert data["observed_data"]["successes"].values.tolist() == [3, 4]
    assert "pass^k" in curve.plot_curve().axes[0].get_ylabel()


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([1], [2]), {"rule": "stop_at_success(batch=2)"}, "rule: pass@k needs numbers of trials"),
        (([1], [2]), {"metric": "g_pass"}, "tau: wanted by g_pass"),
        (([1], [2]), {"tau": 0.5}, "tau: wanted by g_pass and by no other"),
        (([1], [2]), {"draws": 0}, "draws: at least 1"),
        (([1], [2], []), {}, "at: a list of numbers k"),
        (([1],), {}, "trials: a number for each problem"),
        (([0], [0]), {}, "at least 1 trials of every problem"),
        (([3], [2]), {}, "successes: row 0"),
    ],
)
def test_bad_curves_are_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        coverage(*arguments, **options)


def test_log_spaced_numbers_are_whole_and_end_where_told():
    ks = log_spaced(1, 10_000)
    assert ks[0] == 1
    assert ks[-1] == 10_000
    assert len(ks) <= 30
    assert (np.diff(ks) > 0).all()
