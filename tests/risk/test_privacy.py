import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from matplotlib.figure import Figure
from scipy import optimize, special, stats

from ppl.risk.privacy import epsilon, epsilon_from_rates, epsilon_interval, epsilon_per_model

EXAMPLE = (487, 1, 512, 0, 1e-5)  # TP, TN, FP, FN, delta of the paper's code


def mass_below(end, tp, tn, fp, fn, delta, num=8_001):
    """Posterior mass of epsilon <= end, by quadrature over the FNR of the exact mass of the FPR in the region."""
    nodes = (np.arange(num) + 0.5) / num
    fnr, not_fnr = special.betaincinv(0.5 + fn, 0.5 + tp, nodes), special.betaincinv(0.5 + tp, 0.5 + fn, 1 - nodes)
    edges = [
        np.maximum(0, np.maximum(1 - delta - np.exp(end) * rate, np.exp(-end) * (1 - delta - rate)))
        for rate in (fnr, not_fnr)
    ]
    a, b = 0.5 + fp, 0.5 + tn
    return np.mean(np.maximum(special.betaincc(b, a, edges[1]) - special.betainc(a, b, edges[0]), 0))


def test_the_interval_is_that_of_quadrature_and_of_the_paper():
    result = epsilon(*EXAMPLE)
    # The sd of the mass below a drawn 5% quantile is sqrt(.05 * .95 / 1e6) = 2.2e-4; 5 of them, false alarm 1e-6.
    assert [mass_below(end, *EXAMPLE) for end in result.interval] == pytest.approx([0.05, 0.95], abs=1.1e-3)
    exact = [optimize.brentq(lambda end, q=q: mass_below(end, *EXAMPLE) - q, 0, 20) for q in (0.05, 0.95)]
    assert exact == pytest.approx([0.1439, 6.4156], abs=1e-3)
    # Printed: 0.145 and 6.399, from a root search to 1e-2 on masses to 5e-3.
    assert exact == pytest.approx([0.145, 6.399], abs=0.02)


@pytest.mark.parametrize("counts", [(90, 40, 3, 12, 0.01), (5, 700, 9, 31, 0.0), (0, 3, 0, 8, 0.1)])
def test_asymmetric_counts_have_the_interval_of_quadrature(counts):
    lower, upper = epsilon(*counts, level=0.8, key=3).interval
    # 3e-4 is the sd of the mass at 1e6 draws; below 0 there is none, and the mass at 0 may exceed 10%.
    assert mass_below(upper, *counts) == pytest.approx(0.9, abs=2e-3)
    assert mass_below(lower, *counts) == pytest.approx(max(0.1, mass_below(0.0, *counts)), abs=2e-3)


def test_both_methods_have_one_posterior():
    beta, dirichlet = (
        epsilon(20, 30, 5, 2, 1e-3, method=method, draws=1_000) for method in ("joint_beta", "dirichlet")
    )
    for name in ("epsilon", "fnr", "fpr"):
        assert dirichlet.draws[name] == pytest.approx(beta.draws[name], rel=1e-5, abs=1e-6)


def test_draws_come_in_chunks_without_repeating():
    draws = epsilon(*EXAMPLE, draws=1_000_003).draws["epsilon"]
    assert draws.shape == (1_000_003,)
    assert np.unique(draws[[0, -1]]).size == 2
    assert np.isfinite(draws).all()


@given(fnr=st.floats(0, 1), fpr=st.floats(0, 1), delta=st.sampled_from([0.0, 1e-5, 0.1, 0.7]))
def test_epsilon_is_the_smallest_whose_region_holds_the_rates(fnr, fpr, delta):
    def allowed(value):
        pairs = [(fpr, fnr), (fnr, fpr), (1 - fpr, 1 - fnr), (1 - fnr, 1 - fpr)]
        return all(one + np.exp(value) * other >= 1 - delta - 1e-12 for one, other in pairs)

    value = epsilon_from_rates(fnr, fpr, delta)
    assert value >= 0
    assert value == pytest.approx(float(epsilon_from_rates(fpr, fnr, delta)), rel=1e-9, abs=1e-12)
    if np.isinf(value):
        assert not allowed(30.0)
    elif value < 30:  # beyond, the condition is a difference of numbers near 1
        assert allowed(value + 1e-6)
        assert value < 1e-6 or not allowed(value - 1e-4)


