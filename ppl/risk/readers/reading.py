"""`read`: any of the known formats to checked `Attempts`, with an account of what was understood."""

import dataclasses
from collections.abc import Mapping
from os import PathLike, fspath
from typing import Any, Literal

import pandas as pd

from ppl.records import SCHEMA
from ppl.risk.attempts import Attempts, StoppingRule
from ppl.risk.readers import content, human_eval, inspect_ai, lm_eval, table, tally
from ppl.risk.readers.stopping import optional_stopping
from ppl.risk.readers.verdicts import Judging

# Each with the options it takes besides `rule`.
_JUDGED = ("threshold", "missing")
FORMATS: Mapping[str, tuple[str, ...]] = {
    "csv": ("columns", "select", *_JUDGED),
    "jsonl": ("columns", "select", *_JUDGED),
    "json": ("columns", "select", *_JUDGED),
    "parquet": ("columns", "select", *_JUDGED),
    "records": ("select", *_JUDGED),
    "lm_eval": ("select", "metric", *_JUDGED),
    "inspect_ai": ("metric", "partial", *_JUDGED),
    "human_eval": ("select", *_JUDGED),
    "evalplus": ("metric", *_JUDGED),
}
_TABLES = ("csv", "jsonl", "json", "parquet")


@dataclasses.dataclass(frozen=True, eq=False)
class Reading:
    """Attempts read from a file, and what was understood of it.

    - `attempts`: the counts and their rule; `path`, `format` (one of `FORMATS`), `rows` read;
    - `layout`: whether a row was a problem with its counts, or an attempt;
    - `columns`: names in the file by what they were taken for (`problem`, `successes`, `trials`, `correct`, `attempt`);
    - `notes`: a sentence for each thing that was decided; those that begin with `warning:` want to be read.
    """

    attempts: Attempts
    path: str
    format: str
    layout: Literal["problems", "attempts"]
    columns: Mapping[str, tuple[str, ...]]
    rows: int
    notes: tuple[str, ...]

    def __str__(self) -> str:
        """What was understood, in one sentence."""
        trials = self.attempts.trials
        least, most = int(trials.min()), int(trials.max())
        each = f"{least}" if least == most else f"{least} to {most}"
        noun = "trial" if most == 1 else "trials"
        columns = ", ".join(f"{role} = {' + '.join(names)}" for role, names in self.columns.items())
        row = "a problem" if self.layout == "problems" else "an attempt"
        return (
            f"{self.path}: {self.format}, {self.rows} rows, one {row} ({columns}): {len(self.attempts)} problems, "
            f"{each} {noun} each, {int(trials.sum())} in all, {int(self.attempts.successes.sum())} successes; rule "
            f"{self.attempts.rule}"
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """The notes that are warnings."""
        return tuple(note for note in self.notes if note.startswith("warning: "))

    def summary(self) -> pd.DataFrame:
        """One row a problem: its name, successes and trials."""
        counts = {"successes": self.attempts.successes, "trials": self.attempts.trials}
        return pd.DataFrame(counts, index=pd.Index(self.attempts.problems, name="problem"))


def read(
    path: str | PathLike[str],
    *,
    format: str | None = None,
    rule: str | StoppingRule | None = None,
    columns: Mapping[str, str] | None = None,
    select: Mapping[str, Any] | None = None,
    metric: str | None = None,
    threshold: float | None = None,
    partial: str | None = None,
    missing: str | None = None,
) -> Reading:
    """Read counts of right answers from a table or an evaluation log, gzipped or not.

    The format is told by the file's content. Tables (CSV with any of the usual delimiters, JSONL, a JSON list of
    objects, parquet) have a row a problem, with successes and trials, or a row an attempt, with its verdict.

    **Arguments:**

    - `path`: the file. `format`: one of `FORMATS`, instead of looking.
    - `rule`: how numbers of trials came about (`StoppingRule`). Default: what a `rule` column says, else `fixed`.
    - `columns`: names by role, such as `{"problem": "item", "correct": "gpt-4o"}`, for tables with other names than the
      usual ones (`ROLES`), or with a column a model.
    - `select`: the rows to read, such as `{"model": "Pythia 12B"}`; values are compared as text.
    - `metric`: which metric (lm_eval), scorer (inspect_ai) or set of tests (evalplus) says what is right.
    - `threshold`: scores from this number up are right. Without it, scores other than 0 and 1 are an error.
    - `partial`: what inspect_ai's partial credit counts as, `correct` or `incorrect`; `missing`: what an attempt
      without a verdict counts as, `incorrect`, or `drop` to leave it out. Without them, either is an error.

    **Raises:** `FileNotFoundError`; `ValueError` naming file, row (lines as an editor counts them), column and value.
    """
    if format is not None and format not in FORMATS:
        raise ValueError(f"format: one of {', '.join(FORMATS)} is wanted, got {format!r}")
    judging = Judging(threshold, partial, missing)
    given = {"columns": columns, "select": select, "metric": metric, "threshold": threshold, "partial": partial,
             "missing": missing}  # fmt: skip
    source = fspath(path)
    found, value = _open(source, content.read_bytes(path), format)
    unused = [name for name, option in given.items() if option is not None and name not in FORMATS[found]]
    if unused:
        takes = ", ".join(FORMATS[found])
        raise ValueError(
            f"{unused[0]}: does not apply to {source}, which is read as {found}; that format takes {takes}"
        )
    counted = _count(source, found, value, columns or {}, select or {}, metric, judging)
    agreed, said = _rule(source, rule, counted.rule)
    attempts = Attempts(counted.successes, counted.trials, counted.problems, agreed)
    notes = [*counted.notes, *said]
    if agreed.name == "fixed":
        warning = optional_stopping(attempts.successes, attempts.trials)
        notes += [warning] if warning else []
    return Reading(attempts, source, found, counted.layout, counted.columns, counted.rows, tuple(notes))


def _open(source: str, data: bytes, format: str | None) -> tuple[str, Any]:
    """The format, and what a reader of that format starts from: a table, a JSON value, or an archive."""
    if content.is_zip(data):
        return _agree(source, format, "a zip archive", "inspect_ai"), content.Archive(source, data)
    if content.is_parquet(data):
        rows = table.from_parquet(source, data)
        return _agree(source, format, "a parquet file", "records" if _is_records(rows) else "parquet", "parquet"), rows
    text = content.decode(source, data)
    if format == "csv" or text.lstrip()[:1] not in ("{", "["):
        return _agree(source, format, "text that is no JSON", "csv"), table.from_csv(source, text)
    if format == "jsonl" or not content.is_one_json_value(text):
        return _layout(source, format, "JSON lines", "jsonl", table.from_jsonl(source, text))
    value = content.parse_json(source, text)
    if isinstance(value, list):
        return _layout(source, format, "a JSON list", "json", table.from_rows(source, value))
    if inspect_ai.is_log(value):
        return _agree(source, format, "an inspect_ai log", "inspect_ai"), value
    if human_eval.is_evalplus(value):
        return _agree(source, format, "results of EvalPlus", "evalplus"), value
    if isinstance(value, dict) and "\n" not in text.strip():  # JSON lines, of which there is one
        return _layout(source, format, "a JSON object", "jsonl", table.from_jsonl(source, text))
    keys = f" with the keys {table.listed(value)}" if isinstance(value, dict) else ""
    raise ValueError(
        f"{source}: a JSON value{keys} that is no list of objects, no inspect_ai log and no EvalPlus results"
    )


def _layout(source: str, format: str | None, what: str, plain: str, rows: table.Table) -> tuple[str, table.Table]:
    """The format of rows of JSON, by the keys they have."""
    names = set(rows.columns)
    found = plain
    if _is_records(rows):
        found = "records"
    elif names >= lm_eval.SIGNATURE:
        found = "lm_eval"
    elif names >= human_eval.SIGNATURE:
        found = "human_eval"
    return _agree(source, format, what, found, plain), rows


def _agree(source: str, format: str | None, what: str, *possible: str) -> str:
    if format is not None and format not in possible:
        raise ValueError(f"{source}: format={format!r}, and the file is {what}, read as {' or '.join(possible)}")
    return format or possible[0]


def _is_records(rows: table.Table) -> bool:
    return {"problem", "sample", "seed", "method", "correct"} <= set(rows.columns) <= set(SCHEMA)


def _count(
    source: str,
    found: str,
    value: Any,
    columns: Mapping[str, str],
    select: Mapping[str, Any],
    metric: str | None,
    judging: Judging,
) -> tally.Tally:
    if found == "inspect_ai":
        archived = isinstance(value, content.Archive)
        return (
            inspect_ai.read_archive(value, metric, judging)
            if archived
            else inspect_ai.read_json(source, value, metric, judging)
        )
    if found == "evalplus":
        return human_eval.read_evalplus(source, value, metric, judging)
    rows = value.select(select)
    if found == "lm_eval":
        return lm_eval.read(rows, metric, judging)
    if found == "human_eval":
        return human_eval.read(rows, judging)
    if found == "records":
        chosen = {"problem": ("problem",), "attempt": ("seed", "sample"), "correct": ("correct",)}
        return tally.of_attempts(rows, chosen, judging)
    return tally.of_table(rows, columns, judging, selected=tuple(select))


def _rule(source: str, given: str | StoppingRule | None, written: str | None) -> tuple[StoppingRule, list[str]]:
    """The rule that the caller and the file agree on, and what is to be said about it."""
    rule = None if given is None else StoppingRule.named(given)
    if written is None:
        said = "the rule is taken to be fixed: numbers of trials did not depend on outcomes"
        return (StoppingRule("fixed"), [said]) if rule is None else (rule, [])
    try:
        in_file = StoppingRule.named(written)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    if rule is not None and rule != in_file:
        raise ValueError(f"{source}: rule: {rule} was given, and the file's own column says {in_file}")
    return in_file, [f"the file says that the rule is {in_file}"]
