"""Countdown: combine all the given numbers with +, -, *, / into the target, one operation a step.

A step reads `8 + 4 = 12 left: 4 6 12`; the last step may leave out `left:`. Arithmetic is exact (fractions), every
number is used once, and the verifier recomputes each step, the list of what is left included.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import combinations, permutations

import numpy as np

from ppl.tasks.countdown_corpus import derive, prompt_text
from ppl.tasks.holdout import in_bucket, puzzle_hash
from ppl.tasks.protocol import Problem, steps_of

Numbers = tuple[Fraction, ...]
# Digits are bounded, because Python refuses to read very long integers; no denominator begins with 0, so none is 0.
_NUMBER = r"-?[0-9]{1,30}(?:/[1-9][0-9]{0,29})?"
_STEP = re.compile(rf"({_NUMBER}) ([-+*/]) ({_NUMBER}) = ({_NUMBER})(?: left:((?: {_NUMBER})+))?")


@dataclass(frozen=True)
class Countdown:
    """Puzzles of `count` numbers (3 to 6) in 1..`max_number` with targets 10..`max_target`, all solvable.

    **Raises:** `ValueError` if `count`, `max_number` or `max_target` is out of range.
    """

    count: int = 4
    max_number: int = 15
    max_target: int = 999
    name: str = "countdown"
    step_delimiter: str = "\n"
    numeric_answers: bool = False

    def __post_init__(self) -> None:
        if not 3 <= self.count <= 6:
            raise ValueError(f"count must be 3 to 6 numbers, got {self.count}")
        if not 1 <= self.max_number <= 100:
            raise ValueError(f"max_number must be 1 to 100, got {self.max_number}")
        if not 10 <= self.max_target <= 999:
            raise ValueError(f"max_target must be 10 to 999, got {self.max_target}")

    @property
    def max_steps(self) -> int:
        return self.count - 1

    @property
    def max_step_tokens(self) -> int:
        return 5 + 1 + (self.count - 1) + 1  # a op b = c, left:, what is left, delimiter

    def problems(self, num: int, *, seed: int = 0) -> Sequence[Problem]:
        """The first `num` held-out puzzles of evaluation set `seed`, without repeats."""
        if num < 0:
            raise ValueError(f"num must be at least 0, got {num}")
        if seed < 0:
            raise ValueError(f"seed must be at least 0, got {seed}")
        rng = np.random.default_rng([seed, self.count, self.max_number, self.max_target])
        found: dict[str, Problem] = {}
        for _ in range(1000):
            if len(found) >= num:
                return list(found.values())[:num]
            batch = derive(rng, batch=20_000, count=self.count, max_number=self.max_number)
            wanted = in_bucket(puzzle_hash(batch.numbers, batch.target))
            wanted &= (batch.target >= 10) & (batch.target <= self.max_target)
            for numbers, target in zip(batch.numbers[wanted].tolist(), batch.target[wanted].tolist(), strict=True):
                problem = puzzle(numbers, target)
                found.setdefault(problem.id, problem)
        raise ValueError(f"num={num}: only {len(found)} held-out puzzles of this kind were found")

    def verify(self, problem: Problem, text: str) -> bool:
        """Every step is right and uses what is there, and the last leaves the target alone."""
        numbers, target = parse_prompt(problem.prompt)
        return replay(numbers, steps_of(text, self.step_delimiter)) == (Fraction(target),)

    def answer(self, problem: Problem, text: str) -> str | None:
        """The expression that the steps build, canonical up to order of steps and operands; None if a step is wrong."""
        numbers, _ = parse_prompt(problem.prompt)
        return expression(numbers, steps_of(text, self.step_delimiter))

    def reachable(self, problem: Problem, prefix: str) -> bool:
        """Whether the target can still be made from what `prefix` leaves, by exact search."""
        numbers, target = parse_prompt(problem.prompt)
        left = replay(numbers, steps_of(prefix, self.step_delimiter))
        return left is not None and solvable(left, Fraction(target))


def puzzle(numbers: Sequence[int], target: int) -> Problem:
    """The problem that asks for `target` from `numbers`."""
    ordered = sorted(numbers)
    return Problem(f"countdown-{'-'.join(map(str, ordered))}-to-{target}", prompt_text(ordered, target))


def parse_prompt(prompt: str) -> tuple[Numbers, int]:
    """(numbers, target) of a prompt.

    **Raises:** `ValueError` quoting a prompt that is not of the form `Numbers: a b c Target: t`.
    """
    match = re.fullmatch(r"\s*Numbers: ((?:[0-9]+ )+)Target: ([0-9]+)\s*", prompt)
    if match is None:
        raise ValueError(f"prompt {prompt!r} is not of the form 'Numbers: 4 6 8 Target: 24'")
    return tuple(Fraction(n) for n in match[1].split()), int(match[2])


def replay(numbers: Numbers, steps: Sequence[str]) -> Numbers | None:
    """The numbers left after `steps`, sorted, or None at the first step that is malformed or wrong."""
    left = Counter(numbers)
    for index, step in enumerate(steps):
        match = _STEP.fullmatch(step)
        if match is None:
            return None
        a, op, b, result = Fraction(match[1]), match[2], Fraction(match[3]), Fraction(match[4])
        left.subtract([a, b])
        if min(left.values()) < 0 or apply(op, a, b) != result:
            return None
        left += Counter([result])  # also drops the zero counts
        stated = match[5]
        if stated is None and index < len(numbers) - 2:
            return None  # only the last step may leave the list out
        if stated is not None and Counter(Fraction(n) for n in stated.split()) != left:
            return None
    return tuple(sorted(left.elements()))


def apply(op: str, a: Fraction, b: Fraction) -> Fraction | None:
    """a op b, or None for a division by zero."""
    if op == "/":
        return a / b if b else None
    return a + b if op == "+" else a - b if op == "-" else a * b


def expression(numbers: Numbers, steps: Sequence[str]) -> str | None:
    """The nested expression of a complete derivation, operands of + and * sorted; None if it is incomplete or wrong.

    Where two parts have one value, the steps do not say which of them is meant. The least text over all orders of the
    steps is taken, so that derivations with the same steps have the same expression.
    """
    if len(steps) != len(numbers) - 1 or replay(numbers, steps) is None:
        return None
    parsed = []
    for step in steps:
        match = _STEP.fullmatch(step)
        assert match is not None  # replay has accepted it
        parsed.append((Fraction(match[1]), match[2], Fraction(match[3]), Fraction(match[4])))
    return min(text for order in permutations(parsed) if (text := _nested(numbers, order)) is not None)


def _nested(numbers: Numbers, steps: Sequence[tuple[Fraction, str, Fraction, Fraction]]) -> str | None:
    """The nested expression of steps (a, op, b, result) in this order; None if one comes before what it needs."""
    texts: dict[Fraction, list[str]] = {}
    for number in numbers:
        texts.setdefault(number, []).append(str(number))
    text = ""
    for a, op, b, result in steps:
        operands = []
        for value in (a, b):
            if not texts.get(value):
                return None
            operands.append(min(texts[value]))
            texts[value].remove(operands[-1])
        if op in "+*":
            operands.sort()
        text = f"({operands[0]} {op} {operands[1]})"
        texts.setdefault(result, []).append(text)
    return text[1:-1]


@lru_cache(maxsize=1 << 18)
def solvable(left: Numbers, target: Fraction) -> bool:
    """Can all of `left` be combined into `target`? Exact search with memory over sorted states."""
    if len(left) == 1:
        return left[0] == target
    for i, j in combinations(range(len(left)), 2):
        rest = [left[k] for k in range(len(left)) if k not in (i, j)]
        a, b = left[i], left[j]
        results = {a + b, a - b, b - a, a * b} | ({a / b} if b else set()) | ({b / a} if a else set())
        if any(solvable(tuple(sorted([*rest, result])), target) for result in results):
            return True
    return False