def test_rates_at_the_corners():
    corners = np.array([[0.0, 1.0, 0.0, 1.0, 0.5], [0.0, 1.0, 1.0, 0.0, 0.5]])
    assert np.array_equal(epsilon_from_rates(corners[0], corners[1], 0.0), [np.inf, np.inf, 0.0, 0.0, 0.0])
    assert epsilon_from_rates(0.3, 0.1, 0.0) == pytest.approx(np.log(7))
    assert epsilon_from_rates(0.9, 0.7, 0.0) == pytest.approx(np.log(7))  # the opposite guess
    assert epsilon_from_rates(0.0, 0.95, 0.1) == 0


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_coverage_and_ranks_over_the_prior(seed):
    # delta 0, so that epsilon has no atom and ranks are uniform. Members and others in unequal numbers.
    rng = np.random.default_rng(seed)
    ranks = []
    for i in range(300):
        fnr, fpr = rng.beta(0.5, 0.5, 2)
        fn, fp = rng.binomial(80, fnr), rng.binomial(25, fpr)
        draws = epsilon(80 - fn, 25 - fp, fp, fn, 0.0, draws=999, key=i).draws["epsilon"]
        ranks.append(np.mean(draws < epsilon_from_rates(fnr, fpr, 0.0)))
    ranks = np.array(ranks)
    for level in (0.5, 0.9):
        inside = np.mean(np.abs(ranks - 0.5) < level / 2)
        assert inside == pytest.approx(level, abs=4 * np.sqrt(level * (1 - level) / 300))  # false alarm 6e-5
    counts = np.histogram(ranks, bins=10, range=(0, 1))[0]
    assert stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize(("fnr", "fpr"), [(0.02, 0.3), (0.4, 0.05), (0.93, 0.9)])
def test_coverage_at_fixed_asymmetric_rates(fnr, fpr):
    rng = np.random.default_rng(4)
    truth = epsilon_from_rates(fnr, fpr, 1e-5)
    inside = []
    for i in range(300):
        fn, fp = rng.binomial(400, fnr), rng.binomial(150, fpr)
        lower, upper = epsilon(400 - fn, 150 - fp, fp, fn, 1e-5, draws=1_000, key=i).interval
        inside.append(lower <= truth <= upper)
    # 0.90, 0.89 and 0.90 here. At one truth it need not be 0.9 exactly; 4 standard errors of 0.017 on both sides.
    assert 0.83 < np.mean(inside) < 0.97


def test_at_equal_rates_the_posterior_is_too_high_and_clopper_pearson_is_not():
    rng = np.random.default_rng(6)
    truth, above = epsilon_from_rates(0.12, 0.12, 1e-5), []
    for i in range(400):
        fn, fp = rng.binomial(500, 0.12, size=2)
        counts = (500 - fn, 500 - fp, fp, fn, 1e-5)
        posterior = epsilon(*counts, draws=1_000, key=i).interval
        above.append([posterior.lower > truth, epsilon_interval(*counts).lower > truth])
    # 0.17 at 2,000 repetitions, as the docstring says; 0.05 would be right, and 4 standard errors are 0.075 (6e-5).
    assert np.mean(above, axis=0)[0] == pytest.approx(0.17, abs=0.075)
    assert np.mean(above, axis=0)[1] < 0.05


def test_intervals_of_single_rates():
    assert epsilon_interval(*EXAMPLE) == (0.0, np.inf)  # as the paper's code prints
    assert epsilon_interval(*EXAMPLE, method="jeffreys") == (0.0, np.inf)
    lower, upper = epsilon_interval(90, 80, 20, 10, 0.0, level=0.9)
    ends = [stats.binomtest(wrong, 100).proportion_ci(0.95, method="exact") for wrong in (10, 20)]
    assert upper == pytest.approx(np.log((1 - ends[1].low) / ends[0].low))
    assert lower == pytest.approx(np.log((1 - ends[1].high) / ends[0].high))
    mirrored = epsilon_interval(10, 20, 80, 90, 0.0, level=0.9)  # the opposite guess says the same
    assert mirrored == pytest.approx((lower, upper))
    narrow = epsilon_interval(90, 80, 20, 10, 0.0, level=0.9, method="jeffreys")
    assert lower < narrow.lower < narrow.upper < upper
    assert epsilon_interval(0, 0, 0, 0, 0.0) == (0.0, np.inf)


def test_clopper_pearson_covers_at_least_its_level():
    fnr, fpr, num = 0.1, 0.35, 12
    inside = 0.0
    for fn in range(num + 1):
        for fp in range(num + 1):
            lower, upper = epsilon_interval(num - fn, num - fp, fp, fn, 0.0, level=0.8)
            chance = stats.binom.pmf(fn, num, fnr) * stats.binom.pmf(fp, num, fpr)
            inside += chance * (lower <= epsilon_from_rates(fnr, fpr, 0.0) <= upper)
    assert inside >= 0.8


def test_one_guess_a_model_is_the_plain_posterior():
    fn, tp = np.repeat([1, 0, 0], [9, 51, 40]), np.repeat([0, 1, 0], [9, 51, 40])
    fp, tn = np.repeat([0, 1, 0], [60, 4, 36]), np.repeat([0, 0, 1], [60, 4, 36])
    result = epsilon_per_model(tp, tn, fp, fn, 1e-5, draws=100_000)
    counts = (51, 36, 4, 9, 1e-5)
    # 5 sd of the mass at 1e5 draws is 3.4e-3; the grid adds less.
    assert [mass_below(end, *counts) for end in result.interval] == pytest.approx([0.05, 0.95], abs=6e-3)


