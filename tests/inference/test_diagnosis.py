"""Advice about runs and moves of particles: given where it should be, and only there."""

import blackjax.diagnostics as diagnostics
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats

from ppl.inference import TemperedSMC, infer
from ppl.inference.convergence import convergence
from ppl.inference.diagnosis import diagnose


def found(run_stats, attrs=None, particles=400):
    """Statistics that advice is given on, by name, for particles that are otherwise fine."""
    chains = len(run_stats["run_log_evidence"])
    points = np.zeros((chains, particles, 1))
    advice = diagnose(points, np.zeros((chains, particles)), run_stats, {}, attrs or {})
    return {one.statistic: one.value for one in advice}


def runs(evidence, error):
    return {"run_log_evidence": np.asarray(evidence), "run_log_evidence_se": np.full(len(evidence), error)}


def test_runs_that_differ_by_more_than_they_state_are_told():
    apart = np.array([0.0, 1.0, 2.0, 5.0])
    value = found(runs(apart, 0.1))["run_log_evidence"]
    assert value == pytest.approx(apart.std(ddof=1) / 0.1)
    # The boundary is the chi-square's.
    boundary = apart.std(ddof=1) / np.sqrt(stats.chi2.isf(1e-3, 3) / 3)
    assert "run_log_evidence" in found(runs(apart, boundary * 0.99))
    assert found(runs(apart, boundary * 1.01)) == {}


def test_runs_that_say_nothing_of_their_error_give_no_advice():
    assert found(runs([0.0], 0.1)) == {}
    assert found(runs([0.0, 9.0], np.nan)) == {}
    assert found({"run_log_evidence": np.array([0.0, 9.0])}) == {}


def test_particles_that_have_not_moved_are_told():
    fine, stuck = np.full((2, 3), 0.2), np.full((2, 3), 0.2)
    stuck[1, 2] = 0.6
    same = runs([0.0, 0.0], 0.1)
    assert found(same | {"move_correlation": fine}) == {}
    assert found(same | {"move_correlation": stuck}) == {"move_correlation": 0.6}
    # Whoever asks for less forgetting is not told that there was less, and few particles are noisy.
    assert found(same | {"move_correlation": stuck}, {"correlation": 0.5}) == {}
    assert found(same | {"move_correlation": stuck}, particles=25) == {}


def test_one_step_size_for_all_particles_is_told():
    moved = runs([0.0, 0.0], 0.1) | {"move_scale": np.full((2, 3), 0.4)}
    assert found(moved, {"kernel": "NUTSMove"}) == {"move_scale": 0.4}
    assert found(moved, {"kernel": "HMCMove"}) == {}


def test_advice_follows_a_run():
    def spike(log_weight):
        # Not all runs of 60 particles of the prior see the spike, which has most of the mass when its weight is 20.
        x = numpyro.sample("x", dist.Normal(0, 2).expand([2]).to_event(1))
        parts = [dist.Normal(-2, 1).log_prob(x).sum(), log_weight + dist.Normal(3, 0.2).log_prob(x).sum()]
        numpyro.factor("modes", jax.nn.logsumexp(jnp.stack(parts)))

    options = {"method": TemperedSMC(), "key": 1, "chains": 16, "draws": 60}
    post = infer(spike, jnp.log(20.0), **options)
    assert {"run_log_evidence", "move_correlation"} <= {advice.statistic for advice in post.diagnose()}
    smooth = infer(spike, jnp.asarray(-40.0), **options)
    assert smooth.diagnose() == []
    assert smooth.attrs["kernel"] == "HMCMove"


def test_convergence_is_blackjaxs_for_all_scalars_at_once():
    noise = np.random.default_rng(0).normal(size=(4, 200, 3))
    draws = noise + 0.1 * noise.cumsum(axis=1)
    draws[..., 1] = 2.0
    size, r_hat = convergence(draws)
    assert np.isnan([size[1], r_hat[1]]).all()
    for i in (0, 2):
        assert size[i] == pytest.approx(float(diagnostics.ess_bulk(draws[..., i])), rel=1e-4)
        assert r_hat[i] == pytest.approx(float(diagnostics.rhat(draws[..., i])), rel=1e-4)
    assert np.isnan(convergence(draws[:1])[1]).all()
