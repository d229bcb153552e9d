import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppl.smc.auxiliary import auxiliary
from ppl.smc.policy import Policy
from ppl.smc.tempering import ess, temper
from ppl.smc.twisting import twist
from tests.smc import enumeration as toy

KEY = jax.random.key(14)
POOR = jnp.asarray([[0.0, 0.8, -1.0], [1.0, -0.5, 0.2], [-0.7, 0.4, 0.9], [2.0, -2.0, 0.5]])


def poor(state, u):
    return POOR[u["t"], state.x]


def best(state, u):
    """The mean of the coming potential, from the present state and the coming input."""
    return jnp.log(jnp.sum(jnp.asarray(toy.MOVE) * jnp.exp(u["log_g"]), axis=1))[state.x]


def path(state):
    return state.path


@pytest.mark.parametrize("when", ["always", "ess"])
def test_first_stage_weights_are_proper(when):
    samples = toy.estimates(KEY, auxiliary(toy.MODEL, poor), toy.inputs(), path, Policy(when))
    toy.assert_proper(samples, toy.gamma())


def test_a_good_first_stage_lowers_the_variance_of_the_evidence():
    plain = toy.estimates(KEY, toy.MODEL, toy.inputs(), path, Policy("always"))
    guided = toy.estimates(KEY, auxiliary(toy.MODEL, best), toy.inputs(), path, Policy("always"))
    assert guided.sum(axis=1).var() < 0.9 * plain.sum(axis=1).var()


def test_dead_particles_stay_dead():
    potential = toy.POTENTIAL.copy()
    potential[1, :, 0] = potential[2, 1, :] = 0.0
    samples = toy.estimates(KEY, auxiliary(toy.MODEL, poor), toy.inputs(potential), path, Policy("always"))
    toy.assert_proper(samples, toy.gamma(potential))


@pytest.mark.parametrize("bad", [-jnp.inf, jnp.nan])
def test_a_living_particle_that_cannot_be_drawn_is_an_error(bad):
    def excluding(state, u):
        return jnp.where(state.x == 0, bad, 0.0)

    with pytest.raises(RuntimeError, match="log_eta must be finite"):
        toy.run(KEY, auxiliary(toy.MODEL, excluding), toy.inputs(), 30, Policy("always"))


def test_combinators_combined_are_proper():
    """Twisted, guided, then resampled on a power of those first-stage weights found by bisection."""

    def inner_poor(state, u):
        return poor(state.inner, u)

    model = temper(auxiliary(twist(toy.MODEL, poor, last=toy.T), inner_poor), ess(0.9))
    samples = toy.estimates(KEY, model, toy.inputs(), lambda state: state.inner.path, Policy("always"))
    toy.assert_proper(samples, toy.gamma())


def test_a_wrapper_keeps_the_first_stage_of_what_it_wraps():
    guided = twist(auxiliary(toy.MODEL, poor), poor, last=toy.T)
    samples = toy.estimates(KEY, guided, toy.inputs(), lambda state: state.inner.path, Policy("always"))
    toy.assert_proper(samples, toy.gamma())
    plain = toy.run(KEY, twist(toy.MODEL, poor, last=toy.T), toy.inputs(), 30, Policy("always"))
    assert np.any(plain.ancestors != toy.run(KEY, guided, toy.inputs(), 30, Policy("always")).ancestors)
