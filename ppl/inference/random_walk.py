"""Samplers without gradients: adaptive random-walk Metropolis, and slice sampling along random directions."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from blackjax.mcmc import random_walk, slice
from jaxtyping import Array, Bool, Float, Key, PyTree, Shaped

from ppl.inference.batching import each_chain
from ppl.inference.covariance import Windowed, seen, started, window_ends
from ppl.inference.densities import LogDensity
from ppl.inference.moves import slice_along

_OPTIMAL = 0.234  # acceptance of a random walk in high dimension (Roberts, Gelman & Gilks 1997)


@dataclasses.dataclass(frozen=True)
class RandomWalk:
    """Random-walk Metropolis with Gaussian steps; covariance and scale are learned in the warm-up and then fixed.

    **Arguments:** `warmup`: steps of adaptation; `target_accept`: acceptance that the scale is tuned to.

    **Source:** Haario, Saksman & Tamminen (2001) for the covariance; Andrieu & Thoms (2008), Alg. 4, for the scale.
    """

    warmup: int = 4000
    target_accept: float = _OPTIMAL

    def warm(
        self, keys: Key[Array, " chains"], log_density: LogDensity, positions: Float[Array, "chains d"]
    ) -> tuple[PyTree, PyTree]:
        def one(key: Key[Array, ""], position: Float[Array, " d"]) -> Any:
            def step(key: Key[Array, ""], state: Any, factor: Float[Array, "d d"], scale: Float[Array, ""]) -> Any:
                state, info = _metropolis(key, log_density, state, factor, scale)
                return state, state.position, info.acceptance_rate

            start = random_walk.init(position, log_density)
            return adapted_walk(key, step, start, position, self.warmup, self.target_accept)

        return each_chain(one, keys, positions)

    def step(
        self, keys: Key[Array, " chains"], log_density: LogDensity, states: PyTree, parameters: PyTree
    ) -> tuple[PyTree, Float[Array, "chains d"], dict[str, Shaped[Array, " chains"]]]:
        def one(key: Key[Array, ""], state: Any, parameters: Any) -> Any:
            return _metropolis(key, log_density, state, parameters["factor"], parameters["scale"])

        states, info = each_chain(one, keys, states, parameters)
        return states, states.position, {"lp": states.logdensity, "acceptance_rate": info.acceptance_rate}


@dataclasses.dataclass(frozen=True)
class Slice:
    """Slice sampling along random directions with stepping out: no step size to tune, and no rejections.

    A draw is one sweep, as many directions as there are dimensions.

    **Arguments:** `warmup`: sweeps before draws are kept, in which directions learn the posterior's scales; `width`: of
    the first bracket, in posterior standard deviations.

    **Source:** Neal (2003), §§ 4 and 5.
    """

    warmup: int = 500
    width: float = 2.0

    uneven: ClassVar[bool] = True  # brackets

    def warm(
        self, keys: Key[Array, " chains"], log_density: LogDensity, positions: Float[Array, "chains d"]
    ) -> tuple[PyTree, PyTree]:
        def one(key: Key[Array, ""], position: Float[Array, " d"]) -> Any:
            def adapt(carry: Any, scanned: tuple[Key[Array, ""], Bool[Array, ""]]) -> tuple[Any, None]:
                state, windowed = carry
                key, end = scanned
                state, _ = sweep(key, log_density, state, windowed.factor, self.width)
                return (state, seen(windowed, state.position, end)), None

            start: tuple[Any, Windowed] = (slice.init(position, log_density), started(position))
            scanned = (jax.random.split(key, self.warmup), jnp.asarray(window_ends(self.warmup)))
            (state, windowed), _ = jax.lax.scan(adapt, start, scanned)
            return state, {"factor": windowed.factor}

        return each_chain(one, keys, positions)

    def step(
        self, keys: Key[Array, " chains"], log_density: LogDensity, states: PyTree, parameters: PyTree
    ) -> tuple[PyTree, Float[Array, "chains d"], dict[str, Shaped[Array, " chains"]]]:
        def one(key: Key[Array, ""], state: Any, parameters: Any) -> Any:
            return sweep(key, log_density, state, parameters["factor"], self.width)

        states, evaluations = each_chain(one, keys, states, parameters)
        return states, states.position, {"lp": states.logdensity, "n_steps": evaluations}


def adapted_walk(
    key: Key[Array, ""],
    step: Callable[..., tuple[Any, Float[Array, " d"], Float[Array, ""]]],
    state: PyTree,
    position: Float[Array, " d"],
    warmup: int,
    target_accept: float,
) -> tuple[PyTree, dict[str, Array]]:
    """The warm-up of a random walk: its state, and the covariance's factor and the scale that it has learned.

    **Arguments:** `step(key, state, factor, scale)` gives the state, its position, and the acceptance probability.
    """

    def adapt(carry: Any, scanned: tuple[Key[Array, ""], Bool[Array, ""], Array]) -> tuple[Any, None]:
        state, windowed, log_scale = carry
        key, end, t = scanned
        state, position, rate = step(key, state, windowed.factor, jnp.exp(log_scale))
        # Gain of order t^-0.6: slow enough to forget the start, fast enough to settle.
        log_scale = log_scale + (t + 1.0) ** -0.6 * (rate - target_accept)
        return (state, seen(windowed, position, end), log_scale), None

    start = (state, started(position), _first_log_scale(position))
    scanned = (jax.random.split(key, warmup), jnp.asarray(window_ends(warmup)), jnp.arange(warmup))
    (state, windowed, log_scale), _ = jax.lax.scan(adapt, start, scanned)
    return state, {"factor": windowed.factor, "scale": jnp.exp(log_scale)}


def _first_log_scale(position: Float[Array, " d"]) -> Float[Array, ""]:
    return jnp.log(jnp.asarray(2.38 / position.shape[0] ** 0.5, position.dtype))


def _metropolis(
    key: Key[Array, ""], log_density: LogDensity, state: Any, factor: Float[Array, "d d"], scale: Float[Array, ""]
) -> Any:
    def random_step(key: Key[Array, ""], position: Float[Array, " d"]) -> Float[Array, " d"]:
        return scale * (factor @ jax.random.normal(key, position.shape, position.dtype))

    return random_walk.build_additive_step()(key, state, log_density, random_step)


def sweep(
    key: Key[Array, ""],
    log_density: LogDensity,
    state: Any,
    factor: Float[Array, "d d"],
    width: float,
    num: int | None = None,
) -> Any:
    """`num` slices along random directions (as many as dimensions), and the number of density evaluations."""

    def update(state: Any, key: Key[Array, ""]) -> Any:
        state, info = slice_along(key, log_density, state, factor, width)
        return state, info.num_expansions + info.num_shrink

    state, evaluations = jax.lax.scan(update, state, jax.random.split(key, num or state.position.shape[0]))
    return state, jnp.sum(evaluations)
