r"""Dynamic sampling: rules that spend a budget of attempts one by one, and a simulation that compares them.

What a rule picks may depend on all outcomes so far: the likelihood, and with it the posterior, does not change by that.
What averages over sampling at fixed numbers of trials does not hold any more, the unbiased pass@k among it.
"""

import dataclasses
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, Shaped

from ppl.keys import as_key
from ppl.risk.next_problem import checked_prior, failure_moments, variance_reduction
from ppl.risk.results import DrawsResult

Rule = Literal["uniform", "fewest_successes", "look_ahead"]
RULES: tuple[Rule, ...] = ("uniform", "fewest_successes", "look_ahead")
_Counts = tuple[Int[Array, " problems"], Int[Array, " problems"], Float[Array, " problems"]]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class SamplingRuns(DrawsResult):
    """Simulated runs of a rule, one draw each.

    `draws`: `error` of the posterior mean of the corpus rate, and `sd`, its posterior standard deviation at the end.
    `trials`, `successes`: of each problem [runs, problems].
    """

    rule: str
    trials: Int[np.ndarray, "runs problems"]
    successes: Int[np.ndarray, "runs problems"]

    @property
    def root_mean_square_error(self) -> float:
        """Over the runs; 0.01 is one point."""
        return float(np.sqrt(np.mean(self.draws["error"].astype(np.float64) ** 2)))


def fewest_successes(successes: Int[Array, " problems"], trials: Int[Array, " problems"]) -> Int[Array, ""]:
    """The next problem by dynamic sampling: fewest successes, ties by fewest attempts, then the first.

    **Source:** Kazdan et al. (2025), arXiv 2510.05197, Algorithm 1.
    """
    tied = successes == successes.min()
    return jnp.argmin(jnp.where(tied, trials, jnp.iinfo(trials.dtype).max))


def plug_in_allocation(probability: Float[np.ndarray, " problems"], attempts: int) -> Float[np.ndarray, " problems"]:
    r"""Shares of a budget with the least variance of the plug-in rate $1 - (1 - \hat p)^N$:
    $\propto \sqrt{p (1 - p)^{2N - 1}}$.

    By the delta method a problem with $b$ attempts adds $N^2 (1 - p)^{2N - 2} \cdot p (1 - p) / b$ to the variance, and
    shares that minimise a sum of $v_i / b_i$ are in proportion to $\sqrt{v_i}$. It wants the probabilities that
    sampling is to find out, so it is a yardstick, not a rule; problems with $p$ of 0 or 1 get nothing.

    **Raises:** `ValueError` for probabilities outside [0, 1], or if all are 0 or 1.

    **Source:** Kazdan et al. (2025), arXiv 2510.05197, Theorem 1.
    """
    p = np.asarray(probability, dtype=np.float64)
    if not np.all((p >= 0) & (p <= 1)):
        raise ValueError(f"probability: numbers in [0, 1] are wanted, got {p[~((p >= 0) & (p <= 1))][0]}")
    inside = (p > 0) & (p < 1)
    if attempts < 1 or not inside.any():
        raise ValueError("probability: at least one strictly between 0 and 1, and attempts of at least 1, are wanted")
    log_share = np.full(len(p), -np.inf)  # in logs: at 10,000 attempts most shares underflow
    log_share[inside] = (np.log(p[inside]) + (2 * attempts - 1) * np.log1p(-p[inside])) / 2
    share = np.exp(log_share - log_share.max())
    return share / share.sum()


def dynamic_sampling(
    probability: Shaped[np.ndarray | Array, " problems"] | Shaped[np.ndarray | Array, "runs problems"],
    budget: int,
    *,
    attempts: int,
    prior: tuple[float, float],
    rule: Rule = "fewest_successes",
    runs: int = 100,
    key: int | Key[Array, ""] = 0,
) -> SamplingRuns:
    r"""Simulate spending a budget by a rule, and estimating the corpus success rate at `attempts` from what came out.

    **Arguments:**

    - `probability`: success probabilities, [problems], or [runs, problems] for other problems in each run.
    - `budget`: attempts in all. `attempts`: $N$ of the rate. `prior`: $(\alpha, \beta)$ of estimator and look-ahead.
    - `rule`: `uniform` (fewest attempts first), `fewest_successes` (Kazdan et al.), `look_ahead` (the largest expected
      fall in variance). Ties go to the first problem.
    - `runs`, `key`: number of simulations (that of the rows of `probability`, where it has rows), and their seed.

    **Raises:** `ValueError` for numbers out of range or an unknown rule.
    """
    checked_prior(attempts, prior)
    if rule not in RULES:
        raise ValueError(f"rule: one of {', '.join(RULES)} is wanted, got {rule!r}")
    p = np.asarray(probability, dtype=np.float32)
    if p.size == 0 or not np.all((p >= 0) & (p <= 1)) or budget < 0 or runs < 1:
        raise ValueError(
            f"probability: numbers in [0, 1], with a budget from 0 and runs from 1, got {p.shape}, {budget}, {runs}"
        )
    p = np.broadcast_to(p, (runs, len(p))) if p.ndim == 1 else p
    keys = jax.random.split(as_key(key), len(p))
    s, n = _simulate(keys, jnp.asarray(p), jnp.asarray(prior, jnp.float32), float(attempts), RULES.index(rule), budget)
    a, b = prior[0] + s.astype(jnp.float32), prior[1] + (n - s).astype(jnp.float32)
    failure, own = (np.asarray(x, np.float64) for x in failure_moments(a, b, float(attempts)))
    truth = np.exp(attempts * np.log1p(-np.minimum(p.astype(np.float64), 1 - 1e-16)))
    return SamplingRuns(
        draws={
            "error": truth.mean(axis=1) - failure.mean(axis=1),
            "sd": np.sqrt(own.sum(axis=1)) / p.shape[1],
        },
        attrs={"rule": rule, "budget": budget, "attempts": attempts},
        rule=rule,
        trials=np.asarray(n),
        successes=np.asarray(s),
    )


@partial(jax.jit, static_argnames="budget")
def _simulate(
    keys: Key[Array, " runs"],
    p: Float[Array, "runs problems"],
    prior: Float[Array, "2"],
    attempts: Float[Array, ""] | float,
    rule: Int[Array, ""] | int,
    budget: int,
) -> tuple[Int[Array, "runs problems"], Int[Array, "runs problems"]]:
    def worth(s: Int[Array, "..."], n: Int[Array, "..."]) -> Float[Array, "..."]:
        return variance_reduction(prior[0] + s, prior[1] + (n - s), attempts)

    def run(
        key: Key[Array, ""], p: Float[Array, " problems"]
    ) -> tuple[Int[Array, " problems"], Int[Array, " problems"]]:
        def step(counts: _Counts, uniform: Float[Array, ""]) -> tuple[_Counts, None]:
            s, n, value = counts
            choices = (lambda: jnp.argmin(n), lambda: fewest_successes(s, n), lambda: jnp.argmax(value))  # as in RULES
            i = jax.lax.switch(rule, choices)
            s, n = s.at[i].add(uniform < p[i]), n.at[i].add(1)
            # Only the problem just tried is worth another amount now: one evaluation a step, not one a problem.
            return (s, n, value.at[i].set(worth(s[i], n[i]))), None

        zero = jnp.zeros(len(p), jnp.int32)
        s, n, _ = jax.lax.scan(step, (zero, zero, worth(zero, zero)), jax.random.uniform(key, (budget,)))[0]
        return s, n

    return jax.vmap(run)(keys, p)
