"""Right methods pass, wrong ones fail: in their spread, their place, their weights, and in returning the prior."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import scan

import ppl
from ppl.inference import NUTS, PMMH, SBC, SMC2, NestedSampling, ParticleGibbs, TemperedSMC, sbc
from ppl.inference.posterior import posterior_of

Y = jnp.zeros(3)
# At this level a method that is right fails one time in a thousand.
LEVEL = 1e-3


TRACES = []


def gaussian(y):
    TRACES.append(0)
    mu = numpyro.sample("mu", dist.Normal(1, 2))
    with numpyro.plate("n", y.shape[0]):
        numpyro.sample("y", dist.Normal(mu, 1), obs=y)


def schools(y):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfNormal(5))
    with numpyro.plate("school", y.shape[0]):
        z = numpyro.sample("z", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(mu + tau * z, 3.0), obs=y)


@dataclasses.dataclass(frozen=True)
class Exact:
    """Independent draws of a Gaussian target, or of a wrong one: to a power, or moved by `shift` sds."""

    power: float = 1.0
    shift: float = 0.0
    warmup: int = 0

    def warm(self, key, log_density, positions):
        origin = jnp.zeros(positions.shape[1])
        covariance = jnp.linalg.inv(-jax.hessian(log_density)(origin))
        mean = covariance @ jax.grad(log_density)(origin)
        factor = jnp.linalg.cholesky(covariance)
        return positions, {"mean": mean + self.shift * jnp.diag(factor), "factor": factor / jnp.sqrt(self.power)}

    def step(self, keys, log_density, states, parameters):
        noise = jax.vmap(lambda key: jax.random.normal(key, states.shape[1:]))(keys)
        states = parameters["mean"] + noise @ parameters["factor"].T
        return states, states, {}


@eqx.filter_jit
def weighted_prior(key, program, num):
    points = jax.vmap(program.prior_draw)(jax.random.split(key, num))
    return points, jax.vmap(program.log_densities)(points)[1]


@dataclasses.dataclass(frozen=True)
class FromPrior:
    """Draws of the prior, weighted by the likelihood to a power: right if it is 1, the prior again if it is 0."""

    power: float

    def run(self, key, program, *, chains, draws, show_progress):
        points, log_likelihood = weighted_prior(key, program, chains * draws)
        weights = self.power * log_likelihood[None]
        return posterior_of(program, points[None], method="from_prior", log_weights=weights - jnp.max(weights))


MANY = {"num_simulations": 2000, "draws": 20, "thin": 1, "batch_size": 2000}


def test_ranks_of_an_exact_sampler_are_uniform_and_what_was_compiled_serves_again():
    check = sbc(gaussian, Y, method=Exact(), key=1, **MANY)
    assert check.ranks["mu"].shape == (2000,)
    assert (check.ranks["mu"].min(), check.ranks["mu"].max()) == (0, 20)
    assert check.table()["relative_ess"].min() > 0.9
    before = len(TRACES)
    again = sbc(gaussian, Y + 5, method=Exact(), key=1, **MANY)
    assert np.array_equal(check.ranks["mu"], again.ranks["mu"])  # the data are drawn; those given do not count
    other = sbc(gaussian, Y, method=Exact(), key=2, **MANY)
    assert len(TRACES) == before
    for one in (check, other):
        assert one.passes(LEVEL)
        # The mean of ranks has sd 0.29 / sqrt(2000), their spread about 0.45 of its own over sqrt(2000); 4 of these.
        assert one.table()["mean_rank"].sub(0.5).abs().max() < 4 * 0.29 / np.sqrt(2000)
        assert one.table()["spread"].sub(1).abs().max() < 4 * 0.45 / np.sqrt(2000)


@pytest.mark.parametrize(
    ("method", "column", "low", "high"),
    [(Exact(power=1.7), "spread", 1.05, 1.5), (Exact(shift=0.3), "mean_rank", 0.0, 0.45)],
    ids=["narrow", "high"],
)
def test_posteriors_that_are_too_narrow_or_too_high_fail(method, column, low, high):
    check = sbc(gaussian, Y, method=method, key=1, **MANY)
    assert not check.passes(LEVEL)
    assert low < check.table().loc["mu", column] < high


@pytest.mark.parametrize(
    ("method", "options"),
    [
        (NUTS(warmup=200), {"draws": 50, "thin": 2}),
        (TemperedSMC(), {"draws": 20, "thin": 10}),
        pytest.param(NestedSampling(), {"draws": 20, "thin": 3}, marks=pytest.mark.calibration),
        pytest.param("importance", {"draws": 20, "thin": 30}, marks=pytest.mark.calibration),
        pytest.param("random_walk", {"draws": 20, "thin": 10}, marks=pytest.mark.calibration),
        pytest.param("chees", {"draws": 20, "thin": 2, "chains": 2}, marks=pytest.mark.calibration),
        pytest.param("laplace", {"draws": 20}, marks=pytest.mark.calibration),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_methods_of_the_package_are_calibrated(method, options):
    check = sbc(gaussian, Y, method=method, key=3, num_simulations=120, **options)
    assert check.passes(LEVEL), check.table()


@pytest.mark.calibration
@pytest.mark.parametrize(
    ("method", "options"),
    [
        (NUTS(warmup=500, target_accept=0.9), {"draws": 100, "thin": 5, "num_simulations": 500}),
        (TemperedSMC(), {"draws": 50, "thin": 10, "num_simulations": 500}),
        (NestedSampling(), {"draws": 50, "thin": 3, "num_simulations": 150}),
    ],
    ids=["nuts", "tempered_smc", "nested_sampling"],
)
def test_a_hierarchy_is_calibrated(method, options):
    check = sbc(schools, jnp.zeros(6), method=method, key=4, **options)
    assert check.passes(LEVEL), check.table()


def test_wrong_weights_fail():
    checks = [sbc(gaussian, Y, method=FromPrior(p), key=5, num_simulations=120, draws=20, thin=30) for p in (1, 4)]
    assert checks[0].passes(LEVEL)
    assert not checks[1].passes(LEVEL)
    assert checks[1].table().loc["mu", "spread"] > 1.1


def test_only_the_log_likelihood_sees_that_nothing_was_learnt():
    check = sbc(gaussian, Y, method=FromPrior(0), key=6, num_simulations=120, draws=20, thin=30)
    p_values = check.p_values()
    assert p_values["mu"] > LEVEL
    assert p_values["log_likelihood"] < 1e-6
    assert not check.passes(LEVEL)


@pytest.mark.calibration
def test_a_scaled_likelihood_fails():
    def scaled(y):
        with handlers.scale(scale=4.0):
            gaussian(y)

    check = sbc(scaled, Y, method=Exact(), key=7, **MANY)
    assert not check.passes(LEVEL)


@pytest.mark.calibration
def test_batches_do_not_change_ranks():
    options = {"method": Exact(), "key": 8, "num_simulations": 30, "draws": 10, "thin": 1}
    parts, whole = (sbc(gaussian, Y, batch_size=size, **options) for size in (20, 30))
    assert np.array_equal(parts.ranks["mu"], whole.ranks["mu"])


@pytest.mark.calibration
def test_sites_in_a_loop_are_simulated_one_after_another():
    def walk(y):
        phi = numpyro.sample("phi", dist.Normal(0.5, 0.2))

        def step(x, y):
            x = numpyro.sample("y", dist.Normal(phi * x + 1.0, 1.0), obs=y)
            return x, None

        scan(step, jnp.zeros(()), y)

    assert sbc(walk, jnp.zeros(8), method=Exact(), key=9, **MANY).passes(LEVEL)


@pytest.mark.calibration
def test_discrete_sites_are_ranked():
    def coins(y):
        numpyro.sample("y", dist.Normal(2.0 * numpyro.sample("z", dist.Bernoulli(0.3)), 1.0), obs=y)

    check = sbc(coins, 0.0 * Y[0], method="enumeration", key=10, num_simulations=150, draws=20, thin=1)
    assert set(check.p_values()) == {"z", "log_likelihood"}
    assert check.passes(LEVEL)


@pytest.mark.calibration
def test_sites_that_are_summed_out_are_ranked():
    def mixture(y):
        mu = numpyro.sample("mu", dist.Normal(2, 1))
        with numpyro.plate("n", y.shape[0]):
            z = numpyro.sample("z", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
            numpyro.sample("y", dist.Normal(mu * z, 1.0), obs=y)

    check = sbc(mixture, Y, method=NUTS(warmup=300), key=11, num_simulations=300, draws=50, thin=3)
    assert check.ranks["z"].shape == (300, 3)
    assert check.passes(LEVEL), check.table()


def test_the_table_has_the_worst_first_and_the_plot_a_dozen():
    rng = np.random.default_rng(0)
    ranks = {"theta": rng.integers(0, 11, (100, 4, 4)), "bad": rng.integers(0, 8, 100)}
    check = SBC(ranks=ranks, num_draws=10, relative_ess=None, method="some")
    table = check.table()
    assert table.index[0] == "bad"
    assert len(table) == 17
    assert table.loc["bad", "adjusted"] == pytest.approx(min(1, 17 * table.loc["bad", "p_value"]))
    figure = check.plot()
    assert len(figure.axes[0].get_legend().get_texts()) == 12
    assert "12 of 17" in figure.axes[0].get_title()


def no_data(y):
    numpyro.sample("mu", dist.Normal(0, 1))


def improper(y):
    mu = numpyro.sample("mu", dist.ImproperUniform(dist.constraints.real, (), ()))
    numpyro.sample("y", dist.Normal(mu, 1), obs=y)


def factored(y):
    gaussian(y)
    numpyro.factor("penalty", -1.0)


def constant(y):
    numpyro.sample("y", dist.Normal(0, 1), obs=y)


def taken(y):
    mu = numpyro.sample("log_likelihood", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal(mu, 1), obs=y)


def not_a_number(y):
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal(jnp.where(mu > 1, jnp.nan, mu), 1), obs=y)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (no_data, {}, "model: it has no observed site"),
        (improper, {}, "model: the prior of mu is improper"),
        (factored, {}, "model: no data can be drawn for the factor 'penalty'"),
        (constant, {}, "model: it has no latent site"),
        (taken, {}, "model: the site 'log_likelihood' has the name"),
        (not_a_number, {"method": FromPrior(0), "draws": 20}, "model: log_likelihood is NaN in a draw of simulation"),
        (gaussian, {"num_simulations": 19}, "num_simulations: a whole number from 20 up"),
        (gaussian, {"draws": 9}, "draws: a whole number from 10 up is wanted, got 9"),
        (gaussian, {"thin": 0}, "thin: a whole number"),
        (gaussian, {"batch_size": 0}, "batch_size: a whole number"),
        (gaussian, {"method": "gibbs"}, "method: 'gibbs' is not known"),
    ],
)
def test_bad_models_and_sizes_are_named(model, options, message):
    with pytest.raises(ValueError, match=message):
        sbc(model, Y, **{"method": Exact(), "num_simulations": 20, "thin": 1, **options})


def test_it_is_named_beside_infer():
    assert ppl.sbc is sbc
    assert "sbc" in dir(ppl)


def short_series(y):
    rho = numpyro.sample("rho", dist.Uniform(-1, 1))
    ppl.markov("x", dist.Normal(0, 1), lambda x: dist.Normal(rho * x, 1), lambda x: dist.Normal(x, 0.5), y)


@pytest.mark.calibration
@pytest.mark.parametrize(
    "method",
    [PMMH(num_particles=20, warmup=300), ParticleGibbs(num_particles=10, warmup=100), SMC2(num_particles=20)],
    ids=["pmmh", "gibbs", "smc2"],
)
def test_methods_for_state_spaces_are_calibrated(method):
    # 200 simulations; of SMC^2, which takes them one after another, half as many.
    number = 100 if isinstance(method, SMC2) else 200
    check = sbc(short_series, jnp.zeros(6), method=method, key=4, num_simulations=number, draws=20, thin=10)
    assert check.passes(LEVEL)
    assert set(check.ranks) == {"rho", "x_0", "x", "log_likelihood"}