def test_guesses_at_one_model_are_not_counted_as_independent():
    # Models that leak more have both rates low. 12 of them, 20 guesses of either kind each.
    rng = np.random.default_rng(5)
    truth, level, inside = epsilon_from_rates(0.2, 0.4, 1e-5), 0.9, []
    ranks = stats.norm.cdf(rng.normal(size=(60, 12)))
    fn = rng.binomial(20, stats.beta(0.8, 3.2).ppf(ranks))
    fp = rng.binomial(20, stats.beta(1.6, 2.4).ppf(ranks))
    for i in range(60):
        cells = (20 - fn[i], 20 - fp[i], fp[i], fn[i])
        per_model = epsilon_per_model(*cells, 1e-5, draws=500, key=i, level=level).interval
        tp, tn, false_positives, false_negatives = (int(cell.sum()) for cell in cells)
        pooled = epsilon(tp, tn, false_positives, false_negatives, 1e-5, draws=500, key=i, level=level).interval
        inside.append([lower <= truth <= upper for lower, upper in (per_model, pooled)])
    # 0.92 and 0.46 at 300 repetitions; the standard errors here are 0.035 and 0.065.
    assert np.mean(inside, axis=0)[0] > 0.78
    assert np.mean(inside, axis=0)[1] < 0.72


def test_zero_and_huge_counts():
    prior = epsilon(0, 0, 0, 0, 0.0, draws=100_000)
    assert [mass_below(end, 0, 0, 0, 0, 0.0) for end in prior.interval] == pytest.approx([0.05, 0.95], abs=5e-3)
    perfect = epsilon(10**9, 10**9, 0, 0, 1e-5, draws=10_000)
    assert 18 < perfect.interval.lower < perfect.interval.upper < 35
    useless = epsilon(10**9, 0, 10**9, 0, 1e-5, draws=10_000)  # always says "member"
    assert np.isfinite(useless.draws["epsilon"]).all()
    assert epsilon_per_model([5, 0], [5, 0], [0, 0], [0, 0], 1e-5, draws=1_000).interval.upper < 40


def test_results_are_summarised_exported_and_plotted():
    result = epsilon_per_model([3, 4, 2], [5, 4, 3], [1, 1, 2], [0, 1, 2], 1e-5, draws=400)
    assert list(result.summary().index) == ["epsilon", "fnr", "fpr", "fnr_correlation", "fpr_correlation"]
    data = result.to_arviz()
    assert data["log_likelihood"]["guesses"].shape == (4, 100, 3)
    assert data["observed_data"]["tp"].values.tolist() == [3, 4, 2]
    assert epsilon(3, 4, 1, 0, 0.0, draws=100).to_arviz()["observed_data"]["counts"].values.tolist() == [0, 3, 1, 4]
    for figure in (result.plot_epsilon(), result.plot_region(), result.plot_posterior()):
        assert isinstance(figure, Figure)


@pytest.mark.parametrize(
    ("counts", "options", "message"),
    [
        ((-1, 1, 1, 1, 0.0), {}, "tp: -1; whole numbers from 0 up"),
        ((1, 1.5, 1, 1, 0.0), {}, "tn: 1.5; whole"),
        ((1, 1, float("nan"), 1, 0.0), {}, "fp: nan; whole"),
        ((1, 1, 1, 1, 1.0), {}, r"delta: must be in \[0, 1\), got 1.0"),
        ((1, 1, 1, 1, -0.1), {}, "delta: must be in"),
        ((1, 1, 1, 1, 0.0), {"level": 1.0}, "level: must be in"),
        ((1, 1, 1, 1, 0.0), {"draws": 0}, "draws: at least 1"),
    ],
)
def test_bad_input_is_named(counts, options, message):
    with pytest.raises(ValueError, match=message):
        epsilon(*counts, **options)


def test_bad_input_of_the_others_is_named():
    with pytest.raises(ValueError, match="fnr: rates in .0, 1. are wanted, got 1.2"):
        epsilon_from_rates(1.2, 0.1, 0.0)
    with pytest.raises(ValueError, match="fn: row 1 has -2; whole"):
        epsilon_per_model([1, 1], [1, 1], [1, 1], [1, -2], 0.0)
    with pytest.raises(ValueError, match="fp: one count for each model"):
        epsilon_per_model([1, 1], [1, 1], [1], [1, 1], 0.0)
    with pytest.raises(ValueError, match="tp: one count for each model is wanted, got shape"):
        epsilon_per_model([], [], [], [], 0.0)
    with pytest.raises(ValueError, match="delta: must be in"):
        epsilon_interval(1, 1, 1, 1, 1.5)
