"""Which column of a table means what: a declared list of the names people use, and the user's own word."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from ppl.risk.readers.table import Table, listed


class Role(NamedTuple):
    """What a column is for, and the names it goes by; the first of them wins over the others."""

    meaning: str
    names: tuple[str, ...]


# Compared in lower case, with underscores for spaces, hyphens and dots.
ROLES: Mapping[str, Role] = {
    "problem": Role(
        "which problem",
        (
            "problem", "problem_id", "problem_idx", "problem_index", "problem_name", "task", "task_id", "task_idx",
            "task_name", "question", "question_id", "question_idx", "id", "index", "idx", "item", "item_id", "instance",
            "instance_id", "example", "example_id", "doc_id", "prompt_id", "prompt_idx", "query_id", "behavior",
            "behavior_id", "behavior_idx", "behaviour", "behaviour_id", "behaviour_idx",
        ),
    ),
    "successes": Role(
        "right answers, a count",
        (
            "successes", "num_successes", "n_successes", "num_success", "n_success", "success_count", "correct",
            "num_correct", "n_correct", "correct_count", "num_passed", "n_passed", "passed", "passes", "c", "k", "s",
        ),
    ),
    "trials": Role(
        "attempts, a count",
        (
            "trials", "num_trials", "n_trials", "attempts", "num_attempts", "n_attempts", "samples", "num_samples",
            "n_samples", "total", "n",
        ),
    ),
    "correct": Role(
        "whether one attempt was right",
        (
            "correct", "is_correct", "passed", "pass", "success", "is_success", "solved", "resolved", "verified",
            "reward", "score", "outcome", "verdict", "acc", "accuracy", "exact_match",
        ),
    ),
    "attempt": Role(
        "which attempt at a problem",
        (
            "attempt", "attempt_id", "attempt_idx", "attempt_index", "trial", "trial_id", "trial_idx", "trial_index",
            "sample", "sample_idx", "sample_index", "completion_id", "epoch", "repeat", "repetition", "rollout", "run",
            "run_id", "seed",
        ),
    ),
    "rule": Role("the stopping rule", ("rule", "stopping_rule")),
}  # fmt: skip
# Tables of several models hold the same problems more than once; these columns tell their attempts apart.
GROUPS = ("model", "model_name", "model_id", "method", "system", "agent", "policy", "solver", "filter")


def normal(name: str) -> str:
    """A column's name as `ROLES` spells names."""
    return "_".join(name.lower().replace("-", " ").replace(".", " ").replace("_", " ").split())


def choose(table: Table, named: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Columns of a table by role: those that the user named, and for the other roles those that `ROLES` lists.

    With `trials` and `successes` a row is a problem; with `correct` it is an attempt, and several columns together may
    say which (`seed` and `sample`). A role that the table has no column for is not in the result.

    **Raises:** `ValueError` listing the table's columns and what is wanted, if a role is unknown, a named column is not
    there, a needed one is missing, or several could be meant.
    """
    for role, name in named.items():
        if role not in ROLES:
            raise ValueError(f"columns: only {', '.join(ROLES)} can be named, got {role!r}")
        if name not in table.columns:
            raise ValueError(
                f"{table.source}: columns: no column {name!r} for {role}; the columns are {listed(table.columns)}"
            )
    as_attempts, as_problems = named.keys() & {"correct", "attempt"}, named.keys() & {"successes", "trials"}
    if as_attempts and as_problems:
        raise ValueError("columns: a row is an attempt (correct, attempt) or a problem (successes, trials), not both")
    found = {role: [name for name in table.columns if normal(name) in ROLES[role].names] for role in ROLES}
    counts = bool(as_problems) or (not as_attempts and bool(found["successes"] and found["trials"]))
    if not counts and "correct" not in named and not found["correct"]:
        raise ValueError(_missing(table, "correct"))
    needed = ("successes", "trials") if counts else ("correct",)
    chosen = {role: (named[role],) if role in named else _one(table, role, found[role]) for role in needed}
    # Two columns of counts and nothing else: each row is a problem, and none has a name.
    nameless = counts and len(table.columns) == 2 and not found["problem"]
    if not nameless:
        chosen["problem"] = (named["problem"],) if "problem" in named else _one(table, "problem", found["problem"])
    if "rule" in named or found["rule"]:
        chosen["rule"] = (named["rule"],) if "rule" in named else _one(table, "rule", found["rule"])
    if not counts and ("attempt" in named or found["attempt"]):
        # Taken without being named only if it counts: `sample` may as well be what was generated.
        chosen["attempt"] = (
            (named["attempt"],) if "attempt" in named else tuple(filter(_counting(table), found["attempt"]))
        )
    return {role: chosen[role] for role in ROLES if chosen.get(role)}


def _one(table: Table, role: str, found: list[str]) -> tuple[str, ...]:
    if not found:
        raise ValueError(_missing(table, role))
    first = [name for name in found if normal(name) == ROLES[role].names[0]]
    if len(first or found) > 1:
        raise ValueError(
            f"{table.source}: the columns {listed(found)} could each say {ROLES[role].meaning}; name the one that "
            f"does, as in columns={{{role!r}: {found[0]!r}}}"
        )
    return tuple(first or found)


def _missing(table: Table, role: str) -> str:
    return (
        f"{table.source}: no column says {ROLES[role].meaning}; the columns are {listed(table.columns)}. Wanted are a "
        "problem column, and either successes and trials (a row is a problem) or correct (a row is an attempt); a "
        f"column with a name of its own is given by columns={{{role!r}: 'NAME'}}"
    )


def _counting(table: Table) -> Callable[[str], bool]:
    def counts(name: str) -> bool:
        cells = table.columns[name]
        if set(map(type, cells)) == {str}:
            return all(cell.strip().lstrip("-").isdecimal() for cell in set(cells))
        return all(type(cell) is int for cell in cells)

    return counts
