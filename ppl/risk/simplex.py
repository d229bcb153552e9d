r"""Candidates ranked by judges who err, with scores of two or more levels and no, or few, items of known level.

Candidate $k$ has true levels in shares $\pi_k$, a point of the simplex; judge $j$ gives level $l$ to an item that is
truly $m$ with probability $\Theta^{(j)}_{ml}$, so that the scores seen have shares $\pi_k \Theta^{(j)}$. With two
levels the order of candidates shows in any shares seen, as long as the judge is better than chance and treats them
alike. With three or more it does not, however many items there are: what a judge's middle level means decides, and only
the prior says it. So the prior is an argument, and `judge_sensitivity` says what hangs on it.
"""

import dataclasses
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Array, Float, Int, Key, Num
from matplotlib.figure import Figure

from ppl.keys import numpy_generator
from ppl.plots import legend_beside, new_figure
from ppl.risk.judge_gibbs import AGREE, CHAINS, Items, joint_probability, run
from ppl.risk.rankings import Ranking, rank_draws
from ppl.risk.results import DrawsResult, estimate


@dataclasses.dataclass(frozen=True)
class JudgePrior:
    """What is believed of a judge before a score is seen.

    - `agreement`: mean probability of giving an item its true level; the rest falls by `decay` with each level further;
    - `strength`: in items: how many labelled items of each level the belief is worth;
    - `monotone`: whether better items surely get better scores, in distribution (stochastically ordered rows);
    - `constant`: whether a judge treats all candidates alike. If not, each candidate has confusions of its own, as when
      a judge favours its own model, and not even two levels show the order.
    """

    agreement: float = 0.7
    strength: float = 10.0
    decay: float = 0.4
    monotone: bool = True
    constant: bool = True

    def __post_init__(self):
        if not 0 < self.agreement < 1:
            raise ValueError(f"agreement: must be in (0, 1), got {self.agreement}")
        if not 0 < self.decay <= 1:
            raise ValueError(f"decay: must be in (0, 1], got {self.decay}")
        if not 0 < self.strength < float("inf"):
            raise ValueError(f"strength: must be positive and finite, got {self.strength}")

    def counts(self, levels: int) -> Float[np.ndarray, "levels levels"]:
        """Pseudo-counts of given levels (across) for each true level (down)."""
        apart = np.abs(np.subtract.outer(np.arange(levels), np.arange(levels)))
        others = np.where(apart > 0, self.decay**apart, 0.0)
        rest = (1 - self.agreement) * others / others.sum(axis=1, keepdims=True)
        return self.strength * (rest + self.agreement * np.eye(levels))


# Judges that see well, as by default, and badly; one that may be partial; one that may be anything.
PRIORS = {
    "default": JudgePrior(),
    "sharp": JudgePrior(agreement=0.9, strength=20.0),
    "blunt": JudgePrior(agreement=0.5, strength=20.0, decay=0.7),
    "partial": JudgePrior(constant=False),
    "vague": JudgePrior(agreement=0.6, strength=4.0, decay=0.7),
}


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class JudgedLevels(DrawsResult):
    """Posterior of candidates' true levels and of the judges' confusions.

    - `draws`: `score` [draws, candidates], the mean true level; `share` [draws, candidates, levels];
      `confusion` [draws, judges, true, given] (with candidates after judges unless the prior is constant);
    - `names`, `levels`, `prior`: the candidates, what levels are worth, what was believed;
    - `identified`: whether the order of candidates would show in ever more items;
    - `r_hat`: of the scores, over the chains behind the draws;
    - `warnings`: what the reader should know, empty when all is well.
    """

    names: tuple[str, ...]
    levels: tuple[float, ...]
    prior: JudgePrior
    identified: bool
    r_hat: float
    warnings: tuple[str, ...] = ()

    @property
    def ranking(self) -> Ranking:
        """Ranks by true mean level, with their probabilities."""
        return rank_draws(self.draws["score"], self.names)

    def plot_confusion(self) -> Figure:
        """Posterior mean of each judge's confusions; over candidates, unless the prior is constant."""
        means = self.draws["confusion"].mean(axis=0)
        means = means if self.prior.constant else means.mean(axis=1)
        figure = Figure(figsize=(0.6 + 2.8 * len(means), 3.2), layout="constrained")
        panels = figure.subplots(1, len(means), squeeze=False)[0]
        for number, (axes, mean) in enumerate(zip(panels, means, strict=True)):
            axes.imshow(mean, cmap="Blues", vmin=0, vmax=1)
            for (row, column), share in np.ndenumerate(mean):
                colour = "white" if share > 0.6 else "black"
                axes.text(column, row, f"{share:.0%}", ha="center", va="center", color=colour, fontsize=8)
            labels = [f"{level:g}" for level in self.levels]
            axes.set_xticks(range(len(labels)), labels)
            axes.set_yticks(range(len(labels)), labels)
            axes.set(title=f"judge {number}", xlabel="level given", ylabel="true level")
        return figure


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class PriorSensitivity(DrawsResult):
    """The same scores under several beliefs about the judge.

    `draws`: `score` and `rank`, each [draws, priors, candidates]. `fits`: the posterior under each prior.
    """

    fits: Mapping[str, JudgedLevels]

    def table(self, level: float = 0.9) -> pd.DataFrame:
        """One row for each prior and candidate: mean score with interval, expected rank, probability of being best."""
        frames = []
        for prior, fit in self.fits.items():
            ranking = fit.ranking
            mean, (lower, upper) = estimate(fit.draws["score"], level)
            columns = {
                "prior": prior,
                "candidate": list(fit.names),
                "score": mean,
                "lower": lower,
                "upper": upper,
                "expected_rank": ranking.draws["rank"].mean(axis=0),
                "probability_best": ranking.probability_best.to_numpy(),
            }
            frames.append(pd.DataFrame(columns))
        return pd.concat(frames).set_index(["prior", "candidate"])

    @property
    def probability_above(self) -> pd.DataFrame:
        """For each pair of candidates: least and greatest probability over the priors that the first is above."""
        above = np.stack([fit.ranking.probability_above.to_numpy() for fit in self.fits.values()])
        names = next(iter(self.fits.values())).names
        rows = [
            {"first": a, "second": b, "least": above[:, i, j].min(), "greatest": above[:, i, j].max()}
            for i, a in enumerate(names)
            for j, b in enumerate(names)
            if i < j
        ]
        return pd.DataFrame(rows, columns=["first", "second", "least", "greatest"]).set_index(["first", "second"])

    def plot_sensitivity(self, level: float = 0.9) -> Figure:
        """Mean score and interval of each candidate, one colour a prior."""
        figure, axes = new_figure()
        names = next(iter(self.fits.values())).names
        for number, (prior, fit) in enumerate(self.fits.items()):
            mean, (lower, upper) = estimate(fit.draws["score"], level)
            places = np.arange(len(names)) + 0.7 * ((number + 0.5) / len(self.fits) - 0.5)
            axes.hlines(places, np.asarray(lower), np.asarray(upper), color=f"C{number}", alpha=0.5, linewidth=3)
            axes.plot(np.asarray(mean), places, "o", color=f"C{number}", markersize=4, label=prior)
        axes.set_yticks(range(len(names)), names)
        axes.set(xlabel=f"true mean level, {level:.0%} interval", ylim=(len(names) - 0.5, -0.5))
        legend_beside(axes)
        return figure


