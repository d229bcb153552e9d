"""Particles resampled and moved: what all sequential samplers over static parameters do between two targets.

The kernel's covariance comes from the weighted particles, its scale follows the acceptance, and moves go on until
particles have forgotten where they were, and as long again.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key
from numpyro.distributions import Distribution

from ppl.inference.batching import check_batch_size, mapped
from ppl.inference.densities import LogDensity
from ppl.inference.moves import Move, Shape, as_move
from ppl.inference.program import Program, check_continuous
from ppl.inference.starts import check_start
from ppl.inference.triangular import inverse_of_lower
from ppl.smc.policy import HOW

# The scale follows the mean acceptance of all particles with this gain a move.
_GAIN = 0.5
# Moves go on while the mean correlation falls by this much within that many moves.
_PROGRESS, _PATIENCE = 0.01, 10
# The moves at which correlations first look small are too few, being chosen by the very particles that they move. On
# posteriordb's sblrc (1000 particles, 60 runs) log evidence came out at -0.22 with a standard error of 0.03, and it
# spread by a fifth more than stated; with as many moves again at -0.02 and, on 60 other keys, -0.07 (errors 0.02), and
# the spread was as stated and an eighth above it.
_AGAIN = 2


@runtime_checkable
class Rejuvenation(Protocol):
    """The settings of moves, which samplers have among their own; `TemperedSMC` documents them."""

    @property
    def kernel(self) -> str | Move: ...
    @property
    def num_moves(self) -> int | None: ...
    @property
    def correlation(self) -> float: ...
    @property
    def max_moves(self) -> int: ...
    @property
    def waste_free(self) -> int | None: ...
    @property
    def resampling(self) -> str: ...
    @property
    def batch_size(self) -> int | None: ...
    @property
    def start(self) -> Mapping[str, Distribution] | None: ...


class Moved(NamedTuple):
    """Particles after the moves, the scale adapted to them, and what the moves did."""

    particles: Float[Array, "n d"]
    log_scale: Float[Array, ""]
    acceptance: Float[Array, ""]
    moves: Float[Array, ""]
    correlation: Float[Array, ""]


def check_rejuvenation(settings: Rejuvenation) -> None:
    """**Raises:** `ValueError` naming the setting that cannot be."""
    as_move(settings.kernel)
    check_batch_size(settings.batch_size)
    for name, value in (("num_moves", settings.num_moves), ("max_moves", settings.max_moves)):
        if value is not None and value < 1:
            raise ValueError(f"{name}: at least one is wanted, got {value}")
    if not 0 < settings.correlation < 1:
        raise ValueError(f"correlation: a number strictly between 0 and 1 is wanted, got {settings.correlation!r}")
    if settings.num_moves is not None and settings.waste_free is not None:
        raise ValueError("num_moves: waste_free sets the number of moves, so that one of the two is wanted")
    if settings.waste_free is not None and settings.waste_free < 2:
        raise ValueError(f"waste_free: a chain length from 2 up is wanted, got {settings.waste_free}")
    if settings.resampling not in HOW or not getattr(HOW[settings.resampling], "proper", True):
        raise ValueError(f"resampling: {settings.resampling!r} is not a proper scheme; known are {', '.join(HOW)}")


def check_target_ess(target_ess: float) -> None:
    """**Raises:** `ValueError` for an effective sample size that is no fraction of the particles."""
    if not 0 < target_ess < 1:
        raise ValueError(f"target_ess: a fraction strictly between 0 and 1 is wanted, got {target_ess!r}")


def check_run(settings: Rejuvenation, program: Program, label: str, draws: int) -> dict[str, Distribution]:
    """The distributions to start from instead of the prior, in one order.

    **Raises:** `ValueError` for a program that cannot be moved or drawn from, and unless the length of waste-free
    chains divides the number of particles.
    """
    check_continuous(program, label)
    check_start(program, settings.start, label)
    if settings.waste_free is not None and draws % settings.waste_free:
        raise ValueError(f"waste_free: must divide draws={draws}, got {settings.waste_free}")
    return dict(sorted((settings.start or {}).items()))


def of_moves(settings: Rejuvenation) -> dict[str, str | float]:
    """What `diagnose` has to know of the moves."""
    return {"kernel": type(as_move(settings.kernel)).__name__, "correlation": settings.correlation}


def first_log_scale(settings: Rejuvenation, particles: Float[Array, "n d"]) -> Float[Array, ""]:
    """The log scale that moves begin with."""
    return jnp.log(jnp.asarray(as_move(settings.kernel).first_scale(particles.shape[1]), particles.dtype))


def rejuvenated(
    key: Key[Array, ""],
    log_density: LogDensity,
    settings: Rejuvenation,
    particles: Float[Array, "m d"],
    log_weights: Float[Array, " m"],
    log_scale: Float[Array, ""],
    num: int,
) -> tuple[Int[Array, " num"], Moved]:
    """`num` particles resampled from weighted ones and moved by a kernel that leaves `log_density` invariant.

    **Returns:** the ancestor of each, and the particles.
    """
    key_resample, key_move = jax.random.split(key)
    length = settings.waste_free or 1
    resampler: Any = HOW[settings.resampling]
    ancestors = jnp.sort(resampler(key_resample, log_weights, num // length))
    shapes = shapes_of_others(particles, log_weights, ancestors)
    moved = _moved(key_move, log_density, settings, particles[ancestors], log_scale, shapes)
    return jnp.repeat(ancestors, length), moved


def _moved(
    key: Key[Array, ""],
    log_density: LogDensity,
    settings: Rejuvenation,
    particles: Float[Array, "m d"],
    log_scale: Float[Array, ""],
    shapes: Shape,
) -> Moved:
    """Particles moved, each half of them by the shape that is at its place in `shapes`."""
    move = as_move(settings.kernel)
    num = particles.shape[0]
    half = -(-num // 2)

    def step(key: Key[Array, ""], states: Any, log_scale: Float[Array, ""]) -> tuple[Any, Array, Array]:
        scale = jnp.exp(log_scale)

        def halves(x: Array) -> Array:
            x = jnp.concatenate([x, x[: 2 * half - num]])  # one too few of an odd number
            return x.reshape(2, half, *x.shape[1:])

        def one(key: Key[Array, ""], state: Any, shape: Shape) -> tuple[Any, Array]:
            return move.step(key, log_density, state, scale, shape)

        def some(keys: Key[Array, " half"], states: Any, shape: Shape) -> tuple[Any, Array]:
            return mapped(lambda key, state: one(key, state, shape), settings.batch_size, keys, states)

        one_half = None if settings.batch_size is None else 1
        moved = mapped(some, one_half, halves(jax.random.split(key, num)), jax.tree.map(halves, states), shapes)
        states, rates = jax.tree.map(lambda x: x.reshape(2 * half, *x.shape[2:])[:num], moved)
        rate = jnp.mean(rates)
        if move.target_accept is not None:
            log_scale = log_scale + _GAIN * (rate - move.target_accept)
        return states, log_scale, rate

    first = mapped(lambda x: move.start(log_density, x), settings.batch_size, particles)
    if settings.waste_free is not None:

        def keep(carry: tuple[Any, Array], key: Key[Array, ""]) -> tuple[tuple[Any, Array], tuple[Array, Array]]:
            states, log_scale, rate = step(key, *carry)
            return (states, log_scale), (states.position, rate)

        keys = jax.random.split(key, settings.waste_free - 1)
        (last, log_scale), (path, rates) = jax.lax.scan(keep, (first, log_scale), keys)
        whole = jnp.concatenate([particles[None], path]).swapaxes(0, 1)  # [N / P, P, d]
        moves = jnp.asarray(float(settings.waste_free - 1))
        return Moved(
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
        _, _, _, count, _, _, _, last = carry
        return count < last

    def once(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        states, log_scale, rates, count, _, best, idle, last = carry
        states, log_scale, rate = step(jax.random.fold_in(key, count), states, log_scale)
        correlations = _correlations(first, states)
        total = jnp.mean(jnp.maximum(correlations, 0))
        idle = jnp.where(total < best - _PROGRESS, 0, idle + 1)
        count = count + 1
        if settings.num_moves is None:
            forgotten = jnp.max(correlations) <= enough
            # Particles do not change between far modes, however long they move: no use to wait for that.
            found = jnp.where(forgotten, _AGAIN * count, jnp.where(idle < _PATIENCE, most, count))
            last = jnp.where(last < most, last, jnp.minimum(found, most))
        return states, log_scale, rates + rate, count, correlations, jnp.minimum(best, total), idle, last

    zero, one, none = jnp.zeros((), particles.dtype), jnp.ones((), particles.dtype), jnp.zeros((), jnp.int32)
    start = (first, log_scale, zero, none, jnp.ones(particles.shape[1] + 1, particles.dtype), one, none, none + most)
    last, log_scale, rates, count, correlations, *_ = jax.lax.while_loop(go_on, once, start)
    return Moved(last.position, log_scale, rates / count, count.astype(zero.dtype), jnp.max(correlations))


def _correlations(before: Any, after: Any) -> Float[Array, " columns"]:
    """The correlation over particles of each coordinate, and of the log density, with its earlier value."""

    def columns(states: Any) -> Float[Array, "n columns"]:
        x = jnp.concatenate([states.position, states.logdensity[:, None]], axis=1)
        x = x - jnp.mean(x, axis=0)
        return x / jnp.sqrt(jnp.maximum(jnp.sum(x * x, axis=0), jnp.finfo(x.dtype).tiny))

    return jnp.sum(columns(before) * columns(after), axis=0)


def shapes_of_others(
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
    mean, covariance = jax.vmap(lambda these: _moments(particles, jnp.where(these, log_weights, -jnp.inf)))(others)
    factor = jnp.linalg.cholesky(covariance)
    return Shape(mean, covariance, factor, jax.vmap(inverse_of_lower)(factor))


def _moments(
    particles: Float[Array, "n d"], log_weights: Float[Array, " n"]
) -> tuple[Float[Array, " d"], Float[Array, "d d"]]:
    """Weighted mean and covariance of the particles, with a ridge that keeps the factor finite."""
    weights = jax.nn.softmax(log_weights)
    mean = weights @ particles
    apart = particles - mean
    covariance = (apart * weights[:, None]).T @ apart
    scale = jnp.maximum(jnp.diagonal(covariance), jnp.finfo(covariance.dtype).tiny)
    return mean, covariance + jnp.diag(1e-5 * scale + 1e-7 * jnp.mean(scale))
