r"""ARISE: does more computation help, sample by sample? A score of test-time scaling that charges for lost answers.

At levels $j = 0, \ldots, J$ of computation a problem has accuracy $a_j$ and spends $t_j$ tokens. Its score is

$$\mathrm{ARISE}_i = \sum_{j \ge 1} \Delta a_j \left(\frac{t_{j-1}}{t_j}\right)^{\mathrm{sign}\, \Delta a_j},
\qquad \Delta a_j = a_j - a_{j-1},$$

so an answer gained for twice the tokens counts 1/2 and one lost for twice the tokens counts -2; the metric is the mean
over problems. **Source:** Yin et al. (2025), arXiv 2510.06014. What is verified: the formula, the mean, the rule of the
coefficient of variation and its defaults (3 to 10 runs, threshold 0.5) in the authors' published code; the paper's own
equations and tables were not at hand, its abstract and README agree with the code. The interval and the noise floor are
ours.
"""

import dataclasses

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, Shaped
from matplotlib.figure import Figure

from ppl.keys import as_key, numpy_generator
from ppl.plots import legend_beside, new_figure
from ppl.risk.bootstrap import weighted_means
from ppl.risk.results import DrawsResult


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Arise(DrawsResult):
    """Posterior draws of the mean score (`arise`) and of its two parts, `gained` and `lost`; `arise` is their sum.

    - `scores`: of each problem [problems]; `steps`: mean contribution of each step up [levels - 1, 2], gained and lost;
    - `noise_floor`: the score to expect if no problem's accuracy depended on the level: runs that differ by chance
      alone are charged more for losses than they earn by gains. `noise_tail`: share of such shuffles that score at
      least as high as the data, a one-sided p-value of "computation helps".
    """

    scores: Float[np.ndarray, " problems"]
    steps: Float[np.ndarray, "steps 2"]
    noise_floor: float
    noise_tail: float

    def plot_steps(self) -> Figure:
        """Bars of what each step up in computation gained and lost, per problem."""
        figure, axes = new_figure()
        at = np.arange(1, len(self.steps) + 1)
        axes.set_axisbelow(True)
        axes.bar(at, self.steps[:, 0], color="C0", width=0.6, label="gained,\nover token growth")
        axes.bar(at, self.steps[:, 1], color="C3", width=0.6, label="lost,\ntimes token growth")
        axes.axhline(0, color="0.3", linewidth=0.8)
        axes.set_xticks(at, [f"{step - 1} to {step}" for step in at])
        axes.set(xlabel="from level to level", ylabel="mean contribution to ARISE")
        legend_beside(axes)
        return figure


def arise(
    successes: Shaped[np.ndarray | Array, "problems levels"],
    tokens: Shaped[np.ndarray | Array, "..."],
    *,
    trials: int | Int[np.ndarray | Array, "problems levels"] = 1,
    draws: int = 4000,
    shuffles: int = 400,
    key: int | Key[Array, ""] = 0,
) -> Arise:
    """ARISE of a model, with an interval over problems and the score that noise alone would give.

    **Arguments:**

    - `successes`: right answers of each problem at each level of computation, levels in increasing order.
    - `tokens`: mean tokens a run, of the same shape, above 0; they need not grow from level to level.
    - `trials`: runs behind each cell (1: the usual right or wrong). They may differ, as adaptive runs do.
    - `draws`: of the Bayesian bootstrap over problems. `shuffles`: for the noise floor, whose standard error is then a
      twentieth of the spread of one shuffle. `key`: seed or key of both.

    The interval is about the mean over the population of problems, scored with so many runs a cell as here. Two further
    problems of weight 1/2, one answer gained and one lost at the typical growth in tokens, keep it from having no
    width.

    **Raises:** `ValueError` naming the argument, row and value: fewer than two levels, no problem, counts or tokens out
    of range.

    **Source:** Yin et al. (2025), arXiv 2510.06014; see the module for what is verified.
    """
    s, t = np.asarray(successes, dtype=np.float64), np.asarray(tokens, dtype=np.float64)
    n = np.broadcast_to(np.asarray(trials, dtype=np.float64), s.shape)
    _check_cells(s, t, n)
    key_means, key_noise = jax.random.split(as_key(key))
    terms = arise_terms(s / n, t)
    parts = np.stack([np.maximum(terms, 0).sum(axis=1), np.minimum(terms, 0).sum(axis=1)], axis=1)
    growth = np.exp(np.median(np.abs(np.diff(np.log(t), axis=1))))
    means = weighted_means(key_means, parts, draws, ends=np.array([[1 / growth, 0.0], [0.0, -growth]]))
    floor, tail = _noise(key_noise, s, t, n, terms.sum(axis=1).mean(), shuffles)
    return Arise(
        draws={"arise": means.sum(axis=1), "gained": means[:, 0], "lost": means[:, 1]},
        observed={"score": terms.sum(axis=1)},
        dims={"score": ["problem"]},
        attrs={"prior": "Dirichlet process over problems, two end points of weight 1/2"},
        scores=terms.sum(axis=1),
        steps=np.stack([np.maximum(terms, 0).mean(axis=0), np.minimum(terms, 0).mean(axis=0)], axis=1),
        noise_floor=floor,
        noise_tail=tail,
    )


