r"""What resampling until a verifier accepts is worth, against the number of attempts that it may take.

An attempt at a problem of type $t$ is right with probability $r_t$, accepted and right with $c r_t$, accepted and wrong
with $(1 - s)(1 - r_t)$, and rejected with $\beta_t = (1 - c) r_t + s (1 - r_t)$. The first accepted of at most $K$
attempts is handed out. With 1 for a right answer, $V$ for a wrong one, 0 for none and a price $\kappa$ an attempt,

$$R(K) = \sum_t p_t \, (c r_t + V (1 - s)(1 - r_t) - \kappa) \, \frac{1 - \beta_t^K}{1 - \beta_t},$$

since attempt $k$ is made with probability $\beta_t^{k-1}$. Stroebl et al. (arXiv 2411.17501, paper and notebooks) sum
$\bigl(\sum_t q_{tk} v_t\bigr) \bigl(\sum_t q_{tk} \beta_t^{k-1}\bigr)$ with $q_{tk} \propto p_t \beta_t^{k-1}$, the
posterior of the type after $k - 1$ rejections, in both factors. The chance that attempt $k$ is made is an expectation
over the prior, $\sum_t p_t \beta_t^{k-1}$; with the posterior in its place hard problems count twice and rewards come
out too high (.554 for .525 at $V = -.7$ in their example; their best $K$ are right there).
examples/papers/flaws_stroebl2024.py has both.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter
from scipy import special

from ppl.intervals import Interval
from ppl.plots import BAND, legend_beside, new_figure
from ppl.risk.results import DrawsResult, Estimate, estimate
from ppl.risk.verifiers import error_rates

_EVERY = 64  # up to here each number of attempts has a place on the default grid, then steps of about 2%
_AT_ONCE = 2**22  # numbers in memory at once in the kernel
_LEAST_LOG = -200.0  # of a rejection probability: exp(-200) is 0 in float32, and 0 * -inf would be none


class Optimum(NamedTuple):
    """The best number of attempts, as far as the posterior knows it.

    - `attempts`: the number with the least expected regret, which is the one with the highest expected reward, and the
      smallest of those within 1e-6; 0 where it is best not to ask at all;
    - `regret`: expected loss against knowing the best number; `reward`: at `attempts`;
    - `mode`, `probability`: the number that is most often best, and how often; `interval`: equal-tailed, of the best;
    - `at_limit`: P(the largest number considered is the best of those): there may be better ones beyond.
    """

    attempts: int
    regret: float
    reward: Estimate
    mode: int
    probability: float
    interval: Interval
    at_limit: float


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class ResamplingValue(DrawsResult):
    """Posterior of the reward against the number of attempts.

    - `attempts`: [attempts], increasing, from 0;
    - `false_positive_value`, `attempt_cost`: the terms;
    - `draws`: `reward` [draws, attempts]; `best_attempts` [draws], the smallest number whose reward is within 1e-6 of
      the best (in units of the larger of 1 and the false positive's value: float32 cannot tell them apart), and
      `best_reward` [draws]; `reward_limit` [draws], without a limit on attempts, where the model says it and attempts
      are free.
    """

    attempts: Int[np.ndarray, " attempts"]
    false_positive_value: float
    attempt_cost: float

    @property
    def regret(self) -> Float[np.ndarray, " attempts"]:
        """Expected loss of each number of attempts against the best one of each draw."""
        best = self.draws["reward"].max(axis=1, keepdims=True)
        return np.asarray(np.mean(best - self.draws["reward"], axis=0, dtype=np.float64))

    @property
    def probability_best(self) -> Float[np.ndarray, " attempts"]:
        """Posterior probability of each number of attempts to be the best."""
        return np.asarray(np.mean(self.draws["best_attempts"][:, None] == self.attempts, axis=0))

    def optimum(self, level: float = 0.9) -> Optimum:
        """The best number of attempts with its uncertainty. **Raises:** `ValueError` for a level outside (0, 1)."""
        regret, probability = self.regret, self.probability_best
        # The smallest of equals: on a level curve the lowest of float32's rounding errors could be anywhere.
        as_good = regret <= regret.min() + _tolerance(self.false_positive_value)
        least, likely = int(as_good.argmax()), int(probability.argmax())
        return Optimum(
            attempts=int(self.attempts[least]),
            regret=float(regret[least]),
            reward=estimate(self.draws["reward"][:, least], level),
            mode=int(self.attempts[likely]),
            probability=float(probability[likely]),
            interval=estimate(self.draws["best_attempts"], level).interval,
            at_limit=float(probability[-1]),
        )

    def plot_reward(self, level: float = 0.9) -> Figure:
        """Reward against attempts with its band; the point of least regret, and below it the best number's interval."""
        figure, axes = new_figure()
        curve = estimate(self.draws["reward"], level)
        middle, lower, upper = (np.asarray(part) for part in (curve.mean, *curve.interval))
        best = self.optimum(level)
        shown = self.attempts > 0
        axes.plot(self.attempts[shown], middle[shown], color="C0", label="expected reward")
        band = (lower[shown], upper[shown])
        axes.fill_between(
            self.attempts[shown], *band, color="C0", alpha=BAND, linewidth=0, label=f"{level:.0%} interval"
        )
        axes.axhline(0, color="0.6", linewidth=1, linestyle="--", label="no attempt")
        if best.attempts > 0:
            axes.plot(best.attempts, best.reward.mean, "o", color="C3", label=f"least regret: {best.attempts} attempts")
        # The interval of the best number may start at 0, which a logarithmic axis does not have.
        low, high = max(best.interval.lower, 1), max(best.interval.upper, 1)
        axes.hlines(axes.get_ylim()[0], low, high, color="C3", linewidth=3, label=f"best number, {level:.0%} interval")
        axes.set(xscale="log", xlabel="attempts at most", ylabel="reward", xlim=(0.9, self.attempts[-1] * 1.1))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        legend_beside(axes)
        return figure


def resampling_value(
    success: Float[np.ndarray | Array, "*#draws types"],
    verifier: DrawsResult | tuple[float, float],
    *,
    weights: Float[np.ndarray | Array, "*#draws types"] | None = None,
    false_positive_value: float = -1.0,
    attempt_cost: float = 0.0,
    attempts: int | Int[np.ndarray, " attempts"] = 200,
) -> ResamplingValue:
    r"""Posterior of the reward for attempts that a verifier with the same error rates on all problems selects.

    **Arguments:**

    - `success`: probability $r_t$ that an attempt at a problem of type $t$ is right: [types] if known (easy and hard,
      or one type a problem), or posterior draws [draws, types]. `beta_population` turns a Beta(alpha, beta) over
      problems into types. Error rates that differ between problems: `acceptance_value`.
    - `verifier`: a result with draws `sensitivity` and `specificity` (`ppl.risk.verifier`), as many as `success` has;
      or (sensitivity, specificity) if known.
    - `weights`: share of problems of each type, [types] or [draws, types]; equal shares by default.
    - `false_positive_value`: $V$, what a wrong answer that the verifier accepted is worth, where a right one is worth 1
      and none 0. With 0 the reward is the probability of a right answer.
    - `attempt_cost`: $\kappa \ge 0$, in the same units, paid for each attempt made.
    - `attempts`: the largest number to consider, or the numbers themselves, increasing (0 is added). A largest number
      gives every number up to 64, then steps of 2%.

    **Returns:** `ResamplingValue`; with everything known it has one draw.

    **Raises:** `ValueError` naming the argument, and the type or draw, that is out of range, or draws that do not
    match.

    **Source:** the module's formula, checked against simulated resampling in tests/risk/test_resampling_value.py.
    """
    r = _probabilities("success", success)
    if isinstance(verifier, tuple):
        c = _probabilities("sensitivity", np.array(verifier[:1]))[0]
        false_accept = 1 - _probabilities("specificity", np.array(verifier[1:]))[0]
    else:
        c, false_accept = error_rates(verifier)
    if len(r) > 1 and len(c) > 1 and len(r) != len(c):
        raise ValueError(f"success: one row, or the verifier's {len(c)} draws are wanted, got {len(r)}")
    right, wrong = c[:, None] * r, false_accept[:, None] * (1 - r)
    return _value(right, wrong, weights, false_positive_value, attempt_cost, attempts)


def acceptance_value(
    right: Float[np.ndarray | Array, "*#draws types"],
    wrong: Float[np.ndarray | Array, "*#draws types"],
    *,
    weights: Float[np.ndarray | Array, "*#draws types"] | None = None,
    false_positive_value: float = -1.0,
    attempt_cost: float = 0.0,
    attempts: int | Int[np.ndarray, " attempts"] = 200,
) -> ResamplingValue:
    """The same for a verifier that errs more on some problems: from what it accepts.

    False positives crowd on few problems in practice, and then one specificity for all misleads: hard problems are not
    where they all are. `right`, `wrong`: probability that an attempt is accepted and right, accepted and wrong, [types]
    or [draws, types]. The rest as in `resampling_value`.

    **Raises:** as `resampling_value`; `ValueError` naming the type where the two exceed 1 together.
    """
    a, b = _probabilities("right", right), _probabilities("wrong", wrong)
    if a.shape[1] != b.shape[1] or (len(a) > 1 and len(b) > 1 and len(a) != len(b)):
        raise ValueError(f"wrong: the shape of right, {a.shape}, is wanted, got {b.shape}")
    above = np.argwhere(a + b > 1 + 1e-5)  # float32 draws of shares may exceed 1 by rounding
    if above.size:
        raise ValueError(f"wrong: with right it must not exceed 1, type {above[0][1]} of draw {above[0][0]} does")
    return _value(a, b, weights, false_positive_value, attempt_cost, attempts)


def beta_population(
    alpha: float | Float[np.ndarray | Array, " draws"],
    beta: float | Float[np.ndarray | Array, " draws"],
    num: int = 128,
) -> tuple[Float[np.ndarray, "*#draws types"], Float[np.ndarray, " types"]]:
    r"""Problems whose success probabilities are $\mathrm{Beta}(\alpha, \beta)$, as `num` types: (success, weights).

    The types are quantiles at the nodes of a Gauss-Legendre rule on (0, 1), the weights that rule's. In the quantile a
    reward changes slowly even where half of the problems have a success probability of 1e-10, so that with 128 types
    the error is below 1e-5 for parameters of 0.05 and more and up to 1e4 attempts.

    **Arguments:** `alpha`, `beta`: positive, numbers or posterior draws.

    **Returns:** success [types] or [draws, types], and weights [types].

    **Raises:** `ValueError` for a parameter that is not positive.
    """
    a, b = np.broadcast_arrays(np.asarray(alpha, dtype=np.float64), np.asarray(beta, dtype=np.float64))
    if not (np.all(a > 0) and np.all(b > 0)):
        raise ValueError(f"alpha, beta: positive parameters are wanted, got {a.min():g} and {b.min():g} at the least")
    nodes, weights = special.roots_legendre(num)
    success = special.betaincinv(a[..., None], b[..., None], (nodes + 1) / 2)
    return success, weights / 2


def attempt_grid(limit: int) -> Int[np.ndarray, " attempts"]:
    """0 to 64 one by one, then steps of about 2% up to `limit`. **Raises:** `ValueError` for a limit below 1."""
    if limit < 1:
        raise ValueError(f"attempts: at least 1 is wanted, got {limit}")
    if limit <= _EVERY:
        return np.arange(limit + 1)
    num = int(np.ceil(np.log(limit / _EVERY) / np.log(1.02))) + 1
    return np.unique(np.concatenate([np.arange(_EVERY), np.rint(np.geomspace(_EVERY, limit, num)).astype(np.int64)]))


def _value(
    right: Float[np.ndarray, "#draws types"],
    wrong: Float[np.ndarray, "#draws types"],
    weights: Float[np.ndarray | Array, "*#draws types"] | None,
    false_positive_value: float,
    attempt_cost: float,
    attempts: int | Int[np.ndarray, " attempts"],
) -> ResamplingValue:
    if not np.isfinite(false_positive_value):
        raise ValueError(f"false_positive_value: a finite number is wanted, got {false_positive_value}")
    if not 0 <= attempt_cost < np.inf:
        raise ValueError(f"attempt_cost: a finite number from 0 up is wanted, got {attempt_cost}")
    numbers = attempt_grid(attempts) if isinstance(attempts, int) else _increasing(attempts)
    p = np.full((1, right.shape[1]), 1 / right.shape[1]) if weights is None else _probabilities("weights", weights)
    if p.shape[1] != right.shape[1] or (len(p) > 1 and len(right) > 1 and len(p) != len(right)):
        raise ValueError(f"weights: one for each of {right.shape[1]} types is wanted, got shape {p.shape}")
    off = np.flatnonzero(np.abs(p.sum(axis=1) - 1) > 1e-4)
    if off.size:
        raise ValueError(f"weights: they must sum to 1, those of draw {off[0]} sum to {p[off[0]].sum():g}")
    terms = [jnp.float32(number) for number in (false_positive_value, attempt_cost)]
    arrays = [jnp.asarray(array, jnp.float32) for array in (right, wrong, p)]
    block = max(1, min(len(numbers), _AT_ONCE // max(array.size for array in arrays)))
    reward = np.asarray(_reward(*arrays, *terms, jnp.asarray(numbers, jnp.float32), block))
    limit = {} if attempt_cost > 0 else {"reward_limit": np.asarray(_reward_limit(*arrays, terms[0]))}
    return value_of_reward(reward, numbers, false_positive_value, attempt_cost, limit)


def value_of_reward(
    reward: Float[np.ndarray, "draws attempts"],
    numbers: Int[np.ndarray, " attempts"],
    false_positive_value: float,
    attempt_cost: float,
    more: dict[str, Float[np.ndarray, " draws"]],
) -> ResamplingValue:
    """A result from draws of the reward at each number of attempts, `more` draws beside."""
    best = reward.max(axis=1)
    as_good = reward >= best[:, None] - _tolerance(false_positive_value)
    return ResamplingValue(
        draws={"reward": reward, "best_attempts": numbers[as_good.argmax(axis=1)], "best_reward": best, **more},
        dims={"reward": ["attempts"]},
        coords={"attempts": numbers},
        attrs={"false_positive_value": false_positive_value, "attempt_cost": attempt_cost},
        attempts=numbers,
        false_positive_value=false_positive_value,
        attempt_cost=attempt_cost,
    )


def _tolerance(false_positive_value: float) -> float:
    """Rewards within this of each other are equal: float32 cannot tell them apart."""
    return 1e-6 * max(1.0, abs(false_positive_value))


@functools.partial(jax.jit, static_argnames="block")
def _reward(
    right: Float[Array, "#draws types"],
    wrong: Float[Array, "#draws types"],
    weights: Float[Array, "#draws types"],
    false_positive_value: Float[Array, ""],
    attempt_cost: Float[Array, ""],
    attempts: Float[Array, " attempts"],
    block: int,
) -> Float[Array, "draws attempts"]:
    accept = right + wrong
    gain = weights * (right + false_positive_value * wrong - attempt_cost)
    log_reject = jnp.maximum(jnp.log1p(-jnp.minimum(accept, 1.0)), _LEAST_LOG)

    def at(number: Float[Array, ""]) -> Float[Array, " draws"]:
        # 1 - beta^K over 1 - beta, its limit K where nothing is ever accepted.
        made = jnp.where(accept > 0, -jnp.expm1(number * log_reject) / jnp.where(accept > 0, accept, 1.0), number)
        return (gain * made).sum(axis=-1)

    return jax.lax.map(at, attempts, batch_size=block).T


@jax.jit
def _reward_limit(
    right: Float[Array, "#draws types"],
    wrong: Float[Array, "#draws types"],
    weights: Float[Array, "#draws types"],
    false_positive_value: Float[Array, ""],
) -> Float[Array, " draws"]:
    accept = right + wrong
    gain = weights * (right + false_positive_value * wrong)
    return (gain / jnp.where(accept > 0, accept, 1.0)).sum(axis=-1)


def _probabilities(name: str, values: Shaped[np.ndarray | Array, "..."]) -> Float[np.ndarray, "draws types"]:
    p = np.asarray(values, dtype=np.float64)
    if p.ndim not in (1, 2) or not p.size:
        raise ValueError(f"{name}: [types] or [draws, types] is wanted, with at least one, got shape {p.shape}")
    p = np.atleast_2d(p)
    bad = np.argwhere(~((p >= 0) & (p <= 1)))
    if bad.size:
        draw, kind = bad[0]
        raise ValueError(f"{name}: type {kind} of draw {draw} is {p[draw, kind]:g}; a number in [0, 1] is wanted")
    return p


def _increasing(attempts: Int[np.ndarray, " attempts"]) -> Int[np.ndarray, " from_0"]:
    numbers = np.asarray(attempts, dtype=np.int64)
    if not numbers.size or numbers.min() < 0 or np.any(np.diff(numbers) <= 0) or numbers[-1] < 1:
        raise ValueError(f"attempts: increasing whole numbers from 0 up, with one above 0, are wanted, got {attempts}")
    return numbers if numbers[0] == 0 else np.concatenate([[0], numbers])
