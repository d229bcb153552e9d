r"""The Bayesian bootstrap over problems for several means at once, so that functions of them have intervals.

`ppl.intervals.mean_interval` is the same for a single mean. Here the draws are kept: a ratio or a best choice needs
means that were drawn together.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, Shaped

_AT_ONCE = 2**24  # weights held in memory together: 64 MB


def weighted_means(
    key: Key[Array, ""],
    values: Shaped[np.ndarray | Array, "problems quantities"],
    draws: int,
    *,
    ends: Shaped[np.ndarray | Array, "2 quantities"] | None = None,
) -> Float[np.ndarray, "draws quantities"]:
    r"""Draws of means over the population that the problems come from, the same weights for all quantities.

    Each draw is $\sum_i d_i v_i$ with $d \sim \mathrm{Dirichlet}(1, \ldots, 1)$, in float32.

    **Arguments:** `values`: one row a problem. `draws`: how many. `ends`: two further rows of weight 1/2 each, as a
    prior: without them, problems that are all alike give draws that are all alike.

    **Source:** Rubin (1981), Annals of Statistics 9(1); with ends, Ferguson (1973).
    """
    rows = np.asarray(values, dtype=np.float32)
    at_once = min(draws, max(1, _AT_ONCE // (len(rows) + 1)))
    keys = jax.random.split(key, -(-draws // at_once))  # one part, unless there are very many problems
    if ends is not None:
        rows = np.concatenate([rows, np.asarray(ends, dtype=np.float32)])
    parts = [problem_weights(part, len(values), at_once, with_ends=ends is not None) @ rows for part in keys]
    return np.concatenate(parts)[:draws]


def problem_weights(
    key: Key[Array, ""], problems: int, draws: int, *, with_ends: bool
) -> Float[np.ndarray, "draws problems_and_ends"]:
    r"""Dirichlet draws over problems, each of weight 1; with ends, two more columns of weight 1/2."""
    return np.asarray(_problem_weights(key, problems, draws, with_ends))


@partial(jax.jit, static_argnums=(1, 2, 3))
def _problem_weights(
    key: Key[Array, ""], problems: int, draws: int, with_ends: bool
) -> Float[Array, "draws problems_and_ends"]:
    inner, outer = jax.random.split(key)
    # Dirichlet draws are gamma draws over their sum: Gamma(1) is exponential, Gamma(1/2) half a squared normal.
    weights = jax.random.exponential(inner, (draws, problems))
    if with_ends:
        weights = jnp.concatenate([weights, jax.random.normal(outer, (draws, 2)) ** 2 / 2], axis=1)
    return weights / weights.sum(axis=1, keepdims=True)
