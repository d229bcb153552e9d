r"""SMC$^2$: a particle system of static parameters, each with its own particle filter, as observations come in.

Parameter particles are weighted by the filters' estimates of $p(y_t \mid y_{1:t-1}, \theta)$; when too few of them
count they are resampled and moved by particle marginal Metropolis-Hastings on the data so far. The product of the mean
weights estimates the evidence without bias, for any number of particles on either level. When moves are refused too
often, filters are exchanged for larger ones, with the ratio of their estimates as a weight.
"""

import dataclasses
import time
from os import PathLike
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PyTree, Shaped

from ppl import smc
from ppl.inference.batching import check_batch_size, mapped
from ppl.inference.checkpoint import Checkpoint, storable
from ppl.inference.compiling import InOrder
from ppl.inference.densities import never_nan
from ppl.inference.pmmh import accepted
from ppl.inference.posterior import Posterior
from ppl.inference.program import Program, check_continuous
from ppl.inference.rejuvenation import check_target_ess, shapes_of_others
from ppl.inference.runs import independent_runs, posterior_of_runs
from ppl.inference.starts import check_start
from ppl.inference.state_space import Particle, StateSpace, check_filter, with_paths
from ppl.smc.driver import maybe_resample
from ppl.smc.resampling import multinomial, systematic
from ppl.smc.steps import Weighted, reweigh
from ppl.smc.variance import Genealogy, descend, found, relative_variance
from ppl.smc.weights import ess

# What is kept of each step.
_TRACES = ("log_evidence_increment", "parameter_ess", "move_acceptance", "num_particles")


class _Filter(NamedTuple):
    """One particle filter up to now, with what it takes to draw a path of it."""

    weighted: Weighted
    log_likelihood: Float[Array, "*theta"]
    values: dict[str, Shaped[Array, "..."]]  # [T + 1, n, ...], zero from the next step on
    ancestors: Int[Array, "*theta steps_and_init n"]


class _Swarm(NamedTuple):
    """Parameter particles, every leaf `[m, ...]`."""

    theta: Float[Array, "m p"]
    log_prior: Float[Array, " m"]
    filters: _Filter


@dataclasses.dataclass(frozen=True)
class SMC2:
    r"""SMC$^2$ for a model with a `scan` or `ppl.markov`: posterior of parameters and states, and the evidence.

    **Arguments:**

    - `num_particles`: of each parameter particle's filter, to begin with; doubled, up to `max_particles`, whenever
      fewer than `min_acceptance` of the moves of parameters are accepted.
    - `num_moves`: Metropolis steps of each parameter particle after a resampling.
    - `target_ess`: parameters are resampled when their effective sample size is below this fraction.
    - `filter`, `policy`, `state`: of the filters, as for `PMMH`.
    - `batch_size`: how many filters run at a time; all when left out. Memory is that of
      `draws * num_particles * length` states.

    `infer(..., chains=R, draws=M)` makes R independent runs of M parameter particles. `post.stats` has
    `log_evidence_increment` (log predictive densities $\log p(y_t \mid y_{1:t-1})$, entry 0 for what stands before
    the loop), `parameter_ess`, and by step `move_acceptance` (NaN without a move) and `num_particles`.

    **Source:** Chopin, Jacob & Papaspiliopoulos (2013), SMC$^2$, Alg. in § 2 and the exchange step of § 3.6.1.
    """

    num_particles: int = 100
    num_moves: int = 5
    target_ess: float = 0.5
    max_particles: int = 1600
    min_acceptance: float = 0.15
    filter: str = "bootstrap"
    policy: smc.Policy = smc.Policy()
    state: tuple[str, ...] | None = None
    batch_size: int | None = None

    def __post_init__(self) -> None:
        check_filter(self.filter, self.policy)
        for name, value in (("num_particles", self.num_particles), ("num_moves", self.num_moves)):
            if value < 1:
                raise ValueError(f"{name}: at least one is wanted, got {value}")
        check_target_ess(self.target_ess)
        check_batch_size(self.batch_size)

    def run(
        self,
        key: Key[Array, ""],
        program: Program,
        *,
        chains: int,
        draws: int,
        show_progress: bool,
        checkpoint: str | PathLike[str] | None = None,
    ) -> Posterior:
        """`chains` runs of `draws` parameter particles; see `ppl.infer`."""
        check_continuous(program, "SMC2")
        check_start(program, None, "SMC2")
        space = with_paths(program, self.state, "SMC2")
        if not space.parts.parameters:
            raise ValueError("model: it has no static parameter; ppl.inference.particle_filter is all it takes")
        begun = time.perf_counter()
        store = Checkpoint.of(checkpoint, program, self, key, {"chains": chains, "draws": draws})
        runs = independent_runs(
            key, _Swarming(space, self, draws), chains, "smc2", show_progress=show_progress, store=store
        )
        stats = {name: runs.traces[:, :, i] for i, name in enumerate(_TRACES)}
        return posterior_of_runs(
            program,
            runs.particles,
            stats["log_evidence_increment"].sum(axis=1, dtype=np.float64).astype(np.float32),
            runs.variance,
            method="smc2",
            log_weights=runs.log_weights,
            stats={**stats, "num_particles": stats["num_particles"].astype(int)},
            attrs={"seconds": time.perf_counter() - begun, "num_particles": int(stats["num_particles"].max())},
        )


