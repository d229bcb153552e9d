from fractions import Fraction

import numpy as np
import pytest

from ppl.tasks import Countdown
from ppl.tasks.countdown import parse_prompt, solvable
from ppl.tasks.countdown_corpus import derive, select, solution_texts, training_mask
from ppl.tasks.holdout import in_bucket, puzzle_hash


@pytest.mark.parametrize("count", [3, 4, 5, 6])
def test_problems_are_as_declared_solvable_and_held_out(count):
    task = Countdown(count)
    problems = task.problems(40, seed=1)
    assert len({problem.id for problem in problems}) == 40
    for problem in problems:
        numbers, target = parse_prompt(problem.prompt)
        assert len(numbers) == count
        assert all(1 <= n <= 15 for n in numbers)
        assert 10 <= target <= 999
        assert in_bucket(puzzle_hash(np.array([[int(n) for n in numbers]]), np.array([target]))).all()
        assert count > 4 or solvable(numbers, Fraction(target))  # the exact search takes seconds a puzzle from 5 on
        assert task.max_steps == count - 1


def test_bounds_are_kept():
    for problem in Countdown(4, max_number=6, max_target=24).problems(5):
        numbers, target = parse_prompt(problem.prompt)
        assert max(numbers) <= 6
        assert target <= 24


def test_sets_are_reproducible_nested_and_differ_by_seed():
    task = Countdown()
    assert task.problems(30) == task.problems(30)
    assert list(task.problems(30))[:10] == list(task.problems(10))
    assert task.problems(0) == []
    overlap = {p.id for p in task.problems(200)} & {p.id for p in task.problems(200, seed=1)}
    assert len(overlap) < 40  # sets are drawn from one bucket, so a few puzzles are in both


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 2}, "count must be 3 to 6 numbers, got 2"),
        ({"count": 7}, "count must be 3 to 6 numbers, got 7"),
        ({"max_number": 0}, "max_number must be 1 to 100, got 0"),
        ({"max_number": 101}, "max_number must be 1 to 100, got 101"),
        ({"max_target": 9}, "max_target must be 10 to 999, got 9"),
        ({"max_target": 1000}, "max_target must be 10 to 999, got 1000"),
    ],
)
def test_bad_sizes_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Countdown(**arguments)


def test_bad_requests_are_named():
    with pytest.raises(ValueError, match="num must be at least 0, got -1"):
        Countdown().problems(-1)
    with pytest.raises(ValueError, match="seed must be at least 0, got -3"):
        Countdown().problems(1, seed=-3)


def test_more_problems_than_there_are_is_an_error(monkeypatch):
    few = derive(np.random.default_rng(0), batch=50, count=3, max_number=2)
    monkeypatch.setattr("ppl.tasks.countdown.derive", lambda *args, **kwargs: few)
    with pytest.raises(ValueError, match=r"num=100: only \d+ held-out puzzles of this kind were found"):
        Countdown(3, max_number=2).problems(100)


def test_derivations_stay_in_range_and_use_every_operation():
    d = derive(np.random.default_rng(3), batch=4000, count=5, max_number=15)
    assert d.numbers.shape == (4000, 5)
    assert d.result.shape == d.left.shape == d.right.shape == d.operation.shape == (4000, 4)
    assert [state.shape for state in d.states] == [(4000, 4), (4000, 3), (4000, 2), (4000, 1)]
    assert d.numbers.min() == 1
    assert d.numbers.max() == 15
    assert ((d.result >= 0) & (d.result <= 999)).all()
    assert (d.target == d.states[-1][:, 0]).all()
    assert set(np.unique(d.operation)) == {0, 1, 2, 3}


def test_select_keeps_whole_derivations():
    d = derive(np.random.default_rng(0), batch=300, count=4, max_number=15)
    mask = d.target > 50
    assert solution_texts(select(d, mask)) == [pair for pair, kept in zip(solution_texts(d), mask, strict=True) if kept]


def test_the_training_mask_looks_at_states_on_the_way():
    d = derive(np.random.default_rng(5), batch=3000, count=5, max_number=15)
    none = np.zeros(0, np.uint64)
    kept = training_mask(d, named=none)
    clean = ~in_bucket(puzzle_hash(d.numbers, d.target))
    for state in d.states[:2]:  # of four and of three numbers
        clean &= ~in_bucket(puzzle_hash(state, d.target))
    assert (kept == clean).all()
    assert 0 < (~kept).sum() < 600  # three tries at a chance of one in fifty
    named = puzzle_hash(d.states[0][:1], d.target[:1])  # the four-number state of the first, by name
    again = training_mask(d, named=named)
    assert kept[0]
    assert not again[0]
    assert (again <= kept).all()
