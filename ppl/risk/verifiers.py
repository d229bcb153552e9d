r"""Imperfect verifiers: how often one accepts what is right and what is wrong, and what an accepted answer is worth.

A verifier (unit tests, a judge, a reward above a threshold) accepts a right attempt with probability $c$, its
sensitivity or completeness, and rejects a wrong one with probability $s$, its specificity or soundness. With $r$ the
share of right attempts, an accepted attempt is right with probability $c r / (c r + (1 - s)(1 - r))$: the ceiling of
resampling, whatever the budget. `ppl.risk.resampling_value` has what attempts are worth under it.
"""

import dataclasses
from collections.abc import Mapping

import jax
import numpy as np
from jaxtyping import Array, Float, Int, Key, Shaped
from matplotlib.figure import Figure
from scipy import special

from ppl.intervals import JEFFREYS
from ppl.keys import as_key
from ppl.plots import BAND, legend_beside, new_figure
from ppl.risk.bootstrap import weighted_means
from ppl.risk.draws import log_gamma_variates
from ppl.risk.results import DrawsResult, estimate

_log_gamma = jax.jit(log_gamma_variates)

Counts = int | np.integer | Int[np.ndarray | Array, " problems"]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class VerifierPosterior(DrawsResult):
    r"""Posterior of a verifier's error rates: draws `sensitivity`, `specificity` and `false_accept` ($1 - s$) [draws].

    `false_accept` is drawn, and `specificity` computed from it: in float32 a small $1 - s$ would lose its digits.
    """

    def plot_ceiling(self, level: float = 0.9) -> Figure:
        """P(right | accepted) against the share of right attempts: posterior mean and band. The dashes: no verifier."""
        success = np.linspace(0.001, 0.999, 201)  # at the ends a verifier without errors may accept nothing
        right = self.draws["sensitivity"][:, None] * success
        accepted = right + self.draws["false_accept"][:, None] * (1 - success)
        middle, (lower, upper) = estimate(right / accepted, level)
        figure, axes = new_figure()
        axes.plot(success, middle, color="C0", label="accepted by the verifier")
        axes.fill_between(success, lower, upper, color="C0", alpha=BAND, linewidth=0, label=f"{level:.0%} interval")
        axes.plot(success, success, color="0.6", linewidth=1, linestyle="--", label="any attempt")
        axes.set(xlabel="share of right attempts", ylabel="P(right)", xlim=(0, 1), ylim=(0, 1.01))
        legend_beside(axes)
        return figure


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Ceiling(DrawsResult):
    """Posterior of what an accepted answer is worth: draws `ceiling`, P(right | accepted), and others by its maker."""

    def plot_ceiling(self, level: float = 0.9) -> Figure:
        """Posterior density of each probability in the result, scaled to one height, and its interval below."""
        figure, axes = new_figure()
        edges = np.linspace(0, 1, 61)
        shown = {name: values for name, values in self.draws.items() if name != "gap"}
        for number, (name, values) in enumerate(shown.items()):
            density, _ = np.histogram(values, edges)
            label = f"{name.replace('_', ' ')} {values.mean():.2f}"
            axes.stairs(density / density.max(), edges, color=f"C{number}", linewidth=1.5, label=label)
            lower, upper = estimate(values, level).interval
            axes.hlines(-0.04 * (number + 1), lower, upper, color=f"C{number}", linewidth=3)
        axes.set(xlabel=f"probability; bars: {level:.0%} intervals", ylabel="posterior density", xlim=(0, 1), yticks=[])
        legend_beside(axes)
        return figure


