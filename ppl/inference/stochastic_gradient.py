r"""What stochastic-gradient samplers share: minibatch gradients, control variates, and coordinates of unit curvature.

Samplers move $u$, where $\theta = c + L u$: $c$ is a mode of the posterior and $L L^\top$ the inverse of minus its
Hessian there, so that one step size suits all directions and has a meaning, of posterior standard deviations. Mode and
Hessian cost some passes over all of the data; without them $c$ is the start and $L = I$.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree

from ppl.inference.batching import each_chain
from ppl.inference.densities import guarded
from ppl.inference.modes import curvature, mode_near
from ppl.inference.program import Program

_ITERATIONS = 500


class Minibatches(eqx.Module):
    """The log density of a program that subsamples its data, and estimates of it from minibatches."""

    program: Program

    def whole(self, flat: Float[Array, " d"]) -> Float[Array, ""]:
        """The log density, of all of the data."""
        return guarded(self.program.log_density)(flat)

    def slope(self, key: Key[Array, ""], flat: Float[Array, " d"]) -> Float[Array, " d"]:
        """An unbiased estimate of the gradient of the log density."""
        return jax.grad(lambda x: self.program.log_density_with(key, x))(flat)


class Frame(NamedTuple):
    """Coordinates of a chain: the centre, the factor (or scales) of its directions, and the gradient at the centre."""

    centre: Float[Array, " d"]
    factor: Float[Array, "d *scales"]
    slope: Float[Array, " d"]

    def out(self, u: Float[Array, " d"]) -> Float[Array, " d"]:
        """The unconstrained vector at coordinates `u`."""
        return self.centre + (self.factor @ u if self.factor.ndim == 2 else self.factor * u)

    def pulled(self, slope: Float[Array, " d"]) -> Float[Array, " d"]:
        """A gradient by the unconstrained vector as one by the coordinates."""
        return self.factor.T @ slope if self.factor.ndim == 2 else self.factor * slope


def check_settings(settings: Any) -> None:
    """**Raises:** `ValueError` naming the setting that cannot be."""
    if not settings.step_size > 0:
        raise ValueError(f"step_size: a positive number is wanted, got {settings.step_size!r}")
    if settings.num_steps < 1:
        raise ValueError(f"num_steps: at least one step a draw is wanted, got {settings.num_steps}")
    if settings.warmup < 0:
        raise ValueError(f"warmup: a number of draws from 0 up is wanted, got {settings.warmup}")
    if settings.control_variates and not settings.precondition:
        raise ValueError("control_variates: they are centred at the mode, which precondition=True finds")


def minibatches_of(program: Program, label: str) -> Minibatches:
    """What stochastic-gradient samplers move by.

    **Raises:** `ValueError` for discrete sites, and for latent sites inside a plate that subsamples, of which a
    minibatch would move some elements only.
    """
    structure = program.structure
    for site in structure.discrete:
        raise ValueError(f"model: {label} does not sum out discrete sites such as {site.name!r}; use NUTS")
    for site in structure.latents:
        for name, _, _ in structure.subsampled:
            if name in site.dims:
                raise ValueError(
                    f"model: the latent site {site.name!r} is inside the plate {name!r}, which subsamples; {label} "
                    "moves all latent sites at each step, so that they must be outside of it"
                )
    return Minibatches(program)


def framed(target: Minibatches, start: Float[Array, " d"], precondition: bool) -> Frame:
    """The coordinates of a chain from its start."""
    if not precondition:
        return Frame(start, jnp.ones_like(start), jnp.zeros_like(start))
    mode = mode_near(target.whole, start, _ITERATIONS)
    hessian, definite = curvature(target.whole, mode)
    hessian = eqx.error_if(
        hessian,
        ~definite,
        "precondition: no mode was found from a start (minus the Hessian is not positive definite there: a density "
        "that rises to the boundary, or a direction that the data do not identify). Take precondition=False, "
        "control_variates=False and a step_size in units of the model, or NUTS",
    )
    root = jnp.linalg.cholesky(hessian)
    factor = jax.scipy.linalg.solve_triangular(root.T, jnp.eye(start.shape[0], dtype=start.dtype), lower=False)
    return Frame(mode, factor, jax.grad(target.whole)(mode))


def slope_at(
    key: Key[Array, ""], target: Minibatches, frame: Frame, u: Float[Array, " d"], control_variates: bool
) -> Float[Array, " d"]:
    r"""An unbiased estimate of the gradient by the coordinates, from one minibatch.

    With control variates, $\nabla \hat\ell(\theta) - \nabla \hat\ell(c) + \nabla \ell(c)$ of the same minibatch, whose
    noise vanishes at the centre $c$ (Baker, Fearnhead, Fox & Nemeth 2019, eq. 4).
    """
    slope = target.slope(key, frame.out(u))
    if control_variates:
        slope = slope - target.slope(key, frame.centre) + frame.slope
    return frame.pulled(slope)


def warmed(
    method: Any, keys: Key[Array, " chains"], target: Minibatches, positions: Float[Array, "chains d"], states: PyTree
) -> tuple[PyTree, Frame]:
    """States after the draws of the warm-up, and the coordinates of each chain, whose states begin at its centre."""
    # One chain after another: under vmap the line searches of all would wait for the slowest.
    frames = jax.lax.map(lambda start: framed(target, start, method.precondition), positions)

    def step(states: PyTree, t: Int[Array, ""]) -> tuple[PyTree, None]:
        return method.step(jax.vmap(jax.random.fold_in, (0, None))(keys, t), target, states, frames)[0], None

    states, _ = jax.lax.scan(step, states, jnp.arange(method.warmup))
    return states, frames


def walked(
    keys: Key[Array, " chains"],
    states: PyTree,
    frames: Frame,
    num: int,
    once: Callable[[Key[Array, ""], PyTree, Frame], PyTree],
) -> PyTree:
    """The states of all chains after `num` steps `once(key, state, frame)`."""

    def one(key: Key[Array, ""], state: PyTree, frame: Frame) -> PyTree:
        return jax.lax.scan(lambda s, k: (once(k, s, frame), None), state, jax.random.split(key, num))[0]

    return each_chain(one, keys, states, frames)


def located(frames: Frame, coordinates: Float[Array, "chains d"]) -> Float[Array, "chains d"]:
    """The unconstrained vectors of all chains."""
    return jax.vmap(Frame.out)(frames, coordinates)
