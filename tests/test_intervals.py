import itertools

import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from hypothesis import given
from scipy import integrate, stats

from ppl.intervals import beta_interval, mean_interval

pytestmark = pytest.mark.runs_long


def coverage(theta, num, level, prior):
    """Exact chance, over binomial counts, that the interval holds the probability it estimates."""
    successes = np.arange(num + 1)
    lower, upper = beta_interval(successes, np.full(num + 1, num), level, prior=prior)
    theta = np.atleast_1d(theta)[:, None]
    return (stats.binom.pmf(successes, num, theta) * ((lower <= theta) & (theta <= upper))).sum(axis=1)


@pytest.mark.parametrize(
    ("num", "level", "prior"), [(7, 0.9, (0.5, 0.5)), (40, 0.8, (1.0, 1.0)), (12, 0.95, (2.0, 5.0))]
)
def test_coverage_averaged_over_the_prior_is_the_level(num, level, prior):
    # Coverage jumps where an interval ends: integrate piece by piece between the ends.
    ends = np.concatenate(beta_interval(np.arange(num + 1), np.full(num + 1, num), level, prior=prior))
    pieces = np.unique(np.concatenate([[0.0], ends, [1.0]]))
    # In u = CDF of the prior the density is flat, also where Jeffreys' is infinite.
    nodes = stats.beta.cdf(pieces, *prior)
    mean = sum(
        integrate.fixed_quad(lambda u: coverage(stats.beta.ppf(u, *prior), num, level, prior), low, high, n=30)[0]
        for low, high in itertools.pairwise(nodes)
    )
    assert mean == pytest.approx(level, abs=1e-4)


def test_coverage_at_a_fixed_probability_is_as_documented():
    middle = coverage(np.linspace(0.05, 0.95, 1801), 100, 0.9, (0.5, 0.5))
    assert middle.min() > 0.86
    assert middle.max() < 0.94
    assert coverage(np.linspace(0.001, 0.999, 1997), 100, 0.9, (0.5, 0.5)).min() > 0.81


@given(num=st.integers(0, 10**6), share=st.floats(0, 1), level=st.floats(0.01, 0.99))
def test_ends_hold_the_level_and_mirror(num, share, level):
    successes = round(share * num)
    lower, upper = beta_interval(successes, num, level)
    assert 0 <= lower <= upper <= 1
    posterior = stats.beta(successes + 0.5, num - successes + 0.5)
    assert posterior.cdf(upper) - posterior.cdf(lower) == pytest.approx(level, abs=1e-6)
    mirrored = beta_interval(num - successes, num, level)
    assert (1 - mirrored.upper, 1 - mirrored.lower) == pytest.approx((lower, upper), abs=1e-9)


def test_no_trials_leave_the_prior():
    assert beta_interval(0, 0, 0.5, prior=(1.0, 1.0)) == pytest.approx((0.25, 0.75))


def test_counts_may_be_arrays():
    lower, upper = beta_interval(np.array([[0, 1], [2, 3]]), np.array([3, 3]))
    assert lower.shape == upper.shape == (2, 2)
    assert (lower[1, 0], upper[1, 0]) == tuple(beta_interval(2, 3))


@pytest.mark.parametrize(
    ("successes", "trials", "options", "message"),
    [
        (3, 2, {}, "successes: must be in .0, trials., got 3 of 2"),
        (np.array([0, -1]), np.array([2, 2]), {}, r"got -1 of 2 at index \(1,\)"),
        (1, 2, {"level": 1.0}, "level: must be in"),
        (1, 2, {"prior": (0.0, 1.0)}, "prior: both parameters must be positive"),
    ],
)
def test_bad_counts_are_named(successes, trials, options, message):
    with pytest.raises(ValueError, match=message):
        beta_interval(successes, trials, **options)


def test_with_bounds_ones_and_zeros_give_the_beta_posterior():
    values = np.array([1.0] * 7 + [0.0] * 23)
    got = mean_interval(values, bounds=(0, 1), draws=200_000)
    # An end's Monte Carlo sd is sqrt(.05 * .95 / draws) / density = 4e-4 here; 5 of them, false alarm 1e-6.
    assert got == pytest.approx(beta_interval(7, 30), abs=2e-3)


def test_values_all_alike_have_a_width_only_with_bounds():
    assert mean_interval(np.ones(20)) == (1.0, 1.0)
    lower, upper = mean_interval(np.ones(20), bounds=(0, 1))
    assert 0.85 < lower < 0.95 < 0.99 < upper < 1


@pytest.mark.parametrize("bounds", [None, (0, 1)])
def test_coverage_of_the_mean_over_problems(bounds):
    # Skewed on purpose: per-problem accuracies Beta(0.6, 1.8), mean 1/4, seen through 5 seeds each.
    rng = np.random.default_rng(1)
    repeats, num = 400, 60
    accuracy = rng.beta(0.6, 1.8, size=(repeats, num))
    seen = rng.binomial(5, accuracy) / 5
    keys = jax.random.split(jax.random.key(2), repeats)
    ends = [
        mean_interval(values, 0.9, bounds=bounds, key=key, draws=2_000) for values, key in zip(seen, keys, strict=True)
    ]
    inside = np.mean([lower <= 0.25 <= upper for lower, upper in ends])
    # Its coverage at 60 skewed values is near 0.89; the standard error is 0.015, and 0.9 +- 4 of them pass in all but
    # 0.2% of seeds.
    assert 0.84 < inside < 0.96


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        (np.array([1.0]), {}, "at least two problems are wanted when no bounds are given, got 1"),
        (np.array([0.5, np.nan]), {}, "problem 1 has nan"),
        (np.array([0.5, 1.5]), {"bounds": (0, 1)}, r"problem 1 has 1.5; want finite values in \[0, 1\]"),
        (np.array([0.5, 0.5]), {"level": 0.0}, "level: must be in"),
        (np.array([0.5, 0.5]), {"draws": 0}, "draws: at least 1"),
    ],
)
def test_bad_values_are_named(values, options, message):
    with pytest.raises(ValueError, match=message):
        mean_interval(values, **options)


def test_the_same_key_gives_the_same_interval():
    values = np.linspace(0, 1, 10)
    assert mean_interval(values, key=5) == mean_interval(values, key=jax.random.key(5))
    assert mean_interval(values, key=5) != mean_interval(values, key=6)
