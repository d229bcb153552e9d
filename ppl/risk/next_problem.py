r"""Which problem to try next: the one whose outcome would tell most about the success rate of all.

With a Beta prior, problem $i$ has posterior $\mathrm{Beta}(a_i, b_i)$, $a_i = \alpha + s_i$, $b_i = \beta + n_i - s_i$,
and its failure rate at $N$ attempts has the mean $m_i = B(a_i, b_i + N) / B(a_i, b_i)$. A success would change that
mean to $m_i (a_i + b_i) / (a_i + b_i + N)$, a failure to that times $(b_i + N) / b_i$. So the posterior variance falls,
on average over the outcome of one more attempt, by the variance of the next mean,

$$d_i = \frac{a_i}{b_i} \left(\frac{N}{a_i + b_i + N}\right)^2 m_i^2 ,$$

a closed form without a difference of moments, right in float32 to $N = 10^6$. The corpus rate is the mean over
problems, its posterior variance the sum of theirs over $K^2$: the next problem is the one with the largest $d_i$.

Where $(\alpha, \beta)$ is not known but has posterior draws, an attempt at one problem tells about all others, too.
With $p_i = a_i / (a_i + b_i)$, $q_i = \frac{N}{a_i + b_i + N}\, p_i m_i$ and $M = \frac1K \sum_j m_j$ in each draw, and
with means and covariances over the draws, the variance of the corpus rate falls on average by

$$\frac{(\bar q_i / K - \mathrm{cov}(p_i, M))^2}{\bar p_i (1 - \bar p_i)},$$

which is $d_i / K^2$ if there is one draw.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Array, Float, Int, Key, Shaped
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ppl.keys import as_key
from ppl.plots import new_figure
from ppl.risk.attempts import Attempts
from ppl.risk.draws import log_beta_variates
from ppl.risk.log_beta import log_failure
from ppl.risk.results import DrawsResult

_BATCH = 64  # draws at once: a million numbers for 10,000 problems


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class NextProblem(DrawsResult):
    """Draws of the corpus success rate at `attempts`, as known now (`rate`), and what one more attempt would tell.

    - `reduction`: expected fall of its posterior variance by one attempt at each problem [problems];
    - `order`: problems by falling reduction, the next one first;
    - `variance`: of the corpus rate now (the draws estimate it, too);
    - `shared`: the part of it that is due to not knowing the population's $(\\alpha, \\beta)$.
    """

    attempts: int
    problems: tuple[str, ...]
    successes: Int[np.ndarray, " problems"]
    trials: Int[np.ndarray, " problems"]
    reduction: Float[np.ndarray, " problems"]
    variance: float
    shared: float

    @property
    def order(self) -> tuple[str, ...]:
        return tuple(self.problems[i] for i in np.argsort(-self.reduction, kind="stable"))

    def table(self) -> pd.DataFrame:
        """One row a problem, the next one first: `successes`, `trials`, `reduction` and its `share` of the variance."""
        rows = pd.DataFrame(
            {
                "successes": self.successes,
                "trials": self.trials,
                "reduction": self.reduction,
                "share": self.reduction / self.variance,
            },
            index=pd.Index(self.problems, name="problem"),
        )
        return rows.sort_values("reduction", ascending=False, kind="stable")

    def plot_reduction(self) -> Figure:
        """What one attempt is worth at each problem, by rank, coloured by its successes so far."""
        figure, axes = new_figure()
        rows = self.table()
        rank = np.arange(1, len(rows) + 1)
        for shown, (least, label) in enumerate(((0, "none"), (1, "one"), (2, "two or more"))):
            here = rows["successes"].to_numpy() == least if least < 2 else rows["successes"].to_numpy() >= 2
            axes.plot(rank[here], rows["share"].to_numpy()[here], "o", color=f"C{shown}", markersize=4, label=label)
        axes.set(yscale="log", xlabel="rank", ylabel="share of the variance that one attempt removes")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False, title="successes so far")
        return figure


def next_problem(
    attempts_so_far: Attempts,
    attempts: int,
    *,
    prior: tuple[float | Shaped[np.ndarray | Array, " parameters"], float | Shaped[np.ndarray | Array, " parameters"]],
    draws: int = 4000,
    key: int | Key[Array, ""] = 0,
) -> NextProblem:
    r"""Rank the problems by what one more attempt would tell about the corpus success rate at `attempts`.

    Any stopping rule is fine, since only the likelihood enters.

    **Arguments:**

    - `attempts_so_far`: counts. `attempts`: $N$ of the rate.
    - `prior`: $(\alpha, \beta)$ of the problems, two numbers that are taken as known, or arrays of posterior draws
      given these counts, such as `fit.draws["alpha"], fit.draws["beta"]` of `ppl.risk.fit`. A few hundred are enough:
      memory is draws times problems.
    - `draws`, `key`: for the rate as known now.

    **Raises:** `ValueError` for `attempts` below 1 or a prior that is not positive.
    """
    alpha, beta = checked_prior(attempts, prior)
    s, n = attempts_so_far.successes, attempts_so_far.trials
    a, b = alpha[:, None] + s, beta[:, None] + (n - s)
    mean, own = (np.asarray(x, np.float64) for x in failure_moments(_single(a), _single(b), float(attempts)))
    corpus = mean.mean(axis=1)
    right = a / (a + b)
    # Mostly of opposite sign, so that they add up: where successes are likelier at this problem, failures are rarer.
    local = np.mean(right * mean * (attempts / (a + b + attempts)), axis=0) / len(s)
    others = (corpus - corpus.mean()) @ right / len(corpus)
    p = right.mean(axis=0)
    # Full batches, of which the surplus is cut.
    which = np.arange(-(-draws // _BATCH) * _BATCH) % len(alpha)
    rate = _rate_draws(as_key(key), _single(alpha[which]), _single(beta[which]), s, n - s, float(attempts))[:draws]
    return NextProblem(
        draws={"rate": np.asarray(rate)},
        observed={"successes": s},
        dims={"successes": ["problem"]},
        coords={"problem": list(attempts_so_far.problems)},
        attrs={"prior": f"Beta({alpha.mean():g}, {beta.mean():g}) for each problem, {len(alpha)} draws of it"},
        attempts=attempts,
        problems=attempts_so_far.problems,
        successes=s,
        trials=n,
        reduction=(local - others) ** 2 / (p * (1 - p)),
        variance=float(own.sum(axis=1).mean() / len(s) ** 2 + corpus.var()),
        shared=float(corpus.var()),
    )


@jax.jit
def variance_reduction(
    a: Float[Array, "*problems"], b: Float[Array, "*problems"], attempts: float | Shaped[Array, ""]
) -> Float[Array, "*problems"]:
    """$d_i$ of the module: by how much one more attempt lowers the posterior variance of the success rate at
    `attempts`.

    **Arguments:** `a`, `b`: of the Beta posterior, positive.
    """
    n = jnp.asarray(attempts, a.dtype)
    log_mean = log_failure(a, b, jnp.broadcast_to(n, a.shape))
    return jnp.exp(jnp.log(a) - jnp.log(b) + 2 * (jnp.log(n) - jnp.log(a + b + n) + log_mean))


@jax.jit
def failure_moments(
    a: Float[Array, "*problems"], b: Float[Array, "*problems"], attempts: float | Shaped[Array, ""]
) -> tuple[Float[Array, "*problems"], Float[Array, "*problems"]]:
    r"""Mean and variance of $(1 - \theta)^N$: $m(N)$ and $m(2N) - m(N)^2$, the latter through the logarithm of a ratio,
    which float32 holds.

    **Arguments:** `a`, `b`: of the Beta posterior, positive. `attempts`: $N$.
    """
    n = jnp.broadcast_to(jnp.asarray(attempts, a.dtype), a.shape)
    first, second = log_failure(a, b, jnp.stack([n, 2 * n]))
    # Jensen: 2 first <= second, but for rounding.
    return jnp.exp(first), -jnp.exp(second) * jnp.expm1(jnp.minimum(2 * first - second, 0))


@jax.jit
def _rate_draws(
    key: Key[Array, ""],
    alpha: Float[Array, " draws"],
    beta: Float[Array, " draws"],
    successes: Shaped[Array | np.ndarray, " problems"],
    failures: Shaped[Array | np.ndarray, " problems"],
    attempts: Float[Array, ""] | float,
) -> Float[Array, " draws"]:
    def batch(given: tuple[Key[Array, ""], Float[Array, " batch"], Float[Array, " batch"]]) -> Float[Array, " batch"]:
        key, alpha, beta = given
        theta = log_beta_variates(key, alpha[:, None] + successes, beta[:, None] + failures)
        return -jnp.mean(jnp.expm1(attempts * theta.log_rest), axis=1)

    keys = jax.random.split(key, len(alpha) // _BATCH)
    return jax.lax.map(batch, (keys, alpha.reshape(-1, _BATCH), beta.reshape(-1, _BATCH))).reshape(-1)


def checked_prior(
    attempts: int,
    prior: tuple[float | Shaped[np.ndarray | Array, "..."], float | Shaped[np.ndarray | Array, "..."]],
) -> tuple[Float[np.ndarray, " parameters"], Float[np.ndarray, " parameters"]]:
    r"""Arrays of $\alpha$ and $\beta$. **Raises:** `ValueError` if one is not positive, or for `attempts` below 1."""
    alpha, beta = (np.atleast_1d(np.asarray(x, np.float64)) for x in prior)
    if attempts < 1:
        raise ValueError(f"attempts: at least 1 is wanted, got {attempts}")
    if alpha.shape != beta.shape:
        raise ValueError(f"prior: as many alphas as betas are wanted, got {len(alpha)} and {len(beta)}")
    for name, values in (("alpha", alpha), ("beta", beta)):
        wrong = ~(np.isfinite(values) & (values > 0))
        if not len(values) or wrong.any():
            raise ValueError(f"prior: {name} must be positive, got {values[wrong][0] if len(values) else 'none'}")
    return alpha, beta


def _single(x: Float[np.ndarray, "*shape"]) -> Float[Array, "*shape"]:
    return jnp.asarray(x, jnp.float32)
