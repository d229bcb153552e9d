"""Log densities that samplers may call: of no density, never NaN."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

LogDensity = Callable[[Float[Array, " d"]], Float[Array, ""]]


def never_nan(log_density: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """NaN as `-inf`: where a model has no density, which any sampler then refuses."""
    return jnp.where(jnp.isnan(log_density), -jnp.inf, log_density)


def guarded(log_density: LogDensity) -> LogDensity:
    """NaN as `-inf`: a proposal of no density is refused, and does not poison the chain (blackjax issue 969)."""
    return lambda flat: never_nan(log_density(flat))
