r"""Schaeffer's discretised fits: a law of success probabilities from a histogram of s/n on log-spaced bins.

The density of the probabilities near 0, $p^{b-1}$, is what makes coverage a power law $k^{-b}$: the law's first
parameter predicts the exponent without the curve. Rates s/n are binned as if they were probabilities, so that problems
without a success are the bin at 0; the beta-binomial likelihood (`ppl.risk.fit`) needs no bins and has less bias.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Array, Float, Int, Shaped
from matplotlib.figure import Figure
from scipy import optimize, special, stats

from ppl import arviz_adapter
from ppl.plots import new_figure
from ppl.records import Records
from ppl.risk.attempts import Attempts, StoppingRule, as_attempts

Family = Literal["beta", "kumaraswamy"]

# 0, half the first edge, and 41 edges evenly spaced in the logarithm from 1e-4 to 1.
EDGES = np.concatenate([[0.0, 5e-5], np.geomspace(1e-4, 1.0, 41)])


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class DiscretisedFit:
    """A point estimate: `scale` times a variable with the law `family`(`a`, `b`); no uncertainty is claimed.

    `histogram` [bins] counts the problems between `EDGES`; `log_likelihood` is that of the histogram.
    """

    family: str
    a: float
    b: float
    scale: float
    histogram: Int[np.ndarray, " bins"]
    log_likelihood: float
    attempts: Attempts

    @property
    def exponent(self) -> float:
        """The power b in coverage = exp(-a k^-b) that this law leads to for large k: its first parameter."""
        return self.a

    def pass_at(self, attempts: int) -> float:
        r"""$1 - E[(1 - p)^N]$ under the fitted law. **Raises:** `ValueError` for attempts below 1."""
        if attempts < 1:
            raise ValueError(f"attempts: at least 1 is wanted, got {attempts}")
        if self.family == "beta":
            # (1 - cx)^N = (1 - c + c(1 - x))^N: a binomial mixture of the plain beta's failures, all terms positive.
            j = np.arange(attempts + 1)
            failure = np.exp(special.betaln(self.a, self.b + j) - special.betaln(self.a, self.b))
            return float(1 - stats.binom.pmf(j, attempts, self.scale) @ failure)
        # x = (1 - (1 - v)^(1/b))^(1/a) for a uniform v, by the trapezoidal rule in the logit of v, where the integrand
        # is smooth and dies out at both ends, so that the rule is exact to all digits and small x are resolved.
        t = np.linspace(-90.0, 40.0, 6501)
        x = np.exp(np.log(-np.expm1(special.log_expit(-t) / self.b)) / self.a)
        success = -np.expm1(attempts * np.log1p(-self.scale * np.minimum(x, 1 - 1e-16)))
        return float(np.trapezoid(success * special.expit(t) * special.expit(-t), t))

    def summary(self) -> pd.DataFrame:
        """One row: the parameters and the log-likelihood of the histogram."""
        row = {"a": self.a, "b": self.b, "scale": self.scale, "log_likelihood": self.log_likelihood}
        return pd.DataFrame([row], index=pd.Index([self.family], name="family"))

    def to_arviz(self) -> Any:
        """The estimate as constant data beside the counts; there is no posterior."""
        observed = {"successes": self.attempts.successes, "trials": self.attempts.trials}
        constant = {name: np.asarray(getattr(self, name)) for name in ("a", "b", "scale", "histogram")}
        return arviz_adapter.from_dict(
            {"observed_data": observed, "constant_data": constant},
            dims={"successes": ["problem"], "trials": ["problem"], "histogram": ["bin"]},
            coords={"problem": self.attempts.problems},
            attrs={"method": f"discretised {self.family}, maximum likelihood on bins"},
        )

    def plot_histogram(self) -> Figure:
        """The histogram of s/n and what the law expects in each bin; rates of 0 are in the bin at the left."""
        figure, axes = new_figure()
        left = np.maximum(EDGES[:-1], 2.5e-5)
        expected = self.histogram.sum() * np.diff(_cdf(self.family, self.a, self.b, self.scale))
        axes.bar(left, self.histogram, width=EDGES[1:] - left, align="edge", alpha=0.5, label="problems")
        axes.step(np.append(left, 1.0), np.append(expected, expected[-1]), where="post", color="C1", label=self.family)
        axes.set(xscale="log", xlabel="successes / trials", ylabel="problems")
        axes.legend(frameon=False)
        return figure


def fit_discretised(
    successes: Shaped[np.ndarray | Array, " problems"] | Sequence[Any] | Attempts | Records,
    trials: Shaped[np.ndarray | Array, "*problems"] | Sequence[Any] | int | None = None,
    *,
    family: Family = "beta",
    rule: str | StoppingRule = "fixed",
) -> DiscretisedFit:
    r"""Maximise $\sum_b h_b \ln(F(e_{b+1}) - F(e_b))$ over the histogram h of s/n, scaled to its maximum.

    **Arguments:** `successes`, `trials`, `rule`: as of `Attempts`, or one of those, or `Records`. `family`: `beta`, or
    `kumaraswamy` with $F(x) = 1 - (1 - x^a)^b$.

    The beta fits that the authors print for best-of-N jailbreaks come out to all their digits, if counts that stopped
    at a success are taken for fixed, as theirs were; those for Pythia to 1.5%, since they were made with other bins.
    Their Kumaraswamy fits do not come out by any binning that was tried (.2545, 2.654 against .1696, 1.738 on Gemini
    1.5 Flash).

    **Raises:** `ValueError` as `Attempts`; for a rule other than `fixed`, by which s/n is biased; without a success, or
    if all rates lie in one bin: no law is identified.

    **Source:** Schaeffer et al. (2025), "How do large language monkeys get their power (laws)?", arXiv 2502.17578, and
    its code's fits.
    """
    attempts = as_attempts(successes, trials, rule=rule)
    attempts.require_fixed("a histogram of s/n")
    if attempts.trials.min() < 1:
        raise ValueError(f"trials: problem {attempts.problems[int(attempts.trials.argmin())]!r} has none")
    rates = attempts.successes / attempts.trials
    histogram = np.histogram(rates, EDGES)[0]
    if (histogram > 0).sum() < 2:
        raise ValueError("successes: all s/n lie in one bin, which identifies no law; use ppl.risk.fit")
    scale = float(rates.max())
    filled = histogram > 0

    def loss(x: np.ndarray) -> float:
        a, b = np.exp(x)
        mass = np.diff(_cdf(family, a, b, scale))[filled]
        return -float(histogram[filled] @ np.log(np.maximum(mass, 1e-300)))

    found = _minimum(loss, np.log([0.9, 5.1]))
    a, b = np.exp(found)
    return DiscretisedFit(
        family=family,
        a=float(a),
        b=float(b),
        scale=scale,
        histogram=histogram,
        log_likelihood=-loss(found),
        attempts=attempts,
    )


def _minimum(loss: Callable[[np.ndarray], float], start: np.ndarray) -> np.ndarray:
    options = {"xatol": 1e-8, "fatol": 1e-10, "maxiter": 4000, "maxfev": 4000}
    found = optimize.minimize(loss, start, method="Nelder-Mead", options=options)
    if not found.success or np.abs(found.x).max() > 15:
        raise ValueError(f"successes: the binned likelihood has no finite maximum, it rises to {np.exp(found.x)}")
    return found.x


def _cdf(family: str, a: float, b: float, scale: float) -> Float[np.ndarray, " edges"]:
    x = np.minimum(EDGES / scale, 1.0)
    if family == "beta":
        return special.betainc(a, b, x)
    return -np.expm1(special.xlog1py(b, -(x**a)))
