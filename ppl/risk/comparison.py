r"""Two models or methods on the same problems: how much better one is, and how sure that is.

Problems are shared, so that a hard one is hard for both, and each may be attempted several times. What is compared is
the mean over the population that the problems stand for; the hierarchical method says beside it what holds on these
very problems, where more attempts and not more problems would settle the question.
"""

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, Shaped
from matplotlib.figure import Figure

from ppl.keys import as_key, numpy_generator
from ppl.plots import new_figure
from ppl.risk.attempts import Attempts
from ppl.risk.bootstrap import weighted_means
from ppl.risk.clustered_rate import clustered_rate
from ppl.risk.paired_logit import as_normal, pass_at, pass_at_here, sample
from ppl.risk.paired_rows import distinct_rows
from ppl.risk.pass_at import pass_at_k
from ppl.risk.results import DrawsResult, Estimate
from ppl.smc.resampling import systematic

Method = Literal["hierarchical", "paired", "clustered", "bootstrap"]

_POOL = 2  # weighted proposals for each draw that is kept
_FEW = 100  # effective draws below which the result warns
_NAMED = 5  # problems that a note names before it says how many more there are


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Comparison(DrawsResult):
    """Posterior of the rates of A and B and of their difference.

    - `draws`: `rate_a`, `rate_b`, `difference` (A less B) of the population; from the hierarchical method also
      `difference_here`, of these problems, and `correlation`, of the log odds of A and B over problems;
    - `method`, `k`: what was asked for; a rate is the chance of a success in `k` attempts;
    - `problems`: the shared ones, in A's order; `only_a`, `only_b`: those that one side lacks, and that are left out;
    - `effective_draws`: effective sample size of the weighted proposals behind the draws; infinite for exact draws;
    - `warnings`: what the reader should know, empty when all is well.
    """

    method: Method
    k: int
    problems: tuple[str, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    effective_draws: float
    warnings: tuple[str, ...] = ()

    @property
    def probability_better(self) -> float:
        """Posterior probability that A has the higher rate in the population; where draws tie, half of it."""
        return _probability(self.draws["difference"])

    @property
    def probability_better_here(self) -> float:
        """The same for the mean over these very problems. **Raises:** as `estimate`, unless hierarchical."""
        self.estimate("difference_here")
        return _probability(self.draws["difference_here"])

    def difference(self, level: float = 0.9) -> Estimate:
        """Mean and interval of A's rate less B's. **Raises:** `ValueError` for a level outside (0, 1)."""
        return self.estimate("difference", level)

    def plot_difference(self, level: float = 0.9) -> Figure:
        """Density of the difference, the side where A is better in colour."""
        values = self.draws["difference"]
        middle, (lower, upper) = self.difference(level)
        figure, axes = new_figure()
        # Bins that start and end at 0, so that no bar has two colours.
        width = (values.max() - values.min()) / 50 or 0.01
        edges = width * np.arange(np.floor(values.min() / width), np.ceil(values.max() / width) + 1)
        density, _ = np.histogram(values, edges, density=True)
        colours = ["C0" if left >= 0 else "0.7" for left in edges[:-1]]
        axes.bar(edges[:-1], density, np.diff(edges), align="edge", color=colours, alpha=0.7)
        axes.axvline(0, color="0.3", linewidth=1)
        axes.hlines(-0.03 * density.max(), lower, upper, color="C1", linewidth=3)
        axes.plot(middle, -0.03 * density.max(), "o", color="C1", markersize=5)
        what = "success rate" if self.k == 1 else f"pass@{self.k}"
        axes.set(
            xlabel=f"{what} of A less B; mean and {level:.0%} interval",
            ylabel="posterior density",
            title=f"P(A better than B) = {self.probability_better:.3f}",
        )
        return figure


def compare(
    a: Attempts,
    b: Attempts,
    method: Method = "hierarchical",
    *,
    k: int = 1,
    clusters: Mapping[str, str] | None = None,
    key: int | Key[Array, ""] = 0,
    draws: int = 2_000,
) -> Comparison:
    r"""Posterior of the difference between A's and B's success rates, on the problems that both attempted.

    - `hierarchical`: a problem's log odds under A and B are a pair from a bivariate normal, and successes binomial
      given them. For any numbers of attempts, none among them, and under any stopping rule.
    - `paired`: one attempt each, so that a problem is one of four: both right, A only, B only, neither. Their shares
      have a Dirichlet(1/2) posterior.
    - `bootstrap`: the Bayesian bootstrap over problems, with the unbiased rate of each; no law of difficulty is
      assumed. The extremes (0, 1) and (1, 0) weigh 1/2 each, so that pairs which are all alike leave doubt.
    - `clustered`: each side alone, a beta law over problems (`ppl.risk.clustered_rate`). Repeats count as repeats, and
      the pairing is given away: right where problems were not shared in truth, wide otherwise.

    **Arguments:**

    - `a`, `b`: attempts; problems are matched by name, and what one side lacks is left out and named in `warnings`.
    - `k`: compare chances of at least one success in `k` attempts (`hierarchical`, `bootstrap`).
    - `clusters`: for each problem the name of what it belongs to, such as the text that several questions share
      (`clustered`, `bootstrap`). The cluster is then the unit.
    - `key`, `draws`: seed or key of the draws, and how many.

    **Returns:** `Comparison`. It warns (in `warnings` and as a `UserWarning`) of problems left out and when fewer than
    100 draws are effective.

    **Raises:** `ValueError` if no problem is shared; for an option that the method does not have; for attempts that it
    cannot take, naming the problem: not one each (`paired`), none or fewer than `k` (`bootstrap`), a stopping rule that
    looks at outcomes (`paired`, `bootstrap`), a `k` above what A or B attempted anywhere (`hierarchical`: beyond, its
    normal tail would decide).

    **Source:** Miller (2024), arXiv 2411.00640, for the questions; Bowyer et al. (2025), arXiv 2503.01747, for
    posteriors in place of normal approximations. Their paired model is for one attempt a problem, by draws of the prior
    with weights, of which few count when problems are many.
    """
    if method not in ("hierarchical", "paired", "clustered", "bootstrap"):
        raise ValueError(f"method: hierarchical, paired, clustered or bootstrap is wanted, got {method!r}")
    if draws < 1:
        raise ValueError(f"draws: at least 1 is wanted, got {draws}")
    if k < 1 or (k > 1 and method in ("paired", "clustered")):
        raise ValueError(f"k: {'at least 1 is wanted' if k < 1 else f'the {method} method has 1 only'}, got {k}")
    if clusters is not None and method in ("hierarchical", "paired"):
        raise ValueError(f"clusters: for the clustered and bootstrap methods; {method} takes problems for its unit")
    names_a, names_b = set(a.problems), set(b.problems)
    shared = [name for name in a.problems if name in names_b]
    if not shared:
        raise ValueError(
            f"b: no problem is shared with a, whose first is {a.problems[0]!r}; b's first is {b.problems[0]!r}"
        )
    only_a = tuple(name for name in a.problems if name not in names_b)
    only_b = tuple(name for name in b.problems if name not in names_a)
    pairs = _Pairs(a, b, tuple(shared))
    if method == "hierarchical":
        found = _hierarchical(pairs, k, as_key(key), draws)
    elif method == "paired":
        found = _paired(pairs, as_key(key), draws)
    else:
        groups = _groups(pairs, clusters)
        run = _bootstrap if method == "bootstrap" else _clustered
        found = run(pairs, k, groups, as_key(key), draws)
    notes = (*_left_out("A", only_a, "B"), *_left_out("B", only_b, "A"))
    if found.effective_draws < _FEW:
        notes += (f"the draws are worth {found.effective_draws:.0f} independent ones; ask for more draws",)
    for note in notes:
        warnings.warn(note, UserWarning, stacklevel=2)
    rates = found.draws
    return Comparison(
        draws={"rate_a": rates["rate_a"], "rate_b": rates["rate_b"], "difference": rates["rate_a"] - rates["rate_b"]}
        | {name: values for name, values in rates.items() if name not in ("rate_a", "rate_b")},
        log_likelihood=found.log_likelihood,
        observed={
            f"{name}_{side}": counts[:, number]
            for name, counts in (("successes", pairs.successes), ("trials", pairs.trials))
            for number, side in enumerate("ab")
        },
        dims={f"{name}_{side}": ("problem",) for name in ("successes", "trials") for side in "ab"} | found.dims,
        coords={"problem": shared},
        attrs={"method": method, "k": k, "rule_a": str(a.rule), "rule_b": str(b.rule)},
        method=method,
        k=k,
        problems=tuple(shared),
        only_a=only_a,
        only_b=only_b,
        effective_draws=found.effective_draws,
        warnings=notes,
    )


class _Pairs:
    """Counts of the shared problems, [problems, 2], A first."""

    def __init__(self, a: Attempts, b: Attempts, problems: tuple[str, ...]):
        self.sides, self.problems = (a, b), problems
        rows = [{name: i for i, name in enumerate(side.problems)} for side in self.sides]
        order = np.array([[row[name] for row in rows] for name in problems])
        self.successes = np.stack([a.successes[order[:, 0]], b.successes[order[:, 1]]], axis=1)
        self.trials = np.stack([a.trials[order[:, 0]], b.trials[order[:, 1]]], axis=1)

    def require(self, method: str, right: Shaped[np.ndarray, "problems 2"], wanted: str) -> None:
        for side in self.sides:
            side.require_fixed(f"the {method} comparison")
        bad = np.argwhere(~right)
        if bad.size:
            row, side = bad[0]
            raise ValueError(
                f"{'ab'[side]}: the {method} comparison wants {wanted} a problem, and {self.problems[row]!r} has "
                f"{self.trials[row, side]}; the hierarchical one takes any number"
            )


@dataclasses.dataclass(frozen=True)
class _Found:
    draws: dict[str, Float[np.ndarray, " draws"]]
    log_likelihood: dict[str, Float[np.ndarray, "draws observations"]]
    dims: dict[str, tuple[str, ...]]
    effective_draws: float = float("inf")


def _hierarchical(pairs: _Pairs, k: int, key: Key[Array, ""], draws: int) -> _Found:
    most = pairs.trials.max(axis=0)
    if k > 1 and k > most.min():
        raise ValueError(
            f"k: at most the attempts that each side made somewhere, {most.min()}, is wanted, got {k}; beyond them the "
            "tail of the normal law would decide, which the counts do not show"
        )
    rows, which = distinct_rows(pairs.successes, pairs.trials)
    first, second, third = jax.random.split(key, 3)
    found = sample(first, rows, _POOL * draws)
    kept = systematic(second, found.log_weights, draws)
    hyper, attempts = found.hyper[kept], jnp.asarray(k, jnp.float32)
    rates = np.asarray(pass_at(hyper, attempts), np.float64)
    here = np.asarray(pass_at_here(third, hyper, rows, jnp.asarray(which), attempts), np.float64)
    weights = np.exp(np.asarray(found.log_weights - found.log_weights.max(), np.float64))
    return _Found(
        {
            "rate_a": rates[:, 0],
            "rate_b": rates[:, 1],
            "difference_here": here[:, 0] - here[:, 1],
            "correlation": np.asarray(jax.vmap(as_normal)(hyper).rho),
        },
        {"pair": np.asarray(found.log_likelihood)[np.asarray(kept)][:, which]},
        {"pair": ("problem",)},
        float(weights.sum() ** 2 / (weights**2).sum()),
    )


def _paired(pairs: _Pairs, key: Key[Array, ""], draws: int) -> _Found:
    pairs.require("paired", pairs.trials == 1, "one attempt")
    # Cells: neither, B only, A only, both.
    cell = pairs.successes @ np.array([2, 1])
    # Numpy's gammas, seeded by the key: JAX compiles its own for seconds.
    rng = numpy_generator(key)
    shares = rng.dirichlet(np.bincount(cell, minlength=4) + 0.5, draws)
    return _Found(
        {"rate_a": shares[:, 2] + shares[:, 3], "rate_b": shares[:, 1] + shares[:, 3]},
        {"pair": np.log(shares).astype(np.float32)[:, cell]},
        {"pair": ("problem",)},
    )


def _bootstrap(pairs: _Pairs, k: int, groups: Int[np.ndarray, " problems"], key: Key[Array, ""], draws: int) -> _Found:
    pairs.require("bootstrap", pairs.trials >= k, f"at least {k} attempt{'s' * (k > 1)}")
    values = np.stack([pass_at_k(pairs.trials[:, i], pairs.successes[:, i], k) for i in (0, 1)], axis=1)
    sums = np.stack([np.bincount(groups, value) for value in (*values.T, np.ones(len(values)))], axis=1)
    size = len(values) / len(sums)  # of a cluster: the extremes weigh like half a cluster each
    means = weighted_means(key, sums, draws, ends=np.array([[0, size, size], [size, 0, size]]))
    return _Found({"rate_a": means[:, 0] / means[:, 2], "rate_b": means[:, 1] / means[:, 2]}, {}, {})


def _clustered(pairs: _Pairs, k: int, groups: Int[np.ndarray, " problems"], key: Key[Array, ""], draws: int) -> _Found:
    del k  # 1, as compare has checked
    rng = numpy_generator(key)
    sides = []
    for i in (0, 1):
        successes, trials = (np.bincount(groups, counts[:, i]) for counts in (pairs.successes, pairs.trials))
        sides.append(clustered_rate(successes.astype(np.int64), trials.astype(np.int64), draws, rng))
    return _Found(
        {f"rate_{side}": found.mean for side, found in zip("ab", sides, strict=True)},
        {f"counts_{side}": found.log_likelihood for side, found in zip("ab", sides, strict=True)},
        {f"counts_{side}": ("cluster",) for side in "ab"},
    )


def _groups(pairs: _Pairs, clusters: Mapping[str, str] | None) -> Int[np.ndarray, " problems"]:
    if clusters is None:
        return np.arange(len(pairs.problems))
    absent = [name for name in pairs.problems if name not in clusters]
    if absent:
        raise ValueError(f"clusters: problem {absent[0]!r} has none")
    return np.unique([clusters[name] for name in pairs.problems], return_inverse=True)[1]


def _left_out(mine: str, names: tuple[str, ...], other: str) -> tuple[str, ...]:
    if not names:
        return ()
    listed = ", ".join(repr(name) for name in names[:_NAMED])
    rest = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return (f"{len(names)} of {mine}'s problems not attempted by {other} are left out: {listed}{rest}",)


def _probability(difference: Float[np.ndarray, " draws"]) -> float:
    return float(np.mean(difference > 0) + np.mean(difference == 0) / 2)
