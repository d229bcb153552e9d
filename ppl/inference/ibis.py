r"""Iterated batch importance sampling: particles that follow the posterior as observations come in one by one.

Between two moves the particles stand still, so that their weights after every further observation are running sums of
their pointwise log likelihoods: the model is evaluated once a move, and not once an observation.
"""

import dataclasses
import math
import time
from collections.abc import Mapping
from os import PathLike
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key
from numpyro.distributions import Distribution

from ppl.inference.batching import mapped
from ppl.inference.checkpoint import Checkpoint, storable
from ppl.inference.compiling import InOrder
from ppl.inference.densities import LogDensity, guarded
from ppl.inference.moves import Move, as_move
from ppl.inference.posterior import Posterior
from ppl.inference.program import Program
from ppl.inference.rejuvenation import (
    check_rejuvenation,
    check_run,
    check_target_ess,
    first_log_scale,
    of_moves,
    rejuvenated,
)
from ppl.inference.runs import by_step, independent_runs, posterior_of_runs, some_stages
from ppl.inference.starts import Start
from ppl.smc.variance import Genealogy, descend, found, relative_variance
from ppl.smc.weights import weigh

# What is kept of each move.
_TRACES = ("observations", "step_ess", "move_acceptance", "move_scale", "num_moves", "move_correlation")


@dataclasses.dataclass(frozen=True)
class IBIS:
    r"""Iterated batch importance sampling: sequential Monte Carlo over growing data.

    Particles of the prior are weighted by one observation after another, $w \leftarrow w\, p(y_t \mid \theta, y_{<t})$;
    when their effective sample size falls below `target_ess`, they are resampled and moved by a kernel that leaves the
    posterior of the observations so far invariant. The mean weights are the one-step predictive densities
    $p(y_t \mid y_{1:t-1})$, whose product is the evidence.

    **Arguments:**

    - `plate`: the plate along which observations come, in the order of the data; every observed site and factor must
      be in it. Left out, the one plate that all observed sites are in.
    - `batch`: observations taken in at a time. With few particles and data that say much, more than one at first would
      leave few particles alive; with many observations, batches keep memory down (particles times batches).
    - `target_ess`: the fraction of the particles below which the effective sample size makes them move.
    - `kernel`, `num_moves`, `correlation`, `max_moves`, `waste_free`, `start`, `resampling`, `batch_size`: as of
      `TemperedSMC`. With a `start`, the first weights also have prior over start.

    `post.stats["log_predictive"]`, [runs, batches], holds $\log p(y_t \mid y_{1:t-1})$ of each run; of R runs together
    it is the difference of logs of the means of $\exp$ of its running sums.

    **What it assumes:** as `TemperedSMC`, that moves make particles forget; and that no one batch says so much that few
    particles outlive it: `step_ess`, of the moment before each move, tells.

    **Source:** Chopin (2002), A sequential particle filter method for static models, § 3; Chopin & Papaspiliopoulos
    (2020), § 17.2.
    """

    plate: str | None = None
    batch: int = 1
    kernel: str | Move = "hmc"
    num_moves: int | None = None
    correlation: float = 0.1
    max_moves: int = 100
    target_ess: float = 0.5
    waste_free: int | None = None
    start: Mapping[str, Distribution] | None = dataclasses.field(default=None, hash=False)
    resampling: str = "systematic"
    batch_size: int | None = None

    def __post_init__(self) -> None:
        check_rejuvenation(self)
        if self.batch < 1:
            raise ValueError(f"batch: at least one observation is wanted, got {self.batch}")
        check_target_ess(self.target_ess)

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
        """`chains` runs of `draws` particles; see `ppl.infer`."""
        given = check_run(self, program, "IBIS", draws)
        begun = time.perf_counter()
        plate = _plate(program, self.plate)
        settings = dataclasses.replace(self, start=None, kernel=as_move(self.kernel), plate=plate)
        store = Checkpoint.of(checkpoint, program, self, key, {"chains": chains, "draws": draws})
        staged = _Iterated(program, settings, given, draws)
        runs = independent_runs(key, staged, chains, "ibis", show_progress=show_progress, store=store)
        return posterior_of_runs(
            program,
            runs.particles,
            runs.log_predictive.sum(axis=1),
            runs.variance,
            method="ibis",
            log_weights=runs.log_weights,
            stats={
                **by_step(_TRACES, runs.traces, runs.moves),
                "log_predictive": runs.log_predictive,
                "non_finite": runs.non_finite,
            },
            attrs={"seconds": time.perf_counter() - begun, "plate": plate, "batch": self.batch, **of_moves(self)},
        )


