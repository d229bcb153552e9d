r"""Solve more or verify more? Majority voting against a generative verifier at equal cost.

$S$ solutions that are each verified $V$ times cost $C = S (1 + \lambda V)$ solutions, with $\lambda$ the length of a
verification over that of a solution; voting costs $S$. Along a budget the best split is
$S_{opt} \propto C^{x}$, $V_{opt} \propto C^{y}$, found here as for training runs of equal FLOPs: the success over
(ln S, ln V) is interpolated, a parabola is put through it along each line of equal cost, and its top is regressed on
ln C.

**Source:** Singhi et al. (2025), "When to solve, when to verify", arXiv 2504.01005: $x = 0.57$, $y = 0.39$ for
Llama-3.1-8B on MATH. (Where $\lambda V \gg 1$ the cost forces $x + y = 1$; theirs add up to 0.96.) The parabola is the
"IsoFLOP" method of Hoffmann et al. (2022), arXiv 2203.15556: the best grid point itself moves in jumps, and a bootstrap
of jumps has no valid interval.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, Shaped
from matplotlib.figure import Figure

from ppl.keys import as_key
from ppl.plots import BAND, new_figure
from ppl.risk.bootstrap import weighted_means
from ppl.risk.results import DrawsResult, Estimate, estimate

_ALONG = 33  # points on a line of equal cost: several between two grid points


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class SplitLaw(DrawsResult):
    r"""Draws of the exponents `solutions_exponent` ($x$) and `verifications_exponent` ($y$), of the optima `solutions`
    and `verifications` at each of the `costs` [draws, budgets], and of both power laws' `log_solutions`,
    `log_verifications` at cost 1.

    `at_edge`: share of (draw, budget) whose parabola has its top off the grid, where the edge was taken: exponents are
    then drawn towards those of the edge, and a larger grid is wanted.
    """

    costs: Float[np.ndarray, " budgets"]
    ratio: float
    at_edge: float

    def split(self, cost: float, level: float = 0.9) -> tuple[Estimate, Estimate]:
        """Solutions and verifications a solution for a budget by the two power laws; extrapolates beyond `costs`."""
        if not cost > 0:
            raise ValueError(f"cost: a positive number of solutions is wanted, got {cost}")
        return tuple(
            estimate(np.exp(self.draws[f"log_{name}"] + self.draws[f"{name}_exponent"] * np.log(cost)), level)
            for name in ("solutions", "verifications")
        )  # pyright: ignore[reportReturnType]

    def plot_split(self, level: float = 0.9) -> Figure:
        """Best numbers of solutions and verifications over the budget."""
        figure, axes = new_figure()
        for number, name in enumerate(("solutions", "verifications")):
            middle, (lower, upper) = estimate(self.draws[name], level)
            exponent = self.estimate(f"{name}_exponent", level).mean
            axes.plot(
                self.costs, middle, "o-", color=f"C{number}", markersize=4, label=f"{name}, exponent {exponent:.2f}"
            )
            axes.fill_between(self.costs, lower, upper, color=f"C{number}", alpha=BAND, linewidth=0)
        axes.set(xscale="log", yscale="log", xlabel="cost, in solutions", ylabel="number at the optimum")
        axes.legend(frameon=False)
        return figure


def verification_cost(
    solutions: float | Shaped[np.ndarray, "..."], verifications: float | Shaped[np.ndarray, "..."], ratio: float
) -> float | Float[np.ndarray, "..."]:
    r"""$S (1 + \lambda V)$: cost in solutions. `ratio`: $\lambda$, tokens of a verification over those of a solution.

    **Source:** Singhi et al. (2025), arXiv 2504.01005 (their $\lambda$: 1 for a prompted, 2 for a fine-tuned verifier).
    """
    return solutions * (1 + ratio * verifications)


def fit_split(
    success: Shaped[np.ndarray | Array, "problems solutions verifications"],
    solutions: Shaped[np.ndarray | Array, " solutions"],
    verifications: Shaped[np.ndarray | Array, " verifications"],
    *,
    ratio: float,
    costs: Shaped[np.ndarray | Array, " budgets"] | None = None,
    draws: int = 1000,
    key: int | Key[Array, ""] = 0,
) -> SplitLaw:
    r"""Exponents of the best split, with intervals over problems.

    **Arguments:**

    - `success`: mean success of each problem with $S$ solutions verified $V$ times, in [0, 1], on a full grid.
    - `solutions`, `verifications`: the grid, rising from 1 or more; at least three of each.
    - `ratio`: $\lambda$. `costs`: budgets to optimise at; by default eight, log-spaced, whose lines of equal cost cross
      most of the grid.
    - `draws`, `key`: of the Bayesian bootstrap over problems.

    **Raises:** `ValueError` naming the argument: a grid that does not rise, success out of [0, 1], a budget whose line
    misses the grid, fewer than two budgets.
    """
    s, v = (np.asarray(x, dtype=np.float64) for x in (solutions, verifications))
    rates = np.asarray(success, dtype=np.float64)
    for name, grid in (("solutions", s), ("verifications", v)):
        if len(grid) < 3 or grid[0] < 1 or not np.all(np.diff(grid) > 0):
            raise ValueError(f"{name}: at least three rising numbers from 1 up are wanted, got {grid.tolist()}")
    if rates.shape[1:] != (len(s), len(v)) or not np.all((rates >= 0) & (rates <= 1)) or not len(rates):
        raise ValueError(
            f"success: numbers in [0, 1] of shape [problems, {len(s)}, {len(v)}] are wanted, got {rates.shape}"
        )
    if not ratio > 0:
        raise ValueError(f"ratio: a positive number is wanted, got {ratio}")
    least, most = (float(verification_cost(s[end], v[end], ratio)) for end in (0, -1))
    inner = np.geomspace(least, most, 12)[2:-2]
    budgets = inner if costs is None else np.asarray(costs, dtype=np.float64)
    if len(budgets) < 2 or np.any((budgets <= least) | (budgets >= most)):
        raise ValueError(
            f"costs: at least two budgets between {least:g} and {most:g} are wanted, got {budgets.tolist()}"
        )
    means = weighted_means(as_key(key), rates.reshape(len(rates), -1), draws).reshape(draws, len(s), len(v))
    # Along a budget S runs between what the largest and the smallest V leave, inside the grid.
    low = np.maximum(s[0], budgets / (1 + ratio * v[-1]))
    high = np.minimum(s[-1], budgets / (1 + ratio * v[0]))
    best, edge = _best_solutions(means, jnp.log(s), jnp.log(v), jnp.log(budgets), jnp.log(low), jnp.log(high), ratio)
    log_s = np.asarray(best, dtype=np.float64)
    log_v = np.log((budgets / np.exp(log_s) - 1) / ratio)
    log_c = np.log(budgets)
    slopes, levels = zip(*(_line(log_c, y) for y in (log_s, log_v)), strict=True)
    return SplitLaw(
        draws={
            "solutions_exponent": slopes[0],
            "verifications_exponent": slopes[1],
            "log_solutions": levels[0],
            "log_verifications": levels[1],
            "solutions": np.exp(log_s),
            "verifications": np.exp(log_v),
        },
        dims={"solutions": ["cost"], "verifications": ["cost"]},
        coords={"cost": np.round(budgets, 3)},
        costs=budgets,
        ratio=ratio,
        at_edge=float(np.mean(np.asarray(edge))),
    )


@partial(jax.jit, static_argnames="ratio")
def _best_solutions(
    means: Float[Array, "draws s v"],
    log_s: Float[Array, " s"],
    log_v: Float[Array, " v"],
    log_costs: Float[Array, " budgets"],
    low: Float[Array, " budgets"],
    high: Float[Array, " budgets"],
    ratio: float,
) -> tuple[Float[Array, "draws budgets"], Shaped[Array, "draws budgets"]]:
    """ln S at the top of the parabola along each line of equal cost, and whether that had to be taken at an end."""
    unit = jnp.linspace(-1, 1, _ALONG)
    along = (low + high)[:, None] / 2 + (high - low)[:, None] / 2 * unit  # [budgets, points]
    log_verifications = jnp.log(jnp.expm1(log_costs[:, None] - along)) - jnp.log(ratio)
    success = _interpolate(means, log_s, log_v, along, log_verifications)
    # Least squares on 1, u, u^2 with u in [-1, 1]: three fixed weights a point.
    fit = jnp.linalg.pinv(jnp.stack([jnp.ones_like(unit), unit, unit**2], axis=1))
    _, linear, curve = jnp.moveaxis(jnp.einsum("cp,dbp->dbc", fit, success), -1, 0)
    top = jnp.where(curve < 0, -linear / jnp.where(curve < 0, 2 * curve, 1), jnp.inf * jnp.sign(linear))
    # A flat line has 0 times infinity, nan: its middle is as good as any point.
    inside = jnp.clip(jnp.nan_to_num(top, nan=0.0), -1, 1)
    return (low + high) / 2 + (high - low) / 2 * inside, jnp.abs(top) > 1


def _interpolate(
    means: Float[Array, "draws s v"],
    log_s: Float[Array, " s"],
    log_v: Float[Array, " v"],
    x: Float[Array, "budgets points"],
    y: Float[Array, "budgets points"],
) -> Float[Array, "draws budgets points"]:
    """Bilinear interpolation on the grid of logarithms."""
    i = jnp.clip(jnp.searchsorted(log_s, x) - 1, 0, len(log_s) - 2)
    j = jnp.clip(jnp.searchsorted(log_v, y) - 1, 0, len(log_v) - 2)
    f = jnp.clip((x - log_s[i]) / (log_s[i + 1] - log_s[i]), 0, 1)
    g = jnp.clip((y - log_v[j]) / (log_v[j + 1] - log_v[j]), 0, 1)
    lower = (1 - f) * means[:, i, j] + f * means[:, i + 1, j]
    upper = (1 - f) * means[:, i, j + 1] + f * means[:, i + 1, j + 1]
    return (1 - g) * lower + g * upper


def _line(
    x: Float[np.ndarray, " budgets"], y: Float[np.ndarray, "draws budgets"]
) -> tuple[Float[np.ndarray, " draws"], Float[np.ndarray, " draws"]]:
    """Slope and height at x = 0 of the least-squares line of each draw."""
    centred = x - x.mean()
    slope = y @ centred / (centred @ centred)
    return slope, y.mean(axis=1) - slope * x.mean()
