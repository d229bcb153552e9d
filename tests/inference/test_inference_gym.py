"""Methods against the ground truth of the Inference Gym; for `make calibration`."""

import numpy as np
import pytest
from blackjax.diagnostics import ess_bulk

from ppl.inference import NUTS, TemperedSMC, infer
from tests.inference.inference_gym import (
    LOG_EVIDENCE,
    MODELS,
    UNKNOWN_SCALES,
    brownian_motion_collapsed,
    data,
    exact_brownian_motion,
    reference,
)

pytestmark = pytest.mark.calibration


def check_chains(post, name):
    assert post.stats["diverging"].sum() == 0
    for site, known in reference(name).items():
        value = post.draws[site].astype(np.float64).reshape(4, 2000, -1)
        size = np.asarray(ess_bulk(value)).reshape(known["mean"].shape)
        value = value.reshape(4 * 2000, *known["mean"].shape)
        mcse = np.hypot(known["sd"] / np.sqrt(size), known["mcse_mean"])
        # 4 standard errors, over 440 numbers that hang together: a false alarm in 1 of 36 runs at most.
        assert np.all(abs(value.mean(axis=0) - known["mean"]) < 4 * mcse), site
        assert value.std(axis=0) == pytest.approx(known["sd"], rel=0.15), site


def test_the_quadrature_has_the_evidence_of_the_program():
    assert exact_brownian_motion()[1] == pytest.approx(LOG_EVIDENCE[UNKNOWN_SCALES], abs=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_nuts_has_the_means_and_sds_of_the_ground_truth(name):
    check_chains(infer(MODELS[name], **data(name), method=NUTS(target_accept=0.95), key=1, draws=2000), name)


def test_nuts_has_the_moments_of_a_path_that_is_summed_out():
    method = NUTS(target_accept=0.95)
    post = infer(brownian_motion_collapsed, **data(UNKNOWN_SCALES), method=method, key=1, draws=2000)
    check_chains(post, UNKNOWN_SCALES)


@pytest.mark.parametrize("name", MODELS)
def test_tempered_smc_has_the_means_and_sds_of_the_ground_truth(name):
    post = infer(MODELS[name], **data(name), method=TemperedSMC(), key=2, draws=1000)
    if name in LOG_EVIDENCE:
        assert abs(post.log_evidence - LOG_EVIDENCE[name]) < 4 * post.log_evidence_se
    mean, sd = post.mean(), post.sd()
    for site, known in reference(name).items():
        # 4000 particles; their families make 400 independent ones or more.
        apart = np.hypot(known["sd"] / np.sqrt(400), known["mcse_mean"])
        assert np.all(abs(mean[site] - known["mean"]) < 4 * apart), site
        assert sd[site] == pytest.approx(known["sd"], rel=0.15), site