def arise_terms(
    accuracy: Float[np.ndarray, "*sets problems levels"], tokens: Float[np.ndarray, "#*sets problems levels"]
) -> Float[np.ndarray, "*sets problems steps"]:
    """What each step from one level to the next contributes to the score of each problem; the plain formula."""
    change = np.diff(accuracy, axis=-1)
    ratio = tokens[..., :-1] / tokens[..., 1:]
    return change * ratio ** np.sign(change)


def combined_variation(
    outcomes: Shaped[np.ndarray | Array, "problems levels runs"],
    tokens: Shaped[np.ndarray | Array, "problems levels runs"],
) -> Float[np.ndarray, "problems levels"]:
    """Coefficient of variation of accuracy plus that of tokens, over the runs of each cell.

    ARISE's rule runs a cell again while this is above 0.5 (at least 3 runs, at most 10). A cell without a right answer
    counts 0 for its accuracy, as in the authors' code: after three failures it is not run again, however unsure one is.

    **Raises:** `ValueError` for fewer than two runs, outcomes outside [0, 1] or tokens that are not positive.
    """
    a, t = np.asarray(outcomes, dtype=np.float64), np.asarray(tokens, dtype=np.float64)
    if a.shape[-1] < 2:
        raise ValueError(f"outcomes: at least two runs a cell are wanted, got {a.shape[-1]}")
    for name, values, fine in (("outcomes", a, (a >= 0) & (a <= 1)), ("tokens", t, np.isfinite(t) & (t > 0))):
        if not fine.all():
            where = tuple(int(i) for i in np.argwhere(~fine)[0])
            wanted = "0 to 1" if name == "outcomes" else "positive"
            raise ValueError(f"{name}: problem, level, run {where} has {values[where]:g}; {wanted} wanted")
    mean = a.mean(axis=-1)
    return np.divide(a.std(axis=-1), mean, out=np.zeros_like(mean), where=mean > 0) + t.std(axis=-1) / t.mean(axis=-1)


