r"""The log-log line: coverage of k attempts as $\exp(-a k^{-b})$, the power law of Large Language Monkeys.

A straight line through $\ln(-\ln \text{pass@}k)$ on $\ln k$, with the unbiased pass@k of the attempts made. It is a
curve fit and no model of the attempts: its interval covers that other problems might have been drawn, and not that
the curve may be no line further out.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, Shaped
from matplotlib.figure import Figure

from ppl.keys import as_key
from ppl.plots import BAND, legend_beside, new_figure
from ppl.records import Records
from ppl.risk.attempts import Attempts, StoppingRule, as_attempts
from ppl.risk.bootstrap import weighted_means
from ppl.risk.pass_at import log_no_success, log_spaced, pass_at_k
from ppl.risk.results import DrawsResult, Estimate, estimate

Weights = Literal["uniform", "saber"]


@jax.jit
def mean_curve(
    successes: Shaped[Array, " problems"], trials: Shaped[Array, " problems"], ks: Shaped[Array, " ks"]
) -> Float[Array, " ks"]:
    """Unbiased pass@k, the mean over problems, in float32 to a relative 1e-6; NaN where a problem has fewer trials.

    Made for `jax.vmap`: over subsamples of attempts, or of problems.
    """
    n, c, k = (jnp.asarray(value, jnp.float32) for value in (trials[:, None], successes[:, None], ks))
    return jnp.where(k <= n, -jnp.expm1(log_no_success(n, c, k, jnp)), jnp.nan).mean(axis=0)


@jax.jit
def fit_line(
    curve: Float[Array, " ks"], ks: Shaped[Array, " ks"], weights: Float[Array, " ks"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    r"""$(\ln a, b)$ of the weighted least-squares line $\ln(-\ln \text{curve}) = \ln a - b \ln k$; made for `jax.vmap`.

    **Arguments:** `curve`: pass@k at each of `ks`. `weights`: of the squared residuals, not negative (numpy's `polyfit`
    wants their square roots).

    Points where the curve is 0 or 1 have no place on these axes and are left out; both results are NaN if fewer than
    two points are left. In float32 a curve within 1e-4 of 1 is off by 1e-3 on the axis, and beyond 1 - 6e-8 it is 1.
    """
    inside = (curve > 0) & (curve < 1)
    weight = jnp.where(inside, weights, 0.0)
    weight = weight / weight.sum()
    x = jnp.log(jnp.asarray(ks, curve.dtype))
    y = jnp.log(-jnp.log(jnp.where(inside, curve, 0.5)))
    middle, height = (weight * x).sum(), (weight * y).sum()
    b = -(weight * (x - middle) * (y - height)).sum() / (weight * (x - middle) ** 2).sum()
    b = jnp.where(inside.sum() >= 2, b, jnp.nan)
    return height + b * middle, b


def line_coverage(
    log_a: Shaped[np.ndarray | Array, "*#shape"] | float,
    b: Shaped[np.ndarray | Array, "*#shape"] | float,
    attempts: Shaped[np.ndarray | Array, "*#shape"] | float,
) -> Any:
    r"""$\exp(-a k^{-b})$, with the exponent in log space; numpy in float64, or JAX if an argument is a JAX array."""
    xp = jnp if any(isinstance(value, jax.Array) for value in (log_a, b, attempts)) else np
    return xp.exp(-xp.exp(log_a - b * xp.log(attempts)))


def line_budget(
    log_a: float | Float[np.ndarray, " draws"], b: float | Float[np.ndarray, " draws"], target: float
) -> Float[np.ndarray, "*draws"]:
    r"""Where `line_coverage` is `target`, at least 1 attempt; infinity where the line does not rise."""
    rising = np.asarray(b) > 0
    log_budget = (log_a - np.log(-np.log(target))) / np.where(rising, b, 1.0)
    with np.errstate(over="ignore"):  # infinity is the answer
        return np.where(rising, np.exp(np.maximum(log_budget, 0.0)), np.inf)


def line_weights(ks: Shaped[np.ndarray, " ks"], weights: Weights) -> Float[np.ndarray, " ks"]:
    """Weights of squared residuals: all alike, or SABER-Fit's 1/k handed to `polyfit`, which squares them."""
    return np.ones(len(ks)) if weights == "uniform" else 1.0 / np.asarray(ks, dtype=np.float64) ** 2


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class LogLogLine(DrawsResult):
    r"""A log-log line: `log_a`, `b` fitted to `curve` at `at` (point estimates), and their draws over problems.

    `covers` says what the draws account for, and what not.
    """

    log_a: float
    b: float
    at: Int[np.ndarray, " ks"]
    curve: Float[np.ndarray, " ks"]
    trials: int
    covers: str = "other problems and other attempts, by the same line; not that coverage may leave the line beyond k"

    def pass_at(self, attempts: int, level: float = 0.9) -> Estimate:
        """The line at so many attempts (floats), with the interval over problems.

        **Raises:** `ValueError` for attempts below 1, or a level outside (0, 1).
        """
        if attempts < 1:
            raise ValueError(f"attempts: at least 1 is wanted, got {attempts}")
        draws = line_coverage(self.draws["log_a"], self.draws["b"], float(attempts))
        return Estimate(float(line_coverage(self.log_a, self.b, float(attempts))), estimate(draws, level).interval)

    def budget(self, target: float, level: float = 0.9) -> Estimate:
        r"""Attempts by which the line reaches `target` coverage, $(a / -\ln \text{target})^{1/b}$, not rounded.

        Infinite for a line that does not rise, and beyond 1e308.

        **Raises:** `ValueError` for a target or a level outside (0, 1).
        """
        if not 0 < target < 1:
            raise ValueError(f"target: must be in (0, 1), got {target}")
        return Estimate(
            float(line_budget(self.log_a, self.b, target)),
            estimate(line_budget(self.draws["log_a"], self.draws["b"], target), level).interval,
        )

    def plot_curve(self, upto: int | None = None, level: float = 0.9) -> Figure:
        """The unbiased curve, and the line with its band, to `upto` attempts (default: ten times those made)."""
        figure, axes = new_figure()
        k = np.geomspace(1, upto or 10 * self.trials, 200)
        draws = line_coverage(self.draws["log_a"][:, None], self.draws["b"][:, None], k)
        lower, upper = estimate(draws, level).interval
        axes.plot(self.at, self.curve, "o", color="C0", markersize=3, label="unbiased")
        axes.plot(k, line_coverage(self.log_a, self.b, k), color="C1", label="log-log line")
        axes.fill_between(k, lower, upper, color="C1", alpha=BAND, linewidth=0, label=f"{level:.0%}, over problems")
        axes.axvline(self.trials, color="0.6", linestyle="--", linewidth=1)
        axes.set(xscale="log", xlabel="attempts k", ylabel="pass@k", ylim=(0, 1))
        legend_beside(axes)
        return figure


