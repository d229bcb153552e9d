r"""Adaptive tempered SMC: from the prior (or any start) q to the posterior p by $q^{1-\lambda} p^\lambda$.

Each step raises $\lambda$ as far as the effective sample size allows, weighs, resamples, and moves the particles by a
kernel that leaves $\pi_\lambda$ invariant and whose scale and covariance come from the particles. The evidence is the
product of mean weights; its standard error comes from the genealogy of one run (`ppl.smc.variance`) and from the spread
over runs.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping
from os import PathLike
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key
from numpyro.distributions import Distribution

from ppl.inference.batching import mapped
from ppl.inference.checkpoint import Checkpoint, storable
from ppl.inference.compiling import InOrder
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
from ppl.smc.weights import ess, logmeanexp

# Bisection is over log(delta): the first steps from a wide prior may be of 1e-8, the last of 1.
_HALVINGS, _SMALLEST = 40, 1e-12
# What is kept of each temperature.
_TRACES = (
    "exponent",
    "step_ess",
    "log_evidence_increment",
    "move_acceptance",
    "move_scale",
    "num_moves",
    "move_correlation",
)


@dataclasses.dataclass(frozen=True)
class TemperedSMC:
    r"""Adaptive tempered sequential Monte Carlo.

    **Arguments:**

    - `kernel`: how particles move: `"hmc"`, `"random_walk"`, `"independent"`, `"nuts"`, `"slice"`, or a `Move`.
    - `num_moves`: steps of the kernel a temperature; left out, as many as it takes until particles have forgotten
      where they were (no coordinate, nor the log density, correlated more than `correlation` with its value before
      the moves) and as many again, or until more moves change nothing, `max_moves` at most.
    - `target_ess`: the effective sample size, as a fraction of the particles, down to which $\lambda$ is raised.
    - `waste_free`: a chain length P that divides the number of particles N: N / P ancestors are resampled, each makes
      P - 1 steps, and all states are kept as particles (Dau & Chopin 2022).
    - `start`: distributions by latent site to start from instead of the prior, which an improper prior needs; sites
      left out start from their prior. Particles are then weighed by prior times likelihood over start.
    - `resampling`: a name of `ppl.smc.policy.HOW`. `max_steps`: temperatures at most.
    - `batch_size`: memory: how many particles are drawn, evaluated and moved at a time; all when left out.

    `infer(..., chains=R, draws=N)` makes R independent runs of N particles. Runs are weighted by their evidence, which
    is what makes the pooled particles proper: `log_weights` is constant within a run.

    **Source:** Del Moral, Doucet & Jasra (2006), § 3.3; Jasra, Stephens, Doucet & Tsagaris (2011) for the adaptive
    schedule; Buchholz, Chopin & Jacob (2021) for tuning; Dau & Chopin (2022) for waste-free.
    """

    kernel: str | Move = "hmc"
    num_moves: int | None = None
    correlation: float = 0.1
    max_moves: int = 100
    target_ess: float = 0.5
    waste_free: int | None = None
    start: Mapping[str, Distribution] | None = dataclasses.field(default=None, hash=False)
    resampling: str = "systematic"
    batch_size: int | None = None
    max_steps: int = 300

    def __post_init__(self) -> None:
        check_rejuvenation(self)
        if self.max_steps < 1:
            raise ValueError(f"max_steps: at least one is wanted, got {self.max_steps}")
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
        given = check_run(self, program, "TemperedSMC", draws)
        begun = time.perf_counter()
        settings = dataclasses.replace(self, start=None, kernel=as_move(self.kernel))
        store = Checkpoint.of(checkpoint, program, self, key, {"chains": chains, "draws": draws})
        staged = _Tempered(program, settings, given, draws)
        runs = independent_runs(key, staged, chains, "temperedsmc", show_progress=show_progress, store=store)
        check_reached(runs.exponent, self.max_steps)
        return posterior_of_runs(
            program,
            runs.particles,
            runs.log_evidence,
            runs.variance,
            method="temperedsmc",
            stats={**by_step(_TRACES, runs.traces, runs.steps), "non_finite": runs.non_finite},
            attrs={
                "seconds": time.perf_counter() - begun,
                "temperatures": int(runs.steps.max()),
                **of_moves(self),
            },
        )


class _Run(NamedTuple):
    """One run: particles of equal weight, the evidence and its relative variance, and traces by temperature."""

    particles: Float[Array, "*runs n d"]
    log_evidence: Float[Array, "*runs"]
    variance: Float[Array, "*runs"]
    exponent: Float[Array, "*runs"]
    steps: Int[Array, "*runs"]
    traces: Float[Array, "*runs traces max_steps"]
    non_finite: Int[Array, "*runs"]


class _Carry(NamedTuple):
    key: Key[Array, ""]
    particles: Float[Array, "n d"]
    log_ratio: Float[Array, " n"]
    log_scale: Float[Array, ""]
    genealogy: Genealogy
    variance: Float[Array, ""]
    exponent: Float[Array, ""]
    step: Int[Array, ""]
    traces: Float[Array, "traces max_steps"]
    non_finite: Int[Array, ""]


class _Tempered(eqx.Module):
    """One run, temperature by temperature."""

    program: Program
    settings: TemperedSMC = eqx.field(static=True)
    given: dict[str, Distribution]
    num: int = eqx.field(static=True)

    @InOrder
    def begin(self, key: Key[Array, ""]) -> _Carry:
        """Particles of the start, at exponent 0."""
        start, settings = Start(self.program, self.given), self.settings
        key_init, key_run = jax.random.split(key)
        particles = mapped(start.draw, settings.batch_size, jax.random.split(key_init, self.num))
        log_ratio, bad = log_ratios(start, particles, settings.batch_size)
        first = _Carry(
            key=key_run,
            particles=particles,
            log_ratio=log_ratio,
            log_scale=first_log_scale(settings, particles),
            genealogy=found(jnp.zeros(self.num, particles.dtype)),
            variance=jnp.zeros((), particles.dtype),
            exponent=jnp.zeros((), particles.dtype),
            step=jnp.zeros((), jnp.int32),
            traces=jnp.full((len(_TRACES), settings.max_steps), jnp.nan, particles.dtype),
            non_finite=bad,
        )
        return storable(first)

    @InOrder
    def advance(self, carry: _Carry, stages: Int[Array, ""]) -> tuple[_Carry, Bool[Array, ""], Float[Array, ""]]:
        """Some temperatures more."""

        def go_on(carry: _Carry) -> Array:
            return (carry.exponent < 1) & (carry.step < self.settings.max_steps)

        carry, done = some_stages(self._temperature, go_on, carry, stages)
        return carry, done, carry.exponent

    def _temperature(self, carry: _Carry) -> _Carry:
        start, settings = Start(self.program, self.given), self.settings
        key, key_move = jax.random.split(carry.key)
        raised = next_exponent(carry.log_ratio, carry.exponent, settings.target_ess)
        log_weights = jnp.where(jnp.isneginf(carry.log_ratio), -jnp.inf, (raised - carry.exponent) * carry.log_ratio)
        increment, size = logmeanexp(log_weights), ess(log_weights)
        variance = relative_variance(carry.genealogy, log_weights)
        ancestors, moved = rejuvenated(
            key_move, start.at(raised), settings, carry.particles, log_weights, carry.log_scale, self.num
        )
        log_ratio, bad = log_ratios(start, moved.particles, settings.batch_size)
        scale = jnp.exp(moved.log_scale)
        row = jnp.stack([raised, size, increment, moved.acceptance, scale, moved.moves, moved.correlation])
        return _Carry(
            key=key,
            particles=moved.particles,
            log_ratio=log_ratio,
            log_scale=moved.log_scale,
            genealogy=descend(carry.genealogy, log_weights, ancestors, jnp.zeros_like(log_ratio)),
            variance=variance,
            exponent=raised,
            step=carry.step + 1,
            traces=carry.traces.at[:, carry.step].set(row),
            non_finite=carry.non_finite + bad,
        )

    @InOrder
    def finish(self, carry: _Carry) -> _Run:
        """What is kept of a run."""
        return _Run(
            particles=carry.particles,
            log_evidence=jnp.nansum(carry.traces[_TRACES.index("log_evidence_increment")]),
            variance=carry.variance,
            exponent=carry.exponent,
            steps=carry.step,
            traces=carry.traces,
            non_finite=carry.non_finite,
        )


def next_exponent(log_ratio: Float[Array, " n"], exponent: Float[Array, ""], target: float) -> Float[Array, ""]:
    """The largest exponent up to 1 at which the effective sample size of the incremental weights is the target's."""

    def size(step: Float[Array, ""]) -> Float[Array, ""]:
        return ess(jnp.where(jnp.isneginf(log_ratio), -jnp.inf, step * log_ratio))

    return largest_exponent(size, exponent, target * log_ratio.shape[0])


