"""The figures of a fit: coverage against attempts with its experts, and the problems from hard to easy."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped
from matplotlib.figure import Figure

from ppl.plots import BAND, legend_beside, new_figure
from ppl.risk.results import Estimate


def coverage_figure(
    at: Shaped[np.ndarray, " ns"],
    stacked: Estimate,
    experts: Mapping[str, Float[np.ndarray, " ns"]],
    observed: tuple[Shaped[np.ndarray, " ks"], Float[np.ndarray, " ks"]] | None,
    reach: int,
    level: float,
) -> Figure:
    """Coverage with its band at `at`; each expert's mean beyond `reach`; the unbiased curve (ks, values) as dots."""
    figure, axes = new_figure()
    axes.axvline(reach, color="0.6", linestyle="--", linewidth=1)
    axes.plot(at, stacked.mean, color="C0", label="posterior mean")
    lower, upper = stacked.interval
    axes.fill_between(at, lower, upper, color="C0", alpha=BAND, linewidth=0, label=f"{level:.0%} interval")
    beyond = at >= reach
    for number, (name, values) in enumerate(experts.items(), start=1):
        axes.plot(at[beyond], values[beyond], color=f"C{number}", linestyle=":", label=f"expert: {name}")
    if observed is not None:
        axes.plot(*observed, "o", color="0.2", markersize=3, label="unbiased pass@k", zorder=3)
    axes.set(xscale="log", xlabel="attempts a problem", ylabel="coverage (pass@k)", ylim=(0, 1))
    axes.annotate("observed", (reach, 1.01), xycoords=("data", "axes fraction"), ha="right", fontsize="small")
    legend_beside(axes)
    return figure


def problems_figure(problems: pd.DataFrame, level: float) -> Figure:
    """Success probabilities with intervals, hardest first. `problems`: as of `RiskFit.problems(1)`."""
    ordered = problems.sort_values("mean")
    rank = np.arange(1, len(ordered) + 1)
    figure, axes = new_figure()
    width = float(np.clip(150 / len(rank), 0.3, 6))
    axes.vlines(rank, ordered["lower"], ordered["upper"], color="C0", alpha=0.35, linewidth=width)
    axes.plot(rank, ordered["mean"], ".", color="C0", markersize=3, label="posterior mean")
    share = ordered["successes"] / ordered["trials"].where(ordered["trials"] > 0)
    axes.plot(rank, share, "x", color="0.2", markersize=3, label="share of successes")
    lowest = max(float(np.min(ordered["mean"].to_numpy())) / 10, 1e-8)
    axes.set(xlabel="problem, hardest first", ylabel=f"success probability, {level:.0%} interval", yscale="log")
    axes.set_ylim(lowest, 1.5)
    legend_beside(axes)
    return figure
