"""NumPyro programs whose log evidence is known in closed form or by one-dimensional quadrature."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist


class Target(NamedTuple):
    model: object
    log_evidence: float


def shells(d):
    """Two Gaussian shells in a uniform box: thin, curved and bimodal."""
    x = numpyro.sample("x", dist.Uniform(-6, 6).expand([d]).to_event(1))
    centre = jnp.zeros(d).at[0].set(3.5)
    parts = jnp.stack([dist.Normal(2, 0.1).log_prob(jnp.linalg.norm(x - c)) for c in (centre, -centre)])
    numpyro.factor("shells", jax.nn.logsumexp(parts))


def two_modes(d, weight):
    """Two modes of known weights."""
    x = numpyro.sample("x", dist.Normal(0, 1).expand([d]).to_event(1))
    parts = [jnp.log(w) + dist.Normal(m, 0.5).log_prob(x).sum() for w, m in ((weight, 2.0), (1 - weight, -2.0))]
    numpyro.factor("modes", jax.nn.logsumexp(jnp.stack(parts)))


def cauchy(d):
    """A heavy-tailed prior off the likelihood's centre: asymmetric, where a wrong sign shows (blackjax issue 914)."""
    x = numpyro.sample("x", dist.Cauchy(0, 1).expand([d]).to_event(1))
    numpyro.factor("likelihood", -0.5 * jnp.sum(((x - 2) / 0.5) ** 2))


# Shells and Cauchy by quadrature, the modes in closed form: -(d/2) (log(2 pi 1.25) + 4/1.25).
TARGETS = {
    **{f"shells_{d}": Target(functools.partial(shells, d), z) for d, z in
       ((2, -1.7456418720467646), (5, -5.6736012362002155), (10, -14.59049107438517), (20, -36.08654764081048))},
    **{f"two_modes_{d}": Target(functools.partial(two_modes, d, 0.5), z) for d, z in
       ((2, -5.261020617723555), (10, -26.305103088617777), (50, -131.5255154430889))},
    **{f"two_modes_unequal_{d}": Target(functools.partial(two_modes, d, 0.8), z) for d, z in
       ((2, -5.261020617723555), (10, -26.305103088617777), (50, -131.5255154430889))},
    **{f"cauchy_{d}": Target(functools.partial(cauchy, d), z) for d, z in
       ((2, -4.8297940390768845), (10, -24.148970195384422), (50, -120.74485097692211))},
}  # fmt: skip