def plan_runs(
    variation: Float[np.ndarray, "problems levels"], budget: int, *, min_runs: int = 3, max_runs: int = 10
) -> Int[np.ndarray, "problems levels"]:
    """Runs of each cell in a second pass: `min_runs` each, the rest of the budget in proportion to `variation`.

    What a capped cell cannot take goes to the others, so that the budget is spent unless every cell with a variation
    above 0 is full (the authors' code rounds each share down and loses what the caps cut off).

    **Arguments:** `variation`: as of `combined_variation`, not negative. `budget`: runs in all cells together.

    **Raises:** `ValueError` if the budget is below `min_runs` a cell, or the limits are not in order.
    """
    if not 1 <= min_runs <= max_runs:
        raise ValueError(f"min_runs: from 1 to max_runs is wanted, got {min_runs} and {max_runs}")
    if budget < min_runs * variation.size:
        raise ValueError(f"budget: at least {min_runs} runs in each of {variation.size} cells, got {budget}")
    if not np.all(np.isfinite(variation) & (variation >= 0)):
        raise ValueError("variation: finite numbers from 0 up are wanted")
    # Shares below a trillionth of the largest are as good as that: their inverses stay finite.
    weight = np.where(variation > 0, np.maximum(variation / max(variation.max(), 1e-300), 1e-12), 0).ravel()
    room = np.where(weight > 0, max_runs - min_runs, 0).astype(np.float64)
    left = min(float(budget - min_runs * weight.size), float(room.sum()))
    # The share per variation at which the capped shares add up to the budget: linear between the cells' caps.
    order = np.argsort(np.divide(room, weight, out=np.full_like(room, np.inf), where=weight > 0))
    filled, open_weight = np.cumsum(room[order]) - room[order], np.cumsum(weight[order][::-1])[::-1]
    rate = np.divide(left - filled, open_weight, out=np.full_like(room, np.inf), where=open_weight > 0)
    caps = np.divide(room[order], weight[order], out=np.full_like(room, np.inf), where=weight[order] > 0)
    fits = np.flatnonzero(rate <= caps)
    shares = np.minimum(weight * rate[fits[0]], room) if weight.any() else np.zeros_like(room)
    extra = np.floor(shares + 1e-9)
    short = round(left - extra.sum())
    extra[np.argsort(extra - shares, kind="stable")[:short]] += 1
    return (min_runs + extra).astype(np.int64).reshape(variation.shape)


def _noise(
    key: Key[Array, ""],
    s: Float[np.ndarray, "problems levels"],
    t: Float[np.ndarray, "problems levels"],
    n: Float[np.ndarray, "problems levels"],
    score: float,
    shuffles: int,
) -> tuple[float, float]:
    """Mean score, and share at or above `score`, when each problem's right answers are dealt to its runs at random.

    Given a problem's total the deal is exact under "accuracy does not depend on the level". NumPy's hypergeometric
    draws, since JAX has none; the generator is seeded from the key.
    """
    generator = numpy_generator(key)
    good = np.broadcast_to(s.sum(axis=1), (shuffles, len(s))).astype(np.int64)
    bad = (n.sum(axis=1) - s.sum(axis=1)).astype(np.int64) + np.zeros_like(good)
    dealt = np.empty((shuffles, *s.shape))
    for level in range(s.shape[1]):  # a few levels: each deal depends on those before
        dealt[..., level] = drawn = generator.hypergeometric(good, bad, n[:, level].astype(np.int64))
        good, bad = good - drawn, bad - (n[:, level].astype(np.int64) - drawn)
    shuffled = arise_terms(dealt / n, t[None]).sum(axis=-1).mean(axis=-1)
    return float(shuffled.mean()), float((1 + np.sum(shuffled >= score - 1e-12)) / (1 + shuffles))


def _check_cells(
    s: Float[np.ndarray, "problems levels"], t: Float[np.ndarray, "..."], n: Float[np.ndarray, "problems levels"]
) -> None:
    if s.shape != t.shape:
        raise ValueError(f"tokens: the shape of successes, {s.shape}, is wanted, got {t.shape}")
    if s.shape[0] < 1 or s.shape[1] < 2:
        raise ValueError(f"successes: at least one problem and two levels are wanted, got shape {s.shape}")
    for name, values, fine in (
        ("trials", n, (n >= 1) & (n == np.round(n))),
        ("successes", s, (s >= 0) & (s <= n) & (s == np.round(s))),
        ("tokens", t, np.isfinite(t) & (t > 0)),
    ):
        bad: Bool[np.ndarray, "problems levels"] = ~fine
        if bad.any():
            row, column = np.argwhere(bad)[0]
            wanted = {
                "trials": "whole numbers from 1 up",
                "successes": "whole numbers to trials",
                "tokens": "positive",
            }[name]
            raise ValueError(f"{name}: row {row}, level {column} has {values[row, column]:g}; {wanted} wanted")
