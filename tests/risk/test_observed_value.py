import itertools

import numpy as np
import pytest
from scipy import stats

from ppl.risk.observed_value import observed_value
from ppl.risk.resampling_value import resampling_value


def reward(right, wrong, value, attempts):
    """Mean over problems, without a price: the first accepted of `attempts` attempts."""
    accept = right + wrong
    return np.mean((right + value * wrong) / accept * -np.expm1(attempts * np.log1p(-accept)))


def test_the_mean_over_all_orders():
    outcomes = [[1, 1, 0, -1, 0], [0, 0, 0, 0, -1], [0] * 5, [1] * 5]  # 1 accepted and right, -1 and wrong, 0 rejected
    right, wrong = (np.array([row.count(kind) for row in outcomes]) for kind in (1, -1))
    value, cost = -1.5, 0.1
    result = observed_value(right, wrong, np.full(4, 5), false_positive_value=value, attempt_cost=cost, draws=2000)
    for k in range(6):
        rewards = []
        for order in itertools.chain.from_iterable(itertools.permutations(row) for row in outcomes):
            first = next((j for j, outcome in enumerate(order[:k]) if outcome), None)
            worth = 0.0 if first is None else (1.0 if order[first] == 1 else value)
            rewards.append(worth - cost * (k if first is None else first + 1))
        extremes = [(1 - cost) * (k > 0), (value - cost) * (k > 0), -cost * k]
        # The posterior mean gives each problem weight 1, and a third to each of the three extremes.
        expected = (4 * np.mean(rewards) + np.sum(extremes) / 3) / 5
        draws = result.draws["reward"][:, k]
        # 5 Monte Carlo standard errors: a false alarm in 6e-7 of seeds.
        assert draws.mean() == pytest.approx(expected, abs=5 * draws.std() / np.sqrt(2000) + 1e-6)


def test_unbiased_within_the_attempts():
    # Every outcome of 4 attempts at one problem, as often as it comes in 100,000 problems.
    right, wrong = 0.3, 0.2
    outcomes = np.array([(a, b) for a in range(5) for b in range(5 - a)])
    rows = np.column_stack([outcomes, 4 - outcomes.sum(axis=1)])
    counts = np.rint(100_000 * stats.multinomial.pmf(rows, 4, [right, wrong, 1 - right - wrong])).astype(int)
    a, b = np.repeat(outcomes, counts, axis=0).T
    draws = observed_value(a, b, np.full(len(a), 4), draws=50).draws["reward"]
    expected = [reward(np.array([right]), np.array([wrong]), -1.0, k) for k in range(5)]
    # 5 standard errors of the mean of 50 draws, and 1e-4 for rounded counts and the prior's one problem.
    np.testing.assert_allclose(draws.mean(axis=0), expected, atol=5 * draws.std(axis=0).max() / np.sqrt(50) + 1e-4)


def test_uneven_trials():
    right, wrong, trials = np.array([1, 3, 0]), np.array([1, 0, 0]), np.array([2, 12, 30])
    result = observed_value(right, wrong, trials, draws=200)
    np.testing.assert_array_equal(result.attempts, [0, 1, 2])  # as many as every problem has


def test_coverage():
    # False positives on few problems: accepted wrong with Beta(.15, 2) of the attempts that are not right.
    rng = np.random.default_rng(9)
    attempts = np.array([1, 5, 20])

    def problems(num):
        r = rng.beta(0.4, 0.6, num)
        return r, (1 - r) * rng.beta(0.15, 2.0, num)

    right, wrong = problems(400_000)
    truth = np.array([reward(right, np.maximum(wrong, 1e-12), -4.0, k) for k in attempts])
    inside = []
    for i in range(100):
        r, w = problems(80)
        right, wrong, _ = rng.multinomial(20, np.column_stack([r, w, 1 - r - w])).T
        result = observed_value(right, wrong, np.full(80, 20), false_positive_value=-4.0, draws=500, key=i)
        lower, upper = result.estimate("reward").interval
        inside.append((lower[attempts] <= truth) & (truth <= upper[attempts]))
    # 80 rewards with a long lower tail: about .87; 4 standard errors of .034.
    assert np.all(np.mean(inside, axis=0) > 0.87 - 4 * 0.034)


def test_one_specificity_for_all_misleads_where_errors_crowd():
    # A tenth of the problems lets every wrong attempt through, the others none: the same specificity on average.
    rng = np.random.default_rng(3)
    success = np.where(np.arange(200) % 2, 0.9, 0.1)
    crowded = np.arange(200) % 20 < 2
    right = rng.binomial(100, success)
    wrong = np.where(crowded, 100 - right, 0)
    best = observed_value(right, wrong, np.full(200, 100), false_positive_value=-2.0, draws=1000).optimum()
    assert best.attempts > 30  # after a few attempts what is still rejected belongs to problems without errors
    alike = resampling_value(np.array([0.1, 0.9]), (1.0, 0.9), false_positive_value=-2.0).optimum()
    assert alike.attempts <= 2


def test_nothing_accepted_and_everything():
    none = observed_value(np.zeros(80, int), np.zeros(80, int), np.full(80, 20), draws=1000)
    assert np.abs(none.draws["reward"].mean(axis=0)).max() < 0.02
    alike = observed_value(np.full(80, 20), np.zeros(80, int), np.full(80, 20), draws=1000)
    assert alike.draws["reward"][:, 1].std() > 0.001  # problems all alike do not make an interval of no width
    assert alike.optimum().attempts == 1


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ((2, 2, 3), "right, wrong: .* row 0 has 4 of 3"),
        ((0, 0, 0), "trials: .* row 0 has none"),
        ((-1, 0, 3), "right: whole numbers from 0 up are wanted, row 0 has -1"),
    ],
)
def test_bad_input_is_named(counts, message):
    with pytest.raises(ValueError, match=message):
        observed_value(*(np.array([count]) for count in counts))
