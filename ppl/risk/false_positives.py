r"""Answers that an automatic check accepts, read by people: the accuracy that is left, and whether errors grow with N.

Best-of-N picks what looks best, and with more candidates there are more that look right for wrong reasons. Checked
counts of false positives at several N say how much of a rising curve is real.
"""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Array, Float, Int, Key, Shaped
from matplotlib.figure import Figure
from scipy import special

from ppl.intervals import JEFFREYS
from ppl.keys import as_key
from ppl.plots import BAND, legend_beside, new_figure
from ppl.risk.results import DrawsResult, estimate
from ppl.risk.verifiers import beta_draws, check_counts, check_part, check_prior

_CELLS = 121  # of the grid, an axis
_NEWTON = 60  # steps to the mode at most; of length 1 at most, since the posterior is concave but flat far out
_REACH = 6.0  # of the grid, in posterior standard deviations


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class CheckedPositives(DrawsResult):
    """Posterior of what is left after people checked: draws [draws, groups].

    `accepted` is the accuracy that the automatic check sees, `false_share` the share of accepted answers that people
    found wrong, `accuracy` = accepted * (1 - false_share) the accuracy after their check.
    """

    def plot_accuracy(self, level: float = 0.9) -> Figure:
        """Accuracy before and after the check, by group."""
        figure, axes = new_figure()
        labels = [str(label) for label in self.coords["group"]]
        for number, (name, label) in enumerate({"accepted": "automatic", "accuracy": "checked"}.items()):
            middle, (lower, upper) = estimate(self.draws[name], level)
            places = np.arange(len(labels)) + 0.12 * (number - 0.5)
            axes.vlines(places, lower, upper, color=f"C{number}", alpha=0.5, linewidth=3)
            axes.plot(places, middle, "o", color=f"C{number}", markersize=4, label=f"{label}, {level:.0%} interval")
        axes.set_xticks(range(len(labels)), labels)
        axes.set(ylabel="accuracy", ylim=(0, 1))
        legend_beside(axes)
        return figure


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class FalseShareTrend(DrawsResult):
    r"""Posterior of a logistic trend of the false positives' share over doublings of the budget.

    - `draws`: `slope`, log odds a doubling, and `share` [draws, budgets], the trend's value at each;
    - `budgets`: [budgets]; `growing`: posterior probability that the slope is above 0.
    """

    budgets: Float[np.ndarray, " budgets"]
    growing: float

    def plot_share(self, level: float = 0.9) -> Figure:
        """The trend with its band, and the observed shares."""
        figure, axes = new_figure()
        middle, (lower, upper) = estimate(self.draws["share"], level)
        order = np.argsort(self.budgets)
        x, observed = self.budgets[order], self.observed["false_positives"] / np.maximum(self.observed["accepted"], 1)
        axes.plot(x, np.asarray(middle)[order], color="C0", label=f"trend, P(growing) = {self.growing:.2f}")
        band = {"color": "C0", "alpha": BAND, "linewidth": 0, "label": f"{level:.0%} interval"}
        axes.fill_between(x, np.asarray(lower)[order], np.asarray(upper)[order], **band)
        axes.plot(self.budgets, observed, "o", color="C3", markersize=4, label="observed share")
        axes.set_xscale("log", base=2)
        axes.set(xlabel="budget", ylabel="false positives / accepted", ylim=(0, 1))
        legend_beside(axes)
        return figure


def checked_positives(
    false_positives: Int[np.ndarray | Array, " groups"],
    accepted: Int[np.ndarray | Array, " groups"],
    judged: Int[np.ndarray | Array, " groups"],
    *,
    groups: Sequence[str | int] | None = None,
    prior: tuple[float, float] = JEFFREYS,
    draws: int = 4000,
    key: int | Key[Array, ""] = 0,
) -> CheckedPositives:
    r"""Posterior of the accuracy that remains when false positives are taken out, by group (a budget, a method).

    **Arguments:** in each group the automatic check accepted `accepted` of `judged` answers, one a problem, and people
    found `false_positives` of them wrong. `groups`: labels. `prior`: of both shares; Jeffreys by default. The check is
    taken to miss nothing that is right.

    **Raises:** `ValueError` naming the row of a count that is not whole, negative, or above what it is a part of.
    """
    counts = check_counts({"false_positives": false_positives, "accepted": accepted, "judged": judged})
    check_prior(prior, draws)
    check_part("false_positives", counts["false_positives"], "accepted", counts["accepted"])
    check_part("accepted", counts["accepted"], "judged", counts["judged"])
    labels = list(range(len(counts["judged"]))) if groups is None else list(groups)
    if len(labels) != len(counts["judged"]):
        raise ValueError(f"groups: {len(counts['judged'])} labels are wanted, got {len(labels)}")
    first, second = jax.random.split(as_key(key))
    wrong, right = counts["false_positives"], counts["accepted"] - counts["false_positives"]
    rate = beta_draws(first, prior[0] + counts["accepted"], prior[1] + counts["judged"] - counts["accepted"], draws)
    share = beta_draws(second, prior[0] + wrong, prior[1] + right, draws)
    named = ("accepted", "false_share", "accuracy", "false_positives", "judged")
    return CheckedPositives(
        draws={"accepted": rate, "false_share": share, "accuracy": rate * (1 - share)},
        observed=counts,
        dims={name: ["group"] for name in named},
        coords={"group": labels},
        attrs={"prior": f"Beta{prior}"},
    )


