r"""SABER: attack success beyond the attempts made, from a beta law of the problems' success probabilities.

With $\theta \sim \mathrm{Beta}(\alpha, \beta)$ over problems, the chance of no success in $N$ attempts is
$G(N) = B(\alpha, \beta + N)/B(\alpha, \beta) \approx \Gamma(\alpha+\beta)/\Gamma(\beta)\, N^{-\alpha}$. Here are the
published estimators beside the exact ones, and the published interval, marked for what it is. For intervals that hold
their level use `ppl.risk.fit`.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, Shaped
from matplotlib.figure import Figure
from scipy import optimize, special, stats

from ppl.intervals import check_level
from ppl.keys import as_key
from ppl.plots import legend_beside, new_figure
from ppl.records import Records
from ppl.risk.attempts import Attempts, StoppingRule, as_attempts
from ppl.risk.fisher import delta_variance, weighted_scores
from ppl.risk.log_log import line_coverage, log_log
from ppl.risk.pass_at import pass_at_k
from ppl.risk.results import DrawsResult

Attempted = float | np.number | Shaped[np.ndarray, "..."]

_UNDER_COVERS = (
    "SABER's Eq. 14 moves alpha alone and takes ASR@n for known: over the paper's 12 settings (159 problems, n = 100, "
    "N = 1000) the nominal 95% interval holds the truth in 61% of simulations; ppl.risk.fit gives one that holds"
)


@dataclasses.dataclass(frozen=True)
class SaberInterval:
    """The interval of SABER's Eq. 14: `lower`, `upper`, and that it does not hold its `level`, and why."""

    lower: float
    upper: float
    level: float
    under_covers: bool = True
    reason: str = _UNDER_COVERS


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class SaberFit(DrawsResult):
    r"""The maximum likelihood $(\alpha, \beta)$ and the estimators that SABER builds on it.

    - `alpha`, `beta`: the estimate; `information`: [2, 2], observed, in $(\alpha, \beta)$;
    - `attempts`: the counts; `anchor`: the n that is extrapolated from, the least number of trials.

    `draws` are normal in $(\ln \alpha, \ln \beta)$ by the observed information: what the paper's standard errors say,
    and no posterior. With numbers of trials that differ, the likelihood takes each as it is and the anchor is the
    unbiased ASR@n at the least of them.
    """

    alpha: float
    beta: float
    information: Float[np.ndarray, "2 2"]
    attempts: Attempts
    anchor: int

    @property
    def asr(self) -> float:
        """ASR@n at the anchor, unbiased: with equal trials the share of problems with a success."""
        self.attempts.require_fixed("ASR@n")
        return float(np.mean(pass_at_k(self.attempts.trials, self.attempts.successes, self.anchor)))

    def plug_in(self, attempts: Attempted, *, corrected: bool = False) -> Any:
        r"""Eq. 11, $1 - \Gamma(\alpha+\beta)/\Gamma(\beta) N^{-\alpha}$; `corrected`: Eq. 56, by the fitted beta.

        Below about $N = \beta$ the uncorrected law is no probability and negative; it is returned as it is.
        """
        return -np.expm1(self._log_power(attempts, corrected))

    def exact(self, attempts: Attempted) -> Any:
        """1 - G(N), what Eq. 11 approximates: holds from the first attempt on."""
        return -np.expm1(beta_log_failure(self.alpha, self.beta, attempts))

    def anchored(self, attempts: Attempted, *, corrected: bool = False) -> Any:
        r"""Eq. 12, $1 - (1 - \mathrm{ASR@}n)(n/N)^{\alpha}$: wants $n \gg \beta$; see `exact_ratio`."""
        change = self._log_power(attempts, corrected) - self._log_power(self.anchor, corrected)
        return 1 - self._left(attempts) * np.exp(change)

    def exact_ratio(self, attempts: Attempted) -> Any:
        r"""Anchored with $G(N)/G(n)$ for $(n/N)^{\alpha}$: holds for every n, and costs no more."""
        return 1 - self._left(attempts) * np.exp(self._log_ratio(attempts))

    def line(self, attempts: Attempted) -> Any:
        """SABER-Fit: the log-log line from k = 5 on with weights 1/k squared (`ppl.risk.log_log`)."""
        line = log_log(self.attempts, first=5, weights="saber", draws=1)
        return line_coverage(line.log_a, line.b, np.asarray(attempts, dtype=np.float64))[()]

    def interval(self, attempts: int, level: float = 0.95) -> SaberInterval:
        """Eq. 14: `anchored` with alpha at the ends of its interval. Marked, since it does not hold its level.

        **Raises:** as `anchored`; `ValueError` for a level outside (0, 1).
        """
        check_level(level)
        left = self._left(attempts)
        width = float(special.ndtri((1 + level) / 2) * alpha_error(self.alpha, self.beta, self.attempts.trials))
        lower, upper = (
            1 - left * (self.anchor / attempts) ** alpha for alpha in (max(self.alpha - width, 0.0), self.alpha + width)
        )
        return SaberInterval(lower, upper, level)

    def budget(self, target: float, method: Literal["anchored", "exact_ratio", "exact"] = "exact_ratio") -> float:
        r"""Budget@$\tau$: attempts until the ASR reaches `target`.

        `anchored` is Eq. 16, $n((1 - \mathrm{ASR@}n)/(1 - \tau))^{1/\alpha}$; the others are the roots of `exact_ratio`
        and `exact`. A target that n attempts have reached is read off the unbiased curve instead, by the first two.

        **Returns:** attempts, not rounded; infinity beyond 1e260, where they mean nothing.

        **Raises:** `ValueError` for a target outside (0, 1), or as `anchored`.
        """
        if not 0 < target < 1:
            raise ValueError(f"target: must be in (0, 1), got {target}")
        if method != "exact" and self.asr >= target:
            return float(self._first_reaching(target))
        if method == "exact":
            return _root(lambda n: float(beta_log_failure(self.alpha, self.beta, n)) - np.log1p(-target), 0.0)
        gap = np.log1p(-target) - np.log1p(-self.asr)
        if method == "anchored":
            log_budget = np.log(self.anchor) - gap / self.alpha
            return float(np.exp(log_budget)) if log_budget < _LAST else np.inf
        return _root(lambda n: float(self._log_ratio(n)) - gap, float(np.log(self.anchor)))

    def plot_curve(self, upto: int | None = None) -> Figure:
        """The unbiased curve to n, and the estimators beyond it."""
        figure, axes = new_figure()
        axes.axvline(self.anchor, color="0.6", linestyle="--", linewidth=1)
        inside = np.unique(np.geomspace(1, self.anchor, 40).astype(int))
        beyond = np.geomspace(self.anchor, upto or 100 * self.anchor, 100)
        table = pass_at_k(self.attempts.trials[:, None], self.attempts.successes[:, None], inside)
        axes.plot(inside, np.mean(table, axis=0), "o", color="C0", markersize=3, label="unbiased")
        # Where the beta law fits they lie on each other; dashes show the ones below.
        for number, (method, style) in enumerate(((self.exact, "-"), (self.anchored, "--"), (self.exact_ratio, ":"))):
            label = method.__name__.replace("_", " ")
            axes.plot(beyond, method(beyond), style, color=f"C{number + 1}", linewidth=1 + number, label=label)
        axes.set(xscale="log", xlabel="attempts N", ylabel="ASR@N", ylim=(0, 1))
        legend_beside(axes)
        return figure

    def _log_power(self, attempts: Attempted, corrected: bool) -> Any:
        n = np.asarray(attempts, dtype=np.float64)
        shifted = n + self.beta + (self.alpha - 1) / 2 if corrected else n
        return special.gammaln(self.alpha + self.beta) - special.gammaln(self.beta) - self.alpha * np.log(shifted)

    def _log_ratio(self, attempts: Attempted) -> Any:
        return beta_log_failure(self.alpha, self.beta, attempts) - beta_log_failure(self.alpha, self.beta, self.anchor)

    def _left(self, attempts: Attempted) -> float:
        """The share of problems to go at the anchor, or an error where nothing can be anchored."""
        if np.min(attempts) < self.anchor:
            raise ValueError(
                f"attempts: anchored estimates start at n = {self.anchor}, got {np.min(attempts):g}; "
                "below it ppl.risk.pass_at_k is unbiased"
            )
        if self.asr == 1:
            raise ValueError(
                f"successes: every problem has a success within {self.anchor} attempts; anchored there, ASR would be 1 "
                "for certain; use exact(), or ppl.risk.fit for an interval"
            )
        return 1 - self.asr

    def _first_reaching(self, target: float) -> int:
        low, high = 0, self.anchor
        while high - low > 1:
            middle = (low + high) // 2
            reached = np.mean(pass_at_k(self.attempts.trials, self.attempts.successes, middle)) >= target
            low, high = (low, middle) if reached else (middle, high)
        return high


