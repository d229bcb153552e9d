r"""pass@k, pass^k and G-pass@k without bias, from counts: averages over all subsets of k of the n attempts made.

They say nothing beyond n. A k above n is refused here and never answered with 1; that is a prediction, and
`ppl.risk.fit` makes it.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Array, Float, Int, Key, Shaped
from matplotlib.figure import Figure
from scipy import special

from ppl import arviz_adapter
from ppl.intervals import Interval
from ppl.keys import as_key
from ppl.plots import BAND, new_figure
from ppl.records import Records
from ppl.risk.attempts import Attempts, StoppingRule, as_attempts
from ppl.risk.bootstrap import weighted_means
from ppl.risk.results import Estimate, estimate

Counts = int | np.integer | Shaped[np.ndarray | Array, "..."]
Metric = Literal["pass_at", "asr", "pass_hat", "g_pass", "mg_pass"]
LABELS: Mapping[str, str] = {
    "pass_at": "pass@k", "asr": "ASR@k", "pass_hat": "pass^k", "g_pass": "G-pass@k", "mg_pass": "mG-pass@k",
}  # fmt: skip

_EXACT_BELOW = 16  # Stirling's series is within 1e-14 from here on


def pass_at_k(n: Counts, c: Counts, k: Counts) -> float | Float[np.ndarray, "..."]:
    r"""Chance that k of the n attempts, drawn without replacement, hold a right one: $1 - \binom{n-c}{k}/\binom{n}{k}$.

    Its mean over repetitions of the sampling is $1 - (1 - p)^k$ exactly, if n was fixed beforehand.

    **Arguments:**

    - `n`: attempts, c: right ones among them, $0 \le c \le n$; one, or an array with one a problem.
    - `k`: $1 \le k \le n$. Arrays broadcast: `pass_at_k(n[:, None], c[:, None], ks)` is `[problems, ks]`.

    **Returns:** a float, or an array where an argument is one. Relative error below 1e-8 to n = 1e6, small values too.

    **Raises:** `ValueError` naming the row: counts that are negative, fractional or not finite, c > n, k < 1, k > n.

    **Source:** Chen et al. (2021), arXiv 2107.03374, Eq. 1. Their code returns 1 for k > n without a success.
    """
    return _answer(-np.expm1(log_no_success(*_checked(n, c, k))))


asr_at_n = pass_at_k  # attack success rate within so many attempts, its name where a success is harm


def pass_hat_k(n: Counts, c: Counts, k: Counts) -> float | Float[np.ndarray, "..."]:
    r"""pass^k: chance that k of the n attempts are all right, $\binom{c}{k} / \binom{n}{k}$; arguments as `pass_at_k`.

    **Source:** Yao et al. (2024), tau-bench, arXiv 2406.12045.
    """
    trials, right, size = _checked(n, c, k)
    return _answer(np.exp(log_no_success(trials, trials - right, size)))


def g_pass_at_k(n: Counts, c: Counts, k: int, tau: float) -> float | Float[np.ndarray, "..."]:
    r"""G-pass@k at $\tau$: chance that at least $\lceil \tau k \rceil$ of k attempts are right (and at least one).

    `tau` in [0, 1]; 0 gives pass@k and 1 gives pass^k. Other arguments as `pass_at_k`, but one `k`.

    **Raises:** as `pass_at_k`; `ValueError` for `tau` outside [0, 1].

    **Source:** Liu et al. (2024), "Are your LLMs capable of stable reasoning?", arXiv 2412.13147.
    """
    if not 0 <= tau <= 1:
        raise ValueError(f"tau: must be in [0, 1], got {tau}")
    # 0.28 * 25 is 7.000000000000001, which must not become 8.
    least = max(1, math.ceil(tau * k - 1e-9))
    trials, right, size = _checked(n, c, k)
    return _answer(np.minimum(_right_among_k(trials, right, size)[..., least:].sum(axis=-1), 1.0))


def mg_pass_at_k(n: Counts, c: Counts, k: int) -> float | Float[np.ndarray, "..."]:
    r"""mG-pass@k: $\frac{2}{k} \sum_{i=\lceil k/2 \rceil + 1}^{k}$ G-pass@k at $\tau = i/k$: G-pass above 1/2.

    By this published sum it is 0 at k = 1, and at odd k its greatest value is $(k - 1)/k$. Arguments as `g_pass_at_k`.

    **Source:** Liu et al. (2024), arXiv 2412.13147.
    """
    trials, right, size = _checked(n, c, k)
    beyond = np.maximum(np.arange(k + 1) - math.ceil(k / 2), 0)  # in how many of the sums a count of j appears
    return _answer((_right_among_k(trials, right, size) * beyond).sum(axis=-1) * 2 / k)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Coverage:
    """One of these metrics at several k: without bias for each problem, and as a mean over problems with an interval.

    - `metric`: its name; `at`: each k; `per_problem`: [problems, ks]; `attempts`: what it was computed from;
    - `low`, `high`: [draws, ks], the mean over the population that the problems come from, by a Bayesian bootstrap of
      the problems and half a problem more, which scores 0 in `low` and 1 in `high`: what is not known of it.
    """

    metric: str
    at: Int[np.ndarray, " ks"]
    per_problem: Float[np.ndarray, "problems ks"]
    low: Float[np.ndarray, "draws ks"]
    high: Float[np.ndarray, "draws ks"]
    attempts: Attempts

    @property
    def mean(self) -> Float[np.ndarray, " ks"]:
        """The unbiased mean over problems, at each k."""
        return self.per_problem.mean(axis=0)

    def estimate(self, level: float = 0.9) -> Estimate:
        """The unbiased mean and its interval, arrays over k: the lower end from `low`, the upper from `high`.

        **Raises:** `ValueError` for a level outside (0, 1).
        """
        ends = estimate(self.low, level).interval.lower, estimate(self.high, level).interval.upper
        return Estimate(self.mean, Interval(*ends))

    def summary(self, level: float = 0.9) -> pd.DataFrame:
        """One row for each k: the mean over problems and the ends of its interval."""
        mean, (lower, upper) = self.estimate(level)
        return pd.DataFrame({"k": self.at, LABELS[self.metric]: mean, "lower": lower, "upper": upper}).set_index("k")

    def to_arviz(self) -> Any:
        """The draws of the mean as `METRIC_low` and `METRIC_high`, and the counts as observed data."""
        draws = {f"{self.metric}_low": self.low, f"{self.metric}_high": self.high}
        observed = {"successes": self.attempts.successes, "trials": self.attempts.trials}
        return arviz_adapter.from_dict(
            {"posterior": {name: values[None] for name, values in draws.items()}, "observed_data": observed},
            dims={name: ["k"] for name in draws} | {name: ["problem"] for name in observed},
            coords={"k": self.at, "problem": self.attempts.problems},
            attrs={"method": "unbiased estimator, Bayesian bootstrap over problems"},
        )

    def plot_curve(self, level: float = 0.9) -> Figure:
        """The mean over problems against k, with a band for its interval."""
        mean, (lower, upper) = self.estimate(level)
        figure, axes = new_figure()
        axes.plot(self.at, mean, "o-", markersize=3)
        axes.fill_between(self.at, lower, upper, color="C0", alpha=BAND, linewidth=0)
        axes.set(xscale="log", xlabel="attempts k", ylabel=f"{LABELS[self.metric]}, {level:.0%} interval", ylim=(0, 1))
        return figure


def coverage(
    successes: Shaped[np.ndarray | Array, " problems"] | Sequence[Any] | Attempts | Records,
    trials: Shaped[np.ndarray | Array, "*problems"] | Sequence[Any] | int | None = None,
    at: Sequence[int] | Int[np.ndarray | Array, " ks"] | None = None,
    *,
    metric: Metric = "pass_at",
    tau: float | None = None,
    problems: Sequence[str] | None = None,
    rule: str | StoppingRule = "fixed",
    key: int | Key[Array, ""] = 0,
    draws: int = 4_000,
) -> Coverage:
    """A metric's curve over k: unbiased for each problem, with intervals for the mean over problems.

    **Arguments:**

    - `successes`, `trials`, `problems`, `rule`: as of `Attempts`, or one of those, or `Records`; numbers of trials may
      differ.
    - `at`: each k, at most the least number of trials. Default: at most 30 of them, evenly spaced in ln k.
    - `metric`: `pass_at`, `asr` (the same by the name of attacks), `pass_hat`, `g_pass` (wants `tau`), `mg_pass`.
    - `key`, `draws`: of the bootstrap over problems, one set of weights for all k. Half a problem more, wrong for the
      lower end and right for the upper, keeps the interval wide where problems are all alike, and from missing rare
      successes. Where pass@k is below one in the number of problems, it is most of the upper end.

    **Raises:** `ValueError` as `Attempts` and `pass_at_k`; for a rule other than `fixed`, under which the estimators
    are biased; for a `tau` that is missing or not wanted.
    """
    attempts = as_attempts(successes, trials, problems, rule)
    attempts.require_fixed(LABELS[metric])
    if (tau is None) == (metric == "g_pass"):
        raise ValueError(f"tau: wanted by g_pass and by no other metric, got {tau} for {metric}")
    if draws < 1:
        raise ValueError(f"draws: at least 1 is wanted, got {draws}")
    ks = log_spaced(1, int(attempts.trials.min())) if at is None else np.asarray(at)
    if ks.ndim != 1 or not len(ks):
        raise ValueError(f"at: a list of numbers k is wanted, got shape {ks.shape}")
    of_count: dict[str, Callable[[Any, Any, Any], Any]] = {
        "pass_at": pass_at_k, "asr": pass_at_k, "pass_hat": pass_hat_k,
        "g_pass": lambda n, c, k: g_pass_at_k(n, c, k, tau or 0.0), "mg_pass": mg_pass_at_k,
    }  # fmt: skip
    if metric in ("g_pass", "mg_pass"):  # sums over up to k outcomes: one k at a time bounds the memory
        columns = [of_count[metric](attempts.trials, attempts.successes, int(k)) for k in ks]
        table = np.stack(columns, axis=1)
    else:
        table = of_count[metric](attempts.trials[:, None], attempts.successes[:, None], ks)
    low, high = _bounded_means(as_key(key), table, draws)
    return Coverage(metric=metric, at=ks, per_problem=table, low=low, high=high, attempts=attempts)


def _bounded_means(
    key: Key[Array, ""], table: Float[np.ndarray, "problems ks"], draws: int
) -> tuple[Float[np.ndarray, "draws ks"], Float[np.ndarray, "draws ks"]]:
    """Bootstrap means with half a problem more, which scores 0 in the first and 1 in the second.

    Both halves at once, as in `ppl.intervals.mean_interval` with bounds, would lift the lower end where rates are
    small: on 128 problems with a pass@1 of 0.27%, the lower end of a 90% interval is then above the truth in 19% of
    simulations.
    """
    # Two columns besides: what weight each end has in a draw, so that the other end can be taken out of it.
    rows = np.pad(table, ((0, 0), (0, 2)))
    ends = np.pad(np.eye(2), ((0, 0), (table.shape[1], 0)))
    means = weighted_means(key, rows, draws, ends=ends)
    inner, at_0, at_1 = means[:, :-2], means[:, -2:-1], means[:, -1:]
    # Rounding in float32 may pass 1 by 2e-7.
    return np.minimum(inner / (1 - at_1), 1), np.minimum((inner + at_1) / (1 - at_0), 1)


def log_spaced(first: int, last: int, points: int = 30) -> Int[np.ndarray, " ks"]:
    """At most so many whole numbers, evenly spaced in their logarithm. **Raises:** `ValueError` if first > last."""
    if not 1 <= first <= last:
        raise ValueError(f"k: at least {max(first, 1)} trials of every problem are wanted, got {last}")
    return np.unique(np.round(np.geomspace(first, last, points)).astype(np.int64))


def log_no_success(n: Any, c: Any, k: Any, xp: Any = np) -> Any:
    r"""$\ln \binom{n-c}{k} / \binom{n}{k}$ elementwise, for whole-numbered floats $0 \le c \le n$, $1 \le k \le n$.

    With $b = n - c - k$ and Stirling's remainders $\delta$ it is

    $$(b + \tfrac12) \ln\Bigl(1 + \frac{ck}{nb}\Bigr) + k \ln\Bigl(1 - \frac{c}{n}\Bigr) + c \ln\Bigl(1 - \frac{k}{n}
    \Bigr) + \delta(n - c) + \delta(n - k) - \delta(b) - \delta(n),$$

    where nothing large is subtracted, as differences of log-gammas would: the relative error is a few roundings, so
    that the same lines serve numpy in float64 (`xp=numpy`) and JAX in float32 (`xp=jax.numpy`), both to n = 1e6.
    """
    left = n - c - k
    some = (c > 0) & (left >= 0)
    c, k, b = xp.where(some, c, 0), xp.where(some, k, 0), xp.where(some, left, n)
    scaled = c * (k / n)
    ratio = xp.where(b > 0, xp.log1p(scaled / xp.maximum(b, 1)), xp.log(xp.maximum(scaled, 1 / n)))
    remainders = (_remainder(n - c, xp) - _remainder(n, xp)) + (_remainder(n - k, xp) - _remainder(b, xp))
    value = (b + 0.5) * ratio + k * xp.log1p(-c / n) + c * xp.log1p(-k / n) + remainders
    return xp.where(some, value, xp.where(left < 0, -xp.inf, 0.0))


def _remainder(z: Any, xp: Any) -> Any:
    """Stirling's remainder of ln z!, beyond (z + 1/2) ln max(z, 1) - z + ln(2 pi) / 2."""
    w = 1 / xp.maximum(z, 1)
    series = w * (1 / 12 - w**2 * (1 / 360 - w**2 * (1 / 1260 - w**2 / 1680)))
    exact = xp.asarray(_EXACT, dtype=z.dtype)[xp.clip(z, 0, _EXACT_BELOW - 1).astype(int)]
    return xp.where(z < _EXACT_BELOW, exact, series)


