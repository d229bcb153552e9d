import pytest

from ppl.tasks import TASKS, Arithmetic, Countdown, Game24, Task, task_named


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("countdown", Countdown()),
        ("countdown-5", Countdown(5)),
        ("arithmetic", Arithmetic()),
        ("arithmetic-3", Arithmetic(3)),
        ("game24", Game24()),
    ],
)
def test_names(name, task):
    assert task_named(name) == task
    assert isinstance(task, Task)
    assert task.name in TASKS


@pytest.mark.parametrize("name", ["", "sudoku", "countdown-", "countdown-x", "countdown-²", "game24-4", "-3", "Game24"])
def test_an_unknown_name_lists_the_known(name):
    with pytest.raises(ValueError, match="known are arithmetic, countdown, game24, with a size as in") as error:
        task_named(name)
    assert repr(name) in str(error.value)


def test_a_size_out_of_range_says_the_range():
    with pytest.raises(ValueError, match="count must be 3 to 6 numbers, got 7"):
        task_named("countdown-7")


@pytest.mark.parametrize("name", ["countdown", "arithmetic-8", "game24"])
def test_steps_fit_their_bounds(name):
    from models.countdown.corpus import tokenizer

    task = task_named(name)
    words = tokenizer()
    for problem in task.problems(20):
        assert 3 not in words.encode(problem.prompt).ids  # nothing that the bundled models do not know
    longest = {"countdown": "15 + 15 = 30 left: 15 15 30 \n", "game24": "13 - 2 = 11 left: 3 4 11 \n"}
    step = longest.get(name, "999 - 20 = 979 \n")
    assert len(words.encode(step, add_special_tokens=False).ids) <= task.max_step_tokens
