"""True accuracy from a judge that errs: its verdicts on test items, its sensitivity and specificity from labelled ones.

Not a corrected point with an interval around it, but a posterior, so that a judge near chance, a rate outside what the
judge could show, and few labelled items all end in a wide interval instead of a division by almost nothing.
"""

import dataclasses
import warnings
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Key
from matplotlib.figure import Figure
from scipy import special, stats

from ppl.intervals import JEFFREYS, Interval, check_level
from ppl.keys import numpy_generator
from ppl.plots import legend_beside, new_figure
from ppl.risk.results import DrawsResult

_POOL = 4  # weighted proposals for each draw that is kept
_NEAR_CHANCE = 0.01  # probability of a judge no better than chance from which on the result warns
_CONFLICT = 0.02  # share of better judges' mass that can explain the pass rate, below which the result warns
_FEW = 100  # effective draws below which the result warns


class Verdicts(NamedTuple):
    """How often a judge said yes: `passed` of `judged` items."""

    passed: int
    judged: int


class Split(NamedTuple):
    """Labelled items to buy: `wrong` ones for the specificity, `right` ones for the sensitivity."""

    wrong: int
    right: int


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class JudgedAccuracy(DrawsResult):
    """Posterior of the true accuracy behind a judge's verdicts.

    - `draws`: `accuracy`, `specificity`, `sensitivity`, `pass_rate` (the judge's), each [draws];
    - `rejected`: share of the three betas' mass outside the constraint 1 - specificity <= pass rate <= sensitivity;
    - `chance`: probability, from the labelled items alone, that the judge is no better than chance;
    - `effective_draws`: effective sample size of the weighted proposals behind the draws;
    - `warnings`: what the reader should know, empty when all is well.
    """

    rejected: float
    chance: float
    effective_draws: float
    warnings: tuple[str, ...] = ()

    def plot_correction(self) -> Figure:
        """Densities of the judge's pass rate and of the accuracy behind it."""
        figure, axes = new_figure()
        bins = np.linspace(0, 1, 101).tolist()
        for colour, (name, label) in enumerate({"pass_rate": "judge says yes", "accuracy": "truly right"}.items()):
            axes.hist(self.draws[name], bins, density=True, color=f"C{colour}", alpha=0.5, label=label)
        axes.set(xlabel="share of items", ylabel="posterior density", xlim=(0, 1))
        legend_beside(axes)
        return figure


