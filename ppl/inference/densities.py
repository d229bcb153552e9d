"""Log densities that samplers may call: of no density, never NaN."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

LogDensity = Callable[[Float[Array, " d"]], Float[Array, ""]]


@jax.custom_jvp
def never_nan(log_density: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """NaN as `-inf`: where a model has no density, which any sampler then refuses. Gradients are those of the model.

    By a rule of its own: that of `where` multiplies the gradient by a number that depends on the value, so that the
    compiler cannot make one loop over the data of the two (4.7 us a gradient of posteriordb's kidiq instead of 2.9).
    """
    return jnp.where(jnp.isnan(log_density), -jnp.inf, log_density)


@never_nan.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return never_nan(*primals), tangents[0]


def guarded(log_density: LogDensity) -> LogDensity:
    """NaN as `-inf`: a proposal of no density is refused, and does not poison the chain (blackjax issue 969)."""
    return lambda flat: never_nan(log_density(flat))