def false_share_trend(
    false_positives: Int[np.ndarray | Array, " budgets"],
    accepted: Int[np.ndarray | Array, " budgets"],
    budgets: Shaped[np.ndarray | Array, " budgets"],
    *,
    slope_scale: float = 0.5,
    draws: int = 4000,
    key: int | Key[Array, ""] = 0,
) -> FalseShareTrend:
    r"""Is the share of false positives among accepted answers growing with the budget?

    $\operatorname{logit} f_N = a + b \log_2 (N / \bar N)$ with $f_{\bar N}$ uniform on (0, 1) at the geometric mean
    $\bar N$, and $b \sim \mathcal N(0, \sigma^2)$ with $\sigma$ = `slope_scale`: by default a doubling changes the odds
    by no more than a factor of $e$, with 95%. The posterior is a grid of two dimensions around its mode.

    **Arguments:** of `accepted` answers at each of `budgets` (positive, two different ones at least),
    `false_positives` were found wrong. Counts of the same problems at several budgets resemble each other, and here
    count as independent: the slope is then more certain than the interval says, not less.

    **Raises:** `ValueError` naming the row of a bad count or budget.
    """
    counts = check_counts({"false_positives": false_positives, "accepted": accepted})
    check_part("false_positives", counts["false_positives"], "accepted", counts["accepted"])
    check_prior((slope_scale, 1.0), draws)
    size = np.asarray(budgets, dtype=np.float64)
    bad = np.flatnonzero(~((size > 0) & np.isfinite(size)))
    if bad.size:
        raise ValueError(f"budgets: row {bad[0]} has {size[bad[0]]:g}; positive numbers are wanted")
    if len(np.unique(size)) < 2:
        raise ValueError(f"budgets: a trend wants two different ones at least, got {np.unique(size)}")
    x = np.log2(size)
    x -= x.mean()
    wrong, right = counts["false_positives"], counts["accepted"] - counts["false_positives"]
    centres, steps, masses = _grid(x, wrong, right, slope_scale)
    pick, shift = jax.random.split(as_key(key))
    at = np.asarray(jax.random.uniform(pick, (draws,)), dtype=np.float64)
    cells = np.minimum(np.searchsorted(np.cumsum(masses), at), len(masses) - 1)
    jitter = np.asarray(jax.random.uniform(shift, (draws, 2), minval=-0.5, maxval=0.5), dtype=np.float64)
    drawn = centres[cells] + jitter @ steps
    eta = drawn[:, :1] + drawn[:, 1:] * x
    choose = -np.log(wrong + right + 1.0) - special.betaln(wrong + 1.0, right + 1.0)
    likelihood = choose + wrong * special.log_expit(eta) + right * special.log_expit(-eta)
    return FalseShareTrend(
        draws={"slope": drawn[:, 1], "share": special.expit(eta)},
        log_likelihood={"false_positives": likelihood},
        observed=counts,
        dims={name: ["budget"] for name in ("share", "false_positives", "accepted")},
        coords={"budget": size},
        attrs={"slope_scale": slope_scale},
        budgets=size,
        growing=float(np.mean(drawn[:, 1] > 0)),
    )


def _grid(
    x: Float[np.ndarray, " budgets"],
    wrong: Int[np.ndarray, " budgets"],
    right: Int[np.ndarray, " budgets"],
    scale: float,
) -> tuple[Float[np.ndarray, "cells 2"], Float[np.ndarray, "2 2"], Float[np.ndarray, " cells"]]:
    """Cell centres and the steps between them, and each cell's posterior mass.

    In float64 on the host, around the mode and stretched by the curvature there, so that 121 cells an axis hold as well
    for thousands of answers as for ten.
    """
    design, total = np.stack([np.ones_like(x), x], axis=1), wrong + right
    mode = np.array([np.log((wrong.sum() + 1) / (right.sum() + 1)), 0.0])

    def derivatives(at: Float[np.ndarray, "2"]) -> tuple[Float[np.ndarray, "2"], Float[np.ndarray, "2 2"]]:
        share, middle = special.expit(design @ at), special.expit(at[0])
        slope = (wrong - total * share) @ design + np.array([1 - 2 * middle, -at[1] / scale**2])
        prior = np.array([2 * middle * (1 - middle), 1 / scale**2])  # of a uniform share, and of the slope
        return slope, (design.T * (total * share * (1 - share))) @ design + np.diag(prior)

    for _ in range(_NEWTON):
        slope, curvature = derivatives(mode)
        step = np.linalg.solve(curvature, slope)
        length = float(np.linalg.norm(step))
        mode = mode + step / max(1.0, length)
        if length < 1e-8:
            break
    _, curvature = derivatives(mode)
    root = np.linalg.inv(np.linalg.cholesky(curvature))  # rows: one standard deviation each
    # Where little was accepted the posterior has the prior's logistic tails, longer than a normal one's.
    reach = _REACH * (1 + 2 / np.sqrt(1 + total.sum()))
    ticks = np.linspace(-reach, reach, _CELLS)
    cells = mode + np.stack(np.meshgrid(ticks, ticks, indexing="ij"), axis=-1).reshape(-1, 2) @ root
    eta = cells @ design.T
    data = special.log_expit(eta) @ wrong + special.log_expit(-eta) @ right
    level = special.log_expit(cells[:, 0]) + special.log_expit(-cells[:, 0])
    density = data + level - 0.5 * (cells[:, 1] / scale) ** 2
    masses = np.exp(density - density.max())
    return cells, (ticks[1] - ticks[0]) * root, masses / masses.sum()
