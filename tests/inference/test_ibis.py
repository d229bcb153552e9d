"""IBIS against conjugate evidence and predictive densities, its error against the spread over runs."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.special import betaln, gammaln

from ppl.inference import IBIS, infer

pytestmark = pytest.mark.runs_long

RUNS = 20
# Sorted: the first observations say the opposite of the last, and particles have to travel.
HEADS = np.array([0] * 12 + [1, 0] * 4 + [1] * 30, np.float32)
Y = np.array([0.4, 1.9, 3.1, 0.2, 1.1, 2.7, 3.9, 1.4, 2.2, 6.0], np.float32)


def beta_bernoulli(y):
    p = numpyro.sample("p", dist.Beta(2.0, 5.0))
    with numpyro.plate("n", y.shape[0]):
        numpyro.sample("y", dist.Bernoulli(p), obs=y)


def beta_predictive(y):
    ones = np.cumsum(y)
    t = np.arange(1, len(y) + 1)
    joint = betaln(2 + ones, 5 + t - ones) - betaln(2, 5)
    return np.diff(joint, prepend=0.0)


def normal_gamma(y):
    """Skewed: precision Gamma(3, 2), mean given it normal."""
    tau = numpyro.sample("tau", dist.Gamma(3.0, 2.0))
    mu = numpyro.sample("mu", dist.Normal(1.0, 1 / jnp.sqrt(0.5 * tau)))
    with numpyro.plate("n", y.shape[0]):
        numpyro.sample("y", dist.Normal(mu, 1 / jnp.sqrt(tau)), obs=y)


def normal_gamma_joint(y):
    n, mean = len(y), y.mean() if len(y) else 0.0
    kappa, shape = 0.5 + n, 3 + n / 2
    rate = 2 + 0.5 * ((y - mean) ** 2).sum() + 0.25 * n / kappa * (mean - 1) ** 2
    constant = gammaln(shape) - gammaln(3) + 3 * np.log(2) - shape * np.log(rate)
    return constant + 0.5 * np.log(0.5 / kappa) - n / 2 * np.log(2 * np.pi)


def normal_gamma_predictive(y):
    return np.diff([normal_gamma_joint(y[:t].astype(float)) for t in range(len(y) + 1)])


@pytest.mark.parametrize(
    ("model", "data", "exact", "method"),
    [
        (beta_bernoulli, HEADS, beta_predictive, IBIS()),
        pytest.param(normal_gamma, Y, normal_gamma_predictive, IBIS(), marks=pytest.mark.calibration),
        pytest.param(normal_gamma, Y, normal_gamma_predictive, IBIS(waste_free=10), marks=pytest.mark.calibration),
    ],
    ids=["beta", "normal_gamma", "waste_free"],
)
def test_predictive_densities_the_evidence_and_its_error_are_right(model, data, exact, method):
    post = infer(model, data, method=method, key=1, chains=RUNS, draws=500)
    expected = exact(data)
    apart = np.asarray(post.stats["run_log_evidence"], np.float64) - expected.sum()
    spread = apart.std(ddof=1)
    assert abs(post.log_evidence - expected.sum()) < 3 * post.log_evidence_se
    # E[log Z] lies half a variance below log Z. 3.5 standard errors of a mean of 20.
    assert abs(apart.mean() + spread**2 / 2) < 3.5 * spread / np.sqrt(RUNS)
    # What is stated for the mean of 20 runs, times sqrt(20), against the spread.
    assert 0.6 < post.log_evidence_se * np.sqrt(RUNS) / spread < 1.6
    if model is beta_bernoulli:
        a, b = 2 + HEADS.sum(), 5 + len(HEADS) - HEADS.sum()
        pairs = zip(post.draws["p"], np.exp(post.log_weights), strict=True)
        means = np.array([np.average(p, weights=w) for p, w in pairs])
        assert abs(post.mean()["p"] - a / (a + b)) < 4.5 * means.std(ddof=1) / np.sqrt(RUNS)
    # One-step densities, each within 4.5 errors of a mean of 20 (t of 19: 1 in 4000 each), and rounding.
    by_run = np.asarray(post.stats["log_predictive"], np.float64)
    error = by_run.std(axis=0, ddof=1) / np.sqrt(RUNS)
    assert np.all(np.abs(by_run.mean(axis=0) - expected) < 4.5 * error + 2e-5)


@pytest.mark.calibration
def test_the_posterior_is_right_in_batches_and_from_another_start():
    method = IBIS(plate="n", batch=8, start={"p": dist.Beta(3.0, 3.0)}, kernel="random_walk")
    post = infer(beta_bernoulli, HEADS, method=method, key=2, chains=8, draws=500)
    a, b = 2 + HEADS.sum(), 5 + len(HEADS) - HEADS.sum()
    sd = np.sqrt(a * b / ((a + b) ** 2 * (a + b + 1)))
    pairs = zip(post.draws["p"], np.exp(post.log_weights), strict=True)
    by_run = np.array([np.average(p, weights=w) for p, w in pairs])
    assert abs(post.mean()["p"] - a / (a + b)) < 5 * by_run.std(ddof=1) / np.sqrt(8)
    assert post.sd()["p"] == pytest.approx(sd, rel=0.1)
    assert post.stats["log_predictive"].shape == (8, -(-len(HEADS) // 8))
    assert abs(post.log_evidence - beta_predictive(HEADS).sum()) < 4 * post.log_evidence_se
    assert post.stats["log_predictive"].sum(axis=1) == pytest.approx(post.stats["run_log_evidence"], rel=1e-5)


def two_plates(y):
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    numpyro.sample("first", dist.Normal(mu, 1), obs=y[0])
    with numpyro.plate("n", y.shape[0]):
        numpyro.sample("y", dist.Normal(mu, 1), obs=y)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: IBIS(batch=0), "batch: at least one observation"),
        (lambda: IBIS(target_ess=0.0), "target_ess: a fraction"),
        (lambda: infer(normal_gamma, Y, method=IBIS(plate="m")), "plate: the model has no plate 'm'; it has 'n'"),
        (lambda: infer(two_plates, Y, method="ibis"), "plate: name the one along which data come; .* are: none"),
        (lambda: infer(two_plates, Y, method=IBIS(plate="n")), "plate: the observed site 'first' is not in 'n'"),
    ],
)
def test_what_cannot_be_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
