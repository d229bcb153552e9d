"""Generated problems with exact verifiers: Countdown, Game of 24, arithmetic.

A task gives problems (an id and a prompt), the delimiter between steps, a verifier, the answer a text states, and an
exact oracle of whether a prefix can still be completed; see `ppl.tasks.protocol.Task`. Evaluation problems are drawn
from a held-out hash bucket that training corpora leave out (`ppl.tasks.holdout`).
"""

from ppl.tasks.arithmetic import Arithmetic
from ppl.tasks.countdown import Countdown, puzzle
from ppl.tasks.game24 import Game24, published_samples, puzzles
from ppl.tasks.protocol import Problem, Task
from ppl.tasks.registry import TASKS, task_named

__all__ = [
    "TASKS",
    "Arithmetic",
    "Countdown",
    "Game24",
    "Problem",
    "Task",
    "published_samples",
    "puzzle",
    "puzzles",
    "task_named",
]
