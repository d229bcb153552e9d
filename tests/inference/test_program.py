"""A program's densities against NumPyro's own, and what is said of programs that cannot be used."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan
from numpyro.distributions import constraints
from numpyro.infer.util import potential_energy

from ppl.inference import Program, infer
from ppl.inference.densities import apart_from_data, with_small_products_summed

Y = jnp.array([0.3, -1.2, 2.0, 0.7])


def regression(y, x=1.5):
    a = numpyro.sample("a", dist.Normal(0, 2))
    s = numpyro.sample("s", dist.Gamma(2.0, 1.0))
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(3)))
    with numpyro.plate("n", y.shape[0]):
        numpyro.sample("y", dist.StudentT(4, a * x + w[0], s), obs=y)


def dependent_support(y):
    a = numpyro.sample("a", dist.Uniform(0, 1))
    b = numpyro.sample("b", dist.Uniform(0, 1 - a))
    numpyro.factor("f", jnp.log1p(a * b))
    numpyro.sample("y", dist.Normal(a - b, 1).to_event(0).expand([4]), obs=y)


def masked(y):
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    with numpyro.plate("n", 4), numpyro.handlers.mask(mask=jnp.array([True, False, True, True])):
        numpyro.sample("y", dist.Normal(mu, 1), obs=y)


def walk(y):
    s = numpyro.sample("s", dist.HalfNormal(1.0))

    def step(x, y):
        x = numpyro.sample("x", dist.LogNormal(0.1 * x, s))
        numpyro.sample("y", dist.Normal(x, 1.0), obs=y)
        return x, None

    scan(step, jnp.zeros(()), y)


@pytest.mark.parametrize("model", [regression, dependent_support, masked, walk])
def test_the_density_is_numpyros(model):
    program = Program(model, (Y,))
    flat = jnp.asarray(np.random.default_rng(0).normal(size=program.structure.size), jnp.float32)
    theirs = -potential_energy(model, (Y,), {}, program.structure.unravel(flat))
    assert float(program.log_density(flat)) == pytest.approx(float(theirs), rel=1e-5)
    prior, likelihood = program.log_densities(flat)
    assert float(prior + likelihood) == pytest.approx(float(theirs), rel=1e-5)


def test_scaled_sites_keep_their_volume_element():
    # p(x)^3 in the positive numbers is p(e^u)^3 e^u in u, not (p(e^u) e^u)^3.
    def model():
        with numpyro.handlers.scale(scale=3.0):
            numpyro.sample("x", dist.Exponential(1.0))

    value = float(Program(model).log_density(jnp.array([0.5])))
    assert value == pytest.approx(-3 * np.exp(0.5) + 0.5, rel=1e-5)


def test_what_is_drawn_in_a_loop_goes_on_from_what_was_drawn():
    def doubling(y):
        b = numpyro.sample("b", dist.Uniform(1, 3))

        def step(x, y):
            x = numpyro.sample("y", dist.Normal(b * x, 1e-4), obs=y)
            return x, None

        scan(step, jnp.ones(()), y)

    program = Program(doubling, (jnp.zeros(5),))
    latent, drawn = program.joint_draw(jax.random.key(0))
    assert drawn["y"] == pytest.approx(np.asarray(latent["b"]) ** np.arange(1, 6), rel=1e-2)
    again = program.simulated(jax.random.key(1), {"b": jnp.asarray(2.0)})
    assert again["y"] == pytest.approx(2.0 ** np.arange(1, 6), rel=1e-2)


def test_values_come_back():
    program = Program(regression, (Y,))
    flat = program.prior_draw(jax.random.key(0))
    values = program.constrained(flat, jax.random.key(1))
    assert np.asarray(program.unconstrained(values)) == pytest.approx(np.asarray(flat), abs=1e-4)
    assert float(values["w"].sum()) == pytest.approx(1, abs=1e-6)
    assert program.structure.dims["y"] == ("n",)


def test_discrete_sites_are_summed_out():
    def model(y):
        p = numpyro.sample("p", dist.Beta(2, 3))
        with numpyro.plate("n", 4):
            z = numpyro.sample("z", dist.Bernoulli(p))
            numpyro.sample("y", dist.Normal(3.0 * z, 1), obs=y)

    program = Program(model, (Y,))
    p = 1 / (1 + np.exp(-0.4))
    parts = np.log((1 - p) * np.exp(-(np.asarray(Y) ** 2) / 2) + p * np.exp(-((np.asarray(Y) - 3) ** 2) / 2))
    likelihood = parts.sum() - 2 * np.log(2 * np.pi)
    prior = np.log(12 * p * (1 - p) ** 2) + np.log(p * (1 - p))
    found = program.log_densities(jnp.array([0.4]))
    assert [float(x) for x in found] == pytest.approx([prior, likelihood], rel=1e-5)
    # They are drawn back: P(z = 1 | y, p) for each observation.
    draws = jax.vmap(lambda k: program.constrained(jnp.array([0.4]), k)["z"])(jax.random.split(jax.random.key(0), 2000))
    odds = p / (1 - p) * np.exp(3 * np.asarray(Y) - 4.5)
    expected = odds / (1 + odds)
    assert np.all(np.abs(draws.mean(0) - expected) < 4.5 * np.sqrt(expected * (1 - expected) / 2000) + 1e-3)


def test_programs_that_cannot_be_used_are_named():
    def nothing(y):
        numpyro.sample("y", dist.Normal(0, 1).expand([4]), obs=y)

    def counts(y):
        numpyro.sample("k", dist.Poisson(3.0))
        numpyro.sample("m", dist.Normal(0, 1))

    def branches(y):
        numpyro.sample("m", dist.Normal(0, 1) if y[0] > 0 else dist.Cauchy(0, 1))

    def twice(y):
        numpyro.sample("m", dist.Normal(0, 1))
        numpyro.sample("m", dist.Normal(0, 1))

    def outside(y):
        numpyro.sample("s", dist.HalfNormal(1))
        numpyro.sample("y", dist.Exponential(1.0).expand([4]), obs=y)

    with pytest.raises(ValueError, match="model: it has no latent site"):
        infer(nothing, Y)
    with pytest.raises(ValueError, match="discrete latent site 'k' has no finite support"):
        infer(counts, Y)
    with pytest.raises(TypeError, match="uses the value of an array argument in Python"):
        infer(branches, Y)
    with pytest.raises(AssertionError, match="unique names"):
        infer(twice, Y)
    with pytest.raises(ValueError, match=r"model: no start of finite density.*: y \(-inf\)"):
        infer(outside, Y)
    with pytest.raises(ValueError, match="an array of numbers is wanted"):
        infer(regression, np.array(["a", "b"]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "gibbs"}, "method: 'gibbs' is not known; known are 'nuts'"),
        ({"method": 3.5}, "TypeCheckError|method"),
        ({"chains": 0}, "chains: a whole number from 1 up"),
        ({"draws": -1}, "draws: a whole number from 1 up"),
        ({"method": "laplace", "thin": 2}, "thin: Markov chains alone"),
        ({"method": "laplace", "checkpoint": "x"}, "checkpoint: laplace has no state to go on from"),
        ({"method": "enumeration"}, "Enumeration wants discrete latent sites alone"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(Exception, match=message):
        infer(regression, Y, **options)


def test_an_improper_site_has_a_feasible_value():
    def model(y):
        mu = numpyro.sample("mu", dist.ImproperUniform(constraints.positive, (), event_shape=()))
        numpyro.sample("y", dist.Normal(mu, 1).expand([4]), obs=y)

    program = Program(model, (Y,))
    assert program.structure.improper == ("mu",)
    assert np.asarray(program.observed()["y"]) == pytest.approx(np.asarray(Y))


def test_what_depends_on_data_alone_leaves_the_log_density():
    data = jnp.arange(1.0, 6.0)

    def log_density(flat):
        return jnp.sum(jax.scipy.special.gammaln(data + 1)) - jnp.sum((jnp.log(data) - flat[0]) ** 2)

    apart, flat = apart_from_data(log_density, 1), jnp.array([0.3])
    for got, want in zip(jax.value_and_grad(apart)(flat), jax.value_and_grad(log_density)(flat), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6)
    assert "lgamma" in str(jax.make_jaxpr(log_density)(flat))
    left = str(jax.make_jaxpr(apart)(flat))
    assert "lgamma" not in left
    assert "log" not in left


@pytest.mark.parametrize(
    "product",
    [
        lambda x, b: x @ b,
        lambda x, b: b @ x.T,
        lambda x, b: jnp.einsum("ji,j->i", x.T, b),
        lambda x, b: jnp.dot(b, b) * x[:, 0],
        lambda x, b: jnp.tensordot(b, x, axes=(0, 1)),
    ],
)
def test_small_products_are_sums_of_the_same_value(product):
    x = jnp.asarray(np.random.default_rng(1).normal(size=(20, 3)), jnp.float32)

    def log_density(flat):
        return -jnp.sum((product(x, flat) - 1) ** 2)

    summed, flat = with_small_products_summed(log_density, 3, 4), jnp.array([0.3, -1.2, 0.7])
    for got, want in zip(jax.value_and_grad(summed)(flat), jax.value_and_grad(log_density)(flat), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5)
    assert "dot_general" in str(jax.make_jaxpr(jax.grad(log_density))(flat))
    assert "dot_general" not in str(jax.make_jaxpr(jax.grad(summed))(flat))


@pytest.mark.parametrize(
    ("product", "chains"),
    [
        pytest.param(lambda b: jnp.ones((300, 3)) @ b, 1, id="much data"),
        pytest.param(lambda b: jnp.ones((20, 3)) @ b, 100, id="many chains"),
        pytest.param(lambda b: jnp.ones((20, 3)) @ jnp.outer(b, b), 4, id="two matrices"),
    ],
)
def test_other_products_stay(product, chains):
    kept = with_small_products_summed(lambda flat: jnp.sum(product(flat)), 3, chains)
    assert "dot_general" in str(jax.make_jaxpr(kept)(jnp.ones(3)))
