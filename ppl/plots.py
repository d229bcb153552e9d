"""The figures of a run. Each takes numbers, returns a matplotlib figure and touches no file; `figure.savefig` does."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Array, Bool, Float, Int
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

from ppl.calibration import expected_calibration_error, rank_band, rank_counts, reliability_bins

BAND = 0.18  # opacity of bands: three of them on top of each other can still be told apart


def accuracy_against_tokens(frame: pd.DataFrame) -> Figure:
    """Accuracy of each method over the tokens that it spent, with a band for its interval.

    **Arguments:** `frame`: one row for each method and budget, with columns `method`, `tokens` (mean generated tokens a
    problem, above 0), `accuracy`, `lower`, `upper`. A method with one row is a point with an error bar.

    **Raises:** `ValueError` naming the column that lacks, or the row whose tokens are not positive.
    """
    _require(frame, ("method", "tokens", "accuracy", "lower", "upper"))
    wrong = np.flatnonzero(~(frame["tokens"].to_numpy() > 0))
    if wrong.size:
        raise ValueError(f"column 'tokens', row {wrong[0]}: must be positive, got {frame['tokens'].iloc[wrong[0]]}")
    figure, axes = new_figure()
    for number, (method, rows) in enumerate(frame.groupby("method", sort=False)):
        rows, colour = rows.sort_values("tokens"), f"C{number}"
        axes.plot(rows["tokens"], rows["accuracy"], "o-", color=colour, label=str(method), markersize=4)
        if len(rows) > 1:
            axes.fill_between(rows["tokens"], rows["lower"], rows["upper"], color=colour, alpha=BAND, linewidth=0)
        else:
            axes.vlines(rows["tokens"], rows["lower"], rows["upper"], color=colour, alpha=0.6)
    axes.set(xscale="log", xlabel="generated tokens a problem", ylabel="accuracy", ylim=(0, 1))
    # Budgets rarely span two powers of ten, and then only 1, 2, 5 of each can be read side by side.
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    legend_beside(axes)
    return figure


def ess_by_step(ess: Mapping[str, Float[np.ndarray | Array, "runs steps"]], num_particles: int) -> Figure:
    """Effective sample size as a share of the particles, by step: median over runs, band from 10% to 90% of them.

    **Arguments:** `ess`: for each method one row a run (a problem, a replicate); NaN where a run has ended.
    `num_particles`: how many each run had.

    **Raises:** `ValueError` if there is no method, no run or no particle, or an ESS is above the number of particles.
    """
    if num_particles < 1 or not ess:
        raise ValueError(f"ess: at least one method and one particle are wanted, got {len(ess)} and {num_particles}")
    figure, axes = new_figure()
    for number, (method, values) in enumerate(ess.items()):
        share = np.asarray(values, dtype=np.float64) / num_particles
        if not share.size or np.isnan(share).all(axis=0).any():
            raise ValueError(f"ess: method {method!r} has a step without any run, shape {share.shape}")
        if np.nanmax(share) > 1 + 1e-4:  # float32 sums of equal weights may exceed 1 by rounding
            raise ValueError(f"ess: method {method!r} has {np.nanmax(share) * num_particles:g}, above {num_particles}")
        lower, middle, upper = np.nanquantile(share, [0.1, 0.5, 0.9], axis=0)
        steps, colour = np.arange(share.shape[1]), f"C{number}"
        axes.plot(steps, middle, "o-", color=colour, label=method, markersize=4)
        axes.fill_between(steps, lower, upper, color=colour, alpha=BAND, linewidth=0)
    axes.set(xlabel="step", ylabel="ESS / particles", ylim=(0, 1.05))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend_beside(axes)
    return figure


def reliability(
    probability: Float[np.ndarray | Array, " n"],
    outcome: Bool[np.ndarray | Array, " n"] | Int[np.ndarray | Array, " n"],
    *,
    num_bins: int = 10,
    level: float = 0.9,
) -> Figure:
    """Frequency against stated probability with Beta intervals (see `ppl.calibration.reliability_bins`), counts below.

    **Raises:** as `reliability_bins`.
    """
    table = reliability_bins(probability, outcome, num_bins=num_bins, level=level)
    error = expected_calibration_error(probability, outcome, num_bins=num_bins)
    figure = Figure(figsize=(5, 5.5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    upper.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle="--")
    stated, frequency = table["mean_probability"], table["frequency"]
    # The interval need not hold the frequency itself (at 0 and 1 it never does), so it is drawn as a bar of its own.
    upper.vlines(stated, table["lower"], table["upper"], color="C0", alpha=0.5, linewidth=3)
    upper.plot(stated, frequency, "o", color="C0", markersize=4, clip_on=False)  # whole at 0 and 1, too
    upper.set(ylabel=f"frequency, {level:.0%} interval", xlim=(0, 1), ylim=(0, 1), title=f"ECE {error:.3f}")
    lower.bar(stated, table["count"], width=0.6 / num_bins, color="C0")
    lower.set(xlabel="stated probability", ylabel="count")
    for axes in (upper, lower):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def rank_ecdfs(ranks: Mapping[str, Int[np.ndarray, " n"]], num_ranks: int, *, level: float = 0.01) -> Figure:
    """Share of ranks up to each rank, less the share of uniform ranks, with the band that uniform ranks stay in.

    **Arguments:** `ranks`: by quantity, in [0, `num_ranks`), the same number for each. `level`: the chance that one
    curve leaves the band though its ranks are uniform.

    **Raises:** `ValueError` for no quantity, and as `ppl.calibration.rank_band` and `rank_counts`.
    """
    if not ranks:
        raise ValueError("ranks: those of at least one quantity are wanted, got none")
    figure, axes = new_figure()
    uniform = np.arange(1, num_ranks) / num_ranks
    num = len(next(iter(ranks.values())))
    lower, upper = (count / num - uniform for count in rank_band(num, num_ranks, level))
    axes.fill_between(uniform, lower, upper, step="post", color="0.5", alpha=BAND, linewidth=0)
    axes.axhline(0, color="0.6", linewidth=1, linestyle="--")
    strong, pale = colormaps["tab20"](range(0, 20, 2)), colormaps["tab20"](range(1, 20, 2))
    colours = [*strong, *pale]
    for number, (name, values) in enumerate(ranks.items()):
        difference = rank_counts(values, num_ranks) / num - uniform
        axes.step(uniform, difference, where="post", color=colours[number % 20], label=name, linewidth=1.2)
    axes.set(xlabel="rank / number of ranks", ylabel="ECDF less uniform", xlim=(0, 1))
    legend_beside(axes)
    return figure


def new_figure() -> tuple[Figure, Axes]:
    """An empty figure with one pair of axes in the look of all plots here."""
    # Not by pyplot: it would keep every figure alive and look for a display.
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.2)
    return figure, axes


def legend_beside(axes: Axes) -> None:
    """The legend at the right of the axes, where it hides no curve."""
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _require(frame: pd.DataFrame, columns: tuple[str, ...]) -> None:
    absent = [name for name in columns if name not in frame.columns]
    if absent:
        raise ValueError(f"column {absent[0]!r}: missing; wanted are {', '.join(columns)}")
