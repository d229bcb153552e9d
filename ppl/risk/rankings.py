"""Ranks with their uncertainty: how often each candidate takes each place over the posterior of the scores.

A table of means says who is first; it does not say whether first and second could change places. Every function here
ends in the same result, from draws that exist already, from counts, from levels, or from a table of scores.
"""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
import pandas as pd
from jaxtyping import Array, Float, Int, Key, Num
from matplotlib.figure import Figure

from ppl.intervals import JEFFREYS, check_level
from ppl.keys import as_key, numpy_generator
from ppl.plots import new_figure
from ppl.risk.results import DrawsResult


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Ranking(DrawsResult):
    """Posterior of scores and of the ranks that they give; rank 1 is the highest score, ties share the mean rank.

    `draws`: `score` and `rank`, each [draws, candidates]. `names`: the candidates, in the order given.
    """

    names: tuple[str, ...]

    @property
    def probability_best(self) -> pd.Series:
        """Probability of the highest score; candidates that tie for it in a draw share the draw."""
        score = self.draws["score"]
        top = score == score.max(axis=1, keepdims=True)
        return pd.Series((top / top.sum(axis=1, keepdims=True)).mean(axis=0), index=list(self.names))

    @property
    def probability_above(self) -> pd.DataFrame:
        """Probability that the row's candidate has a higher score than the column's; ties, itself too, count half."""
        score = self.draws["score"]
        columns = [((score > other) + 0.5 * (score == other)).mean(axis=0) for other in score.T[:, :, None]]
        return pd.DataFrame(np.stack(columns, axis=1), index=list(self.names), columns=list(self.names))

    @property
    def rank_distribution(self) -> pd.DataFrame:
        """Probability of each place (columns 1, 2, ...) for each candidate; ties are spread over their places."""
        num = len(self.names)
        rank = self.draws["rank"]
        # Of t candidates with mean rank r each takes the places r - (t - 1)/2 to r + (t - 1)/2 with probability 1 / t.
        tied = (rank[:, :, None] == rank[:, None, :]).sum(axis=2)
        places = np.arange(1, num + 1)
        taken = np.abs(places - rank[:, :, None]) <= (tied[:, :, None] - 1) / 2
        return pd.DataFrame((taken / tied[:, :, None]).mean(axis=0), index=list(self.names), columns=list(places))

    def table(self, level: float = 0.9) -> pd.DataFrame:
        """One row a candidate, best expected rank first: mean score, probability of being best, rank and its interval.

        The interval's ends are ranks that occur, and it holds at least `level`: a discrete posterior has no exact one.
        """
        check_level(level)
        rank = self.draws["rank"]
        lower = np.quantile(rank, (1 - level) / 2, axis=0, method="inverted_cdf")
        upper = -np.quantile(-rank, (1 - level) / 2, axis=0, method="inverted_cdf")
        frame = pd.DataFrame(
            {
                "score": self.draws["score"].mean(axis=0),
                "probability_best": self.probability_best.to_numpy(),
                "expected_rank": rank.mean(axis=0),
                "lower": lower,
                "upper": upper,
            },
            index=pd.Index(self.names, name="candidate"),
        )
        return frame.sort_values("expected_rank", kind="stable")

    def plot_ranks(self) -> Figure:
        """Probability of each place, one row a candidate, best expected rank on top."""
        shares = self.rank_distribution.loc[list(self.table().index)]
        figure, axes = new_figure()
        figure.set_size_inches(1.5 + 0.8 * len(shares), 1.2 + 0.5 * len(shares))
        axes.grid(visible=False)
        axes.imshow(shares.to_numpy(), cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for (row, place), share in np.ndenumerate(shares.to_numpy()):
            colour = "white" if share > 0.6 else "black"
            axes.text(place, row, f"{share:.0%}", ha="center", va="center", color=colour, fontsize=9)
        axes.set_xticks(range(len(shares)), [str(place) for place in shares.columns])
        axes.set_yticks(range(len(shares)), list(shares.index))
        axes.set(xlabel="rank")
        return figure


def rank_draws(scores: Float[np.ndarray | Array, "draws candidates"], names: Sequence[str]) -> Ranking:
    """Ranks from posterior draws of the scores, drawn jointly; higher is better.

    **Raises:** `ValueError` for no draw, a score that is not finite, or names that are not one each and unique.
    """
    score = np.asarray(scores, dtype=np.float64)
    _check_names(names, score.shape[1])
    if not len(score):
        raise ValueError("scores: at least one draw is wanted, got none")
    if not np.isfinite(score).all():
        draw, which = np.argwhere(~np.isfinite(score))[0]
        raise ValueError(f"scores: draw {draw} of candidate {names[which]!r} is {score[draw, which]}")
    above = (score[:, None, :] > score[:, :, None]).sum(axis=2)
    level_with = (score[:, None, :] == score[:, :, None]).sum(axis=2) - 1
    return Ranking(
        draws={"score": score, "rank": 1 + above + level_with / 2},
        dims={"score": ("candidate",), "rank": ("candidate",)},
        coords={"candidate": list(names)},
        names=tuple(names),
    )


def rank_counts(
    successes: Int[np.ndarray | Array, " candidates"],
    trials: Int[np.ndarray | Array, "*candidates"],
    names: Sequence[str],
    *,
    prior: tuple[float, float] = JEFFREYS,
    key: int | Key[Array, ""] = 0,
    draws: int = 10_000,
) -> Ranking:
    """Ranks of success probabilities from counts of each candidate alone, beta posteriors independent of each other.

    For candidates that met the same problems this wastes the pairing: `rank_scores` keeps it.

    **Raises:** `ValueError` naming the candidate whose counts are out of range; a prior out of range.
    """
    s, n = np.asarray(successes), np.asarray(trials)
    _check_names(names, len(s))
    if len(n) != len(s):
        raise ValueError(f"trials: one for each of {len(s)} candidates is wanted, got {len(n)}")
    wrong = np.flatnonzero((s < 0) | (s > n))
    if wrong.size:
        raise ValueError(f"successes: candidate {names[wrong[0]]!r} has {s[wrong[0]]} of {n[wrong[0]]}")
    return rank_levels(np.stack([s, n - s], axis=1), names, values=(1.0, 0.0), prior=prior, key=key, draws=draws)


def rank_levels(
    counts: Int[np.ndarray | Array, "candidates levels"],
    names: Sequence[str],
    *,
    values: Sequence[float],
    prior: Sequence[float] | float = 0.5,
    key: int | Key[Array, ""] = 0,
    draws: int = 10_000,
) -> Ranking:
    """Ranks of mean scores from how often each candidate got each level (Dirichlet posteriors, independent).

    **Arguments:** `counts`: of each level; `values`: the score of each level; `prior`: pseudo-count of each level, or
    one for all (default: 1/2, Jeffreys).

    **Raises:** `ValueError` for negative counts, values or prior that do not fit the levels, a prior not above 0.
    """
    table = np.asarray(counts)
    _check_names(names, len(table))
    weights = np.broadcast_to(np.asarray(prior, dtype=np.float64), (len(values),))
    if table.shape[1] != len(values):
        raise ValueError(f"values: one for each of {table.shape[1]} levels is wanted, got {len(values)}")
    if (table < 0).any():
        row, level = np.argwhere(table < 0)[0]
        raise ValueError(f"counts: candidate {names[row]!r} has {table[row, level]} at level {level}")
    if not (weights > 0).all():
        raise ValueError(f"prior: pseudo-counts must be positive, got {prior}")
    # Numpy's gammas, seeded by the key: JAX compiles its own for seconds, for each new shape.
    rng = numpy_generator(key)
    shares = rng.standard_gamma(table + weights, (draws, *table.shape))
    means = shares @ np.asarray(values, dtype=np.float64) / shares.sum(axis=2)
    return rank_draws(means, names)


def rank_scores(
    scores: Num[np.ndarray | Array, "questions candidates *repeats"],
    names: Sequence[str],
    *,
    bounds: tuple[float, float] | None = None,
    key: int | Key[Array, ""] = 0,
    draws: int = 10_000,
) -> Ranking:
    """Ranks of mean scores from a table over shared questions, by the Bayesian bootstrap over questions.

    The question is the unit: every candidate gets the same weights in a draw, so that a question which is hard for all
    moves none against another, and repeats of one question are averaged, not counted as more questions.

    **Arguments:** `scores`: one for each question and candidate, or several (repeats, judges) along a last axis.
    `bounds`: the least and greatest score possible; each joins each candidate's scores with weight 1/2, independently,
    as in `ppl.intervals.mean_interval`, so that candidates which are alike on all questions can still differ. Without
    bounds such candidates tie in every draw.

    **Raises:** `ValueError` naming question and candidate of a score that is not finite or out of bounds; fewer than
    two questions without bounds.

    **Source:** Rubin (1981), Annals of Statistics 9(1).
    """
    table = np.asarray(scores, dtype=np.float64)
    _check_names(names, table.shape[1])
    low, high = bounds or (-np.inf, np.inf)
    wrong = np.argwhere(~np.isfinite(table) | (table < low) | (table > high))
    if wrong.size:
        question, which = wrong[0][:2]
        raise ValueError(
            f"scores: question {question}, candidate {names[which]!r} has {table[tuple(wrong[0])]}; want finite values "
            f"in [{low}, {high}]"
        )
    if len(table) < (2 if bounds is None else 1) or not table.size:
        raise ValueError(f"scores: at least two questions are wanted when no bounds are given, got shape {table.shape}")
    means = table.reshape(*table.shape[:2], -1).mean(axis=2)
    inner, ends = jax.random.split(as_key(key))
    weights = np.asarray(jax.random.exponential(inner, (draws, len(means))), dtype=np.float64)
    total, mass = weights @ means, weights.sum(axis=1, keepdims=True)
    if bounds is not None:
        # Gamma(1/2), half a squared normal, for each bound and candidate.
        halves = np.asarray(jax.random.normal(ends, (2, draws, means.shape[1])), dtype=np.float64) ** 2 / 2
        total, mass = total + low * halves[0] + high * halves[1], mass + halves.sum(axis=0)
    return rank_draws(total / mass, names)


def _check_names(names: Sequence[str], num: int) -> None:
    if len(names) != num or len(set(names)) != num or not num:
        raise ValueError(f"names: one unique name for each of {num} candidates is wanted, got {list(names)}")
