"""SVGD against Gaussian and conjugate posteriors: means and standard deviations in one to three dimensions."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from ppl.inference import SVGD, infer

pytestmark = pytest.mark.runs_long

MEAN = np.array([1.0, -3.0, 0.5], np.float32)
COVARIANCE = np.array([[1.0, 0.7, 0.0], [0.7, 2.0, -0.4], [0.0, -0.4, 0.5]], np.float32)


def gaussian():
    numpyro.sample("x", dist.MultivariateNormal(MEAN, COVARIANCE))


def test_a_correlated_gaussian():
    post = infer(gaussian, method=SVGD(), key=1, chains=2, draws=100)
    # The flow is deterministic: at its end, means are exact but for what 1,000 steps leave.
    assert post.draws["x"].mean(axis=(0, 1)) == pytest.approx(MEAN, abs=0.03)
    found = np.cov(post.draws["x"].reshape(-1, 3).T)
    assert np.sqrt(np.diag(found)) == pytest.approx(np.sqrt(np.diag(COVARIANCE)), rel=0.1)
    assert found[0, 1] == pytest.approx(0.7, abs=0.12)


@pytest.mark.calibration
def test_a_skewed_conjugate_posterior():
    y = np.array([0.4, 1.9, 3.1, 0.2, 1.1], np.float32)

    def model(y):
        rate = numpyro.sample("rate", dist.Gamma(2.0, 1.5))
        with numpyro.plate("n", y.shape[0]):
            numpyro.sample("y", dist.Exponential(rate), obs=y)

    post = infer(model, y, method="svgd", key=2, chains=2, draws=100)
    shape, rate = 2 + len(y), 1.5 + y.sum()
    assert post.mean()["rate"] == pytest.approx(shape / rate, rel=0.03)
    assert post.sd()["rate"] == pytest.approx(np.sqrt(shape) / rate, rel=0.1)


@pytest.mark.calibration
def test_variance_collapses_in_many_dimensions_as_documented():
    def model():
        numpyro.sample("x", dist.Normal(jnp.arange(40.0) / 20, 1).to_event(1))

    post = infer(model, method=SVGD(), key=3, chains=1, draws=40)
    assert post.draws["x"].mean(axis=(0, 1)) == pytest.approx(np.arange(40) / 20, abs=0.05)
    assert post.sd()["x"].mean() < 0.8


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SVGD(steps=0), "steps: at least one"),
        (lambda: SVGD(learning_rate=-1.0), "learning_rate: a positive number"),
        (lambda: infer(gaussian, method="svgd", draws=1), "draws: SVGD wants two particles"),
    ],
)
def test_what_cannot_be_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
