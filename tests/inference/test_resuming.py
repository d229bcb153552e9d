"""Particle methods that are stopped between two stages go on to the same particles bit for bit."""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import pytest

import ppl
from ppl.inference import IBIS, SMC2, NestedSampling, PersistentSMC, TemperedSMC, infer
from tests.inference.resuming import goes_on_alike

Y = jnp.array([0.4, 1.9, 3.1, 2.2, 1.0, 0.3])


def scattered(y):
    mu = numpyro.sample("mu", dist.Normal(0, 2))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1))
    with numpyro.plate("n", y.shape[0]):
        numpyro.sample("y", dist.Normal(mu, sigma), obs=y)


def rising(y):
    sd = numpyro.sample("sd", dist.HalfNormal(1))
    ppl.markov("x", dist.Normal(0, 1), lambda x: dist.Normal(x, sd), lambda x: dist.Normal(x, 0.5), y)


METHODS = {
    "tempered": TemperedSMC(kernel="random_walk", num_moves=2),
    "persistent": PersistentSMC(kernel="random_walk", num_moves=2),
    "ibis": IBIS(kernel="random_walk", num_moves=2, start={"mu": dist.Normal(1.0, 2.0)}),
    "nested": NestedSampling(num_moves=2, tolerance=1e-6),
    "smc2": SMC2(num_particles=3, num_moves=1, min_acceptance=0.9, max_particles=6),
}


# At the very beginning, and later: of tempered SMC and IBIS in the second of two runs, with what is kept of the first.
@pytest.mark.parametrize("saves", [1, 5])
@pytest.mark.parametrize("name", METHODS)
def test_a_stopped_run_goes_on_to_the_same_particles(name, saves, tmp_path):
    model = rising if name == "smc2" else scattered
    options = {"method": METHODS[name], "key": 3, "chains": 2, "draws": 60}
    goes_on_alike(model, Y, checkpoint=tmp_path / "run", saves=saves, **options)


def test_a_finished_run_is_read_and_another_start_is_another_run(tmp_path):
    options = {"key": 3, "chains": 2, "draws": 60, "checkpoint": tmp_path / "run"}
    first = infer(scattered, Y, method=METHODS["ibis"], **options)
    assert (infer(scattered, Y, method=METHODS["ibis"], **options).unconstrained == first.unconstrained).all()
    other = IBIS(kernel="random_walk", num_moves=2, start={"mu": dist.Normal(1.5, 2.0)})
    with pytest.raises(ValueError, match=r"checkpoint: .* is of another run; data was"):
        infer(scattered, Y, method=other, **options)
