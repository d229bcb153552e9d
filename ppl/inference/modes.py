"""The posterior mode near a start, and the curvature at a point."""

import jax
import jax.numpy as jnp
from blackjax.optimizers.lbfgs import minimize_lbfgs
from jaxtyping import Array, Bool, Float

from ppl.inference.densities import LogDensity


def mode_near(log_density: LogDensity, start: Float[Array, " d"], iterations: int) -> Float[Array, " d"]:
    """The point that L-BFGS reaches; where `curvature` is not positive definite, it is no mode."""
    (x, _), _ = minimize_lbfgs(lambda x: -log_density(x), start, maxiter=iterations, ftol=1e-9, gtol=1e-6)
    return jnp.asarray(x)


def curvature(log_density: LogDensity, point: Float[Array, " d"]) -> tuple[Float[Array, "d d"], Bool[Array, ""]]:
    """Minus the Hessian of the log density, and whether it is positive definite."""
    hessian = -jax.hessian(log_density)(point)
    hessian = (hessian + hessian.T) / 2
    return hessian, jnp.all(jnp.linalg.eigvalsh(hessian) > 0)
