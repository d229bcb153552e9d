import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppl.smc.driver import filter
from ppl.smc.feynman_kac import FeynmanKac
from ppl.smc.policy import Policy, always
from ppl.smc.resampling import multinomial
from ppl.smc.tempering import ess, temper
from ppl.smc.weights import ess as effective_sample_size
from tests.smc import enumeration as toy

KEY = jax.random.key(12)
SCHEDULE = [0.2, 0.9, 0.0]


def path(state):
    return state.path


def inner_path(state):
    return state.inner.path


@pytest.mark.parametrize(
    ("b", "path_of"),
    [(0.0, path), (0.4, path), (1.0, path), (jnp.asarray(SCHEDULE), inner_path), (ess(0.8), path)],
    ids=["0", "0.4", "1", "schedule", "ess"],
)
def test_tempering_is_proper(b, path_of):
    samples = toy.estimates(KEY, temper(toy.MODEL, b), toy.inputs(), path_of, Policy(always(), "multinomial"))
    toy.assert_proper(samples, toy.gamma())


def test_dropping_the_remainder_is_not_proper():
    """Entropic particle filtering (arXiv 2510.05825) as coded: resample on w^b, and let the weights start anew."""

    def flattened(key, log_weights, num):
        return multinomial(key, 0.4 * log_weights, num)

    samples = toy.estimates(KEY, toy.MODEL, toy.inputs(), path, Policy("always", flattened))
    assert np.max(np.abs(toy.z_scores(samples, toy.gamma()))) > 20


def test_b_of_one_is_ordinary_resampling():
    plain = filter(KEY, toy.MODEL, toy.inputs(), 50, Policy("always"))
    tempered = filter(KEY, temper(toy.MODEL, 1.0), toy.inputs(), 50, Policy("always"))
    np.testing.assert_array_equal(plain.ancestors, tempered.ancestors)
    np.testing.assert_allclose(plain.log_evidence, tempered.log_evidence, rtol=1e-5)


def test_a_schedule_of_one_value_is_that_value():
    fixed = filter(KEY, temper(toy.MODEL, 0.3), toy.inputs(), 50, Policy("always"))
    scheduled = filter(KEY, temper(toy.MODEL, np.full(toy.T, 0.3)), toy.inputs(), 50, Policy("always"))
    np.testing.assert_array_equal(fixed.ancestors, scheduled.ancestors)
    np.testing.assert_allclose(fixed.log_evidence, scheduled.log_evidence, rtol=1e-6)


@given(st.lists(st.floats(-30, 30), min_size=1, max_size=40), st.floats(0.05, 1.0))
def test_bisection_finds_the_largest_exponent_that_reaches_the_target(log_weights, target):
    log_weights = jnp.asarray(log_weights, jnp.float32)
    n = len(log_weights)
    b = ess(target)(log_weights)
    assert 0 <= b <= 1
    # float32 sums of up to 40 terms: a relative slack of 1e-5 on the effective sample size
    assert effective_sample_size(b * log_weights) >= target * n * (1 - 1e-5)
    if b < 1:
        more = jnp.minimum(b + 1e-3 * (1 - b) + 1e-6, 1.0)
        assert effective_sample_size(more * log_weights) <= target * n * (1 + 1e-5)


def test_bisection_with_dead_particles():
    log_weights = jnp.asarray([0.0, -jnp.inf, -1.0, -jnp.inf])
    assert ess(0.4)(log_weights) == 1.0  # two living particles of similar weight reach 1.6
    assert ess(0.9)(log_weights) == 0.0  # no exponent brings the dead back
    assert ess(0.5)(jnp.full(4, -jnp.inf)) == 0.0


def test_dead_particles_are_not_drawn():
    def init(key, n, u):
        index = jnp.arange(n)
        return index, jnp.where(index % 2 == 0, -jnp.inf, 0.0)

    model = temper(FeynmanKac(init, lambda key, state, u: (state, jnp.zeros(state.shape))), 0.0)
    run = filter(KEY, model, None, 10, Policy("always"), num_steps=1)
    assert np.all(np.asarray(run.ancestors) % 2 == 1)
    np.testing.assert_allclose(run.log_evidence, np.log(0.5), rtol=1e-6)


@pytest.mark.parametrize("b", [-0.1, 1.5, np.nan, [0.5, 2.0], [[0.5]]])
def test_exponents_outside_the_range_are_refused(b):
    with pytest.raises(ValueError, match=r"b: .*wanted"):
        temper(toy.MODEL, np.asarray(b) if isinstance(b, list) else b)


@pytest.mark.parametrize("target", [0.0, 1.1, np.nan])
def test_targets_outside_the_range_are_refused(target):
    with pytest.raises(ValueError, match="target"):
        ess(target)


def test_a_schedule_that_is_too_short_is_an_error():
    with pytest.raises(RuntimeError, match="2 entries"):
        filter(KEY, temper(toy.MODEL, np.asarray([0.5, 0.5])), toy.inputs(), 4, Policy("always"))
