"""`ppl.risk.fit`: counts of right answers in, calibrated statements about more attempts out."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Array, Bool, Float, Key, Shaped
from matplotlib.figure import Figure

from ppl.intervals import Interval, check_level
from ppl.keys import as_key
from ppl.records import Records
from ppl.risk import caveats
from ppl.risk.attempts import Attempts, StoppingRule, as_attempts
from ppl.risk.beta_binomial import (
    DEFAULT_PRIOR,
    BetaPrior,
    CountTable,
    HyperDraws,
    count_log_likelihood,
    count_table,
    hyper_draws,
    log_posterior,
)
from ppl.risk.coverage_plot import coverage_figure, problems_figure
from ppl.risk.draws import LogBeta
from ppl.risk.log_beta import log_beta_binomial, log_failure
from ppl.risk.nuts import nuts_draws
from ppl.risk.pass_at import log_spaced, pass_at_k
from ppl.risk.predictive import (
    Coverage,
    Line,
    Predictive,
    corpus_log_budget,
    coverage,
    line_log_budget,
    line_miss,
    line_points,
    population_line,
    population_log_budget,
    predict,
)
from ppl.risk.results import DrawsResult, Estimate, estimate
from ppl.risk.stacking import Stack, stack
from ppl.risk.tails import TailSensitivity, tail_sensitivity

Target = Literal["corpus", "population"]
Expert = Literal["stack", "beta", "line"]
EXPERTS = ("stack", "beta", "line")


class Budget(NamedTuple):
    """Attempts a problem that reach a target: posterior median and interval, infinite beyond a million millions."""

    attempts: float
    interval: Interval
    observed: bool


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class RiskFit(DrawsResult):
    r"""The posterior of repeated sampling: of each problem's success probability, and of what more attempts bring.

    - `attempts`: the data; `prior`; `ess`: effective number of weighted points (or NUTS draws) behind the draws;
    - `reach`: up to how many attempts a problem the data speak; beyond, two experts extrapolate (`experts`);
    - `theta`: success probabilities [draws, problems] in log space; `line`: the log-log line through their coverage.

    `draws` holds `alpha`, `beta` and `pass_at` of these problems at 1, `reach` and 10 and 100 times as many attempts.

    Two targets are kept apart: `corpus`, the mean over these very problems, and `population`, the mean over all those
    from which they were drawn.
    """

    attempts: Attempts
    prior: BetaPrior
    reach: int
    ess: float
    hyper: HyperDraws
    theta: LogBeta
    line: Line
    stack: Stack
    key: Key[Array, ""]

    @property
    def experts(self) -> Mapping[str, float]:
        """Weights of the experts beyond `reach`: `beta`, the beta law, and `line`, the log-log line."""
        return self.stack.weights

    def pass_at(
        self, n: int | Sequence[int], level: float = 0.9, *, target: Target = "corpus", expert: Expert = "stack"
    ) -> Estimate:
        """Coverage (pass@n, ASR@n): mean and interval of the mean probability of a success within n attempts.

        **Arguments:**

        - `n`: at least 1, or several, for which arrays are returned.
        - `target`: `corpus` or `population`.
        - `expert`: beyond `reach`, `stack` weighs both; `beta` or `line` is that one alone.

        **Raises:** `ValueError` for n below 1, a level outside (0, 1), an unknown target or expert.
        """
        found = estimate(self.miss(n, target=target, expert=expert), level)
        return Estimate(1 - found.mean, Interval(1 - found.interval.upper, 1 - found.interval.lower))

    def miss(
        self, n: int | Sequence[int], *, target: Target = "corpus", expert: Expert = "stack"
    ) -> Float[np.ndarray, "draws ..."]:
        """Draws of 1 - pass@n, [draws] or [draws, ns]; arguments as `pass_at`."""
        _check_choice("target", target, ("corpus", "population"))
        _check_choice("expert", expert, EXPERTS)
        found = self._miss(_attempts(n), target, expert)
        return found[:, 0] if np.ndim(n) == 0 else found

    def pass_hat(self, k: int | Sequence[int], level: float = 0.9, *, target: Target = "corpus") -> Estimate:
        r"""pass^k: mean probability that k attempts are all right, $E[\theta^k]$, by the beta law.

        **Raises:** as `pass_at`.
        """
        _check_choice("target", target, ("corpus", "population"))
        ks = jnp.asarray(_attempts(k, "k"), jnp.float32)
        if target == "corpus":
            draws = _corpus(self.theta.log_theta, ks).miss
        else:
            draws = jnp.exp(log_beta_binomial(self.hyper.alpha[:, None], self.hyper.beta[:, None], ks, 0 * ks))
        return estimate(
            np.asarray(draws, np.float64)[:, 0] if np.ndim(k) == 0 else np.asarray(draws, np.float64), level
        )

    def budget(self, rate: float, level: float = 0.9, *, target: Target = "corpus", expert: Expert = "stack") -> Budget:
        """Attempts a problem until coverage is `rate`: the median, since the mean of a ratio of tails may be infinite.

        Other arguments as `pass_at`.

        **Raises:** `ValueError` for a rate outside (0, 1), and as `pass_at`.
        """
        if not 0 < rate < 1:
            raise ValueError(f"rate: must be in (0, 1), got {rate}")
        check_level(level)
        _check_choice("target", target, ("corpus", "population"))
        _check_choice("expert", expert, EXPERTS)
        if target == "corpus":
            law = corpus_log_budget(self.theta.log_rest, jnp.float32(rate))
        else:
            law = population_log_budget(self.hyper, jnp.float32(rate))
        log_budget = np.asarray(law, np.float64)
        by_line = self._by_line(expert) & (log_budget > np.log(self.reach))
        if by_line.any():
            line = line_log_budget(self._line(target), rate)
            log_budget = np.where(by_line, np.maximum(line, np.log(self.reach)), log_budget)
        # Order statistics, not interpolated ones: between a number and infinity there is no middle.
        tail = (1 - level) / 2
        lower, middle, upper = np.exp(np.quantile(log_budget, [tail, 0.5, 1 - tail], method="inverted_cdf"))
        return Budget(float(middle), Interval(float(lower), float(upper)), bool(upper <= self.reach))

    def problems(self, n: int = 1, level: float = 0.9) -> pd.DataFrame:
        """For each problem: counts, and the probability of a success within n *further* attempts, with its interval.

        **Raises:** as `pass_at`.
        """
        mean, (lower, upper) = estimate(-np.expm1(_attempts(n)[0] * np.asarray(self.theta.log_rest)), level)
        return pd.DataFrame(
            {
                "successes": self.attempts.successes,
                "trials": self.attempts.trials,
                "mean": mean,
                "lower": lower,
                "upper": upper,
            },
            index=pd.Index(self.attempts.problems, name="problem"),
        )

    def tails(self, at: Sequence[int], draws: int = 256) -> TailSensitivity:
        """Coverage at each of `at` by other laws of the success probability (`ppl.risk.tail_sensitivity`)."""
        key = jax.random.fold_in(self.key, 2)
        return tail_sensitivity(self.attempts, at=at, prior=self.prior, draws=draws, key=key)

    def warnings(self, at: Sequence[int] = (), level: float = 0.9) -> list[str]:
        """What a reader of the figures must know: what the data do not identify, and what is assumed beyond them."""
        ns = _attempts(at)
        found = caveats.of_data(self.attempts, self.reach) + caveats.of_posterior(self.draws, self.prior, self.ess)
        if not ns:
            return found
        interval = self.pass_at(ns, level).interval
        means = {name: np.asarray(self.pass_at(ns, level, expert=name).mean) for name in self.usable_experts}
        half = np.asarray(interval.upper - interval.lower) / 2
        return found + caveats.of_extrapolation(ns, self.reach, self.experts, means, half)

    def plot_coverage(self, upto: int | None = None, level: float = 0.9, *, target: Target = "corpus") -> Figure:
        """Coverage against attempts: unbiased where observed, the stack's band, and each expert beyond `reach`."""
        at = np.unique(np.geomspace(1, upto or 100 * self.reach, 60).round()).astype(np.int64)
        num = max(
            200, 2_000_000 // len(self.attempts)
        )  # a curve of 60 points by all draws of a large table takes seconds

        def miss(expert: Expert) -> np.ndarray:
            return self._miss([int(n) for n in at], target, expert, num)

        middle, (lower, upper) = estimate(miss("stack"), level)
        experts = {name: 1 - miss(name).mean(axis=0) for name in self.usable_experts}
        stacked = Estimate(1 - middle, Interval(1 - upper, 1 - lower))
        return coverage_figure(at, stacked, experts, self._unbiased(), self.reach, level)

    def plot_problems(self, level: float = 0.9) -> Figure:
        """Each problem's success probability with its interval, from the hardest to the easiest."""
        return problems_figure(self.problems(1, level), level)

    @property
    def usable_experts(self) -> list[Expert]:
        """Those that can predict: a line wants two attempts a problem."""
        return ["beta", "line"] if self.reach > 1 else ["beta"]

    def _unbiased(self) -> tuple[np.ndarray, np.ndarray] | None:
        """The unbiased coverage curve, where the rule allows one."""
        least = int(self.attempts.trials.min())
        if self.attempts.rule.name != "fixed" or least == 0:
            return None
        at = log_spaced(1, least)
        return at, np.mean(pass_at_k(self.attempts.trials[:, None], self.attempts.successes[:, None], at), axis=0)

    def _miss(
        self, ns: list[int], target: Target, expert: Expert, num: int | None = None
    ) -> Float[np.ndarray, "draws ns"]:
        """[draws, ns], by the first `num` draws."""
        by_line = self._by_line(expert)[:num, None] & (np.asarray(ns) > self.reach)
        line = np.zeros(by_line.shape)  # where the line is not asked
        if by_line.any():
            line = np.stack([line_miss(self._line(target), n)[:num] for n in ns], axis=1)
        if by_line.all():
            return line
        attempts = jnp.asarray(ns, jnp.float32)
        if target == "corpus":
            law = _corpus(self.theta.log_rest[:num], attempts).miss
        else:
            law = jnp.exp(log_failure(self.hyper.alpha[:num, None], self.hyper.beta[:num, None], attempts[None]))
        return np.where(by_line, line, np.asarray(law, np.float64))

    def _by_line(self, expert: Expert) -> Bool[np.ndarray, " draws"]:
        """Which draws the line answers for: in the linear pool, as many as its weight says."""
        num = len(self.draws["alpha"])
        weight = {"stack": self.experts["line"], "beta": 0.0, "line": 1.0}[expert]
        if expert == "line" and self.reach < 2:
            raise ValueError("expert: a line wants two attempts a problem; at one, use 'beta'")
        return np.less(jax.random.permutation(self.key, num), round(weight * num))

    def _line(self, target: Target) -> Line:
        return self.line if target == "corpus" else self._population_line

    @functools.cached_property
    def _population_line(self) -> Line:
        return population_line(jax.random.fold_in(self.key, 1), self.theta.log_rest, line_points(self.reach))