def saber(
    successes: Shaped[np.ndarray | Array, " problems"] | Sequence[Any] | Attempts | Records,
    trials: Shaped[np.ndarray | Array, "*problems"] | Sequence[Any] | int | None = None,
    *,
    rule: str | StoppingRule = "fixed",
    key: int | Key[Array, ""] = 0,
    draws: int = 1_000,
) -> SaberFit:
    """The beta-binomial maximum likelihood fit, in $(\\ln \\alpha, \\ln \\beta)$ with its closed gradient (Eq. 9, B.2).

    **Arguments:** `successes`, `trials`, `rule`: as of `Attempts`, or one of those, or `Records`. Under a rule that is
    not `fixed` the fit, `plug_in` and `exact` hold; what uses ASR@n or the information at fixed n refuses. `key`,
    `draws`: of the normal draws.

    **Raises:** `ValueError` as `Attempts`; naming the reason where the likelihood has no finite maximum: no success or
    no failure at all, one trial each, every problem all right or all wrong, or counts that vary no more than one common
    probability would make them.

    **Source:** Feng et al. (2026), "Statistical estimation of adversarial risk in large language models under best-of-N
    sampling", arXiv 2601.22636v2.
    """
    attempts = as_attempts(successes, trials, rule=rule)
    if draws < 1:
        raise ValueError(f"draws: at least 1 is wanted, got {draws}")
    if attempts.trials.min() < 1:
        raise ValueError(f"trials: problem {attempts.problems[int(attempts.trials.argmin())]!r} has none")
    alpha, beta = _maximum_likelihood(attempts)
    s, f = attempts.successes, attempts.trials - attempts.successes
    n = attempts.trials
    shared = special.polygamma(1, n + alpha + beta).sum() - len(n) * special.polygamma(1, alpha + beta)
    of_alpha = (special.polygamma(1, alpha) - special.polygamma(1, s + alpha)).sum() + shared
    of_beta = (special.polygamma(1, beta) - special.polygamma(1, f + beta)).sum() + shared
    information = np.array([[of_alpha, shared], [shared, of_beta]])
    # At the maximum the gradient is 0, so that the change to logarithms only scales rows and columns.
    scaled = information * np.outer([alpha, beta], [alpha, beta])
    noise = np.asarray(jax.random.normal(as_key(key), (draws, 2), jnp.float32), dtype=np.float64)
    logs = np.log([alpha, beta]) + noise @ np.linalg.cholesky(np.linalg.inv(scaled)).T
    a, b = np.exp(logs).T[..., None]
    choose = special.gammaln(n + 1) - special.gammaln(s + 1) - special.gammaln(f + 1)
    return SaberFit(
        draws={"alpha": a[:, 0], "beta": b[:, 0]},
        log_likelihood={"successes": choose + special.betaln(s + a, f + b) - special.betaln(a, b)},
        observed={"successes": s, "trials": n},
        dims={"successes": ["problem"], "trials": ["problem"]},
        coords={"problem": attempts.problems},
        attrs={"method": "SABER, maximum likelihood; draws: normal approximation in (ln alpha, ln beta), no prior"},
        alpha=alpha,
        beta=beta,
        information=information,
        attempts=attempts,
        anchor=int(n.min()),
    )


