r"""Adaptive tempered SMC: from the prior (or any start) q to the posterior p by $q^{1-\lambda} p^\lambda$.

Each step raises $\lambda$ as far as the effective sample size allows, weighs, resamples, and moves the particles by a
kernel that leaves $\pi_\lambda$ invariant and whose scale and covariance come from the particles. The evidence is the
product of mean weights; its standard error comes from the genealogy of one run (`ppl.smc.variance`) and from the spread
over runs.
"""

import dataclasses
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key
from numpyro.distributions import Distribution

from ppl.inference.chains import LogDensity
from ppl.inference.moves import Move, Shape, as_move
from ppl.inference.posterior import Posterior, posterior_of
from ppl.inference.program import Program, check_continuous
from ppl.inference.progress import progress
from ppl.inference.starts import Start, check_start
from ppl.smc.policy import HOW
from ppl.smc.running import pooled_evidence
from ppl.smc.variance import Genealogy, descend, found, relative_variance
from ppl.smc.weights import ess, logmeanexp

# Bisection is over log(delta): the first steps from a wide prior may be of 1e-8, the last of 1.
_HALVINGS, _SMALLEST = 40, 1e-12
# The scale follows the mean acceptance of all particles with this gain a move.
_GAIN = 0.5
# Moves go on while the mean correlation falls by this much within that many moves.
_PROGRESS, _PATIENCE = 0.01, 10
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
      the moves) or more moves change nothing, `max_moves` at most.
    - `target_ess`: the effective sample size, as a fraction of the particles, down to which $\lambda$ is raised.
    - `waste_free`: a chain length P that divides the number of particles N: N / P ancestors are resampled, each makes
      P - 1 steps, and all states are kept as particles (Dau & Chopin 2022).
    - `start`: distributions by latent site to start from instead of the prior, which an improper prior needs; sites
      left out start from their prior. Particles are then weighed by prior times likelihood over start.
    - `resampling`: a name of `ppl.smc.policy.HOW`. `max_steps`: temperatures at most.

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
    max_steps: int = 300

    def __post_init__(self) -> None:
        as_move(self.kernel)
        for name, value in (
            ("num_moves", self.num_moves),
            ("max_moves", self.max_moves),
            ("max_steps", self.max_steps),
        ):
            if value is not None and value < 1:
                raise ValueError(f"{name}: at least one is wanted, got {value}")
        if not 0 < self.correlation < 1:
            raise ValueError(f"correlation: a number strictly between 0 and 1 is wanted, got {self.correlation!r}")
        if self.num_moves is not None and self.waste_free is not None:
            raise ValueError("num_moves: waste_free sets the number of moves, so that one of the two is wanted")
        if not 0 < self.target_ess < 1:
            raise ValueError(f"target_ess: a fraction strictly between 0 and 1 is wanted, got {self.target_ess!r}")
        if self.waste_free is not None and self.waste_free < 2:
            raise ValueError(f"waste_free: a chain length from 2 up is wanted, got {self.waste_free}")
        if self.resampling not in HOW or not getattr(HOW[self.resampling], "proper", True):
            raise ValueError(f"resampling: {self.resampling!r} is not a proper scheme; known are {', '.join(HOW)}")

    def run(self, key: Key[Array, ""], program: Program, *, chains: int, draws: int, show_progress: bool) -> Posterior:
        """`chains` runs of `draws` particles; see `ppl.infer`."""
        check_continuous(program, "TemperedSMC")
        check_start(program, self.start, "TemperedSMC")
        if self.waste_free is not None and draws % self.waste_free:
            raise ValueError(f"waste_free: must divide draws={draws}, got {self.waste_free}")
        begun = time.perf_counter()
        start = tuple(sorted((self.start or {}).items()))
        settings = dataclasses.replace(self, start=None, kernel=as_move(self.kernel))
        names = tuple(name for name, _ in start)
        distributions = [distribution for _, distribution in start]
        parts = []
        with progress("temperedsmc", chains, enabled=show_progress) as tick:
            for one in jax.random.split(key, chains):
                parts.append(jax.device_get(_tempered(one, program, settings, names, distributions, draws)))
                tick()
        runs: Any = jax.tree.map(lambda *xs: np.stack(xs), *parts)
        if not np.all(runs.exponent == 1):
            reached = float(np.min(runs.exponent))
            raise ValueError(
                f"max_steps: after {self.max_steps} temperatures a run stood at exponent {reached:.3g} of 1; raise "
                "max_steps, take a lower target_ess, or start nearer to the posterior with `start`"
            )
        evidence, error = combined_evidence(runs.log_evidence, runs.variance)
        weights = np.broadcast_to((runs.log_evidence - evidence)[:, None], (chains, draws))
        return posterior_of(
            program,
            jnp.asarray(runs.particles),
            method="temperedsmc",
            log_weights=jnp.asarray(weights, runs.particles.dtype),
            stats=_traces(runs),
            log_evidence=evidence,
            log_evidence_se=error,
            attrs={"seconds": time.perf_counter() - begun, "temperatures": int(runs.steps.max())},
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


@eqx.filter_jit
def _tempered(
    key: Key[Array, ""],
    program: Program,
    settings: TemperedSMC,
    names: tuple[str, ...],
    distributions: list[Distribution],
    num: int,
) -> _Run:
    start = Start(program, dict(zip(names, distributions, strict=True)))
    key_init, key_run = jax.random.split(key)
    particles = jax.vmap(start.draw)(jax.random.split(key_init, num))
    log_ratio, bad = _ratios(start, particles)
    move: Any = settings.kernel
    zeros = jnp.zeros(num, particles.dtype)
    first = _Carry(
        key=key_run,
        particles=particles,
        log_ratio=log_ratio,
        log_scale=jnp.log(jnp.asarray(move.first_scale(particles.shape[1]), particles.dtype)),
        genealogy=found(zeros),
        variance=jnp.zeros((), particles.dtype),
        exponent=jnp.zeros((), particles.dtype),
        step=jnp.zeros((), jnp.int32),
        traces=jnp.full((len(_TRACES), settings.max_steps), jnp.nan, particles.dtype),
        non_finite=bad,
    )

    def go_on(carry: _Carry) -> Array:
        return (carry.exponent < 1) & (carry.step < settings.max_steps)

    def temperature(carry: _Carry) -> _Carry:
        key, key_resample, key_move = jax.random.split(carry.key, 3)
        raised = next_exponent(carry.log_ratio, carry.exponent, settings.target_ess)
        log_weights = jnp.where(jnp.isneginf(carry.log_ratio), -jnp.inf, (raised - carry.exponent) * carry.log_ratio)
        increment, size = logmeanexp(log_weights), ess(log_weights)
        variance = relative_variance(carry.genealogy, log_weights)
        length = settings.waste_free or 1
        resampler: Any = HOW[settings.resampling]
        ancestors = jnp.sort(resampler(key_resample, log_weights, num // length))
        shapes = _shapes_of_others(carry.particles, log_weights, ancestors)
        moved = _moved(key_move, start.at(raised), settings, carry.particles[ancestors], carry.log_scale, shapes)
        ancestors = jnp.repeat(ancestors, length)
        log_ratio, bad = _ratios(start, moved.particles)
        scale = jnp.exp(moved.log_scale)
        row = jnp.stack([raised, size, increment, moved.acceptance, scale, moved.moves, moved.correlation])
        return _Carry(
            key=key,
            particles=moved.particles,
            log_ratio=log_ratio,
            log_scale=moved.log_scale,
            genealogy=descend(carry.genealogy, log_weights, ancestors, zeros),
            variance=variance,
            exponent=raised,
            step=carry.step + 1,
            traces=carry.traces.at[:, carry.step].set(row),
            non_finite=carry.non_finite + bad,
        )

    last = jax.lax.while_loop(go_on, temperature, first)
    return _Run(
        particles=last.particles,
        log_evidence=jnp.nansum(last.traces[_TRACES.index("log_evidence_increment")]),
        variance=last.variance,
        exponent=last.exponent,
        steps=last.step,
        traces=last.traces,
        non_finite=last.non_finite,
    )


def next_exponent(log_ratio: Float[Array, " n"], exponent: Float[Array, ""], target: float) -> Float[Array, ""]:
    """The largest exponent up to 1 at which the effective sample size of the incremental weights is the target's."""
    wanted = target * log_ratio.shape[0]
    room = 1 - exponent

    def enough(log_step: Float[Array, ""]) -> Array:
        step = room * jnp.exp(log_step)
        return ess(jnp.where(jnp.isneginf(log_ratio), -jnp.inf, step * log_ratio)) >= wanted

    def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = (low + high) / 2
        reached = enough(middle)
        return jnp.where(reached, middle, low), jnp.where(reached, high, middle)

    low = jnp.asarray(np.log(_SMALLEST), log_ratio.dtype)
    low, _ = jax.lax.fori_loop(0, _HALVINGS, halve, (low, jnp.zeros_like(low)))
    # At least one unit in the last place, so that it always goes on.
    raised = jnp.maximum(exponent + room * jnp.exp(low), jnp.nextafter(exponent, jnp.ones_like(exponent)))
    return jnp.where(enough(jnp.zeros_like(low)), jnp.ones_like(raised), jnp.minimum(raised, 1))


def combined_evidence(
    log_evidence: Float[np.ndarray, " runs"], variance: Float[np.ndarray, " runs"]
) -> tuple[float, float]:
    """The evidence of independent runs and its standard error.

    Two estimates of the same variance: that of each run's genealogy, and the spread over runs, on few degrees of
    freedom. The larger is stated: a genealogy sees no mode that its run has missed.
    """
    pooled, spread = pooled_evidence(jnp.asarray(log_evidence)) if len(log_evidence) > 1 else (log_evidence[0], 0.0)
    within = float(np.sqrt(np.nanmean(np.maximum(variance, 0)) / len(log_evidence)))
    return float(pooled), max(within, float(spread))


class _Moved(NamedTuple):
    """Particles after the moves of one temperature, the scale adapted to them, and what the moves did."""

    particles: Float[Array, "n d"]
    log_scale: Float[Array, ""]
    acceptance: Float[Array, ""]
    moves: Float[Array, ""]
    correlation: Float[Array, ""]


def _moved(
    key: Key[Array, ""],
    log_density: LogDensity,
    settings: TemperedSMC,
    particles: Float[Array, "m d"],
    log_scale: Float[Array, ""],
    shapes: Shape,
) -> _Moved:
    """Particles moved, each half of them by the shape that is at its place in `shapes`."""
    move: Any = settings.kernel
    num = particles.shape[0]
    half = -(-num // 2)

    def step(key: Key[Array, ""], states: Any, log_scale: Float[Array, ""]) -> tuple[Any, Array, Array]:
        scale = jnp.exp(log_scale)

        def halves(x: Array) -> Array:
            x = jnp.concatenate([x, x[: 2 * half - num]])  # one too few of an odd number
            return x.reshape(2, half, *x.shape[1:])

        def one(key: Key[Array, ""], state: Any, shape: Shape) -> tuple[Any, Array]:
            return move.step(key, log_density, state, scale, shape)

        both = jax.vmap(jax.vmap(one, in_axes=(0, 0, None)))
        moved = both(halves(jax.random.split(key, num)), jax.tree.map(halves, states), shapes)
        states, rates = jax.tree.map(lambda x: x.reshape(2 * half, *x.shape[2:])[:num], moved)
        rate = jnp.mean(rates)
        if move.target_accept is not None:
            log_scale = log_scale + _GAIN * (rate - move.target_accept)
        return states, log_scale, rate

    first = jax.vmap(lambda x: move.start(log_density, x))(particles)
    if settings.waste_free is not None:

        def keep(carry: tuple[Any, Array], key: Key[Array, ""]) -> tuple[tuple[Any, Array], tuple[Array, Array]]:
            states, log_scale, rate = step(key, *carry)
            return (states, log_scale), (states.position, rate)

        keys = jax.random.split(key, settings.waste_free - 1)
        (last, log_scale), (path, rates) = jax.lax.scan(keep, (first, log_scale), keys)
        whole = jnp.concatenate([particles[None], path]).swapaxes(0, 1)  # [N / P, P, d]
        moves = jnp.asarray(float(settings.waste_free - 1))
        return _Moved(
            whole.reshape(-1, particles.shape[1]),
            log_scale,
            jnp.mean(rates),
            moves,
            jnp.max(_correlations(first, last)),
        )

    # A correlation of independent numbers is of this size, the largest of a few dozen.
    enough = settings.correlation + 3 / num**0.5
    most = settings.num_moves or settings.max_moves

    def go_on(carry: tuple[Any, ...]) -> Array:
        _, _, _, count, correlations, _, idle = carry
        if settings.num_moves is not None:
            return count < most
        # Particles do not change between far modes, however long they move: no use to wait for that.
        return (count < most) & (jnp.max(correlations) > enough) & (idle < _PATIENCE)

    def once(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        states, log_scale, rates, count, _, best, idle = carry
        states, log_scale, rate = step(jax.random.fold_in(key, count), states, log_scale)
        correlations = _correlations(first, states)
        total = jnp.mean(jnp.maximum(correlations, 0))
        idle = jnp.where(total < best - _PROGRESS, 0, idle + 1)
        return states, log_scale, rates + rate, count + 1, correlations, jnp.minimum(best, total), idle

    zero, one, none = jnp.zeros((), particles.dtype), jnp.ones((), particles.dtype), jnp.zeros((), jnp.int32)
    start = (first, log_scale, zero, none, jnp.ones(particles.shape[1] + 1, particles.dtype), one, none)
    last, log_scale, rates, count, correlations, _, _ = jax.lax.while_loop(go_on, once, start)
    return _Moved(last.position, log_scale, rates / count, count.astype(zero.dtype), jnp.max(correlations))


def _correlations(before: Any, after: Any) -> Float[Array, " columns"]:
    """The correlation over particles of each coordinate, and of the log density, with its earlier value."""

    def columns(states: Any) -> Float[Array, "n columns"]:
        x = jnp.concatenate([states.position, states.logdensity[:, None]], axis=1)
        x = x - jnp.mean(x, axis=0)
        return x / jnp.sqrt(jnp.maximum(jnp.sum(x * x, axis=0), jnp.finfo(x.dtype).tiny))

    return jnp.sum(columns(before) * columns(after), axis=0)


def _ratios(start: Start, particles: Float[Array, "n d"]) -> tuple[Float[Array, " n"], Int[Array, ""]]:
    """Log ratio of joint to start at each particle, NaN as `-inf`, and how many were NaN."""
    before, joint = jax.vmap(start.densities)(particles)
    ratio = joint - before
    bad = jnp.isnan(ratio) | jnp.isposinf(ratio)
    return jnp.where(bad, -jnp.inf, ratio), jnp.sum(bad, dtype=jnp.int32)


def _shapes_of_others(
    particles: Float[Array, "n d"], log_weights: Float[Array, " n"], ancestors: Int[Array, " m"]
) -> Shape:
    """For the first half of the sorted `ancestors` the shape of the particles behind it, and the reverse; stacked.

    A particle's kernel must not depend on where it is. With one covariance of all, directions in which they happen to
    lie too far apart are moved through faster, or slower, than those in which they lie too close; the cloud is
    left too narrow or too wide, and log evidence is wrong by far more than its error (in 61 dimensions with 1000
    particles: by -1.6 or 0.9, by the length of the trajectories, at a standard error of 0.15).
    """
    index, first = jnp.arange(particles.shape[0]), ancestors[(ancestors.shape[0] - 1) // 2]
    # One ancestor may stand on both sides, so that neither is empty.
    others = jnp.stack([index >= ancestors[ancestors.shape[0] // 2], index <= first])
    return jax.vmap(lambda these: _shape(particles, jnp.where(these, log_weights, -jnp.inf)))(others)


def _shape(particles: Float[Array, "n d"], log_weights: Float[Array, " n"]) -> Shape:
    """Weighted mean and covariance of the particles, with a ridge that keeps the factor finite."""
    weights = jax.nn.softmax(log_weights)
    mean = weights @ particles
    apart = particles - mean
    covariance = (apart * weights[:, None]).T @ apart
    size = particles.shape[1]
    scale = jnp.maximum(jnp.diagonal(covariance), jnp.finfo(covariance.dtype).tiny)
    covariance = covariance + jnp.diag(1e-5 * scale)
    return Shape(mean, covariance, jnp.linalg.cholesky(covariance + 1e-7 * jnp.mean(scale) * jnp.eye(size)))


def _traces(runs: _Run) -> dict[str, np.ndarray]:
    longest = int(runs.steps.max())
    by_step = {name: np.asarray(runs.traces[:, i, :longest]) for i, name in enumerate(_TRACES)}
    return by_step | {"run_log_evidence": np.asarray(runs.log_evidence), "non_finite": np.asarray(runs.non_finite)}
