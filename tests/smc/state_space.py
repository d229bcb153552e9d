"""Linear Gaussian state-space models as Feynman-Kac models, with series whose exact log-likelihood is known."""

import json
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm

from ppl.smc.feynman_kac import FeynmanKac

DATA = Path(__file__).parent / "data"


def series(name):
    return json.loads((DATA / f"{name}.json").read_text())


class Autoregression(eqx.Module):
    """x_0 ~ N(mean, start^2), x_t = rho x_{t-1} + N(0, move^2), y_t = x_t + N(0, noise^2): parameters are traced."""

    rho: jax.Array
    move: jax.Array
    noise: jax.Array
    mean: jax.Array
    start: jax.Array

    def init(self, key, n, y):
        x = self.mean + self.start * jax.random.normal(key, (n,))
        return x, norm.logpdf(y, x, self.noise)

    def step(self, key, x, y):
        x = self.rho * x + self.move * jax.random.normal(key, x.shape)
        return x, norm.logpdf(y, x, self.noise)


class Kernel(eqx.Module):
    """A method of a module as a callable module: its arrays are traced and its structure is hashable."""

    model: eqx.Module
    method: str = eqx.field(static=True)

    def __call__(self, *args):
        return getattr(self.model, self.method)(*args)


def bootstrap(rho, var_move, var_noise, mean=0.0, var_start=None):
    """The bootstrap filter of an autoregression."""
    var_start = var_move if var_start is None else var_start
    values = (rho, var_move**0.5, var_noise**0.5, mean, var_start**0.5)
    model = Autoregression(*(jnp.asarray(v, jnp.float32) for v in values))
    return FeynmanKac(Kernel(model, "init"), Kernel(model, "step"))


def kalman(y, rho, var_move, var_noise, mean=0.0, var_start=None):
    """Exact log-likelihood increments of the same model, in float64."""
    m, v = mean, var_move if var_start is None else var_start
    increments = []
    for t, value in enumerate(y):
        if t:
            m, v = rho * m, rho**2 * v + var_move
        total = v + var_noise
        increments.append(-0.5 * (np.log(2 * np.pi * total) + (value - m) ** 2 / total))
        gain = v / total
        m, v = m + gain * (value - m), (1 - gain) * v
    return np.array(increments)