def beta_log_failure(alpha: float, beta: float, attempts: Attempted) -> Any:
    r"""$\ln G(N) = \ln B(\alpha, \beta + N) - \ln B(\alpha, \beta)$, in float64; N need not be whole."""
    return special.betaln(alpha, beta + np.asarray(attempts, dtype=np.float64)) - special.betaln(alpha, beta)


def alpha_error(alpha: float, beta: float, trials: Shaped[np.ndarray, " problems"]) -> float:
    r"""Standard error of $\hat\alpha$ in Eq. 14: $\sqrt{(I^{-1})_{11}}$ with the expected information of Eq. 86-87.

    **Arguments:** `alpha`, `beta` positive; `trials`: one number a problem, which may differ.
    """
    n, problems = np.unique(np.asarray(trials), return_counts=True)  # most often one n
    scores = weighted_scores(alpha, beta, n) * np.sqrt(problems, dtype=np.float32)[:, None, None]
    return float(jnp.sqrt(delta_variance(scores.reshape(-1, 2), jnp.array([1.0, 0.0]))))


def naive(
    successes: Shaped[np.ndarray, " problems"], trials: Shaped[np.ndarray, " problems"] | int, attempts: int
) -> float:
    r"""SABER's baseline, Eq. 15: the mean of $1 - (1 - s/n)^N$. Too low beyond n: no success counts as never one."""
    return float(np.mean(1 - (1 - successes / trials) ** attempts))


def with_unbreakable(alpha: float, beta: float, mass: float, attempts: Attempted) -> Any:
    """ASR@N where a share `mass` of the problems never breaks and the others are Beta(alpha, beta).

    **Raises:** `ValueError` for a mass outside [0, 1].
    """
    if not 0 <= mass <= 1:
        raise ValueError(f"mass: must be in [0, 1], got {mass}")
    return -(1 - mass) * np.expm1(beta_log_failure(alpha, beta, attempts))