def verifier(
    tp: Counts,
    fn: Counts,
    tn: Counts,
    fp: Counts,
    *,
    prior: tuple[float, float] = JEFFREYS,
    draws: int = 4000,
    key: int | Key[Array, ""] = 0,
) -> VerifierPosterior:
    r"""Posterior of sensitivity and specificity from verdicts on attempts whose truth is known.

    **Arguments:**

    - `tp`, `fn`: right attempts that the verifier accepted, rejected; `tn`, `fp`: wrong ones that it rejected,
      accepted. Four numbers, or four arrays [problems].
    - `prior`: of sensitivity and of false acceptance alike, both positive. Default: Jeffreys, (1/2, 1/2).
    - `draws`, `key`: how many posterior draws, and their seed.

    **Four numbers** are taken for independent verdicts: $c \sim \mathrm{Beta}(a + tp, b + fn)$ and
    $1 - s \sim \mathrm{Beta}(a + fp, b + tn)$. The log-likelihood of the two counts goes along.

    **Arrays** are for several attempts a problem. Verdicts on one problem resemble each other (a test that one wrong
    attempt slips through lets the next one through, too), so problems are resampled, not verdicts: a Bayesian bootstrap
    of the pooled rates $\sum_i w_i tp_i / \sum_i w_i (tp_i + fn_i)$, $w_i \sim \mathrm{Exp}(1)$, which also keeps the
    correlation of the two rates. The prior's counts are problems of mean size, all accepted or all rejected; with one
    attempt a problem this is the beta posterior above. It has no likelihood, hence none is given for LOO.

    **Raises:** `ValueError` naming the count that is negative or not whole, arrays that do not match, a prior that is
    not positive.
    """
    counts = check_counts({"tp": tp, "fn": fn, "tn": tn, "fp": fp})
    check_prior(prior, draws)
    positives, negatives = counts["tp"] + counts["fn"], counts["tn"] + counts["fp"]
    first, second = jax.random.split(as_key(key))
    if counts["tp"].ndim:
        columns = np.stack([counts["tp"], counts["fn"], counts["fp"], counts["tn"]], axis=1)
        totals = bootstrap_totals(first, columns, draws)
        sizes = [mean_size(positives), mean_size(negatives)]
        sensitivity = smoothed_share(jax.random.fold_in(second, 0), totals[:, 0], totals[:, 1], sizes[0], prior)
        false_accept = smoothed_share(jax.random.fold_in(second, 1), totals[:, 2], totals[:, 3], sizes[1], prior)
    else:
        sensitivity = beta_draws(first, prior[0] + counts["tp"], prior[1] + counts["fn"], draws)
        false_accept = beta_draws(second, prior[0] + counts["fp"], prior[1] + counts["tn"], draws)
    observed = {
        "accepted": np.array([counts["tp"].sum(), counts["fp"].sum()]),
        "labelled": np.array([positives.sum(), negatives.sum()]),
    }
    likelihood = _log_binomial(observed["accepted"], observed["labelled"], np.stack([sensitivity, false_accept], 1))
    return VerifierPosterior(
        draws={"sensitivity": sensitivity, "specificity": 1 - false_accept, "false_accept": false_accept},
        log_likelihood={} if counts["tp"].ndim else {"accepted": likelihood},
        observed=observed,
        dims={"accepted": ["truth"], "labelled": ["truth"]},
        coords={"truth": ["right", "wrong"]},
        attrs={"prior": f"Beta{prior}", "unit": "problem" if counts["tp"].ndim else "verdict"},
    )


def ceiling(verifier: DrawsResult, success: float | Float[np.ndarray | Array, " draws"]) -> Ceiling:
    r"""P(right | accepted) $= c r / (c r + (1 - s)(1 - r))$ for attempts of which a share `success` ($r$) is right.

    **Arguments:**

    - `verifier`: a `VerifierPosterior`, or any result with draws `sensitivity` and `specificity`. Where nobody knows
      which attempts are right, only how many the verifier accepts, take `judged = ppl.risk.judged_accuracy(...)` and
      `ceiling(judged, judged.draws["accuracy"])`: its draws of the rates and of $r$ belong together.
    - `success`: in [0, 1], a number or posterior draws, as many as the verifier has (of pass@1, say).

    For problems of different difficulty this is the worth of one accepted attempt at a random problem. Resampling until
    acceptance is worth less, since hard problems take more of the attempts (`ppl.risk.resampling_value`).

    **Returns:** draws `ceiling`, `acceptance` (the share accepted), `success`.

    **Raises:** `ValueError` naming a draw outside [0, 1] or one that accepts nothing, or if the numbers of draws
    differ.
    """
    r = np.atleast_1d(np.asarray(success, dtype=np.float64))
    bad = np.flatnonzero(~((r >= 0) & (r <= 1)))
    if bad.size:
        raise ValueError(f"success: draw {bad[0]} is {r[bad[0]]:g}; probabilities in [0, 1] are wanted")
    sensitivity, false_accept = error_rates(verifier)
    if len(r) not in (1, len(sensitivity)):
        raise ValueError(f"success: one number or the verifier's {len(sensitivity)} draws are wanted, got {len(r)}")
    right, wrong = sensitivity * r, false_accept * (1 - r)
    nothing = np.flatnonzero(right + wrong == 0)
    if nothing.size:
        raise ValueError(f"verifier: it accepts nothing in draw {nothing[0]}, and no accepted answer has a worth there")
    return Ceiling(
        draws={
            "ceiling": right / (right + wrong),
            "acceptance": right + wrong,
            "success": np.broadcast_to(r, sensitivity.shape).copy(),
        }
    )


