"""Absorbing states: particles that are finished keep their state and stop gaining weight.

Particles that end at times of their own (a sentence is complete, an answer is given) stay in the population: they
compete at every resampling with the weight they have, and each later step leaves them as they are with potential 1.
Without this, a finished particle is weighed again at every step the others still take, and the target is biased
towards early or late finishers.
"""

from typing import Protocol, runtime_checkable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from ppl.smc.feynman_kac import FeynmanKac, Input, State, StepKernel
from ppl.smc.wrapping import choose


@runtime_checkable
class Finished(Protocol):
    """Says which particles are finished."""

    def __call__(self, state: State, /) -> Bool[Array, " n"]:
        """`[n]`, from the state alone, so that it is known before the step and survives resampling."""
        ...


def absorb(model: FeynmanKac, finished: Finished) -> FeynmanKac:
    """`model`, in which a finished particle keeps its whole state and has log potential 0, whatever the step does.

    The step is still called for the whole batch, finished particles among it; what it returns for them is dropped, NaN
    and `-inf` included. The potential of the step in which a particle finishes counts as usual.

    A twist must be 1 once a particle has finished: put `twist` outside, `twist(absorb(model, finished), ...)`, or end
    it there, `absorb(twist(model, log_psi, last=...), ...)` with a `last` that says what `finished` says.

    **Arguments:**

    - `finished`: see `Finished`.

    **Returns:** a `FeynmanKac` with the state of `model`.
    """
    return FeynmanKac(model.init, _Step(model.step, finished), model.resampling_weights, model.arrange)


class _Step(eqx.Module):
    step: StepKernel
    finished: Finished

    def __call__(self, key: Key[Array, ""], state: State, u: Input, /) -> tuple[State, Float[Array, " n"]]:
        done = self.finished(state)
        moved, log_potential = self.step(key, state, u)
        return choose(done, state, moved), jnp.where(done, jnp.zeros_like(log_potential), log_potential)
