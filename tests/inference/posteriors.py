"""Programs of posteriordb, written from the formulas of their documentation, and their data with reference means."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints

_FILE = Path(__file__).parent / "data" / "posteriordb.json"


@functools.cache
def stored():
    return json.loads(_FILE.read_text())


def data(name):
    return {key: jnp.asarray(value, jnp.float32) for key, value in stored()[name]["data"].items()}


def reference(name):
    return stored()[name]["reference"]


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


MODELS = {
    "eight_schools": eight_schools,
    "arma": arma,
    "arK": ark,
    "sblrc": sblrc,
    "kidiq": kidiq,
    "gauss_mix": gauss_mix,
}
