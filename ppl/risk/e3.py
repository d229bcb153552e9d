r"""E3, the Efficiency-aware Effectiveness Evaluation score: accuracy squared over tokens.

$$E^3 = A \cdot \frac{A}{T} = \frac{A^2}{T},$$

with $A$ the mean accuracy and $T$ the mean number of tokens decoded a query. The square keeps a method from winning by
saying little: halving the tokens is worth a factor of $\sqrt 2$ in accuracy, no more.

**Source:** Lin et al. (2025), "Plan and Budget", arXiv 2505.16122 (ICLR 2026). The definition was read in notes on the
paper that quote it, not in the paper itself; the authors' repository names the score and does not compute it. Their
tables have $A$ in per cent, judging by the size of the values (0.16 and 0.47). Another E3-Score, of EffiReason-Bench
(arXiv 2511.10201), is a different formula and is not this one.
"""

import dataclasses

import numpy as np
from jaxtyping import Array, Float, Key, Shaped
from matplotlib.figure import Figure

from ppl.keys import as_key
from ppl.plots import new_figure
from ppl.risk.bootstrap import weighted_means
from ppl.risk.results import DrawsResult


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class E3(DrawsResult):
    """Posterior draws of `e3` (accuracy in per cent, as published), `accuracy` (0 to 1) and `tokens` a query."""

    def plot_trade(self) -> Figure:
        """The draws of accuracy over tokens, with lines of equal E3."""
        figure, axes = new_figure()
        tokens, accuracy = self.draws["tokens"], self.draws["accuracy"]
        axes.plot(tokens, accuracy, ".", color="C0", markersize=2, alpha=0.3)
        along = np.linspace(0.9 * tokens.min(), 1.1 * tokens.max(), 100)
        for value in np.quantile(self.draws["e3"], [0.05, 0.5, 0.95]):
            axes.plot(along, np.sqrt(value * along) / 100, color="0.3", linewidth=1)
            axes.annotate(f" E3 {value:.3g}", (along[-1], np.sqrt(value * along[-1]) / 100), color="0.3", va="center")
        axes.set(xlabel="tokens a query", ylabel="accuracy")
        return figure


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class E3Comparison(DrawsResult):
    """Draws of both scores (`first`, `second`) and of their `ratio`, first over second, on the same problems."""

    @property
    def probability_first(self) -> float:
        """Posterior probability that the first has the higher E3."""
        return float(np.mean(self.draws["ratio"] > 1))


def e3(
    accuracy: Shaped[np.ndarray | Array, " problems"],
    tokens: Shaped[np.ndarray | Array, " tokens"],
    *,
    draws: int = 4000,
    key: int | Key[Array, ""] = 0,
) -> E3:
    """E3 with an interval over problems: accuracy and tokens are drawn together, since long answers are often wrong
    ones.

    **Arguments:**

    - `accuracy`: of each problem, 0 or 1, or the mean over runs. `tokens`: mean decoded tokens of each, above 0.
    - `draws`, `key`: of the Bayesian bootstrap. Two further problems of weight 1/2, one right and one wrong at the mean
      number of tokens, keep the interval of a model without a failure from ending at a certainty.

    **Raises:** `ValueError` naming the problem whose accuracy or tokens are out of range, or if there is none.

    **Source:** Lin et al. (2025), arXiv 2505.16122; see the module for what is verified.
    """
    means = weighted_means(as_key(key), _rows(accuracy, tokens), draws, ends=_ends(tokens))
    return E3(
        draws={"e3": _score(means[:, 0], means[:, 1]), "accuracy": means[:, 0], "tokens": means[:, 1]},
        observed={"accuracy": np.asarray(accuracy), "tokens": np.asarray(tokens)},
        attrs={"prior": "Dirichlet process over problems, two end points of weight 1/2"},
    )


def compare_e3(
    accuracy: tuple[Shaped[np.ndarray | Array, " first"], Shaped[np.ndarray | Array, " second"]],
    tokens: tuple[Shaped[np.ndarray | Array, " first"], Shaped[np.ndarray | Array, " second"]],
    *,
    draws: int = 4000,
    key: int | Key[Array, ""] = 0,
) -> E3Comparison:
    """E3 of two methods on the same problems in the same order, paired: what both find hard cancels in the ratio.

    **Arguments:** `accuracy`, `tokens`: pairs, (first, second), each as for `e3`. **Raises:** as `e3`; `ValueError` if
    the two have different numbers of problems.
    """
    first, second = (_rows(a, t) for a, t in zip(accuracy, tokens, strict=True))
    if len(first) != len(second):
        raise ValueError(f"accuracy: the same problems for both are wanted, got {len(first)} and {len(second)}")
    ends = np.concatenate([_ends(t) for t in tokens], axis=1)
    means = weighted_means(as_key(key), np.concatenate([first, second], axis=1), draws, ends=ends)
    scores = {"first": _score(means[:, 0], means[:, 1]), "second": _score(means[:, 2], means[:, 3])}
    return E3Comparison(draws={**scores, "ratio": scores["first"] / scores["second"]})


def e3_score(accuracy: float, tokens: float) -> float:
    """The plain formula, from a mean accuracy in [0, 1] and mean tokens. **Raises:** `ValueError` for either out of
    range."""
    if not 0 <= accuracy <= 1 or not tokens > 0:
        raise ValueError(f"accuracy: in [0, 1], and positive tokens, are wanted, got {accuracy} and {tokens}")
    return (100 * accuracy) ** 2 / tokens


def _score(accuracy: Float[np.ndarray, " draws"], tokens: Float[np.ndarray, " draws"]) -> Float[np.ndarray, " draws"]:
    return (100 * accuracy) ** 2 / tokens


def _rows(
    accuracy: Shaped[np.ndarray | Array, " n"], tokens: Shaped[np.ndarray | Array, " m"]
) -> Float[np.ndarray, "n 2"]:
    a, t = np.asarray(accuracy, dtype=np.float64), np.asarray(tokens, dtype=np.float64)
    if len(a) < 1 or len(a) != len(t):
        raise ValueError(f"tokens: one number for each of {len(a)} problems, at least one, is wanted, got {len(t)}")
    for name, values, fine in (("accuracy", a, (a >= 0) & (a <= 1)), ("tokens", t, np.isfinite(t) & (t > 0))):
        if not fine.all():
            row = int(np.flatnonzero(~fine)[0])
            wanted = "in [0, 1]" if name == "accuracy" else "above 0"
            raise ValueError(f"{name}: problem {row} has {values[row]:g}; a number {wanted} is wanted")
    return np.stack([a, t], axis=1)


def _ends(tokens: Shaped[np.ndarray | Array, " problems"]) -> Float[np.ndarray, "2 2"]:
    typical = float(np.mean(np.asarray(tokens, dtype=np.float64)))
    return np.array([[0.0, typical], [1.0, typical]])
