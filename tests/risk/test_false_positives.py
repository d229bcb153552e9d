import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy import integrate, special, stats

from ppl.risk.false_positives import checked_positives, false_share_trend

# Wang et al. (2025), arXiv 2502.06217: counts of AIME problems (90 in all), read by people.
N = np.array([4, 16, 64, 256])
LLAMA = np.array([14, 13, 13, 13]), np.array([25, 27, 26, 28])
QWEN = np.array([3, 2, 4, 6]), np.array([21, 28, 29, 32])
QWEN_PASS = np.array([2, 8, 17]), np.array([21, 37, 48])


def slope_moments(wrong, accepted, budgets, scale):
    """Mean of the slope and P(slope > 0) by adaptive quadrature."""
    x = np.log2(budgets) - np.log2(budgets).mean()

    def density(b, a):
        eta = a + b * x
        data = wrong @ special.log_expit(eta) + (accepted - wrong) @ special.log_expit(-eta)
        return np.exp(data + special.log_expit(a) + special.log_expit(-a) - 0.5 * (b / scale) ** 2 + peak)

    peak = 0.0
    peak = -np.log(max(density(b, a) for a in np.linspace(-6, 4, 41) for b in np.linspace(-1.5, 1.5, 61)))
    options = {"opts": {"epsabs": 1e-8, "epsrel": 1e-6}}
    whole, above, first = (
        integrate.nquad(f, [[low, 3], [-12, 8]], **options)[0]
        for f, low in ((density, -3), (density, 0), (lambda b, a: b * density(b, a), -3))
    )
    return first / whole, above / whole


@pytest.mark.parametrize(("counts", "budgets"), [(QWEN, N), (QWEN_PASS, N[:3])])
def test_the_trend_is_the_quadrature(counts, budgets):
    result = false_share_trend(*counts, budgets, draws=20_000, key=1)
    mean, growing = slope_moments(*counts, budgets, 0.5)
    slope = result.draws["slope"]
    # 5 Monte Carlo standard errors; the grid's own error is below 1e-4.
    assert slope.mean() == pytest.approx(mean, abs=5 * slope.std() / np.sqrt(20_000) + 1e-4)
    assert result.growing == pytest.approx(growing, abs=5 * 0.5 / np.sqrt(20_000) + 1e-4)


def test_what_people_found_on_aime():
    growing = [false_share_trend(*counts, N[: len(counts[0])]).growing for counts in (LLAMA, QWEN, QWEN_PASS)]
    # Best-of-N: no evidence of growth. pass@N: the share grows with the number of candidates.
    assert growing[0] < 0.5
    assert 0.5 < growing[1] < 0.9
    assert growing[2] > 0.98
    checked = checked_positives(*LLAMA, np.full(4, 90), groups=N.tolist())
    for (wrong, accepted), mean in zip(zip(*LLAMA, strict=True), checked.estimate("accuracy").mean, strict=True):
        expected = (accepted + 0.5) / 91 * (accepted - wrong + 0.5) / (accepted + 1)
        assert mean == pytest.approx(expected, abs=0.004)  # 5 standard errors of a draw's .04 at 4,000 draws


def test_no_answers_leave_the_prior():
    result = false_share_trend(np.zeros(2, int), np.zeros(2, int), np.array([1, 2]), draws=20_000)
    middle = special.expit(special.logit(result.draws["share"]).mean(axis=1))
    for q in (0.1, 0.5, 0.9):
        # 5 standard errors of .0034, and what the grid cuts off of the prior.
        assert np.mean(middle < q) == pytest.approx(q, abs=0.02)
    assert result.draws["slope"].std() == pytest.approx(0.5, rel=0.05)
    assert result.growing == pytest.approx(0.5, abs=0.02)