class _Carry(NamedTuple):
    """A run after `t` steps. How many particles its filters have is in the shapes."""

    key_path: Key[Array, ""]
    key_run: Key[Array, ""]
    swarm: _Swarm
    log_weights: Float[Array, " m"]
    genealogy: Genealogy
    t: Int[Array, ""]
    traces: Float[Array, "generations traces"]


class _Run(NamedTuple):
    """What is kept of a run: flat vectors, log weights (log mean exp 0), the evidence's relative variance, traces."""

    particles: Float[Array, "m d"]
    log_weights: Float[Array, " m"]
    variance: Float[Array, ""]
    traces: Float[Array, "generations traces"]


@dataclasses.dataclass(frozen=True)
class _Swarming:
    """One run, step by step; the host looks how many are left, and how many moves are accepted."""

    space: StateSpace
    settings: SMC2
    num: int

    def begin(self, key: Key[Array, ""]) -> _Carry:
        """Parameters from the prior, and generation 0 of their filters."""
        key_start, key_path, key_run = jax.random.split(key, 3)
        swarm = _started(key_start, self.space, self.settings, self.num, self.settings.num_particles)
        log_weights, increment = _weighed(jnp.zeros(self.num), swarm.filters.log_likelihood)
        traces = jnp.full((self.space.parts.length + 1, len(_TRACES)), jnp.nan)
        row = jnp.stack([increment, ess(log_weights), jnp.nan, float(self.settings.num_particles)])
        genealogy = found(jnp.zeros(self.num))
        first = _Carry(key_path, key_run, swarm, log_weights, genealogy, jnp.asarray(0), traces.at[0].set(row))
        return storable(first)

    def advance(self, carry: _Carry, stages: Int[Array, ""]) -> tuple[_Carry, bool, float]:
        """Some steps more."""
        length = self.space.parts.length
        for _ in range(min(int(stages), length - int(carry.t))):
            carry = self._step(carry)
        return carry, int(carry.t) == length, int(carry.t) / length

    def _step(self, carry: _Carry) -> _Carry:
        space, settings, num = self.space, self.settings, self.num
        swarm, log_weights, genealogy = carry.swarm, carry.log_weights, carry.genealogy
        inner, before = swarm.filters.weighted.log_weights.shape[1], carry.t
        key_move, key_exchange, key_step = jax.random.split(jax.random.fold_in(carry.key_run, before + 1), 3)
        acceptance, added = np.nan, 0.0
        if float(ess(log_weights)) < settings.target_ess * num:
            swarm, genealogy, rate = _rejuvenated(key_move, space, settings, swarm, log_weights, genealogy, before)
            log_weights, acceptance = jnp.zeros(num), float(rate)
            if acceptance < settings.min_acceptance and 2 * inner <= settings.max_particles:
                inner *= 2
                swarm, ratio = _exchanged(key_exchange, space, settings, swarm, inner, before)
                log_weights, exchange = _weighed(log_weights, ratio)
                added = float(exchange)
        swarm, increments = _advanced(key_step, space, settings, swarm, before + 1)
        log_weights, increment = _weighed(log_weights, increments)
        if not np.isfinite(float(increment)):
            raise ValueError(
                f"model: at step {int(before) + 1} no parameter particle has a filter of finite likelihood; take more "
                "draws, or num_particles, or a guided filter"
            )
        row = jnp.asarray([float(increment) + added, float(ess(log_weights)), acceptance, inner])
        return carry._replace(
            swarm=swarm,
            log_weights=log_weights,
            genealogy=genealogy,
            t=before + 1,
            traces=carry.traces.at[before + 1].set(row),
        )

    def finish(self, carry: _Carry) -> _Run:
        """What is kept of a run: a path of each filter, too."""
        particles = _paths(carry.key_path, self.space, self.settings, carry.swarm)
        variance = relative_variance(carry.genealogy, carry.log_weights)
        return _Run(particles, carry.log_weights, variance, carry.traces)


