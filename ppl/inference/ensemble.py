"""Samplers adapted across chains, for many chains on wide hardware: ChEES-HMC and MEADS. Kernels are blackjax's."""

import dataclasses
from typing import Any, ClassVar

import blackjax
import jax
import jax.numpy as jnp
import optax
from blackjax.adaptation.base import get_filter_adapt_info_fn
from blackjax.mcmc import dynamic_hmc, ghmc
from jaxtyping import Array, Float, Key, PyTree, Shaped

from ppl.inference.densities import LogDensity
from ppl.inference.hmc import check_adaptation, hamiltonian_stats


@dataclasses.dataclass(frozen=True)
class ChEES:
    """HMC whose trajectory length maximises the change in the squared distance from the mean; one step size for all.

    **Arguments:** `warmup`: steps of adaptation; `target_accept`: harmonic mean acceptance over chains; `step_size` and
    `learning_rate`: where the step size starts, and Adam's rate for the trajectory length.

    Wants 16 chains or more: the criterion is an average over chains.

    **Source:** Hoffman, Radul & Sountsov (2021), An adaptive MCMC scheme for setting trajectory lengths.
    """

    warmup: int = 1000
    target_accept: float = 0.651
    step_size: float = 0.1
    learning_rate: float = 0.025

    ensemble: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_adaptation(self.warmup, self.target_accept)

    def warm(
        self, keys: Key[Array, " chains"], log_density: LogDensity, positions: Float[Array, "chains d"]
    ) -> tuple[PyTree, PyTree]:
        if positions.shape[0] < 2:
            raise ValueError(
                "chains: ChEES learns from differences between chains, so at least 2 (better 16) are wanted"
            )
        adaptation = blackjax.chees_adaptation(
            log_density,
            positions.shape[0],
            target_acceptance_rate=self.target_accept,
            adaptation_info_fn=get_filter_adapt_info_fn(),
        )
        run: Any = adaptation.run
        (states, found), _ = run(keys[0], positions, self.step_size, optax.adam(self.learning_rate), self.warmup)
        return states, {
            "step_size": found["step_size"],
            "inverse_mass_matrix": found["inverse_mass_matrix"],
            "num_steps": found["integration_steps_params"][0],
        }

    def step(
        self, keys: Key[Array, " chains"], log_density: LogDensity, states: PyTree, parameters: PyTree
    ) -> tuple[PyTree, Float[Array, "chains d"], dict[str, Shaped[Array, " chains"]]]:
        # Halton's sequence jitters the length, alike in all chains; 20 bits serve a million draws.
        kernel = dynamic_hmc.build_kernel(
            next_random_arg_fn=lambda i: i + 1,
            integration_steps_fn=lambda i, steps: jnp.ceil(dynamic_hmc.halton_sequence(i, 20) * steps).astype(int),
        )

        def one(key: Any, state: Any) -> Any:
            matrix, length = parameters["inverse_mass_matrix"], (parameters["num_steps"],)
            return kernel(key, state, log_density, parameters["step_size"], matrix, length)

        states, info = jax.vmap(one)(keys, states)
        chains = info.acceptance_rate.shape
        stats = hamiltonian_stats(states, info, jnp.broadcast_to(parameters["step_size"], chains))
        return states, states.position, stats | {"n_steps": info.num_integration_steps}


@dataclasses.dataclass(frozen=True)
class MEADS:
    """Generalised HMC with persistent momentum, tuned in the warm-up from statistics of folds of chains.

    **Arguments:** `warmup`: steps of adaptation; `num_folds`: groups of chains, each tuned from another.

    Statistics of a fold want chains: with four in each, two of ten runs on a normal of unknown mean and scale stood
    still (R-hat and effective sample size tell); with sixteen in each, none of ten.

    **Source:** Hoffman & Sountsov (2022), Tuning-free generalized Hamiltonian Monte Carlo.
    """

    warmup: int = 1000
    num_folds: int = 4

    ensemble: ClassVar[bool] = True

    def warm(
        self, keys: Key[Array, " chains"], log_density: LogDensity, positions: Float[Array, "chains d"]
    ) -> tuple[PyTree, PyTree]:
        chains = positions.shape[0]
        if chains % self.num_folds or chains < 2 * self.num_folds:
            raise ValueError(
                f"chains: MEADS wants a multiple of num_folds={self.num_folds}, two a fold at least; got {chains}"
            )
        adaptation = blackjax.meads_adaptation(
            log_density, chains, num_folds=self.num_folds, adaptation_info_fn=get_filter_adapt_info_fn()
        )
        run: Any = adaptation.run
        (states, found), _ = run(keys[0], positions, self.warmup)
        return states, {name: found[name] for name in ("step_size", "momentum_inverse_scale", "alpha", "delta")}

    def step(
        self, keys: Key[Array, " chains"], log_density: LogDensity, states: PyTree, parameters: PyTree
    ) -> tuple[PyTree, Float[Array, "chains d"], dict[str, Shaped[Array, " chains"]]]:
        kernel = ghmc.build_kernel()

        def one(key: Any, state: Any) -> Any:
            scale, alpha, delta = (parameters[name] for name in ("momentum_inverse_scale", "alpha", "delta"))
            return kernel(key, state, log_density, parameters["step_size"], scale, alpha, delta)

        states, info = jax.vmap(one)(keys, states)
        chains = info.acceptance_rate.shape
        stats = hamiltonian_stats(states, info, jnp.broadcast_to(parameters["step_size"], chains))
        return states, states.position, stats
