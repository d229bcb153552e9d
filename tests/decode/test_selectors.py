"""Selectors on tables made by hand."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from ppl.decode import selectors
from ppl.decode.replay import accuracy_by_budget
from ppl.decode.selectors import NO_ANSWER, Choice
from ppl.records import Records
from tests.decode.toys import attempts

ALL = [
    selectors.first,
    selectors.majority,
    selectors.best_of_n,
    selectors.weighted_best_of_n,
    selectors.weighted_particles,
]
REWARDS = [0.3, 0.9, 0.4, 0.5]
ANSWERS = ["6", "24", "6", None]


def table(answers=ANSWERS, reward=REWARDS, log_weight=(0.0, -1.0, 0.0, 1.0), log_prob=(-1.0, -2.0, -3.0, -0.5)):
    columns = {"reward": reward, "log_weight": log_weight, "log_prob": log_prob}
    return attempts(answers, **{name: np.asarray(values, float) for name, values in columns.items()})


def test_first_takes_the_first_attempt_and_states_its_probability():
    assert selectors.first(table(), single_answer=True) == Choice(0, "6", pytest.approx(np.exp(-1)))


def test_majority_counts_and_states_its_share_of_all_attempts():
    assert selectors.majority(table(), single_answer=True) == Choice(0, "6", pytest.approx(0.5))


def test_a_tie_goes_to_the_earlier_answer():
    tied = table(["5", "7", "7", "5"])
    assert selectors.majority(tied, single_answer=True) == Choice(0, "5", pytest.approx(0.5))
    assert selectors.best_of_n(table(["5", "7", "8", "9"], [0.2] * 4), single_answer=True).row == 0


def test_best_of_n_takes_the_highest_reward_and_states_it():
    assert selectors.best_of_n(table(), single_answer=True) == Choice(1, "24", pytest.approx(0.9))


def test_an_attempt_without_an_answer_is_not_picked_however_high_its_reward():
    best = table(reward=[0.3, 0.2, 0.1, 0.99])
    assert selectors.best_of_n(best, single_answer=True).row == 0
    assert selectors.weighted_best_of_n(best, single_answer=True).row == 0


def test_weighted_best_of_n_sums_rewards_of_equal_answers():
    # 6 has 0.3 + 0.4, 24 has 0.9; of all rewards, 2.1, that is three sevenths.
    assert selectors.weighted_best_of_n(table(), single_answer=True) == Choice(1, "24", pytest.approx(0.9 / 2.1))
    more = table(reward=[0.5, 0.9, 0.6, 0.0])
    assert selectors.weighted_best_of_n(more, single_answer=True) == Choice(0, "6", pytest.approx(1.1 / 2.0))


def test_where_many_answers_are_right_the_mean_reward_of_the_answer_is_stated():
    more = table(reward=[0.5, 0.9, 0.6, 0.0])
    assert selectors.weighted_best_of_n(more, single_answer=False) == Choice(0, "6", pytest.approx(0.55))


def test_weighted_particles_take_the_heaviest_answer():
    # Weights 1, 1/e, 1, e: 6 has 2 of 1 + 1/e + 1 + e.
    total = 2 + np.exp(-1) + np.exp(1)
    choice = selectors.weighted_particles(table(), single_answer=True)
    assert choice == Choice(0, "6", pytest.approx(2 / total))


def test_weighted_particles_take_the_highest_reward_of_a_live_particle_where_many_answers_are_right():
    assert selectors.weighted_particles(table(), single_answer=False) == Choice(1, "24", pytest.approx(0.9))
    dead = table(log_weight=[0.0, -np.inf, 0.0, 0.0])
    assert selectors.weighted_particles(dead, single_answer=False) == Choice(2, "6", pytest.approx(0.4))


def test_heaviest_particles_ask_no_reward():
    choice = selectors.heaviest_particles(table(reward=[np.nan] * 4), single_answer=False)
    assert choice == Choice(0, "6", pytest.approx(2 / (2 + np.exp(-1) + np.exp(1))))


@pytest.mark.parametrize("single_answer", [True, False])
def test_dead_particles_and_silent_attempts_give_no_answer(single_answer):
    extinct = table(log_weight=[-np.inf] * 4)
    assert selectors.weighted_particles(extinct, single_answer=single_answer) == NO_ANSWER
    silent = table(["1", None, None, None], log_weight=[-np.inf, 0.0, 0.0, 0.0])
    assert selectors.weighted_particles(silent, single_answer=single_answer) == NO_ANSWER
    for select in ALL:
        assert select(table([None] * 4), single_answer=single_answer) == NO_ANSWER


def test_rewards_of_zero_choose_the_earliest_answer_and_claim_nothing():
    zero = table(reward=[0.0] * 4)
    assert selectors.weighted_best_of_n(zero, single_answer=True) == Choice(0, "6", 0.0)


@pytest.mark.parametrize("select", ALL)
def test_no_attempts_are_an_error(select):
    with pytest.raises(ValueError, match="at least one attempt, got none"):
        select(Records.from_rows([]), single_answer=True)


@pytest.mark.parametrize(
    ("select", "column"),
    [
        (selectors.first, "log_prob"),
        (selectors.best_of_n, "reward"),
        (selectors.weighted_best_of_n, "reward"),
        (selectors.weighted_particles, "reward"),
        (selectors.weighted_particles, "log_weight"),
    ],
)
def test_a_missing_value_is_named_by_row_and_column(select, column):
    broken = Records(table().frame.assign(**{column: [0.1, 0.2, np.nan, np.nan]}))
    with pytest.raises(ValueError, match=f"column '{column}', row 2: missing"):
        select(broken, single_answer=True)


ROWS = st.lists(
    st.tuples(
        st.sampled_from([None, "1", "2", "3"]), st.floats(0, 1), st.floats(-5, 5) | st.just(-np.inf), st.floats(-9, 0)
    ),
    min_size=1,
    max_size=8,
)


@given(rows=ROWS, order=st.randoms(use_true_random=False), single_answer=st.booleans())
def test_the_order_of_attempts_matters_only_for_ties(rows, order, single_answer):
    shuffled = order.sample(rows, len(rows))
    for select in ALL[1:]:
        before, after = (
            select(table(*zip(*attempts_, strict=True)), single_answer=single_answer) for attempts_ in (rows, shuffled)
        )
        # What is claimed is the maximum, whichever of several equals attains it; an answer that wins alone stays.
        if not (select is selectors.weighted_best_of_n and not single_answer):
            assert after.probability == pytest.approx(before.probability, abs=1e-9)
        assert (after.answer is None) == (before.answer is None)
        scores = _scores(select, rows, single_answer)
        best = [answer for answer, score in scores.items() if score >= max(scores.values()) - 1e-9]
        if before.answer is not None:
            assert before.answer in best
            assert after.answer in best


@given(rows=ROWS, single_answer=st.booleans())
def test_a_choice_is_an_attempt_and_its_claim_a_probability(rows, single_answer):
    records = table(*zip(*rows, strict=True))
    for select in ALL:
        choice = select(records, single_answer=single_answer)
        assert 0 <= choice.probability <= 1
        if choice.row is None:
            assert choice == NO_ANSWER
        else:
            assert records.frame.answer.iloc[choice.row] == choice.answer


def _scores(select, rows, single_answer):
    """What each answer is chosen by, computed without pandas."""
    dead = select is selectors.weighted_particles
    highest = select is selectors.best_of_n or (dead and not single_answer)
    scores: dict[str, float] = {}
    for answer, reward, log_weight, _ in rows:
        if answer is None or (dead and log_weight == -np.inf):
            continue
        value = 1.0 if select is selectors.majority else np.exp(log_weight) if dead and not highest else reward
        scores[answer] = max(scores.get(answer, 0.0), value) if highest else scores.get(answer, 0.0) + value
    return scores


def replayed():
    parts = []
    for i, answers in enumerate([["1", "2", "2", None], ["3", "3", "1", "1"], [None, "4", "4", "4"]]):
        correct = [answer in ("2", "3") for answer in answers]
        columns = {"correct": correct, "reward": [0.1, 0.9, 0.2, 0.8], "generated_tokens": [2, 3, 4, 5 + i]}
        parts.append(attempts(answers, problem=f"p{i}", **columns))
    return Records.concat(parts)


def test_replay_takes_the_first_attempts_of_each_problem():
    frame = accuracy_by_budget(replayed(), selectors.majority, single_answer=True, budgets=[1, 2, 4])
    # One attempt: wrong, right, silent. Two: tied 1 and 2 (the earlier), 3, 4. All: 2, tied 3 and 1 (the earlier), 4.
    assert frame.accuracy.tolist() == pytest.approx([1 / 3, 1 / 3, 2 / 3])
    assert frame.tokens.tolist() == pytest.approx([2, 5, 15])
    assert (frame.lower < frame.accuracy).all()
    assert (frame.accuracy < frame.upper).all()


@pytest.mark.parametrize("budgets", [[8], [0, 2]])
def test_replay_refuses_budgets_that_were_not_drawn(budgets):
    with pytest.raises(ValueError, match=r"budgets: .* got (8|0)"):
        accuracy_by_budget(replayed(), selectors.majority, single_answer=True, budgets=budgets)
