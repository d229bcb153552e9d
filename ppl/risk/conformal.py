r"""Conformal recalibration of quantile forecasts: coverage that holds in finite samples, whatever the forecaster.

From $n$ calibration forecasts each quantile is moved outwards (or inwards) by an order statistic of how far
observations fell outside. If the next forecast is exchangeable with those, it covers at least as often as stated.
Forecasts of a time series are exchangeable only as far as their errors stay alike.
"""

import dataclasses
from typing import Any, Literal, get_args

import jax
import numpy as np
from jaxtyping import Array, Float, Int, Key, Shaped
from matplotlib.figure import Figure
from scipy import special

from ppl.keys import as_key
from ppl.risk.quantiles import Levels, Observed, Quantiles, checked, diagonal_figure
from ppl.risk.results import DrawsResult, estimate

Sides = Literal["two", "one"]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Conformal(DrawsResult):
    r"""Offsets of each level, and draws of the `coverage` that they give, at this calibration set.

    Over future forecasts, coverage given the calibration set is $\mathrm{Beta}(k, n + 1 - k)$ for the $k$-th of $n$
    order statistics, if scores have no ties (ties raise it). `coverage` [intervals] for two sides (central intervals),
    [levels] for one side (the share below an upper, above a lower quantile); `nominal` are the stated ones, below their
    means.
    """

    levels: Float[np.ndarray, " levels"]
    offsets: Float[np.ndarray, " levels"]
    nominal: Float[np.ndarray, " targets"]

    def apply(
        self, predicted: Quantiles, scale: Shaped[np.ndarray | Array, "*scales"] | None = None
    ) -> Float[np.ndarray, "rows levels"]:
        """Recalibrated quantiles. They may cross: repairing them (`isotonic_quantiles`) leaves the guarantee aside.

        `scale` as in the fit. **Raises:** `ValueError` naming a shape or value that does not fit.
        """
        q = np.asarray(predicted, dtype=np.float64)
        if q.ndim != 2 or q.shape[1] != len(self.levels) or not np.isfinite(q).all():
            raise ValueError(
                f"predicted: finite numbers [rows, {len(self.levels)} levels] are wanted, got shape {q.shape}"
            )
        return q + self.offsets * _scale(scale, len(q))[:, None]

    def plot_coverage(self, level: float = 0.9) -> Figure:
        """Coverage given this calibration set, against the stated one."""
        found = estimate(self.draws["coverage"], level)
        return diagonal_figure(self.nominal, found, "stated coverage", f"coverage, {level:.0%} interval")


def conformalize(
    predicted: Quantiles,
    observed: Observed,
    levels: Levels,
    *,
    sides: Sides = "two",
    scale: Shaped[np.ndarray | Array, "*scales"] | None = None,
    draws: int = 4_000,
    key: int | Key[Array, ""] = 0,
) -> Conformal:
    r"""Conformalized quantile regression, for all levels at once.

    - `two` sides: the central interval $[q_{\alpha / 2}, q_{1 - \alpha / 2}]$ is moved by the
      $\lceil (n + 1)(1 - \alpha) \rceil$-th smallest of $\max(q_{\alpha / 2} - y, y - q_{1 - \alpha / 2})$ on both
      sides, and covers with a chance of at least $1 - \alpha$. A median stays.
    - `one` side: each quantile for itself; an upper one ($\tau \ge 1/2$) by the $\lceil (n + 1) \tau \rceil$-th
      smallest $y - q_\tau$, a lower one by the $\lceil (n + 1)(1 - \tau) \rceil$-th smallest $q_\tau - y$. The chance
      of being at or below an upper quantile is at least $\tau$, at or above a lower one at least $1 - \tau$.

    **Arguments:** `predicted`, `observed`, `levels` of the calibration forecasts, which must not have been used to fit
    the forecaster. `scale`: a positive number for each forecast, known in advance, in whose units its offset is
    (forecasts of large and small series together). `draws`, `key`: of `Conformal.coverage`.

    **Raises:** as `ppl.risk.quantiles.pinball_loss`; `ValueError` if `two` sides lack a mirror image of a level, a
    scale is not positive, or there are too few calibration forecasts for a level: its offset would be infinite.

    **Source:** Romano, Patterson & Candès (2019), NeurIPS, theorems 1 and 2; Vovk (2012), ACML, for the beta law.
    """
    q, y, tau = checked(predicted, observed, levels)
    units = _scale(scale, len(y))
    if sides not in get_args(Sides):
        raise ValueError(f"sides: two or one is wanted, got {sides!r}")
    if draws < 1:
        raise ValueError(f"draws: at least 1 is wanted, got {draws}")
    below, above = (q - y[:, None]) / units[:, None], (y[:, None] - q) / units[:, None]
    if sides == "two":
        lonely = np.flatnonzero(~np.isclose(tau + tau[::-1], 1))
        if lonely.size:
            raise ValueError(f"levels: two sides need the mirror image of each, 1 - level; {tau[lonely[0]]:g} has none")
        half = len(tau) // 2
        nominal = 1 - 2 * tau[:half]
        chosen, rank = _order_statistic(np.maximum(below[:, :half], above[:, ::-1][:, :half]), nominal)
        offsets = np.concatenate([-chosen, np.zeros(len(tau) - 2 * half), chosen[::-1]])
    else:
        upper = tau >= 0.5
        nominal = np.where(upper, tau, 1 - tau)
        chosen, rank = _order_statistic(np.where(upper, above, below), nominal)
        offsets = np.where(upper, chosen, -chosen)
    # By inversion, on the host: a jitted beta sampler takes seconds to compile for a few thousand draws.
    uniforms = np.asarray(jax.random.uniform(as_key(key), (draws, len(rank))), dtype=np.float64)
    return Conformal(
        draws={"coverage": special.betaincinv(rank, len(y) + 1 - rank, uniforms)},
        dims={"coverage": ["target"]},
        coords={"target": nominal.round(12)},
        attrs={"method": f"conformalized quantile regression, {sides}-sided", "calibration_forecasts": len(y)},
        levels=tau,
        offsets=offsets,
        nominal=nominal,
    )


def _order_statistic(
    scores: Float[np.ndarray, "rows targets"], nominal: Float[np.ndarray, " targets"]
) -> tuple[Float[np.ndarray, " targets"], Int[np.ndarray, " targets"]]:
    """The ceil((n + 1) nominal)-th smallest score of each column, and its rank."""
    # A level such as 0.9 is not exact, nor is (n + 1) times it: 1e-9 keeps a whole number whole.
    rank = np.ceil((len(scores) + 1) * nominal - 1e-9).astype(np.int64)
    short = np.flatnonzero(rank > len(scores))
    if short.size:
        worst = nominal.max()
        least = int(np.ceil(worst / (1 - worst) - 1e-9))
        raise ValueError(
            f"observed: coverage {worst:g} wants at least {least} calibration forecasts, got {len(scores)}; "
            "leave out the outer levels"
        )
    return np.take_along_axis(np.sort(scores, axis=0), rank[None] - 1, axis=0)[0], rank


def _scale(scale: Any, num_rows: int) -> Float[np.ndarray, " rows"]:
    if scale is None:
        return np.ones(num_rows)
    units = np.asarray(scale, dtype=np.float64)
    if units.shape != (num_rows,):
        raise ValueError(f"scale: one for each of {num_rows} forecasts is wanted, got shape {units.shape}")
    bad = np.flatnonzero(~((units > 0) & np.isfinite(units)))
    if bad.size:
        raise ValueError(f"scale: row {bad[0]} has {units[bad[0]]:g}; a positive number is wanted")
    return units
