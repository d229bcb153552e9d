"""Tail sensitivity: the same attempts, fitted as well by several laws, extrapolated to different answers.

Which law holds far beyond the attempts made is not in the data: with 100 attempts at 128 problems the log-likelihoods
of the families differ by less than 1.5 while their coverage of 10,000 attempts differs by 20 points.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Array, Float, Key, Shaped
from matplotlib.figure import Figure

from ppl.intervals import Interval
from ppl.keys import as_key
from ppl.plots import legend_beside, new_figure
from ppl.risk.attempts import Attempts, StoppingRule, as_attempts
from ppl.risk.beta_binomial import DEFAULT_PRIOR, BetaPrior, CountTable, count_log_likelihood, count_table
from ppl.risk.draws import log_beta_variates
from ppl.risk.families import FAMILIES
from ppl.risk.importance import importance_draws
from ppl.risk.results import DrawsResult, Estimate, estimate

_PILOT = 256
_BLOCK = 16
_MOST_PAIRS = 512
_ELEMENTS = 2**15  # pairs of counts times points at a time: each has a hundred nodes


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class TailSensitivity(DrawsResult):
    """Coverage of these problems by each family: `draws["pass_at"]` is [draws, families, attempts].

    - `families`: their names; `at`: the numbers of attempts;
    - `parameters`: by family, natural parameters [draws, parameters]; their names in `ppl.risk.families.FAMILIES`;
    - `ess`: by family, the effective number of weighted points behind the draws.

    `log_likelihood` holds each family's, by its name: ArviZ compares them.
    """

    families: tuple[str, ...]
    at: tuple[int, ...]
    parameters: Mapping[str, Float[np.ndarray, "draws parameters"]]
    ess: Mapping[str, float]

    def pass_at(self, family: str, level: float = 0.9) -> Estimate:
        """Coverage at each of `at` by one family. **Raises:** `ValueError` naming an unknown family."""
        if family not in self.families:
            raise ValueError(f"family: one of {', '.join(self.families)} is wanted, got {family!r}")
        return estimate(self.draws["pass_at"][:, self.families.index(family)], level)

    def table(self, level: float = 0.9) -> pd.DataFrame:
        """One row a family: posterior mean of its log-likelihood, and at each of `at` mean and interval of coverage."""
        rows = {}
        for family in self.families:
            mean, (lower, upper) = self.pass_at(family, level)
            fit = float(self.log_likelihood[family].sum(axis=1).mean())
            columns: dict[str, float] = {"log_likelihood": fit}
            for n, *values in zip(self.at, *map(np.atleast_1d, (mean, lower, upper)), strict=True):
                columns |= dict(zip((f"pass@{n}", f"lower@{n}", f"upper@{n}"), values, strict=True))
            rows[family] = columns
        return pd.DataFrame(rows).T.rename_axis("family")

    @property
    def span(self) -> Interval:
        """The lowest and the highest of the families' means, at each of `at`."""
        means = self.draws["pass_at"].mean(axis=0)
        return Interval(means.min(axis=0), means.max(axis=0))

    def plot_tails(self, level: float = 0.9) -> Figure:
        """Each family's mean and interval, side by side at each number of attempts."""
        figure, axes = new_figure()
        width = 0.8 / len(self.families)
        for number, family in enumerate(self.families):
            mean, (lower, upper) = self.pass_at(family, level)
            place = np.arange(len(self.at)) + (number - (len(self.families) - 1) / 2) * width
            axes.vlines(place, lower, upper, color=f"C{number}", alpha=0.5, linewidth=3)
            axes.plot(place, mean, "o", color=f"C{number}", markersize=4, label=family.replace("_", " "))
        axes.set_xticks(np.arange(len(self.at)), [f"{n:,}" for n in self.at])
        axes.set(xlabel="attempts a problem", ylabel=f"coverage, {level:.0%} interval", ylim=(0, 1))
        legend_beside(axes)
        return figure


