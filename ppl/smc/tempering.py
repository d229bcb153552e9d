r"""Tempered resampling: resample on $w^b$ and carry $w^{1-b}$.

Early weights are often overconfident: resampling on them kills particles that later steps would have wanted. With
$b < 1$ ancestors are drawn in proportion to $w^b$ and each offspring carries the rest of its weight, $w^{1-b}$ (times
the mean of $w^b$), into the next step. That is proper for any $b$, also one chosen by looking at the weights.

Entropic Particle Filtering (arXiv 2510.05825) resamples on $w^{1/T}$ in the same spirit but drops the remainder
$w^{1 - 1/T}$: each time its temperature fires, its target changes by that factor and its evidence is biased. This
combinator is that idea with the remainder kept.

**Source:** Liu, Chen & Logvinenko (2001), A theoretical framework for sequential importance sampling with resampling
(resampling with any weights and carrying the ratio); Del Moral, Doucet & Jasra (2012) for bisection on ESS.
"""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from ppl.smc.feynman_kac import FeynmanKac, InitKernel, Input, ResamplingWeights, State, StepKernel
from ppl.smc.weights import ess as effective_sample_size
from ppl.smc.wrapping import first_clock, rewrapped

# Bisection halves [0, 1] this often: below float32's spacing near 1, and a few N-vector operations each.
_HALVINGS = 24

# The exponent for the weights `[n]` that resampling would otherwise use.
Exponent = Callable[[Float[Array, " n"]], Float[Array, ""]]


class Tempered(NamedTuple):
    """State of a model tempered on a schedule: the wrapped state, and the steps taken `[n]`."""

    inner: State
    clock: Int[Array, " n"]


def temper(model: FeynmanKac, b: float | Float[Array, "*steps"] | Float[np.ndarray, "*steps"] | Exponent) -> FeynmanKac:
    """`model`, resampled on its weights to the power `b`; the rest of the weight is carried on.

    If the model has resampling weights of its own (`ppl.smc.auxiliary`), those are raised to the power.

    **Arguments:**

    - `b`: the exponent in [0, 1]. A number; or a schedule `[T]` whose entry `t - 1` belongs to the resampling before
      step `t = 1 .. T`; or `ess(target)`; or any function from log weights `[n]` to an exponent. 1 is ordinary
      resampling, 0 draws the living particles alike and carries all of the weight.

    **Returns:** a `FeynmanKac`; with a schedule its state is `Tempered`, else that of the model.

    **Raises:** `ValueError` for an exponent outside [0, 1] or a schedule of more than one axis; a run with more steps
    than the schedule has entries fails under jit too.
    """
    if callable(b):
        return FeynmanKac(model.init, model.step, _Power(model.resampling_weights, b), model.arrange)
    values = np.asarray(b)
    if values.ndim > 1:
        raise ValueError(f"b: a number or a schedule [T] is wanted, got an array of shape {values.shape}")
    if not np.all((values >= 0) & (values <= 1)):
        raise ValueError(f"b: exponents in [0, 1] are wanted, got {b!r}")
    exponents = jnp.asarray(values, jnp.result_type(float))
    if values.ndim == 0:
        return FeynmanKac(model.init, model.step, _Power(model.resampling_weights, _Fixed(exponents)), model.arrange)
    wrapped = rewrapped(model, _Init(model.init), _Step(model.step))
    return FeynmanKac(wrapped.init, wrapped.step, _Scheduled(wrapped.resampling_weights, exponents), wrapped.arrange)


def ess(target: float = 0.5) -> Exponent:
    """The largest exponent `b` in [0, 1] at which the effective sample size of `w**b` is `target` of the particles.

    Found by bisection (the effective sample size falls as `b` grows). It is 1 where the weights themselves reach the
    target, and 0, the best there is, where fewer than that fraction of the particles is alive.

    **Arguments:** `target`: a fraction of the particles, in (0, 1]. **Raises:** `ValueError` for any other.
    """
    if not 0 < target <= 1:
        raise ValueError(f"target: a fraction of the particles in (0, 1] is wanted, got {target!r}")
    return _Bisection(jnp.asarray(target, jnp.result_type(float)))


def powered(log_weights: Float[Array, " n"], b: Float[Array, ""]) -> Float[Array, " n"]:
    """`b * log_weights`, where the dead stay dead at `b = 0` (`0 * -inf` would be NaN)."""
    return jnp.where(jnp.isneginf(log_weights), -jnp.inf, b.astype(log_weights.dtype) * log_weights)


class _Fixed(eqx.Module):
    b: Float[Array, ""]

    def __call__(self, log_weights: Float[Array, " n"]) -> Float[Array, ""]:
        return self.b


class _Bisection(eqx.Module):
    target: Float[Array, ""]

    def __call__(self, log_weights: Float[Array, " n"]) -> Float[Array, ""]:
        wanted = self.target.astype(log_weights.dtype) * log_weights.shape[0]

        def enough(b: Float[Array, ""]) -> Array:
            return effective_sample_size(powered(log_weights, b)) >= wanted

        def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = ends
            middle = (low + high) / 2
            reached = enough(middle)
            return jnp.where(reached, middle, low), jnp.where(reached, high, middle)

        zero, one = jnp.zeros((), log_weights.dtype), jnp.ones((), log_weights.dtype)
        low, _ = jax.lax.fori_loop(0, _HALVINGS, halve, (zero, one))
        return jnp.where(enough(one), one, low)


class _Power(eqx.Module):
    weights: ResamplingWeights | None
    exponent: Exponent

    def __call__(self, log_weights: Float[Array, " n"], state: State, u: Input, /) -> Float[Array, " n"]:
        base = log_weights if self.weights is None else self.weights(log_weights, state, u)
        return powered(base, self.exponent(base))


class _Scheduled(eqx.Module):
    weights: ResamplingWeights | None
    exponents: Float[Array, " steps"]

    def __call__(self, log_weights: Float[Array, " n"], state: Tempered, u: Input, /) -> Float[Array, " n"]:
        base = log_weights if self.weights is None else self.weights(log_weights, state, u)
        done = state.clock[0]
        # Indexing past the end would silently take the last entry.
        done = eqx.error_if(
            done,
            done >= self.exponents.shape[0],
            f"temper: the run has more steps than the {self.exponents.shape[0]} entries of its schedule b",
        )
        return powered(base, self.exponents[done])


class _Init(eqx.Module):
    init: InitKernel

    def __call__(self, key: Key[Array, ""], n: int, u: Input, /) -> tuple[Tempered, Float[Array, " n"]]:
        state, log_potential = self.init(key, n, u)
        return Tempered(state, first_clock(n)), log_potential


class _Step(eqx.Module):
    step: StepKernel

    def __call__(self, key: Key[Array, ""], state: Tempered, u: Input, /) -> tuple[Tempered, Float[Array, " n"]]:
        inner, log_potential = self.step(key, state.inner, u)
        return Tempered(inner, state.clock + 1), log_potential
