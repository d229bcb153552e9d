import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy import stats

from ppl.risk.conformal import conformalize

LEVELS = np.array([0.05, 0.25, 0.5, 0.75, 0.95])


def forecasts(rng, rows):
    """Skewed errors around forecasts that are too narrow and too low, of sizes that differ by a factor of 100."""
    size = np.exp(rng.uniform(0, np.log(100), rows))
    q = size[:, None] * 0.4 * stats.norm.ppf(LEVELS)
    return q, size * (rng.gamma(1.5, size=rows) - 1), size


@pytest.mark.parametrize("seed", [0, 1])
def test_two_sided_intervals_cover_as_stated_on_average(seed):
    # An odd number of calibration forecasts; 150 repetitions of 50 held-out ones.
    rng, inside = np.random.default_rng(seed), []
    for _ in range(150):
        q, y, size = forecasts(rng, 79)
        fit = conformalize(q, y, LEVELS, scale=size, draws=1)
        q, y, size = forecasts(rng, 50)
        moved = fit.apply(q, size)
        inside.append(
            [np.mean((moved[:, 0] <= y) & (y <= moved[:, 4])), np.mean((moved[:, 1] <= y) & (y <= moved[:, 3]))]
        )
        assert moved[:, 2] == pytest.approx(q[:, 2])
    # Exactly ceil(80 c) / 80: 72 and 40 of 80. Standard error over repetitions below 0.005, 5 of them (1e-6).
    assert np.mean(inside, axis=0) == pytest.approx([0.9, 0.5], abs=5 * np.std(inside, axis=0).max() / np.sqrt(150))


def test_each_side_for_itself_covers_where_errors_are_skewed():
    rng, below = np.random.default_rng(2), []
    for _ in range(150):
        q, y, size = forecasts(rng, 99)
        fit = conformalize(q, y, LEVELS, sides="one", scale=size, draws=1)
        q, y, size = forecasts(rng, 50)
        below.append(np.mean(y[:, None] <= fit.apply(q, size), axis=0))
    assert np.mean(below, axis=0) == pytest.approx(LEVELS, abs=5 * np.std(below, axis=0).max() / np.sqrt(150))


def test_coverage_given_the_calibration_set_has_the_beta_law():
    # One-sided on uniform errors, so that the coverage of a fit is its offset itself.
    rng = np.random.default_rng(3)
    coverage = [
        conformalize(np.zeros((30, 1)), rng.uniform(size=30), [0.8], sides="one", draws=1).offsets[0]
        for _ in range(400)
    ]
    fit = conformalize(np.zeros((30, 1)), rng.uniform(size=30), [0.8], sides="one", draws=20_000)
    law = stats.beta(25, 6)  # the 25th of 30
    assert stats.kstest(coverage, law.cdf).pvalue > 1e-4
    assert stats.kstest(fit.draws["coverage"][:, 0], law.cdf).pvalue > 1e-4


def test_offsets_are_the_order_statistics():
    y = np.arange(1.0, 20.0)  # 19 scores: ranks ceil(20 c)
    fit = conformalize(np.zeros((19, 2)), y, [0.05, 0.95], draws=1)
    assert fit.offsets.tolist() == [-18.0, 18.0]
    fit = conformalize(np.zeros((19, 2)), y, [0.05, 0.95], sides="one", draws=1)
    assert fit.offsets.tolist() == [1.0, 19.0]  # inwards on the lower side
    assert fit.apply(np.array([[1.0, 2.0]]), np.array([2.0])).tolist() == [[3.0, 40.0]]


def test_results_are_summarised_exported_and_plotted():
    fit = conformalize(*forecasts(np.random.default_rng(4), 60)[:2], LEVELS, draws=40)
    assert list(fit.summary().index) == ["coverage[0.9]", "coverage[0.5]"]
    assert fit.to_arviz()["posterior"]["coverage"].shape == (4, 10, 2)
    assert isinstance(fit.plot_coverage(), Figure)


Q, Y, _ = forecasts(np.random.default_rng(5), 8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: conformalize(Q, Y, LEVELS), "observed: coverage 0.9 wants at least 9 calibration forecasts, got 8"),
        (
            lambda: conformalize(Q[:, :2], Y, LEVELS[:2]),
            "levels: two sides need the mirror image of each, 1 - level; 0.05",
        ),
        (lambda: conformalize(Q[:, 1:4], Y, LEVELS[1:4], scale=np.zeros(8)), "scale: row 0 has 0; a positive number"),
        (lambda: conformalize(Q[:, 1:4], Y, LEVELS[1:4], scale=np.ones(7)), "scale: one for each of 8 forecasts"),
        (lambda: conformalize(Q[:, 1:4], Y, LEVELS[1:4], draws=0), "draws: at least 1"),
        (lambda: conformalize(Q[:, 1:4], Y, LEVELS[1:4]).apply(Q), "predicted: finite numbers .rows, 3 levels"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
