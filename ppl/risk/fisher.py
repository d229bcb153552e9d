r"""Fisher information of the beta-binomial counts: what one problem with $n$ attempts tells about (alpha, beta).

Finite sums over the $n + 1$ possible counts instead of draws, and sums of terms of one sign instead of differences of
trigammas, so that float32 is enough.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

MAX_TRIALS = 10**6  # the sums hold a few arrays of this length


def beta_binomial_information(
    alpha: float | Float[np.ndarray | Array, "*#shape"],
    beta: float | Float[np.ndarray | Array, "*#shape"],
    trials: int | Int[np.ndarray, "*#shape"],
) -> Float[Array, "*shape 2 2"]:
    r"""Information about $(\alpha, \beta)$ in the count of one problem; that of $K$ problems is $K$ times, or the sum.

    With $s \sim \mathrm{BetaBinomial}(n, \alpha, \beta)$,

    $$I_{11} = \psi'(\alpha) - \psi'(\alpha + \beta) + \psi'(n + \alpha + \beta) - E\,\psi'(s + \alpha), \qquad
    I_{12} = \psi'(n + \alpha + \beta) - \psi'(\alpha + \beta),$$

    and $I_{22}$ as $I_{11}$ with $\beta$ and $n - s$. It is computed as $E[u u^T]$ over the exact distribution of $s$,
    with $u$ the score (`weighted_scores`), which is the same and subtracts no large numbers.

    **Arguments:** `alpha`, `beta`: positive; may be traced (jit, vmap, grad). `trials`: $n$, from 1 to `MAX_TRIALS`,
    concrete. All broadcast together; memory grows with the size of the shape times the largest `trials`.

    **Returns:** a matrix for each element. At $n = 1$ it is singular: one attempt a problem shows the mean only.

    **Raises:** `ValueError` for `alpha`, `beta` or `trials` out of range.

    **Source:** SABER, arXiv 2601.22636, Eq. 86-87 (whose code estimates the expectations by 1e5 draws).
    """
    scores = weighted_scores(alpha, beta, trials)
    return jnp.einsum("...si,...sj->...ij", scores, scores)


def weighted_scores(
    alpha: float | Float[np.ndarray | Array, "*#shape"],
    beta: float | Float[np.ndarray | Array, "*#shape"],
    trials: int | Int[np.ndarray, "*#shape"],
) -> Float[Array, "*shape counts 2"]:
    r"""Rows $\sqrt{P(s)}\, u(s)$, with $u$ the score in $(\alpha, \beta)$: their Gram matrix is the information.

    $u_1(s) = \sum_{j < s} \frac{1}{\alpha + j} - \sum_{j < n} \frac{1}{\alpha + \beta + j}
    = \sum_{j < s} \frac{\beta}{(\alpha + j)(\alpha + \beta + j)} - \sum_{s \le j < n} \frac{1}{\alpha + \beta + j}$,
    and $u_2(s)$ likewise with $\beta$ and $n - s$. A QR factorisation of the rows gives variances at twice the digits
    that the information matrix itself would leave, which matters since $\alpha$ and $\beta$ are strongly correlated.

    **Arguments**, **Raises:** as `beta_binomial_information`. **Returns:** counts run from 0 to the largest `trials`;
    rows beyond an element's own `trials` are 0.
    """
    n = np.asarray(trials)
    if n.size == 0 or not np.issubdtype(n.dtype, np.integer) or n.min() < 1 or n.max() > MAX_TRIALS:
        raise ValueError(f"trials: whole numbers from 1 to {MAX_TRIALS} are wanted, got {trials}")
    for name, value in (("alpha", alpha), ("beta", beta)):
        if not isinstance(value, jax.core.Tracer):  # pyright: ignore[reportAttributeAccessIssue]
            wrong = ~(np.isfinite(value) & (np.asarray(value) > 0))
            if np.any(wrong):
                raise ValueError(f"{name}: positive finite numbers are wanted, got {np.asarray(value)[wrong].flat[0]}")
    a, b, n = jnp.broadcast_arrays(jnp.asarray(alpha, jnp.float32), jnp.asarray(beta, jnp.float32), n)
    return _weighted_scores(a, b, n, size=int(np.max(trials)))


def delta_variance(
    scores: Float[Array, "*shape counts 2"], gradient: Float[Array, "*#shape 2"]
) -> Float[Array, "*shape"]:
    r"""$g^T I^{-1} g$ with $I = S^T S$: variance, for one problem, of a function of $(\alpha, \beta)$ at the optimum.

    **Arguments:** `scores`: $S$ of `weighted_scores`. `gradient`: $g$, of the function in $(\alpha, \beta)$.

    **Returns:** the variance from one problem; divide by the number of problems. It is infinite, up to rounding, where
    $I$ is singular: at one attempt a problem.
    """
    first, second = scores[..., 0], scores[..., 1]
    length = jnp.sqrt(jnp.sum(first**2, axis=-1))
    slope = jnp.sum(first * second, axis=-1) / length**2
    rest = second - slope[..., None] * first  # Gram-Schmidt: the part of the second score that the first leaves open
    open_length = jnp.sqrt(jnp.sum(rest**2, axis=-1))
    return (gradient[..., 0] / length) ** 2 + ((gradient[..., 1] - slope * gradient[..., 0]) / open_length) ** 2


@partial(jax.jit, static_argnames="size")
def _weighted_scores(
    alpha: Float[Array, "*shape"], beta: Float[Array, "*shape"], trials: Int[Array, "*shape"], size: int
) -> Float[Array, "*shape counts 2"]:
    a, b, n = (x[..., None] for x in (alpha, beta, trials))
    j = jnp.arange(size)
    log_pmf = jnp.concatenate([jnp.zeros_like(a), jnp.cumsum(_log_steps(a, b, n, j), axis=-1)], axis=-1)
    pmf = jax.nn.softmax(log_pmf, axis=-1)
    shared = jnp.where(j < n, 1 / (a + b + j), 0)
    # Sums over s <= j < n, for s = 0..size.
    rest = jnp.concatenate([jnp.cumsum(shared[..., ::-1], axis=-1)[..., ::-1], jnp.zeros_like(a)], axis=-1)

    def score(own: Float[Array, "*shape 1"], other: Float[Array, "*shape 1"]) -> Float[Array, "*shape counts"]:
        terms = other / ((own + j) * (a + b + j))
        return jnp.concatenate([jnp.zeros_like(a), jnp.cumsum(terms, axis=-1)], axis=-1) - rest

    failures = jnp.maximum(n - jnp.arange(size + 1), 0)
    scores = jnp.stack([score(a, b), jnp.take_along_axis(score(b, a), failures, axis=-1)], axis=-1)
    return jnp.sqrt(pmf)[..., None] * scores


def _log_steps(
    a: Float[Array, "*shape 1"], b: Float[Array, "*shape 1"], n: Int[Array, "*shape 1"], s: Int[Array, " size"]
) -> Float[Array, "*shape size"]:
    r"""$\ln P(s + 1) - \ln P(s)$ of the beta-binomial; -inf from $s = n$ on.

    Accumulating these steps keeps float32 right where $\ln \binom{n}{s}$, of size $n \ln 2$, would not.
    """
    left = jnp.maximum(n - s, 1)
    below = (s + 1) * (b + left - 1)
    excess = (left * (a - 1) - (s + 1) * (b - 1)) / below  # the ratio less 1, without the terms that cancel
    near_one = jnp.log1p(jnp.where(jnp.abs(excess) < 0.5, excess, 0))
    steps = jnp.where(jnp.abs(excess) < 0.5, near_one, jnp.log(left * (a + s) / below))
    return jnp.where(s < n, steps, -jnp.inf)
