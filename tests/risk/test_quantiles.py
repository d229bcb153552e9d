from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis.extra import numpy as hnp
from matplotlib.figure import Figure
from scipy import optimize, stats

from ppl.risk.quantiles import (
    isotonic_quantiles,
    pinball_loss,
    score,
    sort_quantiles,
    weighted_interval_score,
)

LEVELS = np.array([0.05, 0.25, 0.5, 0.75, 0.95])
FORECASTS = Path(__file__).resolve().parents[2] / "examples" / "data" / "covid-quantile" / "forecasts.csv"


def interval_score(lower, upper, y, alpha):
    return upper - lower + 2 / alpha * np.maximum(lower - y, 0) + 2 / alpha * np.maximum(y - upper, 0)


@pytest.mark.parametrize("levels", [LEVELS, np.array([0.1, 0.3, 0.7, 0.9]), np.array([0.5])])
def test_wis_is_the_weighted_sum_of_interval_scores(levels):
    rng = np.random.default_rng(0)
    q, y = rng.normal(size=(50, len(levels))), rng.normal(size=50)  # crossing, too
    half, median = len(levels) // 2, len(levels) % 2
    total = (
        sum(levels[i] * interval_score(q[:, i], q[:, -1 - i], y, 2 * levels[i]) for i in range(half))
        + median * np.abs(y - q[:, half]) / 2
    )
    assert weighted_interval_score(q, y, levels) == pytest.approx(total / (half + median / 2))


def test_the_quantile_has_the_least_mean_pinball_loss():
    y = np.random.default_rng(1).gamma(0.7, size=2_001)
    for level in (0.1, 0.5, 0.9):
        candidates = np.quantile(y, np.linspace(0.01, 0.99, 99))
        losses = [pinball_loss(np.full((len(y), 1), q), y, [level]).mean() for q in candidates]
        assert np.linspace(0.01, 0.99, 99)[np.argmin(losses)] == pytest.approx(level)


@pytest.mark.parametrize(
    ("target", "model", "wis", "half"),
    [
        ("Cases", "EuroCOVIDhub-ensemble", 17943.824, 0.391),
        ("Cases", "EuroCOVIDhub-baseline", 28483.575, 0.328),
        ("Cases", "epiforecasts-EpiNow2", 20831.557, 0.469),
        ("Deaths", "EuroCOVIDhub-ensemble", 41.422, 0.875),
        ("Deaths", "EuroCOVIDhub-baseline", 159.404, 0.664),
        ("Deaths", "UMass-MechBayes", 52.652, 0.461),
        ("Deaths", "epiforecasts-EpiNow2", 66.643, 0.420),
    ],
)
def test_published_scores_of_covid_forecasts(target, model, wis, half):
    data = pd.read_csv(FORECASTS)
    data = data[(data["target_type"] == target) & (data["model"] == model)]
    levels = [name for name in data.columns if name.startswith("0.")]
    result = score(data[levels].to_numpy(), data["observed"].to_numpy(), np.array(levels, dtype=float), draws=10)
    assert result.means["wis"] == pytest.approx(wis, abs=6e-4)
    assert result.coverage(0.5) == pytest.approx(half, abs=6e-4)


def test_the_parts_sum_to_the_score():
    rng = np.random.default_rng(2)
    q, y = np.sort(rng.normal(size=(30, 5)), axis=1), rng.normal(size=30) * 2
    result = score(q, y, LEVELS, draws=50)
    parts = ("dispersion", "overprediction", "underprediction")
    assert sum(result.draws[name] for name in parts) == pytest.approx(result.draws["wis"])
    high = score(q + 100, y, LEVELS, draws=5).means
    assert high["underprediction"] == 0
    # All levels above: the loss of each is (1 - tau) (q - y).
    assert high["wis"] == pytest.approx(2 * np.mean((1 - LEVELS) * (q + 100 - y[:, None])))
    assert high["dispersion"] == pytest.approx(result.means["dispersion"])