def ceiling_from_counts(
    right: Counts,
    accepted: Counts,
    trials: Counts | None = None,
    *,
    prior: tuple[float, float] = JEFFREYS,
    draws: int = 4000,
    key: int | Key[Array, ""] = 0,
) -> Ceiling:
    r"""P(right | accepted) where accepted attempts were checked: HumanEval+ on what passes HumanEval's tests.

    **Arguments:** of `trials` attempts (optional) the verifier accepted `accepted`, and of these `right` are right.
    Numbers, or arrays [problems]; arrays resample problems, as in `verifier`. `prior`, `draws`, `key`: likewise.

    **Returns:** draws

    - `ceiling`: P(right | accepted) of an attempt;
    - `ceiling_by_problem` (arrays): mean over problems with an accepted attempt of the share that is right, which is
      what resampling without limit approaches, and what Stroebl et al. call P(plus | base);
    - with `trials`: `acceptance`, the accuracy that the verifier sees; `success`, accepted and right, the accuracy
      after the check; `gap`, their difference.

    **Raises:** `ValueError` naming a count that is negative, not whole or above what it is a part of, or arrays that do
    not match.

    **Source:** Stroebl, Kapoor & Narayanan (2024), arXiv 2411.17501, section 3.
    """
    named = {"right": right, "accepted": accepted} | ({} if trials is None else {"trials": trials})
    counts = check_counts(named)
    check_prior(prior, draws)
    check_part("right", counts["right"], "accepted", counts["accepted"])
    wrong = counts["accepted"] - counts["right"]
    rejected = np.zeros_like(wrong)
    if trials is not None:
        check_part("accepted", counts["accepted"], "trials", counts["trials"])
        rejected = counts["trials"] - counts["accepted"]
    first, second, third = jax.random.split(as_key(key), 3)
    result: dict[str, np.ndarray] = {}
    if wrong.ndim:
        some = counts["accepted"] > 0
        share = np.divide(counts["right"], counts["accepted"], out=np.zeros(len(some)), where=some)
        columns = np.stack([counts["right"], wrong, rejected, share, some - share], axis=1)
        totals = bootstrap_totals(first, columns, draws)
        size, whole = mean_size(counts["accepted"]), mean_size(wrong + counts["right"] + rejected)
        result["ceiling"] = smoothed_share(jax.random.fold_in(second, 0), totals[:, 0], totals[:, 1], size, prior)
        by_problem = smoothed_share(jax.random.fold_in(second, 1), totals[:, 3], totals[:, 4], 1.0, prior)
        result["ceiling_by_problem"] = by_problem
        passed = smoothed_share(third, totals[:, 0] + totals[:, 1], totals[:, 2], whole, prior)
    else:
        result["ceiling"] = beta_draws(first, prior[0] + counts["right"], prior[1] + wrong, draws)
        passed = beta_draws(third, prior[0] + counts["accepted"], prior[1] + rejected, draws)
    if trials is not None:
        result |= {"acceptance": passed, "success": passed * result["ceiling"]}
        result["gap"] = passed * (1 - result["ceiling"])
    return Ceiling(
        draws=result,
        observed={name: np.atleast_1d(value) for name, value in counts.items()},
        dims={name: ["problem"] for name in counts},
        attrs={"prior": f"Beta{prior}", "unit": "problem" if wrong.ndim else "attempt"},
    )


def check_counts(
    counts: Mapping[str, float | np.integer | Shaped[np.ndarray | Array, "..."]],
) -> dict[str, Int[np.ndarray, "..."]]:
    """Counts by name as int64, all of one shape: numbers, or [problems] with a problem at least.

    **Raises:** `ValueError` naming count, row and value.
    """
    checked: dict[str, np.ndarray] = {}
    shapes = {name: np.shape(value) for name, value in counts.items()}
    for name, value in counts.items():
        numbers = np.asarray(value, dtype=np.float64)
        if numbers.ndim > 1 or shapes[name] != next(iter(shapes.values())):
            listed = ", ".join(f"{other} {shape}" for other, shape in shapes.items())
            raise ValueError(f"{name}: all counts must be numbers, or arrays of one length; got shapes {listed}")
        if not numbers.size:
            raise ValueError(f"{name}: at least one problem is wanted, got none")
        flat = np.atleast_1d(numbers)
        bad = np.flatnonzero(~np.isfinite(flat) | (flat < 0) | (flat != np.round(flat)))
        if bad.size:
            where = f"row {bad[0]} has " if numbers.ndim else ""
            raise ValueError(f"{name}: whole numbers from 0 up are wanted, {where or 'got '}{flat[bad[0]]:g}")
        checked[name] = numbers.astype(np.int64)
    return checked


