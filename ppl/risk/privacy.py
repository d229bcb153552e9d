r"""Privacy audit: what attacks on trained models say of a training algorithm's $\varepsilon$, with its uncertainty.

An attacker guesses whether a model was trained with a record or without it. If training is $(\varepsilon, \delta)$
differentially private, the error rates of every such attacker satisfy

$$\mathrm{FPR} + e^\varepsilon \mathrm{FNR} \ge 1 - \delta, \qquad
  \mathrm{FNR} + e^\varepsilon \mathrm{FPR} \ge 1 - \delta$$

and, since the attacker may say the opposite, both with FPR and FNR replaced by $1 - \mathrm{FPR}$ and
$1 - \mathrm{FNR}$. The $\varepsilon$ of an attack is the smallest one that allows its rates (`epsilon_from_rates`): a
lower bound on that of the training, which a stronger attack may raise. Here it gets a posterior from the counts.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Array, Float, Int, Key, Shaped
from matplotlib.figure import Figure
from scipy import special

from ppl.intervals import JEFFREYS, Interval, check_level
from ppl.keys import numpy_generator
from ppl.plots import new_figure
from ppl.risk.clustered_rate import RateDraws, clustered_rate
from ppl.risk.results import DrawsResult, estimate

Method = Literal["joint_beta", "dirichlet"]
_CHUNK = 1_000_000  # draws at a time: a few float64 arrays of this length are all that is held beside the result
_SHOWN = 3_000  # draws in a scatter plot


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class EpsilonResult(DrawsResult):
    """Posterior draws of `epsilon`, `fnr` and `fpr` (and, per model, of the correlations of each rate's trials).

    `delta` as given; `level` is that of `interval`.
    """

    delta: float
    level: float

    @property
    def interval(self) -> Interval:
        """Equal-tailed posterior interval of epsilon."""
        return estimate(self.draws["epsilon"], self.level).interval

    def plot_epsilon(self) -> Figure:
        """Posterior density of epsilon with its interval."""
        figure, axes = new_figure()
        lower, upper = (float(end) for end in self.interval)
        axes.hist(self.draws["epsilon"], bins=80, density=True, color="C0", alpha=0.5)
        axes.axvspan(lower, upper, color="C0", alpha=0.12, linewidth=0)
        axes.set(
            xlabel=rf"$\varepsilon$ of the attack at $\delta$ = {self.delta:g}",
            ylabel="posterior density",
            title=f"{self.level:.0%} in [{lower:.3g}, {upper:.3g}]",
        )
        return figure

    def plot_region(self) -> Figure:
        """Draws of the two error rates, and the edges of the privacy regions at both ends of the interval."""
        figure, axes = new_figure()
        figure.set_size_inches(5.6, 5.4)
        axes.plot(self.draws["fnr"][:_SHOWN], self.draws["fpr"][:_SHOWN], ".", color="C0", alpha=0.15, markersize=3)
        rate = np.concatenate([[0.0], np.geomspace(1e-6, 0.5, 400)])
        rate = np.concatenate([rate, 1 - rate[-2::-1]])
        for style, end in zip(("-", "--"), self.interval, strict=True):
            # Both edges of the region of this epsilon: the least FPR that it allows at an FNR, and its mirror image.
            lower = np.maximum(1 - self.delta - np.exp(end) * rate, np.exp(-end) * (1 - self.delta - rate)).clip(0, 1)
            axes.plot(rate, lower, color="0.3", linestyle=style, linewidth=1, label=rf"$\varepsilon$ = {end:.3g}")
            axes.plot(1 - rate, 1 - lower, color="0.3", linestyle=style, linewidth=1)
        axes.set(xlabel="false negative rate", ylabel="false positive rate", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, 1.1), ncols=2)
        return figure


def epsilon_from_rates(
    fnr: float | Float[np.ndarray, "..."], fpr: float | Float[np.ndarray, "..."], delta: float
) -> float | Float[np.ndarray, "..."]:
    r"""The smallest $\varepsilon \ge 0$ whose privacy region holds the point (FNR, FPR).

    An attacker above the diagonal $\mathrm{FPR} = 1 - \mathrm{FNR}$ is turned into one that says the opposite, so that
    $h + l \le 1$ for the larger rate $h$ and the smaller $l$. Of the two conditions the one with $e^\varepsilon l$
    binds: $(1 - \delta - h) / l \ge (1 - \delta - l) / h$ exactly if $h + l \le 1 - \delta$, and otherwise neither
    exceeds 1. Hence

    $$\varepsilon = \max\left(0, \ln \frac{1 - \delta - h}{l}\right),$$

    infinite for $l = 0$ and $h < 1 - \delta$.

    **Arguments:** rates in [0, 1], one or an array; `delta` in [0, 1).

    **Raises:** `ValueError` naming the rate or `delta` out of range.

    **Source:** Kairouz, Oh & Viswanath (2015), ICML, theorem 2.1 and its figure of the region.
    """
    _check_delta(delta)
    negative, positive = np.asarray(fnr, dtype=np.float64), np.asarray(fpr, dtype=np.float64)
    for name, rate in (("fnr", negative), ("fpr", positive)):
        bad = ~((rate >= 0) & (rate <= 1))
        if bad.any():
            raise ValueError(f"{name}: rates in [0, 1] are wanted, got {rate[bad].ravel()[0]}")
    return _epsilon(negative, np.asarray(1 - negative), positive, np.asarray(1 - positive), delta)[()]


def epsilon(
    tp: float | np.number,
    tn: float | np.number,
    fp: float | np.number,
    fn: float | np.number,
    delta: float,
    *,
    method: Method = "joint_beta",
    level: float = 0.9,
    draws: int = _CHUNK,
    key: int | Key[Array, ""] = 0,
) -> EpsilonResult:
    r"""Posterior of an attack's $\varepsilon$ from how often it was right and wrong, by direct draws.

    $\mathrm{FNR} \sim \mathrm{Beta}(1/2 + FN, 1/2 + TP)$ and $\mathrm{FPR} \sim \mathrm{Beta}(1/2 + FP, 1/2 + TN)$,
    independent, pushed through `epsilon_from_rates`; the interval holds quantiles of the draws. The paper finds the
    same quantiles by quadrature and root search in about 5 minutes, to 1e-2 and up to $\varepsilon = 10$; a million
    draws take 0.1 s.

    **Arguments:**

    - `tp`, `tn`, `fp`, `fn`: counts of independent guesses, positive meaning "trained with the record". Guesses at one
      trained model are not independent: see `epsilon_per_model`.
    - `delta`: in [0, 1).
    - `method`: `joint_beta`, or `dirichlet` with a Dirichlet(1/2) prior over the four cells of the table. Renormalised
      pairs of cells of a Dirichlet vector are independent betas, so both have one and the same posterior of the two
      rates; the second also says how often the record was in, which plays no part.
    - `level`: mass of `EpsilonResult.interval`. `draws`, `key`: how many, and their seed or key.

    Averaged over the prior, coverage is `level` exactly, and at rates that differ by a few standard errors it is about
    `level`. Where both rates are equal, it is less: the smaller of two noisy rates is too small, so that $\varepsilon$
    comes out too large. There 90% intervals cover 76 to 83%, and their lower end lies above the truth in 16 to 24% of
    audits instead of 5% (100 to 5,000 guesses of either kind, $\varepsilon$ 2 and 4). To refute a claimed
    $\varepsilon$ by such rates, take `epsilon_interval`.

    **Raises:** `ValueError` naming a count that is negative, fractional or not finite, `delta` outside [0, 1), an
    unknown method, a level outside (0, 1), no draw.

    **Source:** Zanella-Béguelin et al. (2023), ICML, arXiv 2206.05199 (joint beta and joint Dirichlet model).
    """
    counts = [int(_counts(name, value)) for name, value in (("fn", fn), ("tp", tp), ("fp", fp), ("tn", tn))]
    _check(delta, level, draws)
    if method not in get_args(Method):
        raise ValueError(f"method: {' or '.join(get_args(Method))} is wanted, got {method!r}")
    # NumPy's gamma draws are 14 times faster here than JAX's, and 20 million of them are a usual request. In float64 a
    # rate and its complement, each over the sum, keep their relative precision down to 1e-30, so no logarithms are
    # needed.
    generator = numpy_generator(key)
    named = {name: np.empty(draws, dtype=np.float32) for name in ("epsilon", "fnr", "fpr")}
    for start in range(0, draws, _CHUNK):
        part = slice(start, min(start + _CHUNK, draws))
        cells = [generator.standard_gamma(count + JEFFREYS[0], part.stop - part.start) for count in counts]
        if method == "dirichlet":
            total = np.sum(cells, axis=0)
            cells = [cell / total for cell in cells]
        positives, negatives = cells[0] + cells[1], cells[2] + cells[3]
        fnr, fpr = cells[0] / positives, cells[2] / negatives
        named["fnr"][part], named["fpr"][part] = fnr, fpr
        named["epsilon"][part] = _epsilon(fnr, cells[1] / positives, fpr, cells[3] / negatives, delta)
    cell_names = ["fn", "tp", "fp", "tn"]
    return EpsilonResult(
        draws=named,
        observed={"counts": np.array(counts)},
        dims={"counts": ["cell"]},
        coords={"cell": cell_names},
        attrs={"method": method, "prior": "Jeffreys", "delta": delta},
        delta=delta,
        level=level,
    )


def epsilon_per_model(
    tp: Shaped[np.ndarray | Array, "..."] | Sequence[Any],
    tn: Shaped[np.ndarray | Array, "..."] | Sequence[Any],
    fp: Shaped[np.ndarray | Array, "..."] | Sequence[Any],
    fn: Shaped[np.ndarray | Array, "..."] | Sequence[Any],
    delta: float,
    *,
    level: float = 0.9,
    draws: int = 10_000,
    key: int | Key[Array, ""] = 0,
) -> EpsilonResult:
    r"""Posterior of an attack's $\varepsilon$ from several guesses at each of several trained models.

    Guesses at one model rise and fall together, so that counting them as independent makes intervals too narrow. Each
    rate is beta-binomial over models (`ppl.risk.clustered_rate`), with its mean and the correlation of its trials
    unknown; $\varepsilon$ belongs to the mean rates, those of one guess at a freshly trained model. With one guess a
    model this is `epsilon`. A model that leaks more may have both rates low, a threshold that is off moves them in
    opposite directions: the draws of the two means are paired by a Gaussian copula, with the correlation of the models'
    residuals (drawn by Fisher's transformation) for its own.

    **Arguments:** as `epsilon`, with one count for each model. The default draws move the interval's ends by about one
    hundredth of its width.

    **Returns:** draws `epsilon`, `fnr`, `fpr`, `fnr_correlation`, `fpr_correlation`, and the log-likelihood of each
    model.

    **Raises:** as `epsilon`, naming the row; `ValueError` for lengths that differ or no model.

    **Source:** ours; Zanella-Béguelin et al. (2023) take all guesses as independent when they draw several a model.
    """
    cells = {name: _counts(name, value) for name, value in (("tp", tp), ("tn", tn), ("fp", fp), ("fn", fn))}
    for name, values in cells.items():
        if values.ndim != 1 or values.shape != cells["tp"].shape or not values.size:
            raise ValueError(f"{name}: one count for each model is wanted, got shape {values.shape}")
    _check(delta, level, draws)
    generator = numpy_generator(key)
    negative = clustered_rate(cells["fn"], cells["fn"] + cells["tp"], draws, generator)
    positive = clustered_rate(cells["fp"], cells["fp"] + cells["tn"], draws, generator)
    negative, positive = _coupled(negative, positive, cells, generator)
    return EpsilonResult(
        draws={
            "epsilon": _epsilon(negative.mean, negative.complement, positive.mean, positive.complement, delta),
            "fnr": negative.mean,
            "fpr": positive.mean,
            "fnr_correlation": negative.correlation,
            "fpr_correlation": positive.correlation,
        },
        log_likelihood={"guesses": negative.log_likelihood + positive.log_likelihood},
        observed={"guesses": np.sum(list(cells.values()), axis=0), **cells},
        dims={name: ["model"] for name in ("guesses", *cells)},
        attrs={"method": "beta_binomial", "prior": "Jeffreys mean, uniform correlation", "delta": delta},
        delta=delta,
        level=level,
    )


def epsilon_interval(
    tp: float | np.number,
    tn: float | np.number,
    fp: float | np.number,
    fn: float | np.number,
    delta: float,
    *,
    method: Literal["clopper_pearson", "jeffreys"] = "clopper_pearson",
    level: float = 0.9,
) -> Interval:
    r"""Interval of an attack's $\varepsilon$ from one for each rate: what audits used before the joint posterior.

    Each rate gets an interval at $1 - (1 - \mathrm{level}) / 2$, so that both hold at once at `level`; the ends are the
    least and the largest $\varepsilon$ in their rectangle. `clopper_pearson` covers at least `level` for every truth;
    `jeffreys` (with ends 0 and 1 where a count is 0, as in the paper's code) about so. Both are wide: with no error of
    one kind the upper end is infinite, whatever the sample.

    **Raises:** as `epsilon`.

    **Source:** Nasr et al. (2021), IEEE S&P, for Clopper-Pearson; both as in Zanella-Béguelin et al. (2023).
    """
    counts = [int(_counts(name, value)) for name, value in (("fn", fn), ("tp", tp), ("fp", fp), ("tn", tn))]
    _check(delta, level, 1)
    if method not in ("clopper_pearson", "jeffreys"):
        raise ValueError(f"method: clopper_pearson or jeffreys is wanted, got {method!r}")
    shift = (0.0, 1.0) if method == "clopper_pearson" else (0.5, 0.5)
    tail = (1 - level) / 4
    misses, hits, false_alarms, rejections = counts
    fnr, fpr = _rate_interval(misses, hits, shift, tail), _rate_interval(false_alarms, rejections, shift, tail)
    ends = [float(epsilon_from_rates(x, y, delta)) for x, y in zip(fnr, fpr, strict=True)]
    # Below the diagonal epsilon falls with either rate, above it rises; between them it is 0.
    straddles = fnr.lower + fpr.lower <= 1 <= fnr.upper + fpr.upper
    return Interval(0.0 if straddles else min(ends), max(ends))


def _epsilon(
    fnr: Float[np.ndarray, "*shape"],
    not_fnr: Float[np.ndarray, "*shape"],
    fpr: Float[np.ndarray, "*shape"],
    not_fpr: Float[np.ndarray, "*shape"],
    delta: float,
) -> Float[np.ndarray, "*shape"]:
    """From rates and their complements, since one minus a rate near 1 would lose the small one."""
    opposite = fpr > not_fnr
    lower = np.where(opposite, np.minimum(not_fnr, not_fpr), np.minimum(fnr, fpr))
    left = np.where(opposite, np.minimum(fnr, fpr), np.minimum(not_fnr, not_fpr)) - delta
    with np.errstate(divide="ignore"):  # a rate of exactly 0 has an infinite epsilon
        log_ratio = np.log(np.maximum(left, np.finfo(np.float64).tiny)) - np.log(lower)
    return np.where(left > 0, np.maximum(log_ratio, 0), 0.0)


def _coupled(
    negative: RateDraws,
    positive: RateDraws,
    cells: dict[str, Int[np.ndarray, " models"]],
    generator: np.random.Generator,
) -> tuple[RateDraws, RateDraws]:
    """The same draws of both rates, in an order by which they depend on each other as the models' residuals do."""
    residuals = [
        wrong - (wrong + right) * wrong.sum() / max(wrong.sum() + right.sum(), 1)
        for wrong, right in ((cells["fn"], cells["tp"]), (cells["fp"], cells["tn"]))
    ]
    norm = np.sqrt((residuals[0] ** 2).sum() * (residuals[1] ** 2).sum())
    both = int(np.sum((cells["fn"] + cells["tp"] > 0) & (cells["fp"] + cells["tn"] > 0)))
    normals = generator.standard_normal((3, len(negative.mean)))
    if both and norm > 0:  # else nothing varies, or no model was attacked in both ways
        seen = np.arctanh(np.clip(residuals[0] @ residuals[1] / norm, -0.999, 0.999))
        correlation = np.tanh(seen + normals[2] / np.sqrt(max(both - 3, 1)))
        normals[1] = correlation * normals[0] + np.sqrt(1 - correlation**2) * normals[1]
    orders = []
    for rate, normal in zip((negative, positive), normals[:2], strict=True):
        order = np.empty(len(normal), dtype=np.int64)
        order[np.argsort(normal)] = np.argsort(rate.mean)
        orders.append(RateDraws(*(values[order] for values in rate)))
    return orders[0], orders[1]


def _rate_interval(errors: int, right: int, shift: tuple[float, float], tail: float) -> Interval:
    """Beta quantiles of `errors + shift[0], right + shift[1]` and, for the upper end, the shifts exchanged."""
    lower = 0.0 if errors == 0 else float(special.betaincinv(errors + shift[0], right + shift[1], tail))
    upper = 1.0 if right == 0 else 1 - float(special.betaincinv(right + shift[0], errors + shift[1], tail))
    return Interval(lower, upper)


def _counts(name: str, values: Any) -> Int[np.ndarray, "..."]:
    numbers = np.asarray(values, dtype=np.float64)
    bad = np.argwhere(~np.isfinite(numbers) | (numbers < 0) | (numbers != np.round(numbers)))
    if len(bad):
        where = f"row {bad[0][0]} has " if numbers.ndim else ""
        raise ValueError(f"{name}: {where}{numbers[tuple(bad[0])]:g}; whole numbers from 0 up are wanted")
    return numbers.astype(np.int64)


def _check(delta: float, level: float, draws: int) -> None:
    _check_delta(delta)
    check_level(level)
    if draws < 1:
        raise ValueError(f"draws: at least 1 is wanted, got {draws}")


def _check_delta(delta: float) -> None:
    if not 0 <= delta < 1:
        raise ValueError(f"delta: must be in [0, 1), got {delta}")
