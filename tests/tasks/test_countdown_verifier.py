import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppl.tasks import Countdown, Problem, puzzle
from ppl.tasks.countdown import apply, parse_prompt, replay, solvable
from ppl.tasks.countdown_corpus import derive, solution_texts

TASK = Countdown()
PUZZLE = puzzle([6, 4, 10, 8], 24)  # asymmetric: 8 - 4 is not 4 - 8


def lines(*steps):
    return " \n ".join(steps)


RIGHT = lines("8 + 4 = 12 left: 6 10 12", "12 - 10 = 2 left: 2 6", "2 * 6 = 12")


def test_the_prompt_is_sorted_and_names_the_problem():
    assert PUZZLE.id == "countdown-4-6-8-10-to-24"
    assert PUZZLE.prompt == "Numbers: 4 6 8 10 Target: 24 \n"


@pytest.mark.parametrize(
    "text",
    [
        lines("10 - 6 = 4 left: 4 4 8", "4 / 4 = 1 left: 1 8", "1 * 8 = 8"),  # 8, asked for below
        lines("8 - 10 = -2 left: -2 4 6", "6 * -2 = -12 left: -12 4", "4 - -12 = 16"),  # by way of negatives
        lines("6 / 4 = 3/2 left: 3/2 8 10", "3/2 * 8 = 12 left: 10 12", "12 - 10 = 2"),  # and of a fraction
        lines("6 / 4 = 6/4 left: 10 8 6/4", "12/8 * 8 = 12 left: 12 10", "12 - 10 = 2 left: 2"),  # not in lowest terms
    ],
)
def test_exact_arithmetic_is_accepted(text):
    target = int(text.split("=")[-1].split()[0])
    assert TASK.verify(puzzle([4, 6, 8, 10], target), text)
    assert not TASK.verify(puzzle([4, 6, 8, 10], target + 1), text)


def test_layout_does_not_matter_but_the_words_do():
    right = lines("10 - 4 = 6 left: 6 6 8", "8 + 6 = 14 left: 6 14", "14 + 6 = 20")
    asked = puzzle([4, 6, 8, 10], 20)
    assert TASK.verify(asked, right)
    assert TASK.verify(asked, right.replace(" \n ", "\n") + "\n\n")
    assert TASK.verify(asked, right.replace("left: 6 6 8", "left: 8 6 6"))
    assert not TASK.verify(asked, right.replace("left:", "remaining:"))
    assert not TASK.verify(asked, right.replace("\n", ";"))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (lines("8 + 4 = 13 left: 6 10 13", "13 + 10 = 23 left: 6 23", "23 + 6 = 29"), "wrong arithmetic"),
        (lines("8 + 4 = 12 left: 6 12", "12 * 2 = 24 left: 24"), "a number lost from the list"),
        (lines("8 + 4 = 12 left: 6 10 12 2", "12 * 2 = 24"), "a number added to the list"),
        (lines("8 + 4 = 12 left: 4 6 10 12", "12 + 12 = 24"), "a number kept that was used"),
        (lines("6 * 4 = 24 left: 8 10 24", "10 - 8 = 2 left: 2 24", "24 * 1 = 24"), "a number that is not there"),
        (lines("8 + 8 = 16 left: 4 6 10 16", "16 + 8 = 24"), "a number used twice"),
        (lines("4 - 4 = 0 left: 6 8 10", "6 + 8 = 14 left: 10 14", "14 + 10 = 24"), "a single number minus itself"),
        (lines("6 * 4 = 24 left: 8 10 24", "10 - 8 = 2 left: 2 24"), "the last step is missing"),
        ("6 * 4 = 24", "numbers left over, no list"),
        (lines("6 * 4 = 24", "10 - 8 = 2", "24 / 2 = 12"), "lists left out before the last step"),
        (lines("10 - 8 = 2 left: 2 4 6", "4 - 2 = 2 left: 2 6", "2 / 0 = 24"), "division by zero"),
        (lines("10 - 8 = 2 left: 2 4 6", "4 - 2 = 2 left: 2 6", "6 / 2 = 3", "8 * 3 = 24"), "a step too many"),
        (lines("10 - 8 = 2 left: 2 4 6", "2 * 4 = 8 left: 6 8", "6 + 8 = 14"), "another target"),
        ("", "nothing"),
        (" \n \n", "blank lines"),
        ("24", "only the target"),
        ("six times four", "words"),
        (lines("8 ^ 4 = 4096 left: 6 10 4096"), "an unknown operation"),
        (lines("8 + 4/0 = 12 left: 6 10 12"), "a fraction over zero"),
        (lines("٨ + ٤ = ١٢ left: 6 10 12"), "digits of another script"),  # \d would take them
        (f"{'9' * 5000} + 4 = 12 left: 6 10 12", "an integer that Python refuses to read"),
    ],
)  # fmt: skip
def test_faults_are_refused(text, fault):
    assert TASK.verify(PUZZLE, text) is False, fault
    assert fault == "another target" or TASK.answer(PUZZLE, text) is None, fault


def test_a_long_list_that_ends_badly_is_refused_at_once():
    # A pattern that can split digits in many ways would take time exponential in their number here.
    assert not TASK.verify(PUZZLE, f"8 + 4 = 12 left: {'1' * 60}x")
    assert not TASK.verify(PUZZLE, f"8 + 4 = 12 left: {'1 ' * 5000}x")


def test_an_answer_needs_right_steps_but_not_the_target():
    assert TASK.answer(PUZZLE, RIGHT) == "((4 + 8) - 10) * 6"
    assert not TASK.verify(PUZZLE, RIGHT)  # 12


