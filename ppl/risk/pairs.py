r"""What two answers to one question tell that one cannot: how far a stated probability is from the true one.

One answer $Y \sim p(\cdot | x)$ shows whether stated probabilities are right on average. It cannot show whether a model
that says 1/2 knows a fair coin, or does not know which of two sure things it faces. Two independent answers can: they
agree more often if the true probabilities vary behind the statement.

Let $\Phi$ be what the model's statement depends on, and $q = p(y | X)$. A model that states pairs, $\hat p(y, y')$, is
*second-order calibrated* if $E[p(y | X) p(y' | X) | \Phi] = \hat p(y, y')$ for all $y, y'$. Summed over $y'$ this gives
$E[q | \Phi] = \hat p(y)$, and with $\hat p(y | y) = \hat p(y, y) / \hat p(y)$

$$\mathrm{Var}(q | \Phi) = E[q^2 | \Phi] - E[q | \Phi]^2 = \hat p(y) \, (\hat p(y | y) - \hat p(y)).$$

Everything below follows from these two moments. For held-out pairs `pair_calibration` tests the assumption.

**Source:** Johnson, Tarlow, Duvenaud & Maddison (2024), ICML, arXiv 2402.08733, sections 2 to 4; derived anew here.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Array, Bool, Float, Int, Key, Shaped
from matplotlib.figure import Figure

from ppl.intervals import Interval, check_level
from ppl.keys import as_key
from ppl.plots import new_figure
from ppl.risk.draws import log_gamma_variates
from ppl.risk.results import DrawsResult, estimate

Probabilities = float | Float[np.ndarray | Array, "..."]
_log_gammas = jax.jit(log_gamma_variates)  # its loop would else be compiled at each call
_ROUNDING = 1e-6  # probabilities from float32 logits are this far from where they should be


def epistemic_variance(probability: Probabilities, repeated: Probabilities) -> float | Float[np.ndarray, "..."]:
    r"""Variance of the true probability around the stated one, $\hat p(y) (\hat p(y | y) - \hat p(y))$.

    **Arguments:** `probability` $\hat p(y)$, `repeated` $\hat p(y | y)$: of the same answer again, once it was given.

    **Raises:** `ValueError` naming a value outside [0, 1], or `repeated` below `probability`: no distribution of true
    probabilities has that, so that such a model's pairs are not calibrated and no bound holds.

    **Source:** Johnson et al. (2024), the cheat-corrected epistemic variance.
    """
    p, again = _checked(probability, repeated)
    return (p * np.maximum(again - p, 0))[()]


def epistemic_covariance(pair: Float[np.ndarray | Array, "*batch y y"]) -> Float[np.ndarray, "*batch y y"]:
    r"""Covariance of all answers' true probabilities, $\hat p(y, y') - \hat p(y) \hat p(y')$, from a table of pairs.

    **Arguments:** `pair`: $\hat p(y, y')$ for each pair of answers, of sum 1.

    **Raises:** `ValueError` if a table does not sum to 1 or is not symmetric, or the covariance has a negative
    eigenvalue (beyond 1e-6, rounding): a model states such pairs only if it is not calibrated.
    """
    table = np.asarray(pair, dtype=np.float64)
    total = table.sum(axis=(-2, -1))
    if np.any(table < 0) or np.any(np.abs(total - 1) > _ROUNDING):
        raise ValueError(f"pair: probabilities of sum 1 are wanted, got a sum of {np.ravel(total)[0]:g}")
    if np.any(np.abs(table - np.swapaxes(table, -1, -2)) > _ROUNDING):
        raise ValueError("pair: p(y, y') = p(y', y) is wanted; average the table with its transpose first")
    single = table.sum(axis=-1)
    covariance = table - single[..., :, None] * single[..., None, :]
    least = np.linalg.eigvalsh(covariance).min()
    if least < -_ROUNDING:
        raise ValueError(
            f"pair: no true probabilities have these pairs, their covariance has an eigenvalue of {least:.2g}"
        )
    return covariance


def probability_interval(probability: Probabilities, repeated: Probabilities, level: float = 0.9) -> Interval:
    r"""Interval for the true $p(y | x)$, without any assumption about its distribution.

    For a second-order calibrated model Chebyshev's inequality, given $\Phi$, says that

    $$P\left( |p(y | X) - \hat p(y)| \ge \sqrt{\mathrm{Var}(q | \Phi) / (1 - \mathrm{level})} \;\middle|\; \Phi \right)
      \le 1 - \mathrm{level},$$

    so the interval of that half-width, cut to [0, 1], covers with a chance of at least `level` over inputs that the
    model cannot tell apart. It is met with equality by a true probability that is $\hat p$ or at one of the two ends.
    The answer $y$ may depend on the statement (the likeliest one, one sampled from the model), not on the input in
    another way: for the answer that was observed, the bound does not hold.

    **Arguments:** as `epistemic_variance`. **Raises:** as `epistemic_variance`; `ValueError` for a level outside (0,
    1).

    **Source:** Johnson et al. (2024), section 4.
    """
    check_level(level)
    p, _ = _checked(probability, repeated)
    half = np.sqrt(np.asarray(epistemic_variance(probability, repeated)) / (1 - level))
    return Interval(np.maximum(p - half, 0)[()], np.minimum(p + half, 1)[()])


def hallucination_bound(probability: Probabilities, repeated: Probabilities) -> float | Float[np.ndarray, "..."]:
    r"""Largest chance that an answer is impossible, $P(p(y | X) = 0 | \Phi) \le 1 - \hat p(y) / \hat p(y | y)$.

    From Cauchy-Schwarz: $\hat p(y)^2 = E[q 1_{q > 0}]^2 \le E[q^2] P(q > 0) = \hat p(y) \hat p(y | y) P(q > 0)$. An
    answer of stated probability 0 has bound 1.

    **Arguments:** as `epistemic_variance`. **Raises:** as `epistemic_variance`.

    **Source:** Johnson et al. (2024), section 4: the ratio is their cheat-corrected epistemic confidence.
    """
    p, again = _checked(probability, repeated)
    return np.maximum(1 - np.divide(p, again, out=np.zeros_like(p), where=p > 0), 0)[()]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class PairCalibration(DrawsResult):
    r"""Stated against observed moments of held-out pairs, by draws over the population of inputs.

    - `bias`: mean of $Y - \hat p(y)$; 0 for a model that is calibrated to first order;
    - `stated_variance`, `squared_error`: means of what the model states, and of $(Y_1 - \hat p)(Y_2 - \hat p)$, whose
      expectation is that of $(p(y | X) - \hat p)^2$ whatever the model;
    - `excess`: their difference. Above 0 the model is overconfident, and its intervals are too narrow;
    - `bin_stated`, `bin_observed` [bins]: the same two in bins of stated variance.
    """

    bins: pd.DataFrame

    @property
    def overconfident(self) -> float:
        """Posterior probability that the true probabilities vary more than the model states."""
        return float(np.mean(self.draws["excess"] > 0))

    def plot_reliability(self, level: float = 0.9) -> Figure:
        """Observed mean squared error of the stated probability against the stated variance, in bins."""
        figure, axes = new_figure()
        figure.set_size_inches(5, 4.4)
        stated = self.bins["stated_variance"].to_numpy()
        middle, (lower, upper) = estimate(self.draws["bin_observed"], level)
        axes.plot([0, stated.max()], [0, stated.max()], color="0.6", linewidth=1, linestyle="--")
        axes.vlines(stated, lower, upper, color="C0", alpha=0.5, linewidth=3)
        axes.plot(stated, middle, "o", color="C0", markersize=4)
        axes.set(xlabel="stated epistemic variance", ylabel=f"observed, {level:.0%} interval")
        return figure


def pair_calibration(
    probability: Float[np.ndarray | Array, " pairs"],
    repeated: Float[np.ndarray | Array, " pairs"],
    first: Shaped[np.ndarray | Array, " pairs"] | Sequence[Any],
    second: Shaped[np.ndarray | Array, " pairs"] | Sequence[Any],
    *,
    num_bins: int = 5,
    draws: int = 4_000,
    key: int | Key[Array, ""] = 0,
) -> PairCalibration:
    r"""Is a model of pairs second-order calibrated? From two independent answers to each of many held-out inputs.

    For each input one answer $y$ is chosen, by the model's statement alone. Draws are Bayesian bootstraps over inputs
    (one set of weights for all quantities), so that inputs must be independent.

    **Arguments:**

    - `probability`, `repeated`: $\hat p(y)$ and $\hat p(y | y)$ of the chosen answer;
    - `first`, `second`: whether each of the two answers was $y$, 0 or 1;
    - `num_bins`: bins of about equal counts by stated variance, for the plot and `PairCalibration.bins`.

    **Raises:** as `epistemic_variance`; `ValueError` for lengths that differ, fewer than 2 inputs or than bins,
    outcomes that are neither 0 nor 1, `num_bins` or `draws` below 1.

    **Source:** the criterion is that of Johnson et al. (2024); the cross-product estimator of the squared error is
    ours.
    """
    p, again = _checked(probability, repeated)
    y1, y2 = _outcomes("first", first, len(p)), _outcomes("second", second, len(p))
    if not 1 <= num_bins <= len(p) or len(p) < 2:
        raise ValueError(f"num_bins: from 1 to the number of inputs, at least 2, is wanted; got {num_bins} of {len(p)}")
    _check_draws(draws)
    stated, observed = p * np.maximum(again - p, 0), (y1 - p) * (y2 - p)
    order = np.argsort(stated, kind="stable")
    bins = np.empty(len(p), dtype=np.int64)
    bins[order] = np.arange(len(p)) * num_bins // len(p)
    member = np.eye(num_bins)[bins]
    weights = np.asarray(jax.random.exponential(as_key(key), (draws, len(p))), dtype=np.float64)
    in_bin = weights @ member
    weights /= weights.sum(axis=1, keepdims=True)
    mean_stated, mean_observed = weights @ stated, weights @ observed
    in_bin /= in_bin.sum(axis=1, keepdims=True)
    count = member.sum(axis=0)
    return PairCalibration(
        draws={
            "bias": weights @ ((y1 + y2) / 2 - p),
            "stated_variance": mean_stated,
            "squared_error": mean_observed,
            "excess": mean_observed - mean_stated,
            "bin_stated": weights @ (member * stated[:, None]) / in_bin,
            "bin_observed": weights @ (member * observed[:, None]) / in_bin,
        },
        observed={"first": y1, "second": y2},
        dims={"bin_stated": ["bin"], "bin_observed": ["bin"], "first": ["pair"], "second": ["pair"]},
        attrs={"method": "Bayesian bootstrap"},
        bins=pd.DataFrame(
            {
                "count": count.astype(np.int64),
                "stated_variance": stated @ member / count,
                "observed": observed @ member / count,
            }
        ),
    )


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class ProblemMoments(DrawsResult):
    r"""Draws of `mean` and `variance` of the success probability over problems, its `correlation`
    $\mathrm{Var}\,\theta / (m (1 - m))$, and the `alpha`, `beta` of the beta distribution with these moments.

    `refused`: share of the unrestricted posterior without a mixture behind it (negative variance), which was left out.
    Near 1 it says that the two trials of a problem are not independent repetitions.
    """

    refused: float


def problem_moments(
    first: Shaped[np.ndarray | Array, " problems"] | Sequence[Any],
    second: Shaped[np.ndarray | Array, " problems"] | Sequence[Any],
    *,
    draws: int = 4_000,
    key: int | Key[Array, ""] = 0,
) -> ProblemMoments:
    r"""Mean and spread of success probabilities from two trials of each problem, without a distribution for them.

    $E[\theta] = E[Y]$ and $\mathrm{Var}\,\theta = E[Y_1 Y_2] - E[Y]^2$: two trials are enough to identify a beta
    distribution, one is not. A problem has 0, 1 or 2 successes, so the model is one multinomial; its prior is
    Dirichlet(1/2, 1/2, 1/2), restricted to $\mathrm{Var}\,\theta \ge 0$, which any mixture has.

    **Arguments:** `first`, `second`: outcome of each trial, 0 or 1, one problem a row; problems independent.

    **Returns:** also the log-likelihood of each problem's number of successes.

    **Raises:** `ValueError` for lengths that differ, no problem, outcomes that are neither 0 nor 1, `draws` below 1, or
    if fewer than one in a thousand unrestricted draws has a variance of at least 0.

    **Source:** the beta-binomial analogue of Johnson et al. (2024).
    """
    y1 = _outcomes("first", first, None)
    y2 = _outcomes("second", second, len(y1))
    _check_draws(draws)
    if not len(y1):
        raise ValueError("first: at least one problem is wanted, got none")
    successes = (y1 + y2).astype(np.int64)
    counts = np.bincount(successes, minlength=3)
    log_cells, refused = _mixture_cells(counts, draws, as_key(key))
    none, one, two = np.exp(log_cells).T
    mean, other = two + one / 2, none + one / 2
    # Var = P(2) - mean^2 = P(2) P(0) - P(1)^2 / 4, and m (1 - m) - Var = P(1) / 2: without cancellation.
    variance = two * none * -np.expm1(2 * log_cells[:, 1] - log_cells[:, 0] - log_cells[:, 2] - np.log(4))
    strength = one / 2 / variance
    return ProblemMoments(
        draws={
            "mean": mean,
            "variance": variance,
            "correlation": variance / (mean * other),
            "alpha": mean * strength,
            "beta": other * strength,
        },
        log_likelihood={"successes": log_cells[:, successes].astype(np.float32)},
        observed={"successes": successes},
        dims={"successes": ["problem"]},
        attrs={"prior": "Dirichlet(1/2) over 0, 1 and 2 successes, variance at least 0"},
        refused=refused,
    )


def _mixture_cells(
    counts: Int[np.ndarray, "3"], draws: int, key: Key[Array, ""]
) -> tuple[Float[np.ndarray, "draws 3"], float]:
    """Log probabilities of 0, 1, 2 successes: Dirichlet draws with $P(2) P(0) > P(1)^2 / 4$, and the share refused."""
    kept, tried, accepted = [], 0, 0
    while accepted < draws:
        key, now = jax.random.split(key)
        # In logarithms: with no problem of a kind, its float32 probability would often be 0.
        shape = jnp.broadcast_to(jnp.asarray(counts + 0.5, jnp.float32), (max(draws, 1_000), 3))
        gammas = np.asarray(_log_gammas(now, shape), dtype=np.float64)
        mixture = gammas[gammas[:, 0] + gammas[:, 2] > 2 * gammas[:, 1] - np.log(4)]
        kept.append(mixture)
        tried, accepted = tried + len(gammas), accepted + len(mixture)
        if tried >= 10_000 and accepted < tried / 1000:
            raise ValueError(
                f"first, second: {counts[1]} of {counts.sum()} problems have one success of two, more than any mixture "
                "of success probabilities explains; are the two trials independent repetitions?"
            )
    cells = np.concatenate(kept)[:draws]
    return cells - np.logaddexp.reduce(cells, axis=1, keepdims=True), 1 - accepted / tried


def _checked(probability: Probabilities, repeated: Probabilities) -> tuple[np.ndarray, np.ndarray]:
    p, again = np.asarray(probability, dtype=np.float64), np.asarray(repeated, dtype=np.float64)
    if p.shape != again.shape:
        raise ValueError(f"repeated: one for each probability, shape {p.shape}, is wanted, got {again.shape}")
    for name, values in (("probability", p), ("repeated", again)):
        bad = np.asarray(~((values >= 0) & (values <= 1)))
        if bad.any():
            raise ValueError(f"{name}: must be in [0, 1], got {values[bad].ravel()[0]} at {_where(bad)}")
    bad = np.asarray(again < p - _ROUNDING)
    if bad.any():
        raise ValueError(
            f"repeated: at least probability {p[bad].ravel()[0]:g} is wanted, got {again[bad].ravel()[0]:g} at "
            f"{_where(bad)}; for a calibrated model an answer does not become less likely because it was given"
        )
    return p, again


def _outcomes(name: str, values: Any, length: int | None) -> Float[np.ndarray, " n"]:
    outcome = np.asarray(values, dtype=np.float64)
    if outcome.ndim != 1 or (length is not None and len(outcome) != length):
        number = "" if length is None else f", {length} of them,"
        raise ValueError(f"{name}: one outcome a row{number} is wanted, got shape {outcome.shape}")
    bad = np.flatnonzero((outcome != 0) & (outcome != 1))
    if bad.size:
        raise ValueError(f"{name}: row {bad[0]} has {outcome[bad[0]]:g}; 0 or 1 is wanted")
    return outcome


def _check_draws(draws: int) -> None:
    if draws < 1:
        raise ValueError(f"draws: at least 1 is wanted, got {draws}")


def _where(bad: Bool[np.ndarray, "..."]) -> str:
    return str(tuple(int(i) for i in np.argwhere(bad)[0]))
