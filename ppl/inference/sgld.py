"""Stochastic-gradient Langevin dynamics, with steps of one size or falling."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from blackjax.sgmcmc import sgld
from jaxtyping import Array, Float, Int, Key, PyTree, Shaped

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
class SGLD:
    r"""Stochastic-gradient Langevin dynamics: each step takes the gradient of one minibatch, and none is refused.

    Minibatches are NumPyro's: `with numpyro.plate("n", N, subsample_size=m) as index:` in the model, whose data are
    then `y[index]` or `numpyro.subsample(y, event_dim=0)`. They are drawn anew at each step, with replacement.

    **Arguments:**

    - `step_size`: $\epsilon$ in $u \leftarrow u + \epsilon \nabla \hat\ell + \sqrt{2 \epsilon}\, \xi$, in units of the
      posterior's variance at its mode (in those of the unconstrained vector without `precondition`).
    - `decay`, `offset`: $\gamma$ and $b$ of steps $\epsilon (1 + t / b)^{-\gamma}$; 0 keeps them. With $\gamma$ in
      (0.5, 1] the bias vanishes; means are then to be weighted by `post.stats["step_size"]` (Welling & Teh, eq. 11).
    - `num_steps`: steps a draw. `warmup`: draws before the first that is kept.
    - `control_variates`: gradients as differences from those at the mode, which are far less noisy near it.
    - `precondition`: scale by the Hessian at a mode, found on all of the data. Without it chains start as those of
      other methods, and `step_size` must suit the model.

    **What it assumes:** that a small bias will do. In a Gaussian posterior the variance comes out larger by
    $1 / (1 - \epsilon / 2)$ and, without control variates, by about another $1 + \epsilon N / 2 m$: at
    $\epsilon = 0.05$ a standard deviation too large by 1.3%, and by half for $N / m = 50$. Where curvature is more than
    $2 / \epsilon$ times that at the mode, chains run away, and `diagnose()` finds values that are not finite.

    **Source:** Welling & Teh (2011), eq. 4; Baker, Fearnhead, Fox & Nemeth (2019) for control variates.
    """

    step_size: float = 0.05
    decay: float = 0.0
    offset: int = 1000
    num_steps: int = 10
    warmup: int = 100
    control_variates: bool = True
    precondition: bool = True

    minibatches: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_settings(self)
        if not 0 <= self.decay <= 1:
            raise ValueError(f"decay: an exponent between 0 and 1 is wanted, got {self.decay!r}")
        if self.offset < 1:
            raise ValueError(f"offset: at least one step is wanted, got {self.offset}")

    def target(self, program: Program) -> Minibatches:
        return minibatches_of(program, "SGLD")

    def warm(
        self, keys: Key[Array, " chains"], target: Minibatches, positions: Float[Array, "chains d"]
    ) -> tuple[PyTree, PyTree]:
        return warmed(self, keys, target, positions, unmoved(positions))

    def step(
        self, keys: Key[Array, " chains"], target: Minibatches, states: PyTree, parameters: PyTree
    ) -> tuple[PyTree, Float[Array, "chains d"], dict[str, Shaped[Array, " chains"]]]:
        def once(key: Key[Array, ""], state: Any, frame: Frame) -> Any:
            return langevin(key, state, target, frame, self._size(state[1]), 1.0, self.control_variates)

        states = walked(keys, states, parameters, self.num_steps, once)
        return states, located(parameters, states[0]), {"step_size": self._size(states[1])}

    def _size(self, t: Int[Array, "*chains"]) -> Float[Array, "*chains"]:
        return self.step_size * (1 + t / self.offset) ** -self.decay


def unmoved(positions: Float[Array, "chains d"]) -> PyTree:
    """Chains at their centres, and the number of steps that each has made."""
    return jnp.zeros_like(positions), jnp.zeros(positions.shape[0], jnp.int32)


def langevin(
    key: Key[Array, ""],
    state: Any,
    target: Minibatches,
    frame: Frame,
    size: Float[Array, ""],
    temperature: float | Float[Array, ""],
    control_variates: bool,
) -> Any:
    """One Langevin step of a chain by one minibatch."""
    u, t = state
    key_batch, key_noise = jax.random.split(key)

    def slope(u: Any, key: Any) -> Any:
        return slope_at(key, target, frame, u, control_variates)

    return sgld.build_kernel()(key_noise, u, slope, key_batch, size, temperature), t + 1
