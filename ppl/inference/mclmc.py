"""Microcanonical Langevin Monte Carlo: no accept step, and a bias that the energy error per dimension bounds."""

import dataclasses
from typing import Any

import jax
from blackjax import mclmc_find_L_and_step_size
from blackjax.mcmc import mclmc
from jaxtyping import Array, Float, Key, PyTree, Shaped

from ppl.inference.batching import each_chain
from ppl.inference.densities import LogDensity


@dataclasses.dataclass(frozen=True)
class MCLMC:
    """Unadjusted microcanonical Langevin dynamics.

    Draws are biased a little: `energy_variance`, the variance of the energy error per dimension that the step size is
    tuned to, says how little. Where that matters, check against NUTS.

    **Arguments:** `warmup`: steps of tuning; `energy_variance`: smaller is less biased and slower.

    **Source:** Robnik, De Luca, Silverstein & Seljak (2023), Microcanonical Hamiltonian Monte Carlo.
    """

    warmup: int = 2000
    energy_variance: float = 5e-4

    def warm(
        self, keys: Key[Array, " chains"], log_density: LogDensity, positions: Float[Array, "chains d"]
    ) -> tuple[PyTree, PyTree]:
        if positions.shape[1] < 2:
            raise ValueError("method: MCLMC moves on a sphere of momenta, so the model needs two dimensions at least")
        kernel = mclmc.build_kernel()

        def one(key: Any, position: Any) -> Any:
            key_start, key_tune = jax.random.split(key)
            state = mclmc.init(position, log_density, key_start)
            state, found, _ = mclmc_find_L_and_step_size(
                kernel,
                self.warmup,
                state,
                key_tune,
                logdensity_fn=log_density,
                frac_tune1=0.4,  # all of the warm-up is tuning: 0.4, 0.4 and 0.2 of it
                frac_tune2=0.4,
                frac_tune3=0.2,
                desired_energy_var=self.energy_variance,
            )
            return state, {"L": found.L, "step_size": found.step_size, "scale": found.inverse_mass_matrix}

        return each_chain(one, keys, positions)

    def step(
        self, keys: Key[Array, " chains"], log_density: LogDensity, states: PyTree, parameters: PyTree
    ) -> tuple[PyTree, Float[Array, "chains d"], dict[str, Shaped[Array, " chains"]]]:
        kernel = mclmc.build_kernel()

        def one(key: Any, state: Any, parameters: Any) -> Any:
            return kernel(key, state, log_density, parameters["scale"], parameters["L"], parameters["step_size"])

        states, info = each_chain(one, keys, states, parameters)
        stats = {"lp": states.logdensity, "energy_error": info.energy_change, "step_size": parameters["step_size"]}
        return states, states.position, stats
