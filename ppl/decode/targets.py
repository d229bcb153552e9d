r"""Named targets: what law over solutions a particle filter samples from, and the potential that gives it.

With $p$ the language model at its sampling temperature, $x_{1:t}$ the first $t$ steps, $r_t$ the reward model's
P(right) of them and $T$ the step that ends the text:

| name | target | potential of step t |
| --- | --- | --- |
| `final_reward` | $p(x)\, r_T$ | $r_t / r_{t-1}$, with $r_0 = 1$: telescopes |
| `product` | $p(x) \prod_t r_t$ | $r_t$ |
| `odds` | $p(x) \prod_t r_t / (1 - r_t)$ | $r_t / (1 - r_t)$ |

`final_reward` is the posterior given "right" if the reward is a calibrated probability of it. `odds` is what the
code of Puri et al. (2025, arXiv 2502.01618) targets (softmax of logits), although the paper writes a product of
rewards; unlike their code, a finished text here stops gaining weight, which removes a bias towards early ends.
Which target a filter hits is tested by enumeration.
"""

from typing import Protocol, runtime_checkable

import jax
from jaxtyping import Array, Float


@runtime_checkable
class Target(Protocol):
    """The log potential of one step from the reward's log odds before and after it."""

    def __call__(self, log_odds: Float[Array, " n"], previous: Float[Array, " n"] | None, /) -> Float[Array, " n"]:
        """Log potentials [n]; `previous` is None at the first step."""
        ...


def final_reward(log_odds: Float[Array, " n"], previous: Float[Array, " n"] | None) -> Float[Array, " n"]:
    """log r_t - log r_{t-1}."""
    log_reward = jax.nn.log_sigmoid(log_odds)
    return log_reward if previous is None else log_reward - jax.nn.log_sigmoid(previous)


def product(log_odds: Float[Array, " n"], previous: Float[Array, " n"] | None) -> Float[Array, " n"]:
    """log r_t."""
    return jax.nn.log_sigmoid(log_odds)


def odds(log_odds: Float[Array, " n"], previous: Float[Array, " n"] | None) -> Float[Array, " n"]:
    """log r_t - log(1 - r_t)."""
    return log_odds


TARGETS: dict[str, Target] = {"final_reward": final_reward, "product": product, "odds": odds}


def target_named(name: str) -> Target:
    """The target of that name. **Raises:** `ValueError` listing the known names."""
    if name not in TARGETS:
        raise ValueError(f"target {name!r} is not known; known are {', '.join(TARGETS)}")
    return TARGETS[name]
