"""Standard errors from the genealogy of one run, against the spread of many runs around the exact evidence."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppl.smc import Policy
from ppl.smc.driver import filter
from ppl.smc.variance import chan_lai, families, lee_whiteley
from tests.smc import enumeration as toy
from tests.smc import state_space

STEPS = 10
PARAMETERS = (0.77, 0.77, 0.37)


@functools.partial(eqx.filter_jit, compiler_options={"xla_backend_optimization_level": 1})
def runs(model, inputs, policy, num_particles, num_keys):
    """Of independent runs: log evidence, its standard error, the shares of families and the number of resamplings."""

    def one(key):
        run = filter(key, model, inputs, num_particles, policy, throw=False)
        eve, _ = jax.lax.scan(lambda eve, a: (eve[a], None), jnp.arange(num_particles), run.ancestors)
        return run.log_evidence, run.log_evidence_se, families(eve, run.log_weights, num_particles), run.resampled.sum()

    return jax.lax.map(one, jax.random.split(jax.random.key(5), num_keys), batch_size=200)


def squared_errors(log_evidence, exact):
    return (np.exp(np.asarray(log_evidence, np.float64) - exact) - 1) ** 2


def series(policy, num_keys=1000):
    y = np.array(state_space.series("lgssm_T100_univariate")["y"][: STEPS + 1])
    log_evidence, error, shares, times = runs(
        state_space.bootstrap(*PARAMETERS), jnp.asarray(y, jnp.float32), policy, 200, num_keys
    )
    exact = state_space.kalman(y, *PARAMETERS).sum()
    return squared_errors(log_evidence, exact), np.asarray(error) ** 2, shares, times


def assert_same_mean(estimates, truths):
    """Means of two sets of 1,000 agree to 4 standard errors (false alarm 6e-5), of at most 12% of the truth."""
    error = np.hypot(np.std(estimates), np.std(truths)) / np.sqrt(len(truths))
    assert error < 0.12 * np.mean(truths)
    assert abs(np.mean(estimates) - np.mean(truths)) < 4 * error, (np.mean(estimates), np.mean(truths), error)


@pytest.mark.parametrize(
    ("when", "how"),
    [
        ("ess", "systematic"),
        ("always", "multinomial"),
        ("always", "killing"),
        pytest.param("always", "systematic", marks=pytest.mark.calibration),
        pytest.param("ess", "ssp", marks=pytest.mark.calibration),
    ],
)
def test_on_a_linear_gaussian_series(when, how):
    truth, estimate, shares, times = series(Policy(when, how))
    assert_same_mean(estimate, truth)
    # It is an estimate and no constant: single runs find the order of magnitude.
    assert np.mean((estimate > truth.mean() / 3) & (estimate < truth.mean() * 3)) > 0.95
    if how == "multinomial":
        other = np.asarray(jax.vmap(lee_whiteley)(shares, times))
        assert_same_mean(other, truth)
        assert np.std(estimate) < 1.05 * np.std(other)
    elif when == "always" and how == "systematic":
        # Why Lee and Whiteley's factor is not used beyond multinomial resampling.
        assert np.mean(np.asarray(jax.vmap(lee_whiteley)(shares, times))) < 0.9 * truth.mean()
        assert_same_mean(np.asarray(jax.vmap(chan_lai)(shares)), truth)


@pytest.mark.parametrize(("when", "how"), [("always", "multinomial"), ("ess", "systematic")])
def test_on_an_asymmetric_chain(when, how):
    log_evidence, error, _, _ = runs(toy.MODEL, toy.inputs(), Policy(when, how), 100, 1000)
    assert_same_mean(np.asarray(error) ** 2, squared_errors(log_evidence, np.log(toy.gamma().sum())))


def test_without_resampling_it_is_importance_sampling():
    run = toy.run(jax.random.key(1), toy.MODEL, toy.inputs(), 60, Policy("never"))
    weights = np.exp(np.asarray(run.log_weights, np.float64))
    plain = np.sum((weights - 1) ** 2) / (60 * 59)
    np.testing.assert_allclose(run.log_evidence_se**2, plain, rtol=1e-4)
    shares = jnp.asarray(weights / 60, jnp.float32)
    np.testing.assert_allclose(chan_lai(shares), plain, rtol=1e-4)
    np.testing.assert_allclose(lee_whiteley(shares, 0), plain, rtol=1e-4)


def test_potentials_that_are_constant_leave_no_error():
    constant = np.full_like(toy.POTENTIAL, 3.0)
    for how in ("systematic", "multinomial"):
        run = toy.run(jax.random.key(1), toy.MODEL, toy.inputs(constant), 50, Policy("always", how))
        assert run.log_evidence_se == 0


def test_one_family_says_nothing():
    run = toy.run(jax.random.key(1), toy.MODEL, toy.inputs(), 1, Policy("always"))
    assert np.isnan(run.log_evidence_se)


def test_float32_keeps_the_digits_at_many_particles():
    """Weights of 100,000 particles with a relative variance of 1e-3: the standard error is 1e-4 to a percent."""
    from ppl.smc.variance import found, log_evidence_se

    log_weights = 0.0316 * jax.random.normal(jax.random.key(0), (100_000,), jnp.float32)
    error = log_evidence_se(found(log_weights), log_weights)
    np.testing.assert_allclose(error, 0.0316 / np.sqrt(100_000), rtol=0.02)
