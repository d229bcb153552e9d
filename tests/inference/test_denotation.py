"""Transformed programs keep their meaning: the measure of a program, by enumeration, before and after each transformer.

After Scibior, Kammar, Vakar, Staton, Yang, Cai, Ostermann, Moss, Heunen & Ghahramani (2018), Denotational validation of
higher-order Bayesian inference: a program denotes an unnormalised measure, and each building block of an inference
method (weighting, spawning, resampling, tempering, twisting) maps programs to programs of the same measure. Equal
tables are compared where the transformed program can be enumerated too; where it draws at random, the mean of its
weighted particles over 20,000 runs is.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import scan

from ppl.inference import Program, StateSpace, infer
from ppl.smc import Policy, temper, twist
from tests.smc import enumeration as toy

LOG_G = jnp.log(jnp.asarray(toy.POTENTIAL))
LOG_MOVE = jnp.log(jnp.asarray(toy.MOVE))


def written(log_g, weigh=numpyro.factor, **infer):
    """The chain of three states and four generations; the carry holds its path, and `weigh` is how weights are said."""
    z = numpyro.sample("z_0", dist.Categorical(jnp.asarray(toy.INITIAL)), infer=infer)
    weigh("g_0", log_g[0, 0, z])
    path = jnp.zeros(toy.T + 1, jnp.int32).at[0].set(z)

    def step(carry, scanned):
        before, path = carry
        t, here = scanned
        z = numpyro.sample("z", dist.Categorical(logits=LOG_MOVE[before]), infer=infer)
        weigh("g", here[before, z])
        return (z, path.at[t].set(z)), None

    scan(step, (z, path), (jnp.arange(1, toy.T + 1), log_g[1:]))


def chain(log_g):
    written(log_g)


def guided(log_g):
    """With a proposal that is not the prior."""
    written(log_g, proposal=dist.Categorical(jnp.array([0.3, 0.3, 0.4])))


def unrolled(log_g):
    z = numpyro.sample("z_0", dist.Categorical(jnp.asarray(toy.INITIAL)))
    numpyro.factor("g_0", log_g[0, 0, z])
    for t in range(1, toy.T + 1):
        before, z = z, numpyro.sample(f"z_{t}", dist.Categorical(logits=LOG_MOVE[z]))
        numpyro.factor(f"g_{t}", log_g[t, before, z])


def in_halves(log_g):
    """Each weight given in two parts."""

    def weigh(name, value):
        numpyro.factor(f"{name}_first", 0.3 * value)
        numpyro.factor(f"{name}_rest", 0.7 * value)

    written(log_g, weigh)


def observed(log_g):
    """Weights as the probability of data: a coin that shows heads with probability g / 100."""

    def weigh(name, value):
        numpyro.sample(name, dist.Bernoulli(jnp.exp(value) / 100), obs=1)

    written(log_g, weigh)


def conditioned(log_g):
    """The same data, given by a handler."""

    def weigh(name, value):
        numpyro.sample(name, dist.Bernoulli(jnp.exp(value) / 100))

    data = {"g_0": jnp.asarray(1), "g": jnp.ones(toy.T, jnp.int32)}
    handlers.condition(written, data=data)(log_g, weigh)


def relabelled(log_g):
    """States numbered backwards inside the program, and called as before outside."""
    order = jnp.arange(toy.K)[::-1]
    initial, move = jnp.asarray(toy.INITIAL)[order], LOG_MOVE[order][:, order]
    y = numpyro.sample("y_0", dist.Categorical(initial))
    numpyro.factor("g_0", log_g[0, 0, order[y]])
    for t in range(1, toy.T + 1):
        before, y = y, numpyro.sample(f"y_{t}", dist.Categorical(logits=move[y]))
        numpyro.factor(f"g_{t}", log_g[t, order[before], order[y]])


def table(model, *args):
    """The unnormalised probability of each joint value, in the order of `toy.PATHS`."""
    post = infer(model, *args, method="enumeration")
    names = sorted(post.draws, key=lambda name: (len(name) == 1, name))  # z_0, z_1, ..., and a loop's z after z_0
    columns = [np.asarray(post.draws[name][0]).reshape(len(toy.PATHS), -1) for name in names]
    position = np.hstack(columns) @ toy.K ** np.arange(toy.T, -1, -1)
    measure = np.empty(len(toy.PATHS))
    measure[position] = np.exp(post.log_weights[0] + post.log_evidence) / len(toy.PATHS)
    return measure


@pytest.mark.parametrize(
    ("model", "constant"), [(chain, 1), (unrolled, 1), (in_halves, 1), (observed, 100**4), (conditioned, 100**4)]
)
def test_a_weighted_program_has_its_measure(model, constant):
    np.testing.assert_allclose(constant * table(model, LOG_G), toy.gamma(), rtol=1e-4)


def test_other_names_for_the_states_are_the_same_measure():
    np.testing.assert_allclose(table(relabelled, LOG_G)[::-1], toy.gamma(), rtol=1e-4)


def test_a_path_of_tempered_programs_telescopes():
    # Z(1) = Z(0) times the means of g^(b' - b) under the programs on the way: what tempered SMC estimates.
    exponents = [0.0, 0.1, 0.35, 0.8, 1.0]
    tables = [table(chain, b * LOG_G) for b in exponents]
    assert tables[0].sum() == pytest.approx(1, rel=1e-5)
    log_g = np.log(toy.gamma()) - np.log(tables[0])
    steps = [
        (before / before.sum()) @ np.exp((b - a) * log_g)
        for before, a, b in zip(tables, exponents[:-1], exponents[1:], strict=False)
    ]
    assert np.prod(steps) == pytest.approx(toy.gamma().sum(), rel=1e-4)


def _path(state):
    return state.carry[1]


def _inner(state):
    return state.inner.carry[1]


def _favour(state, u):
    return jnp.where(state.carry[0] == 1, 0.7, -0.2)  # a poor guess of the future


SPACE = StateSpace(Program(chain, (LOG_G,), {}))
KERNELS = SPACE.model(jnp.zeros(0))


@pytest.mark.parametrize(
    ("transform", "path_of", "policy", "num_particles"),
    [
        (lambda kernels: kernels, _path, Policy("never"), 1),  # weighted
        (lambda kernels: kernels, _path, Policy("never"), 6),  # spawned
        *((lambda kernels: kernels, _path, Policy("always", how), 6) for how in ("multinomial", "systematic")),
        *((lambda kernels: kernels, _path, Policy("always", how), 6) for how in ("killing", "ssp")),
        (lambda kernels: temper(kernels, 0.4), _path, Policy("always", "multinomial"), 6),
        (lambda kernels: twist(kernels, _favour, last=toy.T), _inner, Policy("ess"), 6),
        (lambda kernels: temper(twist(kernels, _favour, last=toy.T), 0.4), _inner, Policy("always"), 6),
    ],
    ids=["weighted", "spawned", "multinomial", "systematic", "killing", "ssp", "tempered", "twisted", "both"],
)
def test_particles_of_a_program_have_its_measure(transform, path_of, policy, num_particles):
    samples = toy.estimates(
        jax.random.key(5), transform(KERNELS), SPACE.inputs(), path_of, policy, num_particles=num_particles
    )
    scores = toy.z_scores(samples, toy.gamma())
    assert np.max(np.abs(scores)) < 5, scores  # 28 of them: a false alarm in 2e-5 of cases


def test_a_guided_program_has_the_measure_of_the_bare_one():
    space = StateSpace(Program(guided, (LOG_G,), {}))
    samples = toy.estimates(
        jax.random.key(6), space.model(jnp.zeros(0), "guided"), space.inputs(), _path, Policy("always")
    )
    toy.assert_proper(samples, toy.gamma())


def test_a_constant_weight_moves_the_evidence_and_nothing_else():
    def model(y, constant):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(mu, 1).expand([3]).to_event(1), obs=y)
        numpyro.factor("constant", constant)

    y = jnp.array([0.1, 0.7, -0.3])
    for method in ("tempered_smc", "importance"):
        plain, moved = (infer(model, y, c, method=method, key=2, chains=2, draws=100) for c in (0.0, 3.0))
        assert moved.log_evidence - plain.log_evidence == pytest.approx(3, abs=1e-4)
        # Rounding of larger log densities, in one accept step in thousands.
        assert np.mean(np.isclose(moved.draws["mu"], plain.draws["mu"], atol=1e-4)) > 0.95
