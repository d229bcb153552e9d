r"""Particle Gibbs: the path given the parameters by conditional SMC, the parameters given the path by slice sampling.

With ancestor sampling, which joins the kept path to another past at every step, paths mix with few particles.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from blackjax.mcmc import slice
from jaxtyping import Array, Bool, Float, Key, PyTree, Shaped

from ppl import smc
from ppl.inference.batching import each_chain
from ppl.inference.covariance import seen, started, window_ends
from ppl.inference.densities import guarded
from ppl.inference.pmmh import filtered_path, first_parameters
from ppl.inference.program import Program
from ppl.inference.random_walk import sweep
from ppl.inference.state_space import Potential, StateSpace, check_filter, with_paths

_WIDTH = 2.0  # of the first bracket of a slice, in posterior standard deviations


class _State(NamedTuple):
    position: Float[Array, "*chains d"]
    log_density: Float[Array, "*chains"]


@dataclasses.dataclass(frozen=True)
class ParticleGibbs:
    """Particle Gibbs, with ancestor sampling unless it is switched off.

    **Arguments:**

    - `num_particles`: of the conditional filter, the kept path among them; 2 or more.
    - `warmup`: sweeps before draws are kept, in which the slices learn the covariance of the parameters.
    - `num_moves`: slices of the parameters in a sweep; left out, as many as there are parameters.
    - `filter`: `"bootstrap"` or `"guided"`. `ancestor_sampling`: see `ppl.smc.conditional_smc`.
    - `state`: sites before the loop that belong to the state.

    A draw counts each sweep. `post.stats["path_renewed"]` is the fraction of steps whose state a sweep has changed.

    **Source:** Andrieu, Doucet & Holenstein (2010), § 2.4.3; Lindsten, Jordan & Schön (2014), Alg. 3; Neal (2003).
    """

    num_particles: int = 50
    warmup: int = 500
    num_moves: int | None = None
    filter: str = "bootstrap"
    ancestor_sampling: bool = True
    state: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        check_filter(self.filter, smc.Policy())
        if self.filter == "auxiliary":
            raise ValueError("filter: particle Gibbs takes 'bootstrap' or 'guided', got 'auxiliary'")
        if self.num_particles < 2:
            raise ValueError(f"num_particles: the kept path and one more are wanted, got {self.num_particles}")

    def target(self, program: Program) -> StateSpace:
        """**Raises:** `ValueError` for a program that is no state-space model; see `StateSpace`."""
        return with_paths(program, self.state, "ParticleGibbs")

    def warm(
        self, keys: Key[Array, " chains"], space: StateSpace, positions: Float[Array, "chains d"]
    ) -> tuple[PyTree, PyTree]:
        def one(key: Key[Array, ""], position: Float[Array, " d"]) -> Any:
            key_theta, key_path, key_run = jax.random.split(key, 3)
            theta = first_parameters(key_theta, space, position)
            _, position = filtered_path(key_path, space, theta, self.num_particles, self.filter, smc.Policy())

            def adapt(carry: Any, scanned: tuple[Key[Array, ""], Bool[Array, ""]]) -> tuple[Any, None]:
                position, windowed = carry
                key, end = scanned
                position = self._sweep(key, space, position, windowed.factor)
                return (position, seen(windowed, space.parameters(position), end)), None

            scanned = (jax.random.split(key_run, self.warmup), jnp.asarray(window_ends(self.warmup)))
            (position, windowed), _ = jax.lax.scan(adapt, (position, started(theta)), scanned)
            return _State(position, space.program.log_density(position)), {"factor": windowed.factor}

        return each_chain(one, keys, positions)

    def step(
        self, keys: Key[Array, " chains"], space: StateSpace, states: PyTree, parameters: PyTree
    ) -> tuple[PyTree, Float[Array, "chains d"], dict[str, Shaped[Array, " chains"]]]:
        def one(key: Key[Array, ""], state: _State, learned: dict[str, Array]) -> tuple[_State, Array]:
            position = self._sweep(key, space, state.position, learned["factor"])
            path = space.path_index
            renewed = jnp.mean((position[path] != state.position[path]).astype(position.dtype))
            return _State(position, space.program.log_density(position)), renewed

        states, renewed = each_chain(one, keys, states, parameters)
        return states, states.position, {"lp": states.log_density, "path_renewed": renewed}

    def _sweep(
        self, key: Key[Array, ""], space: StateSpace, position: Float[Array, " d"], factor: Float[Array, "p p"]
    ) -> Float[Array, " d"]:
        """Parameters given the path, then the path given the parameters."""
        key_theta, key_path = jax.random.split(key)
        places = space.parameter_index
        if len(places):

            def given_path(theta: Float[Array, " p"]) -> Float[Array, ""]:
                return space.program.log_density(position.at[places].set(theta))

            log_density = guarded(given_path)
            start = slice.init(position[places], log_density)
            moved, _ = sweep(key_theta, log_density, start, factor, _WIDTH, self.num_moves)
            position = position.at[places].set(moved.position)
        theta, guided = position[places], self.filter == "guided"
        path, _ = smc.conditional_smc(
            key_path,
            space.model(theta, self.filter),
            space.path(theta, position, guided),
            space.inputs(),
            num_particles=self.num_particles,
            log_transition=space.log_transition(theta) if self.ancestor_sampling else None,
            log_potential=Potential(space, theta, guided) if self.ancestor_sampling else None,
        )
        return space.flat(theta, path.states)
