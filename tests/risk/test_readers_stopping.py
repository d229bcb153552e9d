"""The hint at optional stopping: rare where sampling did not look at outcomes, usual where it did."""

import numpy as np
import pytest

from ppl.risk.readers import read
from ppl.risk.readers.stopping import optional_stopping

DIFFICULTIES = {"spread": (1.0, 1.0), "hard": (0.3, 20.0), "easy": (20.0, 0.3), "both": (0.2, 0.2)}
TRIALS = {
    "crashes": lambda rng, num: 10 - rng.integers(0, 2, num),
    "geometric": lambda rng, num: rng.geometric(0.1, num),
    "two sizes": lambda rng, num: rng.choice([10, 1000], num),
    "one short": lambda rng, num: np.r_[3, np.full(num - 1, 100)],
    "one long": lambda rng, num: np.r_[1000, np.full(num - 1, 5)],
    "skewed": lambda rng, num: np.ceil(rng.lognormal(3, 1.5, num)).astype(np.int64),
}


@pytest.mark.parametrize("num", [4, 30, 150])
def test_false_alarms_are_rare(num):
    # 24 settings of 15 files each: 360 files, and at most 2 in 10,000 are remarked on by the bounds; so that one alarm
    # or more has a chance of at most 7%, and two or more of 0.3%. Over 180,000 such files, none was remarked on.
    rng = np.random.default_rng(num)
    alarms = 0
    for a, b in DIFFICULTIES.values():
        for trials in TRIALS.values():
            for _ in range(15):
                n = trials(rng, num)
                alarms += optional_stopping(rng.binomial(n, rng.beta(a, b, num)), n) is not None
    assert alarms < 2


def stopped(rng, num, cap, batch, a, b):
    """Batches until the first with a success, or `cap` attempts."""
    chance = rng.beta(a, b, num)
    successes, trials = np.zeros(num, dtype=np.int64), np.zeros(num, dtype=np.int64)
    while ((successes == 0) & (trials < cap)).any():
        going = (successes == 0) & (trials < cap)
        successes[going] += rng.binomial(batch, chance[going])
        trials[going] += batch
    return successes, trials


@pytest.mark.parametrize(
    ("cap", "batch", "a", "b"), [(50, 1, 0.5, 2.0), (1000, 1, 0.4, 4.0), (10_000, 60, 0.35, 20.0), (10**6, 1, 3.0, 5.0)]
)
def test_stopping_at_success_is_seen(cap, batch, a, b):
    # With 150 problems each of 10 files is remarked on; the last setting leaves no problem unsolved.
    rng = np.random.default_rng(3)
    for _ in range(10):
        assert optional_stopping(*stopped(rng, 150, cap, batch, a, b)) is not None


def test_what_is_said():
    successes, trials = np.r_[np.ones(200), np.zeros(10)].astype(int), np.r_[np.arange(200) // 10 + 1, np.full(10, 100)]
    warning = optional_stopping(successes, trials)
    assert warning is not None
    assert "each of the 10 problems without a success has the largest number of trials, 100" in warning
    assert "problems with more trials succeed less often" in warning
    assert "stop_at_success(batch=N) or adaptive" in warning


@pytest.mark.parametrize(
    ("successes", "trials"),
    [
        ([0, 1, 1], [9, 2, 3]),  # as if stopped, and too few to tell
        ([0] * 30, [5] * 30),  # the same trials each
        ([0] * 30, list(range(1, 31))),  # nothing solved
        (list(range(1, 31)), list(range(1, 31))),  # everything right
        ([0], [0]),
    ],
)
def test_nothing_is_said(successes, trials):
    assert optional_stopping(np.array(successes), np.array(trials)) is None


def test_unsolved_problems_with_the_most_trials_have_the_chance_of_a_random_subset():
    # 3 of 4 with most trials: 1 / C(40, 3) = 1 / 9880 beside C(4, 3) / C(40, 3) = 1 / 2470.
    trials = np.r_[np.full(3, 20), np.full(37, 10)]
    successes = np.r_[np.zeros(3), np.full(37, 5)].astype(int)
    # Solved half of the time at 10 trials, never at 20: the second test sees little of it.
    assert optional_stopping(successes, trials) is None  # 1.01e-4
    assert optional_stopping(np.r_[successes, 5], np.r_[trials, 10]) is not None  # 9.4e-5
    assert optional_stopping(np.r_[successes, 5], np.r_[trials, 20]) is None  # 3.7e-4


def test_a_reading_says_it_for_the_fixed_rule_only(tmp_path):
    lines = [f"p{i},{int(i < 40)},{i + 1 if i < 40 else 100}" for i in range(50)]
    path = tmp_path / "a.csv"
    path.write_text("problem,successes,trials\n" + "\n".join(lines))
    for rule in (None, "fixed"):
        reading = read(path, rule=rule)
        assert len(reading.warnings) == 1
        assert reading.warnings[0] in reading.notes
    assert read(path, rule="stop_at_success").warnings == ()
    assert read(path, rule="adaptive").warnings == ()