def test_thousands_of_answers():
    accepted = np.array([50_000, 80_000, 60_000])
    share = special.expit(-2 + 0.1 * np.arange(3))
    result = false_share_trend(np.rint(accepted * share).astype(int), accepted, np.array([1, 2, 4]))
    lower, upper = result.estimate("slope").interval
    assert lower < 0.1 < upper
    assert upper - lower < 0.05
    np.testing.assert_allclose(result.estimate("share").mean, share, atol=0.003)


def test_coverage_of_the_trend():
    rng = np.random.default_rng(3)
    repeats, x = 150, np.array([-3.0, -1.0, 1.0, 3.0])
    inside, ranks = np.zeros(repeats), np.zeros(repeats)
    for i in range(repeats):
        slope, level = 0.5 * rng.normal(), special.logit(rng.uniform())
        accepted = rng.integers(5, 40, 4)
        wrong = rng.binomial(accepted, special.expit(level + slope * x))
        result = false_share_trend(wrong, accepted, N, draws=500, key=i)
        lower, upper = result.estimate("slope").interval
        inside[i], ranks[i] = lower <= slope <= upper, np.mean(result.draws["slope"] < slope)
    # Drawn from the prior, so coverage is the level: 4 standard errors of .0245 (6e-5), and uniform ranks.
    assert abs(inside.mean() - 0.9) < 4 * 0.0245
    assert stats.kstest(ranks, "uniform").pvalue > 1e-4


def test_coverage_of_the_checked_accuracy():
    rng = np.random.default_rng(5)
    groups, rate, share = 800, 0.35, 0.2
    accepted = rng.binomial(90, rate, groups)
    result = checked_positives(rng.binomial(accepted, share), accepted, np.full(groups, 90), draws=300)
    for name, truth in {"accuracy": rate * (1 - share), "false_share": share}.items():
        lower, upper = result.estimate(name).interval
        # 4 standard errors of .0106, and .02 for the oscillation of Jeffreys' coverage.
        assert abs(np.mean((lower <= truth) & (truth <= upper)) - 0.9) < 0.02 + 4 * 0.0106


def test_zero_and_all():
    none = checked_positives(np.array([0]), np.array([0]), np.array([0]))
    assert none.estimate("false_share").interval.upper[0] > 0.98
    everything = checked_positives(np.array([30]), np.array([30]), np.array([30]))
    assert everything.estimate("accuracy").interval.upper[0] < 0.1
    trend = false_share_trend(np.array([0, 0, 0]), np.array([20, 30, 40]), np.array([1, 8, 64]))
    assert np.isfinite(trend.draws["slope"]).all()
    assert trend.estimate("share").interval.upper.max() < 0.25


def test_arviz_and_plots():
    trend = false_share_trend(*QWEN, N, draws=400)
    likelihood = trend.to_arviz()["log_likelihood"]["false_positives"].to_numpy().reshape(400, 4)
    np.testing.assert_allclose(likelihood, stats.binom.logpmf(*QWEN, trend.draws["share"]), rtol=1e-9)
    assert isinstance(trend.plot_share(), Figure)
    checked = checked_positives(*QWEN, np.full(4, 90), groups=N.tolist())
    assert isinstance(checked.plot_accuracy(), Figure)
    assert "accuracy[256]" in checked.summary().index


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: checked_positives(np.array([3]), np.array([2]), np.array([5])),
            "false_positives: .* row 0 has 3 of 2",
        ),
        (lambda: checked_positives(np.array([1]), np.array([6]), np.array([5])), "accepted: .* row 0 has 6 of 5"),
        (lambda: checked_positives(*QWEN, np.full(4, 90), groups=["a"]), "groups: 4 labels are wanted, got 1"),
        (lambda: false_share_trend(*QWEN, np.array([4, 4, 4, 4])), "budgets: a trend wants two different"),
        (lambda: false_share_trend(*QWEN, np.array([4, 0, 4, 4])), "budgets: row 1 has 0"),
        (lambda: false_share_trend(*QWEN, N, slope_scale=0.0), "positive"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
