import numpy as np
import pytest

from ppl.calibration import brier_score, expected_calibration_error, reliability_bins
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
