r"""PassUntil: sample each problem until r successes, which resolves pass rates that a fixed number of attempts misses.

The number of attempts $T$ that it took is negative binomial. $r/T$ is the maximum likelihood estimate and too high on
average; $(r - 1)/(T - 1)$ is unbiased. Pass rates of a series of models then follow the task law, a line in
$\ln(-\ln \text{pass rate})$ over $\ln N$.
"""

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Array, Float, Int, Key, Shaped
from matplotlib.figure import Figure
from scipy import special, stats

from ppl.intervals import Interval, check_level, mean_interval
from ppl.keys import numpy_generator
from ppl.plots import BAND, legend_beside, new_figure
from ppl.risk.attempts import Attempts
from ppl.risk.results import DrawsResult, Estimate

# Jeffreys' prior of the negative binomial, 1 / (p sqrt(1 - p)). For small p, pT is Gamma(r) whatever p is, and with
# 1/p the posterior says exactly this: its intervals cover at every small p, not on average over a prior only.
JEFFREYS = (0.0, 0.5)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class PassUntil(DrawsResult):
    """Pass rates from attempts until `target` successes; `draws["p"]` [draws, problems] is their posterior.

    `successes` is below `target` where sampling was cut off, and `capped` says where.
    """

    successes: Int[np.ndarray, " problems"]
    trials: Int[np.ndarray, " problems"]
    target: int

    @property
    def capped(self) -> Any:
        """Where sampling ended before the target: [problems]."""
        return self.successes < self.target

    @property
    def mle(self) -> Float[np.ndarray, " problems"]:
        """r/T, which is too high on average: by about r/(r - 1) for small p."""
        return self.successes / self.trials

    @property
    def unbiased(self) -> Float[np.ndarray, " problems"]:
        """(r - 1)/(T - 1). **Raises:** `ValueError` for r = 1, where none exists so, or if a problem was cut off."""
        if self.target < 2:
            raise ValueError(f"target: (r - 1)/(T - 1) wants at least 2 successes, got {self.target}")
        if self.capped.any():
            i = int(np.flatnonzero(self.capped)[0])
            raise ValueError(
                f"successes: row {i} was cut off at {self.successes[i]} of {self.target}; the unbiased estimate wants "
                "every problem to reach it; the posterior does not"
            )
        return (self.target - 1) / (self.trials - 1)

    def pass_rate(self, level: float = 0.9, key: int | Key[Array, ""] = 0) -> Estimate:
        """The mean pass rate of the problems, unbiased, with an interval for the population they come from.

        The interval is the Bayesian bootstrap over problems of the unbiased estimates. Posteriors are not averaged:
        each says r/T or so, and what is too high on one problem stays too high in a mean over many.

        **Raises:** `ValueError` as `unbiased`, or for fewer than two problems.
        """
        values = self.unbiased
        return Estimate(float(values.mean()), mean_interval(values, level, key=key))


