"""Densities so large that float32 overflows beside them do not let a proposal in."""

from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist

from ppl.inference import Program
from ppl.inference.hmc import without_overflow
from ppl.inference.starts import Start


class Info(NamedTuple):
    energy: jax.Array
    acceptance_rate: jax.Array


def test_a_proposal_of_energy_minus_infinity_is_refused():
    # What HMC in tempered SMC came to on posteriordb's hmm (test_posteriordb): a momentum of 1e38 at the end.
    def build_kernel():
        def step(key, state, energy):
            return state + 1, Info(energy, jnp.asarray(1.0))

        return step

    kernel = without_overflow(SimpleNamespace(init=None, build_kernel=build_kernel)).build_kernel()
    for energy, position, rate in ((-jnp.inf, 2.0, 0.0), (-3.0, 3.0, 1.0), (jnp.inf, 3.0, 1.0)):
        moved, info = kernel(jax.random.key(0), jnp.asarray(2.0), jnp.asarray(energy))
        assert (float(moved), float(info.acceptance_rate)) == (position, rate)


def test_the_likelihood_is_not_lost_beside_a_large_prior_density():
    def model():
        x = numpyro.sample("x", dist.Normal(0, 1e-9))
        numpyro.factor("f", -100 * x)

    start = Start(Program(model, (), {}), {})
    prior, ratio = start.densities(jnp.array([2.0]))
    assert prior < -1e17
    assert float(ratio) == -200