def tail_sensitivity(
    successes: Shaped[np.ndarray | Array, " problems"] | Sequence[Any] | Attempts,
    trials: Shaped[np.ndarray | Array, "*problems"] | Sequence[Any] | int | None = None,
    *,
    at: Sequence[int],
    families: Sequence[str] = tuple(FAMILIES),
    rule: str | StoppingRule = "fixed",
    prior: BetaPrior = DEFAULT_PRIOR,
    draws: int = 256,
    key: int | Key[Array, ""] = 0,
) -> TailSensitivity:
    """Fit each family to the same attempts and extrapolate each.

    Of tables with more than 512 distinct pairs of counts, problems drawn at random are fitted, as many as have so many:
    how far the families differ is asked, and not the third digit.

    **Arguments:** `successes`, `trials`, `rule`: as of `ppl.risk.fit`. `at`: attempts, from 1 to 10^7. `families`:
    names in `ppl.risk.families.FAMILIES`. `prior`: its part about alpha is every family's prior of the exponent.

    **Raises:** `ValueError` as `Attempts`, for an unknown family, or for attempts out of range.
    """
    attempts = as_attempts(successes, trials, rule=rule)
    unknown = [family for family in families if family not in FAMILIES]
    if unknown or not families:
        raise ValueError(f"families: some of {', '.join(FAMILIES)} are wanted, got {unknown or 'none'}")
    wrong = [n for n in at if not 1 <= n <= 10**7]
    if wrong or not len(at):
        raise ValueError(f"at: numbers of attempts from 1 to 10^7 are wanted, got {wrong or 'none'}")
    attempts = _thinned(attempts)
    table, prior_values = count_table(attempts.successes, attempts.trials), jnp.asarray(prior)
    ns = jnp.asarray(at, jnp.float32)
    keys = jax.random.split(as_key(key), len(FAMILIES))
    found = {
        family: _fit(keys[number], table, prior_values, ns, family, draws)
        for number, family in enumerate(FAMILIES)
        if family in families
    }
    return TailSensitivity(
        draws={"pass_at": 1 - np.stack([np.asarray(value.miss, np.float64) for value in found.values()], axis=1)},
        log_likelihood={
            family: count_log_likelihood(np.asarray(value.log_marginal), table, attempts)
            for family, value in found.items()
        },
        observed={"successes": attempts.successes, "trials": attempts.trials},
        dims={"pass_at": ["family", "attempts"]} | dict.fromkeys((*found, "successes", "trials"), ("problem",)),
        coords={"family": list(found), "attempts": list(at), "problem": attempts.problems},
        attrs={"model": "families of the success probability", "rule": str(attempts.rule)},
        families=tuple(found),
        at=tuple(int(n) for n in at),
        parameters={
            family: np.asarray(FAMILIES[family].natural(value.unconstrained)) for family, value in found.items()
        },
        ess={family: float(value.ess) for family, value in found.items()},
    )


def _thinned(attempts: Attempts) -> Attempts:
    """So many problems, evenly spread over the table, that their distinct pairs of counts are at most 512."""
    pairs = np.stack([attempts.successes, attempts.trials], axis=1)
    if len(np.unique(pairs, axis=0)) <= _MOST_PAIRS:
        return attempts
    order = np.random.default_rng(0).permutation(len(pairs))  # a table may be sorted by difficulty
    _, first = np.unique(pairs[order], axis=0, return_index=True)
    kept = np.sort(order[: np.sort(first)[_MOST_PAIRS]])
    names = [attempts.problems[i] for i in kept]
    return Attempts(attempts.successes[kept], attempts.trials[kept], names, attempts.rule)


class _Found(NamedTuple):
    unconstrained: Float[Array, "draws parameters"]
    log_marginal: Float[Array, "draws pairs"]
    miss: Float[Array, "draws ns"]
    ess: Float[Array, ""]


@partial(jax.jit, static_argnames=("family", "draws"))
def _fit(
    key: Key[Array, ""], table: CountTable, prior: Float[Array, "5"], ns: Float[Array, " ns"], family: str, draws: int
) -> _Found:
    """One family's posterior, and coverage of the corpus under it."""
    law, (s, f, problems) = FAMILIES[family], table
    centre, scale = jnp.asarray(law.centre), jnp.asarray(law.scale)
    if law.has_exponent:
        centre, scale = centre.at[0].set(jnp.log(prior[0])), scale.at[0].set(prior[1])

    def log_density(x):
        z = (x - centre) / scale
        log_priors = -0.5 * z * z
        if law.has_exponent:
            log_priors = log_priors.at[0].set(-0.5 * (prior[2] + 1) * jnp.log1p(z[0] ** 2 / prior[2]))
        return jnp.sum(log_priors) + jnp.sum(problems * law.log_marginal(x, s, f))

    key_draws, key_corpus = jax.random.split(key)
    batch_size = max(1, min(_PILOT, 2 ** int(np.log2(_ELEMENTS / s.size))))
    found = importance_draws(key_draws, log_density, centre, 1.5 * scale, draws, _PILOT, batch_size)

    def predict(x):
        both = jax.vmap(lambda n: law.miss(x, s, f, n))(jnp.concatenate([ns, 2 * ns]))
        first, second = jnp.split(both, 2)
        total = problems.sum()
        return first @ problems / total, (second - first**2) @ problems / total**2, law.log_marginal(x, s, f)

    mean, variance, log_marginal = jax.lax.map(predict, found.draws, batch_size=min(_BLOCK, batch_size))
    # Given the parameters the problems are independent: their mean is close to a beta of its two moments.
    mean = jnp.clip(mean, 1e-30, 1 - 1e-7)
    size = jnp.clip(mean * (1 - mean) / jnp.maximum(variance, 1e-30) - 1, 1e-3, 1e7)
    miss = jnp.exp(log_beta_variates(key_corpus, mean * size, (1 - mean) * size).log_theta)
    return _Found(found.draws, log_marginal, miss, found.ess)
