"""What a task is: problems with a prompt, steps, an exact verifier and an exact reachability oracle.

`decode` sees tasks only through this protocol, so a user's own task needs these names and nothing more.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable


class Problem(NamedTuple):
    """One problem: `id` names it in every table, `prompt` is what the language model reads."""

    id: str
    prompt: str


@runtime_checkable
class Task(Protocol):
    """Problems whose solutions are written in steps and can be checked exactly.

    `name` is the command-line name; `step_delimiter` ends every step but the last; `max_steps` bounds the
    steps of a solution and `max_step_tokens` the tokens of one step, delimiter included. `numeric_answers`
    says that a problem has one right answer, so that votes for equal answers add up. Plain attributes will do: they
    are properties here only because nobody assigns to them.
    """

    @property
    def name(self) -> str: ...

    @property
    def step_delimiter(self) -> str: ...

    @property
    def max_steps(self) -> int: ...

    @property
    def max_step_tokens(self) -> int: ...

    @property
    def numeric_answers(self) -> bool: ...

    def problems(self, num: int, *, seed: int = 0) -> Sequence[Problem]:
        """The first `num` problems of the evaluation set that `seed` names."""
        ...

    def verify(self, problem: Problem, text: str) -> bool:
        """Is `text` (what follows the prompt) a complete, right solution?"""
        ...

    def answer(self, problem: Problem, text: str) -> str | None:
        """The canonical answer that `text` states, or None where it states none."""
        ...

    def reachable(self, problem: Problem, prefix: str) -> bool:
        """Can some continuation of `prefix` (whole steps) still be a right solution? Exact."""
        ...


def steps_of(text: str, delimiter: str) -> list[str]:
    """The non-empty steps of `text`, stripped of blanks."""
    return [step for step in (part.strip() for part in text.split(delimiter)) if step]