def largest_exponent(
    size: Callable[[Float[Array, ""]], Float[Array, ""]], exponent: Float[Array, ""], wanted: float
) -> Float[Array, ""]:
    """The largest exponent up to 1 at which `size(step)`, of the step from the last exponent, is `wanted` or more."""
    room = 1 - exponent

    def enough(log_step: Float[Array, ""]) -> Array:
        return size(room * jnp.exp(log_step)) >= wanted

    def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = (low + high) / 2
        reached = enough(middle)
        return jnp.where(reached, middle, low), jnp.where(reached, high, middle)

    low = jnp.log(jnp.full_like(exponent, _SMALLEST))
    low, _ = jax.lax.fori_loop(0, _HALVINGS, halve, (low, jnp.zeros_like(low)))
    # At least one unit in the last place, so that it always goes on.
    raised = jnp.maximum(exponent + room * jnp.exp(low), jnp.nextafter(exponent, jnp.ones_like(exponent)))
    return jnp.where(enough(jnp.zeros_like(low)), jnp.ones_like(raised), jnp.minimum(raised, 1))


def check_reached(exponents: Float[np.ndarray, " runs"], max_steps: int) -> None:
    """**Raises:** `ValueError` if a run did not reach the posterior."""
    if not np.all(exponents == 1):
        raise ValueError(
            f"max_steps: after {max_steps} temperatures a run stood at exponent {float(np.min(exponents)):.3g} of 1; "
            "raise max_steps, take a lower target_ess, or start nearer to the posterior with `start`"
        )


def log_ratios(
    start: Start, particles: Float[Array, "n d"], batch_size: int | None = None
) -> tuple[Float[Array, " n"], Int[Array, ""]]:
    """Log ratio of joint to start at each particle, NaN as `-inf`, and how many were NaN."""
    _, ratio = mapped(start.densities, batch_size, particles)
    bad = jnp.isnan(ratio) | jnp.isposinf(ratio)
    return jnp.where(bad, -jnp.inf, ratio), jnp.sum(bad, dtype=jnp.int32)
