"""Programs of posteriordb, written from the formulas of their documentation, and their data with reference means."""

import functools
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints

_FILE = Path(__file__).parent / "data" / "posteriordb.json"
_SUBSTEPS = 5  # Runge-Kutta steps a year of predators and prey; with 50 the log density changes by 3e-3 at most


@functools.cache
def stored():
    return json.loads(_FILE.read_text())


def data(name):
    return {key: jnp.asarray(value, jnp.float32) for key, value in stored()[name]["data"].items()}


def reference(name):
    return stored()[name]["reference"]


def scalar(draws, parameter):
    """The draws [chains, draws] of a parameter by posteriordb's name, such as `beta[2]`."""
    match = re.fullmatch(r"(\w+)(?:\[(\d+)\])?", parameter)
    value = np.asarray(draws[match[1]], np.float64)
    return value if match[2] is None else value[..., int(match[2]) - 1]


def eight_schools(y, sigma):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("school", y.shape[0]):
        z = numpyro.sample("z", dist.Normal(0, 1))
        theta = numpyro.deterministic("theta", mu + tau * z)
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)


def arma(y):
    mu = numpyro.sample("mu", dist.Normal(0, 10))
    phi = numpyro.sample("phi", dist.Normal(0, 2))
    theta = numpyro.sample("theta", dist.Normal(0, 2))
    sigma = numpyro.sample("sigma", dist.HalfCauchy(2.5))

    def step(error, pair):
        before, now = pair
        error = now - (mu + phi * before + theta * error)
        return error, error

    first = y[0] - (mu + phi * mu)
    _, rest = jax.lax.scan(step, first, (y[:-1], y[1:]))
    numpyro.sample("error", dist.Normal(0, sigma), obs=jnp.concatenate([first[None], rest]))


