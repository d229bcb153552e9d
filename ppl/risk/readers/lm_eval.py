"""Sample logs of the lm-evaluation-harness (`--log_samples`): one line for each document and filter."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ppl.risk.readers import tally
from ppl.risk.readers.table import Table, listed, text
from ppl.risk.readers.tally import Tally
from ppl.risk.readers.verdicts import Judging

SIGNATURE = frozenset({"doc_id", "resps", "filtered_resps"})
# What a row has besides the metrics' values; logs from before 2024 lack `filter`, `metrics` and the hashes.
_FIELDS = SIGNATURE | {"doc", "target", "arguments", "filter", "metrics", "doc_hash", "prompt_hash", "target_hash"}
_SHARES = ("pass@1", "pass_at_1")  # right responses over all responses of a document


def read(table: Table, metric: str | None, judging: Judging) -> Tally:
    """Counts from a metric's values.

    A value of 0 or 1 is one attempt: where a document has several responses (`repeats`), the harness has judged the one
    that its filter chose. A list of values is an attempt each. A value of `pass@1` over $n$ filtered responses is a
    share of them, and gives back its whole number of right ones.

    **Arguments:** `metric`: which, if the log has several.

    **Raises:** `ValueError` naming file, line and column: no metric or several, several filters, a document twice, a
    value that is neither right nor wrong.
    """
    name = _metric(table, metric)
    read = {"doc_id", name}
    tally.refuse_groups(table, read)
    labels = tally.labels(table, "doc_id")
    tally.refuse_twice(table, labels, read | _FIELDS)
    values = table.columns[name]
    responses = np.array([_num_responses(cell) for cell in table.columns["filtered_resps"]])
    chosen = {"problem": ("doc_id",), "correct": (name,)}
    if name in _SHARES and judging.threshold is None and (responses > 1).any():
        return _from_shares(table, name, labels, responses, chosen)
    # A list of values is as many attempts at its document.
    spread = [(row, value) for row, cell in enumerate(values) for value in (cell if isinstance(cell, list) else [cell])]
    rows = [row for row, _ in spread]
    columns = {"doc_id": [table.columns["doc_id"][row] for row in rows], name: [value for _, value in spread]}
    attempts = Table(table.source, columns, table.unit, [table.numbers[row] for row in rows])
    counted = tally.of_attempts(attempts, chosen, judging)
    notes = list(counted.notes)
    sampled = max((_num_responses(cell) for cell in table.columns["resps"]), default=1)
    if sampled > 1 and len(spread) == len(table):
        notes.append(
            f"documents have up to {sampled} responses, and {name} judges the one that the filter chose: 1 trial each"
        )
    return dataclasses.replace(counted, rows=len(table), notes=tuple(notes))


def _metric(table: Table, metric: str | None) -> str:
    declared = dict.fromkeys(
        text(name) for cell in table.columns.get("metrics", ()) if isinstance(cell, list) for name in cell
    )
    names = [name for name in (declared or table.columns) if name in table.columns and name not in _FIELDS]
    if metric is not None and metric in names:
        return metric
    if metric is not None:
        raise ValueError(f"{table.source}: metric: no metric {metric!r}; the log has {listed(names)}")
    if not names:
        raise ValueError(f"{table.source}: no metric in the log (a run with --predict_only has none)")
    if len(names) > 1:
        raise ValueError(f"{table.source}: several metrics, {listed(names)}; choose one, as in metric={names[0]!r}")
    return names[0]


def _num_responses(cell: Any) -> int:
    """How many responses to one request a cell holds: a list of them in a list, one text if the filter chose one.

    Several requests are the choices of a multiple-choice question, and are answered once.
    """
    return len(cell[0]) if isinstance(cell, list) and len(cell) == 1 and isinstance(cell[0], list) else 1


def _from_shares(
    table: Table, name: str, labels: Sequence[str], responses: np.ndarray, chosen: Mapping[str, tuple[str, ...]]
) -> Tally:
    successes = np.zeros(len(table), dtype=np.int64)
    for row, (value, num) in enumerate(zip(table.columns[name], responses.tolist(), strict=True)):
        share = value if isinstance(value, int | float) else float("nan")
        # The harness adds shares up in double precision; an error of rounding is far below 1e-6.
        if not (0 <= share <= 1 and abs(share * num - round(share * num)) < 1e-6):
            raise ValueError(
                f"{table.where(row, name)}: {value!r} is no share of {num} responses; a multiple of 1/{num} is wanted"
            )
        successes[row] = round(share * num)
    note = f"{name} is the share of right responses of a document, and was multiplied by their number"
    return Tally(tuple(labels), successes, responses.astype(np.int64), "problems", chosen, len(table), (note,))