def pass_until(
    successes: Shaped[np.ndarray | Array, " problems"] | Sequence[Any],
    trials: Shaped[np.ndarray | Array, " problems"] | Sequence[Any],
    target: int,
    *,
    problems: Sequence[str] | None = None,
    prior: tuple[float, float] = JEFFREYS,
    key: int | Key[Array, ""] = 0,
    draws: int = 2_000,
) -> PassUntil:
    """Pass rates where each problem was sampled until `target` successes, or until a limit of attempts.

    **Arguments:**

    - `successes`: `target` for each problem that reached it, fewer for one that was cut off.
    - `trials`: attempts made, the last success included; at least 1 each.
    - `prior`: beta parameters. Default: Jeffreys' for this sampling, (0, 1/2), proper after one success.
    - `key`, `draws`: of the posterior.

    **Raises:** `ValueError` as `Attempts`; for more successes than the target; for a problem without a success under a
    prior with a first parameter of 0, which leaves no posterior.

    **Source:** Hu et al. (2024), "Predicting emergent abilities with infinite resolution evaluation", arXiv 2310.03262;
    the unbiased estimate: Haldane (1945), Biometrika 33(3).
    """
    counts = Attempts(successes, trials, problems, "adaptive")
    s, n = counts.successes, counts.trials
    if target < 1 or draws < 1:
        raise ValueError(f"target: at least 1, draws: at least 1 are wanted, got {target} and {draws}")
    above = np.flatnonzero(s > target)
    if above.size:
        raise ValueError(f"successes: row {above[0]} has {s[above[0]]}; sampling stops at the target {target}")
    if min(prior) < 0 or prior[1] == 0:
        raise ValueError(f"prior: first parameter at least 0, second positive are wanted, got {prior}")
    empty = np.flatnonzero((prior[0] + s <= 0) | (n < 1))
    if empty.size:
        raise ValueError(
            f"successes: row {empty[0]} has {s[empty[0]]} of {n[empty[0]]} and prior {prior} no posterior; "
            "give a prior with a positive first parameter, such as (0.5, 0.5)"
        )
    p = numpy_generator(key).beta(prior[0] + s, prior[1] + n - s, (draws, len(s)))
    last = s == target  # then the last attempt is one of the successes, and has no other place among the orders
    log_orders = special.gammaln(n + 1 - last) - special.gammaln(s + 1 - last) - special.gammaln(n - s + 1)
    return PassUntil(
        draws={"p": p},
        log_likelihood={"trials": log_orders + special.xlogy(s, p) + special.xlog1py(n - s, -p)},
        observed={"successes": s, "trials": n},
        dims={"p": ["problem"], "successes": ["problem"], "trials": ["problem"]},
        coords={"problem": counts.problems},
        attrs={"method": f"PassUntil, r = {target}", "prior": f"Beta{prior}"},
        successes=s,
        trials=n,
        target=target,
    )


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class TaskLaw(DrawsResult):
    r"""The task law $\ln(-\ln \text{pass rate}) = \text{intercept} + \text{slope} \ln N$, with draws of its parameters.

    `sizes` [models]: N of each; `values` [models]: the left-hand side.
    """

    sizes: Float[np.ndarray, " models"]
    values: Float[np.ndarray, " models"]

    def predict(self, size: float, level: float = 0.9) -> Estimate:
        """The pass rate of a model of that size: median, and the interval of one new model, its scatter included.

        Warns (`UserWarning`) outside the sizes fitted: the interval assumes that the line goes on, and what the paper
        calls accelerated emergence is a line that bends.

        **Raises:** `ValueError` for a size that is not positive, or a level outside (0, 1).
        """
        if not size > 0:
            raise ValueError(f"size: must be positive, got {size}")
        check_level(level)
        if not self.sizes.min() <= size <= self.sizes.max():
            warnings.warn(
                f"size: {size:g} is outside the fitted {self.sizes.min():g} to {self.sizes.max():g}; the interval "
                "assumes that the task law holds there",
                UserWarning,
                stacklevel=2,
            )
        middle, scale, degrees = self._student_t(np.log(size))
        quantiles = middle + scale * stats.t.ppf([0.5, (1 + level) / 2, (1 - level) / 2], degrees)
        median, lower, upper = np.exp(-np.exp(quantiles))
        return Estimate(float(median), Interval(float(lower), float(upper)))

    def plot_law(self, upto: float | None = None, level: float = 0.9) -> Figure:
        """The models and the line with the band of one new model, to a size of `upto` (default: twice the largest)."""
        grid = np.geomspace(self.sizes.min(), upto or 2 * self.sizes.max(), 100)
        middle, scale, degrees = self._student_t(np.log(grid))
        width = scale * stats.t.ppf((1 + level) / 2, degrees)
        figure, axes = new_figure()
        axes.plot(self.sizes, self.values, "o", markersize=4, label="models")
        axes.plot(grid, middle, color="C1", label="task law")
        axes.fill_between(
            grid, middle - width, middle + width, color="C1", alpha=BAND, linewidth=0, label=f"{level:.0%}"
        )
        axes.axvline(self.sizes.max(), color="0.6", linestyle="--", linewidth=1)
        axes.set(xscale="log", xlabel="size N", ylabel="ln(-ln pass rate)")
        legend_beside(axes)
        return figure

    def _student_t(self, x: Any) -> tuple[Any, Any, int]:
        """Middle, scale and degrees of freedom of the prediction at ln N."""
        center, slope, spread, sigma, degrees = _least_squares(np.log(self.sizes), self.values)
        away = x - np.log(self.sizes).mean()
        return center + slope * away, sigma * np.sqrt(1 + 1 / len(self.sizes) + away**2 / spread), degrees


