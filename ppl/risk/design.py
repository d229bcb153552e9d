r"""How to spend attempts before they are spent: few problems often, or many problems seldom?

With a budget of $n K$ attempts on $K$ problems, the standard deviation of $\hat\alpha$ and of an extrapolated success
rate follow from the Fisher information (`ppl.risk.fisher`) without a simulation. Which problem to sample next, once
attempts are in, is `ppl.risk.next_problem`'s question.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, StrMethodFormatter

from ppl.plots import legend_beside, new_figure
from ppl.risk.fisher import delta_variance, weighted_scores
from ppl.risk.log_beta import log_failure
from ppl.risk.results import DrawsResult

_AT_ONCE = 2_000_000  # numbers in one batch of scores: 16 MB of float32 pairs


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class SamplingDesign(DrawsResult):
    """Standard deviations to expect for each number of trials a problem, one draw for each (alpha, beta) that was
    given.

    `draws`: `sd_alpha`, and `sd_rate` of the population's chance of a success in `attempts` attempts (0.01 is one
    point), each [draws, trials].
    """

    trials: Int[np.ndarray, " trials"]
    num_problems: Float[np.ndarray, " trials"]
    budget: float
    attempts: int

    def best(self, quantity: str = "sd_rate") -> int:
        """The number of trials a problem with the least standard deviation, on average over the draws.

        **Raises:** `ValueError` for an unknown quantity.
        """
        return int(self.trials[np.argmin(np.atleast_1d(self.estimate(quantity).mean))])

    def plot_design(self) -> Figure:
        """Each standard deviation over its least value, by trials a problem: how much a choice costs."""
        figure, axes = new_figure()
        labels = {"sd_alpha": "of alpha", "sd_rate": f"of the rate at {self.attempts:,} attempts"}
        top = 1.0
        for number, (name, label) in enumerate(labels.items()):
            middle = np.atleast_1d(self.estimate(name).mean)
            top = max(top, float(middle.max() / middle.min()))
            axes.plot(self.trials, middle / middle.min(), "o-", color=f"C{number}", markersize=3, label=f"sd {label}")
        axes.set(xscale="log", yscale="log", xlabel="trials a problem", ylabel="standard deviation over the least")
        axes.set_yticks([1, 1.2, 1.5, 2, 3, 5], ["1", "1.2", "1.5", "2", "3", "5"])
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.minorticks_off()
        axes.set_ylim(0.97, min(5.5, 1.05 * max(top, 1.2)))
        legend_beside(axes)
        return figure


def sampling_design(
    alpha: float | Shaped[np.ndarray | Array, " draws"],
    beta: float | Shaped[np.ndarray | Array, " draws"],
    budget: float,
    *,
    attempts: int,
    trials: Sequence[int] = (2, 3, 4, 5, 7, 10, 14, 20, 30, 50, 70, 100, 200, 500),
    problem_cost: float = 0.0,
) -> SamplingDesign:
    r"""Precision of the fit, and of the success rate at `attempts`, for each split of a budget.

    With $n$ trials each there are $K = \mathrm{budget} / (n + \mathrm{problem\ cost})$ problems. The covariance of
    $(\hat\alpha, \hat\beta)$ is $(K I_n)^{-1}$, and the standard deviation of
    $G = B(\alpha, \beta + N) / B(\alpha, \beta)$ is $G \sqrt{g^T I_n^{-1} g / K}$ with $g = \nabla \ln G$.

    **Arguments:**

    - `alpha`, `beta`: a guess or posterior draws of a pilot, positive; a plan should be looked at over several.
    - `budget`: attempts in all. `attempts`: $N$ of the rate that is wanted.
    - `trials`: numbers to compare, from 2 up (one trial a problem cannot tell alpha from beta), not above the budget.
    - `problem_cost`: what a new problem costs, in attempts (writing or checking it).

    It is the large-sample approximation: for few problems, or rates near 1, a posterior is wider. It says nothing about
    other tails than the beta's, which more trials a problem would show.

    **Raises:** `ValueError` for numbers out of range.

    **Source:** SABER, arXiv 2601.22636, Eq. 86-87 and its remark that at a fixed budget the variance of alpha has a
    minimum (near n = 10 for alpha 0.4, beta 4); the rate by the delta method.
    """
    a, b = np.broadcast_arrays(
        np.atleast_1d(np.asarray(alpha, np.float64)), np.atleast_1d(np.asarray(beta, np.float64))
    )
    n = np.asarray(trials)
    if not n.size or n.min() < 2 or n.max() > budget:
        raise ValueError(f"trials: whole numbers from 2 to the budget, {budget:g}, are wanted, got {list(trials)}")
    if attempts < 1 or problem_cost < 0:
        raise ValueError(f"attempts: at least 1, and a problem_cost from 0, are wanted, got {attempts}, {problem_cost}")
    log_rate, gradient = _log_failure_and_gradient(
        jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32), float(attempts)
    )
    problems = budget / (n + problem_cost)
    at_once = max(1, _AT_ONCE // (int(n.max()) + 1))
    parts = []
    for start in range(0, len(a), max(1, at_once // len(n))):  # a batch of draws, all numbers of trials at once
        rows = slice(start, start + max(1, at_once // len(n)))
        scores = weighted_scores(a[rows, None], b[rows, None], np.broadcast_to(n, (len(a[rows]), len(n))))
        parts.append(
            np.stack(
                [
                    delta_variance(scores, jnp.array([1.0, 0.0])),
                    delta_variance(scores, gradient[rows, None]) * jnp.exp(2 * log_rate[rows, None]),
                ]
            )
        )
    variance = np.concatenate(parts, axis=1) / problems
    return SamplingDesign(
        draws={"sd_alpha": np.sqrt(variance[0]), "sd_rate": np.sqrt(variance[1])},
        dims={"sd_alpha": ["trials"], "sd_rate": ["trials"]},
        coords={"trials": n},
        trials=n,
        num_problems=problems,
        budget=float(budget),
        attempts=attempts,
    )


@jax.jit
def _log_failure_and_gradient(
    alpha: Float[Array, " draws"], beta: Float[Array, " draws"], attempts: Float[Array, ""] | float
) -> tuple[Float[Array, " draws"], Float[Array, "draws 2"]]:
    def log_rate(alpha: Float[Array, ""], beta: Float[Array, ""]) -> Float[Array, ""]:
        return log_failure(alpha, beta, jnp.asarray(attempts, jnp.float32))

    value, gradient = jax.vmap(jax.value_and_grad(log_rate, argnums=(0, 1)))(alpha, beta)
    return value, jnp.stack(gradient, axis=-1)