_SMALL = np.arange(_EXACT_BELOW)
_EXACT = special.gammaln(_SMALL + 1) - (
    (_SMALL + 0.5) * np.log(np.maximum(_SMALL, 1)) - _SMALL + 0.5 * math.log(2 * math.pi)
)


def _right_among_k(n: np.ndarray, c: np.ndarray, k: np.ndarray) -> Float[np.ndarray, "... counts"]:
    """Hypergeometric probabilities of 0..k right ones among k drawn of n with c right; one k."""
    size = int(k.max())
    j = np.arange(size + 1.0)
    n, c = n[..., None], c[..., None]
    possible = (j <= c) & (size - j <= n - c)
    within = np.where(possible, j, np.maximum(0, size - (n - c)))  # some possible count, to be masked
    log_pmf = _log_choose(c, within) + _log_choose(n - c, size - within) - _log_choose(n, size + 0 * within)
    return np.where(possible, np.exp(log_pmf), 0.0)


def _log_choose(n: np.ndarray, k: np.ndarray) -> np.ndarray:
    return special.gammaln(n + 1) - special.gammaln(k + 1) - special.gammaln(n - k + 1)


def _checked(n: Counts, c: Counts, k: Counts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The three as float64 arrays of one shape, or a `ValueError` that names what is wrong and where."""
    arrays = [np.asarray(value, dtype=np.float64) for value in (n, c, k)]
    trials, right, size = np.broadcast_arrays(*arrays)
    for name, value in (("n", trials), ("c", right), ("k", size)):
        _refuse(
            ~np.isfinite(value) | (value < 0) | (value != np.round(value)),
            lambda at, name=name, value=value: f"{name}: {value[at]:g}{_row(at)}; whole numbers from 0 up are wanted",
        )
    _refuse(right > trials, lambda at: f"c: {right[at]:g}{_row(at)} is more than its n = {trials[at]:g}")
    _refuse(size < 1, lambda at: f"k: at least 1 is wanted, got {size[at]:g}{_row(at)}")
    _refuse(
        size > trials,
        lambda at: (
            f"k: {size[at]:g}{_row(at)} is more than its n = {trials[at]:g} attempts, and no average over subsets of "
            "that size is known, with or without a success among them; ppl.risk.fit(successes, trials).pass_at(k) "
            "predicts it, with an interval"
        ),
    )
    return trials, right, size


def _refuse(bad: Any, message: Callable[[tuple[int, ...]], str]) -> None:
    if np.any(bad):
        raise ValueError(message(tuple(int(i) for i in np.argwhere(bad)[0])))


def _row(at: tuple[int, ...]) -> str:
    return f" in row {at[0]}" if at else ""


def _answer(value: Any) -> Any:
    return float(value) if np.ndim(value) == 0 else value
