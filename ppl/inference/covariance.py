"""The covariance of a chain, learned in windows of a warm-up: each window moves by what the one before it has seen."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float


class Windowed(NamedTuple):
    """Welford's sums of the current window, and the Cholesky factor that moves are made with."""

    number: Float[Array, ""]
    mean: Float[Array, " d"]
    squares: Float[Array, "d d"]
    factor: Float[Array, "d d"]


def window_ends(warmup: int) -> Bool[np.ndarray, " warmup"]:
    """Whether a window ends with step t: at an eighth, a quarter, a half, and the whole of the warm-up."""
    ends = np.zeros(warmup, bool)
    ends[[max(0, warmup * k // 8 - 1) for k in (1, 2, 4, 8)] if warmup else []] = True
    return ends


def started(position: Float[Array, " d"]) -> Windowed:
    """No draws seen; moves are isotropic."""
    size = position.shape[0]
    identity = jnp.eye(size, dtype=position.dtype)
    return Windowed(jnp.zeros((), position.dtype), jnp.zeros_like(position), jnp.zeros_like(identity), identity)


def seen(windowed: Windowed, position: Float[Array, " d"], end: Bool[Array, ""]) -> Windowed:
    """One draw more; at the end of a window its covariance is taken over and a new window begins."""
    count = windowed.number + 1
    apart = position - windowed.mean
    mean = windowed.mean + apart / count
    squares = windowed.squares + jnp.outer(apart, position - mean)

    def close() -> Windowed:
        # Stan's shrinkage towards a small multiple of the identity, for windows shorter than the dimension.
        covariance = squares / jnp.maximum(count - 1, 1)
        size = position.shape[0]
        shrunk = (count * covariance + 5e-3 * jnp.eye(size, dtype=position.dtype)) / (count + 5)
        return started(position)._replace(factor=jnp.linalg.cholesky(shrunk))

    return jax.lax.cond(end, close, lambda: Windowed(count, mean, squares, windowed.factor))
