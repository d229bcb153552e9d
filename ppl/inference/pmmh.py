r"""Particle marginal Metropolis-Hastings: a random walk on the static parameters, whose likelihood a filter estimates.

The estimate $\hat p(y \mid \theta)$ of a particle filter is unbiased, so the chain on $\theta$ and all of the filter's
randomness leaves the exact posterior of $\theta$ invariant, for any number of particles; a path drawn from the filter
by its weights is a draw of the states' posterior.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key, PyTree, Shaped

from ppl import smc
from ppl.inference.batching import each_chain
from ppl.inference.densities import never_nan
from ppl.inference.program import Program
from ppl.inference.random_walk import adapted_walk
from ppl.inference.state_space import StateSpace, check_filter, with_paths
from ppl.smc.driver import filter as particle_filter
from ppl.smc.genealogy import follow, kept, lineages
from ppl.smc.resampling import multinomial

# The variance of the log likelihood estimate is measured by as many filters at the end of the warm-up.
_REPLICATES = 20


class Visited(NamedTuple):
    """A visited point: the flat vector of parameters and path, and what the filter said there."""

    position: Float[Array, "*chains d"]
    theta: Float[Array, "*chains p"]
    log_prior: Float[Array, "*chains"]
    log_likelihood: Float[Array, "*chains"]


@dataclasses.dataclass(frozen=True)
class PMMH:
    """Particle marginal Metropolis-Hastings for a model with a `scan` or `ppl.markov`.

    **Arguments:**

    - `num_particles`: of the filter. Best is a standard deviation of the log likelihood between 1 and 1.7;
      `post.stats["log_likelihood_sd"]` says what it is.
    - `warmup`: steps in which covariance and scale of the random walk are learned; they are fixed after it.
    - `filter`: `"bootstrap"`, `"guided"` or `"auxiliary"`; see `ppl.inference.particle_filter`.
    - `target_accept`: the acceptance that the scale is tuned to. Noise refuses proposals too: 7% is best for large
      noise, 23% without.
    - `policy`: when and how the filter resamples. `state`: sites before the loop that belong to the state.

    **Source:** Andrieu, Doucet & Holenstein (2010), § 2.4.2; Sherlock, Thiery, Roberts & Rosenthal (2015) for the
    acceptance and the noise.
    """

    num_particles: int = 200
    warmup: int = 2000
    filter: str = "bootstrap"
    target_accept: float = 0.15
    policy: smc.Policy = smc.Policy()
    state: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        check_filter(self.filter, self.policy)
        if self.num_particles < 1:
            raise ValueError(f"num_particles: at least one is wanted, got {self.num_particles}")

    def target(self, program: Program) -> StateSpace:
        """**Raises:** `ValueError` for a program that is no state-space model; see `StateSpace`."""
        return with_paths(program, self.state, "PMMH")

    def warm(
        self, keys: Key[Array, " chains"], space: StateSpace, positions: Float[Array, "chains d"]
    ) -> tuple[PyTree, PyTree]:
        def one(key: Key[Array, ""], position: Float[Array, " d"]) -> tuple[Visited, dict[str, Array]]:
            key_first, key_walk, key_noise = jax.random.split(key, 3)
            theta = first_parameters(key_first, space, position)
            # Of likelihood zero, so that the first step with a finite one is taken: no filter is compiled for it alone.
            nothing = jnp.full((), -jnp.inf, theta.dtype)
            first = Visited(position, theta, nothing, nothing)

            def step(
                key: Key[Array, ""], here: Visited, factor: Float[Array, "p p"], scale: Float[Array, ""]
            ) -> tuple[Visited, Float[Array, " p"], Float[Array, ""]]:
                here, rate = self._walk(key, space, here, factor, scale)
                return here, here.theta, rate

            here, parameters = adapted_walk(key_walk, step, first, first.theta, self.warmup, self.target_accept)
            again = jax.vmap(lambda k: self._visit(k, space, here.theta).log_likelihood)
            return here, parameters | {"noise": jnp.std(again(jax.random.split(key_noise, _REPLICATES)), ddof=1)}

        return each_chain(one, keys, positions)

    def step(
        self, keys: Key[Array, " chains"], space: StateSpace, states: PyTree, parameters: PyTree
    ) -> tuple[PyTree, Float[Array, "chains d"], dict[str, Shaped[Array, " chains"]]]:
        def one(key: Key[Array, ""], here: Visited, learned: dict[str, Array]) -> tuple[Visited, Array]:
            return self._walk(key, space, here, learned["factor"], learned["scale"])

        states, rates = each_chain(one, keys, states, parameters)
        stats = {
            "lp": states.log_prior + states.log_likelihood,
            "log_likelihood": states.log_likelihood,
            "acceptance_rate": rates,
            "log_likelihood_sd": parameters["noise"],
        }
        return states, states.position, stats

    def _walk(
        self,
        key: Key[Array, ""],
        space: StateSpace,
        here: Visited,
        factor: Float[Array, "p p"],
        scale: Float[Array, ""],
    ) -> tuple[Visited, Float[Array, ""]]:
        key_move, key_filter, key_accept = jax.random.split(key, 3)
        noise = jax.random.normal(key_move, here.theta.shape, here.theta.dtype)
        there = self._visit(key_filter, space, here.theta + scale * (factor @ noise))
        log_ratio = there.log_prior + there.log_likelihood - here.log_prior - here.log_likelihood
        accept, rate = accepted(key_accept, log_ratio)
        return jax.tree.map(lambda new, old: jnp.where(accept, new, old), there, here), rate

    def _visit(self, key: Key[Array, ""], space: StateSpace, theta: Float[Array, " p"]) -> Visited:
        log_likelihood, position = filtered_path(key, space, theta, self.num_particles, self.filter, self.policy)
        return Visited(position, theta, space.log_prior(theta), log_likelihood)


def accepted(
    key: Key[Array, ""], log_ratio: Float[Array, "*shape"]
) -> tuple[Bool[Array, "*shape"], Float[Array, "*shape"]]:
    """Whether Metropolis takes proposals of these log ratios (NaN is refused), and with what probability."""
    log_ratio = never_nan(log_ratio)
    return jnp.log(jax.random.uniform(key, log_ratio.shape)) < log_ratio, jnp.exp(jnp.minimum(log_ratio, 0))


def first_parameters(key: Key[Array, ""], space: StateSpace, position: Float[Array, " d"]) -> Float[Array, " p"]:
    """A draw of the prior where it is proper, as filters lose all their particles far from what it has in mind."""
    improper = set(space.program.structure.improper) & set(space.parts.parameters)
    return space.parameters(position if improper else space.program.prior_draw(key))


def filtered_path(
    key: Key[Array, ""], space: StateSpace, theta: Float[Array, " p"], num_particles: int, kind: str, policy: smc.Policy
) -> tuple[Float[Array, ""], Float[Array, " d"]]:
    """The log likelihood of one filter (NaN as `-inf`) and a path of it drawn by its weights, as the flat vector."""
    key_run, key_path = jax.random.split(key)
    run = particle_filter(
        key_run, space.model(theta, kind), space.inputs(), num_particles, policy, history=True, throw=False
    )
    history, ancestors = kept(run)
    final = multinomial(key_path, run.log_weights, 1)
    path = follow(history, lineages(ancestors)[:, final].T)[0]
    return never_nan(jnp.asarray(run.log_evidence)), space.flat(theta, path.states)