def log_log(
    successes: Shaped[np.ndarray | Array, " problems"] | Sequence[Any] | Attempts | Records,
    trials: Shaped[np.ndarray | Array, "*problems"] | Sequence[Any] | int | None = None,
    *,
    first: int = 1,
    points: int = 30,
    weights: Weights = "uniform",
    rule: str | StoppingRule = "fixed",
    key: int | Key[Array, ""] = 0,
    draws: int = 1_000,
) -> LogLogLine:
    r"""Fit the line to attempts at problems, and bootstrap it over problems.

    **Arguments:**

    - `successes`, `trials`, `rule`: as of `Attempts`, or one of those, or `Records`. Trials may differ; the curve
      ends at the least.
    - `first`, `points`: the line is fitted at so many k, evenly spaced in ln k from `first` to the least number of
      trials. Monkeys and its successors: 1 and 30 to 101. SABER-Fit: 5 and 30.
    - `weights`: `uniform`, or `saber`: squared residuals weighted by $1/k^2$, which is what SABER's 1/k amounts to.
    - `key`, `draws`: of the Bayesian bootstrap over problems.

    **Raises:** `ValueError` as `Attempts`; for a rule other than `fixed`, by which pass@k is biased; if fewer than two
    points of the curve lie strictly between 0 and 1, all zeros and all ones among it: no line is identified.

    **Source:** Brown et al. (2024), Large Language Monkeys, arXiv 2407.21787 (the law); Feng et al. (2026), SABER,
    arXiv 2601.22636 (weights 1/k from k = 5 on).
    """
    attempts = as_attempts(successes, trials, rule=rule)
    attempts.require_fixed("the log-log line")
    if draws < 1 or points < 2:
        raise ValueError(f"draws: at least 1, points: at least 2 are wanted, got {draws} and {points}")
    least = int(attempts.trials.min())
    at = log_spaced(first, least, points)
    table = np.asarray(pass_at_k(attempts.trials[:, None], attempts.successes[:, None], at))
    curve = table.mean(axis=0)
    inside = int(((curve > 0) & (curve < 1)).sum())
    if inside < 2:
        raise ValueError(
            f"successes: pass@k is strictly between 0 and 1 at {inside} of k = {at[0]}..{at[-1]}, and a line wants two "
            f"such points ({attempts.successes.sum()} of {attempts.trials.sum()} attempts are right); use ppl.risk.fit"
        )
    weight = line_weights(at, weights)
    log_a, b = _line_float64(curve, at, weight)
    curves = weighted_means(as_key(key), table, draws)
    fits = jax.vmap(fit_line, (0, None, None))(jnp.asarray(curves), jnp.asarray(at), jnp.asarray(weight, jnp.float32))
    return LogLogLine(
        draws={name: np.asarray(value, dtype=np.float64) for name, value in zip(("log_a", "b"), fits, strict=True)},
        observed={"successes": attempts.successes, "trials": attempts.trials},
        dims={"successes": ["problem"], "trials": ["problem"]},
        coords={"problem": attempts.problems},
        attrs={"method": f"log-log line, {weights} weights from k = {at[0]}", "covers": LogLogLine.covers},
        log_a=log_a,
        b=b,
        at=at,
        curve=curve,
        trials=least,
    )


def _line_float64(curve: np.ndarray, ks: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """`fit_line` once, in float64: the point estimate is the published one to all its digits."""
    inside = (curve > 0) & (curve < 1)
    y, root = np.log(-np.log(curve[inside])), np.sqrt(weights[inside])
    slope, height = np.polyfit(np.log(ks[inside]), y, 1, w=root)
    return float(height), float(-slope)
