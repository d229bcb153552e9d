"""Cyclical stochastic-gradient Langevin dynamics: large steps find modes, small ones draw from them, over and over."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree, Shaped

from ppl.inference.program import Program
from ppl.inference.sgld import langevin, unmoved
from ppl.inference.stochastic_gradient import (
    Frame,
    Minibatches,
    check_settings,
    located,
    minibatches_of,
    walked,
    warmed,
)


@dataclasses.dataclass(frozen=True)
class CyclicalSGLD:
    r"""Stochastic-gradient Langevin dynamics whose step size falls by a cosine and starts anew, to visit many modes.

    A cycle of K steps has sizes $\epsilon_k = \frac{\epsilon_0}{2} (\cos(\pi k / K) + 1)$. The first `explore_steps` of
    them find a mode; the rest are cut into `draws_per_cycle` draws of `num_steps` steps.

    **Arguments:**

    - `step_size`: $\epsilon_0$, in units of the posterior's variance at the mode that a chain starts from. Near 2 a
      chain swings far beyond its mode; from 2 on it runs away.
    - `explore_steps`, `draws_per_cycle`, `num_steps`: lengths, see above. `warmup`: draws before the first kept.
    - `temperature`: of the noise while exploring. The paper has 0, gradient steps alone; with 1 large steps also cross
      barriers where minibatches are not noisy.
    - `precondition`: as of `SGLD`. There are no control variates, which know one mode only.

    **What it assumes:** that finding modes matters more than their weights: how often a mode is visited depends on its
    basin under large steps, and not on its mass. Within a mode there is the bias of `SGLD`. For weights take
    `TemperedSMC`.

    **Source:** Zhang, Li, Zhang, Chen & Wilson (2020), eq. 1 and Alg. 1.
    """

    step_size: float = 1.0
    explore_steps: int = 200
    draws_per_cycle: int = 10
    num_steps: int = 10
    temperature: float = 1.0
    warmup: int = 0
    precondition: bool = True

    minibatches: ClassVar[bool] = True
    control_variates: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_settings(self)
        for name, value in (("explore_steps", self.explore_steps), ("draws_per_cycle", self.draws_per_cycle)):
            if value < 1:
                raise ValueError(f"{name}: at least one is wanted, got {value}")
        if self.temperature < 0:
            raise ValueError(f"temperature: a number from 0 up is wanted, got {self.temperature!r}")

    def target(self, program: Program) -> Minibatches:
        return minibatches_of(program, "CyclicalSGLD")

    def warm(
        self, keys: Key[Array, " chains"], target: Minibatches, positions: Float[Array, "chains d"]
    ) -> tuple[PyTree, PyTree]:
        return warmed(self, keys, target, positions, unmoved(positions))

    def step(
        self, keys: Key[Array, " chains"], target: Minibatches, states: PyTree, parameters: PyTree
    ) -> tuple[PyTree, Float[Array, "chains d"], dict[str, Shaped[Array, " chains"]]]:
        length = self.explore_steps + self.draws_per_cycle * self.num_steps

        def once(key: Key[Array, ""], state: Any, frame: Frame) -> Any:
            at = state[1] % length
            size = 0.5 * self.step_size * (jnp.cos(jnp.pi * at / length) + 1)
            heat = jnp.where(at < self.explore_steps, self.temperature, 1.0)
            return langevin(key, state, target, frame, size, heat, self.control_variates)

        keys_explore, keys_draw = jax.vmap(jax.random.split, out_axes=1)(keys)

        def explore(states: PyTree) -> PyTree:
            return walked(keys_explore, states, parameters, self.explore_steps, once)

        # All chains are at the same place of their cycles.
        states = jax.lax.cond(states[1][0] % length == 0, explore, lambda states: states, states)
        states = walked(keys_draw, states, parameters, self.num_steps, once)
        return states, located(parameters, states[0]), {"cycle": (states[1] - 1) // length}
