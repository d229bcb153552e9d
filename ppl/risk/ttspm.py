r"""TTSPM: coverage $F(N) = F_{\max} (1 - (1 - p)^N)$, the share of problems within reach and one chance for them all.

Parallel sampling and sequential rethinking have the same curve: $p$ is the chance that an attempt is right, or that a
round of rethinking leads from wrong to right, where it stays. The one $p$ is the model's weak spot: on real counts
problems differ, and the curve saturates too early. `misfit` says whether these counts show it.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Array, Float, Key, Shaped
from matplotlib.figure import Figure
from scipy import special, stats

from ppl.keys import numpy_generator
from ppl.plots import BAND, legend_beside, new_figure
from ppl.records import Records
from ppl.risk.attempts import Attempts, StoppingRule, as_attempts
from ppl.risk.pass_at import log_spaced, pass_at_k
from ppl.risk.results import DrawsResult, Estimate, estimate

Number = float | np.number | Shaped[np.ndarray, "..."]  # arrays broadcast together

_GRID = 160
_EDGE = 25.0  # log posterior below its maximum beyond which nothing is kept


def ttspm_curve(ceiling: Number, chance: Number, attempts: Number) -> Any:
    r"""$F_{\max}(1 - (1-p)^N)$; `ceiling` and `chance` in [0, 1], `attempts` 0 or more. Right for p near 0 and 1."""
    return -np.asarray(ceiling) * np.expm1(special.xlog1py(attempts, -np.asarray(chance)))


def rethink_curve(start: float, chance: float, rounds: Number) -> Any:
    r"""Chance of being right after so many rounds of rethinking, if right first with chance `start`.

    The chain has two states, wrong and right; a round leads from wrong to right with `chance`, and right is kept:
    $1 - (1 - \text{start})(1 - p)^N$. With `start` = `chance` it is `ttspm_curve` at N + 1.
    """
    return 1 - (1 - start) * np.exp(special.xlog1py(rounds, -chance))


def saturation(ceiling: Number, chance: Number, gain: float) -> Any:
    r"""The first N at which one more attempt gains less than `gain`: $F_{\max}\, p\, (1 - p)^N < \epsilon$.

    $N^* = \lceil \ln(\epsilon / (F_{\max} p)) / \ln(1 - p) \rceil$, at least 0, put right by one where the rounding of
    the logarithms, or equality, moved it. Returned as floats.

    **Raises:** `ValueError` for a gain that is not positive, or a share outside [0, 1].

    **Source:** Wang et al. (2025), TTSPM, arXiv 2505.20522, derived for both paradigms.
    """
    f, p = np.broadcast_arrays(np.asarray(ceiling, dtype=np.float64), np.asarray(chance, dtype=np.float64))
    if not gain > 0:
        raise ValueError(f"gain: must be positive, got {gain}")
    if np.any((f < 0) | (f > 1) | (p < 0) | (p > 1)):
        raise ValueError("ceiling, chance: shares in [0, 1] are wanted")
    reached = f * p < gain  # the first attempt gains less already; also where p or the ceiling is 0
    inner = ~reached & (p < 1)
    safe_f, safe_p = np.where(inner, f, 1.0), np.where(inner, p, 0.5)
    n = np.ceil(np.log(gain / (safe_f * safe_p)) / np.log1p(-safe_p))

    def next_gain(at: Any) -> Any:
        return safe_f * safe_p * np.exp(at * np.log1p(-safe_p))

    n = np.where(next_gain(n) >= gain, n + 1, n)
    n = np.where((n > 0) & (next_gain(n - 1) < gain), n - 1, n)
    return np.where(reached, 0.0, np.where(p == 1, 1.0, n))[()]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class TTSPM(DrawsResult):
    """Posterior of the TTSPM: `draws["ceiling"]` ($F_{\\max}$) and `draws["chance"]` (p).

    `spread_p_value`: the posterior predictive chance that counts of problems with a success spread as much as these,
    if they share one p; None where the stopping rule does not say how to repeat the sampling.
    """

    attempts: Attempts
    spread_p_value: float | None

    @property
    def misfit(self) -> str | None:
        """What is wrong with one common p on these counts, or None if nothing is seen."""
        if self.spread_p_value is None or self.spread_p_value > 0.05:
            return None
        return (
            f"problems differ more than one common chance allows (p = {self.spread_p_value:.3g}): the curve saturates "
            "too early and its intervals are too narrow; ppl.risk.fit lets the chance vary over problems"
        )

    def coverage(self, attempts: int, level: float = 0.9) -> Estimate:
        """F(N) of the population: posterior mean and interval. **Raises:** `ValueError` for attempts below 0."""
        if attempts < 0:
            raise ValueError(f"attempts: at least 0 is wanted, got {attempts}")
        return estimate(ttspm_curve(self.draws["ceiling"], self.draws["chance"], attempts), level)

    def saturation(self, gain: float, level: float = 0.9) -> Estimate:
        """N*, from where one more attempt gains less than `gain` of coverage: posterior mean and interval."""
        return estimate(saturation(self.draws["ceiling"], self.draws["chance"], gain), level)

    def plot_curve(self, upto: int | None = None, level: float = 0.9) -> Figure:
        """The posterior of F(N) as a band, the unbiased coverage as dots. The title is the misfit, if there is one."""
        n = np.geomspace(1, upto or 10 * int(self.attempts.trials.max()), 100)
        middle, (lower, upper) = estimate(
            ttspm_curve(self.draws["ceiling"][:, None], self.draws["chance"][:, None], n), level
        )
        figure, axes = new_figure()
        axes.plot(n, middle, label="TTSPM")
        axes.fill_between(n, lower, upper, color="C0", alpha=BAND, linewidth=0)
        least = int(self.attempts.trials.min())
        if self.attempts.rule.name == "fixed" and least > 0:
            ks = log_spaced(1, least)
            table = pass_at_k(self.attempts.trials[:, None], self.attempts.successes[:, None], ks)
            axes.plot(ks, np.mean(table, axis=0), "o", color="C1", markersize=3, label="unbiased")
        axes.axvline(int(self.attempts.trials.max()), color="0.6", linestyle="--", linewidth=1)
        axes.set(xscale="log", xlabel="attempts N", ylabel=f"coverage, {level:.0%} interval", ylim=(0, 1))
        if self.misfit:
            axes.set_title(self.misfit.split(":")[0], fontsize=9)
        legend_beside(axes)
        return figure


def ttspm(
    successes: Shaped[np.ndarray | Array, " problems"] | Sequence[Any] | Attempts | Records,
    trials: Shaped[np.ndarray | Array, "*problems"] | Sequence[Any] | int | None = None,
    *,
    rule: str | StoppingRule = "fixed",
    key: int | Key[Array, ""] = 0,
    draws: int = 2_000,
) -> TTSPM:
    r"""Posterior of $(F_{\max}, p)$ from counts: a problem is within reach with chance $F_{\max}$, then right with p.

    The likelihood of a problem with a success is $F_{\max} p^s (1-p)^{n-s}$, without one $1 - F_{\max} +
    F_{\max}(1-p)^n$, under any stopping rule. Priors are uniform on (0, 1), independent; draws are from a grid that is
    laid over the posterior, so that no chain has to converge.

    **Arguments:** `successes`, `trials`, `rule`: as of `Attempts`, or one of those, or `Records`. Sequential
    rethinking: 1 and the rounds it took for a problem that came right, 0 and all rounds for one that did not, with rule
    `stop_at_success`.

    **Raises:** `ValueError` as `Attempts`.

    **Source:** Wang et al. (2025), "Scaling over scaling: exploring test-time scaling plateau in large reasoning
    models", arXiv 2505.20522 (the curve; they fit no posterior).
    """
    attempts = as_attempts(successes, trials, rule=rule)
    if draws < 1:
        raise ValueError(f"draws: at least 1 is wanted, got {draws}")
    # numpy's generator, seeded by the key: a few thousand draws from a grid are not worth a compilation.
    rng = numpy_generator(key)
    ceiling, chance = _grid_draws(attempts, draws, rng)
    s, n = attempts.successes, attempts.trials
    f, p = ceiling[:, None], chance[:, None]
    within = stats.binom.logpmf(s, n, p) if attempts.rule.name == "fixed" else _kernel(s, n, p)
    never = np.where(s == 0, np.log1p(-f), -np.inf)
    return TTSPM(
        draws={"ceiling": ceiling, "chance": chance},
        log_likelihood={"successes": np.logaddexp(np.log(f) + within, never)},
        observed={"successes": s, "trials": n},
        dims={"successes": ["problem"], "trials": ["problem"]},
        coords={"problem": attempts.problems},
        attrs={"method": "TTSPM", "prior": "ceiling and chance uniform on (0, 1)"},
        attempts=attempts,
        spread_p_value=_spread_p_value(attempts, chance, rng) if attempts.rule.name == "fixed" else None,
    )


def _kernel(s: np.ndarray, n: np.ndarray, p: np.ndarray) -> np.ndarray:
    return special.xlogy(s, p) + special.xlog1py(n - s, -p)


def _grid_draws(attempts: Attempts, draws: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draws of (ceiling, chance) from a grid on their logits, zoomed to where the posterior is."""
    s, n = attempts.successes, attempts.trials
    seen = s > 0
    zeros, problems = np.unique(n[~seen], return_counts=True)

    def log_posterior(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """On all pairs of a logit of the ceiling and one of the chance, with the change of variables."""
        log_f, log_rest = (special.log_expit(v)[:, None] for v in (x, -x))
        log_p, log_q = (special.log_expit(v)[None, :] for v in (y, -y))
        value = log_f + log_rest + log_p + log_q
        value = value + seen.sum() * log_f + s.sum() * log_p + (n[seen] - s[seen]).sum() * log_q
        for count, weight in zip(zeros, problems, strict=True):  # each number of trials once, most often one
            value += weight * np.logaddexp(log_rest, log_f + count * log_q)
        return value

    # Uniform priors leave less than 1e-10 of their mass beyond these ends.
    low, high = np.array([-24.0, -24.0]), np.array([24.0, 24.0])
    for _ in range(8):
        grids = [np.linspace(*ends, _GRID) for ends in zip(low, high, strict=True)]
        value = log_posterior(*grids)
        kept = value > value.max() - _EDGE
        cells = (high - low) / (_GRID - 1)
        rows = [np.flatnonzero(kept.any(axis=1 - axis)) for axis in (0, 1)]
        ends = np.array([[grid[at[0]], grid[at[-1]]] for grid, at in zip(grids, rows, strict=True)])
        narrower = np.maximum(low, ends[:, 0] - cells), np.minimum(high, ends[:, 1] + cells)
        done = np.all(narrower[1] - narrower[0] > 0.7 * (high - low))
        low, high = narrower
        if done:
            break
    x, y = (np.linspace(*ends, _GRID) for ends in zip(low, high, strict=True))
    value = log_posterior(x, y)
    weights = np.exp(value - value.max()).ravel()
    picked = rng.choice(weights.size, size=draws, p=weights / weights.sum())
    jitter = (rng.random((2, draws)) - 0.5) * ((high - low) / (_GRID - 1))[:, None]
    i, j = np.unravel_index(picked, value.shape)
    return special.expit(x[i] + jitter[0]), special.expit(y[j] + jitter[1])


def _spread_p_value(attempts: Attempts, chance: Float[np.ndarray, " draws"], rng: np.random.Generator) -> float | None:
    """Posterior predictive check: spread of s/n over the problems with a success, replicated at one p for all."""
    seen = attempts.successes > 0
    s, n = attempts.successes[seen], attempts.trials[seen]
    if len(s) < 2 or n.max() < 2:
        return None
    p = chance[:200, None]
    # Binomial counts that are not 0, by the inverse CDF from beyond the mass at 0.
    none = np.exp(n * np.log1p(-p))
    replicas = stats.binom.ppf(none + (1 - none) * rng.random((len(p), len(s))), n, p)
    spread = np.var(s / n)
    return float((1 + (np.var(replicas / n, axis=1) >= spread).sum()) / (1 + len(p)))


def ttspm_attempts(ceiling: float, chance: float, target: float) -> float:
    r"""Attempts until F(N) reaches `target`: the least whole N, infinite for a target at the ceiling or above.

    **Raises:** `ValueError` for a target outside (0, 1), or a chance outside (0, 1).
    """
    if not (0 < target < 1 and 0 < chance < 1):
        raise ValueError(f"target, chance: must be in (0, 1), got {target} and {chance}")
    if target >= ceiling:
        return math.inf
    n = max(1, math.ceil(math.log1p(-target / ceiling) / math.log1p(-chance)))
    n += ttspm_curve(ceiling, chance, n) < target
    return float(n - (n > 1 and ttspm_curve(ceiling, chance, n - 1) >= target))
