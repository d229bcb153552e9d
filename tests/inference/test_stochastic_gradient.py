"""Stochastic-gradient samplers: the exact law of their discretised chains, and posteriors from minibatches."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.diagnostics import effective_sample_size

from ppl.inference import NUTS, SGHMC, SGLD, CyclicalSGLD, Program, TemperedSMC, infer
from ppl.inference.stochastic_gradient import framed
from tests.inference.resuming import goes_on_alike

pytestmark = pytest.mark.runs_long

# A regression with known noise: correlated covariates, coefficients of different sizes and signs.
SIZE, MINIBATCH, NOISE = 2000, 100, 1.5
_RNG = np.random.default_rng(0)
X = (_RNG.normal(size=(SIZE, 3)) @ np.array([[1.0, 0.8, 0.0], [0.0, 0.6, 0.3], [0.0, 0.0, 2.0]])).astype(np.float32)
Y = (X @ np.array([1.0, -2.0, 0.3]) + NOISE * _RNG.normal(size=SIZE)).astype(np.float32)


def regression(x, y, minibatch):
    beta = numpyro.sample("beta", dist.Normal(0, 3).expand([3]).to_event(1))
    with numpyro.plate("n", y.shape[0], subsample_size=minibatch) as index:
        numpyro.sample("y", dist.Normal(x[index] @ beta, NOISE), obs=y[index])


PRECISION = X.T.astype(float) @ X / NOISE**2 + np.eye(3) / 9
MEAN = np.linalg.solve(PRECISION, X.T.astype(float) @ Y / NOISE**2)
SD = np.sqrt(np.diag(np.linalg.inv(PRECISION)))


def size_of(draws):
    return float(effective_sample_size(np.asarray(draws, np.float64)))


@pytest.mark.parametrize(
    ("method", "minibatch", "inflation"),
    [
        (SGLD(step_size=0.4, num_steps=4), MINIBATCH, 1 / (1 - 0.4 / 2)),
        (SGHMC(step_size=0.6, num_steps=5), MINIBATCH, (1 - 0.6 / 2) / (1 - 0.6 / 2 - 0.6**2 / 4)),
        pytest.param(SGLD(step_size=0.4, num_steps=4), SIZE, 1 / (1 - 0.4 / 2), marks=pytest.mark.calibration),
        pytest.param(SGLD(), MINIBATCH, 1 / (1 - 0.05 / 2), marks=pytest.mark.calibration),
        pytest.param(SGHMC(), MINIBATCH, 1 + 0.1**2 / 4, marks=pytest.mark.calibration),
    ],
    ids=["sgld", "sghmc", "all_data", "sgld_default", "sghmc_default"],
)
def test_draws_have_the_law_of_the_discretised_chain(method, minibatch, inflation):
    # In a Gaussian posterior the stationary variance is that of a linear recursion, larger than the posterior's. With
    # control variates a minibatch of 100 adds to it by e d / 2 m at most, 0.6% here.
    post = infer(regression, X, Y, minibatch, method=method, key=1, chains=4, draws=2000)
    value = np.asarray(post.draws["beta"], np.float64)
    for i in range(3):
        sd = SD[i] * np.sqrt(inflation)
        size, size_squared = size_of(value[..., i]), size_of((value[..., i] - MEAN[i]) ** 2)
        assert min(size, size_squared) > 200
        assert abs(value[..., i].mean() - MEAN[i]) < 4.5 * sd / np.sqrt(size)
        # The variance of a variance of a Gaussian is 2 sd^4 over the effective number of squares.
        assert abs(value[..., i].std() / sd - 1) < 4.5 * np.sqrt(0.5 / size_squared) + 0.003


@pytest.mark.calibration
def test_without_control_variates_minibatches_add_the_noise_that_is_stated():
    # The mean is right, and the variance larger by (1 + e N / 2 m) / (1 - e / 2), the recursion's again; N / m is 20.
    size = 0.01
    method = SGLD(step_size=size, num_steps=50, control_variates=False)
    post = infer(regression, X, Y, MINIBATCH, method=method, key=5, chains=4, draws=1000)
    value = np.asarray(post.draws["beta"], np.float64)
    for i in range(3):
        error = SD[i] / np.sqrt(size_of(value[..., i]))
        assert abs(value[..., i].mean() - MEAN[i]) < 5 * error
        expected = SD[i] * np.sqrt((1 + size * SIZE / MINIBATCH / 2) / (1 - size / 2))
        assert value[..., i].std() == pytest.approx(expected, rel=0.08)


def logistic(x, y, minibatch):
    beta = numpyro.sample("beta", dist.Normal(0, 3).expand([3]).to_event(1))
    with numpyro.plate("n", y.shape[0], subsample_size=minibatch) as index:
        numpyro.sample("y", dist.Bernoulli(logits=x[index] @ beta), obs=y[index])


@pytest.mark.calibration
@pytest.mark.parametrize("method", [SGLD(), SGHMC()], ids=["sgld", "sghmc"])
def test_a_logistic_regression_is_as_by_nuts(method):
    y = (np.random.default_rng(1).uniform(size=SIZE) < 1 / (1 + np.exp(-X @ [1.0, -2.0, 0.3]))).astype(np.float32)
    exact = infer(logistic, X, y, None, method=NUTS(), key=1, chains=4, draws=2000).draws["beta"]
    value = infer(logistic, X, y, MINIBATCH, method=method, key=2, chains=4, draws=2000).draws["beta"]
    for i in range(3):
        one, other = (np.asarray(v[..., i], np.float64) for v in (value, exact))
        error = other.std() * np.sqrt(1 / size_of(one) + 1 / size_of(other))
        # And a hundredth of a standard deviation for the bias in a posterior that is not Gaussian.
        assert abs(one.mean() - other.mean()) < 4.5 * error + 0.01 * other.std()
        assert one.std() == pytest.approx(other.std(), rel=0.08)


def two_modes():
    x = numpyro.sample("x", dist.Normal(0, 1).expand([2]).to_event(1))
    parts = [jnp.log(w) + dist.Normal(m, 0.5).log_prob(x).sum() for w, m in ((0.8, 2.0), (0.2, -2.0))]
    numpyro.factor("modes", jax.nn.logsumexp(jnp.stack(parts)))


def test_cycles_visit_both_modes_and_draw_from_each():
    method = CyclicalSGLD(step_size=1.9, explore_steps=300, draws_per_cycle=5)
    post = infer(two_modes, method=method, key=6, chains=4, draws=500)
    x = np.asarray(post.draws["x"], np.float64)
    # Means at +-1.6 and variances of 0.2 each: 2 / 0.5^2 over 1 + 1 / 0.5^2.
    right = x.sum(axis=-1) > 0
    assert np.all(right.mean(axis=1) > 0.1)
    assert np.all(right.mean(axis=1) < 0.9)
    cycles = 4 * 500 / 5
    for mode, mean in ((right, 1.6), (~right, -1.6)):
        share = mode.mean()
        # A cycle's draws count as one at least.
        assert np.all(np.abs(x[mode].mean(axis=0) - mean) < 4.5 * np.sqrt(0.2 / (share * cycles)))
        # Steps fall from 0.19 of the variance on to 0, so that the bias is below 10% of it.
        assert x[mode].std(axis=0) == pytest.approx(np.full(2, np.sqrt(0.2)), rel=0.12)
    assert post.stats["cycle"].max() == 99


def test_steps_fall_as_stated_and_a_run_resumes(tmp_path):
    method = SGLD(1e-5, decay=0.6, offset=50, num_steps=2, warmup=0, control_variates=False, precondition=False)
    options = {"method": method, "key": 7, "chains": 2, "draws": 20}
    post = goes_on_alike(regression, X, Y, MINIBATCH, checkpoint=tmp_path / "run", **options)
    assert post.stats["step_size"][0] == pytest.approx(1e-5 * (1 + 2 * np.arange(1, 21) / 50) ** -0.6, rel=1e-5)


def local(y):
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    with numpyro.plate("n", y.shape[0], subsample_size=5) as index:
        z = numpyro.sample("z", dist.Normal(mu, 1))
        numpyro.sample("y", dist.Normal(z, 1), obs=y[index])


def rising():
    x = numpyro.sample("x", dist.Normal(0, 1))
    numpyro.factor("rises", 2 * x**2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SGLD(step_size=0.0), "step_size: a positive number"),
        (lambda: SGLD(precondition=False), "control_variates: they are centred at the mode"),
        (lambda: SGLD(decay=2.0), "decay: an exponent between 0 and 1"),
        (lambda: SGHMC(friction=20.0), "friction: a positive number below 1 / step_size = 10"),
        (lambda: CyclicalSGLD(explore_steps=0), "explore_steps: at least one"),
        (lambda: infer(local, Y[:50], method="sgld"), "the latent site 'z' is inside the plate 'n', which subsamples"),
    ],
)
def test_what_cannot_be_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_density_without_a_mode_is_named():
    target = SGLD().target(Program(rising))
    with pytest.raises(Exception, match="precondition: no mode was found"):
        jax.jit(lambda start: framed(target, start, True))(jnp.ones(1))


def test_minibatches_are_fresh_and_unbiased():
    program = Program(regression, (X, Y, MINIBATCH))
    assert program.structure.subsampled == (("n", SIZE, MINIBATCH),)
    flat = jnp.asarray(MEAN + 2 * SD, jnp.float32)
    estimate = jax.jit(jax.vmap(lambda key: program.log_density_with(key, flat)))
    values = np.asarray(estimate(jax.random.split(jax.random.key(3), 4000)), np.float64)
    exact = float(Program(regression, (X, Y, SIZE)).log_density(flat))
    assert float(program.log_density(flat)) == pytest.approx(exact, rel=1e-6)
    assert abs(values.mean() - exact) < 4.5 * values.std() / np.sqrt(4000)
    # The spread of a mean of 100 draws of 2,000 terms, with replacement.
    terms = dist.Normal(X @ np.asarray(flat), NOISE).log_prob(Y)
    assert values.std() == pytest.approx(SIZE * float(terms.std()) / np.sqrt(MINIBATCH), rel=0.06)


def test_other_methods_refuse_minibatches_and_arviz_has_all_data():
    for method in (NUTS(), TemperedSMC()):
        with pytest.raises(ValueError, match=r"model: the plate 'n' takes 100 of its 2000 elements"):
            infer(regression, X, Y, MINIBATCH, method=method)
    short = SGLD(step_size=1e-5, warmup=1, num_steps=1, precondition=False, control_variates=False)
    post = infer(regression, X[:50], Y[:50], 10, method=short, key=4, chains=2, draws=5)
    data = post.to_arviz()
    assert np.asarray(data["log_likelihood"]["y"]).shape == (2, 5, 50)
    expected = dist.Normal(X[:50] @ post.draws["beta"][0, 0], NOISE).log_prob(Y[:50])
    assert np.asarray(data["log_likelihood"]["y"])[0, 0] == pytest.approx(np.asarray(expected), rel=1e-4)
    assert np.asarray(data["observed_data"]["y"]) == pytest.approx(Y[:50])
    assert post.predict()["y"].shape == (2, 5, 50)
