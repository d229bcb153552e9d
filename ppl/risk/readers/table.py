"""A table as it stands in a file: cells as they were written, and where each row is, for the errors."""

import csv
import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from jaxtyping import Bool

DELIMITERS = (",", "\t", ";", "|")
# The csv module refuses longer fields than its own limit; a cell may hold a whole transcript.
_LONGEST_FIELD = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Table:
    """Columns of cells: text from CSV, values of JSON or parquet otherwise, `None` where there is none.

    - `source`: the file, and the part of it if it is an archive;
    - `columns`: cells by name;
    - `unit`, `numbers`: what a row is called, and its number counted from 1, or how else it is told apart. A line is
      numbered as an editor does, so that a row after a cell with line breaks has the number that the editor shows.
    """

    source: str
    columns: Mapping[str, Sequence[Any]]
    unit: str
    numbers: Sequence[int | str]

    def __len__(self) -> int:
        return len(self.numbers)

    def place(self, row: int) -> str:
        """Where a row is."""
        return f"{self.source}, {self.unit} {self.numbers[row]}"

    def where(self, row: int, column: str) -> str:
        """Where a cell is."""
        return f"{self.place(row)}, column {column!r}"

    def take(self, keep: Bool[np.ndarray, " rows"]) -> "Table":
        """The rows to keep, under the numbers they have."""
        rows = np.flatnonzero(keep).tolist()
        columns = {name: [cells[row] for row in rows] for name, cells in self.columns.items()}
        return Table(self.source, columns, self.unit, [self.numbers[row] for row in rows])

    def select(self, wanted: Mapping[str, Any]) -> "Table":
        """The rows that have the wanted values, compared as text.

        **Raises:** `ValueError` listing the columns if one is unknown, its values if no row has the wanted one.
        """
        table = self
        for name, value in wanted.items():
            if name not in table.columns:
                raise ValueError(f"{self.source}: select: no column {name!r}; the columns are {listed(self.columns)}")
            labels = texts(table.columns[name])
            chosen = table.take(np.array([label == str(value) for label in labels], dtype=bool))
            if not len(chosen):
                seen = listed(dict.fromkeys(labels))
                raise ValueError(f"{self.source}: select: no row has {str(value)!r} in column {name!r}; it has {seen}")
            table = chosen
        return table


def text(cell: Any) -> str:
    """A cell as a label: what the file says, so that 1, 1.0 and 01 stay three labels."""
    if isinstance(cell, str):
        return cell
    if cell is None or isinstance(cell, bool | list | dict):
        return json.dumps(cell)
    return str(cell)


def texts(cells: Sequence[Any]) -> list[str]:
    """Each cell as a label."""
    kinds = set(map(type, cells))
    if kinds <= {str}:
        return list(cells)
    return list(map(str, cells)) if kinds == {int} else [text(cell) for cell in cells]


def listed(names: Any, most: int = 12) -> str:
    """Names with quotes and commas; the number of those left out, if there are many."""
    names = [repr(name) for name in names]
    left = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "none") + left


def json_fault(error: ValueError) -> str:
    """What is wrong, and in which column; the line number of the error itself counts from the start of its text."""
    return f"{error.msg} (column {error.colno})" if isinstance(error, json.JSONDecodeError) else str(error)


def from_csv(source: str, content: str) -> Table:
    """Delimited text with a header line; the delimiter is the one of `DELIMITERS` that the header has most of.

    **Raises:** `ValueError` naming the line that has more or fewer fields than the header, or an open quote.
    """
    first = content.lstrip("\r\n").split("\n", 1)[0]
    delimiter = max(DELIMITERS, key=first.count)
    limit = csv.field_size_limit(_LONGEST_FIELD)
    try:
        # newline="" keeps line breaks inside quotes; a space after a delimiter belongs to the layout.
        reader = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True)
        rows, numbers, start = [], [], 1
        try:
            for row in reader:
                if len(row) > 1 or (row and row[0].strip()):  # not a blank line
                    rows.append(row)
                    numbers.append(start)
                start = reader.line_num + 1
        except csv.Error as error:
            raise ValueError(f"{source}, line {start}: not CSV: {error}") from error
    finally:
        csv.field_size_limit(limit)
    header = [name.strip() for name in rows[0]]
    twice = [name for i, name in enumerate(header) if name in header[:i]]
    if twice:
        raise ValueError(f"{source}, line {numbers[0]}: the column {twice[0]!r} is in the header twice")
    widths = np.array([len(row) for row in rows])
    ragged = np.flatnonzero(widths != len(header))
    if ragged.size:
        row = ragged[0]
        raise ValueError(
            f"{source}, line {numbers[row]}: {widths[row]} fields, and the header has {len(header)} "
            f"(delimiter {delimiter!r})"
        )
    cells = zip(*rows[1:], strict=True) if len(rows) > 1 else [()] * len(header)
    return Table(source, dict(zip(header, cells, strict=True)), "line", numbers[1:])


def from_jsonl(source: str, content: str) -> Table:
    """One JSON object a line; blank lines are skipped. **Raises:** `ValueError` naming the line that is none."""
    rows, numbers = [], []
    decoder = json.JSONDecoder()
    for number, line in enumerate(content.split("\n"), start=1):  # str.splitlines would also split inside JSON text
        line = line.strip()
        if not line:
            continue
        try:
            row, end = decoder.raw_decode(line)  # a third faster than json.loads
        except ValueError as error:
            raise ValueError(f"{source}, line {number}: not JSON: {json_fault(error)}") from error
        if end < len(line):
            raise ValueError(
                f"{source}, line {number}: one JSON object is wanted, and after it comes {line[end:]!r:.40}"
            )
        rows.append(row)
        numbers.append(number)
    return from_rows(source, rows, "line", numbers)


def from_rows(source: str, rows: Sequence[Any], unit: str = "entry", numbers: Sequence[int] | None = None) -> Table:
    """JSON objects as rows; the columns are the keys of all of them.

    **Raises:** `ValueError` naming the row that is none.
    """
    numbers = range(1, len(rows) + 1) if numbers is None else numbers
    for row, number in zip(rows, numbers, strict=True):
        if not isinstance(row, dict):
            raise ValueError(f"{source}, {unit} {number}: a JSON object is wanted, got {row!r:.40}")
    names = dict.fromkeys(name for row in rows for name in row)
    return Table(source, {name: [row.get(name) for row in rows] for name in names}, unit, numbers)


def from_parquet(source: str, content: bytes) -> Table:
    """A parquet file, its rows counted from 1. **Raises:** `ValueError` if it cannot be decoded."""
    try:
        table = pyarrow.parquet.read_table(pyarrow.BufferReader(content))
        columns = {name: table.column(name).to_pylist() for name in table.column_names}
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{source}: not a parquet file that can be read: {error}") from error
    return Table(source, columns, "row", range(1, table.num_rows + 1))