def with_benign(alpha: float, beta: float, harmful: float, attempts: int) -> float:
    r"""ASR@N where each attempt is harmful with chance `harmful`, and can succeed only then.

    $1 - {}_2F_1(-N, \alpha; \alpha + \beta; h)$ as the mean of $1 - G(J)$ over $J \sim \mathrm{Binomial}(N, h)$ harmful
    attempts: a sum of positive terms, where the series of ${}_2F_1$ alternates. Close to $1 - G(Nh)$.

    **Raises:** `ValueError` for a chance outside [0, 1].
    """
    if not 0 <= harmful <= 1:
        raise ValueError(f"harmful: must be in [0, 1], got {harmful}")
    j = np.arange(attempts + 1)
    return float(-stats.binom.pmf(j, attempts, harmful) @ np.expm1(beta_log_failure(alpha, beta, j)))


_LAST = 600.0  # ln of the largest budget returned: 4e260


def _root(gap: Callable[[float], float], start: float) -> float:
    """Where `gap`, decreasing in the attempts and positive at exp(start), is 0."""
    step = 1.0
    while gap(float(np.exp(start + step))) > 0:
        step *= 2
        if start + step > _LAST:
            return np.inf
    low, high = start, start + step
    while high - low > 1e-12 * max(1.0, abs(high)):
        middle = (low + high) / 2
        low, high = (middle, high) if gap(float(np.exp(middle))) > 0 else (low, middle)
    return float(np.exp(high))


def _maximum_likelihood(attempts: Attempts) -> tuple[float, float]:
    s, n = attempts.successes, attempts.trials
    advice = "the likelihood of (alpha, beta) has no finite maximum; ppl.risk.fit has a proper prior and an answer"
    if s.sum() in (0, n.sum()):
        raise ValueError(f"successes: all {n.sum()} attempts are {'wrong' if s.sum() == 0 else 'right'}; {advice}")
    if n.max() == 1:
        raise ValueError(f"trials: one each tells the mean and nothing of how problems differ; {advice}")
    if np.all((s == 0) | (s == n)):
        raise ValueError(f"successes: every problem is all right or all wrong; {advice}")
    pairs, problems = np.unique(np.stack([s, n - s]), axis=1, return_counts=True)
    right, wrong = pairs

    def loss(x: np.ndarray) -> float:
        a, b = np.exp(x)
        return -float(problems @ (special.betaln(right + a, wrong + b) - special.betaln(a, b))) / len(s)

    def gradient(x: np.ndarray) -> np.ndarray:
        a, b = np.exp(x)
        both = special.digamma(a + b) - special.digamma(right + wrong + a + b)
        of_a = problems @ (special.digamma(right + a) - special.digamma(a) + both)
        of_b = problems @ (special.digamma(wrong + b) - special.digamma(b) + both)
        return -np.array([a * of_a, b * of_b]) / len(s)

    def hessian(x: np.ndarray) -> np.ndarray:
        a, b = np.exp(x)
        both = problems @ (special.polygamma(1, a + b) - special.polygamma(1, right + wrong + a + b))
        of_a = problems @ (special.polygamma(1, right + a) - special.polygamma(1, a)) + both
        of_b = problems @ (special.polygamma(1, wrong + b) - special.polygamma(1, b)) + both
        curvature = np.array([[of_a, both], [both, of_b]]) * np.outer([a, b], [a, b])
        return np.diag(gradient(x)) - curvature / len(s)

    mean = s.sum() / n.sum()
    start = np.log([mean, 1 - mean])  # alpha + beta = 1: between problems alike and problems all or nothing
    found = optimize.minimize(
        loss, start, jac=gradient, hess=hessian, method="trust-exact", options={"gtol": 1e-10, "max_trust_radius": 4.0}
    )
    alpha, beta = np.exp(found.x)
    # The limit of one common probability: the likelihood rises, or stays, to where differences of betaln get lost.
    common = -(special.xlogy(s, mean) + special.xlog1py(n - s, -mean)).sum() / len(s)
    if alpha + beta > 1e6 or found.fun > common - 1e-9:
        raise ValueError(f"successes: they vary no more than one common probability would make them; {advice}")
    if np.abs(found.jac).max() > 1e-6:
        raise RuntimeError(f"the likelihood's maximum was not found: {found.message} at {alpha:g}, {beta:g}")
    # One Newton step more, past where differences of the likelihood get lost in its rounding.
    alpha, beta = np.exp(found.x - np.linalg.solve(hessian(found.x), found.jac))
    return float(alpha), float(beta)