@InOrder
def _weighed(
    log_weights: Float[Array, " m"], log_potential: Float[Array, " m"]
) -> tuple[Float[Array, " m"], Float[Array, ""]]:
    log_weights, increment, _ = reweigh(log_weights, log_potential)
    return log_weights, increment


@InOrder
def _started(key: Key[Array, ""], space: StateSpace, settings: SMC2, num: int, inner: int) -> _Swarm:
    def one(key: Key[Array, ""]) -> tuple[Array, Array, _Filter]:
        key_prior, key_filter = jax.random.split(key)
        theta = space.parameters(space.program.prior_draw(key_prior))
        return theta, space.log_prior(theta), _begin(key_filter, space, settings, theta, inner)

    return _Swarm(*mapped(one, settings.batch_size, jax.random.split(key, num)))


@InOrder
def _advanced(
    key: Key[Array, ""], space: StateSpace, settings: SMC2, swarm: _Swarm, t: Int[Array, ""]
) -> tuple[_Swarm, Float[Array, " m"]]:
    inputs = space.inputs()

    def one(key: Key[Array, ""], theta: Float[Array, " p"], state: _Filter) -> _Filter:
        return _advance(key, space, settings, theta, state, inputs, t)

    keys = jax.random.split(key, swarm.theta.shape[0])
    filters = mapped(one, settings.batch_size, keys, swarm.theta, swarm.filters)
    dead = jnp.isneginf(filters.log_likelihood)  # it may have been so before, and the difference is then NaN
    return swarm._replace(filters=filters), jnp.where(
        dead, -jnp.inf, filters.log_likelihood - swarm.filters.log_likelihood
    )


