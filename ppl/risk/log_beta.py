r"""Beta functions in log space, right in float32 up to a million trials: the one place of their numerics.

With $N = 10^4$ to $10^6$, differences of `gammaln` lose 0.01 to 0.9 in float32, since they subtract numbers near
$N \ln N$. `betaln` reduces its arguments first; its differences stay within 1e-6.
"""

import jax.numpy as jnp
from jax import Array
from jax.scipy.special import betaln
from jaxtyping import Float


def log_beta_ratio(
    a: Float[Array, "*#shape"],
    b: Float[Array, "*#shape"],
    more_a: Float[Array, "*#shape"],
    more_b: Float[Array, "*#shape"],
) -> Float[Array, "*shape"]:
    r"""$\ln B(a + s, b + f) - \ln B(a, b)$: log probability of $s$ successes and $f$ failures in one given order.

    With $\theta \sim \mathrm{Beta}(a, b)$ it is $\ln E[\theta^s (1 - \theta)^f]$, so $s = 0$ gives the log failure
    probability of $f$ attempts, and $f = 0$ that of $s$ successes in a row.

    **Arguments:** `a`, `b` positive; `more_a` ($s$) and `more_b` ($f$) not negative, whole or not; broadcast together.
    """
    return betaln(a + more_a, b + more_b) - betaln(a, b)


def log_failure(
    a: Float[Array, "*#shape"], b: Float[Array, "*#shape"], attempts: Float[Array, "*#shape"]
) -> Float[Array, "*shape"]:
    r"""Log probability of no success in $N$ attempts, $\ln E[(1 - \theta)^N]$ for $\theta \sim \mathrm{Beta}(a, b)$."""
    return log_beta_ratio(a, b, jnp.zeros_like(a), attempts)
