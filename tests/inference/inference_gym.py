"""Programs of the Inference Gym, written from the formulas of their documentation, with its ground truth."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

_FILE = Path(__file__).parent / "data" / "inference_gym.json"


@functools.cache
def stored():
    return json.loads(_FILE.read_text())


def data(name):
    """Arguments of the model; what was not observed is 0 where `seen` is false."""
    given = {key: np.asarray(value, np.float32) for key, value in stored()[name]["data"].items()}
    if "observed" in given:
        given["seen"] = ~np.isnan(given["observed"])
        given["observed"] = np.nan_to_num(given["observed"])
    return {key: jnp.asarray(value) for key, value in given.items() if key not in ("observation_index", "step_size")}


def reference(name):
    """`{site: {"mean", "sd", "mcse_mean"}}` as arrays of the site's shape."""
    return {
        site: {key: np.asarray(value, np.float64) for key, value in known.items()}
        for site, known in stored()[name]["reference"].items()
    }


def brownian_motion(observed, seen, innovation_noise_scale, observation_noise_scale, site="value"):
    z = numpyro.sample("z", dist.Normal(0, 1).expand(observed.shape).to_event(1))
    path = numpyro.deterministic(site, innovation_noise_scale * jnp.cumsum(z))
    numpyro.sample("y", dist.Normal(path, observation_noise_scale).mask(seen), obs=observed)


def brownian_motion_unknown_scales(observed, seen):
    innovation = numpyro.sample("innovation_noise_scale", dist.LogNormal(0, 2))
    noise = numpyro.sample("observation_noise_scale", dist.LogNormal(0, 2))
    brownian_motion(observed, seen, innovation, noise, site="locs")


def lorenz_bridge(observed, seen, innovation_scale, observation_scale, site="value"):
    noise = numpyro.sample("noise", dist.Normal(0, 1).expand([observed.shape[0], 3]).to_event(2))

    def step(state, noise):
        x, y, z = state
        slope = jnp.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z])
        state = state + 0.02 * slope + innovation_scale * 0.02**0.5 * noise
        return state, state

    _, rest = jax.lax.scan(step, noise[0], noise[1:])
    path = numpyro.deterministic(site, jnp.concatenate([noise[:1], rest]))
    numpyro.sample("y", dist.Normal(path[:, 0], observation_scale).mask(seen), obs=observed)


def lorenz_bridge_unknown_scales(observed, seen):
    innovation = numpyro.sample("innovation_scale", dist.LogNormal(-1, 1))
    noise = numpyro.sample("observation_scale", dist.LogNormal(-1, 1))
    lorenz_bridge(observed, seen, innovation, noise, site="latents")


def eight_schools(treatment_effects, treatment_stddevs):
    avg_effect = numpyro.sample("avg_effect", dist.Normal(0, 10))
    log_stddev = numpyro.sample("log_stddev", dist.Normal(5, 1))
    z = numpyro.sample("z", dist.Normal(0, 1).expand(treatment_effects.shape).to_event(1))
    effects = numpyro.deterministic("school_effects", avg_effect + jnp.exp(log_stddev) * z)
    numpyro.sample("y", dist.Normal(effects, treatment_stddevs), obs=treatment_effects)


def stochastic_volatility(centered_returns):
    share = numpyro.sample("share", dist.Beta(20, 1.5))
    persistence = numpyro.deterministic("persistence_of_volatility", 2 * share - 1)
    mean = numpyro.sample("mean_log_volatility", dist.Cauchy(0, 5))
    scale = numpyro.sample("white_noise_shock_scale", dist.HalfCauchy(2))
    z = numpyro.sample("z", dist.Normal(0, 1).expand(centered_returns.shape).to_event(1))

    def step(apart, z):
        apart = persistence * apart + scale * z
        return apart, apart

    first = scale / jnp.sqrt(1 - persistence**2) * z[0]
    _, rest = jax.lax.scan(step, first, z[1:])
    volatility = numpyro.deterministic("log_volatility", mean + jnp.concatenate([first[None], rest]))
    numpyro.sample("y", dist.Normal(0, jnp.exp(volatility / 2)), obs=centered_returns)


def cox_process(locations, extents, counts):
    amplitude = numpyro.sample("amplitude", dist.LogNormal(-1, 0.5))
    length_scale = numpyro.sample("length_scale", dist.LogNormal(-1, 1))
    z = numpyro.sample("z", dist.Normal(0, 1).expand(counts.shape).to_event(1))
    squares = jnp.sum((locations[:, None] - locations) ** 2, axis=-1)
    away = jnp.sqrt(3 * jnp.where(squares > 0, squares, 1)) * (squares > 0) / (length_scale + 0.001)
    kernel = (amplitude + 0.001) ** 2 * (1 + away) * jnp.exp(-away) + 1e-6 * jnp.eye(counts.shape[0])
    mean = jnp.mean(jnp.log(counts / extents))
    log_intensity = numpyro.deterministic("log_intensity", mean + jnp.linalg.cholesky(kernel) @ z)
    numpyro.sample("counts", dist.Poisson(extents * jnp.exp(log_intensity)), obs=counts)


MODELS = {
    "brownian_motion_missing_middle_observations": brownian_motion,
    "brownian_motion_unknown_scales_missing_middle_observations": brownian_motion_unknown_scales,
    "convection_lorenz_bridge": lorenz_bridge,
    "convection_lorenz_bridge_unknown_scales": lorenz_bridge_unknown_scales,
    "eight_schools": eight_schools,
    "stochastic_volatility_sp500_small": stochastic_volatility,
    "synthetic_log_gaussian_cox_process": cox_process,
}
# By the closed form, and by six runs of a particle filter of a million particles (standard error 0.004).
LOG_EVIDENCE = {"brownian_motion_missing_middle_observations": 5.613043, "convection_lorenz_bridge": -29.212}
