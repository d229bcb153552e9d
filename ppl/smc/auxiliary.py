r"""The auxiliary particle filter: resample with an eye on the next input.

Before step $t$ ancestors are drawn in proportion to $w_{t-1} \eta_t(x_{t-1}, u_t)$, where $\eta_t$ guesses how well a
particle will fare at step $t$ (say, the likelihood of $u_t$ at the mean of its move), and offspring carry $1/\eta_t$
(times the mean first-stage weight). In this form it is one resampling scheme of an ordinary particle filter, proper
for any positive $\eta$, with one resampling a step and an estimate of the evidence.

Use it with a policy that resamples at every step or often: between resamplings $\eta$ has no say.

**Source:** Pitt & Shephard (1999), Filtering via simulation: auxiliary particle filters (there with a second resampling
that only adds variance); Carpenter, Clifford & Fearnhead (1999); Johansen & Doucet (2008), A note on auxiliary
particle filters.
"""

from typing import Protocol, runtime_checkable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ppl.smc.feynman_kac import FeynmanKac, Input, ResamplingWeights, State


@runtime_checkable
class FirstStage(Protocol):
    """The logarithm of the first-stage weights."""

    def __call__(self, state: State, u: Input, /) -> Float[Array, " n"]:
        """`log eta_t` `[n]` of the particles of step `t - 1`, given slice `t` of the inputs: what is to come.

        Finite for every living particle: one that cannot be drawn would be lost from the target. A bounded ratio of
        the true to the guessed potential (heavy tails for `eta`) keeps the variance bounded.
        """
        ...


def auxiliary(model: FeynmanKac, log_eta: FirstStage) -> FeynmanKac:
    """`model`, resampled on `w * eta`; offspring carry `1 / eta`.

    **Arguments:**

    - `log_eta`: the first-stage weights, see `FirstStage`. It sees the model's state.

    **Returns:** a `FeynmanKac` with the state of `model`. A `log_eta` that is not finite for a living particle is an
    error of the run, also under jit.
    """
    return FeynmanKac(model.init, model.step, _Guided(model.resampling_weights, log_eta), model.arrange)


class _Guided(eqx.Module):
    weights: ResamplingWeights | None
    log_eta: FirstStage

    def __call__(self, log_weights: Float[Array, " n"], state: State, u: Input, /) -> Float[Array, " n"]:
        base = log_weights if self.weights is None else self.weights(log_weights, state, u)
        dead = jnp.isneginf(base)
        guided = jnp.where(dead, -jnp.inf, base + self.log_eta(state, u))
        return eqx.error_if(
            guided,
            ~(dead | jnp.isfinite(guided)),
            "auxiliary: log_eta must be finite for every living particle; one that can never be drawn, or a NaN, "
            "would change the target without a trace",
        )
