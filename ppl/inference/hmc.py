"""Hamiltonian Monte Carlo with Stan's warm-up, each chain adapted by itself. The kernel is blackjax's."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import blackjax
import jax
import jax.numpy as jnp
from blackjax.adaptation.base import get_filter_adapt_info_fn
from jaxtyping import Array, Float, Key, PyTree, Shaped

from ppl.inference.batching import each_chain
from ppl.inference.densities import LogDensity


@dataclasses.dataclass(frozen=True)
class HMC:
    """Hamiltonian Monte Carlo of a fixed number of leapfrog steps; all chains do the same work, which suits GPUs.

    **Arguments:** as of `NUTS`, and `num_steps`, the leapfrog steps of a draw.

    **Source:** Neal (2011).
    """

    num_steps: int = 16
    warmup: int = 1000
    target_accept: float = 0.8
    dense_mass: bool = False

    def __post_init__(self) -> None:
        check_adaptation(self.warmup, self.target_accept)
        if self.num_steps < 1:
            raise ValueError(f"num_steps: at least one leapfrog step is wanted, got {self.num_steps}")

    def warm(
        self, keys: Key[Array, " chains"], log_density: LogDensity, positions: Float[Array, "chains d"]
    ) -> tuple[PyTree, PyTree]:
        adaptation = blackjax.window_adaptation(
            without_overflow(blackjax.hmc),
            log_density,
            is_mass_matrix_diagonal=not self.dense_mass,
            target_acceptance_rate=self.target_accept,
            adaptation_info_fn=get_filter_adapt_info_fn(),  # keep nothing of the way
            num_integration_steps=self.num_steps,
        )

        def one(key: Any, position: Any) -> Any:
            (state, parameters), _ = adaptation.run(key, position, self.warmup)  # pyright: ignore[reportCallIssue]
            return state, {name: parameters[name] for name in ("step_size", "inverse_mass_matrix")}

        return each_chain(one, keys, positions)

    def step(
        self, keys: Key[Array, " chains"], log_density: LogDensity, states: PyTree, parameters: PyTree
    ) -> tuple[PyTree, Float[Array, "chains d"], dict[str, Shaped[Array, " chains"]]]:
        kernel = without_overflow(blackjax.hmc).build_kernel()

        def one(key: Any, state: Any, parameters: Any) -> Any:
            matrix = parameters["inverse_mass_matrix"]
            return kernel(key, state, log_density, parameters["step_size"], matrix, self.num_steps)

        states, info = each_chain(one, keys, states, parameters)
        return states, states.position, hamiltonian_stats(states, info, parameters["step_size"])


def hamiltonian_stats(
    states: Any, info: Any, step_size: Float[Array, " chains"]
) -> dict[str, Shaped[Array, " chains"]]:
    """Statistics that every Hamiltonian sampler has, by ArviZ's names."""
    return {
        "lp": states.logdensity,
        "acceptance_rate": info.acceptance_rate,
        "diverging": info.is_divergent,
        "energy": info.energy,
        "step_size": step_size,
    }


def without_overflow(algorithm: Any) -> Any:
    """`algorithm` (such as `blackjax.hmc`), whose kernel refuses proposals of energy `-inf`.

    Where the gradient is near the largest float, the products that a dense metric sums to the kinetic energy overflow
    to both signs, and their sum can be `-inf`: a proposal of log density -1e38 would always be accepted.
    """

    def build_kernel(*settings: Any, **options: Any) -> Any:
        kernel = algorithm.build_kernel(*settings, **options)

        def step(key: Key[Array, ""], state: Any, *rest: Any, **named: Any) -> Any:
            moved, info = kernel(key, state, *rest, **named)
            bad = jnp.isneginf(info.energy)
            rate = jnp.where(bad, 0.0, info.acceptance_rate)
            kept = jax.tree.map(lambda new, old: jnp.where(bad, old, new), moved, state)
            return kept, info._replace(acceptance_rate=rate)

        return step

    return SimpleNamespace(init=algorithm.init, build_kernel=build_kernel)


def check_adaptation(warmup: int, target_accept: float) -> None:
    """**Raises:** `ValueError` for no warm-up, in which the step size is found, or a target outside (0, 1)."""
    if warmup < 1:
        raise ValueError(f"warmup: at least one step, in which the step size is found, is wanted, got {warmup}")
    if not 0 < target_accept < 1:
        raise ValueError(f"target_accept: a probability strictly between 0 and 1 is wanted, got {target_accept!r}")