class _Run(NamedTuple):
    """One run: weighted particles, predictive densities by batch, and traces by move."""

    particles: Float[Array, "n d"]
    log_weights: Float[Array, " n"]
    log_predictive: Float[Array, " batches"]
    variance: Float[Array, ""]
    moves: Int[Array, ""]
    traces: Float[Array, "traces batches"]
    non_finite: Int[Array, ""]


class _Carry(NamedTuple):
    key: Key[Array, ""]
    particles: Float[Array, "n d"]
    log_weights: Float[Array, " n"]
    pointwise: Float[Array, "n batches"]
    log_scale: Float[Array, ""]
    genealogy: Genealogy
    log_predictive: Float[Array, " batches"]
    absorbed: Int[Array, ""]
    moves: Int[Array, ""]
    traces: Float[Array, "traces batches"]
    non_finite: Int[Array, ""]


class _Iterated(eqx.Module):
    """One run, from one move to the next."""

    program: Program
    settings: IBIS = eqx.field(static=True)
    given: dict[str, Distribution]
    num: int = eqx.field(static=True)

    @property
    def path(self) -> "_Growing":
        """The posteriors on the way."""
        settings = self.settings
        return _Growing(self.program, str(settings.plate), settings.batch, settings.batch_size)

    @InOrder
    def begin(self, key: Key[Array, ""]) -> _Carry:
        """Particles of the start, before any data."""
        start, settings, path = Start(self.program, self.given), self.settings, self.path
        key_init, key_run = jax.random.split(key)
        particles = mapped(start.draw, settings.batch_size, jax.random.split(key_init, self.num))
        zeros = jnp.zeros(self.num, particles.dtype)
        pointwise, bad = path.pointwise(particles)
        first = _Carry(
            key=key_run,
            particles=particles,
            log_weights=mapped(start.log_correction, settings.batch_size, particles) if self.given else zeros,
            pointwise=pointwise,
            log_scale=first_log_scale(settings, particles),
            genealogy=found(zeros),
            log_predictive=jnp.zeros(path.batches, particles.dtype),
            absorbed=jnp.zeros((), jnp.int32),
            moves=jnp.zeros((), jnp.int32),
            traces=jnp.full((len(_TRACES), path.batches), jnp.nan, particles.dtype),
            non_finite=bad,
        )
        return storable(first)

    @InOrder
    def advance(self, carry: _Carry, stages: Int[Array, ""]) -> tuple[_Carry, Bool[Array, ""], Float[Array, ""]]:
        """Some moves more, each after the observations that make it necessary."""
        batches = self.path.batches
        carry, done = some_stages(self._stage, lambda carry: carry.absorbed < batches, carry, stages)
        return carry, done, carry.absorbed / batches

    def _stage(self, carry: _Carry) -> _Carry:
        carry, size = self._absorb(carry)

        def move(
            carry: _Carry, size: Array
        ) -> _Carry:  # JAX would hash a bound method, and a module of arrays has none
            return self._move(carry, size)

        low = size < self.settings.target_ess * self.num
        return jax.lax.cond(low, move, lambda carry, _: carry, carry, size)

    def _absorb(self, carry: _Carry) -> tuple[_Carry, Float[Array, ""]]:
        """Take in observations up to the first after which particles must move, or all."""
        batches = self.path.batches
        columns = jnp.arange(batches)
        ahead = columns >= carry.absorbed
        sums = carry.log_weights[:, None] + jnp.cumsum(jnp.where(ahead, carry.pointwise, 0), axis=1)
        levels, sizes = jax.vmap(weigh, in_axes=1)(sums)
        low = ahead & (sizes < self.settings.target_ess * self.num)
        stop = jnp.where(jnp.any(low), jnp.argmax(low), batches - 1)
        # Weights have log mean exp 0 before, but those of a start at the very first.
        before = jnp.where(columns > carry.absorbed, jnp.roll(levels, 1), 0)
        taken = ahead & (columns <= stop)
        carry = carry._replace(
            log_weights=sums[:, stop] - levels[stop],
            log_predictive=jnp.where(taken, levels - before, carry.log_predictive),
            absorbed=(stop + 1).astype(jnp.int32),
        )
        return carry, sizes[stop]

    def _move(self, carry: _Carry, size: Float[Array, ""]) -> _Carry:
        settings, path = self.settings, self.path
        key, key_move = jax.random.split(carry.key)
        target = path.at(carry.absorbed)
        ancestors, moved = rejuvenated(
            key_move, target, settings, carry.particles, carry.log_weights, carry.log_scale, self.num
        )
        pointwise, bad = path.pointwise(moved.particles)
        scale = jnp.exp(moved.log_scale)
        taken = (carry.absorbed * settings.batch).astype(scale.dtype)
        row = jnp.stack([taken, size, moved.acceptance, scale, moved.moves, moved.correlation])
        zeros = jnp.zeros_like(carry.log_weights)
        return carry._replace(
            key=key,
            particles=moved.particles,
            log_weights=zeros,
            pointwise=pointwise,
            log_scale=moved.log_scale,
            genealogy=descend(carry.genealogy, carry.log_weights, ancestors, zeros),
            moves=carry.moves + 1,
            traces=carry.traces.at[:, carry.moves].set(row),
            non_finite=carry.non_finite + bad,
        )

    @InOrder
    def finish(self, carry: _Carry) -> _Run:
        """What is kept of a run."""
        return _Run(
            particles=carry.particles,
            log_weights=carry.log_weights,
            log_predictive=carry.log_predictive,
            variance=relative_variance(carry.genealogy, carry.log_weights),
            moves=carry.moves,
            traces=carry.traces,
            non_finite=carry.non_finite,
        )


