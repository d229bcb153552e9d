import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppl.smc.lookahead import ahead, lookahead
from ppl.smc.policy import Policy
from tests.smc import enumeration as toy

KEY = jax.random.key(13)


def path(state):
    return state.inner.path


@pytest.mark.parametrize(("steps", "pilots"), [(1, 1), (2, 3), (5, 2)])
def test_lookahead_is_proper(steps, pilots):
    """Also beyond the end of the inputs (5 steps ahead of 4 slices)."""
    model = lookahead(toy.MODEL, pilots=pilots)
    samples = toy.estimates(KEY, model, ahead(toy.inputs(), steps), path, Policy("always"))
    toy.assert_proper(samples, toy.gamma())


def test_lookahead_is_proper_where_pilots_die():
    """A quarter of the moves is impossible, so single pilots often die where the particle need not."""
    potential = toy.POTENTIAL.copy()
    potential[1, 0, :2] = potential[2, :, 0] = potential[3, 1, 1:] = 0.0
    samples = toy.estimates(KEY, lookahead(toy.MODEL), ahead(toy.inputs(potential)), path, Policy())
    toy.assert_proper(samples, toy.gamma(potential))


def test_pilots_estimate_the_next_potential():
    """With many pilots and no defence to speak of the twist is E[G_1 | x_0]."""
    slice_ = jax.tree.map(lambda leaf: leaf[0], ahead(toy.inputs()))
    state, _ = lookahead(toy.MODEL, pilots=20_000, defensive=1e-6).init(KEY, 6, slice_)
    exact = (toy.MOVE * toy.POTENTIAL[1]).sum(axis=1)[state.inner.x]
    error = np.sqrt((toy.MOVE * toy.POTENTIAL[1] ** 2).sum(axis=1).max() / 20_000)
    np.testing.assert_allclose(np.exp(state.log_psi), exact, atol=5 * error)  # 5 standard errors, 6 times


def test_lookahead_lowers_the_variance_of_the_evidence():
    plain = toy.estimates(KEY, toy.MODEL, toy.inputs(), lambda state: state.path, Policy("always"))
    model = lookahead(toy.MODEL, pilots=10)
    looking = toy.estimates(KEY, model, ahead(toy.inputs()), path, Policy("always"))
    assert looking.sum(axis=1).var() < 0.9 * plain.sum(axis=1).var()


def test_the_twist_ends_with_the_inputs():
    run = toy.run(KEY, lookahead(toy.MODEL), ahead(toy.inputs(), 2), 10, Policy())
    np.testing.assert_array_equal(run.particles.log_psi, 0.0)


def test_all_pilots_dead_say_nothing():
    def step(key, state, u):
        return state, jnp.full(state.x.shape, -jnp.inf)

    slice_ = jax.tree.map(lambda leaf: leaf[0], ahead(toy.inputs()))
    state, _ = lookahead(toy.FeynmanKac(toy.init, step)).init(KEY, 5, slice_)
    np.testing.assert_array_equal(state.log_psi, 0.0)


def test_ahead_shifts_and_marks_the_end():
    got = ahead({"y": jnp.arange(4) * 10}, 2)
    np.testing.assert_array_equal(got.now["y"], [0, 10, 20, 30])
    np.testing.assert_array_equal(got.future["y"], [[10, 20], [20, 30], [30, 30], [30, 30]])
    np.testing.assert_array_equal(got.valid, [[True, True], [True, True], [True, False], [False, False]])


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="steps.*0"):
        ahead(jnp.arange(3), 0)
    with pytest.raises(ValueError, match=r"inputs.*\[2, 3\]"):
        ahead((jnp.arange(3), jnp.arange(2)))
    with pytest.raises(ValueError, match="inputs"):
        ahead(None)
    with pytest.raises(ValueError, match="pilots.*0"):
        lookahead(toy.MODEL, pilots=0)
    with pytest.raises(ValueError, match="defensive.*0"):
        lookahead(toy.MODEL, defensive=0.0)
