import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppl.smc.driver import filter
from ppl.smc.feynman_kac import FeynmanKac
from ppl.smc.policy import Policy, always, ess_below
from ppl.smc.twisting import random_twist, twist
from tests.smc import enumeration as toy

KEY = jax.random.key(11)
# A poor guess of the future, on purpose: any twist is proper.
POOR = jnp.asarray([[0.0, 1.0, -1.5], [1.2, -0.3, 0.4], [-0.7, 0.1, 0.9], [5.0, -5.0, 2.0]])


def poor(state, u):
    return POOR[u["t"], state.x]


def optimal(state, u):
    return jnp.log(jnp.asarray(toy.optimal_twist()))[u["t"], state.x]


def path(state):
    return state.inner.path


@pytest.mark.parametrize("when", [always(), ess_below(0.7)], ids=["always", "ess"])
def test_a_twist_is_proper(when):
    samples = toy.estimates(KEY, twist(toy.MODEL, poor, last=toy.T), toy.inputs(), path, Policy(when))
    toy.assert_proper(samples, toy.gamma())


def test_a_twist_left_in_the_last_weights_is_noticed():
    """The check above has the power to see what it is for: without `psi_T = 1` the target is another."""
    samples = toy.estimates(KEY, twist(toy.MODEL, poor, last=toy.T + 1), toy.inputs(), path, Policy())
    assert np.max(np.abs(toy.z_scores(samples, toy.gamma()))) > 20


def test_the_exact_twist_with_its_proposal_has_no_variance():
    """q_t proportional to M_t G_t psi_t makes every potential a constant: each run gives log Z itself."""
    psi = jnp.asarray(toy.optimal_twist())

    def init(key, n, u):
        log_q = jnp.log(jnp.asarray(toy.INITIAL)) + u["log_g"][0] + jnp.log(psi[0])
        x = jax.random.categorical(key, log_q, shape=(n,))
        path = jnp.zeros((n, toy.T + 1), jnp.int32).at[:, 0].set(x)
        return toy.Walk(x, path), jax.nn.logsumexp(log_q) - jnp.log(psi[0])[x]

    def step(key, state, u):
        log_q = (jnp.log(jnp.asarray(toy.MOVE)) + u["log_g"] + jnp.log(psi)[u["t"]])[state.x]
        x = jax.random.categorical(key, log_q)
        log_potential = jax.nn.logsumexp(log_q, axis=1) - jnp.log(psi)[u["t"], x]
        return toy.Walk(x, state.path.at[:, u["t"]].set(x)), log_potential

    model = twist(toy.MODEL, optimal, last=toy.T, init=init, step=step)
    run = jax.vmap(lambda key: filter(key, model, toy.inputs(), 3, Policy("always")))(jax.random.split(KEY, 50))
    np.testing.assert_allclose(run.log_evidence, np.log(toy.gamma().sum()), atol=1e-5)
    np.testing.assert_allclose(run.log_weights, 0.0, atol=1e-5)


def test_the_exact_twist_lowers_the_variance_of_the_evidence():
    plain = toy.estimates(KEY, toy.MODEL, toy.inputs(), lambda state: state.path, Policy("always"))
    twisted = toy.estimates(KEY, twist(toy.MODEL, optimal, last=toy.T), toy.inputs(), path, Policy("always"))
    assert twisted.sum(axis=1).var() < 0.8 * plain.sum(axis=1).var()


def test_a_random_twist_is_proper():
    def noisy(key, state, u):
        return poor(state, u) + jax.random.normal(key, state.x.shape)

    samples = toy.estimates(KEY, random_twist(toy.MODEL, noisy, last=toy.T), toy.inputs(), path, Policy("always"))
    toy.assert_proper(samples, toy.gamma())


def test_a_twist_of_zero_where_no_future_is_possible_is_proper():
    """State 2 at step 1 has no future: killing it there loses nothing, and its weight stays zero without NaN."""
    potential = toy.POTENTIAL.copy()
    potential[2, 2, :] = 0.0

    def sees_it(state, u):
        return jnp.where((u["t"] == 1) & (state.x == 2), -jnp.inf, poor(state, u))

    model = twist(toy.MODEL, sees_it, last=toy.T)
    samples = toy.estimates(KEY, model, toy.inputs(potential), path, Policy())
    toy.assert_proper(samples, toy.gamma(potential))


def test_the_end_may_be_a_function_of_the_state():
    """A twist that ends in state 0, particle by particle, and at the last step."""

    def ended(state, u):
        return (state.x == 0) | (u["t"] == toy.T)

    model = twist(toy.MODEL, poor, last=ended)
    toy.assert_proper(toy.estimates(KEY, model, toy.inputs(), path, Policy()), toy.gamma())
    run = filter(KEY, model, toy.inputs(), 10, Policy())
    np.testing.assert_array_equal(run.particles.log_psi, 0.0)


def test_a_nan_twist_is_an_error():
    def nan(state, u):
        return jnp.where(u["t"] == 2, jnp.nan, 0.0) * state.x

    with pytest.raises(RuntimeError, match="NaN"):
        filter(KEY, twist(toy.MODEL, nan, last=toy.T), toy.inputs(), 4, Policy())


def test_a_negative_end_is_refused():
    with pytest.raises(ValueError, match="last.*-1"):
        twist(toy.MODEL, poor, last=-1)


def test_another_twist_of_the_same_shape_does_not_compile():
    class Table(eqx.Module):
        values: jax.Array

        def __call__(self, state, u):
            traces.append(1)
            return self.values[u["t"], state.x]

    traces = []

    @eqx.filter_jit
    def go(key, model):
        return filter(key, model, toy.inputs(), 4, Policy()).log_evidence

    first = go(KEY, twist(toy.MODEL, Table(POOR), last=toy.T))
    seen = len(traces)
    second = go(KEY, twist(FeynmanKac(toy.init, toy.step), Table(2 * POOR), last=toy.T))
    assert len(traces) == seen
    assert first != second
