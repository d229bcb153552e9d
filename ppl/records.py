"""Records: the table of attempts that `decode` writes; selectors and `risk` read it, and need no model to."""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow
from jaxtyping import Bool, Int

from ppl.files import replacing


class Column(NamedTuple):
    """One column: its pandas dtype, whether a row may lack it, and what stands in where a whole column is not given."""

    dtype: str
    optional: bool = False
    default: Any = None


SCHEMA: Mapping[str, Column] = {
    "problem": Column("string"),  # which problem; unique within a set of problems
    "sample": Column("int64"),  # number of the attempt within (problem, method, seed)
    "method": Column("string"),
    "prompt": Column("string", default=""),
    "text": Column("string", default=""),  # what was generated
    "answer": Column("string", optional=True),  # what was read from the text, if anything
    "correct": Column("boolean", optional=True),  # the verifier's word; missing if never verified
    "reward": Column("float64", optional=True),  # the reward model's last value, a probability
    "log_weight": Column("float64", optional=True),  # natural log, -inf for a dead particle
    "log_prob": Column("float64", optional=True),  # log probability of the text under the model
    "log_proposal": Column("float64", optional=True),  # and under what it was drawn from
    "prompt_tokens": Column("int64", default=0),
    "generated_tokens": Column("int64", default=0),
    "seed": Column("int64", default=0),
    "steps": Column("int64", default=0),  # reasoning steps taken
    "token_ids": Column("object", optional=True),  # of what was generated, a list of ints
    "finish": Column("string", optional=True),  # "stop": the text ended by itself; "length": at the limit
}
# An attempt is one of these; twice the same is an attempt counted twice.
IDENTITY = ("problem", "method", "seed", "sample")
_KINDS = {
    "string": str,
    "boolean": bool | np.bool_,
    "int64": int | np.integer,
    "float64": float | int | np.integer | np.floating,
}
_COUNTS = ("sample", "prompt_tokens", "generated_tokens", "steps")
_FLOATS = frozenset(name for name, column in SCHEMA.items() if column.dtype == "float64")
_INFINITIES = {"inf": np.inf, "-inf": -np.inf}


class Counts(NamedTuple):
    """Right answers and attempts of each problem, problems in the order in which they first appear."""

    problems: list[str]
    successes: Int[np.ndarray, " problems"]
    trials: Int[np.ndarray, " problems"]


