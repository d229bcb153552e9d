r"""The beta-binomial model of repeated sampling: a success probability a problem, from one beta distribution.

$$\theta_i \sim \mathrm{Beta}(\alpha, \beta), \qquad s_i \sim \mathrm{Binomial}(n_i, \theta_i).$$

$\alpha$ is the exponent of the left tail, which alone decides how coverage grows far beyond the attempts made
(Schaeffer et al. 2025, arXiv 2502.17578). It is what little data say least about, so that its prior matters.
"""

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key
from scipy import special

from ppl.risk.attempts import Attempts
from ppl.risk.draws import LogBeta, log_beta_variates
from ppl.risk.importance import importance_draws
from ppl.risk.log_beta import log_beta_binomial


@dataclasses.dataclass(frozen=True)
class BetaPrior:
    r"""Independent priors of the two parameters, both proper.

    $\ln \alpha$ is Student t with `freedom` degrees around `alpha` with scale `log_alpha_scale`, $\ln \beta$ normal
    around `beta` with standard deviation `log_beta_sd`.

    The defaults say that exponents are near 0.2, with heavy tails: fitted exponents of models on MATH problems lie at
    0.07 to 0.37 and those of jailbreaks at 0.15 to 1.44. Of $\beta$ they say only its order of magnitude.
    """

    alpha: float = 0.2
    log_alpha_scale: float = 0.5
    freedom: float = 4.0
    beta: float = 20.0
    log_beta_sd: float = 2.0

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not 0 < value < float("inf"):
                raise ValueError(f"{field.name}: must be positive and finite, got {value}")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Float[np.ndarray, "5"]:
        """The fields in order, for the jitted functions."""
        return np.asarray(dataclasses.astuple(self), dtype or np.float32)


DEFAULT_PRIOR = BetaPrior()


class CountTable(NamedTuple):
    """Distinct pairs of successes and failures, and how many problems have each; a pair of weight 0 is padding."""

    successes: Float[Array, " pairs"]
    failures: Float[Array, " pairs"]
    problems: Float[Array, " pairs"]


def log_posterior(parameters: Float[Array, "2"], table: CountTable, prior: Float[Array, "5"]) -> Float[Array, ""]:
    r"""Log density of $(\ln \alpha, \ln \beta)$ up to a constant. `prior`: the fields of `BetaPrior`, in order."""
    alpha, scale, freedom, beta, sd = prior
    z = (parameters[0] - jnp.log(alpha)) / scale
    log_prior = -0.5 * (freedom + 1) * jnp.log1p(z * z / freedom)
    log_prior = log_prior - 0.5 * ((parameters[1] - jnp.log(beta)) / sd) ** 2
    a, b = jnp.exp(parameters)
    return log_prior + jnp.sum(table.problems * log_beta_binomial(a, b, table.successes, table.failures))


def count_table(
    successes: Int[np.ndarray, " problems"], trials: Int[np.ndarray, " problems"], size: int | None = None
) -> CountTable:
    """Counts by distinct pairs, padded to `size` or to a power of two, so that few sizes are ever compiled."""
    pairs, problems = np.unique(np.stack([successes, trials - successes], axis=1), axis=0, return_counts=True)
    padding = (size or max(16, 2 ** int(np.ceil(np.log2(len(pairs)))))) - len(pairs)
    columns = (np.pad(values, (0, padding)) for values in (*pairs.T, problems))
    return CountTable(*(jnp.asarray(column, jnp.float32) for column in columns))


def count_log_likelihood(
    by_pair: Float[np.ndarray, "draws pairs"], table: CountTable, attempts: Attempts
) -> Float[np.ndarray, "draws problems"]:
    """Log probability of each problem's count, from log marginals of the table's pairs less the saturated ones."""
    pairs = np.stack([attempts.successes, attempts.trials - attempts.successes], axis=1)
    place = np.unique(pairs, axis=0, return_inverse=True)[1].reshape(-1)
    s, f = (np.asarray(values, np.float64) for values in (table.successes, table.failures))
    n = s + f
    constant = special.gammaln(n + 1) - special.gammaln(s + 1) - special.gammaln(f + 1)
    constant += special.xlogy(s, s / np.maximum(n, 1)) + special.xlogy(f, f / np.maximum(n, 1))
    return (by_pair + constant.astype(np.float32))[:, place]


class HyperDraws(NamedTuple):
    """Draws of the two parameters, and the effective number of proposals behind them."""

    alpha: Float[Array, " draws"]
    beta: Float[Array, " draws"]
    ess: Float[Array, ""]


def hyper_draws(
    key: Key[Array, ""], table: CountTable, prior: Float[Array, "5"], num: int, pilot: int = 512
) -> HyperDraws:
    """`num` posterior draws of (alpha, beta), by `ppl.risk.importance`."""
    centre, scale = jnp.log(jnp.stack([prior[0], prior[3]])), jnp.stack([2 * prior[1], prior[4]])
    found = importance_draws(key, lambda parameters: log_posterior(parameters, table, prior), centre, scale, num, pilot)
    alpha, beta = jnp.exp(found.draws.T)
    return HyperDraws(alpha, beta, found.ess)


def theta_draws(
    key: Key[Array, ""],
    hyper: HyperDraws,
    successes: Float[Array, " problems"],
    failures: Float[Array, " problems"],
) -> LogBeta:
    """Success probabilities of the problems given their counts, [draws, problems], by each draw of (alpha, beta)."""
    return log_beta_variates(key, hyper.alpha[:, None] + successes, hyper.beta[:, None] + failures)