def check_part(name: str, part: Int[np.ndarray, "..."], of: str, whole: Int[np.ndarray, "..."]) -> None:
    """**Raises:** `ValueError` naming the row where `part` is more than `whole`."""
    above = np.flatnonzero(np.atleast_1d(part > whole))
    if above.size:
        i = above[0]
        where = f"row {i} has " if part.ndim else "got "
        raise ValueError(
            f"{name}: at most {of} is wanted, {where}{np.atleast_1d(part)[i]} of {np.atleast_1d(whole)[i]}"
        )


def check_prior(prior: tuple[float, float], draws: int) -> None:
    """**Raises:** `ValueError` unless both parameters of the prior, and the number of draws, are positive."""
    if not min(prior) > 0:
        raise ValueError(f"prior: both parameters must be positive, got {prior}")
    if draws < 1:
        raise ValueError(f"draws: at least 1 is wanted, got {draws}")


def error_rates(verifier: DrawsResult) -> tuple[Float[np.ndarray, " draws"], Float[np.ndarray, " draws"]]:
    """Draws of sensitivity and false acceptance. **Raises:** `ValueError` naming the draws that lack."""
    lacking = {"sensitivity", "specificity"} - verifier.draws.keys()
    if lacking:
        raise ValueError(f"verifier: draws of {', '.join(sorted(lacking))} are wanted, got {', '.join(verifier.draws)}")
    false_accept = verifier.draws.get("false_accept", 1 - verifier.draws["specificity"])
    return verifier.draws["sensitivity"], false_accept


def bootstrap_totals(
    key: Key[Array, ""], values: Shaped[np.ndarray, "problems quantities"], draws: int
) -> Float[np.ndarray, "draws quantities"]:
    r"""Draws of $\sum_i w_i v_i$ with $w_i \sim \mathrm{Exp}(1)$, the same weights for all quantities of a draw."""
    inner, outer = jax.random.split(key)
    # Exponential weights are Dirichlet weights times their sum, which is a gamma draw independent of them.
    total = gamma_draws(outer, len(values), draws)
    return total[:, None] * weighted_means(inner, values, draws)


def smoothed_share(
    key: Key[Array, ""],
    inside: Float[np.ndarray, " draws"],
    outside: Float[np.ndarray, " draws"],
    size: float,
    prior: tuple[float, float],
) -> Float[np.ndarray, " draws"]:
    """Share of `inside` in all, with the prior's counts as gamma draws of `size` each, so that it is never 0 or 1."""
    more, less = (
        size * gamma_draws(part, weight, len(inside)) for part, weight in zip(jax.random.split(key), prior, strict=True)
    )
    return (inside + more) / (inside + more + outside + less)


def gamma_draws(key: Key[Array, ""], shape: float, draws: int) -> Float[np.ndarray, " draws"]:
    """Independent Gamma(shape, 1) variates."""
    return np.exp(_log_gammas(key, np.full(draws, shape)))


def beta_draws(
    key: Key[Array, ""],
    a: float | Float[np.ndarray, "*parameters"],
    b: float | Float[np.ndarray, "*parameters"],
    draws: int,
) -> Float[np.ndarray, "draws *parameters"]:
    """Independent beta variates, exact near 0, for each pair of parameters."""
    pairs = np.stack(np.broadcast_arrays(a, b))
    log_a, log_b = _log_gammas(key, np.broadcast_to(pairs[:, None], (2, draws, *pairs.shape[1:])))
    return np.exp(-np.logaddexp(0, log_b - log_a))


def _log_gammas(key: Key[Array, ""], shapes: Shaped[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    # Compiling takes a second or two, drawing milliseconds: one program for up to 2^13 variates, one up to 2^15, ...
    padded = np.ones(2 ** max(13, (shapes.size - 1).bit_length() | 1), dtype=np.float32)
    padded[: shapes.size] = shapes.ravel()
    return np.asarray(_log_gamma(key, padded))[: shapes.size].reshape(shapes.shape)


def mean_size(attempts: Int[np.ndarray, " problems"]) -> float:
    """Mean number of attempts over the problems that have any; 1 if none has."""
    some = attempts[attempts > 0]
    return float(some.mean()) if some.size else 1.0


def _log_binomial(
    successes: Int[np.ndarray, " n"], trials: Int[np.ndarray, " n"], probability: Float[np.ndarray, "draws n"]
) -> Float[np.ndarray, "draws n"]:
    """Log probability of the counts; float64, since draws close to 0 and 1 meet counts in the thousands."""
    p = np.clip(probability.astype(np.float64), np.finfo(np.float32).tiny, 1 - 2.0**-53)
    choose = -np.log(trials + 1.0) - special.betaln(successes + 1.0, trials - successes + 1.0)
    return choose + special.xlogy(successes, p) + special.xlog1py(trials - successes, -p)
