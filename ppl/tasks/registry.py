"""Tasks by name, for the command line: `countdown`, `countdown-5`, `arithmetic-6`, `game24`."""

import re
from collections.abc import Callable

from ppl.tasks.arithmetic import Arithmetic
from ppl.tasks.countdown import Countdown
from ppl.tasks.game24 import Game24
from ppl.tasks.protocol import Task

# A number after the name sets the size: numbers of a Countdown puzzle, operations of an expression.
TASKS: dict[str, Callable[..., Task]] = {"arithmetic": Arithmetic, "countdown": Countdown, "game24": Game24}


def task_named(name: str) -> Task:
    """The task that `name` (with an optional `-SIZE`) stands for.

    **Raises:** `ValueError` listing the known tasks, or saying which sizes the task takes.
    """
    base, dash, size = name.partition("-")
    if base not in TASKS or (dash and (base == "game24" or not re.fullmatch("[0-9]+", size))):
        raise ValueError(
            f"task {name!r} is not known; known are {', '.join(TASKS)}, with a size as in countdown-5 or arithmetic-6"
        )
    return TASKS[base](int(size)) if dash else TASKS[base]()