@dataclasses.dataclass(frozen=True, eq=False)
class Records:
    """A checked table of attempts, one row each, with the columns and dtypes of `SCHEMA`.

    **Arguments:** `frame`, with at least the columns `problem`, `sample` and `method`; it is copied, columns not given
    are filled with their defaults, and the index is renumbered. Missing values are `NA` in text and truth columns, NaN
    in numbers.

    **Raises:** `ValueError` naming the column, and the row where there is one: unknown or missing column, value of a
    wrong kind, missing value where one is needed, negative count, the same attempt twice.
    """

    frame: pd.DataFrame

    def __post_init__(self):
        object.__setattr__(self, "frame", _checked(self.frame))

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, Any]]) -> "Records":
        """Records from mappings, one an attempt; a row may leave out what has a default. **Raises:** as the class."""
        rows = list(rows)
        names = list(dict.fromkeys(name for row in rows for name in row)) or list(SCHEMA)
        defaults = {name: SCHEMA[name].default if name in SCHEMA else None for name in names}
        # Column by column, as Python objects: a frame made from rows would turn an int beside a None into a float.
        columns = {name: [row.get(name, defaults[name]) for row in rows] for name in names}
        return cls(pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in columns.items()}))

    @classmethod
    def concat(cls, parts: Iterable["Records"]) -> "Records":
        """All rows of all parts, in order. **Raises:** `ValueError` if an attempt is in two of them."""
        frames = [part.frame for part in parts]
        return cls(pd.concat(frames, ignore_index=True)) if frames else cls.from_rows([])

    def __len__(self) -> int:
        return len(self.frame)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Each attempt as a mapping of Python values, `None` where one is missing."""
        columns = [[_python(value) for value in self.frame[name]] for name in SCHEMA]
        for values in zip(*columns, strict=True):
            yield dict(zip(SCHEMA, values, strict=True))

    def by_problem(self) -> dict[str, "Records"]:
        """The records of each problem, problems in the order in which they first appear."""
        return {str(name): Records(part) for name, part in self.frame.groupby("problem", sort=False)}

    def counts(self) -> Counts:
        """Right answers and attempts a problem: what estimators of pass@k start from.

        **Raises:** `ValueError` naming the row if an attempt was never verified.
        """
        unverified = np.flatnonzero(self.frame["correct"].isna())
        if unverified.size:
            raise ValueError(f"column 'correct', row {unverified[0]}: missing; counts need a verdict on every attempt")
        numbers, problems = pd.factorize(self.frame["problem"])
        right = self.frame["correct"].to_numpy(dtype=bool)
        return Counts(
            [str(name) for name in problems],
            np.bincount(numbers[right], minlength=len(problems)),
            np.bincount(numbers, minlength=len(problems)),
        )

    def to_parquet(self, path: str | PathLike[str]) -> Path:
        """Write a parquet file; an existing one is replaced, and only by a complete one."""
        with replacing(path) as partial:
            self.frame.to_parquet(partial, index=False)
        return Path(path)

    @classmethod
    def from_parquet(cls, path: str | PathLike[str]) -> "Records":
        """Read what `to_parquet` wrote.

        **Raises:** `FileNotFoundError`; `ValueError` naming the file and what is wrong in it.
        """
        try:
            frame = pd.read_parquet(path)
        except pyarrow.ArrowInvalid as error:
            raise ValueError(f"{path}: not a parquet file: {error}") from error
        return _from_file(path, cls, frame)

    def to_jsonl(self, path: str | PathLike[str]) -> Path:
        """Write one JSON object a line. JSON has no infinities: they are written as the strings "inf" and "-inf"."""
        with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="\n") as file:
            for row in self.rows():
                file.write(json.dumps({name: _json(value) for name, value in row.items()}, allow_nan=False) + "\n")
        return Path(path)

    @classmethod
    def from_jsonl(cls, path: str | PathLike[str]) -> "Records":
        """Read what `to_jsonl` wrote.

        **Raises:** `FileNotFoundError`; `ValueError` naming the file, the line or row, and what is wrong in it.
        """
        rows = []
        with Path(path).open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    row = json.loads(line)
                except ValueError as error:  # also bytes that are no text
                    raise ValueError(f"{path}, line {number}: not JSON: {error}") from error
                if not isinstance(row, dict):
                    raise ValueError(f"{path}, line {number}: a JSON object is wanted, got {row!r:.40}")
                rows.append({name: _from_json(name, value) for name, value in row.items()})
        return _from_file(path, cls.from_rows, rows)


def _checked(frame: pd.DataFrame) -> pd.DataFrame:
    unknown = [name for name in frame.columns if name not in SCHEMA]
    if unknown:
        raise ValueError(f"column {unknown[0]!r}: not one of {', '.join(SCHEMA)}")
    columns = {}
    for name, column in SCHEMA.items():
        if name in frame.columns:
            columns[name] = _cast(name, column, pd.Series(frame[name]).reset_index(drop=True))
        elif column.optional or column.default is not None:
            columns[name] = pd.Series([column.default] * len(frame), dtype=column.dtype)
        else:
            raise ValueError(f"column {name!r}: missing; every attempt has one")
    checked = pd.DataFrame(columns)
    for name in _COUNTS:
        negative = np.flatnonzero(checked[name] < 0)
        if negative.size:
            value = checked[name].iloc[negative[0]]
            raise ValueError(f"column {name!r}, row {negative[0]}: a count is wanted, got {value}")
    twice = np.flatnonzero(checked.duplicated(list(IDENTITY)))
    if twice.size:
        attempt = {name: _python(checked[name].iloc[twice[0]]) for name in IDENTITY}
        raise ValueError(f"row {twice[0]}: the attempt {attempt} is in the table already")
    return checked


def _cast(name: str, column: Column, values: pd.Series) -> pd.Series:
    """The values in the column's dtype, if each is of that kind: no text is read as a number, no float is cut."""
    missing = values.isna().to_numpy()
    if not column.optional and missing.any():
        raise ValueError(f"column {name!r}, row {np.flatnonzero(missing)[0]}: missing; every attempt has one")
    if column.dtype == "object":
        return _lists(name, values, missing)
    if str(values.dtype) == column.dtype:
        return values
    kind = _KINDS[column.dtype]
    for row, (value, absent) in enumerate(zip(values, missing, strict=True)):
        # A bool is an int to Python, and never a number here.
        misread = isinstance(value, bool) and column.dtype != "boolean"
        if not absent and (misread or not isinstance(value, kind)):
            raise ValueError(f"column {name!r}, row {row}: {column.dtype} is wanted, got {value!r}")
    if column.dtype == "float64":  # None has no float of its own
        values = values.astype(object).where(~missing, np.nan)
    try:
        return values.astype(column.dtype)
    except OverflowError as error:
        raise ValueError(f"column {name!r}: {column.dtype} is wanted, got a larger number: {error}") from error


def _lists(name: str, values: pd.Series, missing: Bool[np.ndarray, " n"]) -> pd.Series:
    """Lists of ints, or None; what a parquet file gives as arrays are lists again."""
    found = []
    for row, (value, absent) in enumerate(zip(values, missing, strict=True)):
        ids = value.tolist() if isinstance(value, np.ndarray) else value
        if not absent and not (isinstance(ids, list) and all(type(i) is int for i in ids)):
            raise ValueError(f"column {name!r}, row {row}: a list of ints is wanted, got {value!r:.60}")
        found.append(None if absent else ids)
    return pd.Series(found, dtype=object)


def _python(value: Any) -> Any:
    if value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return None
    return value.item() if isinstance(value, np.generic) else value


def _json(value: Any) -> Any:
    return str(value) if isinstance(value, float) and np.isinf(value) else value


def _from_json(name: str, value: Any) -> Any:
    return _INFINITIES.get(value, value) if name in _FLOATS and isinstance(value, str) else value


def _from_file(path: str | PathLike[str], make: Any, content: Any) -> "Records":
    try:
        return make(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
