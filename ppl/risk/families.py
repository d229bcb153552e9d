r"""Laws of a problem's success probability beside the beta: equal on the attempts made, and not beyond them.

Each has two or three parameters, with priors that are normal in an unconstrained space; where one is the exponent of
the left tail, $p^{a - 1}$ near 0, its prior is that of the beta's alpha.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import betaln
from jaxtyping import Array, Float

from ppl.risk import quadrature
from ppl.risk.log_beta import log_beta_binomial, log_beta_ratio
from ppl.risk.quadrature import Law

Parameters = Float[Array, " parameters"]


class Family(NamedTuple):
    r"""A law of the success probability.

    - `parameters`: names in the natural space; `natural`: from the unconstrained one;
    - `centre`, `scale`: of the normal priors in it;
    - `log_marginal(unconstrained, s, f)`: [pairs], $\ln E[\theta^s (1 - \theta)^f]$ less the saturated log-likelihood;
    - `miss(unconstrained, s, f, N)`: [pairs], $E[(1 - \theta)^N \mid s, f]$.
    """

    parameters: tuple[str, ...]
    natural: Callable[[Float[Array, "*draws parameters"]], Float[Array, "*draws parameters"]]
    centre: tuple[float, ...]
    scale: tuple[float, ...]
    has_exponent: bool
    log_marginal: Callable[..., Float[Array, " pairs"]]
    miss: Callable[..., Float[Array, " pairs"]]


def _by_quadrature(law: Callable[[Parameters], Law]):
    def log_marginal(x, s, f):
        return quadrature.log_marginal(quadrature.nodes(law(x), s, f))

    def miss(x, s, f, attempts):
        return quadrature.miss(quadrature.nodes(law(x), s, f), attempts)

    return log_marginal, miss


def _beta_marginal(x, s, f):
    a, b = jnp.exp(x[:2])
    return log_beta_binomial(a, b, s, f)


def _beta_miss(x, s, f, attempts):
    a, b = jnp.exp(x[:2])
    return jnp.exp(log_beta_ratio(a + s, b + f, jnp.zeros_like(s), jnp.full_like(s, attempts)))


def _inflated_marginal(x, s, f):
    never, other = jax.nn.log_sigmoid(x[2]), jax.nn.log_sigmoid(-x[2]) + _beta_marginal(x, s, f)
    return jnp.where(s == 0, jnp.logaddexp(never, other), other)


def _inflated_miss(x, s, f, attempts):
    # Given its counts, a problem without success is one that never has any by Bayes' rule.
    never = jnp.where(s == 0, jnp.exp(jax.nn.log_sigmoid(x[2]) - _inflated_marginal(x, s, f)), 0)
    return never + (1 - never) * _beta_miss(x, s, f, attempts)


def _kumaraswamy(x: Parameters) -> Law:
    r"""Density $a b\, p^{a-1} (1 - p^a)^{b-1}$ (Kumaraswamy 1980; as Schaeffer et al. 2025, arXiv 2502.17578)."""
    a, b = jnp.exp(x)

    def log_power_rest(y):
        """ln(1 - p^a), by the smaller of the two."""
        z = -a * jax.nn.softplus(-y)
        return jnp.where(z > -0.7, jnp.log(-jnp.expm1(z)), jnp.log1p(-jnp.exp(z)))

    def log_density(y):
        return x[0] + x[1] - a * jax.nn.softplus(-y) + (b - 1) * log_power_rest(y) - jax.nn.softplus(y)

    # 1 - (1 - p^a)^b at a p^a that is small: its logarithm is ln b + a ln p.
    def log_below(y):
        return jnp.log(-jnp.expm1(jnp.minimum(b * log_power_rest(y), -1e-30)))

    return Law(log_density, log_below, lambda y: b * log_power_rest(y), jnp.ones(()))


def _scaled_beta(x: Parameters) -> Law:
    r"""$\theta = c\,u$ with $u \sim \mathrm{Beta}(a, b)$ (Schaeffer et al. 2025): no problem is easier than $c$."""
    a, b = jnp.exp(x[:2])
    log_norm = betaln(a, b)

    def log_density(y):
        return -a * jax.nn.softplus(-y) - b * jax.nn.softplus(y) - log_norm

    # Far out the incomplete beta function is its leading term.
    def log_below(y):
        return -a * jax.nn.softplus(-y) - x[0] - log_norm

    def log_above(y):
        return -b * jax.nn.softplus(y) - x[1] - log_norm

    return Law(log_density, log_below, log_above, jnp.maximum(jax.nn.sigmoid(x[2]), 1e-12))


def _logit_normal(x: Parameters) -> Law:
    r"""$\mathrm{logit}\, p \sim N(\mu, \sigma^2)$: the hierarchy that most would write, with a left tail too light."""
    mean, sd = x[0], jnp.exp(x[1])
    return Law(
        lambda y: jax.scipy.stats.norm.logpdf(y, mean, sd),
        lambda y: jax.scipy.stats.norm.logcdf(y, mean, sd),
        lambda y: jax.scipy.stats.norm.logsf(y, mean, sd),
        jnp.ones(()),
    )


def _two_piece(x: Parameters) -> Law:
    r"""$\mathrm{logit}\, p$ exponential to both sides of a mode $m$: rate $a$ below, $b$ above (asymmetric Laplace)."""
    a, b = jnp.exp(x[0]), jnp.exp(x[1])
    log_norm = x[0] + x[1] - jnp.log(a + b)

    def piece(y):
        return jnp.where(y < x[2], a * (y - x[2]), -b * (y - x[2]))

    # Beyond the ends only one side is left; an end on the other side of the mode would have next to no mass beyond it.
    return Law(
        lambda y: log_norm + piece(y),
        lambda y: log_norm - x[0] + a * jnp.minimum(y - x[2], 0),
        lambda y: log_norm - x[1] - b * jnp.maximum(y - x[2], 0),
        jnp.ones(()),
    )


def _natural(*kinds: str):
    maps = {"exp": jnp.exp, "sigmoid": jax.nn.sigmoid, "same": lambda x: x}

    def natural(x):
        return jnp.stack([maps[kind](x[..., i]) for i, kind in enumerate(kinds)], axis=-1)

    return natural


# ln(alpha) 0.2 within a factor of two; the beta's ln(beta) 20 within a factor of 50; and what corresponds to them.
_EXPONENT, _LOG_BETA = (-1.6, 0.7), (3.0, 2.0)

FAMILIES: dict[str, Family] = {
    "beta": Family(
        ("alpha", "beta"), _natural("exp", "exp"), (_EXPONENT[0], _LOG_BETA[0]), (_EXPONENT[1], _LOG_BETA[1]), True,
        _beta_marginal, _beta_miss,
    ),
    "kumaraswamy": Family(
        ("a", "b"), _natural("exp", "exp"), (_EXPONENT[0], 0.7), (_EXPONENT[1], 1.5), True,
        *_by_quadrature(_kumaraswamy),
    ),
    "scaled_beta": Family(
        ("alpha", "beta", "ceiling"), _natural("exp", "exp", "sigmoid"), (_EXPONENT[0], 1.6, 0.0),
        (_EXPONENT[1], 2.0, 1.5), True, *_by_quadrature(_scaled_beta),
    ),
    "two_piece": Family(
        ("rate_below", "rate_above", "mode"), _natural("exp", "exp", "same"), (_EXPONENT[0], 0.0, -3.0),
        (_EXPONENT[1], 1.0, 3.0), True, *_by_quadrature(_two_piece),
    ),
    "logit_normal": Family(
        ("mean", "sd"), _natural("same", "exp"), (-3.0, 0.9), (3.0, 0.6), False, *_by_quadrature(_logit_normal),
    ),
    "zero_inflated": Family(
        ("alpha", "beta", "never"), _natural("exp", "exp", "sigmoid"), (_EXPONENT[0], _LOG_BETA[0], -2.0),
        (_EXPONENT[1], _LOG_BETA[1], 1.5), True, _inflated_marginal, _inflated_miss,
    ),
}  # fmt: skip