class _Growing:
    """The posteriors of the first batches of data along a plate."""

    def __init__(self, program: Program, plate: str, batch: int, batch_size: int | None):
        self.program, self.plate, self.batch, self.batch_size = program, plate, batch, batch_size
        self.size = dict(program.structure.plates)[plate]
        self.batches = math.ceil(self.size / batch)

    def densities(self, flat: Float[Array, " d"]) -> tuple[Float[Array, ""], Float[Array, " batches"]]:
        """Log prior, and log likelihood by batch."""
        prior, along = self.program.log_densities_along(flat, self.plate)
        padded = jnp.pad(along, (0, self.batches * self.batch - self.size))
        return prior, jnp.sum(padded.reshape(self.batches, self.batch), axis=1)

    def pointwise(self, particles: Float[Array, "n d"]) -> tuple[Float[Array, "n batches"], Int[Array, ""]]:
        """Log likelihoods of all particles, NaN as `-inf`, and how many were NaN."""
        _, terms = mapped(self.densities, self.batch_size, particles)
        bad = jnp.isnan(terms) | jnp.isposinf(terms)
        return jnp.where(bad, -jnp.inf, terms), jnp.sum(jnp.any(bad, axis=1), dtype=jnp.int32)

    def at(self, absorbed: Int[Array, ""]) -> LogDensity:
        """The log density of the posterior of the first `absorbed` batches, NaN as `-inf`."""

        def value(flat: Float[Array, " d"]) -> Float[Array, ""]:
            prior, terms = self.densities(flat)
            return prior + jnp.sum(jnp.where(jnp.arange(self.batches) < absorbed, terms, 0))

        return guarded(value)


def _plate(program: Program, given: str | None) -> str:
    """The plate along which data come. **Raises:** `ValueError` where the model has no such plate."""
    structure = program.structure
    if structure.discrete:
        names = ", ".join(site.name for site in structure.discrete)
        raise ValueError(
            f"model: with its discrete sites ({names}) summed out, observations have no likelihoods of their own for "
            "IBIS to add one by one; use TemperedSMC"
        )
    if given is not None:
        if given not in dict(structure.plates):
            known = ", ".join(repr(name) for name, _ in structure.plates) or "none"
            raise ValueError(f"plate: the model has no plate {given!r}; it has {known}")
        return given
    observed = [set(site.dims) for site in structure.of_kind("observed")]
    common = [name for name, _ in structure.plates if observed and all(name in dims for dims in observed)]
    if len(common) != 1:
        found_ = ", ".join(map(repr, common)) or "none"
        raise ValueError(f"plate: name the one along which data come; plates with all observed sites are: {found_}")
    return common[0]
