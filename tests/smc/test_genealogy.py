import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ppl.smc.genealogy import distinct_roots, lineages, sample_trajectories, trajectories
from ppl.smc.policy import Policy
from ppl.smc.running import run
from tests.smc import enumeration as toy

ANCESTORS = jnp.asarray([[0, 0, 2, 3], [1, 1, 3, 3], [0, 2, 2, 3]], jnp.int32)


def test_lineages_by_hand():
    np.testing.assert_array_equal(lineages(ANCESTORS), [[0, 3, 3, 3], [1, 3, 3, 3], [0, 2, 2, 3], [0, 1, 2, 3]])
    np.testing.assert_array_equal(distinct_roots(ANCESTORS), [2, 2, 3, 4])


@given(arrays.arrays(np.int32, (4, 5), elements=st.integers(0, 4)))
def test_lineages_follow_ancestors_and_only_coalesce(ancestors):
    paths = np.asarray(lineages(jnp.asarray(ancestors)))
    np.testing.assert_array_equal(paths[-1], np.arange(5))
    for t in range(4):
        np.testing.assert_array_equal(paths[t], ancestors[t][paths[t + 1]])
    roots = np.asarray(distinct_roots(jnp.asarray(ancestors)))
    np.testing.assert_array_equal(roots, [len(set(row)) for row in paths])
    assert np.all(np.diff(roots) >= 0)


def test_replicates_keep_their_axis():
    both = jnp.stack([ANCESTORS, ANCESTORS[::-1]])
    np.testing.assert_array_equal(lineages(both)[0], lineages(ANCESTORS))
    np.testing.assert_array_equal(distinct_roots(both)[1], distinct_roots(ANCESTORS[::-1]))


@pytest.mark.parametrize("policy", [Policy(), Policy("always"), Policy("never")], ids=["ess", "always", "never"])
def test_a_path_is_the_one_its_particle_remembers(policy):
    """The toy's particles carry their path, so what tracing finds is known; and so are its potentials."""
    made = run(3, toy.MODEL, toy.inputs(), num_particles=30, policy=policy, history=True)
    paths = trajectories(made)
    np.testing.assert_array_equal(paths.states.x, made.particles.path)
    previous = np.concatenate([np.zeros((30, 1), int), paths.states.x[:, :-1]], axis=1)
    table = np.asarray(toy.inputs()["log_g"])
    np.testing.assert_allclose(paths.log_potentials, table[np.arange(toy.T + 1), previous, paths.states.x], rtol=1e-6)
    some = trajectories(made, jnp.asarray([4, 4, 7]))
    np.testing.assert_array_equal(some.states.x, made.particles.path[jnp.asarray([4, 4, 7])])
    np.testing.assert_array_equal(some[0].states.x, made.particles.path[4])


def test_sampled_paths_follow_the_weights():
    made = run(3, toy.MODEL, toy.inputs(), num_particles=10, policy=Policy("never"), history=True)
    num = 20_000
    chosen = sample_trajectories(4, made, num).indices[:, -1]
    weights = np.exp(made.log_weights) / 10
    frequency = np.bincount(chosen, minlength=10) / num
    # 5 standard errors, 10 times: chance of a false alarm 6e-6
    assert np.all(np.abs(frequency - weights) < 5 * np.sqrt(weights * (1 - weights) / num))


def test_what_is_missing_is_named():
    plain = run(0, toy.MODEL, toy.inputs(), num_particles=4)
    with pytest.raises(ValueError, match="history=True"):
        trajectories(plain)
    several = run(0, toy.MODEL, toy.inputs(), num_particles=4, history=True, replicates=2)
    with pytest.raises(ValueError, match=r"one run is wanted.*\(2, 3, 4\)"):
        trajectories(several)
    without = run(0, toy.MODEL, toy.inputs(), num_particles=4, history=True, ancestors=False)
    with pytest.raises(ValueError, match="ancestors"):
        trajectories(without)
    with pytest.raises(ValueError, match="num.*0"):
        sample_trajectories(0, plain, 0)
    with pytest.raises(RuntimeError, match="transport"):
        lineages(jnp.full((2, 3), -1, jnp.int32))


def test_tracing_is_compiled_once_for_a_shape():
    traces = []

    @jax.jit
    def traced(ancestors):
        traces.append(1)
        return distinct_roots(ancestors)

    traced(ANCESTORS)
    traced(ANCESTORS[::-1])
    assert len(traces) == 1
