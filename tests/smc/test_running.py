import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ppl.smc
from ppl.smc import FeynmanKac, Policy, Run
from ppl.smc.running import pooled_evidence
from tests.smc import enumeration as toy


def run(key=0, **options):
    options = {"num_particles": 20} | options
    return ppl.smc.run(key, toy.MODEL, toy.inputs(), **options)


def test_the_second_call_does_not_compile():
    traces = []

    def step(key, state, u):
        traces.append(0)
        return toy.step(key, state, u)

    model = FeynmanKac(toy.init, step)
    for options in ({}, {"replicates": 3}, {"history": True}):
        for seed, scale in ((0, 1.0), (5, 2.0)):  # other keys and data, the same shapes; a policy made anew
            u = toy.inputs(scale * toy.POTENTIAL)
            ppl.smc.run(seed, model, u, num_particles=10, policy=Policy("ess", "systematic"), **options)
        assert len(traces) == 1
        traces.clear()


def test_arrays_of_a_callable_module_are_traced():
    traces = []

    class Step(eqx.Module):
        scale: jax.Array

        def __call__(self, key, state, u):
            traces.append(0)
            state, log_potential = toy.step(key, state, u)
            return state, self.scale * log_potential

    results = [
        ppl.smc.run(0, FeynmanKac(toy.init, Step(jnp.float32(scale))), toy.inputs(), num_particles=10).log_evidence
        for scale in (0.5, 2.0)
    ]
    assert len(traces) == 1
    assert results[0] != results[1]


def test_the_same_key_gives_the_same_result_and_another_does_not():
    a, b, c = run(3), run(jax.random.key(3)), run(4)
    np.testing.assert_array_equal(a.log_weights, b.log_weights)
    assert not np.array_equal(a.log_weights, c.log_weights)


@pytest.mark.parametrize("driver", ["scan", "host"])
def test_replicates(driver):
    result = run(replicates=4, history=True, driver=driver)
    assert result.log_evidence.shape == result.log_evidence_se.shape == ()
    assert result.log_evidence_increments.shape == (4, toy.T + 1)
    assert result.ancestors.shape == (4, toy.T, 20)
    assert result.history.states.path.shape == (4, toy.T + 1, 20, toy.T + 1)
    z = np.exp(np.asarray(result.log_evidence_increments, np.float64).sum(axis=1))
    np.testing.assert_allclose(result.log_evidence, np.log(z.mean()), rtol=1e-5)
    np.testing.assert_allclose(result.log_evidence_se, z.std(ddof=1) / 2 / z.mean(), rtol=1e-4)


