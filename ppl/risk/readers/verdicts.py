"""Cells to right and wrong, and cells to counts: nothing is guessed, and what was taken for what is said."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from ppl.risk.readers.table import listed

Where = Callable[[int], str]  # where a row is, for the error
Meaning = Literal["correct", "incorrect", "partial", "missing", "unclear"]
_WORDS: Mapping[str, Meaning] = {
    **dict.fromkeys(("true", "t", "yes", "pass", "passed", "correct", "right"), "correct"),
    **dict.fromkeys(("false", "f", "no", "fail", "failed", "incorrect", "wrong"), "incorrect"),
}
_BLANK = ("", "nan", "na", "n/a", "null", "none", "<na>")


@dataclasses.dataclass(frozen=True)
class Judging:
    """What the user decided about verdicts that are neither right nor wrong.

    - `threshold`: scores from it up are correct; without one, a score other than 0 and 1 is an error;
    - `partial`: what partial credit (inspect_ai's `P`) counts as; without it, partial credit is an error;
    - `missing`: an attempt without a verdict is `incorrect`, or left out (`drop`); without it, an error.
    """

    threshold: float | None = None
    partial: str | None = None
    missing: str | None = None

    def __post_init__(self):
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise ValueError(f"threshold: a finite number is wanted, got {self.threshold}")
        if self.partial not in (None, "correct", "incorrect"):
            raise ValueError(f"partial: 'correct' or 'incorrect' is wanted, got {self.partial!r}")
        if self.missing not in (None, "incorrect", "drop"):
            raise ValueError(f"missing: 'incorrect' or 'drop' is wanted, got {self.missing!r}")


class Verdicts(NamedTuple):
    """Which attempts were right, which of the rows count, and what was decided on the way."""

    correct: Bool[np.ndarray, " rows"]
    kept: Bool[np.ndarray, " rows"]
    notes: list[str]


def judge(
    name: str, cells: Sequence[Any], where: Where, judging: Judging, words: Mapping[str, Meaning] | None = None
) -> Verdicts:
    """Right or wrong for each cell: 0, 1, truth values, and words for them.

    **Arguments:** `name` of the column, for the notes; `cells`; `where` a row is; `judging`; `words`: texts that mean
    something in this format, as they are written.

    **Raises:** `ValueError` naming the row with a cell that means neither, a blank one or partial credit without a
    decision in `judging` about them.
    """
    for row, cell in enumerate(cells):
        if isinstance(cell, list | dict):
            raise ValueError(f"{where(row)}: one value is wanted, got {cell!r:.60}")
    # The meaning of each distinct cell is found once. A truth value equals 0 or 1 to Python, and means the same.
    meanings: dict[Any, Meaning] = {cell: _meaning(cell, judging.threshold, words or {}) for cell in set(cells)}
    decisions: dict[Meaning, str | None] = {
        "correct": "correct", "incorrect": "incorrect", "partial": judging.partial, "missing": judging.missing,
        "unclear": None,
    }  # fmt: skip
    decided = [decisions[meanings[cell]] for cell in cells]
    if None in decided:
        row = decided.index(None)
        raise ValueError(f"{where(row)}: {_complaint(cells[row], meanings[cells[row]])}")
    correct = np.array([decision == "correct" for decision in decided], dtype=bool)
    kept = np.array([decision != "drop" for decision in decided], dtype=bool)
    return Verdicts(correct, kept, _notes(name, cells, meanings, judging))


def counts(cells: Sequence[Any], where: Where) -> Int[np.ndarray, " rows"]:
    """Cells as whole numbers from 0 up. **Raises:** `ValueError` naming the row that has none."""
    try:
        numbers = np.array([math.nan if _unlike_a_number(cell) else float(cell) for cell in cells], dtype=np.float64)
    except (TypeError, ValueError):
        numbers = np.array([_number(cell) for cell in cells], dtype=np.float64)
    bad = np.flatnonzero(~((numbers >= 0) & (numbers == np.floor(numbers)) & (numbers <= 2**53)))
    if bad.size:
        cell = cells[bad[0]]
        said = "blank" if _is_blank(cell) else repr(cell)
        raise ValueError(f"{where(int(bad[0]))}: is {said}; a whole number from 0 up is wanted")
    return numbers.astype(np.int64)


def _meaning(cell: Any, threshold: float | None, words: Mapping[str, Meaning]) -> Meaning:
    if _is_blank(cell):
        return "missing"
    word = cell.strip() if isinstance(cell, str) else ""
    if word in words or word.lower() in _WORDS:
        return words[word] if word in words else _WORDS[word.lower()]
    number = _number(cell)
    if not math.isfinite(number) or (threshold is None and number not in (0, 1)):
        return "unclear"
    return "correct" if number >= (1 if threshold is None else threshold) else "incorrect"


def _complaint(cell: Any, meaning: Meaning) -> str:
    if meaning == "partial":
        return f"{cell!r} is partial credit; partial='correct' or 'incorrect' says what it counts as"
    if meaning == "missing":
        return "no verdict; missing='incorrect' or 'drop' says how to count such attempts"
    if math.isfinite(_number(cell)):
        return f"{cell!r} is neither 0 nor 1; threshold=NUMBER counts scores from that number up as correct"
    return f"{cell!r} is neither right nor wrong; 0, 1, true or false is wanted"


def _notes(name: str, cells: Sequence[Any], meanings: Mapping[Any, Meaning], judging: Judging) -> list[str]:
    notes = []
    if judging.threshold is not None:
        notes.append(f"{name}: scores from {judging.threshold:g} up are counted as correct")
    else:
        said = []
        for word in ("correct", "incorrect"):
            seen = sorted({_shown(cell) for cell, meaning in meanings.items() if meaning == word})
            said += [f"{', '.join(seen)} as {word}"] if seen else []
        notes += [f"{name}: {' and '.join(said)}"] if said else []
    for meaning, kind, decision in (
        ("partial", "with partial credit", judging.partial),
        ("missing", "without a verdict", judging.missing),
    ):
        if meaning in meanings.values():
            num = sum(meanings[cell] == meaning for cell in cells)
            how = "left out" if decision == "drop" else f"counted as {decision}"
            notes.append(f"{name}: {num} attempts {kind} are {how}")
    return notes


def _shown(cell: Any) -> str:
    return listed([cell.strip()]) if isinstance(cell, str) else str(cell)


def _is_blank(cell: Any) -> bool:
    if isinstance(cell, str):
        return cell.strip().lower() in _BLANK
    return cell is None or (isinstance(cell, float) and math.isnan(cell))


def _unlike_a_number(cell: Any) -> bool:
    """What Python's `float` takes and a count is not: truth values, and digits grouped by underscores."""
    return isinstance(cell, bool) or (isinstance(cell, str) and "_" in cell)


def _number(cell: Any) -> float:
    """A cell as a number, NaN if it is none."""
    if isinstance(cell, str) and "_" in cell:
        return math.nan
    try:
        return float(cell)
    except (TypeError, ValueError):
        return math.nan
