"""Markov kernels that move particles inside a sequential sampler; scale and covariance come from the particles.

Kernels are blackjax's. A move is frozen settings and `many`: several steps of one particle, with one scale.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from blackjax.mcmc import hmc, metrics, nuts, random_walk, slice
from jaxtyping import Array, Float, Key

from ppl.inference.densities import LogDensity
from ppl.inference.hmc import without_overflow

# Log of the smallest step size of a particle over the common one.
_SMALLEST = -6.0


class Shape(NamedTuple):
    """What a move knows of the particles: their mean and covariance, the latter's Cholesky factor, and its inverse."""

    mean: Float[Array, " d"]
    covariance: Float[Array, "d d"]
    factor: Float[Array, "d d"]
    inverse_factor: Float[Array, "d d"]


@runtime_checkable
class Move(Protocol):
    """A kernel for particles."""

    @property
    def target_accept(self) -> float | None:
        """The acceptance that the scale is tuned to, or `None` for a kernel without a scale."""
        ...

    def first_scale(self, size: int) -> float:
        """The scale to begin with, for a target of covariance one in `size` dimensions."""
        ...

    def start(self, log_density: LogDensity, position: Float[Array, " d"]) -> Any:
        """The kernel's state at a position."""
        ...

    def step(
        self, key: Key[Array, ""], log_density: LogDensity, state: Any, scale: Float[Array, ""], shape: Shape
    ) -> tuple[Any, Float[Array, ""]]:
        """One step. **Returns:** the state (with `.position`) and the acceptance probability."""
        ...


@dataclasses.dataclass(frozen=True)
class RandomWalkMove:
    """Random-walk Metropolis with the particles' covariance. **Source:** Chopin (2002), § 5."""

    target_accept: float | None = 0.3

    def first_scale(self, size: int) -> float:
        return 2.38 / size**0.5

    def start(self, log_density: LogDensity, position: Float[Array, " d"]) -> Any:
        return random_walk.init(position, log_density)

    def step(
        self, key: Key[Array, ""], log_density: LogDensity, state: Any, scale: Float[Array, ""], shape: Shape
    ) -> tuple[Any, Float[Array, ""]]:
        def proposal(key: Key[Array, ""], position: Float[Array, " d"]) -> Float[Array, " d"]:
            return scale * (shape.factor @ jax.random.normal(key, position.shape, position.dtype))

        state, info = random_walk.build_additive_step()(key, state, log_density, proposal)
        return state, jnp.asarray(info.acceptance_rate)


@dataclasses.dataclass(frozen=True)
class IndependentMove:
    """Independent Metropolis from a Gaussian fitted to the particles: jumps far where the posterior is near Gaussian.

    **Source:** Chopin (2002), § 4.
    """

    target_accept: float | None = None

    def first_scale(self, size: int) -> float:
        return 1.0

    def start(self, log_density: LogDensity, position: Float[Array, " d"]) -> Any:
        return random_walk.init(position, log_density)

    def step(
        self, key: Key[Array, ""], log_density: LogDensity, state: Any, scale: Float[Array, ""], shape: Shape
    ) -> tuple[Any, Float[Array, ""]]:
        key_draw, key_accept = jax.random.split(key)
        noise = jax.random.normal(key_draw, state.position.shape, state.position.dtype)
        proposed = shape.mean + shape.factor @ noise
        density = log_density(proposed)
        here = shape.inverse_factor @ (state.position - shape.mean)
        log_ratio = density - state.logdensity + 0.5 * (noise @ noise - here @ here)
        accept = jnp.log(jax.random.uniform(key_accept)) < log_ratio
        moved = state._replace(position=proposed, logdensity=density)
        state = jax.tree.map(lambda new, old: jnp.where(accept, new, old), moved, state)
        return state, jnp.exp(jnp.minimum(log_ratio, 0))


@dataclasses.dataclass(frozen=True)
class HMCMove:
    """Hamiltonian Monte Carlo; the metric is the particles' covariance, or their variances without `dense_mass`.

    At each step a particle takes the common step size (within a fifth) or, with probability `small_steps`, draws one of
    its own, log-uniform down to a few hundredths of it. With one size for all, particles in the narrow part of a funnel
    never move, and the evidence comes out too small, by more than its stated error: on posteriordb's arK by 3, and on
    sblrc by 3, where the stated errors were 0.4 and 0.1. Where nothing is funnel-like, 0 makes more of each step.

    **Source:** Buchholz, Chopin & Jacob (2021), Adaptive tuning of Hamiltonian Monte Carlo within SMC.
    """

    num_steps: int = 10
    target_accept: float | None = 0.8
    dense_mass: bool = True
    small_steps: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.small_steps <= 1:
            raise ValueError(f"small_steps: a probability, from 0 to 1, is wanted, got {self.small_steps!r}")

    def first_scale(self, size: int) -> float:
        return 0.5 / size**0.25

    def start(self, log_density: LogDensity, position: Float[Array, " d"]) -> Any:
        return hmc.init(position, log_density)

    def step(
        self, key: Key[Array, ""], log_density: LogDensity, state: Any, scale: Float[Array, ""], shape: Shape
    ) -> tuple[Any, Float[Array, ""]]:
        metric = _dense_metric(shape) if self.dense_mass else jnp.diagonal(shape.covariance)
        key_jitter, key_step = jax.random.split(key)
        u, small = jax.random.uniform(key_jitter, (2,))
        jittered = scale * jnp.where(small < self.small_steps, jnp.exp(_SMALLEST * u), 0.8 + 0.4 * u)
        kernel: Any = without_overflow(hmc).build_kernel()
        state, info = kernel(key_step, state, log_density, jittered, metric, self.num_steps)
        return state, jnp.where(jnp.isnan(info.acceptance_rate), 0, info.acceptance_rate)