def test_batches_of_replicates_are_the_same_replicates():
    whole, batched = run(replicates=5), run(replicates=5, batch_size=2)
    np.testing.assert_allclose(whole.log_evidence_increments, batched.log_evidence_increments, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(whole.ancestors, batched.ancestors)


def test_standard_error_of_replicates_covers():
    """The error from 30 replicates of lognormal estimates, against their known mean: 90% intervals."""
    draws = 0.3 * jax.random.normal(jax.random.key(0), (4000, 30)) - 0.045
    mean, error = jax.vmap(pooled_evidence)(draws)
    covered = np.mean(np.abs(np.asarray(mean)) < 1.645 * np.asarray(error))
    # Skewness costs about a percent; Monte Carlo error .005.
    assert abs(covered - 0.9) < 0.03


def test_in_batches_is_the_same_model():
    model = ppl.smc.in_batches(toy.MODEL, 3)
    samples = toy.estimates(jax.random.key(2), model, toy.inputs(), lambda state: state.path, Policy())
    toy.assert_proper(samples, toy.gamma())
    with pytest.raises(ValueError, match="batch_size: must divide the number of particles, 7, got 3"):
        ppl.smc.run(0, model, toy.inputs(), num_particles=7)
    with pytest.raises(ValueError, match="batch_size: .*got 0"):
        ppl.smc.in_batches(toy.MODEL, 0)


def test_a_kernel_without_noise_warns():
    def init(key, n, u):
        return {"x": jax.random.normal(key, (n,)), "key": jax.random.split(key, n)}, jnp.zeros(n)

    def keyed(key, state, u):
        """The classical mistake: every particle has its key, and siblings have the same."""
        both = jax.vmap(jax.random.split)(state["key"])
        x = state["x"] + jax.vmap(jax.random.normal)(both[:, 1])
        return {"x": x, "key": both[:, 0]}, -(x**2)

    def noisy(key, state, u):
        x = state["x"] + jax.random.normal(key, state["x"].shape)
        return state | {"x": x}, -(x**2)

    def weighted(key, state, u):
        return state, -(state["x"] ** 2)

    for driver in ("scan", "host"):
        for step in (keyed, weighted):
            with pytest.warns(UserWarning, match="adds no noise of its own"):
                ppl.smc.run(
                    0, FeynmanKac(init, step), num_particles=50, num_steps=30, policy=Policy("always"), driver=driver
                )
        # None of these is wrong: warnings are errors here.
        ppl.smc.run(0, FeynmanKac(init, noisy), num_particles=50, num_steps=30, policy=Policy("always"), driver=driver)
        ppl.smc.run(
            0, FeynmanKac(init, weighted), num_particles=50, num_steps=30, policy=Policy("never"), driver=driver
        )


def test_optimal_transport_is_labelled_a_search():
    def init(key, n, u):
        x = jax.random.normal(key, (n, 2))
        return {"x": x}, x[:, 0]

    def step(key, state, u):
        return {"x": state["x"] + 0.0 * jax.random.normal(key, state["x"].shape)}, jnp.zeros(state["x"].shape[0])

    policy = Policy("always", "optimal_transport")
    result = ppl.smc.run(0, FeynmanKac(init, step), num_particles=60, num_steps=1, policy=policy, history=True)
    assert not result.proper
    assert result.log_evidence is None
    assert result.log_evidence_se is None
    assert result.log_evidence_increments is None
    assert np.all(result.ancestors == -1)
    before, weights = np.asarray(result.history.states["x"][0]), np.exp(np.asarray(result.history.log_weights[0]))
    after = np.asarray(result.particles["x"])
    # The plan's marginals are met to Sinkhorn's threshold, 1e-3 in total mass, on values within 4.
    np.testing.assert_allclose(after.mean(axis=0), (weights[:, None] * before).mean(axis=0), atol=0.01)
    assert np.all(np.linalg.matrix_rank(after - after.mean(axis=0)) == 2)
    assert after[:, 0].mean() > before[:, 0].mean() + 0.3
    again = ppl.smc.run(0, FeynmanKac(init, step), num_particles=60, num_steps=1, policy=policy)
    np.testing.assert_array_equal(after, again.particles["x"])
    with pytest.raises(TypeError, match=r"every leaf of the state must be of floats; state\.x has dtype int32"):
        run(policy=policy)
    with pytest.raises(ValueError, match="epsilon: must be positive, got 0"):
        ppl.smc.optimal_transport(0.0)


@pytest.mark.parametrize("replicates", [1, 3])
def test_a_run_survives_save_and_load(tmp_path, replicates):
    saved = run(replicates=replicates, history=True)
    file = saved.save(tmp_path / "run.npz")
    loaded = Run.load(file, like=run(key=9, replicates=replicates, history=True, num_particles=15))
    assert jax.tree.structure(loaded) == jax.tree.structure(saved)
    for a, b in zip(jax.tree.leaves(saved), jax.tree.leaves(loaded), strict=True):
        np.testing.assert_array_equal(a, b)
        assert jnp.asarray(a).dtype == jnp.asarray(b).dtype


def test_keys_in_the_state_survive_save_and_load(tmp_path):
    def init(key, n, u):
        return jax.random.split(key, n), jnp.zeros(n)

    def step(key, state, u):
        return jax.random.split(key, 4), jnp.zeros(4)

    saved = ppl.smc.run(1, FeynmanKac(init, step), num_particles=4, num_steps=2)
    loaded = Run.load(saved.save(tmp_path / "run"), like=saved)
    np.testing.assert_array_equal(jax.random.key_data(saved.particles), jax.random.key_data(loaded.particles))


def test_foreign_files_are_refused(tmp_path):
    like = run()
    other = tmp_path / "other.npz"
    np.savez(other, x=np.zeros(3))
    with pytest.raises(ValueError, match=r"other\.npz: not a saved run"):
        Run.load(other, like)
    np.savez(other, header=np.asarray(json.dumps({"format": "older"})))
    with pytest.raises(ValueError, match="format 'ppl-smc-run-1' is wanted, got 'older'"):
        Run.load(other, like)
    with pytest.raises(ValueError, match=r"holds another structure than `like`.*history"):
        Run.load(run(history=True).save(tmp_path / "run.npz"), like)


@pytest.mark.parametrize("replicates", [1, 3])
def test_arviz(replicates):
    result = run(replicates=replicates)
    data = result.to_arviz()
    draws = np.asarray(data["posterior"]["path"])
    assert draws.shape == (replicates, 20, toy.T + 1)
    indices = np.asarray(data["sample_stats"]["particle_index"])
    particles = np.asarray(result.particles.path).reshape(replicates, 20, -1)
    np.testing.assert_array_equal(draws, np.take_along_axis(particles, indices[..., None], axis=1))
    # Systematic draws: floor or ceiling of the weight of each particle, a weight of mean 1.
    weights = np.exp(np.asarray(result.log_weights)).reshape(replicates, 20)
    drawn = np.stack([np.bincount(row, minlength=20) for row in indices])
    assert np.all(np.abs(drawn - weights) < 1.001)
    assert np.asarray(data["sample_stats"]["ess"]).shape == (replicates, toy.T + 1)
    np.testing.assert_allclose(data.attrs["log_evidence"], result.log_evidence)


def test_options_are_checked():
    with pytest.raises(ValueError, match="replicates: .*got 0"):
        run(replicates=0)
    with pytest.raises(ValueError, match="batch_size: .*got 0"):
        run(batch_size=0)
    with pytest.raises(ValueError, match="driver: 'scan' or 'host' is wanted, got 'gpu'"):
        run(driver="gpu")
    with pytest.raises(ValueError, match="num_particles: the scan driver takes one number"):
        run(num_particles=[20] * 4)
    with pytest.raises(ValueError, match="how: 'best' is not known; known are 'systematic', 'stratified'"):
        Policy(how="best")
    with pytest.raises(ValueError, match="when: 'often' is not known; known are 'ess', 'always', 'never'"):
        Policy(when="often")
    with pytest.raises(ValueError, match=r"threshold: a fraction .* got 2"):
        Policy(threshold=2)
    with pytest.raises(ValueError, match="threshold: only when='ess' takes one"):
        Policy("always", threshold=0.5)


def test_the_cost_is_the_time():
    assert 0 < run().cost.device_seconds < 600