def ark(y):
    alpha = numpyro.sample("alpha", dist.Normal(0, 10))
    beta = numpyro.sample("beta", dist.Normal(0, 10).expand([5]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfCauchy(2.5))
    mean = alpha + sum(beta[k] * y[4 - k : y.shape[0] - 1 - k] for k in range(5))
    numpyro.sample("y", dist.Normal(mean, sigma), obs=y[5:])


def sblrc(X, y):
    beta = numpyro.sample("beta", dist.Normal(0, 10).expand([X.shape[1]]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(10))
    numpyro.sample("y", dist.Normal(X @ beta, sigma), obs=y)


def kidiq(kid_score, mom_hs, mom_iq):
    beta = numpyro.sample("beta", dist.ImproperUniform(constraints.real_vector, (), event_shape=(3,)))
    sigma = numpyro.sample("sigma", dist.HalfCauchy(2.5))
    numpyro.sample("y", dist.Normal(beta[0] + beta[1] * mom_hs + beta[2] * mom_iq, sigma), obs=kid_score)


def gauss_mix(y):
    # Two normals restricted to mu_1 < mu_2 and renormalised: the smaller and the larger of two draws.
    first = numpyro.sample("first", dist.Normal(0, 2))
    second = numpyro.sample("second", dist.Normal(0, 2))
    mu = numpyro.deterministic("mu", jnp.sort(jnp.stack([first, second])))
    sigma = numpyro.sample("sigma", dist.HalfNormal(2).expand([2]).to_event(1))
    theta = numpyro.sample("theta", dist.Beta(5, 5))
    low = jnp.log(theta) + dist.Normal(mu[0], sigma[0]).log_prob(y)
    high = jnp.log1p(-theta) + dist.Normal(mu[1], sigma[1]).log_prob(y)
    numpyro.factor("y", jnp.sum(jnp.logaddexp(low, high)))


def garch(y, sigma1):
    mu = numpyro.sample("mu", dist.ImproperUniform(constraints.real, (), event_shape=()))
    alpha0 = numpyro.sample("alpha0", dist.ImproperUniform(constraints.positive, (), event_shape=()))
    # Flat on the triangle alpha1 + beta1 < 1.
    shares = numpyro.sample("shares", dist.Dirichlet(jnp.ones(3)))
    alpha1 = numpyro.deterministic("alpha1", shares[0])
    beta1 = numpyro.deterministic("beta1", shares[1])

    def step(variance, before):
        variance = alpha0 + alpha1 * (before - mu) ** 2 + beta1 * variance
        return variance, variance

    _, rest = jax.lax.scan(step, sigma1**2, y[:-1])
    numpyro.sample("y", dist.Normal(mu, jnp.sqrt(jnp.concatenate([(sigma1**2)[None], rest]))), obs=y)


def gp_pois(x, k):
    rho = numpyro.sample("rho", dist.Gamma(25, 4))
    alpha = numpyro.sample("alpha", dist.HalfNormal(2))
    z = numpyro.sample("z", dist.Normal(0, 1).expand([x.shape[0]]).to_event(1))
    # The reference adds 1e-10, which float32 does not see; 1e-5 of the variance is a tenth of f's error or less.
    kernel = jnp.exp(-0.5 * ((x[:, None] - x) / rho) ** 2) + 1e-5 * jnp.eye(x.shape[0])
    f = numpyro.deterministic("f", alpha * jnp.linalg.cholesky(kernel) @ z)
    numpyro.sample("k", dist.Poisson(jnp.exp(f)), obs=k)


def hmm(y):
    theta1 = numpyro.sample("theta1", dist.Dirichlet(jnp.ones(2)))
    theta2 = numpyro.sample("theta2", dist.Dirichlet(jnp.ones(2)))
    # N(3, 1) and N(10, 1) restricted to 0 < mu_1 < mu_2: the factor undoes the second's own normalisation, and the
    # restriction's probability beyond that of mu_1 > 0 is 1 but for 1e-6.
    low = numpyro.sample("low", dist.TruncatedNormal(3, 1, low=0.0))
    high = numpyro.sample("high", dist.TruncatedNormal(10, 1, low=low))
    numpyro.factor("order", jax.scipy.special.log_ndtr(10 - low))
    mu = numpyro.deterministic("mu", jnp.stack([low, high]))
    log_move = jnp.log(jnp.stack([theta1, theta2]))
    log_emit = dist.Normal(mu, 1).log_prob(y[:, None])

    def step(forward, emit):
        return jax.nn.logsumexp(forward[:, None] + log_move, axis=0) + emit, None

    last, _ = jax.lax.scan(step, jnp.log(0.5) + log_emit[0], log_emit[1:])
    numpyro.factor("y", jax.nn.logsumexp(last))


def lotka_volterra(y_init, y):
    normal = dist.TruncatedNormal(jnp.array([1, 0.05, 1, 0.05]), jnp.array([0.5, 0.05, 0.5, 0.05]), low=0.0)
    theta = numpyro.sample("theta", normal.to_event(1))
    z_init = numpyro.sample("z_init", dist.LogNormal(jnp.log(10.0), 1).expand([2]).to_event(1))
    sigma = numpyro.sample("sigma", dist.LogNormal(-1, 1).expand([2]).to_event(1))

    def slope(z):
        u, v = z
        return jnp.stack([(theta[0] - theta[1] * v) * u, (-theta[2] + theta[3] * u) * v])

    def year(z, _):
        h = 1 / _SUBSTEPS
        for _ in range(_SUBSTEPS):
            a = slope(z)
            b = slope(z + h / 2 * a)
            c = slope(z + h / 2 * b)
            z = z + h / 6 * (a + 2 * b + 2 * c + slope(z + h * c))
        return z, z

    _, z = jax.lax.scan(year, z_init, length=y.shape[0])
    numpyro.sample("y_init", dist.LogNormal(jnp.log(z_init), sigma), obs=y_init)
    numpyro.sample("y", dist.LogNormal(jnp.log(z), sigma), obs=y)


def nes(partyid7, real_ideo, race_adj, age_discrete, educ1, gender, income):
    beta = numpyro.sample("beta", dist.ImproperUniform(constraints.real_vector, (), event_shape=(9,)))
    sigma = numpyro.sample("sigma", dist.ImproperUniform(constraints.positive, (), event_shape=()))
    ages = [(age_discrete == age).astype(real_ideo.dtype) for age in (2, 3, 4)]
    columns = [jnp.ones_like(real_ideo), real_ideo, race_adj, *ages, educ1, gender, income]
    numpyro.sample("y", dist.Normal(jnp.stack(columns, axis=1) @ beta, sigma), obs=partyid7)


def earnings(earn, height, male):
    beta = numpyro.sample("beta", dist.ImproperUniform(constraints.real_vector, (), event_shape=(4,)))
    sigma = numpyro.sample("sigma", dist.ImproperUniform(constraints.positive, (), event_shape=()))
    mean = beta[0] + beta[1] * height + beta[2] * male + beta[3] * height * male
    numpyro.sample("y", dist.Normal(mean, sigma), obs=jnp.log(earn))


MODELS = {
    "eight_schools": eight_schools,
    "arma": arma,
    "arK": ark,
    "sblrc": sblrc,
    "kidiq": kidiq,
    "gauss_mix": gauss_mix,
    "garch": garch,
    "gp_pois": gp_pois,
    "hmm": hmm,
    "lotka_volterra": lotka_volterra,
    "nes": nes,
    "earnings": earnings,
}

# With normalised priors: by closed forms and quadrature, and (the last two) by importance sampling to within 0.001.
LOG_EVIDENCE = {
    "eight_schools": -31.31134860,
    "sblrc": -194.96758859,
    "arK": 58.58759392,
    "gauss_mix": -2114.98923,
    "hmm": -173.40307,
}
