r"""Beta functions in log space, right in float32 up to a million trials: the one place of their numerics.

With $N = 10^4$ to $10^6$, differences of `gammaln` lose 0.01 to 0.9 in float32, since they subtract numbers near
$N \ln N$; differences of `betaln` do so where there are many successes as well as failures. Here the large parts cancel
on paper. With $n = s + f$, $c = a + b$, $C = c + n$ and $D = an - sc$, Stirling's formula gives

$$\ln \frac{B(a + s, b + f)}{B(a, b)} - s \ln \frac sn - f \ln \frac fn =
  s\,g\Bigl(\frac{D}{sC}\Bigr) + f\,g\Bigl(\frac{-D}{fC}\Bigr) + a\,g\Bigl(\frac{-D}{aC}\Bigr)
  + b\,g\Bigl(\frac{D}{bC}\Bigr) - \tfrac12 \ln \frac{(a + s)(b + f)\,c}{a\,b\,C} + \text{small},
  \quad g(x) = \ln(1 + x) - x.$$
"""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

_SHIFT = 4  # arguments are moved up by this, where Stirling's series with five terms is right to 1e-9


def log_beta_ratio(
    a: Float[Array, "*#shape"],
    b: Float[Array, "*#shape"],
    more_a: Float[Array, "*#shape"],
    more_b: Float[Array, "*#shape"],
) -> Float[Array, "*shape"]:
    r"""$\ln B(a + s, b + f) - \ln B(a, b)$: log probability of $s$ successes and $f$ failures in one given order.

    With $\theta \sim \mathrm{Beta}(a, b)$ it is $\ln E[\theta^s (1 - \theta)^f]$.

    **Arguments:** `a`, `b` positive; `more_a` ($s$) and `more_b` ($f$) not negative, whole or not; broadcast together.
    """
    return log_beta_binomial(a, b, more_a, more_b) + log_saturated(more_a, more_b)


def log_beta_binomial(
    a: Float[Array, "*#shape"],
    b: Float[Array, "*#shape"],
    successes: Float[Array, "*#shape"],
    failures: Float[Array, "*#shape"],
) -> Float[Array, "*shape"]:
    r"""`log_beta_ratio` less the log-likelihood of the share $s/n$ itself: never above 0, and of moderate size.

    What a posterior of (a, b) needs, since the difference is a constant of the data.
    """
    s, f = successes, failures
    n = s + f
    # Gamma(x) = Gamma(x + 4) / (x (x+1) (x+2) (x+3)), so that Stirling's series serves from 0 on. The eight factors of
    # a + b are two products, since one overflows float32 at n = 10^6.
    shifted = -jnp.log(_moved(a, s)) - jnp.log(_moved(b, f)) + jnp.log(_moved(a + b, n))
    shifted = shifted + jnp.log(_moved(a + b + _SHIFT, n))
    a, b = a + _SHIFT, b + _SHIFT
    c = a + b
    more = c + n
    # D / C; where it cancels it is small, and enters squared.
    d = (a * n - s * c) / more
    mean_a, mean_b = (a + s) / more, (b + f) / more
    shares = _x_log_minus(s, d, mean_a * n) + _x_log_minus(f, -d, mean_b * n)
    shares = shares + _x_log_minus(a, -d, mean_a * c) + _x_log_minus(b, d, mean_b * c)
    roots = 0.5 * (jnp.log1p(n / c) - jnp.log1p(s / a) - jnp.log1p(f / b))
    series = _remainder(a + s) - _remainder(a) + _remainder(b + f) - _remainder(b) + _remainder(c) - _remainder(more)
    return shares + roots + series + shifted


def log_saturated(successes: Float[Array, "*#shape"], failures: Float[Array, "*#shape"]) -> Float[Array, "*shape"]:
    r"""$s \ln (s/n) + f \ln (f/n)$: the largest log-likelihood that any success probability gives the counts."""
    return _x_log_share(successes, failures) + _x_log_share(failures, successes)


def log_failure(
    a: Float[Array, "*#shape"], b: Float[Array, "*#shape"], attempts: Float[Array, "*#shape"]
) -> Float[Array, "*shape"]:
    r"""Log probability of no success in $N$ attempts, $\ln E[(1 - \theta)^N]$ for $\theta \sim \mathrm{Beta}(a, b)$."""
    return log_beta_binomial(a, b, jnp.zeros_like(attempts), attempts)


def _moved(x: Float[Array, "*#shape"], m: Float[Array, "*#shape"]) -> Float[Array, "*shape"]:
    """The product of (x + m + i) / (x + i) over i = 0, 1, 2, 3."""
    return (1 + m / x) * (1 + m / (x + 1)) * (1 + m / (x + 2)) * (1 + m / (x + 3))


def _remainder(z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """What Stirling's formula lacks of the log-gamma function (DLMF 5.11.1)."""
    w = 1 / (z * z)
    return (1 / 12 - w * (1 / 360 - w * (1 / 1260 - w * (1 / 1680 - w / 1188)))) / z


def _x_log_minus(
    x: Float[Array, "*#shape"], d: Float[Array, "*#shape"], moved: Float[Array, "*#shape"]
) -> Float[Array, "*shape"]:
    """x (ln(1 + d/x) - d/x) for x >= 0 and `moved` = x + d, without cancellation at small d/x; -d at x = 0."""
    positive = jnp.where(x > 0, x, 1)
    y = d / positive
    small = jnp.abs(y) < 0.4
    near, ratio = jnp.where(small, y, 0), jnp.where(small | (x <= 0), 1, moved / positive)
    # ln(1 + y) = 2 artanh(r), of which y r is the part that cancels y up to second order.
    r = near / (2 + near)
    w = r * r
    series = 2 * r * w * (1 / 3 + w * (1 / 5 + w * (1 / 7 + w * (1 / 9 + w / 11)))) - near * r
    return jnp.where(x > 0, positive * jnp.where(small, series, jnp.log(ratio) - y), -d)


def _x_log_share(x: Float[Array, "*#shape"], rest: Float[Array, "*#shape"]) -> Float[Array, "*shape"]:
    positive = jnp.where(x > 0, x, 1)
    return jnp.where(x > 0, -x * jnp.log1p(rest / positive), 0)
