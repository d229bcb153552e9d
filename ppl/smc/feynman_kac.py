"""Feynman-Kac models: what every sequential method here is.

A model is a law of paths reweighted by potentials: an initial law $M_0$, Markov kernels $M_t$ and potentials
$G_t \\ge 0$, which define $Z = E[\\prod_t G_t]$ and the law of paths proportional to $M_0 G_0 M_1 G_1 \\cdots$. Kernel
and potential are fused: one call moves all particles and weighs them, so that one network call serves both.

**Source:** Del Moral (2004), *Feynman-Kac Formulae*; Chopin & Papaspiliopoulos (2020), chapter 5.
"""

from typing import Protocol, runtime_checkable

import equinox as eqx
from jaxtyping import Array, Float, Int, Key, PyTree

# A pytree whose every leaf has the particle axis first. Typed key arrays are leaves like any other.
State = PyTree
# What one step is given: one slice of the scanned inputs (observation, temperature, mask, ...), of any structure.
Input = PyTree


@runtime_checkable
class InitKernel(Protocol):
    """Draws the first particles and weighs them: $M_0$ and $G_0$."""

    def __call__(self, key: Key[Array, ""], n: int, u: Input, /) -> tuple[State, Float[Array, " n"]]:
        """`n` particles and their log potentials.

        **Arguments:**

        - `key`: one key for the whole batch of particles.
        - `n`: number of particles, a Python int.
        - `u`: the first slice of the inputs (the integer 0 for a run without inputs).

        **Returns:** the state (every leaf `[n, ...]`) and the log potentials `[n]`; `-inf` kills a particle.
        """
        ...


@runtime_checkable
class StepKernel(Protocol):
    """Moves all particles and weighs them: $M_t$ and $G_t$."""

    def __call__(self, key: Key[Array, ""], state: State, u: Input, /) -> tuple[State, Float[Array, " n"]]:
        """The moved particles and their log potentials.

        **Arguments:**

        - `key`: one key for the whole batch of particles; offspring of one ancestor must move apart, so the noise is
          drawn here for the batch and not carried in the particles.
        - `state`: every leaf `[n, ...]`.
        - `u`: slice `t` of the inputs (the step index `t` for a run without inputs).

        **Returns:** a state of the same structure, shapes and dtypes, and the log potentials `[n]`.
        """
        ...


@runtime_checkable
class ResamplingWeights(Protocol):
    """What to resample on when it is not the weights themselves (tempering, auxiliary filters)."""

    def __call__(self, log_weights: Float[Array, " n"], state: State, u: Input, /) -> Float[Array, " n"]:
        """The log weights $v$ that ancestors are drawn by.

        **Arguments:** the log weights `[n]` (log mean exp 0) and state of step `t - 1`, and slice `t` of the inputs.

        **Returns:** log weights `[n]`. They must be above `-inf` wherever `log_weights` is: a live particle that can
        never be drawn would be lost from the target.
        """
        ...


@runtime_checkable
class Arrange(Protocol):
    """Puts the particles into another order before a step, whether or not a resampling follows."""

    def __call__(
        self, key: Key[Array, ""], log_weights: Float[Array, " n"], state: State, u: Input, /
    ) -> Int[Array, " n"]:
        """A permutation: which particle comes to stand in each slot.

        The order is no part of the target, so any permutation is proper. Ancestor sampling (`ppl.smc.conditional`)
        brings a particle to the slot of the reference; sorting by a coordinate makes systematic resampling more even.

        **Arguments:** one key; the log weights `[n]` (log mean exp 0) and the state of step `t - 1`; slice `t` of the
        inputs.

        **Returns:** int32 indices `[n]`.
        """
        ...


class FeynmanKac(eqx.Module):
    """A Feynman-Kac model: two batched kernels.

    **Arguments:**

    - `init`: `init(key, n, u)`, see `InitKernel`.
    - `step`: `step(key, state, u)`, see `StepKernel`.
    - `resampling_weights`: `None` to resample on the weights themselves, or see `ResamplingWeights`. The driver draws
      ancestors $a \\sim v$ and offspring carry $w_a / v_a \\cdot \\operatorname{mean}(v)$: the target stays as it was.
    - `arrange`: `None` to leave the particles in their slots, or see `Arrange`.

    `ppl.smc.run` compiles once for each structure of the model and shapes: plain functions are part of the structure
    (compared by identity), arrays inside a callable `eqx.Module` or `jax.tree_util.Partial` are traced. So pass data
    as `inputs` or as arrays of such a callable; a lambda made anew for each call compiles anew for each call.
    """

    init: InitKernel
    step: StepKernel
    resampling_weights: ResamplingWeights | None = None
    arrange: Arrange | None = None