def fit(
    successes: Shaped[np.ndarray | Array, " problems"] | Sequence[Any] | Attempts | Records,
    trials: Shaped[np.ndarray | Array, "*problems"] | Sequence[Any] | int | None = None,
    *,
    problems: Sequence[str] | None = None,
    rule: str | StoppingRule = "fixed",
    prior: BetaPrior = DEFAULT_PRIOR,
    method: Literal["importance", "nuts"] = "importance",
    draws: int = 1_000,
    key: int | Key[Array, ""] = 0,
) -> RiskFit:
    r"""Posterior of repeated sampling from right answers and trials of each problem.

    Success probabilities come from one beta distribution, whose two parameters have proper priors; whatever the counts
    are, all zeros and all ones among them, every statement is a proper posterior. Beyond the attempts made, the beta
    law and the log-log line are stacked (`ppl.risk.stacking`).

    **Arguments:**

    - `successes`, `trials`, `problems`, `rule`: as of `Attempts`; or one of those, or `Records`, which bring theirs.
    - `prior`: of the two parameters.
    - `method`: `importance` (milliseconds) or `nuts`, which the tests hold it to.
    - `draws`, `key`: how many, and from which key or seed; the same key gives the same result.

    **Raises:** `ValueError` as `Attempts`, or for draws below 100 or an unknown method.

    **Source:** beta-binomial as SABER (Feng et al. 2026, arXiv 2601.22636) and Kazdan et al. (2025, arXiv 2510.05197),
    who fit it by maximum likelihood; log-log line as Brown et al. (2024), arXiv 2407.21787.
    """
    attempts = as_attempts(successes, trials, problems, rule)
    _check_choice("method", method, ("importance", "nuts"))
    if draws < 100:
        raise ValueError(f"draws: at least 100 are wanted, got {draws}")
    key_hyper, key_rest, key_stack, key_pool = jax.random.split(as_key(key), 4)
    table, prior_values, reach = count_table(attempts.successes, attempts.trials), jnp.asarray(prior), _reach(attempts)
    if method == "importance":
        hyper = _hyper_draws(key_hyper, table, prior_values, draws)
    else:
        hyper = _by_nuts(key_hyper, table, prior_values, draws)
    s, n = (jnp.asarray(values, jnp.float32) for values in (attempts.successes, attempts.trials))
    found: Predictive = _predict(key_rest, hyper, s, n - s, line_points(reach))
    at = sorted({1, reach, 10 * reach, 100 * reach})
    result = RiskFit(
        draws={name: np.asarray(values) for name, values in (("alpha", hyper.alpha), ("beta", hyper.beta))},
        log_likelihood={"successes": count_log_likelihood(np.asarray(_pair_likelihood(hyper, table)), table, attempts)},
        observed={"successes": attempts.successes, "trials": attempts.trials},
        dims={"successes": ["problem"], "trials": ["problem"], "pass_at": ["attempts"]},
        coords={"problem": attempts.problems, "attempts": at},
        attrs={"model": "beta-binomial", "method": method, "rule": str(attempts.rule), "reach": reach}
        | {f"prior_{name}": value for name, value in dataclasses.asdict(prior).items()},
        attempts=attempts,
        prior=prior,
        reach=reach,
        ess=float(hyper.ess),
        hyper=hyper,
        theta=found.theta,
        line=found.line,
        stack=stack(key_stack, attempts, reach, found.theta.log_rest, prior_values),
        key=key_pool,
    )
    return dataclasses.replace(result, draws={**result.draws, "pass_at": 1 - result.miss(at)})