def test_equal_values_leave_the_answer_independent_of_the_order_of_steps():
    # 4 is there at the start and made twice over: which 4 goes into which step is not written.
    asked = puzzle([1, 2, 2, 3, 4, 5], 99)
    steps = [("2 + 2 = 4", "2 2", "4"), ("3 + 1 = 4", "3 1", "4"), ("4 + 5 = 9", "4 5", "9"),
             ("4 * 4 = 16", "4 4", "16"), ("16 - 9 = 7", "16 9", "7")]  # fmt: skip
    answers = set()
    for order in itertools.permutations(steps):
        left, text = ["1", "2", "2", "3", "4", "5"], []
        try:
            for step, used, made in order:
                for number in used.split():
                    left.remove(number)
                left.append(made)
                text.append(f"{step} left: {' '.join(left)}")
        except ValueError:
            continue  # this order takes a number before it is there
        answers.add(TASK.answer(asked, lines(*text)))
    assert len(answers) == 1
    assert None not in answers


@given(st.integers(0, 2**32 - 1), st.sampled_from([3, 4, 5, 6]), st.sampled_from([2, 15, 100]))
def test_written_derivations_verify_and_stay_reachable(seed, count, max_number):
    derivations = derive(np.random.default_rng(seed), batch=4, count=count, max_number=max_number)
    for (prompt, text), target in zip(solution_texts(derivations), derivations.target, strict=True):
        problem, steps = Problem("any", prompt), text.split("\n")
        assert parse_prompt(prompt)[1] == target
        assert TASK.verify(problem, text)
        assert TASK.answer(problem, text) is not None
        for t in range(max(0, count - 4), count):  # from four numbers left: the exact search grows fast with more
            assert TASK.reachable(problem, "\n".join(steps[:t]))


@given(st.integers(0, 2**32 - 1))
def test_answers_are_equal_for_swapped_operands_and_permuted_steps(seed):
    derivation = derive(np.random.default_rng(seed), batch=1, count=4, max_number=13)
    prompt, text = solution_texts(derivation)[0]
    problem = Problem("any", prompt)
    moves = [tuple(line.split(" left")[0].split()) for line in text.split(" \n ")]
    seen = set()
    for order in itertools.permutations(moves):
        for swap in (False, True):
            left, rewritten = [str(n) for n in derivation.numbers[0]], []
            try:
                for a, op, b, _, result in order:
                    left.remove(a)
                    left.remove(b)
                    left.append(result)
                    first, second = (b, a) if swap and op in "+*" else (a, b)
                    rewritten.append(f"{first} {op} {second} = {result} left: {' '.join(left)}")
            except ValueError:
                continue
            seen.add(TASK.answer(problem, lines(*rewritten)))
    assert seen == {TASK.answer(problem, text)}


@pytest.mark.parametrize(
    "prompt", ["", "Numbers: 4 6", "Numbers: 4 6 8 Target: x", "Numbers: 4, 6 Target: 24", "Evaluate: 3 + 4 \n"]
)
def test_a_foreign_prompt_is_quoted_back(prompt):
    with pytest.raises(ValueError, match="is not of the form 'Numbers: 4 6 8 Target: 24'") as error:
        TASK.verify(Problem("foreign", prompt), RIGHT)
    assert repr(prompt) in str(error.value)


def values_of(numbers):
    """All values that combining all of `numbers` can make, by brute force over trees, without memory or pruning."""
    if len(numbers) == 1:
        return {numbers[0]}
    made = set()
    for i, j in itertools.permutations(range(len(numbers)), 2):  # ordered pairs: a - b and b - a both come up
        rest = [numbers[k] for k in range(len(numbers)) if k not in (i, j)]
        for op in "+-*/":
            result = apply(op, numbers[i], numbers[j])
            if result is not None:
                made |= values_of([*rest, result])
    return made


@pytest.mark.parametrize("numbers", [(1, 2, 7), (0, 3, 5), (5, 5, 5), (1, 3, 4, 9)])
def test_the_solver_agrees_with_brute_force(numbers):
    made = values_of([Fraction(n) for n in numbers])
    ordered = tuple(sorted(map(Fraction, numbers)))
    assert {v for v in range(-40, 150) if solvable(ordered, Fraction(v))} == {v for v in made if v in range(-40, 150)}
    fractions = [value for value in sorted(made) if value.denominator > 1][::7]
    assert fractions
    assert all(solvable(ordered, value) for value in fractions)


def test_reachability_of_prefixes():
    asked = puzzle([4, 6, 8, 10], 24)
    assert TASK.reachable(asked, "")
    assert TASK.reachable(asked, "8 - 6 = 2 left: 2 4 10 \n")  # 2 * 10 + 4
    assert not TASK.reachable(asked, "8 + 6 = 14 left: 4 10 14 \n")
    assert not TASK.reachable(asked, "8 - 6 = 3 left: 3 4 10 \n")  # a wrong step
    assert not TASK.reachable(puzzle([1, 1, 1, 1], 24), "")
    for first in itertools.combinations((4, 6, 8, 10), 2):
        for op in "+-*/":
            result = apply(op, Fraction(first[1]), Fraction(first[0]))
            left = [Fraction(n) for n in (4, 6, 8, 10) if n not in first] + [result]
            step = f"{first[1]} {op} {first[0]} = {result} left: {' '.join(map(str, left))}"
            assert TASK.reachable(asked, step) == (Fraction(24) in values_of(left))


def test_replay_gives_what_is_left_in_order():
    assert replay(tuple(map(Fraction, (4, 6, 8, 10))), ["6 / 8 = 3/4 left: 4 10 3/4"]) == (Fraction(3, 4), 4, 10)
    assert replay(tuple(map(Fraction, (4, 6))), []) == (4, 6)
