import itertools

import numpy as np
import pytest

from ppl.calibration import (
    brier_score,
    expected_calibration_error,
    holm,
    rank_band,
    rank_counts,
    rank_p_value,
    reliability_bins,
)
from ppl.intervals import beta_interval

PROBABILITY = np.array([0.0, 0.05, 0.2, 0.25, 0.25, 1.0])
OUTCOME = np.array([0, 1, 0, 1, 0, 1])


def test_the_score_is_the_mean_squared_distance():
    assert brier_score(PROBABILITY, OUTCOME) == pytest.approx((0 + 0.95**2 + 0.04 + 0.75**2 + 0.0625 + 0) / 6)
    assert brier_score(np.full(4, 0.5), np.array([True, False, True, True])) == 0.25


def test_bins_hold_every_element_once():
    table = reliability_bins(PROBABILITY, OUTCOME)
    assert table["count"].tolist() == [2, 3, 1]
    assert table["mean_probability"].tolist() == pytest.approx([0.025, 0.7 / 3, 1.0])
    assert table["frequency"].tolist() == pytest.approx([1 / 2, 1 / 3, 1.0])
    assert (table["lower"].iloc[1], table["upper"].iloc[1]) == tuple(beta_interval(1, 3))


def test_the_error_weights_bins_by_their_counts():
    wanted = (2 * 0.475 + 3 * (1 / 3 - 0.7 / 3) + 0) / 6
    assert expected_calibration_error(PROBABILITY, OUTCOME) == pytest.approx(wanted)


def test_true_probabilities_are_found_calibrated():
    rng = np.random.default_rng(0)
    probability = rng.beta(0.5, 1.5, size=20_000)  # asymmetric: mean 1/4
    outcome = rng.random(20_000) < probability
    table = reliability_bins(probability, outcome, level=0.999)
    # Ten intervals of 99.9%: a false alarm in about 1% of seeds.
    assert ((table["lower"] < table["mean_probability"]) & (table["mean_probability"] < table["upper"])).all()
    assert expected_calibration_error(probability, outcome) < 0.02
    # The mirror image is as far off as it can be.
    assert expected_calibration_error(1 - probability, outcome) > 0.4


@pytest.mark.parametrize(
    ("probability", "outcome", "message"),
    [
        ([0.5, 1.5], [0, 1], r"probability: must be in \[0, 1\], got 1.5 at 1"),
        ([0.5, np.nan], [0, 1], r"probability: must be in \[0, 1\], got nan at 1"),
        ([0.5, 0.5], [0, 2], "outcome: must be 0 or 1, got 2.0 at 1"),
        ([], [], "probability: at least one"),
    ],
)
def test_bad_values_are_named(probability, outcome, message):
    with pytest.raises(ValueError, match=message):
        brier_score(np.array(probability, dtype=float), np.array(outcome, dtype=int))


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="outcome: one for each of 2 probabilities is wanted, got 1"):
        brier_score.__wrapped__(np.array([0.5, 0.5]), np.array([1]))
    with pytest.raises(ValueError, match="num_bins: at least 1"):
        reliability_bins(PROBABILITY, OUTCOME, num_bins=0)


@pytest.mark.parametrize(("num", "num_ranks"), [(6, 2), (5, 3), (4, 4)])
def test_p_values_of_ranks_are_exact(num, num_ranks):
    # Every sequence of ranks, each as likely: a p-value is the share of sequences of no larger p-value.
    p_values = np.array([rank_p_value(np.array(r), num_ranks) for r in itertools.product(range(num_ranks), repeat=num)])
    for value in np.unique(p_values.round(10)):
        assert (p_values <= value + 1e-9).mean() == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("level", [0.3, 0.05, 1e-3])
def test_ranks_leave_the_band_just_when_their_p_value_is_below_its_level(level):
    rng = np.random.default_rng(1)
    lower, upper = rank_band(60, 21, level)
    assert np.all((lower >= 0) & (lower <= upper) & (upper <= 60))
    left = 0
    for _ in range(400):
        ranks = rng.binomial(20, rng.beta(0.9, 1.1, size=60))  # a little off, and lopsided
        counts = rank_counts(ranks, 21)
        outside = bool(np.any((counts < lower) | (counts > upper)))
        assert outside == (rank_p_value(ranks, 21) <= level)
        left += outside
    assert left < 400


def test_a_large_table_of_uniform_ranks_is_fine_and_a_shifted_one_is_not():
    rng = np.random.default_rng(2)
    p_values = [rank_p_value(rng.integers(0, 101, 300), 101) for _ in range(200)]
    # Share below 0.2, 4 of its standard errors.
    assert abs(np.mean(np.array(p_values) < 0.2) - 0.2) < 4 * np.sqrt(0.2 * 0.8 / 200)
    assert rank_p_value(rng.integers(10, 101, 300), 101) < 1e-9


def test_holm_adjusts_by_steps():
    assert holm(np.array([0.04, 0.001, 0.03])) == pytest.approx([0.06, 0.003, 0.06])
    assert holm(np.array([0.5, 0.9])) == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rank_p_value(np.array([0, 11]), 11), r"ranks: must be in \[0, 11\), got 11 at 1"),
        (lambda: rank_p_value(np.array([], int), 11), "ranks: at least one"),
        (lambda: rank_band(10, 11, 1.0), "level: a probability strictly"),
    ],
)
def test_bad_ranks_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