def judged_levels(
    scores: Num[np.ndarray | Array, "items judges"],
    candidates: Sequence[str],
    *,
    levels: Sequence[float],
    prior: JudgePrior | None = None,
    labelled: Int[np.ndarray | Array, "*judges_levels_levels"] | None = None,
    key: int | Key[Array, ""] = 0,
    draws: int = 2_000,
) -> JudgedLevels:
    r"""Posterior of each candidate's true levels, given judges' scores of its items.

    $\pi_k \sim \mathrm{Dirichlet}(1)$; rows of $\Theta^{(j)}$ are Dirichlet with the prior's pseudo-counts. Judges of
    one item err independently given its true level: so they must be different judges, and one that is asked several
    times is still one, whose repeats would pass its own bias for the truth.

    **Arguments:**

    - `scores`: one row an item, one column a judge, each one of `levels`.
    - `candidates`: whose item each row is.
    - `levels`: the values of the levels, ascending, at least two.
    - `prior`: what is believed of the judges. Default: `JudgePrior()`.
    - `labelled`: for each judge how often items of known level (down) got each level (across).
    - `key`, `draws`: seed or key of the draws, and how many (rounded up to a multiple of 20, the chains).

    **Returns:** `JudgedLevels`. It warns (in `warnings` and as a `UserWarning`) when the order of candidates rests on
    the prior (three levels or more, or a partial judge, and fewer labelled items of a level than the prior is worth),
    when it rests on judges erring independently (three judges or more), and when chains disagree.

    **Raises:** `ValueError` naming item and judge of a score that is no level; levels that do not ascend; labels of
    another shape, or negative.

    **Source:** Vossler et al. (2025), "Judging LLMs on a Simplex", arXiv 2505.21972, for the model and what is
    identified; their priors differ. Gibbs sampling by the true levels of items, as Dawid & Skene (1979) with priors.
    """
    prior, values = prior or JudgePrior(), np.asarray(levels, dtype=np.float64)
    given = np.asarray(scores, dtype=np.float64)
    if len(values) < 2 or not (np.diff(values) > 0).all():
        raise ValueError(f"levels: at least two, ascending, are wanted, got {list(levels)}")
    if not given.size or len(candidates) != len(given):
        raise ValueError(
            f"candidates: one for each of {len(given)} items (at least 1) is wanted, got {len(candidates)}"
        )
    matches = given[:, :, None] == values
    wrong = np.argwhere(~matches.any(axis=2))
    if wrong.size:
        item, judge = wrong[0]
        raise ValueError(f"scores: item {item}, judge {judge} has {given[item, judge]:g}; levels are {list(levels)}")
    num_judges, num_levels = given.shape[1], len(values)
    known = np.zeros((num_judges, num_levels, num_levels)) if labelled is None else np.asarray(labelled)
    if known.shape != (num_judges, num_levels, num_levels) or (known < 0).any():
        raise ValueError(
            f"labelled: counts from 0 up of shape {(num_judges, num_levels, num_levels)} are wanted, got shape "
            f"{known.shape}, least {known.min() if known.size else None}"
        )
    if draws < 1:
        raise ValueError(f"draws: at least 1 is wanted, got {draws}")
    owner, names = pd.factorize(np.asarray(candidates, dtype=object))
    patterns, which, times = np.unique(
        np.column_stack([owner, matches.argmax(axis=2)]), axis=0, return_inverse=True, return_counts=True
    )
    items = Items(
        owner=patterns[:, 0],
        given=patterns[:, 1:],
        times=times,
        base=prior.counts(num_levels) + known,
        constant=prior.constant,
        monotone=prior.monotone,
    )
    # Multinomials of whole tables of chains and patterns exist in numpy, seeded by the key.
    rng = numpy_generator(key)
    share, confusion, r_hat = run(items, values, max(2, -(-draws // CHAINS)), rng)
    likelihood = np.log(joint_probability(items, share, confusion).sum(axis=2)).astype(np.float32)
    taught = bool((known.sum(axis=2) >= prior.strength).all())
    identified = (num_levels == 2 and prior.constant and prior.monotone) or taught
    notes = _notes(num_levels, num_judges, prior, identified, r_hat)
    for note in notes:
        warnings.warn(note, UserWarning, stacklevel=2)
    by_candidate = () if prior.constant else ("candidate",)
    return JudgedLevels(
        draws={"score": share @ values, "share": share, "confusion": confusion if by_candidate else confusion[:, :, 0]},
        log_likelihood={"verdict": likelihood[:, which.reshape(-1)]},
        observed={"scores": given},
        dims={
            "score": ("candidate",),
            "share": ("candidate", "level"),
            "confusion": ("judge", *by_candidate, "true", "given"),
            "verdict": ("item",),
            "scores": ("item", "judge"),
        },
        coords={"candidate": list(names), "level": list(levels), "true": list(levels), "given": list(levels)},
        attrs={"prior": str(prior), "identified": int(identified)},
        names=tuple(str(name) for name in names),
        levels=tuple(float(level) for level in levels),
        prior=prior,
        identified=identified,
        r_hat=r_hat,
        warnings=notes,
    )


def judge_sensitivity(
    scores: Num[np.ndarray | Array, "items judges"],
    candidates: Sequence[str],
    *,
    levels: Sequence[float],
    priors: Mapping[str, JudgePrior] | None = None,
    labelled: Int[np.ndarray | Array, "*judges_levels_levels"] | None = None,
    key: int | Key[Array, ""] = 0,
    draws: int = 2_000,
) -> PriorSensitivity:
    """`judged_levels` under each of several priors (default: `PRIORS`), to see what rests on them.

    **Arguments:** as `judged_levels`. What one fit would warn of is in its own `warnings`, and not warned of again.

    **Raises:** as `judged_levels`; `ValueError` without a prior.
    """
    priors = PRIORS if priors is None else priors
    if not priors:
        raise ValueError("priors: at least one is wanted, got none")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=_ABOUT, category=UserWarning)
        fits = {
            name: judged_levels(scores, candidates, levels=levels, prior=prior, labelled=labelled, key=key, draws=draws)
            for name, prior in priors.items()
        }
    names = next(iter(fits.values())).names
    return PriorSensitivity(
        draws={
            "score": np.stack([fit.draws["score"] for fit in fits.values()], axis=1),
            "rank": np.stack([fit.ranking.draws["rank"] for fit in fits.values()], axis=1),
        },
        dims={"score": ("prior", "candidate"), "rank": ("prior", "candidate")},
        coords={"prior": list(fits), "candidate": list(names)},
        attrs={f"prior_{name}": str(prior) for name, prior in priors.items()},
        fits=fits,
    )


_ABOUT = "the order of candidates"  # how the warnings begin that several priors answer


def _notes(num_levels: int, num_judges: int, prior: JudgePrior, identified: bool, r_hat: float) -> tuple[str, ...]:
    notes = []
    if not identified:
        cause = f"with {num_levels} levels" if num_levels > 2 else "with a judge that may treat candidates differently"
        cause = cause if prior.monotone or num_levels > 2 else "with a judge that may be worse than chance"
        if num_judges >= 3:
            notes.append(
                f"{_ABOUT} rests, {cause}, on judges erring independently of each other, and else on the prior: judges "
                "that share a bias pass it for the truth; compare priors (judge_sensitivity) and label items"
            )
        else:
            notes.append(
                f"{_ABOUT} rests, {cause}, on the prior of the judge, and more items do not help: compare priors "
                "(judge_sensitivity) and label items"
            )
    if not r_hat < AGREE:
        notes.append(f"the chains do not agree (R-hat {r_hat:.2f}): intervals are too narrow; ask for more draws")
    return tuple(notes)
