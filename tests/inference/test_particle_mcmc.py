"""PMMH, particle Gibbs and SMC^2 against the posterior by quadrature with exact Kalman likelihoods."""

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from blackjax.diagnostics import ess_bulk

import ppl
from ppl.inference import PMMH, SMC2, ParticleGibbs, infer
from ppl.smc import Policy, optimal_transport
from tests.inference.resuming import goes_on_alike
from tests.inference.test_state_space import LGSSM, Y, linear_gaussian

EXACT = LGSSM["parameter_posterior_quadrature"]
SMOOTHED = LGSSM["at_first_setting"]


def _check(post, size):
    """Means within 4.5 standard errors, given `size(draws)` effective draws; sds within their error and 5%."""
    for name in ("rho", "var_x", "var_y"):
        draws = post.draws[name].astype(np.float64)
        effective = size(draws)
        assert effective > 20
        sd = EXACT[name]["sd"]
        assert abs(post.mean()[name] - EXACT[name]["mean"]) < 4.5 * sd / np.sqrt(effective)
        # The sd of a sample sd is 1 / sqrt(2 n), and more with the skewness of variances.
        assert abs(post.sd()[name] / sd - 1) < 4.5 / np.sqrt(effective) + 0.05


@pytest.mark.runs_long
@pytest.mark.parametrize(
    ("method", "draws"),
    [
        pytest.param(PMMH(num_particles=50, filter="guided", warmup=800), 1000, marks=pytest.mark.calibration),
        pytest.param(ParticleGibbs(num_particles=15, warmup=150), 350, marks=pytest.mark.calibration),
        pytest.param(ParticleGibbs(num_particles=20, warmup=500, filter="guided"), 2000, marks=pytest.mark.calibration),
        pytest.param(PMMH(num_particles=500, warmup=2000), 4000, marks=pytest.mark.calibration),
        pytest.param(
            ParticleGibbs(num_particles=300, warmup=500, ancestor_sampling=False), 4000, marks=pytest.mark.calibration
        ),
    ],
    ids=["pmmh", "gibbs", "gibbs-guided", "pmmh-bootstrap", "gibbs-no-ancestors"],
)
def test_chains_have_the_posterior(method, draws):
    post = infer(linear_gaussian, Y, method=method, chains=4, draws=draws, key=3)
    _check(post, lambda x: float(ess_bulk(x)))
    assert post.draws["x"].shape == (4, draws, 99)
    # The states, too: their posterior mean is near the smoother's at parameters near the posterior mean.
    path = post.mean()["x"]
    assert np.corrcoef(path, SMOOTHED["smoothed_mean"][1:])[0, 1] > 0.9


def rising(y):
    """A short random walk of unknown steps, seen with noise."""
    sd = numpyro.sample("sd", dist.HalfNormal(1))
    ppl.markov("x", dist.Normal(0, 1), lambda x: dist.Normal(x, sd), lambda x: dist.Normal(x, 0.5), y)


@pytest.mark.parametrize(
    "method",
    [
        PMMH(num_particles=5, warmup=10),
        pytest.param(ParticleGibbs(num_particles=5, warmup=10), marks=pytest.mark.calibration),
    ],
    ids=["pmmh", "gibbs"],
)
def test_chains_of_paths_go_on_after_a_stop(method, tmp_path):
    goes_on_alike(rising, Y[:4], method=method, key=4, chains=2, draws=20, checkpoint=tmp_path / "run")


def _smc2_is_right(post, runs):
    assert post.log_evidence is not None
    assert post.log_evidence_se is not None
    # The stated error comes from few runs; so does the spread: 4.5 of the larger.
    spread = post.stats["run_log_evidence"].std(ddof=1) / np.sqrt(runs)
    assert abs(post.log_evidence - EXACT["log_evidence"]) < 4.5 * max(post.log_evidence_se, spread)
    assert post.log_evidence_se < 0.3
    # Resampled in the run: particles are worth fewer draws than they are; a third is on the safe side.
    _check(post, lambda x: x.size / 3)


@pytest.mark.runs_long
@pytest.mark.calibration
def test_smc2_has_the_posterior_and_the_evidence():
    post = infer(linear_gaussian, Y, method=SMC2(num_particles=50, filter="guided"), chains=4, draws=200, key=1)
    _smc2_is_right(post, 4)
    assert post.stats["log_evidence_increment"].shape == (4, 100)
    assert post.draws["x"].shape == (4, 200, 99)


@pytest.mark.calibration
@pytest.mark.runs_long
def test_smc2_doubles_its_filters_and_states_its_error():
    post = infer(linear_gaussian, Y, method=SMC2(num_particles=20), chains=20, draws=300, key=2)
    assert post.stats["num_particles"].max() > 20
    _smc2_is_right(post, 20)


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="filter: 'kalman' is not known"):
        PMMH(filter="kalman")
    with pytest.raises(ValueError, match="the kept path and one more"):
        ParticleGibbs(num_particles=1)
    with pytest.raises(ValueError, match="got 'auxiliary'"):
        ParticleGibbs(filter="auxiliary")
    with pytest.raises(ValueError, match="target_ess: a fraction"):
        SMC2(target_ess=1.5)
    transport = Policy("ess", optimal_transport())
    with pytest.raises(ValueError, match="proper resampling"):
        PMMH(policy=transport)