def _reach(attempts: Attempts) -> int:
    """Up to how many attempts a problem the data speak: the median number of trials.

    Where trials depend on outcomes, those of problems without a success: sampling of the others stopped, and how
    coverage grows is up to these.
    """
    trials = attempts.trials
    if attempts.rule.name != "fixed" and (attempts.successes == 0).any():
        trials = trials[attempts.successes == 0]
    return max(1, int(np.median(trials)))


_hyper_draws = jax.jit(hyper_draws, static_argnums=3)
_predict = jax.jit(predict)


@jax.jit
def _corpus(log_rest: Float[Array, "draws problems"], attempts: Float[Array, " ks"]) -> Coverage:
    return coverage(log_rest, attempts, jnp.full(log_rest.shape, 1 / log_rest.shape[1]))


def _by_nuts(key: Key[Array, ""], table: CountTable, prior: Float[Array, "5"], num: int) -> HyperDraws:
    start = jnp.log(jnp.stack([prior[0], prior[3]]))
    chains = nuts_draws(key, lambda parameters: log_posterior(parameters, table, prior), start, num)
    alpha, beta = jnp.exp(chains.reshape(-1, 2)[:num].T)
    return HyperDraws(alpha, beta, jnp.float32(num))


@jax.jit
def _pair_likelihood(hyper: HyperDraws, table: CountTable) -> Float[Array, "draws pairs"]:
    return log_beta_binomial(hyper.alpha[:, None], hyper.beta[:, None], table.successes, table.failures)


def _attempts(n: int | Sequence[int], name: str = "n") -> list[int]:
    numbers = np.atleast_1d(np.asarray(n, np.float64))
    wrong = numbers[~((numbers >= 1) & (numbers == np.round(numbers)) & np.isfinite(numbers))]
    if wrong.size:
        raise ValueError(f"{name}: a whole number of attempts from 1 up is wanted, got {wrong[0]:g}")
    return [int(number) for number in numbers]


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name}: one of {', '.join(known)} is wanted, got {value!r}")