def judged_accuracy(
    test: tuple[int, int],
    right_items: tuple[int, int],
    wrong_items: tuple[int, int],
    *,
    prior: tuple[float, float] = JEFFREYS,
    key: int | Key[Array, ""] = 0,
    draws: int = 10_000,
) -> JudgedAccuracy:
    r"""Posterior of the share of items that are truly right, given a judge's verdicts.

    With specificity $q_0$, sensitivity $q_1$ and the judge's pass rate $p = \theta q_1 + (1 - \theta)(1 - q_0)$, the
    accuracy is $\theta = (p + q_0 - 1) / (q_0 + q_1 - 1)$. The three rates have beta posteriors, conditioned on what
    makes $\theta$ a share of a judge better than chance, $1 - q_0 \le p \le q_1$. Since the prior of $p$ is flat, given
    the judge $\theta$ is uniform before the test items are seen.

    **Arguments:** each pair is (yes, of), counts of the judge's verdicts:

    - `test`: on items without a label;
    - `right_items`: on items known to be right (yes is the judge's true positive);
    - `wrong_items`: on items known to be wrong (yes is the judge's false positive);
    - `prior`: beta prior of sensitivity and of specificity. Default: Jeffreys.
    - `key`, `draws`: seed or key of the draws, and how many.

    The rates of the judge must be the same on test and labelled items; nothing here can check that.

    **Returns:** `JudgedAccuracy`. It warns (in `warnings` and as a `UserWarning`) when the judge may be no better than
    chance with probability above 1%, which the constraint then assumes away; when of the judges better than chance less
    than 2% of the mass can show the pass rate, so that test and labelled items disagree about the judge; and when
    fewer than 100 draws are effective.

    **Raises:** `ValueError` for counts out of range, or if no proposal satisfies the constraint (a judge that is worse
    than chance: turn its verdicts around).

    **Source:** Rogan & Gladen (1978), American Journal of Epidemiology 107(1), for the map; Lee et al. (2025), arXiv
    2511.21140, for judges. Instead of rejecting draws of $p$, each proposal $(q_0, q_1)$ is weighted by the mass of
    $p$'s beta between $1 - q_0$ and $q_1$ and $p$ drawn from there, which is the same posterior with bounded weights.
    """
    (x, n), (positive, num_right), (false_positive, num_wrong) = (
        _verdicts(name, pair)
        for name, pair in (("test", test), ("right_items", right_items), ("wrong_items", wrong_items))
    )
    if min(prior) <= 0:
        raise ValueError(f"prior: both parameters must be positive, got {prior}")
    if draws < 1:
        raise ValueError(f"draws: at least 1 is wanted, got {draws}")
    # Inverse incomplete betas exist in scipy only, in float64; so a numpy generator, seeded by the key.
    rng = numpy_generator(key)
    q1 = rng.beta(prior[0] + positive, prior[1] + num_right - positive, _POOL * draws)
    q0 = rng.beta(prior[0] + num_wrong - false_positive, prior[1] + false_positive, _POOL * draws)
    better = q0 + q1 > 1
    low, high, upper_tail = _tail_masses(x + 1, n - x + 1, 1 - q0, q1)
    weights = np.where(better, np.abs(high - low), 0.0)
    if not weights.sum() > 0:
        raise ValueError(
            f"right_items, wrong_items: a judge with yes on {positive} of {num_right} right and {false_positive} of "
            f"{num_wrong} wrong items cannot show {x} of {n}, or is worse than chance; no accuracy explains the counts"
        )
    kept = rng.choice(_POOL * draws, draws, p=weights / weights.sum())
    mass = low[kept] + rng.uniform(size=draws) * (high - low)[kept]
    inverse = np.where(
        upper_tail[kept], special.betainccinv(x + 1, n - x + 1, mass), special.betaincinv(x + 1, n - x + 1, mass)
    )
    p = np.clip(inverse, 1 - q0[kept], q1[kept])  # rounding may leave the ends
    accuracy = np.clip((p + q0[kept] - 1) / (q0 + q1 - 1)[kept], 0.0, 1.0)
    rejected, chance = 1 - float(weights.mean()), 1 - float(better.mean())
    effective = float(weights.sum() ** 2 / (weights**2).sum())
    notes = _notes(chance, (1 - rejected) / (1 - chance), effective)
    for note in notes:
        warnings.warn(note, UserWarning, stacklevel=2)
    return JudgedAccuracy(
        draws={"accuracy": accuracy, "specificity": q0[kept], "sensitivity": q1[kept], "pass_rate": p},
        observed={"passed": np.array([x, positive, false_positive]), "judged": np.array([n, num_right, num_wrong])},
        dims={"passed": ("items",), "judged": ("items",)},
        coords={"items": ["test", "right", "wrong"]},
        attrs={"prior": f"Beta{prior}", "rejected": rejected, "chance": chance},
        rejected=rejected,
        chance=chance,
        effective_draws=effective,
        warnings=notes,
    )


def plug_in_interval(
    test: tuple[int, int], right_items: tuple[int, int], wrong_items: tuple[int, int], level: float = 0.9
) -> Interval:
    r"""The frequentist interval of Lee et al. (2025), cut to [0, 1]. Arguments as `judged_accuracy`.

    A Wald interval after adding $z^2/2$ successes and failures to the test counts and one of each to the labelled ones,
    its centre shifted by $2 z^2 [-(1-\theta) q_0 (1-q_0) / m_0 + \theta q_1 (1-q_1) / m_1]$. Where the estimate leaves
    [0, 1] by more than its error, the cut leaves an interval of no width at 0 or 1 (their code gives [0, 0] for a pass
    rate of .05 of 1,000 items and rates of .9 of 200); `judged_accuracy` has no such end.

    **Raises:** `ValueError` for counts or level out of range, no test or labelled item, or rates (after the additions)
    of a judge no better than chance.

    **Source:** arXiv 2511.21140, eq. for the adjusted interval; tests/risk/test_prevalence.py compares with the values
    of their package.
    """
    check_level(level)
    pairs = [
        _verdicts(name, pair)
        for name, pair in (("test", test), ("right_items", right_items), ("wrong_items", wrong_items))
    ]
    for name, (_, judged) in zip(("test", "right_items", "wrong_items"), pairs, strict=True):
        if judged == 0:
            raise ValueError(f"{name}: at least one item is wanted, got none")
    z2 = float(stats.norm.isf((1 - level) / 2)) ** 2
    (x, n), (positive, num_right), (false_positive, num_wrong) = pairs
    p, q0, q1 = (
        (x + z2 / 2) / (n + z2),
        (num_wrong - false_positive + 1) / (num_wrong + 2),
        (positive + 1) / (num_right + 2),
    )
    slope = q0 + q1 - 1
    if slope <= 0:
        raise ValueError(f"right_items, wrong_items: specificity {q0:.3f} and sensitivity {q1:.3f} are chance or worse")
    theta = (p + q0 - 1) / slope
    noise0, noise1 = q0 * (1 - q0) / (num_wrong + 2), q1 * (1 - q1) / (num_right + 2)
    centre = theta + 2 * z2 * (theta * noise1 - (1 - theta) * noise0)
    variance = p * (1 - p) / (n + z2) + (1 - theta) ** 2 * noise0 + theta**2 * noise1
    half = np.sqrt(z2 * variance) / slope
    return Interval(float(np.clip(centre - half, 0, 1)), float(np.clip(centre + half, 0, 1)))


