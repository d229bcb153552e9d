"""Methods against reference draws that nobody here made: means and standard deviations of posteriordb."""

import re

import numpy as np
import numpyro.distributions as dist
import pytest
from blackjax.diagnostics import ess_bulk

from ppl.inference import NUTS, TemperedSMC, infer
from tests.inference.posteriors import MODELS, data, reference

# From closed forms and quadrature, with normalised priors.
LOG_EVIDENCE = {"eight_schools": -31.31134860, "sblrc": -194.96758859, "arK": 58.58759392}


def scalar(draws, parameter):
    """The draws [chains, draws] of a parameter by posteriordb's name, such as `beta[2]`."""
    match = re.fullmatch(r"(\w+)(?:\[(\d+)\])?", parameter)
    value = np.asarray(draws[match[1]], np.float64)
    return value if match[2] is None else value[..., int(match[2]) - 1]


@pytest.mark.parametrize("name", MODELS)
def test_nuts_has_the_reference_means_and_sds(name):
    post = infer(MODELS[name], **data(name), method=NUTS(target_accept=0.9), key=1, draws=2000)
    for parameter, known in reference(name).items():
        value = scalar(post.draws, parameter)
        mcse = value.std() / np.sqrt(float(ess_bulk(value)))
        # 4 standard errors: over 36 parameters, a false alarm in 1 of 400 runs.
        assert abs(value.mean() - known["mean"]) < 4 * np.hypot(mcse, known["mcse_mean"]), parameter
        assert value.std() == pytest.approx(known["sd"], rel=0.1), parameter


@pytest.mark.parametrize("name", LOG_EVIDENCE)
def test_tempered_smc_has_the_reference_means_and_the_evidence(name):
    post = infer(MODELS[name], **data(name), method=TemperedSMC(), key=2, draws=1000)
    assert abs(post.log_evidence - LOG_EVIDENCE[name]) < 4 * post.log_evidence_se
    assert post.log_evidence_se < 0.3
    mean, sd = post.mean(), post.sd()
    for parameter, known in reference(name).items():
        match = re.fullmatch(r"(\w+)(?:\[(\d+)\])?", parameter)
        index = () if match[2] is None else (int(match[2]) - 1,)
        # 4000 particles; their families make 400 independent ones or more.
        assert abs(mean[match[1]][index] - known["mean"]) < 4 * known["sd"] / np.sqrt(400), parameter
        assert sd[match[1]][index] == pytest.approx(known["sd"], rel=0.15), parameter


def test_an_improper_prior_wants_a_start():
    with pytest.raises(ValueError, match=r"start: the prior of beta is improper.*TemperedSMC\(start="):
        infer(MODELS["kidiq"], **data("kidiq"), method="tempered_smc")
    start = {"beta": dist.Normal(0.0, 50.0).expand([3]).to_event(1)}
    post = infer(MODELS["kidiq"], **data("kidiq"), method=TemperedSMC(start=start), key=3, draws=1000)
    for i in range(3):
        known = reference("kidiq")[f"beta[{i + 1}]"]
        assert abs(post.mean()["beta"][i] - known["mean"]) < 4 * known["sd"] / np.sqrt(400)
