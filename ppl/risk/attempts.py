"""Attempts: right answers and trials of each problem, checked, with the rule by which sampling stopped."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Array, Int, Shaped

from ppl.records import Records


@dataclasses.dataclass(frozen=True)
class StoppingRule:
    """How the number of trials of a problem came about.

    - `fixed`: chosen before sampling, or for reasons that have nothing to do with the outcomes;
    - `stop_at_success`: batches of `batch` attempts until the first batch with a success, or a limit;
    - `adaptive`: any other rule that looks at outcomes.

    The likelihood of a success probability is $p^s (1-p)^{n-s}$ under each of them, so that posteriors hold for all;
    what averages over repetitions of the sampling at fixed n (the unbiased pass@k, s/n) holds for `fixed` only.
    """

    name: Literal["fixed", "stop_at_success", "adaptive"]
    batch: int = 1

    def __post_init__(self):
        if self.batch < 1:
            raise ValueError(f"batch: at least 1 attempt is wanted, got {self.batch}")

    def __str__(self) -> str:
        return f"stop_at_success(batch={self.batch})" if self.name == "stop_at_success" else self.name

    @staticmethod
    def named(rule: "str | StoppingRule") -> "StoppingRule":
        """A rule from its name: `fixed`, `adaptive`, `stop_at_success`, `stop_at_success(batch=60)`.

        **Raises:** `ValueError` naming an unknown rule and those that are known.
        """
        if isinstance(rule, StoppingRule):
            return rule
        name, _, rest = rule.replace(" ", "").partition("(")
        batch = rest.removesuffix(")").removeprefix("batch=")
        if name not in ("fixed", "stop_at_success", "adaptive") or (rest and name != "stop_at_success"):
            raise ValueError(f"rule: fixed, stop_at_success(batch=N) or adaptive is wanted, got {rule!r}")
        if rest and not batch.isdecimal():
            raise ValueError(f"rule: stop_at_success(batch=N) wants a whole number N, got {rule!r}")
        return StoppingRule(name, int(batch or 1))


def stop_at_success(batch: int = 1) -> StoppingRule:
    """Batches of `batch` attempts until the first with a success. **Raises:** `ValueError` for a batch below 1."""
    return StoppingRule("stop_at_success", batch)


@dataclasses.dataclass(frozen=True, eq=False)
class Attempts:
    """Right answers and trials of each problem.

    - `successes`, `trials`: integers [problems], 0 <= successes <= trials; trials may differ, and be 0;
    - `problems`: a unique name each (`"0"`, `"1"`, ... by default);
    - `rule`: how trials came about (`StoppingRule`, or its name).

    **Raises:** `ValueError` naming argument, row and value: no problem, lengths that differ, a count that is negative,
    fractional or not finite, more successes than trials, a problem twice.
    """

    successes: Int[np.ndarray, " problems"]
    trials: Int[np.ndarray, " problems"]
    problems: tuple[str, ...]
    rule: StoppingRule

    def __init__(
        self,
        successes: Shaped[np.ndarray | Array, " problems"] | Sequence[Any],
        trials: Shaped[np.ndarray | Array, "*problems"] | Sequence[Any] | int,
        problems: Sequence[str] | None = None,
        rule: str | StoppingRule = "fixed",
    ):
        s = _counts("successes", successes)
        n = _counts("trials", np.full(len(s), trials) if np.ndim(trials) == 0 else trials)
        if len(s) == 0:
            raise ValueError("successes: at least one problem is wanted, got none")
        if len(s) != len(n):
            raise ValueError(f"trials: one for each of {len(s)} problems is wanted, got {len(n)}")
        names = tuple(str(i) for i in range(len(s))) if problems is None else tuple(str(name) for name in problems)
        if len(names) != len(s):
            raise ValueError(f"problems: one name for each of {len(s)} problems is wanted, got {len(names)}")
        above = np.flatnonzero(s > n)
        if above.size:
            i = above[0]
            raise ValueError(f"successes: row {i} (problem {names[i]!r}) has {s[i]}, more than its {n[i]} trials")
        if len(set(names)) < len(names):
            seen: set[str] = set()
            first = next(i for i, name in enumerate(names) if name in seen or seen.add(name))
            raise ValueError(f"problems: row {first} repeats the problem {names[first]!r}; one row a problem is wanted")
        for name, value in (("successes", s), ("trials", n), ("problems", names), ("rule", StoppingRule.named(rule))):
            object.__setattr__(self, name, value)

    @classmethod
    def from_records(cls, records: Records, rule: str | StoppingRule = "fixed") -> "Attempts":
        """Counts of a table of attempts. **Raises:** as `Records.counts`; `ValueError` if it holds several methods."""
        methods = records.frame["method"].unique()
        if len(methods) > 1:
            raise ValueError(
                f"records: attempts of one method are wanted, got {', '.join(map(str, methods))}; select one first"
            )
        counts = records.counts()
        return cls(counts.successes, counts.trials, counts.problems, rule)

    def __len__(self) -> int:
        return len(self.successes)

    def require_fixed(self, estimator: str) -> None:
        """Refuse what only a fixed number of trials makes valid. **Raises:** `ValueError` naming estimator and rule."""
        if self.rule.name != "fixed":
            raise ValueError(
                f"rule: {estimator} needs numbers of trials that do not depend on outcomes, and these were sampled by "
                f"the rule {self.rule}; use a posterior (ppl.risk.fit), which holds under any rule"
            )


def as_attempts(
    successes: Shaped[np.ndarray | Array, " problems"] | Sequence[Any] | Attempts | Records,
    trials: Shaped[np.ndarray | Array, "*problems"] | Sequence[Any] | int | None = None,
    problems: Sequence[str] | None = None,
    rule: str | StoppingRule = "fixed",
) -> Attempts:
    """What a public function was given, as `Attempts`: one of those, which brings its rule, Records, or counts.

    **Raises:** `ValueError` as `Attempts`, or if counts come without trials.
    """
    if isinstance(successes, Attempts):
        return successes
    if isinstance(successes, Records):
        return Attempts.from_records(successes, rule)
    if trials is None:
        raise ValueError("trials: a number for each problem, or one for all, is wanted")
    return Attempts(successes, trials, problems, rule)


def _counts(name: str, values: Any) -> Int[np.ndarray, " problems"]:
    try:
        numbers = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: whole numbers are wanted: {error}") from error
    if numbers.ndim != 1:
        raise ValueError(f"{name}: one number for each problem is wanted, got shape {numbers.shape}")
    bad = np.flatnonzero(~np.isfinite(numbers) | (numbers < 0) | (numbers != np.round(numbers)) | (numbers > 2**53))
    if bad.size:
        raise ValueError(f"{name}: row {bad[0]} has {numbers[bad[0]]:g}; whole numbers from 0 up are wanted")
    return numbers.astype(np.int64)
