"""The reward of resampling from counts a problem alone: no model of the verifier, no more attempts than were made."""

import jax
import numpy as np
from jaxtyping import Array, Int, Key

from ppl.keys import as_key
from ppl.risk.bootstrap import weighted_means
from ppl.risk.resampling_value import ResamplingValue, attempt_grid, value_of_reward
from ppl.risk.verifiers import check_counts, check_part, gamma_draws


def observed_value(
    right: Int[np.ndarray | Array, " problems"],
    wrong: Int[np.ndarray | Array, " problems"],
    trials: Int[np.ndarray | Array, " problems"],
    *,
    false_positive_value: float = -1.0,
    attempt_cost: float = 0.0,
    draws: int = 4000,
    key: int | Key[Array, ""] = 0,
) -> ResamplingValue:
    r"""The reward for up to as many attempts as were made, from counts a problem and without a model of the verifier.

    If $A$ of $n$ attempts at a problem were accepted, $K$ of the $n$ at random hold none of them with probability
    $\binom{n - A}{K} / \binom{n}{K}$, and the first accepted one is any of the $A$. The mean over all orders is thus
    exact, where Stroebl et al. shuffle, and unbiased for the problem's reward at $K \le n$. The interval is over
    problems: a Bayesian bootstrap, with a third of a problem each that is right, wrong and rejected throughout.

    **Arguments:** of `trials` attempts at each problem, chosen beforehand, the verifier accepted `right` ones that are
    right and `wrong` ones that are wrong. The rest as in `resampling_value`; attempts go to the smallest of `trials`.

    **Raises:** `ValueError` naming row and value of a bad count, or a problem without a trial.
    """
    counts = check_counts({"right": right, "wrong": wrong, "trials": trials})
    accepted, n = counts["right"] + counts["wrong"], counts["trials"]
    check_part("right, wrong", accepted, "trials", n)
    if n.min() < 1:
        raise ValueError(f"trials: at least one a problem is wanted, row {n.argmin()} has none")
    numbers = attempt_grid(int(n.min()))
    # log of the chance that k attempts hold none that is accepted: 1 - A/(n - j) over j < k, and 0 from k > n - A on.
    taken = np.arange(numbers[-1])
    left = 1 - np.minimum(accepted[:, None] / (n[:, None] - taken), 1)
    none = np.concatenate([np.ones((len(n), 1)), np.cumprod(left, axis=1)], axis=1)
    value = counts["right"] + false_positive_value * counts["wrong"]
    gain = np.divide(value, accepted, out=np.zeros(len(n)), where=accepted > 0)
    made = np.concatenate([np.zeros((len(n), 1)), np.cumsum(none[:, :-1], axis=1)], axis=1)
    curves = (gain[:, None] * (1 - none) - attempt_cost * made)[:, numbers]
    first = (numbers > 0).astype(np.float64)
    extremes = np.stack([(1 - attempt_cost) * first, (false_positive_value - attempt_cost) * first])
    extremes = np.concatenate([extremes, -attempt_cost * numbers[None].astype(np.float64)])
    inner, outer, last = jax.random.split(as_key(key), 3)
    pseudo = gamma_draws(outer, 1 / 3, 3 * draws).reshape(draws, 3)
    total = gamma_draws(last, len(n), draws)[:, None]  # turns Dirichlet weights into exponential ones
    reward = (total * weighted_means(inner, curves, draws) + pseudo @ extremes) / (total + pseudo.sum(1, keepdims=True))
    return value_of_reward(reward.astype(np.float32), numbers, false_positive_value, attempt_cost, {})
