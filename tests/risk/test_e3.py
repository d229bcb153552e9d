import numpy as np
import pytest

from ppl.risk.e3 import compare_e3, e3, e3_score


def sample(rng, num, base):
    """Hard problems are long and wrong more often."""
    hard = rng.random(num)
    return (rng.random(num) < base * (1 - 0.6 * hard)).astype(int), 500 + 3000 * hard * rng.gamma(4, 0.25, num)


def test_score_is_accuracy_squared_over_tokens():
    assert e3_score(0.5, 1000) == pytest.approx(2.5)
    # Halving the tokens is worth the square root of two in accuracy.
    assert e3_score(0.6, 500) == pytest.approx(e3_score(0.6 * np.sqrt(2), 1000))
    result = e3(np.array([1, 0, 1, 1]), np.array([900, 1100, 1000, 1000]))
    assert result.draws["e3"] == pytest.approx((100 * result.draws["accuracy"]) ** 2 / result.draws["tokens"])
    assert result.plot_trade().axes
    assert result.to_arviz()["observed_data"]["tokens"].size == 4


def test_interval_covers():
    rng = np.random.default_rng(0)
    accuracy, tokens = sample(rng, 500_000, 0.8)
    truth, hits = e3_score(accuracy.mean(), tokens.mean()), []
    for seed in range(150):
        lower, upper = e3(*sample(rng, 60, 0.8), draws=500, key=seed).estimate("e3", 0.9).interval
        hits.append(lower <= truth <= upper)
    # 3.1 binomial standard errors: false alarm 0.2%; 1% for the bootstrap at 60 problems.
    assert np.mean(hits) == pytest.approx(0.9, abs=3.1 * np.sqrt(0.09 / 150) + 0.01)


def test_pairing_narrows_the_ratio():
    rng = np.random.default_rng(1)
    accuracy, tokens = sample(rng, 200, 0.8)
    flips = rng.random(200) < 0.05
    other = np.where(flips, 1 - accuracy, accuracy)
    paired = compare_e3((accuracy, other), (tokens, 0.7 * tokens))
    shuffled = rng.permutation(200)
    apart = compare_e3((accuracy, other[shuffled]), (tokens, 0.7 * tokens[shuffled]))
    assert paired.draws["ratio"].std() < 0.5 * apart.draws["ratio"].std()
    assert paired.probability_first < 0.01
    assert paired.draws["ratio"] == pytest.approx(paired.draws["first"] / paired.draws["second"])


@pytest.mark.parametrize("right", [0, 1])
def test_all_alike_keeps_a_width(right):
    lower, upper = e3(np.full(20, right), np.full(20, 1000)).estimate("accuracy").interval
    assert 0 < lower < upper < 1


@pytest.mark.parametrize(
    ("accuracy", "tokens", "message"),
    [
        ([0, 1.5], [10, 10], "accuracy: problem 1 has 1.5"),
        ([0, 1], [10, 0], "tokens: problem 1 has 0"),
        ([np.nan], [10], "accuracy: problem 0 has nan"),
        ([], [], "at least one"),
        ([1], [10, 10], "tokens: one number for each of 1 problems"),
    ],
)
def test_bad_input_is_named(accuracy, tokens, message):
    with pytest.raises(ValueError, match=message):
        e3(np.array(accuracy), np.array(tokens))


def test_bad_comparisons_are_named():
    with pytest.raises(ValueError, match="the same problems for both are wanted, got 2 and 1"):
        compare_e3((np.ones(2), np.ones(1)), (np.ones(2), np.ones(1)))
    with pytest.raises(ValueError, match="accuracy: in"):
        e3_score(1.2, 10)
