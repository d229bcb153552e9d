"""Written solutions of random Countdown puzzles: the corpus that the bundled language model trains on.

Puzzles are made forwards: draw numbers, then combine a random pair by a random exact operation until one
number is left, which becomes the target. Given (numbers, target) the steps are therefore a draw from the
posterior over solutions under this prior, which is what a language model of the corpus learns to sample.
Generation is vectorised over puzzles; a Python loop runs over the few steps only.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, UInt64

from ppl.tasks.holdout import puzzles_held_out

OPERATIONS = "+-*/"
MAX_VALUE = 999  # the largest number, intermediate or final, that a step may write


class Derivations(NamedTuple):
    """A batch of random derivations with `count` numbers each.

    `numbers` [batch, count] sorted; `left`, operation index, `right`, `result` [batch, count - 1] per step;
    `states` the sorted numbers left after each step (a list of [batch, count - 1 - t]); `target` [batch].
    """

    numbers: Int[np.ndarray, "batch count"]
    left: Int[np.ndarray, "batch steps"]
    operation: Int[np.ndarray, "batch steps"]
    right: Int[np.ndarray, "batch steps"]
    result: Int[np.ndarray, "batch steps"]
    states: list[Int[np.ndarray, "batch _"]]
    target: Int[np.ndarray, " batch"]


def derive(rng: np.random.Generator, *, batch: int, count: int, max_number: int) -> Derivations:
    """`batch` random derivations from `count` numbers in 1..`max_number`; values stay in 0..999."""
    state = np.sort(rng.integers(1, max_number + 1, (batch, count)), axis=1)
    numbers, columns, states = state, [], []
    rows = np.arange(batch)
    for size in range(count, 1, -1):
        pairs = np.asarray([(i, j) for j in range(size) for i in range(j)])
        low, high = pairs[rng.integers(0, len(pairs), batch)].T
        small, large = state[rows, low], state[rows, high]  # sorted state, so large >= small
        divisor = np.maximum(small, 1)
        results = np.stack([large + small, large - small, large * small, large // divisor])
        valid = results <= MAX_VALUE
        valid[3] = (small > 0) & (large % divisor == 0)
        operation = np.argmax(rng.random((4, batch)) * valid, axis=0)
        result = results[operation, rows]
        keep = np.ones((batch, size), bool)
        keep[rows, low] = keep[rows, high] = False
        state = np.sort(np.concatenate([state[keep].reshape(batch, size - 2), result[:, None]], axis=1), axis=1)
        columns.append((large, operation, small, result))
        states.append(state)
    left, operation, right, result = (np.stack(c, axis=1) for c in zip(*columns, strict=True))
    return Derivations(numbers, left, operation, right, result, states, state[:, 0])


def select(derivations: Derivations, mask: Bool[np.ndarray, " batch"]) -> Derivations:
    """The derivations where `mask` holds."""
    d = derivations
    return Derivations(
        d.numbers[mask], d.left[mask], d.operation[mask], d.right[mask], d.result[mask],
        [s[mask] for s in d.states], d.target[mask],
    )  # fmt: skip


def training_mask(derivations: Derivations, *, named: UInt64[np.ndarray, " names"]) -> Bool[np.ndarray, " batch"]:
    """True where neither the puzzle nor any state of three or more numbers on the way is held out.

    A five-number derivation passes through four-number states with the same target: those are puzzles too.
    """
    held = puzzles_held_out(derivations.numbers, derivations.target, named=named)
    for state in derivations.states:
        if state.shape[1] >= 3:
            held |= puzzles_held_out(state, derivations.target, named=named)
    return ~held


def prompt_text(numbers: list[int], target: int) -> str:
    """The prompt of a puzzle; the numbers are written in ascending order."""
    return f"Numbers: {' '.join(map(str, sorted(numbers)))} Target: {target} \n"


def solution_texts(derivations: Derivations) -> list[tuple[str, str]]:
    """(prompt, solution) of each derivation, one step a line, the last without a list of what is left."""
    texts = []
    last = len(derivations.states) - 1
    states = [state.tolist() for state in derivations.states]
    table = zip(
        derivations.numbers.tolist(), derivations.target.tolist(), derivations.left.tolist(),
        derivations.operation.tolist(), derivations.right.tolist(), derivations.result.tolist(), strict=True,
    )  # fmt: skip
    for row, (numbers, target, left, operation, right, result) in enumerate(table):
        lines = []
        for t in range(last + 1):
            line = f"{left[t]} {OPERATIONS[operation[t]]} {right[t]} = {result[t]}"
            lines.append(line if t == last else f"{line} left: {' '.join(map(str, states[t][row]))}")
        texts.append((prompt_text(numbers, target), " \n ".join(lines)))
    return texts
