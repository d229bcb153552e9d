import itertools

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from ppl.risk.arise import arise, arise_terms, combined_variation, plan_runs


def by_hand(accuracy, tokens):
    score = 0.0
    for before, after in itertools.pairwise(range(len(accuracy))):
        change = accuracy[after] - accuracy[before]
        if change > 0:
            score += change * tokens[before] / tokens[after]
        elif change < 0:
            score += change * tokens[after] / tokens[before]
    return score


def test_an_answer_gained_for_twice_the_tokens_counts_half_and_one_lost_twice():
    result = arise(np.array([[0, 1], [1, 0], [1, 1]]), np.array([[100, 200], [100, 200], [50, 900]]))
    assert result.scores == pytest.approx([0.5, -2.0, 0.0])


@given(
    st.lists(
        st.tuples(
            st.floats(0, 1), st.floats(1, 1e5), st.floats(0, 1), st.floats(1, 1e5), st.floats(0, 1), st.floats(1, 1e5)
        ),
        min_size=1,
        max_size=4,
    )
)
def test_terms_are_the_formula(rows):
    cells = np.array(rows).reshape(-1, 3, 2)
    terms = arise_terms(cells[..., 0], cells[..., 1])
    assert terms.sum(axis=1) == pytest.approx([by_hand(c[:, 0], c[:, 1]) for c in cells], rel=1e-9, abs=1e-12)


def test_parts_and_steps_add_up():
    rng = np.random.default_rng(3)
    successes, tokens = rng.integers(0, 5, (40, 4)), rng.uniform(100, 4000, (40, 4))
    result = arise(successes, tokens, trials=4)
    assert result.draws["gained"] + result.draws["lost"] == pytest.approx(result.draws["arise"], rel=1e-5, abs=1e-5)
    assert result.steps.sum() == pytest.approx(result.scores.mean())
    assert set(result.summary().index) == {"arise", "gained", "lost"}
    assert result.to_arviz()["posterior"]["arise"].size == 4000
    assert result.plot_steps().axes


def simulated(rng, problems, rising):
    """Skewed scores: accuracy drawn by problem, token growth that varies."""
    p = np.clip(rng.beta(0.7, 0.7, (problems, 1)) + rising * np.arange(3) / 3, 0, 1)
    tokens = np.cumprod(
        np.concatenate([np.full((problems, 1), 500.0), rng.uniform(1.2, 2.5, (problems, 2))], axis=1), axis=1
    )
    return (rng.random(p.shape) < p).astype(int), tokens


def test_interval_covers_the_population_mean():
    rng = np.random.default_rng(5)
    truth = arise_terms(*(x.astype(float) for x in simulated(rng, 400_000, 0.3))).sum(axis=1).mean()
    hits = []
    for seed in range(150):
        result = arise(*simulated(rng, 50, 0.3), draws=500, shuffles=1, key=seed)
        lower, upper = result.estimate("arise", 0.9).interval
        hits.append(lower <= truth <= upper)
    # 90% within 3.1 binomial standard errors (false alarm 0.2%) and the bootstrap's own 1% at 50 skewed scores.
    assert np.mean(hits) == pytest.approx(0.9, abs=3.1 * np.sqrt(0.09 / 150) + 0.01)


def test_noise_floor_is_the_score_of_accuracy_that_ignores_the_level():
    # With one run a cell and accuracy a at all levels, a step costs a (1 - a) (r - 1/r), r the ratio of tokens.
    rng = np.random.default_rng(7)
    p = rng.beta(2, 3, 2000)
    tokens = np.tile([1000.0, 2000.0, 3000.0], (2000, 1))
    expected = np.mean(p * (1 - p)) * sum(r - 1 / r for r in (1 / 2, 2 / 3))
    result = arise((rng.random((2000, 3)) < p[:, None]).astype(int), tokens, draws=500, shuffles=100)
    # The floor's sd over data sets of this size is 0.01, the score's 0.03; 5 of them each.
    assert result.noise_floor == pytest.approx(expected, abs=0.05)
    assert result.scores.mean() == pytest.approx(result.noise_floor, abs=0.15)
    assert 0.001 < result.noise_tail < 0.999


