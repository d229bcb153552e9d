"""Evidence against closed forms, its standard error against the spread over runs, and the schedule."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from ppl.inference import HMCMove, TemperedSMC, infer
from ppl.inference.runs import combined_evidence
from ppl.inference.tempering import next_exponent
from ppl.smc.weights import ess
from tests.inference.targets import TARGETS

RUNS = 20


def run_wise(post):
    """Log evidence of each run; that of all and its error are from these."""
    return np.asarray(post.stats["run_log_evidence"], np.float64)


@pytest.mark.runs_long
@pytest.mark.parametrize(
    "name",
    [
        "two_modes_unequal_10",
        *(
            pytest.param(name, marks=pytest.mark.calibration)
            for name in ("cauchy_10", "shells_2", "shells_5", "shells_10", "two_modes_10")
        ),
    ],
)
def test_the_evidence_and_its_error_are_right(name):
    post = infer(TARGETS[name].model, method=TemperedSMC(), key=1, chains=RUNS, draws=500)
    apart = run_wise(post) - TARGETS[name].log_evidence
    spread = apart.std(ddof=1)
    assert abs(post.log_evidence - TARGETS[name].log_evidence) < 3 * post.log_evidence_se
    # E[log Z] lies half a variance below log Z. 3.5 standard errors of a mean of 20.
    assert abs(apart.mean() + spread**2 / 2) < 3.5 * spread / np.sqrt(RUNS)
    # What is stated for the mean of 20 runs, times sqrt(20), against the spread: within 0.6 and 1.6.
    assert 0.6 < post.log_evidence_se * np.sqrt(RUNS) / spread < 1.6


@pytest.mark.runs_long
def test_a_kernel_does_not_depend_on_the_particles_it_moves():
    # 40 dimensions, 400 particles: by one covariance of all of them log evidence was 0.9 too large, 13 standard errors.
    y = jnp.linspace(-1, 2, 40)

    def model(y):
        x = numpyro.sample("x", dist.Normal(0, 1).expand([40]).to_event(1))
        numpyro.sample("y", dist.Normal(x, 0.5).to_event(1), obs=y)

    exact = float(dist.Normal(0, 1.25**0.5).log_prob(y).sum())
    method = TemperedSMC(kernel=HMCMove(num_steps=5), num_moves=4)
    post = infer(model, y, method=method, key=5, chains=RUNS, draws=400)
    assert abs(post.log_evidence - exact) < 4 * post.log_evidence_se
    assert post.log_evidence_se < 0.15


@pytest.mark.parametrize("waste_free", [None, pytest.param(3, marks=pytest.mark.calibration)])
def test_odd_numbers_of_particles_are_moved(waste_free):
    draws = 101 * (waste_free or 1)
    post = infer(TARGETS["cauchy_2"].model, method=TemperedSMC(waste_free=waste_free), key=6, chains=2, draws=draws)
    assert post.unconstrained.shape == (2, draws, 2)
    assert np.all(np.isfinite(post.unconstrained))


def test_modes_have_their_weights():
    post = infer(TARGETS["two_modes_unequal_2"].model, method=TemperedSMC(), key=2, chains=RUNS, draws=500)
    by_run = (post.draws["x"][..., 0] > 0).mean(axis=1)
    weights = np.exp(run_wise(post) - run_wise(post).max())
    share = (weights * by_run).sum() / weights.sum()
    assert abs(share - 0.8) < 4 * by_run.std(ddof=1) / np.sqrt(RUNS)


@pytest.mark.parametrize(
    "method",
    [
        TemperedSMC(kernel="random_walk"),
        pytest.param(TemperedSMC(kernel="independent"), marks=pytest.mark.calibration),
        TemperedSMC(kernel="slice"),
        pytest.param(
            TemperedSMC(kernel=HMCMove(dense_mass=False), resampling="multinomial"), marks=pytest.mark.calibration
        ),
        pytest.param(TemperedSMC(kernel="nuts", num_moves=2), marks=pytest.mark.calibration),
        TemperedSMC(waste_free=10),
    ],
    ids=["random_walk", "independent", "slice", "diagonal", "nuts", "waste_free"],
)
def test_every_kernel_finds_the_evidence(method):
    post = infer(TARGETS["cauchy_2"].model, method=method, key=3, chains=8, draws=500)
    assert abs(post.log_evidence - TARGETS["cauchy_2"].log_evidence) < 4 * post.log_evidence_se
    assert post.log_evidence_se < 0.15


def test_the_next_exponent_is_the_largest_that_reaches_the_target():
    log_ratio = jnp.asarray(np.random.default_rng(0).normal(scale=300.0, size=1000), jnp.float32)
    raised = next_exponent(log_ratio, jnp.asarray(0.25), 0.5)
    assert float(ess((raised - 0.25) * log_ratio)) == pytest.approx(500, rel=0.02)
    assert float(next_exponent(1e-3 * log_ratio / 300, jnp.asarray(0.25), 0.5)) == 1


def test_the_larger_of_two_errors_is_stated():
    assert combined_evidence(np.array([0.0, 0.0]), np.array([0.02, 0.02]))[1] == pytest.approx(0.1)
    assert combined_evidence(np.array([0.0, 3.0]), np.array([0.02, 0.02]))[1] > 0.5


def test_runs_that_disagree_are_weighted_by_their_evidence():
    post = infer(TARGETS["shells_2"].model, method=TemperedSMC(), key=4, chains=4, draws=200)
    weights = post.weights()
    assert weights.sum() == pytest.approx(1)
    evidence = np.exp(run_wise(post) - run_wise(post).max())
    assert weights.sum(axis=1) == pytest.approx(evidence / evidence.sum(), rel=1e-3)


def test_particles_of_nan_density_are_counted():
    def model():
        x = numpyro.sample("x", dist.Normal(0, 1))
        numpyro.factor("bad", jnp.where(x > 1, jnp.nan, 0.0))

    post = infer(model, method=TemperedSMC(), key=5, chains=2, draws=500)
    assert post.stats["non_finite"].sum() > 50
    assert any(advice.statistic == "non_finite" for advice in post.diagnose())
    # The prior's mass below 1 is what is left.
    assert abs(post.log_evidence - np.log(0.8413447)) < 4 * post.log_evidence_se


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TemperedSMC(num_moves=0), "num_moves: at least one"),
        (lambda: HMCMove(small_steps=1.5), "small_steps: a probability"),
        (lambda: TemperedSMC(target_ess=1.0), "target_ess: a fraction"),
        (lambda: TemperedSMC(waste_free=1), "waste_free: a chain length"),
        (lambda: TemperedSMC(waste_free=5, num_moves=2), "num_moves: waste_free sets"),
        (lambda: TemperedSMC(kernel="metropolis"), "kernel: 'metropolis' is not known"),
        (lambda: TemperedSMC(resampling="optimal_transport"), "resampling: 'optimal_transport' is not a proper"),
        (lambda: infer(TARGETS["shells_2"].model, method=TemperedSMC(waste_free=7), draws=100), "waste_free: must div"),
        (lambda: infer(TARGETS["shells_2"].model, method=TemperedSMC(max_steps=1), draws=100), "max_steps: after 1"),
        (lambda: infer(TARGETS["shells_2"].model, method=TemperedSMC(start={"y": dist.Normal()})), "start: 'y' is no"),
    ],
)
def test_bad_settings_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
