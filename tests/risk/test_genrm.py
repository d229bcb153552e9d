import numpy as np
import pytest

from ppl.risk.genrm import fit_split, verification_cost

SOLUTIONS, VERIFICATIONS = 2.0 ** np.arange(9), 2.0 ** np.arange(8)


def success(rng, problems, solve=0.5, verify=0.7, noise=0.0):
    """Failure falls as a power of each number; how fast differs between problems."""
    first = rng.gamma(20, solve / 20, (problems, 1, 1))
    second = rng.gamma(20, verify / 20, (problems, 1, 1))
    failure = 0.1 + 0.45 * SOLUTIONS[:, None] ** -first + 0.35 * VERIFICATIONS[None] ** -second
    return np.clip(1 - failure + noise * rng.normal(size=failure.shape), 0, 1)


def test_cost_is_as_published():
    assert verification_cost(32, 4, 2.0) == 32 * 9
    assert verification_cost(32, 0, 2.0) == 32


def test_exponents_are_those_of_a_symmetric_problem():
    # Where solutions and verifications help alike and cost is S V, both grow as the square root of it.
    curve = 1 - 0.3 * SOLUTIONS[:8, None] ** -0.5 - 0.3 * VERIFICATIONS[None] ** -0.5
    result = fit_split(np.tile(curve, (3, 1, 1)), SOLUTIONS[:8], VERIFICATIONS, ratio=1000.0, draws=5)
    assert result.draws["solutions_exponent"] == pytest.approx(0.5, abs=0.01)
    assert result.draws["verifications_exponent"] == pytest.approx(0.5, abs=0.01)
    assert result.at_edge == 0.0
    # S = V at the optimum, and S V = cost / 1000.
    assert result.draws["solutions"][0] == pytest.approx(np.sqrt(result.costs / 1000), rel=0.1)


def test_exponents_follow_the_powers():
    # With C = lambda S V and failure A S^-a + B V^-b, S grows as C^(b / (a + b)) (Hoffmann et al., their Eq. 4).
    curve = 1 - 0.4 * SOLUTIONS[:, None] ** -0.4 - 0.3 * VERIFICATIONS[None] ** -0.6
    result = fit_split(np.tile(curve, (2, 1, 1)), SOLUTIONS, VERIFICATIONS, ratio=1000.0, draws=2)
    # The parabola is symmetric and the curve is not: the top is off by a few hundredths.
    assert result.draws["solutions_exponent"][0] == pytest.approx(0.6, abs=0.06)
    assert result.draws["verifications_exponent"][0] == pytest.approx(0.4, abs=0.06)


def test_interval_covers_what_very_many_problems_would_give():
    rng = np.random.default_rng(0)
    truth = fit_split(success(rng, 50_000), SOLUTIONS, VERIFICATIONS, ratio=1.0, draws=10)
    exponent = truth.draws["solutions_exponent"].mean()
    hits = []
    for seed in range(120):
        result = fit_split(success(rng, 40, noise=0.02), SOLUTIONS, VERIFICATIONS, ratio=1.0, draws=300, key=seed)
        lower, upper = result.estimate("solutions_exponent", 0.9).interval
        hits.append(lower <= exponent <= upper)
    # 3.1 binomial standard errors (false alarm 0.2%), and 2% for the bootstrap at 40 problems.
    assert np.mean(hits) == pytest.approx(0.9, abs=3.1 * np.sqrt(0.09 / 120) + 0.02)


def test_split_spends_the_budget_and_shows():
    result = fit_split(success(np.random.default_rng(1), 60), SOLUTIONS, VERIFICATIONS, ratio=1.0, draws=200)
    for cost in result.costs[2:6]:
        solutions, verifications = result.split(float(cost))
        assert verification_cost(float(solutions.mean), float(verifications.mean), 1.0) == pytest.approx(cost, rel=0.15)
    assert result.plot_split().axes
    assert result.to_arviz()["posterior"]["solutions"].size == 200 * len(result.costs)


def test_a_top_off_the_grid_is_counted():
    useless = 1 - 0.8 * SOLUTIONS[:, None] ** -0.5 * np.ones_like(VERIFICATIONS)
    result = fit_split(np.tile(useless, (2, 1, 1)), SOLUTIONS, VERIFICATIONS, ratio=1.0, draws=2)
    assert result.at_edge > 0.5
    flat = fit_split(np.full((2, 9, 8), 0.5), SOLUTIONS, VERIFICATIONS, ratio=1.0, draws=2)
    assert all(np.isfinite(x).all() for x in flat.draws.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"solutions": np.array([1.0, 1.0, 2.0])}, "solutions: at least three rising numbers"),
        ({"verifications": np.array([0.0, 1.0, 2.0])}, "verifications: at least three rising numbers from 1 up"),
        ({"success": np.full((2, 3, 3), 1.5)}, "success: numbers in .0, 1. of shape .problems, 3, 3."),
        ({"ratio": 0.0}, "ratio: a positive number"),
        ({"costs": np.array([5.0, 1e9])}, "costs: at least two budgets between 2 and 12"),
    ],
)
def test_bad_input_is_named(change, message):
    numbers = np.array([1.0, 2.0, 3.0])
    arguments = {
        "success": np.full((2, 3, 3), 0.5),
        "solutions": numbers,
        "verifications": numbers,
        "ratio": 1.0,
        **change,
    }
    rates = arguments.pop("success")
    with pytest.raises(ValueError, match=message):
        fit_split(rates, **arguments)