@pytest.mark.parametrize("clustered", [False, True])
def test_the_interval_of_the_mean_score_covers(clustered):
    rng, inside = np.random.default_rng(3), []
    z = stats.norm.ppf(LEVELS)
    grid = stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000) * 1.5
    truth = weighted_interval_score(np.broadcast_to(z, (len(grid), 5)), grid, LEVELS).mean()
    label = np.repeat(np.arange(40), 4)
    for i in range(200):
        # sd 1.5 where 1 is forecast; four forecasts of a cluster share their error if clustered.
        y = 1.5 * (rng.normal(size=40)[label] if clustered else rng.normal(size=160))
        result = score(np.broadcast_to(z, (160, 5)), y, LEVELS, clusters=label if clustered else None, draws=500, key=i)
        lower, upper = result.estimate("wis").interval
        inside.append(lower <= truth <= upper)
    # About 0.88 at 40 skewed clusters; the standard error is 0.02, four of them on both sides.
    assert 0.79 < np.mean(inside) < 0.98


crossing_rows = hnp.arrays(
    np.float64, (4, 5), elements=st.floats(-100, 100, allow_nan=False).map(lambda x: round(x, 3))
)


@given(q=crossing_rows, y=hnp.arrays(np.float64, 4, elements=st.floats(-120, 120)))
def test_repair_is_rising_and_never_increases_the_score(q, y):
    before = pinball_loss(q, y, LEVELS).sum(axis=1)
    for repair in (sort_quantiles, isotonic_quantiles):
        repaired = repair(q)
        assert (np.diff(repaired, axis=1) >= 0).all()
        assert (pinball_loss(repaired, y, LEVELS).sum(axis=1) <= before + 1e-9).all()
        assert repair(repaired) == pytest.approx(repaired)
        rising = np.sort(q, axis=1)
        assert np.array_equal(repair(rising), rising)


def test_isotonic_is_that_of_scipy():
    q = np.random.default_rng(4).normal(size=(300, 23)) + np.linspace(0, 2, 23)
    expected = np.stack([optimize.isotonic_regression(row).x for row in q])
    assert isotonic_quantiles(q) == pytest.approx(expected, abs=1e-12)
    assert isotonic_quantiles(np.empty((0, 23))).shape == (0, 23)
    assert isotonic_quantiles(q[:, :1]) == pytest.approx(q[:, :1])


def test_scores_are_summarised_exported_and_plotted():
    rng = np.random.default_rng(5)
    result = score(np.sort(rng.normal(size=(30, 5)), axis=1), rng.normal(size=30), LEVELS, draws=40)
    assert "interval_coverage[0.9]" in result.summary().index
    assert "quantile_coverage[0.25]" in result.summary().index
    assert result.to_arviz()["posterior"]["wis"].shape == (4, 10)
    assert isinstance(result.plot_coverage(), Figure)
    with pytest.raises(ValueError, match=r"central: one of 0.9, 0.5 is wanted, got 0.8"):
        result.coverage(0.8)


ROW = np.array([[1.0, 2.0, 3.0]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pinball_loss(ROW, np.array([1.0]), [0.1, 0.5]), "predicted: 1 rows and 2 levels are wanted"),
        (lambda: pinball_loss(ROW, np.array([1.0, 2.0]), [0.1, 0.5, 0.9]), "predicted: 2 rows"),
        (lambda: pinball_loss(ROW, np.array([np.nan]), [0.1, 0.5, 0.9]), "observed: row 0 has nan"),
        (lambda: pinball_loss(ROW * np.inf, np.array([1.0]), [0.1, 0.5, 0.9]), "predicted: row 0 has inf"),
        (lambda: pinball_loss(ROW, np.array([1.0]), [0.5, 0.1, 0.9]), "levels: rising numbers in"),
        (lambda: pinball_loss(ROW, np.array([1.0]), [0.0, 0.1, 0.9]), "levels: rising numbers in"),
        (lambda: pinball_loss(np.empty((0, 3)), np.empty(0), [0.1, 0.5, 0.9]), "observed: at least one forecast"),
        (lambda: weighted_interval_score(ROW, np.array([1.0]), [0.1, 0.5, 0.8]), "levels: each needs its mirror image"),
        (lambda: score(ROW, np.array([1.0]), [0.1, 0.5, 0.9]), "clusters: at least two are wanted, got 1"),
        (lambda: score(ROW, np.array([1.0]), [0.1, 0.5, 0.9], draws=0), "draws: at least 1"),
        (lambda: score(ROW, np.array([1.0]), [0.1, 0.5, 0.9], clusters=[1, 2]), "clusters: a label for each of 1"),
        (lambda: isotonic_quantiles(np.array([[1.0, np.nan]])), "predicted: row 0 has nan"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
