import warnings

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from ppl.risk.prevalence import judged_accuracy, label_split, plug_in_interval


def by_rejection(test, right, wrong, rng, num=400_000):
    """The same posterior in the plainest way: three betas, and the draws that are possible."""
    p = rng.beta(test[0] + 1, test[1] - test[0] + 1, num)
    q1 = rng.beta(right[0] + 0.5, right[1] - right[0] + 0.5, num)
    q0 = rng.beta(wrong[1] - wrong[0] + 0.5, wrong[0] + 0.5, num)
    possible = (q0 + q1 > 1) & (1 - q0 <= p) & (p <= q1)
    return ((p + q0 - 1) / (q0 + q1 - 1))[possible], 1 - possible.mean()


def quietly(*pairs, **options):
    """Where judges near chance are part of the game."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return judged_accuracy(*pairs, **options)


@pytest.mark.parametrize(
    ("test", "right", "wrong"),
    [((400, 1000), (180, 200), (60, 200)), ((19, 20), (28, 30), (3, 40)), ((3, 200), (30, 40), (4, 60))],
)
@pytest.mark.parametrize("key", [0, 1])
def test_it_is_three_betas_where_they_are_possible(test, right, wrong, key):
    fit = judged_accuracy(test, right, wrong, key=key, draws=20_000)
    expected, rejected = by_rejection(test, right, wrong, np.random.default_rng(key))
    # Resampling a pool of four proposals a draw at most doubles the variance of a mean; 5 standard errors, false alarm
    # 6e-7 each.
    sd = expected.std()
    assert fit.draws["accuracy"].mean() == pytest.approx(expected.mean(), abs=5 * sd * np.sqrt(2 / 20_000))
    assert fit.draws["accuracy"].std() == pytest.approx(sd, rel=0.05)
    assert fit.rejected == pytest.approx(rejected, abs=0.01)


def test_a_judge_known_to_be_perfect_leaves_the_beta_posterior():
    fit = judged_accuracy((18, 20), (10**6, 10**6), (0, 10**6))
    exact = stats.beta(19, 3)
    assert fit.estimate("accuracy", 0.95).interval == pytest.approx(exact.interval(0.95), abs=0.01)


def test_the_prior_of_the_accuracy_is_uniform_given_the_judge():
    fit = judged_accuracy((0, 0), (900, 1000), (300, 1000))
    assert stats.kstest(fit.draws["accuracy"], "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(fit.draws["accuracy"], fit.draws["sensitivity"])[0, 1]) < 0.05


def test_against_quadrature_with_few_labels():
    # 2 right and 2 wrong items only: integrate the same density on a grid.
    test, right, wrong = (6, 9), (2, 2), (1, 2)
    nodes = (np.arange(100) + 0.5) / 100
    q0, q1, p = np.meshgrid(nodes, nodes, nodes, indexing="ij")
    density = (
        stats.beta(1.5, 1.5).pdf(q0)
        * stats.beta(2.5, 0.5).pdf(q1)
        * stats.beta(7, 4).pdf(p)
        * (1 - q0 <= p)
        * (p <= q1)
    )
    density *= q0 + q1 > 1
    theta = np.where(density > 0, (p + q0 - 1) / np.where(q0 + q1 == 1, 1, q0 + q1 - 1), 0)
    with pytest.warns(UserWarning, match="no better than chance"):
        fit = judged_accuracy(test, right, wrong, draws=40_000)
    # The grid is worth 0.003 here (twice the nodes an axis differ by that).
    assert fit.draws["accuracy"].mean() == pytest.approx((theta * density).sum() / density.sum(), abs=0.012)


@pytest.mark.parametrize(
    ("theta", "q0", "q1", "n", "wrong", "right"),
    [(0.3, 0.7, 0.9, 1000, 200, 200), (0.95, 0.85, 0.9, 200, 40, 40), (0.8, 0.9, 0.7, 60, 15, 25)],
)
def test_coverage_at_fixed_rates(theta, q0, q1, n, wrong, right):
    rng = np.random.default_rng(7)
    repeats, inside, level = 200, 0, 0.9
    for key in range(repeats):
        fit = quietly(
            (rng.binomial(n, theta * q1 + (1 - theta) * (1 - q0)), n),
            (rng.binomial(right, q1), right),
            (rng.binomial(wrong, 1 - q0), wrong),
            key=key,
            draws=300,
        )
        lower, upper = fit.estimate("accuracy", level).interval
        inside += lower <= theta <= upper
    # Near a border of [0, 1] the prior's mass inside makes it cover more. Standard error 0.021; 0.9 - 3.5 of them has a
    # false alarm of 2e-4.
    assert 0.826 < inside / repeats


def test_coverage_over_the_prior_is_the_level():
    # Parameters from the prior that the posterior has: three betas (here Jeffreys twice and flat), where possible.
    rng = np.random.default_rng(3)
    q0, q1, p = rng.beta(0.5, 0.5, 4000), rng.beta(0.5, 0.5, 4000), rng.uniform(size=4000)
    possible = np.flatnonzero((q0 + q1 > 1) & (1 - q0 <= p) & (p <= q1))[:300]
    inside = 0
    for i in possible:
        fit = quietly(
            (rng.binomial(25, p[i]), 25),
            (rng.binomial(8, q1[i]), 8),
            (rng.binomial(5, 1 - q0[i]), 5),
            key=int(i),
            draws=300,
        )
        lower, upper = fit.estimate("accuracy", 0.8).interval
        inside += lower <= (p[i] + q0[i] - 1) / (q0[i] + q1[i] - 1) <= upper
    # Standard error 0.023; 4 of them, false alarm 6e-5.
    assert inside / 300 == pytest.approx(0.8, abs=0.093)


def test_a_judge_near_chance_warns_and_knows_little():
    with pytest.warns(UserWarning, match="no better than chance"):
        fit = judged_accuracy((50, 100), (11, 20), (9, 20))
    assert fit.chance > 0.2
    assert fit.warnings
    lower, upper = fit.estimate("accuracy").interval
    assert upper - lower > 0.7


def test_test_items_that_the_judge_cannot_explain_warn():
    with pytest.warns(UserWarning, match="differently on test and labelled items"):
        fit = judged_accuracy((220, 1000), (180, 200), (60, 200))
    assert fit.rejected > 0.98
    assert fit.effective_draws > 500
    assert fit.estimate("accuracy").interval.upper < 0.1


def test_a_judge_worse_than_chance_is_refused():
    with pytest.raises(ValueError, match="worse than chance"):
        judged_accuracy((50, 100), (30, 5000), (4950, 5000))


@given(
    counts=st.tuples(*[st.integers(0, 30)] * 3),
    extra=st.tuples(*[st.integers(0, 30)] * 3),
)
def test_any_counts_give_a_share_or_say_why_not(counts, extra):
    pairs = [(s, s + f) for s, f in zip(counts, extra, strict=True)]
    (_, (positive, right), (false_positive, wrong)) = pairs
    assume(
        (positive + 0.5) / (right + 1) >= (false_positive + 0.5) / (wrong + 1)
    )  # judges worse than chance are refused
    fit = quietly(*pairs, draws=50)
    assert np.isfinite(fit.draws["accuracy"]).all()
    assert ((fit.draws["accuracy"] >= 0) & (fit.draws["accuracy"] <= 1)).all()
    assert 0 <= fit.rejected <= 1


# (pass rate, specificity, sensitivity, n, m0, m1, alpha) -> what llm_judge_reporting.confidence_interval returns
# (commit 082884d; the first row is the example of its README).
PUBLISHED = [
    ((0.4, 0.7, 0.9, 1000, 200, 200, 0.05), (0.05635072484160894, 0.2627330257859588)),
    ((0.5, 0.8, 0.8, 500, 100, 100, 0.05), (0.3799746588561528, 0.6200253411438469)),
    ((0.97, 0.9, 0.9, 1000, 200, 200, 0.05), (1.0, 1.0)),
    ((0.9, 0.6, 0.99, 10000, 1000, 1000, 0.01), (0.8273348478706124, 0.8686713102464316)),
    ((0.05, 0.9, 0.9, 1000, 200, 200, 0.05), (0.0, 0.0)),
    ((1.0, 1.0, 1.0, 50, 10, 10, 0.05), (0.9043143636617791, 1.0)),
]


@pytest.mark.parametrize(("rates", "published"), PUBLISHED)
def test_the_plug_in_interval_is_the_published_one(rates, published):
    p, q0, q1, n, m0, m1, alpha = rates
    got = plug_in_interval((round(p * n), n), (round(q1 * m1), m1), (round((1 - q0) * m0), m0), 1 - alpha)
    assert got == pytest.approx(published, abs=1e-9)


def test_where_the_published_interval_has_no_width_the_posterior_has_one():
    lower, upper = quietly((50, 1000), (180, 200), (20, 200)).estimate("accuracy", 0.95).interval
    assert 0 <= lower < upper
    assert 0.005 < upper < 0.1


@given(
    accuracy=st.floats(0.02, 0.98),
    specificity=st.floats(0.55, 0.99),
    sensitivity=st.floats(0.55, 0.99),
    budget=st.integers(2, 300),
)
def test_no_other_split_has_less_variance(accuracy, specificity, sensitivity, budget):
    split = label_split(budget, accuracy=accuracy, specificity=specificity, sensitivity=sensitivity)
    wrong = np.arange(1, budget)
    variance = (1 - accuracy) ** 2 * specificity * (1 - specificity) / wrong + accuracy**2 * sensitivity * (
        1 - sensitivity
    ) / (budget - wrong)
    assert sum(split) == budget
    # Rounding the real optimum may miss the best whole number by one.
    assert np.abs(wrong[variance.argmin()] - split.wrong) <= 1


def test_results_export_and_plot(tmp_path):
    fit = judged_accuracy((400, 1000), (180, 200), (60, 200), draws=1000)
    assert list(fit.summary().index) == ["accuracy", "specificity", "sensitivity", "pass_rate"]
    assert fit.to_arviz()["posterior"]["accuracy"].shape == (4, 250)
    fit.plot_correction().savefig(tmp_path / "correction.png")
    same = judged_accuracy((400, 1000), (180, 200), (60, 200), draws=1000)
    assert (same.draws["accuracy"] == fit.draws["accuracy"]).all()


@pytest.mark.parametrize(
    ("pairs", "options", "message"),
    [
        (((3, 2), (1, 1), (0, 1)), {}, r"test: .yes, of. with whole 0 <= yes <= of is wanted, got .3, 2."),
        (((1, 2), (1, 1), (-1, 1)), {}, "wrong_items: .* got .-1, 1."),
        (((1, 2), (1, 1), (0, 1)), {"prior": (0, 1.0)}, "prior: both parameters"),
        (((1, 2), (1, 1), (0, 1)), {"draws": 0}, "draws: at least 1"),
    ],
)
def test_bad_counts_are_named(pairs, options, message):
    with pytest.raises(ValueError, match=message):
        judged_accuracy(*pairs, **options)


def test_bad_calls_of_the_formulas_are_named():
    with pytest.raises(ValueError, match="right_items: at least one item"):
        plug_in_interval((1, 2), (0, 0), (0, 1))
    with pytest.raises(ValueError, match="chance or worse"):
        plug_in_interval((1, 2), (5, 10), (5, 10))
    with pytest.raises(ValueError, match="level: must be in"):
        plug_in_interval((1, 2), (5, 10), (1, 10), 1.0)
    with pytest.raises(ValueError, match="budget: at least 2"):
        label_split(1, accuracy=0.5, specificity=0.9, sensitivity=0.9)
    with pytest.raises(ValueError, match="sensitivity: a rate inside"):
        label_split(10, accuracy=0.5, specificity=0.9, sensitivity=1.0)
