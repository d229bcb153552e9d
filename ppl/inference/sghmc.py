"""Stochastic-gradient Hamiltonian Monte Carlo: Langevin dynamics with momentum."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from blackjax.sgmcmc import diffusions
from jaxtyping import Array, Float, Key, PyTree, Shaped

from ppl.inference.program import Program
from ppl.inference.stochastic_gradient import (
    Frame,
    Minibatches,
    check_settings,
    located,
    minibatches_of,
    slope_at,
    walked,
    warmed,
)


@dataclasses.dataclass(frozen=True)
class SGHMC:
    r"""Stochastic-gradient Hamiltonian Monte Carlo with friction: a momentum averages the gradients of minibatches.

    $u \leftarrow u + \epsilon p$ and $p \leftarrow (1 - \alpha \epsilon) p + \epsilon \nabla \hat\ell(u) + \sqrt{2
    \alpha \epsilon}\, \xi$, with minibatches as of `SGLD`.

    **Arguments:** `step_size`: $\epsilon$, in posterior standard deviations at the mode; `friction`: $\alpha$;
    `num_steps`, `warmup`, `control_variates`, `precondition`: as of `SGLD`.

    **What it assumes:** that a small bias will do, smaller than that of `SGLD` at steps of the same reach: in a
    Gaussian posterior the variance comes out larger by $1 + \epsilon^2 / 4$ to second order and, without control
    variates, by about another $1 + \epsilon N / 2 m \alpha$.

    **Source:** Chen, Fox & Guestrin (2014), Alg. 2, with a noise estimate of zero, and without drawing momenta anew.
    The gradient is taken after the move of $u$, as there; blackjax's kernel takes it before, which costs an order of
    accuracy, so that only its update of the momentum is used.
    """

    step_size: float = 0.1
    friction: float = 1.0
    num_steps: int = 20
    warmup: int = 100
    control_variates: bool = True
    precondition: bool = True

    minibatches: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_settings(self)
        if not 0 < self.friction * self.step_size < 1:
            raise ValueError(
                f"friction: a positive number below 1 / step_size = {1 / self.step_size:.4g} is wanted, got "
                f"{self.friction!r}"
            )

    def target(self, program: Program) -> Minibatches:
        return minibatches_of(program, "SGHMC")

    def warm(
        self, keys: Key[Array, " chains"], target: Minibatches, positions: Float[Array, "chains d"]
    ) -> tuple[PyTree, PyTree]:
        keys_momentum, keys_warm = jax.vmap(jax.random.split, out_axes=1)(keys)
        momenta = jax.vmap(lambda key, like: jax.random.normal(key, like.shape, like.dtype))(keys_momentum, positions)
        return warmed(self, keys_warm, target, positions, (jnp.zeros_like(positions), momenta))

    def step(
        self, keys: Key[Array, " chains"], target: Minibatches, states: PyTree, parameters: PyTree
    ) -> tuple[PyTree, Float[Array, "chains d"], dict[str, Shaped[Array, " chains"]]]:
        integrator = diffusions.sghmc(alpha=self.friction)

        def once(key: Key[Array, ""], state: Any, frame: Frame) -> Any:
            u, momentum = state
            key_batch, key_noise = jax.random.split(key)
            ahead = u + self.step_size * momentum  # where the integrator moves to
            slope = slope_at(key_batch, target, frame, ahead, self.control_variates)
            return integrator(key_noise, u, momentum, slope, self.step_size)

        states = walked(keys, states, parameters, self.num_steps, once)
        kinetic = 0.5 * jnp.sum(states[1] ** 2, axis=1)
        return states, located(parameters, states[0]), {"kinetic_energy": kinetic}
