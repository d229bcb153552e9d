r"""Lookahead: weigh a particle by how its own short simulations fare.

After each step, a few pilots are simulated from every particle over the next steps; the mean of the product of their
potentials is an unbiased estimate of $E[G_{t+1} \cdots G_{t+k} \mid x_t]$. It is used as a random twist
(`ppl.smc.twisting`): multiplied in now and divided out at the next step as the very number that was drawn, so the
target does not depend on its quality. The cost is `steps * pilots` more kernel calls for each particle and step.

Pilots may all die where the particle itself would have lived. A twist of zero would then remove it from the target, so
the estimate is mixed with the population's mean estimate; the share is `defensive`.

**Source:** Lin, Chen & Liu (2013), Lookahead strategies for sequential Monte Carlo (pilot lookahead); a random twist is
an ordinary one on the space extended by the pilots.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key, PyTree

from ppl.smc.feynman_kac import FeynmanKac, InitKernel, Input, State, StepKernel
from ppl.smc.twisting import random_twist
from ppl.smc.wrapping import num_particles


class Ahead(NamedTuple):
    """A slice of inputs with those that follow it.

    - `now`: slice `t`.
    - `future`: slices `t + 1 .. t + k`, leaves `[k, ...]`; beyond the end the last slice is repeated.
    - `valid`: `[k]` whether each of them exists.
    """

    now: PyTree
    future: PyTree
    valid: Bool[Array, "*k"]


def ahead(inputs: PyTree, steps: int = 1) -> Ahead:
    """The inputs of a `lookahead` model: every slice together with the next `steps`.

    **Arguments:**

    - `inputs`: the inputs of the wrapped model, leaves `[T + 1, ...]`. For a model that takes the step index:
      `jnp.arange(T + 1)`.
    - `steps`: how far to look, 1 or more.

    **Returns:** `Ahead` with leaves `[T + 1, ...]`, `[T + 1, steps, ...]` and `[T + 1, steps]`.

    **Raises:** `ValueError` for no inputs, leaves of different length, or `steps < 1`.
    """
    if steps < 1:
        raise ValueError(f"steps: 1 or more is wanted, got {steps}")
    lengths = {int(np.shape(leaf)[0]) for leaf in jax.tree.leaves(inputs)}
    if len(lengths) != 1:
        raise ValueError(f"inputs: leaves of one length T + 1 are wanted, got lengths {sorted(lengths)}")
    (length,) = lengths
    index = np.arange(length)[:, None] + np.arange(1, steps + 1)
    clipped = jnp.asarray(np.minimum(index, length - 1))
    return Ahead(
        jax.tree.map(jnp.asarray, inputs),
        jax.tree.map(lambda leaf: jnp.asarray(leaf)[clipped], inputs),
        jnp.asarray(index < length),
    )


def lookahead(model: FeynmanKac, *, pilots: int = 1, defensive: float = 0.1) -> FeynmanKac:
    """`model`, twisted by pilot simulations over the next inputs.

    Run it on `ahead(inputs, steps)`, which also says how many steps the pilots take.

    **Arguments:**

    - `pilots`: simulations from each particle, 1 or more. All pilots of all particles are one kernel call a step.
    - `defensive`: share of the population's mean in each estimate, in (0, 1].

    **Returns:** a `FeynmanKac` with state `Twisted`, for inputs `Ahead`.

    **Raises:** `ValueError` for `pilots < 1` or `defensive` outside (0, 1].
    """
    if pilots < 1:
        raise ValueError(f"pilots: 1 or more is wanted, got {pilots}")
    if not 0 < defensive <= 1:
        raise ValueError(f"defensive: a share in (0, 1] is wanted, got {defensive!r}")
    now = FeynmanKac(
        _InitNow(model.init),
        _OnNow(model.step),
        None if model.resampling_weights is None else _OnNow(model.resampling_weights),
        None if model.arrange is None else _OnNow(model.arrange),
    )
    return random_twist(now, _Pilots(model.step, pilots, jnp.asarray(defensive)), last=_nothing_ahead)


def _nothing_ahead(state: State, u: Ahead) -> Bool[Array, ""]:
    return ~jnp.any(u.valid)


class _Pilots(eqx.Module):
    step: StepKernel
    pilots: int = eqx.field(static=True)
    defensive: Float[Array, ""]

    def __call__(self, key: Key[Array, ""], state: State, u: Ahead, /) -> Float[Array, " n"]:
        n = num_particles(state)
        copies = jax.tree.map(lambda leaf: jnp.repeat(leaf, self.pilots, axis=0), state)

        def move(copies: State, scanned: tuple[Key[Array, ""], Input, Bool[Array, ""]]) -> tuple[State, Array]:
            step_key, slice_, valid = scanned
            moved, log_potential = self.step(step_key, copies, slice_)
            return moved, jnp.where(valid, log_potential, jnp.zeros_like(log_potential))

        keys = jax.random.split(key, u.valid.shape[0])
        _, log_potentials = jax.lax.scan(move, copies, (keys, u.future, u.valid))
        log_products = jnp.sum(log_potentials, axis=0).reshape(n, self.pilots)
        estimate = jax.nn.logsumexp(log_products, axis=1) - jnp.log(jnp.asarray(self.pilots, log_products.dtype))
        share = self.defensive.astype(estimate.dtype)
        mean = jax.nn.logsumexp(estimate) - jnp.log(jnp.asarray(n, estimate.dtype))
        mixed = jnp.logaddexp(jnp.log1p(-share) + estimate, jnp.log(share) + mean)
        # If every pilot died the pilots say nothing, and a twist of 1 for all says nothing either.
        return jnp.where(jnp.isneginf(mean), jnp.zeros_like(mixed), mixed)


class _InitNow(eqx.Module):
    init: InitKernel

    def __call__(self, key: Key[Array, ""], n: int, u: Ahead, /) -> tuple[State, Float[Array, " n"]]:
        return self.init(key, n, u.now)


class _OnNow(eqx.Module):
    """A model's function of `(..., state, u)`, for inputs that hold more than the present slice."""

    function: Callable[..., Any]

    def __call__(self, *arguments: Any) -> Any:
        *front, u = arguments
        return self.function(*front, u.now)
