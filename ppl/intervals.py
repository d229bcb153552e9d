"""Intervals for a proportion or a mean over problems: posteriors, so that what they claim can be checked.

Attempts at one problem are not independent of each other given a method's accuracy over problems; problems are. So the
unit is the problem: one right or wrong a problem is `beta_interval`, a mean over seeds a problem is `mean_interval`.
"""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int, Key, Shaped
from scipy import special

from ppl.keys import as_key

JEFFREYS = (0.5, 0.5)


class Interval(NamedTuple):
    """An equal-tailed posterior interval; floats, or arrays where the counts were arrays."""

    lower: float | Float[np.ndarray, "..."]
    upper: float | Float[np.ndarray, "..."]


def beta_interval(
    successes: int | Int[np.ndarray | Array, "..."],
    trials: int | Int[np.ndarray | Array, "..."],
    level: float = 0.9,
    *,
    prior: tuple[float, float] = JEFFREYS,
) -> Interval:
    r"""Equal-tailed interval of the posterior $\mathrm{Beta}(a + s, b + n - s)$ of a success probability.

    **Arguments:**

    - `successes`, `trials`: counts $0 \le s \le n$, one or an array; no trials leave the prior's own interval.
    - `level`: posterior mass inside, in (0, 1).
    - `prior`: $(a, b)$, both positive. Default: Jeffreys, (1/2, 1/2).

    Averaged over the prior, coverage is `level` exactly. At one fixed probability it oscillates around `level`, as for
    every interval from counts: with Jeffreys' prior, 90% and $n = 100$ it lies between 0.86 and 0.94 for probabilities
    of 0.05 to 0.95, and dips to 0.81 closer to 0 and 1 (tests/test_intervals.py enumerates it). No interval has the
    ends 0 and 1, even without a failure.

    **Raises:** `ValueError` for counts, level or prior out of range.

    **Source:** Brown, Cai & DasGupta (2001), Statistical Science 16(2), without their adjustment at the ends, which
    would break the exact average coverage.
    """
    s, n = np.asarray(successes), np.asarray(trials)
    check_level(level)
    if min(prior) <= 0:
        raise ValueError(f"prior: both parameters must be positive, got {prior}")
    bad = (s < 0) | (s > n)
    if np.any(bad):
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        pair = (np.broadcast_to(s, bad.shape)[where], np.broadcast_to(n, bad.shape)[where])
        raise ValueError(f"successes: must be in [0, trials], got {pair[0]} of {pair[1]} at index {where}")
    a, b, tail = prior[0] + s, prior[1] + (n - s), (1 - level) / 2
    # The upper end is taken from the complement: 1 - x loses x near 0, and the counts near n are the common case.
    return Interval(special.betaincinv(a, b, tail)[()], 1 - special.betaincinv(b, a, tail)[()])


def mean_interval(
    values: Shaped[np.ndarray | Array, " problems"],
    level: float = 0.9,
    *,
    bounds: tuple[float, float] | None = None,
    key: int | Key[Array, ""] = 0,
    draws: int = 10_000,
) -> Interval:
    r"""Interval for the mean over the population that the problems come from, by the Bayesian bootstrap.

    For what is not one right or wrong a problem: accuracies over repeated seeds, differences of two methods on the same
    problems, scores. Draws of the mean are $\sum_i d_i v_i$ with $d \sim \mathrm{Dirichlet}(1, \ldots, 1)$.

    **Arguments:**

    - `values`: one number a problem, at least two of them unless `bounds` are given.
    - `level`: posterior mass inside, in (0, 1).
    - `bounds`: the least and the greatest value possible. Each joins the values with weight 1/2, so that values that
      are all alike do not give an interval of no width. With bounds (0, 1) and values 0 and 1 this is exactly
      `beta_interval` with Jeffreys' prior.
    - `key`: seed or key of the draws. `draws`: how many; the ends move by about one hundredth of the width at 10,000.

    **Raises:** `ValueError` naming the problem whose value is not finite or out of bounds, or if there are too few.

    **Source:** Rubin (1981), Annals of Statistics 9(1); the bounds are a Dirichlet process prior (Ferguson, 1973) of
    concentration 1 with half its mass on each.
    """
    x = np.asarray(values, dtype=np.float64)
    check_level(level)
    if draws < 1:
        raise ValueError(f"draws: at least 1 is wanted, got {draws}")
    if len(x) < (2 if bounds is None else 0):
        raise ValueError(f"values: at least two problems are wanted when no bounds are given, got {len(x)}")
    low, high = bounds or (-np.inf, np.inf)
    bad = np.flatnonzero(~np.isfinite(x) | (x < low) | (x > high))
    if bad.size:
        raise ValueError(f"values: problem {bad[0]} has {x[bad[0]]}; want finite values in [{low}, {high}]")
    # Dirichlet draws are gamma draws over their sum: Gamma(1) is exponential, Gamma(1/2) half a squared normal.
    inner, ends = jax.random.split(as_key(key))
    weights = np.asarray(jax.random.exponential(inner, (draws, len(x))), dtype=np.float64)
    if bounds is not None:
        halves = np.asarray(jax.random.normal(ends, (draws, 2)), dtype=np.float64) ** 2 / 2
        weights, x = np.concatenate([weights, halves], axis=1), np.append(x, bounds)
    means = weights @ x / weights.sum(axis=1)
    lower, upper = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(lower), float(upper))


def check_level(level: float) -> None:
    """**Raises:** `ValueError` unless the posterior mass `level` lies in (0, 1)."""
    if not 0 < level < 1:
        raise ValueError(f"level: must be in (0, 1), got {level}")
