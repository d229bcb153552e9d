"""Log evidence and its stated error against closed forms and quadrature, over forty runs; for `make calibration`."""

import numpy as np
import pytest

from ppl.inference import NestedSampling, TemperedSMC, infer
from tests.inference.posteriors import LOG_EVIDENCE, MODELS, data
from tests.inference.targets import TARGETS

pytestmark = pytest.mark.calibration
# A right standard error is outside of 0.6 to 1.6 times the spread once in 120 cases of 20 runs, and there are thirty;
# of 40 runs once in 5000.
RUNS = 40


def check(model, arguments, exact, method, draws):
    """Runs apart, each with the error that it states of itself alone: the spread over runs does not enter."""
    posts = [infer(model, **arguments, method=method, key=key, chains=1, draws=draws) for key in range(RUNS)]
    apart = np.array([post.log_evidence for post in posts]) - exact
    stated = np.sqrt(np.mean([post.log_evidence_se**2 for post in posts]))
    spread = apart.std(ddof=1)
    print(f"\nmean {apart.mean():.3f} spread {spread:.3f} stated {stated:.3f}")
    # Evidence, not its log, is unbiased. 3 standard errors of the mean: a false alarm in 1 of 370.
    evidence = np.log(np.mean(np.exp(apart)))
    assert abs(evidence) < 3 * stated / np.sqrt(RUNS)
    assert 0.6 < stated / spread < 1.6


@pytest.mark.parametrize("name", TARGETS)
def test_tempered_smc_of_closed_forms(name):
    draws = 1000 if name.endswith(("_20", "_50")) else 500
    check(TARGETS[name].model, {}, TARGETS[name].log_evidence, TemperedSMC(), draws)


@pytest.mark.parametrize("name", LOG_EVIDENCE)
def test_tempered_smc_of_posteriordb(name):
    check(MODELS[name], data(name), LOG_EVIDENCE[name], TemperedSMC(), 1000)


@pytest.mark.parametrize("name", TARGETS)
def test_nested_sampling_of_closed_forms(name):
    check(TARGETS[name].model, {}, TARGETS[name].log_evidence, NestedSampling(), 200)


@pytest.mark.parametrize("name", LOG_EVIDENCE)
def test_nested_sampling_of_posteriordb(name):
    check(MODELS[name], data(name), LOG_EVIDENCE[name], NestedSampling(), 200)
