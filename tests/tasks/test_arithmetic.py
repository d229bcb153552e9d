import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppl.tasks import Arithmetic, Problem
from ppl.tasks.arithmetic import demonstration, prompt_text, random_expression, true_steps, value_of
from ppl.tasks.holdout import text_held_out

ASKED = Problem("one", prompt_text("( 3 + 4 ) * ( 9 - 7 )"))
RIGHT = "3 + 4 = 7 \n 9 - 7 = 2 \n 7 * 2 = 14"
TASK = Arithmetic(3)


@given(st.integers(0, 2**32), st.integers(1, 8), st.sampled_from([1, 20, 999]))
def test_expressions_steps_and_values_agree_with_python(seed, depth, max_number):
    expression, steps, value = random_expression(random.Random(seed), depth=depth, max_number=max_number)
    assert eval(expression) == value
    assert len(steps) == depth
    for step in steps:
        left, right = step.split(" = ")
        assert eval(left) == int(right)
        assert 0 <= int(right) <= 999
    assert all(1 <= int(n) <= max_number for n in re.findall(r"\d+", expression))
    problem = Problem("any", prompt_text(expression))
    assert true_steps(problem) == steps
    assert value_of(problem) == value
    task = Arithmetic(depth, max_number)
    assert task.verify(problem, "\n".join(steps))
    assert task.answer(problem, "\n".join(steps)) == str(value)
    assert all(task.reachable(problem, "\n".join(steps[:t])) for t in range(depth + 1))


def test_a_right_solution():
    assert TASK.verify(ASKED, RIGHT)
    assert TASK.verify(ASKED, RIGHT.replace(" \n ", "\n") + "\n")
    assert TASK.answer(ASKED, RIGHT) == "14"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("3 + 4 = 8 \n 9 - 7 = 2 \n 8 * 2 = 16", "16"),  # a wrong step, and so a wrong answer
        ("3 + 4 = 7 \n 9 - 7 = 2 \n 7 * 2 = 15", "15"),
        ("3 + 4 = 7 \n 9 - 7 = 2 \n 7 * 2 = 015", "15"),  # the same answer, written otherwise
        ("3 + 4 = 7 \n 9 - 7 = 2 \n 7 * 2 = 000", "0"),
        ("3 + 4 = 7 \n 9 - 7 = 2", None),  # the last step is missing
        ("3 + 4 = 7 \n 9 - 7 = 2 \n 7 * 2 = 14 \n 14 + 0 = 14", None),  # one too many
        ("3 + 4 = 7 \n 9 - 7 = 2 \n 7 * 2 = -14", None),
        ("3 + 4 = 7 \n 9 - 7 = 2 \n 7 * 2 = ١٤", None),
        ("3 + 4 = 7 \n 9 - 7 = 2 \n 14", None),
        ("fourteen", None),
        ("", None),
    ],
)
def test_wrong_texts_and_the_answers_they_state(text, answer):
    assert TASK.verify(ASKED, text) is False
    assert TASK.answer(ASKED, text) == answer


def test_the_number_counts_for_the_verifier_and_the_way_for_the_oracle():
    lucky = "3 + 4 = 8 \n 9 - 7 = 2 \n 7 * 2 = 14"
    assert TASK.verify(ASKED, lucky)
    assert not TASK.reachable(ASKED, lucky)
    assert not TASK.reachable(ASKED, "3 + 4 = 8")
    assert not TASK.reachable(ASKED, "9 - 7 = 2")  # a true step, out of order
    assert not TASK.reachable(ASKED, RIGHT + " \n 14 + 0 = 14")
    assert TASK.reachable(ASKED, "3 + 4 = 7 \n ")


@pytest.mark.parametrize(
    "prompt",
    ["", "Evaluate: ", "Evaluate: 7", "Evaluate: 3 +", "Evaluate: ( 3 + 4", "Evaluate: 3 + 4 ) * 5",
     "Evaluate: 3 / 4", "Evaluate: 3 + 4 + 5", "Evaluate: ( 3 + 4 ) ( 5 + 6 )", "Numbers: 4 6 8 Target: 24 \n"],
)  # fmt: skip
def test_a_foreign_prompt_is_quoted_back(prompt):
    with pytest.raises(ValueError, match=r"is not of the form 'Evaluate: \( 3 \+ 4 \) \* 5'") as error:
        TASK.verify(Problem("foreign", prompt), RIGHT)
    assert repr(prompt) in str(error.value)


@pytest.mark.parametrize("depth", [1, 3, 6, 8])
def test_problems_are_held_out_reproducible_and_do_not_repeat(depth):
    task = Arithmetic(depth)
    problems = task.problems(15, seed=2)
    assert problems == task.problems(15, seed=2)
    assert list(problems)[:10] == list(task.problems(10, seed=2))
    assert {p.id for p in problems} != {p.id for p in task.problems(15, seed=3)}
    assert len({p.id for p in problems}) == len({p.prompt for p in problems}) == 15
    for problem in problems:
        assert text_held_out(problem.prompt.removeprefix("Evaluate: ").removesuffix(" \n"))
        assert len(true_steps(problem)) == depth == task.max_steps


def test_demonstrations_are_right_and_not_held_out():
    rng = random.Random(0)
    for _ in range(300):
        prompt, solution = demonstration(rng, depth=2, max_number=20)
        assert not text_held_out(prompt.removeprefix("Evaluate: ").removesuffix(" \n"))
        assert Arithmetic(2).verify(Problem("any", prompt), solution)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 0}, "depth must be 1 to 8 operations, got 0"),
        ({"depth": 9}, "depth must be 1 to 8 operations, got 9"),
        ({"max_number": 0}, "max_number must be 1 to 999, got 0"),
        ({"max_number": 1000}, "max_number must be 1 to 999, got 1000"),
    ],
)
def test_bad_sizes_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Arithmetic(**arguments)


def test_bad_requests_are_named():
    with pytest.raises(ValueError, match="num must be at least 0, got -1"):
        TASK.problems(-1)
    assert TASK.problems(0) == []
    with pytest.raises(ValueError, match=r"num=9: only \d held-out expressions of depth 1 were found"):
        Arithmetic(1, max_number=3).problems(9)
