"""What decoding returns: every attempt, one answer a problem and method, and the diagnostics of the particles."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from ppl import arviz_adapter
from ppl.cost import Ledger
from ppl.intervals import beta_interval, mean_interval
from ppl.records import Records

# One row of `Decoding.answers`: how a method answered a problem, and at what cost.
ANSWER_COLUMNS = (
    "problem", "method", "seed", "answer", "correct", "probability", "brier", "log_evidence", "log_evidence_se",
    "ess", "generated_tokens", "prompt_tokens", "reward_calls", "reward_tokens", "seconds",
)  # fmt: skip


def answer_table(rows: Sequence[Sequence[Any]]) -> pd.DataFrame:
    """Rows of `ANSWER_COLUMNS` as a frame, `None` for what is missing.

    The types are given, not guessed from the values: a problem without an answer makes the same table as any other, and
    what a journal brings back the same as what was written.
    """
    frame = pd.DataFrame(rows, columns=list(ANSWER_COLUMNS))
    numbers = dict.fromkeys(ANSWER_COLUMNS[4:], "float64")
    return frame.astype({"problem": "str", "method": "str", "seed": "int64", "answer": "string", **numbers})


@dataclasses.dataclass(frozen=True, eq=False)
class Decoding:
    """The outcome of one or more methods on some problems.

    - `records`: every attempt (`ppl.records.Records`);
    - `answers`: one row for each problem and method, with `ANSWER_COLUMNS`. `correct` is 1 or 0, for `sample` the
      share of right attempts (the chance that one of them is right), NaN when nothing verified it; `probability` is
      P(right) as the method states it and `brier` its squared distance from what was the case, for `sample` means over
      the attempts; `ess` the mean over steps of the effective sample size; `log_evidence` NaN for methods that have
      none;
    - `ess`: by method [problems, steps], for methods that weigh particles.
    """

    records: Records
    answers: pd.DataFrame
    ess: dict[str, Float[np.ndarray, "problems steps"]]

    @property
    def ledger(self) -> Ledger:
        """The cost of all methods, each by itself: samples that several select from are counted for each of them.

        `device_seconds` is wall time with compilation, since a method's first batch is compiled while it runs.
        """
        counts = ("generated_tokens", "prompt_tokens", "reward_calls", "reward_tokens", "seconds")
        generated, prompt, calls, read, seconds = (float(self.answers[name].to_numpy().sum()) for name in counts)
        return Ledger(round(generated), round(prompt), round(calls), round(read), seconds)

    def summary(self, *, level: float = 0.9) -> pd.DataFrame:
        """One row for each method: accuracy with its interval, Brier score, mean log evidence, ESS and cost.

        The interval is a Beta posterior over problems (Jeffreys' prior) where each problem is right or wrong, and a
        Bayesian bootstrap over problems where it is a share (`sample`, or several seeds). `log_evidence` is the mean
        over problems with a finite one and `log_evidence_se` its Monte Carlo standard error, from the problems' own
        standard errors; a problem whose genealogy could not tell its own (NaN) counts as one of average error.
        Counts are means a problem, `seconds` a sum.
        """
        rows = []
        for method, part in self.answers.groupby("method", sort=False):
            rows.append({"method": method, **_accuracy(part, level), **_means(part)})
        return pd.DataFrame(rows)

    def to_arviz(self) -> Any:
        """Answers and attempts as ArviZ data: a chain for each seed and a draw for each problem.

        Group `posterior` holds `correct` and `probability` by method, `sample_stats` ESS, log evidence and costs;
        `records` stay in their own file, since their texts are no draws.
        """
        posterior, stats = {}, {}
        for method, part in self.answers.groupby("method", sort=False):
            table = {name: part.pivot(index="seed", columns="problem", values=name) for name in part.columns[4:]}
            order = part.problem.unique()
            for name in ("correct", "probability"):
                posterior[f"{name}_{method}"] = table[name][order].to_numpy(dtype=float)
            for name in ("log_evidence", "log_evidence_se", "ess", "generated_tokens", "reward_calls"):
                stats[f"{name}_{method}"] = table[name][order].to_numpy(dtype=float)
        return arviz_adapter.from_dict({"posterior": posterior, "sample_stats": stats})

    @classmethod
    def concat(cls, parts: "list[Decoding]") -> "Decoding":
        """The problems of all parts, in order."""
        methods = list(dict.fromkeys(name for part in parts for name in part.ess))
        return cls(
            Records.concat([part.records for part in parts]),
            pd.concat([part.answers for part in parts], ignore_index=True),
            {name: np.concatenate([part.ess[name] for part in parts if name in part.ess]) for name in methods},
        )


def _accuracy(part: pd.DataFrame, level: float) -> dict[str, Any]:
    verified = part[part.correct.notna()]
    if not len(verified):
        return {"accuracy": np.nan, "lower": np.nan, "upper": np.nan, "brier": np.nan}
    by_problem = verified.groupby("problem", sort=False).correct.mean().to_numpy(dtype=float)
    if np.isin(by_problem, (0.0, 1.0)).all():
        interval = beta_interval(int(by_problem.sum()), len(by_problem), level)
    else:
        interval = mean_interval(by_problem, level, bounds=(0.0, 1.0))
    return {
        "accuracy": float(by_problem.mean()),
        "lower": float(interval.lower),
        "upper": float(interval.upper),
        "brier": float(verified.brier.mean()),
    }


def _means(part: pd.DataFrame) -> dict[str, float]:
    finite = part[np.isfinite(part.log_evidence.astype(float))]
    se = finite.log_evidence_se.dropna().to_numpy(dtype=float)
    return {
        "probability": float(part.probability.mean()),
        "log_evidence": float(finite.log_evidence.mean()) if len(finite) else np.nan,
        "log_evidence_se": float(np.sqrt(np.mean(se**2) / len(finite))) if len(se) else np.nan,
        "ess": float(part.ess.mean()),
        "generated_tokens": float(part.generated_tokens.mean()),
        "prompt_tokens": float(part.prompt_tokens.mean()),
        "reward_calls": float(part.reward_calls.mean()),
        "reward_tokens": float(part.reward_tokens.mean()),
        "seconds": float(part.seconds.sum()),
    }