def label_split(budget: int, *, accuracy: float, specificity: float, sensitivity: float) -> Split:
    r"""How many wrong and how many right items to label, so that the accuracy's variance is least.

    The labelled items add $[(1-\theta)^2 q_0(1-q_0)/m_0 + \theta^2 q_1(1-q_1)/m_1] / (q_0+q_1-1)^2$, least for
    $m_0 : m_1 = (1-\theta)\sqrt{q_0(1-q_0)} : \theta\sqrt{q_1(1-q_1)}$; each kind gets at least one.

    **Arguments:** `budget`: items in all, at least 2. `accuracy`, `specificity`, `sensitivity`: guesses or estimates
    from a pilot, each in (0, 1): a rate of 0 or 1 from a small pilot would leave its kind unlabelled, so give a
    posterior mean instead.

    **Raises:** `ValueError` for a budget or a rate out of range.

    **Source:** the delta method with the published variance. Lee et al. (2025) put the judge's pass rate for the
    accuracy and $1 - q$ for $q (1 - q)$, which is near this only when the judge is nearly right.
    """
    if budget < 2:
        raise ValueError(f"budget: at least 2 items are wanted, one of each kind, got {budget}")
    for name, rate in (("accuracy", accuracy), ("specificity", specificity), ("sensitivity", sensitivity)):
        if not 0 < rate < 1:
            raise ValueError(f"{name}: a rate inside (0, 1) is wanted, got {rate}")
    wrong = (1 - accuracy) * np.sqrt(specificity * (1 - specificity))
    right = accuracy * np.sqrt(sensitivity * (1 - sensitivity))
    num_wrong = int(np.clip(round(budget * wrong / (wrong + right)), 1, budget - 1))
    return Split(wrong=num_wrong, right=budget - num_wrong)


def _verdicts(name: str, pair: tuple[int, int]) -> Verdicts:
    passed, judged = pair
    if passed != int(passed) or judged != int(judged) or not 0 <= passed <= judged:
        raise ValueError(f"{name}: (yes, of) with whole 0 <= yes <= of is wanted, got {tuple(pair)}")
    return Verdicts(int(passed), int(judged))


def _tail_masses(
    a: float, b: float, low: Float[np.ndarray, " n"], high: Float[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """Beta masses below two points, or above both where they lie in the upper half: differences there would be lost."""
    below = special.betainc(a, b, low)
    upper = below > 0.5
    return (
        np.where(upper, special.betaincc(a, b, low), below),
        np.where(upper, special.betaincc(a, b, high), special.betainc(a, b, high)),
        upper,
    )


def _notes(chance: float, possible: float, effective: float) -> tuple[str, ...]:
    notes = []
    if chance > _NEAR_CHANCE:
        notes.append(
            f"the labelled items leave {chance:.0%} for a judge no better than chance; the posterior assumes a better "
            "one, and rests on that: label more items"
        )
    if possible < _CONFLICT:
        notes.append(
            f"only {possible:.1%} of the rates' posterior mass satisfies 1 - specificity <= pass rate <= sensitivity: "
            "the judge seems to behave differently on test and labelled items"
        )
    if effective < _FEW:
        notes.append(f"the draws are worth {effective:.0f} independent ones; ask for more draws")
    return tuple(notes)
