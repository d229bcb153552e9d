r"""Twisting: steer the particles by a guess of what is to come, and leave the target as it was.

A twist $\psi_t > 0$ guesses the potentials still to come, $E[G_{t+1} \cdots G_T \mid x_t]$. The twisted model has the
potentials $G_0 \psi_0$ and $G_t \psi_t / \psi_{t-1}$ with $\psi_T = 1$: their product telescopes to $G_0 \cdots G_T$,
so that log evidence and the final weighted particles have the target they had, while every resampling on the way
prefers particles that are expected to do well. What the twist was is kept in the particle, so a random twist (an
estimate of $\psi_t$, `ppl.smc.lookahead`) telescopes too: the value that was multiplied in is the value divided out.

**Source:** Whiteley & Lee (2014), Twisted particle filters; Guarniero, Johansen & Lee (2017), The iterated auxiliary
particle filter; for language models Zhao et al. (2024), arXiv 2404.17546.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from ppl.smc.feynman_kac import FeynmanKac, InitKernel, Input, State, StepKernel
from ppl.smc.wrapping import first_clock, rewrapped


@runtime_checkable
class Twist(Protocol):
    """The logarithm of a twist, for a batch of particles."""

    def __call__(self, state: State, u: Input, /) -> Float[Array, " n"]:
        """`log psi_t` `[n]` of the particles after their move of step `t`, given slice `t` of the inputs.

        `-inf` kills a particle: right only where no later potential can be positive. NaN is an error of the run.
        """
        ...


@runtime_checkable
class RandomTwist(Protocol):
    """An estimate of a twist that draws random numbers; any positive value is proper, a good one lowers variance."""

    def __call__(self, key: Key[Array, ""], state: State, u: Input, /) -> Float[Array, " n"]:
        """A draw of `log psi_t` `[n]`, as in `Twist`."""
        ...


@runtime_checkable
class Ended(Protocol):
    """Says which particles have no potential to come: their twist is 1."""

    def __call__(self, state: State, u: Input, /) -> Bool[Array, "*n"]:
        """`[n]`, or a scalar for all particles at once, after the move of step `t` with slice `t` of the inputs."""
        ...


class Twisted(NamedTuple):
    """State of a twisted model: the wrapped state, the twist `[n]` it is weighted by, and the steps taken `[n]`."""

    inner: State
    log_psi: Float[Array, " n"]
    clock: Int[Array, " n"]


def twist(
    model: FeynmanKac,
    log_psi: Twist,
    *,
    last: int | Int[Array, ""] | Ended,
    init: InitKernel | None = None,
    step: StepKernel | None = None,
) -> FeynmanKac:
    r"""`model` with the potentials $G_t \psi_t / \psi_{t-1}$, whose product is that of the $G_t$.

    **Arguments:**

    - `model`: the model to twist.
    - `log_psi`: the twist, see `Twist`. It sees the wrapped state.
    - `last`: when the twist ends, being 1 from there on. An int is the index $T$ of the last step (the number of inputs
      less one). A larger one would leave a twist in the final weights; check `run.particles.log_psi == 0` when in
      doubt. Or a function, see `Ended`, which may end each particle at a time of its own.
    - `init`, `step`: kernels under a twisted proposal $q_t$ instead of the model's own: they move by $q_t$ and return
      $\log G_t + \log M_t - \log q_t$. The twist is multiplied in here, not there. With $q_t \propto M_t G_t \psi_t$
      and the exact twist every potential is a constant and the evidence has no variance.

    **Returns:** a `FeynmanKac` with state `Twisted`.

    **Raises:** `ValueError` for a negative `last`.
    """
    proposing = FeynmanKac(
        model.init if init is None else init,
        model.step if step is None else step,
        model.resampling_weights,
        model.arrange,
    )
    return random_twist(proposing, _Certain(log_psi), last=last)


def random_twist(model: FeynmanKac, log_psi: RandomTwist, *, last: int | Int[Array, ""] | Ended) -> FeynmanKac:
    """`twist` by a random estimate. Arguments, result and errors are those of `twist`."""
    if isinstance(last, int) and last < 0:
        raise ValueError(f"last: the index of the last step (0 or more) is wanted, got {last}")
    # An array, so that another horizon does not make another structure and compile anew.
    end = last if callable(last) else jnp.asarray(last, jnp.int32)
    value = _Value(log_psi, end)
    return rewrapped(model, _Init(model.init, value), _Step(model.step, value))


class _Certain(eqx.Module):
    log_psi: Twist

    def __call__(self, key: Key[Array, ""], state: State, u: Input, /) -> Float[Array, " n"]:
        return self.log_psi(state, u)


class _Value(eqx.Module):
    """The twist with its end: log psi is 0 from the end on."""

    log_psi: RandomTwist
    last: Int[Array, ""] | Ended

    def __call__(self, key: Key[Array, ""], state: State, u: Input, clock: Int[Array, " n"]) -> Float[Array, " n"]:
        log_psi = self.log_psi(key, state, u)
        ended = self.last(state, u) if callable(self.last) else clock >= self.last
        return jnp.where(ended, jnp.zeros_like(log_psi), log_psi)


class _Init(eqx.Module):
    init: InitKernel
    value: _Value

    def __call__(self, key: Key[Array, ""], n: int, u: Input, /) -> tuple[Twisted, Float[Array, " n"]]:
        move, guess = jax.random.split(key)
        state, log_potential = self.init(move, n, u)
        clock = first_clock(n)
        log_psi = self.value(guess, state, u, clock)
        return Twisted(state, log_psi, clock), log_potential + log_psi


class _Step(eqx.Module):
    step: StepKernel
    value: _Value

    def __call__(self, key: Key[Array, ""], state: Twisted, u: Input, /) -> tuple[Twisted, Float[Array, " n"]]:
        move, guess = jax.random.split(key)
        inner, log_potential = self.step(move, state.inner, u)
        clock = state.clock + 1
        log_psi = self.value(guess, inner, u, clock)
        # A particle of twist 0 is dead already; dividing by that 0 would turn its weight into NaN.
        ratio = jnp.where(jnp.isneginf(state.log_psi), -jnp.inf, log_psi - state.log_psi)
        return Twisted(inner, log_psi, clock), log_potential + ratio


def twisted_transition(
    log_transition: Callable[[State, State, Input], Float[Array, " n"]],
) -> Callable[[Twisted, Twisted, Input], Float[Array, " n"]]:
    r"""The transition density that backward sampling (`ppl.smc.backward`) needs for a twisted model.

    The weights of generation $t$ hold $\psi_t$ and the potential of step $t + 1$ divides by it, so $1 / \psi_t$ is part
    of what depends on the earlier state.

    **Arguments:** `log_transition(previous, next, u)` of the wrapped model. **Returns:** the same for `Twisted` states.
    """

    def twisted(previous: Twisted, following: Twisted, u: Input) -> Float[Array, " n"]:
        return log_transition(previous.inner, following.inner, u) - previous.log_psi

    return twisted
