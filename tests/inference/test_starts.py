"""Chains that are told where to start."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.stats import binomtest

from ppl.inference import RandomWalk, TemperedSMC, infer

WALK = RandomWalk(warmup=200)


def far_modes():
    """Of weights 0.3 and 0.7, at -40 and 40: no chain goes from one to the other."""
    weights = dist.Categorical(jnp.array([0.3, 0.7]))
    numpyro.sample("x", dist.MixtureSameFamily(weights, dist.Normal(jnp.array([-40.0, 40.0]), 1.0)))
    numpyro.sample("scale", dist.Gamma(2.0, 1.0))


def walk(starts, **settings):
    return infer(far_modes, **{"method": WALK, "key": 1, "chains": 4, "draws": 50, "starts": starts, **settings})


def test_each_chain_starts_at_its_value():
    post = walk({"x": np.array([-40.0, 40.0, 40.0, -40.0]), "scale": 1.0})
    assert np.all(np.sign(post.draws["x"]) == np.array([-1, 1, 1, -1])[:, None])
    assert np.all(np.abs(np.abs(post.draws["x"]) - 40) < 6)


def test_chains_start_at_draws_of_a_posterior_by_their_weights():
    smc = infer(far_modes, method=TemperedSMC(kernel="random_walk"), key=2, chains=1, draws=200)
    weights = np.where(smc.draws["x"] > 0, np.log(0.9 / np.sum(smc.draws["x"] > 0)), -np.inf)
    weights = np.where(smc.draws["x"] < 0, np.log(0.1 / np.sum(smc.draws["x"] < 0)), weights)
    smc = dataclasses.replace(smc, log_weights=weights)
    post = walk(smc, chains=64)
    assert np.all(np.ptp(np.sign(post.draws["x"]), axis=1) == 0)
    assert binomtest(int(np.sum(post.draws["x"][:, 0] > 0)), 64, 0.9).pvalue > 1e-3
    taken = smc.sample(2000, key=3)
    assert taken["x"].shape == taken["scale"].shape == (2000,)
    assert binomtest(int(np.sum(taken["x"] > 0)), 2000, 0.9).pvalue > 1e-3
    pairs = set(zip(smc.draws["x"].ravel(), smc.draws["scale"].ravel(), strict=True))
    assert set(zip(taken["x"], taken["scale"], strict=True)) <= pairs


def test_a_checkpoint_knows_where_its_run_started(tmp_path):
    left, right = {"x": -40.0, "scale": 1.0}, {"x": 40.0, "scale": 1.0}
    whole = walk(left, checkpoint=tmp_path)
    with pytest.raises(ValueError, match="is of another run; starts was"):
        walk(right, checkpoint=tmp_path)
    with pytest.raises(ValueError, match="is of another run; starts was"):
        walk(None, checkpoint=tmp_path)
    again = walk(left, checkpoint=tmp_path)
    assert np.array_equal(whole.unconstrained, again.unconstrained)


@pytest.mark.parametrize(
    ("starts", "settings", "message"),
    [
        ({"x": 1.0}, {}, r"starts: values of all latent sites are wanted \(x, scale\), without is scale"),
        ({"x": np.zeros(3), "scale": 1.0}, {}, r"starts: 'x' is of shape \(\); .* of \(4,\) for 4 chains.* got \(3,\)"),
        ({"x": 1.0, "scale": [1, 1, -1, 1]}, {}, r"the start of chain 2 is not finite; .*scale \((nan|-inf)\)"),
        ({"x": 1.0, "scale": 1.0}, {"method": "tempered_smc"}, "starts: Markov chains alone .* out for tempered_smc"),
    ],
)
def test_starts_that_will_not_do(starts, settings, message):
    with pytest.raises(ValueError, match=message):
        walk(starts, **settings)
