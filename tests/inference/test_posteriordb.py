"""Methods against reference draws that nobody here made: means and standard deviations of posteriordb."""

import numpy as np
import numpyro.distributions as dist
import pytest
from blackjax.diagnostics import ess_bulk

from ppl.inference import NUTS, TemperedSMC, infer
from tests.inference.posteriors import LOG_EVIDENCE, MODELS, data, reference, scalar

QUICK = ("eight_schools", "arma", "arK", "sblrc", "kidiq", "gauss_mix")
QUICK_SMC = ("eight_schools",)
# NUTS on these is compiled for longer than it runs.
SOON_DONE = ("eight_schools", "arma", "sblrc")
# What to start from where a prior is improper: wider than the posterior, and not centred at it.
STARTS = {
    "kidiq": {"beta": dist.Normal(0.0, 50.0).expand([3]).to_event(1)},
    "garch": {"mu": dist.Normal(4.0, 2.0), "alpha0": dist.LogNormal(0.0, 1.0)},
    "nes": {"beta": dist.Normal(0.0, 2.0).expand([9]).to_event(1), "sigma": dist.LogNormal(0.0, 1.0)},
    "earnings": {
        "beta": dist.Normal(0.0, np.array([20.0, 0.5, 20.0, 0.5], np.float32)).to_event(1),
        "sigma": dist.LogNormal(0.0, 1.0),
    },
}


def names(quick, soon_done=()):
    calibration, runs_long = pytest.mark.calibration, pytest.mark.runs_long
    return [
        pytest.param(name, marks=[calibration] * (name not in quick) + [runs_long] * (name not in soon_done))
        for name in MODELS
    ]


# Of chains that start anywhere, of any sampler, one in eight is for hundreds of draws where the equation is stiff.
FROM_PARTICLES = ("lotka_volterra",)


@pytest.mark.parametrize("name", names(QUICK, SOON_DONE))
def test_nuts_has_the_reference_means_and_sds(name):
    model, starts = MODELS[name], None
    if name in FROM_PARTICLES:
        starts = infer(model, **data(name), method=TemperedSMC(), key=1, chains=1, draws=200)
    post = infer(model, **data(name), method=NUTS(target_accept=0.9), key=1, draws=2000, starts=starts)
    for parameter, known in reference(name).items():
        value = scalar(post.draws, parameter)
        mcse = value.std() / np.sqrt(float(ess_bulk(value)))
        # 4 standard errors: over 85 parameters, a false alarm in 1 of 200 runs.
        assert abs(value.mean() - known["mean"]) < 4 * np.hypot(mcse, known["mcse_mean"]), parameter
        assert value.std() == pytest.approx(known["sd"], rel=0.1), parameter


@pytest.mark.parametrize("name", names(QUICK_SMC))
def test_tempered_smc_has_the_reference_means_and_the_evidence(name):
    post = infer(MODELS[name], **data(name), method=TemperedSMC(start=STARTS.get(name)), key=2, draws=1000)
    if name in LOG_EVIDENCE:
        assert abs(post.log_evidence - LOG_EVIDENCE[name]) < 4 * post.log_evidence_se
    assert post.log_evidence_se < 0.3
    weights = post.weights()
    for parameter, known in reference(name).items():
        value = scalar(post.draws, parameter)
        mean = (weights * value).sum()
        # 4000 particles; their families make 400 independent ones or more.
        assert abs(mean - known["mean"]) < 4 * known["sd"] / np.sqrt(400), parameter
        sd = np.sqrt((weights * (value - mean) ** 2).sum())
        assert sd == pytest.approx(known["sd"], rel=0.15), parameter


def test_an_improper_prior_wants_a_start():
    with pytest.raises(ValueError, match=r"start: the prior of beta is improper.*TemperedSMC\(start="):
        infer(MODELS["kidiq"], **data("kidiq"), method="tempered_smc")


@pytest.mark.calibration
@pytest.mark.runs_long
def test_an_improper_prior_with_a_start():
    post = infer(MODELS["kidiq"], **data("kidiq"), method=TemperedSMC(start=STARTS["kidiq"]), key=3, draws=1000)
    for i in range(3):
        known = reference("kidiq")[f"beta[{i + 1}]"]
        assert abs(post.mean()["beta"][i] - known["mean"]) < 4 * known["sd"] / np.sqrt(400)
