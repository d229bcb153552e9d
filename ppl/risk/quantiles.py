r"""Forecasts given as quantiles: their losses, scores with uncertainty, and repair of crossings.

A forecast is a row of predicted quantiles at levels $\tau_1 < \dots < \tau_L$; rows are forecasts throughout.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Array, Float, Int, Key, Shaped
from matplotlib.figure import Figure
from scipy import optimize

from ppl.keys import as_key
from ppl.plots import new_figure
from ppl.risk.bootstrap import weighted_means
from ppl.risk.results import DrawsResult, Estimate, estimate

Quantiles = Shaped[np.ndarray | Array, "rows levels"]
Observed = Shaped[
    np.ndarray | Array, "*observations"
]  # one number a row; the length is checked by us, with a better message
Levels = Float[np.ndarray | Array, " levels"] | Sequence[float]
_ROWS = 1_024  # rows of an isotonic fit at a time: what tells them apart costs 11 of 53 bits


def pinball_loss(predicted: Quantiles, observed: Observed, levels: Levels) -> Float[np.ndarray, "rows levels"]:
    r"""$\tau (y - q)$ where $y \ge q$, else $(1 - \tau) (q - y)$: least in the mean for the quantile of level $\tau$.

    **Arguments:** `predicted` [rows, levels], crossing or not; `observed` [rows]; `levels` rising, in (0, 1).

    **Raises:** `ValueError` naming a shape that does not fit, a row that is not finite, or levels out of order or
    range.

    **Source:** Koenker & Bassett (1978), Econometrica 46(1).
    """
    q, y, tau = checked(predicted, observed, levels)
    return _pinball(q, y, tau)


def weighted_interval_score(predicted: Quantiles, observed: Observed, levels: Levels) -> Float[np.ndarray, " rows"]:
    r"""Weighted interval score of each forecast: the mean over levels of twice the pinball loss.

    For symmetric levels (each $\tau$ with its $1 - \tau$) with a median, this is
    $\frac{1}{K + 1/2} \left( \frac12 |y - m| + \sum_k \frac{\alpha_k}{2} \mathrm{IS}_{\alpha_k} \right)$ over the $K$
    central intervals, as the score is usually written: $\frac{\alpha}{2} \mathrm{IS}_\alpha$ is the sum of both pinball
    losses. It estimates the continuous ranked probability score, in the units of the observation; lower is better.

    **Raises:** as `pinball_loss`; `ValueError` if a level lacks its mirror image.

    **Source:** Bracher et al. (2021), PLOS Computational Biology 17(2).
    """
    q, y, tau = checked(predicted, observed, levels)
    _check_symmetric(tau)
    return 2 * _pinball(q, y, tau).mean(axis=1)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class QuantileScores(DrawsResult):
    """Mean scores of a set of forecasts, with draws over the population that the forecasts (or clusters) come from.

    - draws `wis` and its parts `dispersion` (width), `overprediction`, `underprediction`, which sum to it;
      `interval_coverage` [intervals], of the central intervals; `quantile_coverage` [levels], how often the observation
      was at or below each quantile;
    - `means`: the same on the forecasts at hand, without uncertainty.
    """

    means: dict[str, float | Float[np.ndarray, "..."]]

    def coverage(self, central: float) -> float:
        """Share of observations in the central interval, ends included. **Raises:** `ValueError` if not forecast."""
        found = np.flatnonzero(np.isclose(self.coords["interval"], central))
        if not found.size:
            raise ValueError(f"central: one of {', '.join(map(str, self.coords['interval']))} is wanted, got {central}")
        return float(np.asarray(self.means["interval_coverage"])[found[0]])

    def plot_coverage(self, level: float = 0.9) -> Figure:
        """How often observations were at or below each quantile, against its level."""
        tau = np.asarray(self.coords["quantile"], dtype=np.float64)
        found = Estimate(self.means["quantile_coverage"], estimate(self.draws["quantile_coverage"], level).interval)
        return diagonal_figure(tau, found, "quantile level", f"share at or below, {level:.0%} interval")


def diagonal_figure(stated: Float[np.ndarray, " shares"], found: Estimate, xlabel: str, ylabel: str) -> Figure:
    """Shares with their intervals against what was stated of them; on the diagonal where it was right."""
    figure, axes = new_figure()
    figure.set_size_inches(5, 4.4)
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle="--")
    axes.vlines(stated, *found.interval, color="C0", alpha=0.5, linewidth=3)
    axes.plot(stated, found.mean, "o", color="C0", markersize=4, clip_on=False)
    axes.set(xlabel=xlabel, ylabel=ylabel, xlim=(0, 1), ylim=(0, 1))
    return figure


def score(
    predicted: Quantiles,
    observed: Observed,
    levels: Levels,
    *,
    clusters: Shaped[np.ndarray | Array, "..."] | Sequence[Any] | None = None,
    draws: int = 4_000,
    key: int | Key[Array, ""] = 0,
) -> QuantileScores:
    r"""Mean WIS with its parts, and coverage, with Bayesian bootstrap intervals.

    **Arguments:** as `weighted_interval_score`. `clusters`: a label for each forecast; those with one label (one date,
    one series) share a weight, since their errors are alike. By default every forecast stands for itself.

    **Raises:** as `weighted_interval_score`; `ValueError` for clusters of another length, fewer than two of them, or no
    draw.

    **Source:** Rubin (1981) for the draws; Bracher et al. (2021) for the parts.
    """
    q, y, tau = checked(predicted, observed, levels)
    _check_symmetric(tau)
    check_draws(draws)
    index = cluster_index(clusters, len(y))
    half = len(tau) // 2
    lower, upper = q[:, :half], q[:, ::-1][:, :half]
    # The two losses of a central interval are tau (u - l), its width's share, and the distance by which it missed; the
    # loss of the median is all distance, and counts half. Twice their mean is the WIS.
    share = np.full(len(tau), 2 / len(tau))
    share[half : len(tau) - half] /= 2
    values = {
        "wis": 2 * _pinball(q, y, tau).mean(axis=1),
        "dispersion": 2 / len(tau) * (upper - lower) @ tau[:half],
        "overprediction": (share * np.maximum(q - y[:, None], 0))[:, : len(tau) - half].sum(axis=1),
        "underprediction": (share * np.maximum(y[:, None] - q, 0))[:, half:].sum(axis=1),
        "interval_coverage": ((lower <= y[:, None]) & (y[:, None] <= upper)).astype(np.float64),
        "quantile_coverage": (y[:, None] <= q).astype(np.float64),
    }
    return QuantileScores(
        draws=_mean_draws(values, index, draws, as_key(key)),
        observed={"observation": y},
        dims={"interval_coverage": ["interval"], "quantile_coverage": ["quantile"], "observation": ["forecast"]},
        coords={"interval": (1 - 2 * tau[:half]).round(12), "quantile": tau},
        attrs={"method": "Bayesian bootstrap"},
        means={name: value.mean(axis=0) for name, value in values.items()},
    )


def sort_quantiles(predicted: Quantiles) -> Float[np.ndarray, "rows levels"]:
    """Each row in rising order. Never increases the pinball loss summed over levels, whatever is observed.

    **Raises:** `ValueError` naming a row that is not finite.

    **Source:** Chernozhukov, Fernández-Val & Galichon (2010), Econometrica 78(3); for the WIS Fakoor et al. (2023).
    """
    return np.sort(_finite("predicted", predicted), axis=1)


def isotonic_quantiles(predicted: Quantiles) -> Float[np.ndarray, "rows levels"]:
    r"""Each row's nearest rising row in squared distance. Never increases the pinball loss summed over levels.

    Rising rows are unchanged.

    **Raises:** `ValueError` naming a row that is not finite.

    **Source:** Fakoor et al. (2023), JMLR 24, for the WIS; the regression is SciPy's.
    """
    q = _finite("predicted", predicted).copy()
    crossing = np.flatnonzero((np.diff(q, axis=1) < 0).any(axis=1))
    for start in range(0, len(crossing), _ROWS):
        rows = crossing[start : start + _ROWS]
        least = q[rows].min(axis=1, keepdims=True)
        spread = q[rows].max(axis=1, keepdims=True) - least  # above 0, as they cross
        # SciPy takes one row: each in units of its spread, and above the one before, so that no two are pooled.
        shift = 2.0 * np.arange(len(rows))[:, None]
        shifted = optimize.isotonic_regression(((q[rows] - least) / spread + shift).ravel()).x
        q[rows] = (shifted.reshape(len(rows), -1) - shift) * spread + least
    return q


def checked(
    predicted: Shaped[np.ndarray | Array, "..."], observed: Shaped[np.ndarray | Array, "..."], levels: Any
) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, " rows"], Float[np.ndarray, " levels"]]:
    """Arrays in float64, the last axis of `predicted` being the levels. **Raises:** as `pinball_loss`."""
    tau = np.asarray(levels, dtype=np.float64)
    if tau.ndim != 1 or not tau.size or np.any(tau <= 0) or np.any(tau >= 1) or np.any(np.diff(tau) <= 0):
        raise ValueError(f"levels: rising numbers in (0, 1) are wanted, got {tau.tolist()}")
    q, y = _finite("predicted", predicted), _finite("observed", observed)
    if q.shape[0] != len(y) or q.shape[-1] != len(tau):
        raise ValueError(f"predicted: {len(y)} rows and {len(tau)} levels are wanted, got shape {q.shape}")
    if not len(y):
        raise ValueError("observed: at least one forecast is wanted, got none")
    return q, y, tau


def cluster_index(clusters: Any, num_rows: int) -> Int[np.ndarray, " rows"]:
    """The number of each row's cluster, from 0 up; without clusters each row is one.

    **Raises:** `ValueError` for labels of another length, or fewer than two clusters.
    """
    labels = np.arange(num_rows) if clusters is None else np.asarray(clusters)
    if labels.shape != (num_rows,):
        raise ValueError(f"clusters: a label for each of {num_rows} forecasts is wanted, got shape {labels.shape}")
    names, index = np.unique(labels, return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"clusters: at least two are wanted, got {len(names)}")
    return index


def check_draws(draws: int) -> None:
    """**Raises:** `ValueError` unless at least one draw is wanted."""
    if draws < 1:
        raise ValueError(f"draws: at least 1 is wanted, got {draws}")


def _mean_draws(
    values: dict[str, Float[np.ndarray, "rows ..."]], index: Int[np.ndarray, " rows"], draws: int, key: Key[Array, ""]
) -> dict[str, Float[np.ndarray, "draws ..."]]:
    """Bayesian bootstrap draws of the means over rows: ratios of the means of the clusters' sums and sizes."""
    columns = np.column_stack([np.ones(len(index)), *values.values()])
    sums = np.zeros((index.max() + 1, columns.shape[1]))
    np.add.at(sums, index, columns)
    drawn = weighted_means(key, sums, draws)
    ends = np.cumsum([value[0].size for value in values.values()])[:-1]
    parts = np.split(drawn[:, 1:] / drawn[:, :1], ends, axis=1)
    return {
        name: part.reshape(draws, *value.shape[1:]) for (name, value), part in zip(values.items(), parts, strict=True)
    }


def _pinball(
    q: Float[np.ndarray, "rows levels"], y: Float[np.ndarray, " rows"], tau: Float[np.ndarray, " levels"]
) -> Float[np.ndarray, "rows levels"]:
    error = y[:, None] - q
    return np.maximum(tau * error, (tau - 1) * error)


def _check_symmetric(tau: Float[np.ndarray, " levels"]) -> None:
    lonely = np.flatnonzero(~np.isclose(tau + tau[::-1], 1))
    if lonely.size:
        raise ValueError(f"levels: each needs its mirror image, 1 - level; {tau[lonely[0]]:g} has none")


def _finite(name: str, values: Any) -> Float[np.ndarray, "..."]:
    array = np.asarray(values, dtype=np.float64)
    if not array.ndim:
        raise ValueError(f"{name}: one row a forecast is wanted, got a single number")
    bad = np.argwhere(~np.isfinite(array))
    if bad.size:
        raise ValueError(f"{name}: row {bad[0][0]} has {array[tuple(bad[0])]}; finite numbers are wanted")
    return array