@InOrder
def _rejuvenated(
    key: Key[Array, ""],
    space: StateSpace,
    settings: SMC2,
    swarm: _Swarm,
    log_weights: Float[Array, " m"],
    genealogy: Any,
    t: Int[Array, ""],
) -> tuple[_Swarm, Any, Float[Array, ""]]:
    """Parameters resampled, and moved by PMMH on the data up to step `t`; their mean acceptance."""
    num, size = swarm.theta.shape
    inner = swarm.filters.weighted.log_weights.shape[1]
    key_resample, key_moves = jax.random.split(key)
    ancestors = systematic(key_resample, log_weights, num)  # sorted
    factors = shapes_of_others(swarm.theta, log_weights, ancestors).factor
    second = (jnp.arange(num) >= -(-num // 2))[:, None]
    scale = 2.38 / size**0.5
    genealogy = descend(genealogy, log_weights, ancestors, jnp.zeros(num))
    swarm = jax.tree.map(lambda leaf: leaf[ancestors], swarm)

    def visit(key: Key[Array, ""], theta: Float[Array, " p"]) -> tuple[Array, _Filter]:
        return space.log_prior(theta), _run_to(key, space, settings, theta, inner, t)

    def move(swarm: _Swarm, key: Key[Array, ""]) -> tuple[_Swarm, Float[Array, ""]]:
        key_noise, key_filter, key_accept = jax.random.split(key, 3)
        noise = jax.random.normal(key_noise, (num, size), swarm.theta.dtype)
        theta = swarm.theta + scale * jnp.where(second, noise @ factors[1].T, noise @ factors[0].T)
        log_prior, filters = mapped(visit, settings.batch_size, jax.random.split(key_filter, num), theta)
        there = _Swarm(theta, log_prior, filters)
        accept, rate = accepted(key_accept, _log_target(there) - _log_target(swarm))

        def pick(new: Array, old: Array) -> Array:
            return jnp.where(accept.reshape(num, *[1] * (new.ndim - 1)), new, old)

        return jax.tree.map(pick, there, swarm), jnp.mean(rate)

    swarm, rates = jax.lax.scan(move, swarm, jax.random.split(key_moves, settings.num_moves))
    return swarm, genealogy, jnp.mean(rates)


@InOrder
def _exchanged(
    key: Key[Array, ""], space: StateSpace, settings: SMC2, swarm: _Swarm, inner: int, t: Int[Array, ""]
) -> tuple[_Swarm, Float[Array, " m"]]:
    """Fresh filters of `inner` particles, and the log ratio of their likelihoods to those of the old."""

    def one(key: Key[Array, ""], theta: Float[Array, " p"]) -> _Filter:
        return _run_to(key, space, settings, theta, inner, t)

    filters = mapped(one, settings.batch_size, jax.random.split(key, swarm.theta.shape[0]), swarm.theta)
    return swarm._replace(filters=filters), filters.log_likelihood - swarm.filters.log_likelihood


@InOrder
def _paths(key: Key[Array, ""], space: StateSpace, settings: SMC2, swarm: _Swarm) -> Float[Array, "m d"]:
    """A path of each filter by its weights, with its parameters, as flat vectors."""

    def one(key: Key[Array, ""], theta: Float[Array, " p"], state: _Filter) -> Float[Array, " d"]:
        final = multinomial(key, state.weighted.log_weights, 1)[0]

        def back(index: Int[Array, ""], row: tuple[Array, PyTree]) -> tuple[Array, PyTree]:
            ancestors, values = row
            return ancestors[index], jax.tree.map(lambda leaf: leaf[index], values)

        _, values = jax.lax.scan(back, final, (state.ancestors, state.values), reverse=True)
        # Initial states travel with the particles.
        initial = jax.tree.map(lambda leaf: leaf[final][None], state.weighted.state.initial)
        return space.flat(theta, Particle((), values, initial))

    return mapped(one, settings.batch_size, jax.random.split(key, swarm.theta.shape[0]), swarm.theta, swarm.filters)


def _log_target(swarm: _Swarm) -> Float[Array, " m"]:
    return swarm.log_prior + swarm.filters.log_likelihood


def _begin(key: Key[Array, ""], space: StateSpace, settings: SMC2, theta: Float[Array, " p"], inner: int) -> _Filter:
    """Generation 0 of a filter."""
    first = jax.tree.map(lambda leaf: leaf[0], space.inputs())
    state, log_potential = space.model(theta, settings.filter).init(key, inner, first)
    log_weights, increment, _ = reweigh(jnp.zeros(inner), log_potential)
    generations = space.parts.length + 1
    values = jax.tree.map(lambda leaf: jnp.zeros((generations, *leaf.shape), leaf.dtype), state.values)
    ancestors = jnp.zeros((generations, inner), jnp.int32)
    return _Filter(Weighted(state, log_weights, found(jnp.zeros(inner))), never_nan(increment), values, ancestors)


def _advance(
    key: Key[Array, ""],
    space: StateSpace,
    settings: SMC2,
    theta: Float[Array, " p"],
    state: _Filter,
    inputs: PyTree,
    t: Int[Array, ""],
) -> _Filter:
    """Step `t` of a filter. `inputs` are those of the space, which a loop over steps should not build each time."""
    key_resample, key_step = jax.random.split(key)
    u = jax.tree.map(lambda leaf: leaf[t], inputs)
    model = space.model(theta, settings.filter)
    drawn, ancestors, _ = maybe_resample(key_resample, model, settings.policy, state.weighted, t, u)
    moved, log_potential = model.step(key_step, drawn.state, u)
    log_weights, increment, _ = reweigh(drawn.log_weights, log_potential)
    return _Filter(
        Weighted(moved, log_weights, drawn.genealogy),
        never_nan(state.log_likelihood + increment),
        jax.tree.map(lambda kept, leaf: kept.at[t].set(leaf), state.values, moved.values),
        state.ancestors.at[t].set(ancestors),
    )


def _run_to(
    key: Key[Array, ""],
    space: StateSpace,
    settings: SMC2,
    theta: Float[Array, " p"],
    inner: int,
    t: Int[Array, ""],
) -> _Filter:
    """A fresh filter, run up to step `t`."""
    key_first, key_steps = jax.random.split(key)
    first, inputs = _begin(key_first, space, settings, theta, inner), space.inputs()

    def step(s: Int[Array, ""], state: _Filter) -> _Filter:
        return _advance(jax.random.fold_in(key_steps, s), space, settings, theta, state, inputs, s)

    return jax.lax.fori_loop(1, t + 1, step, first)