def test_noise_tail_is_uniform_without_an_effect_and_small_with_one():
    rng = np.random.default_rng(11)
    tails = [arise(*simulated(rng, 30, 0.0), draws=10, shuffles=100, key=seed).noise_tail for seed in range(60)]
    # Mean of 60 uniforms: sd 0.037; 4 of them.
    assert np.mean(tails) == pytest.approx(0.5, abs=0.15)
    assert arise(*simulated(rng, 200, 0.6), draws=10).noise_tail < 0.01


def test_uneven_runs_are_dealt_by_their_numbers():
    trials = np.array([[3, 10], [10, 3]])
    result = arise(np.array([[3, 10], [0, 0]]), np.full((2, 2), 100.0), trials=trials)
    assert result.noise_floor == 0.0
    assert result.noise_tail == 1.0


def test_a_model_that_never_changes_still_has_an_interval():
    lower, upper = arise(np.ones((20, 2), int), np.tile([100.0, 300.0], (20, 1))).estimate("arise").interval
    assert lower < 0 < upper


def test_variation_and_plan():
    outcomes = np.array([[[1, 0, 0], [0, 0, 0]]])
    tokens = np.array([[[100, 100, 100], [100, 200, 300]]])
    assert combined_variation(outcomes, tokens) == pytest.approx(np.array([[np.sqrt(2), np.sqrt(2 / 3) / 2]]))
    assert plan_runs(np.array([[0.0, 1.0], [0.1, 5.0]]), 22).tolist() == [[3, 6], [3, 10]]
    assert plan_runs(np.zeros((2, 2)), 100).tolist() == [[3, 3], [3, 3]]


@given(
    variation=st.lists(st.floats(0, 10), min_size=1, max_size=12),
    spare=st.integers(0, 120),
)
def test_plan_spends_the_budget_within_the_limits(variation, spare):
    weight = np.array([variation])
    plan = plan_runs(weight, 3 * weight.size + spare)
    assert plan.min() >= 3
    assert plan.max() <= 10
    assert plan.sum() == 3 * weight.size + min(spare, 7 * np.count_nonzero(weight))
    order = np.argsort(weight[0], kind="stable")
    assert np.all(np.diff(plan[0][order]) >= -1)


@pytest.mark.parametrize(
    ("successes", "tokens", "options", "message"),
    [
        ([[0, 1]], [[100, 0]], {}, "tokens: row 0, level 1 has 0"),
        ([[0, 2]], [[100, 100]], {}, "successes: row 0, level 1 has 2"),
        ([[0, 0.5]], [[100, 100]], {}, "successes: row 0, level 1 has 0.5"),
        ([[0, 1]], [[100, 100]], {"trials": 0}, "trials: row 0, level 0 has 0"),
        ([[1]], [[100]], {}, "at least one problem and two levels"),
        ([[1, 0]], [[100]], {}, "tokens: the shape of successes"),
        ([[np.nan, 1]], [[100, 100]], {}, "successes: row 0, level 0 has nan"),
    ],
)
def test_bad_cells_are_named(successes, tokens, options, message):
    with pytest.raises(ValueError, match=message):
        arise(np.array(successes), np.array(tokens), **options)


def test_bad_plans_are_named():
    with pytest.raises(ValueError, match="budget: at least 3 runs in each of 4 cells, got 11"):
        plan_runs(np.ones((2, 2)), 11)
    with pytest.raises(ValueError, match="min_runs: from 1 to max_runs"):
        plan_runs(np.ones((2, 2)), 100, min_runs=11)
    with pytest.raises(ValueError, match="variation: finite"):
        plan_runs(np.array([[np.nan]]), 10)
    with pytest.raises(ValueError, match="at least two runs a cell"):
        combined_variation(np.ones((1, 1, 1)), np.ones((1, 1, 1)))
    with pytest.raises(ValueError, match=r"tokens: problem, level, run \(0, 0, 1\) has 0"):
        combined_variation(np.ones((1, 1, 2)), np.array([[[5.0, 0.0]]]))
