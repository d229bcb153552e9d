"""Is a stated probability true? Brier score, reliability bins, expected calibration error."""

import numpy as np
import pandas as pd
from jaxtyping import Array, Bool, Float, Int, Shaped

from ppl.intervals import beta_interval

Outcome = Bool[np.ndarray | Array, " n"] | Int[np.ndarray | Array, " n"]


def brier_score(probability: Float[np.ndarray | Array, " n"], outcome: Outcome) -> float:
    r"""Mean of $(p_i - y_i)^2$: 0 is perfect, 1/4 what always saying 1/2 earns.

    **Raises:** `ValueError` naming the element if a probability is outside [0, 1], an outcome is neither 0 nor 1, or
    there is none.

    **Source:** Brier (1950), Monthly Weather Review 78(1).
    """
    p, y = _checked(probability, outcome)
    return float(np.mean((p - y) ** 2))


def reliability_bins(
    probability: Float[np.ndarray | Array, " n"], outcome: Outcome, *, num_bins: int = 10, level: float = 0.9
) -> pd.DataFrame:
    """Stated probability against frequency, in bins of equal width.

    **Returns:** one row for each bin that holds anything: `count`, `mean_probability`, `frequency`, and the ends
    `lower`, `upper` of a Beta interval at `level` (Jeffreys' prior) for the frequency.

    **Raises:** as `brier_score`; `ValueError` if `num_bins` is below 1.
    """
    p, y = _checked(probability, outcome)
    if num_bins < 1:
        raise ValueError(f"num_bins: at least 1 is wanted, got {num_bins}")
    bins = np.minimum((p * num_bins).astype(np.int64), num_bins - 1)  # probability 1 belongs to the last bin
    count = np.bincount(bins, minlength=num_bins)
    held = count > 0
    count, stated = count[held], np.bincount(bins, weights=p, minlength=num_bins)[held]
    right = np.bincount(bins, weights=y, minlength=num_bins)[held].astype(np.int64)
    lower, upper = beta_interval(right, count, level)
    return pd.DataFrame(
        {
            "count": count,
            "mean_probability": stated / count,
            "frequency": right / count,
            "lower": lower,
            "upper": upper,
        }
    )


def expected_calibration_error(
    probability: Float[np.ndarray | Array, " n"], outcome: Outcome, *, num_bins: int = 10
) -> float:
    """Mean distance of stated probability and frequency over the bins of `reliability_bins`, weighted by their counts.

    It is biased upward in small samples, since noise in a frequency counts as an error: compare at equal numbers only.

    **Raises:** as `reliability_bins`.

    **Source:** Naeini, Cooper & Hauskrecht (2015), AAAI.
    """
    table = reliability_bins(probability, outcome, num_bins=num_bins)
    distance = (table["mean_probability"] - table["frequency"]).abs()
    return float(np.average(distance, weights=table["count"]))


def _checked(
    probability: Float[np.ndarray | Array, " n"], outcome: Shaped[np.ndarray | Array, " m"]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    p, y = np.asarray(probability, dtype=np.float64), np.asarray(outcome, dtype=np.float64)
    if p.shape != y.shape:
        raise ValueError(f"outcome: one for each of {len(p)} probabilities is wanted, got {len(y)}")
    if not len(p):
        raise ValueError("probability: at least one is wanted, got none")
    bad = np.flatnonzero(~((p >= 0) & (p <= 1)))
    if bad.size:
        raise ValueError(f"probability: must be in [0, 1], got {p[bad[0]]} at {bad[0]}")
    bad = np.flatnonzero((y != 0) & (y != 1))
    if bad.size:
        raise ValueError(f"outcome: must be 0 or 1, got {y[bad[0]]} at {bad[0]}")
    return p, y
