"""Is a stated probability true? Brier score, reliability bins, calibration error. Are ranks uniform? ECDF bands."""

import functools
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped
from scipy import special

from ppl.intervals import beta_interval

if TYPE_CHECKING:
    import pandas

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
) -> "pandas.DataFrame":
    """Stated probability against frequency, in bins of equal width.

    **Returns:** one row for each bin that holds anything: `count`, `mean_probability`, `frequency`, and the ends
    `lower`, `upper` of a Beta interval at `level` (Jeffreys' prior) for the frequency.

    **Raises:** as `brier_score`; `ValueError` if `num_bins` is below 1.
    """
    import pandas as pd  # 0.4 s to import; ranks and bands want none of it

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


def rank_p_value(ranks: Int[np.ndarray, " n"], num_ranks: int) -> float:
    r"""The chance that ranks uniform on 0 ... `num_ranks` - 1 stray as far from uniformity as these do.

    The number of ranks up to $k$ is binomial; the statistic is the smallest of its two-sided p-values over all $k$, and
    the p-value is that of this smallest, exactly: no simulation, and nothing lost to looking at many $k$.

    **Arguments:** `ranks`: independent, each in [0, `num_ranks`).

    **Raises:** `ValueError` naming a rank outside, or if there is none.

    **Source:** Säilynoja, Bürkner & Vehtari (2022), Statistics and Computing 32, § 2.
    """
    counts = rank_counts(ranks, num_ranks)
    pointwise = _pointwise(len(ranks), num_ranks)
    smallest = pointwise[np.arange(num_ranks - 1), counts].min()
    return _crossing(pointwise > smallest)


def rank_band(num: int, num_ranks: int, level: float) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, " k"]]:
    """Least and largest numbers of `num` uniform ranks up to each of 0 ... `num_ranks` - 2, all at once.

    The counts of uniform ranks leave the band somewhere with a chance of at most `level`, the largest such that the
    ranks' discreteness allows; they leave it just when `rank_p_value` is that small.

    **Raises:** `ValueError` for a level outside (0, 1).

    **Source:** as `rank_p_value`, Eq. 11 for the common pointwise level.
    """
    if not 0 < level < 1:
        raise ValueError(f"level: a probability strictly between 0 and 1 is wanted, got {level!r}")
    pointwise = _pointwise(num, num_ranks)
    cuts = np.unique(pointwise)
    low, high = -1, len(cuts) - 1  # at the last cut, 1, nothing is inside
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _crossing(pointwise > cuts[middle]) <= level else (low, middle)
    inside = pointwise > (cuts[low] if low >= 0 else -1.0)
    return inside.argmax(axis=1), num - inside[:, ::-1].argmax(axis=1)


def rank_counts(ranks: Int[np.ndarray, " n"], num_ranks: int) -> Int[np.ndarray, " k"]:
    """How many ranks are at most 0, 1, ..., `num_ranks` - 2 (that all are at most the last one says nothing)."""
    if not len(ranks) or num_ranks < 2:
        raise ValueError(f"ranks: at least one, of two possible, is wanted, got {len(ranks)} of {num_ranks}")
    bad = np.flatnonzero((ranks < 0) | (ranks >= num_ranks))
    if bad.size:
        raise ValueError(f"ranks: must be in [0, {num_ranks}), got {ranks[bad[0]]} at {bad[0]}")
    return np.cumsum(np.bincount(ranks, minlength=num_ranks))[:-1]


def holm(p_values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """P-values adjusted by Holm's step-down: rejecting those below a level errs at all with at most that chance.

    **Source:** Holm (1979), Scandinavian Journal of Statistics 6(2). Nothing is assumed of their dependence.
    """
    order = np.argsort(p_values)
    stepped = np.maximum.accumulate(p_values[order] * np.arange(len(p_values), 0, -1))
    adjusted = np.empty_like(stepped)
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted


@functools.lru_cache(maxsize=8)
def _pointwise(num: int, num_ranks: int) -> Float[np.ndarray, "k counts"]:
    """The two-sided p-value of each number of ranks (0 ... num) up to each k."""
    chance = np.arange(1, num_ranks)[:, None] / num_ranks
    counts = np.arange(num + 1)
    below, above = special.bdtr(counts, num, chance), special.bdtrc(counts - 1, num, chance)
    return np.minimum(1, 2 * np.minimum(below, above))


def _crossing(inside: Bool[np.ndarray, "k counts"]) -> float:
    """The chance that counts of uniform ranks are not `inside` at some k.

    Ranks are dealt to bins as Poisson numbers given their total, so that each bin is one convolution of the chance to
    have stayed inside, by count; all terms are positive and nothing cancels.

    **Source:** Moscovich & Nadler (2017), Statistics & Probability Letters 123.
    """
    num_ranks, num = inside.shape[0] + 1, inside.shape[1] - 1
    increments = _poisson(np.arange(num + 1), num / num_ranks)
    stayed = np.zeros(num + 1)
    stayed[0] = 1
    for allowed in inside:
        stayed = np.convolve(stayed, increments)[: num + 1] * allowed
    return float(max(0, 1 - stayed @ increments[::-1] / _poisson(num, num)))


def _poisson(count: int | Int[np.ndarray, " n"], mean: float) -> Float[np.ndarray, "*n"]:
    """Probabilities of counts; `scipy.stats`, which has them, takes 0.4 s to import."""
    return np.asarray(np.exp(special.xlogy(count, mean) - mean - special.gammaln(np.add(count, 1))))


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