def task_law(
    sizes: Shaped[np.ndarray | Array, " models"] | Sequence[float],
    pass_rates: Shaped[np.ndarray | Array, " models"] | Sequence[float],
    *,
    key: int | Key[Array, ""] = 0,
    draws: int = 2_000,
) -> TaskLaw:
    r"""Fit $F(N) = \ln(-\ln \mathrm{PU}(N))$ as a line in $\ln N$, with normal scatter of unknown size.

    **Arguments:** `sizes`: positive, such as parameters. `pass_rates`: one a model, in (0, 1), such as the mean of
    `PassUntil.unbiased`; measured well, since their own errors count as scatter of the line only.

    Exact posterior under the flat prior on (intercept, slope, ln sigma): Student's t with models - 2 degrees of
    freedom.

    **Raises:** `ValueError` for fewer than three models, sizes all alike, or a value out of range, naming the row.

    **Source:** Hu et al. (2024), arXiv 2310.03262, Eq. 3.
    """
    n, rate = np.asarray(sizes, dtype=np.float64), np.asarray(pass_rates, dtype=np.float64)
    if n.ndim != 1 or n.shape != rate.shape or len(n) < 3:
        raise ValueError(
            f"sizes: at least three models and a pass rate each are wanted, got {n.shape} and {rate.shape}"
        )
    for name, bad, value in (
        ("sizes", ~(np.isfinite(n) & (n > 0)), n),
        ("pass_rates", ~((rate > 0) & (rate < 1)), rate),
    ):
        if bad.any():
            i = int(np.flatnonzero(bad)[0])
            raise ValueError(
                f"{name}: row {i} has {value[i]:g}; {'positive' if name == 'sizes' else 'in (0, 1)'} is wanted"
            )
    if np.ptp(n) == 0:
        raise ValueError("sizes: all alike; a line wants at least two")
    x, y = np.log(n), np.log(-np.log(rate))
    center, slope, spread, sigma, degrees = _least_squares(x, y)
    rng = numpy_generator(key)
    scale = sigma * np.sqrt(degrees / rng.chisquare(degrees, draws))
    noise = rng.standard_normal((2, draws)) * scale
    slopes = slope + noise[1] / np.sqrt(spread)
    return TaskLaw(
        draws={"intercept": center + noise[0] / np.sqrt(len(x)) - slopes * x.mean(), "slope": slopes, "sigma": scale},
        observed={"log_log_pass_rate": y, "size": n},
        attrs={"method": "task law of PassUntil, least squares; posterior under a flat prior"},
        sizes=n,
        values=y,
    )


def _least_squares(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float, float, int]:
    """Height at the middle, slope, sum of squares of x, scatter, degrees of freedom."""
    spread = float(((x - x.mean()) ** 2).sum())
    slope = float(((x - x.mean()) * y).sum() / spread)
    residual = y - y.mean() - slope * (x - x.mean())
    degrees = len(x) - 2
    return float(y.mean()), slope, spread, float(np.sqrt((residual**2).sum() / degrees)), degrees
