"""State-space programs as Feynman-Kac models: filters and smoothers against exact answers."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan
from scipy import stats

import ppl
from ppl.inference import Program, StateSpace, infer, particle_filter

LGSSM = json.loads((Path(__file__).parents[1] / "smc" / "data" / "lgssm_T100_univariate.json").read_text())
Y = jnp.asarray(LGSSM["y"], jnp.float32)


def linear_gaussian(y):
    rho = numpyro.sample("rho", dist.Uniform(-1, 1))
    var_x = numpyro.sample("var_x", dist.InverseGamma(2, 2))
    var_y = numpyro.sample("var_y", dist.InverseGamma(2, 2))

    def optimal(x, y):
        precision = 1 / var_x + 1 / var_y
        return dist.Normal((rho * x / var_x + y / var_y) / precision, precision**-0.5)

    ppl.markov(
        "x",
        dist.Normal(0, jnp.sqrt(var_x)),
        lambda x: dist.Normal(rho * x, jnp.sqrt(var_x)),
        lambda x: dist.Normal(x, jnp.sqrt(var_y)),
        y,
        proposal=optimal,
    )


@pytest.mark.runs_long
@pytest.mark.parametrize("kind", ["bootstrap", "guided", "auxiliary"])
@pytest.mark.parametrize("setting", [0, 2])
def test_the_likelihood_is_kalmans(kind, setting):
    exact = LGSSM["exact"][setting]
    parameters = {name: exact[name] for name in ("rho", "var_x", "var_y")}
    # The same shapes for every case, so that each filter is compiled once.
    filtered = particle_filter(
        linear_gaussian, Y, parameters=parameters, num_particles=1000, filter=kind, replicates=40, key=setting
    )
    # 4.5 standard errors of the mean likelihood; their own noise on 40 heavy-tailed runs asks for more than 4.
    assert abs(filtered.log_evidence - exact["log_likelihood"]) < 4.5 * filtered.log_evidence_se
    assert filtered.log_evidence_se < 0.5


def test_a_better_proposal_is_less_noisy():
    parameters = {name: LGSSM["exact"][0][name] for name in ("rho", "var_x", "var_y")}
    spread = {}
    for kind in ("bootstrap", "guided"):
        runs = particle_filter(
            linear_gaussian, Y, parameters=parameters, num_particles=1000, filter=kind, replicates=40
        ).log_likelihood_runs
        spread[kind] = runs.std(ddof=1)
    assert spread["guided"] < spread["bootstrap"] / 4  # measured for this table: 0.09 and 1.5


@pytest.mark.runs_long
def test_filtered_and_smoothed_moments_are_kalmans():
    exact, moments = LGSSM["exact"][0], LGSSM["at_first_setting"]
    parameters = {name: exact[name] for name in ("rho", "var_x", "var_y")}
    filtered = particle_filter(
        linear_gaussian, Y, parameters=parameters, num_particles=1000, filter="guided", num_paths=400
    )
    sd = np.sqrt(moments["filtered_var"])[1:]
    # ESS of some hundreds at each step: a mean is off by 0.05 sd, the largest of 99 by 3 to 4 of these.
    assert np.max(np.abs(filtered.mean["x"] - moments["filtered_mean"][1:]) / sd) < 0.3
    assert np.mean(filtered.sd["x"] / sd) == pytest.approx(1, abs=0.03)
    path = np.concatenate([filtered.paths["x_0"][:, None], filtered.paths["x"]], axis=1)
    apart = (path.mean(axis=0) - moments["smoothed_mean"]) / np.sqrt(moments["smoothed_var"])
    assert np.max(np.abs(apart)) < 5 / np.sqrt(400) + 0.1  # 400 paths, of 1000 particles
    ratio = path.std(axis=0) / np.sqrt(moments["smoothed_var"])
    assert np.mean(ratio) == pytest.approx(1, abs=0.04)


def test_a_markov_program_is_its_density():
    y = jnp.array([0.3, -1.0, 0.7])

    def model(y, u):
        ppl.markov(
            "x",
            dist.Normal(1, 2),
            lambda x, u: dist.Normal(0.5 * x + u, 1),
            lambda x, u: dist.Normal(x, 0.5),
            y,
            inputs=u,
        )

    program = Program(model, (y, jnp.array([0.0, 1.0, -1.0])))
    assert [site.name for site in program.structure.latents] == ["x_0", "x"]
    x = jnp.array([0.2, 0.1, -0.4])
    exact = dist.Normal(1, 2).log_prob(x[0]) + dist.Normal(0.5 * x[0] + 1, 1).log_prob(x[1])
    exact += dist.Normal(0.5 * x[1] - 1, 1).log_prob(x[2]) + dist.Normal(x, 0.5).log_prob(y).sum()
    assert float(program.log_density(x)) == pytest.approx(float(exact), rel=1e-5)
    drawn = program.simulated(jax.random.key(0), {"x_0": x[0], "x": x[1:]})
    assert drawn["y"].shape == (2,)


def test_a_hidden_markov_chain_is_filtered_as_the_forward_algorithm():
    transition = jnp.array([[0.9, 0.1], [0.3, 0.7]])
    means, y = jnp.array([-1.0, 1.5]), jnp.array([-0.8, -1.1, 1.2, 1.9, 0.2])

    def model(y):
        start = numpyro.sample("z_0", dist.Categorical(jnp.array([0.2, 0.8])))

        def step(z, y):
            z = numpyro.sample("z", dist.Categorical(transition[z]))
            numpyro.sample("y", dist.Normal(means[z], 1), obs=y)
            return z, None

        scan(step, start, y)

    alpha, exact = np.array([0.2, 0.8]), 0.0
    for value in np.asarray(y):
        alpha = (alpha @ np.asarray(transition)) * np.exp(dist.Normal(means, 1).log_prob(value))
        exact, alpha = exact + np.log(alpha.sum()), alpha / alpha.sum()
    filtered = particle_filter(model, y, parameters={}, num_particles=500, replicates=100, num_paths=5)
    assert abs(filtered.log_evidence - exact) < 4 * filtered.log_evidence_se
    assert filtered.mean["z"][-1] == pytest.approx(alpha[1], abs=5 * 0.5 / np.sqrt(250))
    assert filtered.paths["z"].shape == (5, 5)
    assert filtered.paths["z_0"].shape == (5,)
    with pytest.raises(ValueError, match=r"latent sites \(z_0, z\) are all discrete"):
        infer(model, y, method="pmmh")
    with pytest.raises(ValueError, match="looks at the mean of 'z', which is discrete"):
        particle_filter(model, y, parameters={}, filter="auxiliary")


def test_discrete_states_beside_parameters_are_refused_where_paths_are_kept():
    def model(y):
        mean = numpyro.sample("mean", dist.Normal(0, 1))

        def step(z, y):
            z = numpyro.sample("z", dist.Bernoulli(0.2 + 0.5 * z))
            numpyro.sample("y", dist.Normal(mean * z, 1), obs=y)
            return z, None

        scan(step, 0, y)

    with pytest.raises(ValueError, match="the state 'z' is discrete, and PMMH keeps paths"):
        infer(model, jnp.zeros(3), method="pmmh", chains=1, draws=1)


def _joint_normal(mean, covariance, y):
    return stats.multivariate_normal(mean, covariance).logpdf(y)


def test_a_loop_may_use_the_first_state_in_every_pass():
    # x_t ~ N(x_0, 1), y_t ~ N(x_t, 1): y is jointly normal, with covariance 4 + 2 I.
    y = jnp.array([0.5, 2.0, -0.3])

    def model(y):
        first = numpyro.sample("first", dist.Normal(1, 2))

        def step(carry, y):
            x = numpyro.sample("x", dist.Normal(first, 1))
            numpyro.sample("y", dist.Normal(x, 1), obs=y)
            return carry, None

        scan(step, first, y)

    space = StateSpace(Program(model, (y,)))
    assert space.parts.initial == ("first",)
    assert space.parts.tied
    filtered = particle_filter(model, y, parameters={}, num_particles=2000, replicates=50, num_paths=300)
    exact = _joint_normal(np.full(3, 1.0), 4 * np.ones((3, 3)) + 2 * np.eye(3), y)
    assert abs(filtered.log_evidence - exact) < 4 * filtered.log_evidence_se
    # Given y, x_0 is normal of precision 1/4 + 3/2.
    mean = (1 / 4 + y.sum() / 2) / (1 / 4 + 3 / 2)
    assert filtered.paths["first"].mean() == pytest.approx(float(mean), abs=4.5 * 0.76 * (1 / np.sqrt(300) + 0.03))
    # Named as no part of the state, it is a parameter.
    held = particle_filter(model, y, parameters={"first": 0.5}, num_particles=2000, replicates=50, state=())
    assert abs(held.log_evidence - _joint_normal(np.full(3, 0.5), 2 * np.eye(3), y)) < 4 * held.log_evidence_se


def test_a_carry_of_two_states_masks_and_conditioned_data():
    # An AR(2) whose second observation is missing, its data given by a handler.
    y, seen = jnp.array([0.4, 9.0, -0.2]), jnp.array([True, False, True])

    def model(seen):
        def step(carry, seen):
            before, last = carry
            x = numpyro.sample("x", dist.Normal(0.5 * last + 0.3 * before, 1))
            with numpyro.handlers.mask(mask=seen):
                numpyro.sample("y", dist.Normal(x, 0.5))
            return (last, x), None

        scan(step, (jnp.zeros(()), jnp.ones(())), seen)

    conditioned = numpyro.handlers.condition(model, data={"y": y})
    filtered = particle_filter(conditioned, seen, parameters={}, num_particles=1000, replicates=50, num_paths=20)
    # x_1 = .5 + e_1, x_2 = .5 x_1 + .3 + e_2, x_3 = .5 x_2 + .3 x_1 + e_3
    weights = np.array([[1, 0, 0], [0.5, 1, 0], [0.55, 0.5, 1]])
    mean = np.array([0.5, 0.55, 0.425])
    keep = np.array([0, 2])
    covariance = (weights @ weights.T + 0.25 * np.eye(3))[np.ix_(keep, keep)]
    exact = _joint_normal(mean[keep], covariance, y[keep])
    assert abs(filtered.log_evidence - exact) < 4 * filtered.log_evidence_se
    assert filtered.paths["x"].shape == (20, 3)


def test_models_that_are_no_state_space_are_refused():
    y = jnp.zeros(3)

    def without(y):
        numpyro.sample("y", dist.Normal(numpyro.sample("m", dist.Normal(0, 1)), 1), obs=y)

    def after(y):
        def step(x, _):
            x = numpyro.sample("x", dist.Normal(x, 1))
            return x, x

        _, path = scan(step, 0.0, None, length=3)
        numpyro.sample("y", dist.Normal(path, 1), obs=y)

    def unobserved(y):
        def step(x, _):
            return numpyro.sample("x", dist.Normal(x, 1)), None

        scan(step, 0.0, None, length=3)

    def backwards(y):
        def step(x, y):
            x = numpyro.sample("x", dist.Normal(x, 1))
            numpyro.sample("y", dist.Normal(x, 1), obs=y)
            return x, None

        scan(step, 0.0, y, reverse=True)

    for model, message in (
        (without, "no numpyro.contrib.control_flow.scan"),
        (after, "'y' comes after its scan"),
        (unobserved, "no observed site"),
        (backwards, "in reverse"),
    ):
        with pytest.raises(ValueError, match=message):
            StateSpace(Program(model, (y,)))
    program = Program(linear_gaussian, (Y,))
    with pytest.raises(ValueError, match="state: 'sigma' is no latent site"):
        StateSpace(program, ("sigma",))
    with pytest.raises(ValueError, match="values of rho, var_x, var_y are wanted, got rho"):
        particle_filter(linear_gaussian, Y, parameters={"rho": 0.5})
    with pytest.raises(ValueError, match="filter: 'kalman' is not known"):
        particle_filter(linear_gaussian, Y, parameters={"rho": 0.5}, filter="kalman")
    with pytest.raises(ValueError, match="obs, inputs and length must agree"):
        ppl.markov("x", dist.Normal(0, 1), lambda x: dist.Normal(x, 1), lambda x: dist.Normal(x, 1), y, length=4)
