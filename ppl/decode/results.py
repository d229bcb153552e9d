"""What decoding returns: every attempt, one answer a problem and method, and the diagnostics of the particles."""

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from ppl import arviz_adapter
from ppl.calibration import brier_score
from ppl.cost import Ledger
from ppl.intervals import beta_interval, mean_interval
from ppl.records import Records

# One row of `Decoding.answers`: how a method answered a problem, and at what cost.
ANSWER_COLUMNS = (
    "problem", "method", "seed", "answer", "correct", "probability", "log_evidence", "log_evidence_se", "ess",
    "generated_tokens", "prompt_tokens", "reward_calls", "reward_tokens", "seconds",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class Decoding:
    """The outcome of one or more methods on some problems.

    - `records`: every attempt (`ppl.records.Records`);
    - `answers`: one row for each problem and method, with `ANSWER_COLUMNS`. `correct` is 1 or 0, for `sample` the
      share of right attempts (the chance that one of them is right), NaN when nothing verified it; `probability` is
      P(right) as the method states it; `ess` the mean over steps of the effective sample size; `log_evidence` NaN for
      methods that have none;
    - `ess`: by method [problems, steps], for methods that weigh particles.
    """

    records: Records
    answers: pd.DataFrame
    ess: dict[str, Float[np.ndarray, "problems steps"]]

    @property
    def ledger(self) -> Ledger:
        """What all methods spent together."""
        counts = ("generated_tokens", "prompt_tokens", "reward_calls", "reward_tokens")
        return Ledger(*(_total(self.answers[name]) for name in counts), float(self.answers.seconds.sum()))

    def summary(self, *, level: float = 0.9) -> pd.DataFrame:
        """One row for each method: accuracy with its interval, Brier score, mean log evidence, ESS and cost.

        The interval is a Beta posterior over problems (Jeffreys' prior) where each problem is right or wrong, and a
        Bayesian bootstrap over problems where it is a share (`sample`, or several seeds). `log_evidence` is the mean
        over problems and `log_evidence_se` its Monte Carlo standard error, from the problems' own standard errors.
        Counts are means a problem.
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
    # A share y of right attempts has expected squared error y (1 - p)^2 + (1 - y) p^2: the Brier score for 0 and 1.
    p, y = verified.probability.to_numpy(dtype=float), verified.correct.to_numpy(dtype=float)
    whole = np.isin(y, (0.0, 1.0)).all()
    brier = brier_score(p, y.astype(int)) if whole else float(np.mean(y * (1 - p) ** 2 + (1 - y) * p**2))
    return {
        "accuracy": float(by_problem.mean()),
        "lower": float(interval.lower),
        "upper": float(interval.upper),
        "brier": brier,
    }


def _means(part: pd.DataFrame) -> dict[str, float]:
    finite = part[np.isfinite(part.log_evidence.astype(float))]
    se = finite.log_evidence_se.to_numpy(dtype=float)
    return {
        "probability": float(part.probability.mean()),
        "log_evidence": float(finite.log_evidence.mean()) if len(finite) else np.nan,
        "log_evidence_se": float(np.sqrt(np.nansum(se**2)) / len(finite)) if len(finite) else np.nan,
        "ess": float(part.ess.mean()),
        "generated_tokens": float(part.generated_tokens.mean()),
        "prompt_tokens": float(part.prompt_tokens.mean()),
        "reward_calls": float(part.reward_calls.mean()),
        "reward_tokens": float(part.reward_tokens.mean()),
        "seconds": float(part.seconds.sum()),
    }


def _total(column: pd.Series) -> int:
    return round(float(column.sum()))
