"""What the combinators share: a kernel's view of the state inside a wrapper, and a count of steps."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from ppl.smc.feynman_kac import FeynmanKac, InitKernel, State, StepKernel


class OnInner(eqx.Module):
    """A model's function of `(..., state, u)`, for a wrapper whose state has the model's state as `.inner`."""

    function: Callable[..., Any]

    def __call__(self, *arguments: Any) -> Any:
        *front, state, u = arguments
        return self.function(*front, state.inner, u)


def rewrapped(model: FeynmanKac, init: InitKernel, step: StepKernel) -> FeynmanKac:
    """Kernels that wrap those of `model`, with its other functions seeing the state within the wrapper."""
    weights = None if model.resampling_weights is None else OnInner(model.resampling_weights)
    return FeynmanKac(init, step, weights, None if model.arrange is None else OnInner(model.arrange))


def num_particles(state: State) -> int:
    """The length of the particle axis. **Raises:** `ValueError` for a state without leaves."""
    leaves = jax.tree.leaves(state)
    if not leaves:
        raise ValueError("state: at least one array with a particle axis is wanted, got a pytree without leaves")
    return leaves[0].shape[0]


def first_clock(n: int) -> Int[Array, " n"]:
    """Steps taken so far: zero. A clock is kept for every particle, since every leaf has the particle axis."""
    return jnp.zeros(n, jnp.int32)


def choose(condition: Bool[Array, " n"], yes: State, no: State) -> State:
    """`yes` where the condition `[n]` holds, else `no`, for every leaf `[n, ...]` (typed keys among them)."""

    def pick(a: Array, b: Array) -> Array:
        return jnp.where(condition.reshape(condition.shape + (1,) * (a.ndim - 1)), a, b)

    return jax.tree.map(pick, yes, no)
