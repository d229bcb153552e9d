r"""Integrals over one problem's success probability, for laws of it that have no closed form.

The law is a density of $y$, with $\theta = c\,\sigma(y)$ and $\sigma$ the logistic function. Against the likelihood
$\theta^s (1 - \theta)^f$ it is integrated by the trapezoidal rule in $t$, where $y = y_0 + w \sinh t$: dense within the
likelihood's width $w$ around its peak $y_0$, and sparse in the tails.
The mass beyond either end is the law's own, in closed form.

**Source:** for the accuracy of the rule on analytic integrands, Trefethen & Weideman (2014), SIAM Review 56(3).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_NODES = 96
_UNRESOLVED = 0.1  # of the log total mass
MOST_ATTEMPTS = 1e7  # the left end is so far out that as many further attempts do not reach beyond it


class Law(NamedTuple):
    r"""A distribution of $y$, elementwise: log density, and log mass below and above a far-out value; $c$."""

    log_density: Callable[[Float[Array, "..."]], Float[Array, "..."]]
    log_below: Callable[[Float[Array, "..."]], Float[Array, "..."]]
    log_above: Callable[[Float[Array, "..."]], Float[Array, "..."]]
    ceiling: Float[Array, ""]


class Nodes(NamedTuple):
    r"""For each pair of counts: log weights (law times likelihood, saturated one as unit) and $\ln(1 - \theta)$."""

    log_weight: Float[Array, "pairs nodes"]
    log_rest: Float[Array, "pairs nodes"]


def nodes(law: Law, successes: Float[Array, " pairs"], failures: Float[Array, " pairs"]) -> Nodes:
    """Nodes and weights, whose sum is the marginal likelihood of each pair of counts."""
    s, f = successes[:, None], failures[:, None]
    n = s + f
    share = (s + 0.5) / (n + 1)
    sd = jnp.sqrt(share * (1 - share) / (n + 1))
    # Where the share comes near the ceiling the likelihood is still rising there: its scale is the sd below it.
    relative = jnp.clip(share / law.ceiling, 1e-9, 1 / (1 + sd / law.ceiling))
    centre = jnp.log(relative) - jnp.log1p(-relative)
    width = jnp.minimum(sd / (share * (1 - relative)), 1.5)
    low = jnp.minimum(centre - 10 * width, -jnp.log(1e3 * (n + MOST_ATTEMPTS)))
    high = jnp.maximum(centre + 10 * width, jnp.log(1e3 * (n + 1)))
    start, end = jnp.arcsinh((low - centre) / width), jnp.arcsinh((high - centre) / width)
    t = start + (end - start) * jnp.linspace(0, 1, _NODES)
    y = centre + width * jnp.sinh(t)
    log_step = jnp.log(width * (end - start) / (_NODES - 1) * jnp.cosh(t))
    log_step = log_step.at[:, 0].add(-jnp.log(2.0)).at[:, -1].add(-jnp.log(2.0))
    inside = law.log_density(y) + log_step
    # The mass beyond an end sits at that end: there the likelihood is flat, or 0 for all that matters.
    log_mass = jnp.concatenate([law.log_below(low), inside, law.log_above(high)], axis=1)
    # A law narrower than the likelihood falls between nodes or upon one. Its weights then sum to anything; normalised,
    # they still average the likelihood, and no such law looks better than the best there can be.
    total = jax.nn.logsumexp(log_mass, axis=1, keepdims=True)
    log_mass = log_mass - jnp.where(jnp.abs(total) > _UNRESOLVED, total, 0)
    y = jnp.concatenate([low, y, high], axis=1)
    log_theta = jnp.log(law.ceiling) - jax.nn.softplus(-y)
    log_rest = jnp.log1p(-law.ceiling * jax.nn.sigmoid(y))
    log_rest = jnp.where(law.ceiling == 1, -jax.nn.softplus(y), log_rest)
    positive_s, positive_f = jnp.where(s > 0, s, 1), jnp.where(f > 0, f, 1)
    # Per attempt relative to the saturated model, so that float32 subtracts before it multiplies by the count.
    right = jnp.where(s > 0, s * (log_theta + jnp.log1p(f / positive_s)), 0)
    wrong = jnp.where(f > 0, f * (log_rest + jnp.log1p(s / positive_f)), 0)
    return Nodes(log_mass + right + wrong, log_rest)


def log_marginal(found: Nodes) -> Float[Array, " pairs"]:
    """Log marginal likelihood of each pair, less that of its own share of successes."""
    return jax.nn.logsumexp(found.log_weight, axis=1)


def miss(found: Nodes, attempts: Float[Array, ""]) -> Float[Array, " pairs"]:
    r"""$E[(1 - \theta)^N \mid s, f]$ for each pair."""
    return jnp.sum(jax.nn.softmax(found.log_weight, axis=1) * jnp.exp(attempts * found.log_rest), axis=1)
