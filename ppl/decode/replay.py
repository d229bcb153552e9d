"""Selectors replayed on recorded attempts, without a model: accuracy as a function of the number of samples."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ppl.decode.selectors import Selector
from ppl.intervals import beta_interval
from ppl.records import Records


def accuracy_by_budget(
    records: Records, selector: Selector, *, single_answer: bool, budgets: Sequence[int], level: float = 0.9
) -> pd.DataFrame:
    """Accuracy if only the first n samples of each problem had been drawn, for each n in `budgets`.

    **Arguments:** `records`: verified attempts of one source (independent samples; particles of a filter are not).
    **Returns:** one row for each budget: `budget`, `tokens` (mean generated tokens a problem), `accuracy`, and its
    Beta interval over problems, `lower`, `upper`.
    **Raises:** `ValueError` for a budget below 1 or above the attempts of a problem.
    """
    problems = records.by_problem()
    fewest = min(len(part) for part in problems.values())
    outside = [budget for budget in budgets if not 1 <= budget <= fewest]
    if outside:
        raise ValueError(f"budgets: from 1 to {fewest}, the fewest attempts of a problem, got {outside[0]}")
    rows = []
    for budget in budgets:
        right, tokens = 0, []
        for part in problems.values():
            some = Records(part.frame.iloc[:budget])
            choice = selector(some, single_answer=single_answer)
            right += choice.row is not None and bool(some.frame.correct.iloc[choice.row])
            tokens.append(int(some.frame.generated_tokens.sum()))
        interval = beta_interval(right, len(problems), level)
        rows.append(
            (budget, float(np.mean(tokens)), right / len(problems), float(interval.lower), float(interval.upper))
        )
    return pd.DataFrame(rows, columns=["budget", "tokens", "accuracy", "lower", "upper"])