def _dense_metric(shape: Shape) -> metrics.Metric:
    """The metric of the particles' covariance.

    blackjax, given the covariance, inverts its factor in each step, which took as long as four steps of a regression in
    61 dimensions; and of the kinetic energy it takes the gradient by two products where one will do.
    """

    def sample_momentum(key: Key[Array, ""], position: Float[Array, " d"]) -> Float[Array, " d"]:
        return shape.inverse_factor.T @ jax.random.normal(key, position.shape, position.dtype)

    def kinetic_energy(momentum: Float[Array, " d"], position: Any = None) -> Float[Array, ""]:
        del position
        velocity = jax.lax.stop_gradient(shape.covariance @ momentum)
        return momentum @ velocity - 0.5 * jax.lax.stop_gradient(momentum @ velocity)

    whole: Any = metrics.default_metric(shape.covariance)
    return whole._replace(sample_momentum=sample_momentum, kinetic_energy=kinetic_energy)


@dataclasses.dataclass(frozen=True)
class NUTSMove:
    """The No-U-Turn sampler; particles wait for the longest tree of the batch."""

    max_tree_depth: int = 6
    target_accept: float | None = 0.8

    def first_scale(self, size: int) -> float:
        return 0.5 / size**0.25

    def start(self, log_density: LogDensity, position: Float[Array, " d"]) -> Any:
        return nuts.init(position, log_density)

    def step(
        self, key: Key[Array, ""], log_density: LogDensity, state: Any, scale: Float[Array, ""], shape: Shape
    ) -> tuple[Any, Float[Array, ""]]:
        metric = jnp.diagonal(shape.covariance)
        kernel: Any = nuts.build_kernel()
        state, info = kernel(key, state, log_density, scale, metric, max_num_doublings=self.max_tree_depth)
        return state, jnp.where(jnp.isnan(info.acceptance_rate), 0, info.acceptance_rate)


@dataclasses.dataclass(frozen=True)
class SliceMove:
    """One slice along a random direction of the particles' covariance; nothing to tune."""

    target_accept: float | None = None

    def first_scale(self, size: int) -> float:
        return 2.0

    def start(self, log_density: LogDensity, position: Float[Array, " d"]) -> Any:
        return slice.init(position, log_density)

    def step(
        self, key: Key[Array, ""], log_density: LogDensity, state: Any, scale: Float[Array, ""], shape: Shape
    ) -> tuple[Any, Float[Array, ""]]:
        state = slice_along(key, log_density, state, shape.factor, scale)[0]
        return state, jnp.ones(())


def slice_along(
    key: Key[Array, ""], log_density: LogDensity, state: Any, factor: Float[Array, "d d"], width: Any
) -> tuple[Any, Any]:
    """A slice along a random direction of covariance `factor factor'`, stepping out from brackets of `width`."""

    def direction(
        key: Key[Array, ""], position: Float[Array, " d"], log_density_fn: LogDensity
    ) -> Callable[[Any], Any]:
        noise = jax.random.normal(key, position.shape, position.dtype)
        along = width * (factor @ (noise / jnp.linalg.norm(noise)))

        def at(t: Float[Array, ""]) -> Any:
            moved = position + t * along
            return state._replace(position=moved, logdensity=log_density_fn(moved)), jnp.asarray(True)

        return at

    return slice.build_kernel(interval=slice.stepping_out)(key, state, log_density, direction)


# Moves by name.
MOVES: dict[str, Callable[[], Move]] = {
    "random_walk": RandomWalkMove,
    "independent": IndependentMove,
    "hmc": HMCMove,
    "nuts": NUTSMove,
    "slice": SliceMove,
}


def as_move(kernel: str | Move) -> Move:
    """**Raises:** `ValueError` for an unknown name or anything that is no move."""
    if isinstance(kernel, str):
        if kernel not in MOVES:
            raise ValueError(f"kernel: {kernel!r} is not known; known are {', '.join(map(repr, MOVES))}")
        return MOVES[kernel]()
    if not isinstance(kernel, Move):
        raise ValueError(f"kernel: a move such as ppl.inference.HMCMove() or a name is wanted, got {kernel!r}")
    return kernel
