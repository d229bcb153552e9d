"""From rows to counts of each problem: what all formats have in common once it is known which cell means what."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Int

from ppl.risk.readers.columns import GROUPS, ROLES, choose, normal
from ppl.risk.readers.table import Table, listed, text, texts
from ppl.risk.readers.verdicts import Judging, Meaning, counts, judge


@dataclasses.dataclass(frozen=True, eq=False)
class Tally:
    """Counts of each problem, and how they were found.

    - `problems`, `successes`, `trials`: problems in the order in which they first appear;
    - `layout`: whether a row of the file was a problem or an attempt; `columns`: what was read, by role;
    - `rule`: what the file says about the stopping rule, if anything; `rows` read; `notes`, sentences.
    """

    problems: tuple[str, ...]
    successes: Int[np.ndarray, " problems"]
    trials: Int[np.ndarray, " problems"]
    layout: Literal["problems", "attempts"]
    columns: Mapping[str, tuple[str, ...]]
    rows: int
    notes: tuple[str, ...] = ()
    rule: str | None = None


def of_table(table: Table, named: Mapping[str, str], judging: Judging, selected: Collection[str] = ()) -> Tally:
    """Counts of a table with a row a problem or a row an attempt; `choose` says which columns are read.

    `selected`: the columns by which rows were selected, so that a note on columns without use leaves them out.

    **Raises:** `ValueError` naming file, row, column and value.
    """
    chosen = choose(table, named)
    if not len(table):
        raise ValueError(f"{table.source}: a header and no row below it")
    if "trials" in chosen and judging != Judging():
        raise ValueError(
            f"{table.source}: a row is a problem with its counts (trials = {chosen['trials'][0]}); threshold and "
            "missing apply to verdicts of attempts"
        )
    rule = _rule(table, chosen)
    tally = _of_problems(table, chosen) if "trials" in chosen else of_attempts(table, chosen, judging)
    read = {name for names in chosen.values() for name in names}.union(selected)
    unread = [name for name in table.columns if name not in read]
    notes = (*tally.notes, *([f"columns that are not read: {listed(unread)}"] if unread else []))
    return dataclasses.replace(tally, rule=rule, notes=notes)


def of_attempts(
    table: Table,
    chosen: Mapping[str, tuple[str, ...]],
    judging: Judging,
    words: Mapping[str, Meaning] | None = None,
) -> Tally:
    """Counts of a table with a row an attempt.

    **Raises:** `ValueError` naming file, row, column and value: an attempt twice, attempts of several models, a verdict
    that is unclear.
    """
    (problem,), (correct,) = chosen["problem"], chosen["correct"]
    names = labels(table, problem)
    read = {name for names_of in chosen.values() for name in names_of}
    if "attempt" in chosen:
        identity = pd.DataFrame({"problem": names})
        for column in chosen["attempt"]:
            identity[column] = texts(table.columns[column])
        again = np.flatnonzero(identity.duplicated())
        if again.size:
            row = int(again[0])
            first = int(np.flatnonzero((identity == identity.iloc[row]).all(axis=1))[0])
            which = ", ".join(f"{column} {identity[column][row]!r}" for column in chosen["attempt"])
            raise ValueError(
                f"{table.place(row)}: {which} of problem {names[row]!r} is in {table.unit} {table.numbers[first]} "
                f"already{_hint(table, names, read)}"
            )
    refuse_groups(table, read)
    verdicts = judge(correct, table.columns[correct], lambda row: table.where(row, correct), judging, words)
    codes, problems = pd.factorize(np.array(names, dtype=object))
    kept = np.bincount(codes[verdicts.kept], minlength=len(problems))
    right = np.bincount(codes[verdicts.kept & verdicts.correct], minlength=len(problems))
    return Tally(tuple(problems), right, kept, "attempts", chosen, len(table), tuple(verdicts.notes))


def _of_problems(table: Table, chosen: Mapping[str, tuple[str, ...]]) -> Tally:
    (correct,), (total,) = chosen["successes"], chosen["trials"]
    read = {name for names_of in chosen.values() for name in names_of}
    right = counts(table.columns[correct], lambda row: table.where(row, correct))
    trials = counts(table.columns[total], lambda row: table.where(row, total))
    above = np.flatnonzero(right > trials)
    if above.size:
        row = int(above[0])
        raise ValueError(f"{table.where(row, correct)}: {right[row]} successes, more than the {trials[row]} trials")
    if "problem" not in chosen:
        names = [str(row) for row in range(len(table))]
        note = ("no column names the problems: they are numbered from 0, in the order of the file",)
        return Tally(tuple(names), right, trials, "problems", chosen, len(table), note)
    names = labels(table, chosen["problem"][0])
    doubt = normal(correct) in ROLES["correct"].names and bool((right <= 1).all() and (trials > 1).any())
    say = f"if a row is one attempt, and {total} no count of them, say so by columns={{'correct': {correct!r}}}"
    refuse_twice(table, names, read, otherwise=f"; {say}" if doubt else "")
    refuse_groups(table, read)
    notes = (f"{correct}: no count is above 1; {say}",) if doubt else ()
    return Tally(tuple(names), right, trials, "problems", chosen, len(table), notes)


def labels(table: Table, column: str) -> list[str]:
    """The labels in a column. **Raises:** `ValueError` naming the row with none, or if two labels would become one."""
    cells = table.columns[column]
    kinds = set(map(type, cells))
    if kinds - {str, int} or "" in cells:
        for row, cell in enumerate(cells):
            if cell is None or cell == "" or cell != cell or isinstance(cell, bool | list | dict):
                got = "nothing" if cell is None or cell == "" else repr(cell)
                raise ValueError(f"{table.where(row, column)}: a label is wanted, got {got}")
    names = texts(cells)
    if len(kinds) > 1:
        first: dict[str, type] = {}
        for row, (cell, label) in enumerate(zip(cells, names, strict=True)):
            if first.setdefault(label, type(cell)) is not type(cell):
                raise ValueError(
                    f"{table.where(row, column)}: {label!r} is written both as a number and as text, and may be two "
                    "problems"
                )
    return names


def refuse_twice(table: Table, names: Sequence[str], read: set[str], otherwise: str = "") -> None:
    """**Raises:** `ValueError` naming the two rows of a problem that should have one, and what tells them apart."""
    again = np.flatnonzero(pd.Series(names, dtype=object).duplicated())
    if again.size:
        row = int(again[0])
        first = names.index(names[row])
        hint = _hint(table, names, read) or otherwise
        raise ValueError(
            f"{table.place(row)}: problem {names[row]!r} is in {table.unit} {table.numbers[first]} already{hint}"
        )


def refuse_groups(table: Table, read: set[str]) -> None:
    """**Raises:** `ValueError` if a column that tells models or methods apart, and is not read, has several values."""
    for name in table.columns:
        if normal(name) in GROUPS and name not in read:
            values = list(dict.fromkeys(texts(table.columns[name])))
            if len(values) > 1:
                raise ValueError(
                    f"{table.source}: column {name!r} has {len(values)} values ({listed(values, 6)}), and attempts of "
                    f"one are wanted; choose it, as in select={{{name!r}: {values[0]!r}}}"
                )


def _hint(table: Table, names: Sequence[str], read: set[str]) -> str:
    """What tells the rows of a problem apart: the columns with the fewest values that do so together."""
    keys = pd.DataFrame({"problem": names})
    columns = {name: pd.Series(texts(cells), dtype=object) for name, cells in table.columns.items() if name not in read}
    num_values = {name: cells.nunique() for name, cells in columns.items()}
    found: dict[str, str] = {}
    for name in sorted(columns, key=lambda name: num_values[name]):
        # A column with a value of its own in most rows is a measurement, or a text.
        finer = keys.assign(**{f"by {name}": columns[name]})
        if num_values[name] <= min(100, max(2, len(table) // 2)) and keys.duplicated().sum() > finer.duplicated().sum():
            keys, found = finer, {**found, name: columns[name].iloc[0]}
    if not found:
        return ""
    return f"; the file holds several of {listed(found)}: choose one, as in select={found!r}"


def _rule(table: Table, chosen: Mapping[str, tuple[str, ...]]) -> str | None:
    if "rule" not in chosen:
        return None
    (column,) = chosen["rule"]
    rules = [text(cell).strip() if cell is not None else "" for cell in table.columns[column]]
    differs = next((row for row, rule in enumerate(rules) if rule != rules[0]), None)
    if differs is not None:
        raise ValueError(
            f"{table.where(differs, column)}: mixed rules: {rules[differs]!r} here and {rules[0]!r} in {table.unit} "
            f"{table.numbers[0]}; problems sampled by one rule are wanted"
        )
    return rules[0] or None
