"""Arithmetic: nested integer expressions evaluated in written steps; each problem has one numeric answer.

A step evaluates the leftmost operation whose operands are known: `3 + 4 = 7`. The dial is `depth`, the number
of operations. Values stay in 0..999. Because answers are numbers, votes for equal answers add up.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ppl.tasks.holdout import text_held_out
from ppl.tasks.protocol import Problem, steps_of

MAX_VALUE = 999
_STEP = re.compile(r"([0-9]+) ([+*-]) ([0-9]+) = ([0-9]+)")
_APPLY = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}


def random_expression(rng: random.Random, *, depth: int, max_number: int) -> tuple[str, list[str], int]:
    """A random expression with `depth` operations: (text, steps in order of evaluation, value).

    The tree splits uniformly; each operation is drawn among those that keep its value in 0..999; a tree
    that has none is drawn anew.
    """
    while True:
        steps: list[str] = []
        built = _build(rng, depth, max_number, steps)
        if built is not None:
            text, value = built
            return (text[2:-2] if depth else text), steps, value


def prompt_text(expression: str) -> str:
    """The prompt that asks for the value of `expression`."""
    return f"Evaluate: {expression} \n"


def demonstration(rng: random.Random, *, depth: int, max_number: int) -> tuple[str, str]:
    """(prompt, solution) of a random expression outside the held-out bucket, for training."""
    while True:
        expression, steps, _ = random_expression(rng, depth=depth, max_number=max_number)
        if not text_held_out(expression):
            return prompt_text(expression), " \n ".join(steps)


@dataclass(frozen=True)
class Arithmetic:
    """Nested expressions with `depth` operations (1 to 8) on numbers 1..`max_number`.

    **Raises:** `ValueError` if `depth` or `max_number` is out of range.
    """

    depth: int = 6
    max_number: int = 20
    name: str = "arithmetic"
    step_delimiter: str = "\n"
    numeric_answers: bool = True
    max_step_tokens: int = 6  # a op b = c, delimiter

    def __post_init__(self) -> None:
        if not 1 <= self.depth <= 8:
            raise ValueError(f"depth must be 1 to 8 operations, got {self.depth}")
        if not 1 <= self.max_number <= MAX_VALUE:
            raise ValueError(f"max_number must be 1 to {MAX_VALUE}, got {self.max_number}")

    @property
    def max_steps(self) -> int:
        return self.depth

    def problems(self, num: int, *, seed: int = 0) -> Sequence[Problem]:
        """The first `num` held-out expressions of evaluation set `seed`, without repeats."""
        if num < 0:
            raise ValueError(f"num must be at least 0, got {num}")
        rng = random.Random(f"arithmetic-{self.depth}-{self.max_number}-{seed}")
        found: dict[str, Problem] = {}
        for _ in range(10_000 + 2_000 * num):
            if len(found) == num:
                break
            expression, _, _ = random_expression(rng, depth=self.depth, max_number=self.max_number)
            if text_held_out(expression) and expression not in found:
                found[expression] = Problem(f"arithmetic-{expression.replace(' ', '')}", prompt_text(expression))
        if len(found) < num:
            raise ValueError(f"num={num}: only {len(found)} held-out expressions of depth {self.depth} were found")
        return list(found.values())

    def verify(self, problem: Problem, text: str) -> bool:
        """Right if the last step states the expression's value, however it was reached."""
        return self.answer(problem, text) == str(value_of(problem))

    def answer(self, problem: Problem, text: str) -> str | None:
        """The number that the last of exactly `depth` steps states."""
        steps = steps_of(text, self.step_delimiter)
        match = _STEP.fullmatch(steps[-1]) if len(steps) == self.depth else None
        return (match[4].lstrip("0") or "0") if match else None

    def reachable(self, problem: Problem, prefix: str) -> bool:
        """True if every written step is one of the true evaluation, in order.

        This is stricter than `verify`, which a wrong step followed by a lucky one also passes.
        """
        steps, truth = steps_of(prefix, self.step_delimiter), true_steps(problem)
        return steps == truth[: len(steps)]


def true_steps(problem: Problem) -> list[str]:
    """The steps of the right evaluation of a problem's expression.

    **Raises:** `ValueError` quoting a prompt that is not `Evaluate:` and an expression with all its parentheses.
    """
    steps: list[str] = []
    stack: list[list[str]] = [[]]
    for token in ["(", *problem.prompt.removeprefix("Evaluate:").split(), ")"]:
        if token == "(":
            stack.append([])
        elif token == ")":
            step = re.fullmatch("(-?[0-9]+) ([+*-]) (-?[0-9]+)", " ".join(stack.pop()))
            if step is None or not stack:
                break
            value = str(_APPLY[step[2]](int(step[1]), int(step[3])))
            steps.append(f"{step[0]} = {value}")
            stack[-1].append(value)
        else:
            stack[-1].append(token)
    else:
        if len(stack) == 1 and len(stack[0]) == 1:
            return steps
    raise ValueError(f"prompt {problem.prompt!r} is not of the form 'Evaluate: ( 3 + 4 ) * 5'")


def value_of(problem: Problem) -> int:
    """The right value of a problem's expression."""
    return int(true_steps(problem)[-1].split()[-1])


def _build(rng: random.Random, size: int, max_number: int, steps: list[str]) -> tuple[str, int] | None:
    """(parenthesised text, value) of a random tree with `size` operations, or None if it has no valid operation."""
    if size == 0:
        value = rng.randint(1, max_number)
        return str(value), value
    left_size = rng.randrange(size)
    left = _build(rng, left_size, max_number, steps)
    right = left and _build(rng, size - 1 - left_size, max_number, steps)
    if left is None or right is None:
        return None
    results = {op: apply(left[1], right[1]) for op, apply in _APPLY.items()}
    allowed = [op for op, value in results.items() if 0 <= value <= MAX_VALUE]
    if not allowed:
        return None
    op = rng.choice(allowed)
    steps.append(f"{left[1]} {op} {right[1]} = {results[op]}")
    return f"( {left[0]} {op} {right[0]} )", results[op]
