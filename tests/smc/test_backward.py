import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm

from ppl.smc.backward import backward_sample
from ppl.smc.driver import filter
from ppl.smc.genealogy import distinct_roots, lineages, trajectories
from ppl.smc.policy import Policy
from ppl.smc.running import run
from ppl.smc.twisting import twist, twisted_transition
from tests.smc import enumeration as toy
from tests.smc import state_space

KEY = jax.random.key(17)
RUNS, PARTICLES, PATHS = 200, 400, 200
POOR = jnp.asarray([0.5, -1.0, 0.3])


@functools.partial(eqx.filter_jit, compiler_options={"xla_backend_optimization_level": 0})
def frequencies(key, model, log_transition, policy, moves, position):
    """For each run, how often its backward paths go through each of the 81 paths."""

    def one(key):
        forward, backward = jax.random.split(key)
        made = filter(forward, model, toy.inputs(), PARTICLES, policy, history=True)
        drawn = backward_sample(backward, made, log_transition, toy.inputs(), num=PATHS, moves=moves)
        return jnp.zeros(len(toy.PATHS)).at[toy.number(position(drawn.states))].add(1 / PATHS)

    return jax.vmap(one)(jax.random.split(key, RUNS))


def scores(*arguments):
    """Standard scores over runs. What is left of the bias, of the order of 1/PARTICLES, is below one of them."""
    truth = toy.gamma()
    return toy.z_scores(np.asarray(frequencies(KEY, *arguments), float), truth / truth.sum(), evidence=False)


def itself(states):
    return states


def inner(states):
    return states.inner


@pytest.mark.parametrize(
    ("when", "moves"),
    [
        ("ess", None),
        ("always", 10),
        pytest.param("ess", 10, marks=pytest.mark.calibration),
        pytest.param("always", None, marks=pytest.mark.calibration),
    ],
)
def test_paths_follow_the_smoothing_law(when, moves):
    """27 scores at 5 standard errors: chance of a false alarm 2e-5. The potentials depend on the previous state."""
    assert np.max(np.abs(scores(toy.BARE, toy.log_target, Policy(when), moves, itself))) < 5


def test_the_check_has_power():
    """Leaving out what the potential says about the previous state is noticed."""
    assert np.max(np.abs(scores(toy.BARE, toy.log_move, Policy("ess"), None, itself))) > 10


def test_paths_of_a_twisted_model_follow_the_smoothing_law():
    model = twist(toy.BARE, lambda x, u: POOR[x] * (1 + u["t"]), last=toy.T)
    found = scores(model, twisted_transition(toy.log_target), Policy("ess"), None, inner)
    assert np.max(np.abs(found)) < 5


@pytest.fixture(scope="module")
def nile():
    """A bootstrap filter on the Nile data, and the moments of the exact smoother."""
    data = state_space.series("nile_local_level")
    setting = data["exact"][0] | data["at_first_setting"]
    y = jnp.asarray(data["y"], jnp.float32)
    model = state_space.bootstrap(1.0, setting["level_var"], setting["obs_var"], 1000.0, 1e5)
    made = run(5, model, y, num_particles=1000, history=True)
    return made, y, setting


@pytest.mark.parametrize("moves", [None, 15], ids=["exact", "mcmc"])
def test_the_nile_is_smoothed_as_by_kalman(nile, moves):
    made, y, setting = nile
    scale = np.sqrt(setting["level_var"])
    mean, sd = np.asarray(setting["smoothed_mean"]), np.sqrt(setting["smoothed_var"])
    drawn = backward_sample(
        6, made, lambda before, after, u: norm.logpdf(after, before, scale), y, num=300, moves=moves, batch_size=100
    )
    paths = np.asarray(drawn.states, float)
    # Error of a mean in standard deviations of the smoothing law: 300 paths and about 1000/5 particles make it
    # sqrt(1/300 + 5/1000) = .09; the root mean square over 100 correlated times stays below .25.
    assert np.sqrt(np.mean(((paths.mean(axis=0) - mean) / sd) ** 2)) < 0.25
    assert 0.8 < np.median(paths.std(axis=0) / sd) < 1.2
    # The genealogy alone knows the first years by a handful of ancestors.
    assert 3 * distinct_roots(made.ancestors)[0] < len(np.unique(drawn.indices[:, 0]))


def test_no_moves_are_the_ancestral_paths():
    made = run(7, toy.BARE, toy.inputs(), num_particles=30, history=True)
    drawn = backward_sample(8, made, toy.log_target, toy.inputs(), num=25, moves=0)
    np.testing.assert_array_equal(drawn.indices, lineages(made.ancestors)[:, drawn.indices[:, -1]].T)
    np.testing.assert_array_equal(drawn.states, trajectories(made, drawn.indices[:, -1]).states)


def test_a_model_without_inputs_is_given_the_step():
    def init(key, n, t):
        return jax.random.normal(key, (n,)), jnp.zeros(n)

    def step(key, x, t):
        return x + t + jax.random.normal(key, x.shape), jnp.zeros(x.shape)

    made = run(9, toy.FeynmanKac(init, step), num_steps=3, num_particles=200, policy=Policy("always"), history=True)
    drawn = backward_sample(1, made, lambda before, after, t: norm.logpdf(after, before + t), num=100)
    steps = np.diff(drawn.states, axis=1).mean(axis=0)
    # 100 paths, and 200 particles that some of them share: 6 standard errors of a unit normal's mean
    np.testing.assert_allclose(steps, [1, 2, 3], atol=6 * np.sqrt(1 / 100 + 1 / 200))


def test_bad_arguments_are_named():
    made = run(0, toy.BARE, toy.inputs(), num_particles=4, history=True)
    with pytest.raises(ValueError, match="num.*0"):
        backward_sample(0, made, toy.log_target, toy.inputs(), num=0)
    with pytest.raises(ValueError, match="moves.*-1"):
        backward_sample(0, made, toy.log_target, toy.inputs(), num=1, moves=-1)
    with pytest.raises(ValueError, match="history=True"):
        backward_sample(0, run(0, toy.BARE, toy.inputs(), num_particles=4), toy.log_target, toy.inputs(), num=1)
    for moves in (None, 2):
        with pytest.raises(RuntimeError, match="log_transition is NaN"):
            backward_sample(0, made, lambda x, y, u: jnp.full(x.shape, -jnp.inf), toy.inputs(), num=2, moves=moves)


def test_an_extinct_run_is_an_error():
    extinct = toy.FeynmanKac(toy.bare_init, lambda key, x, u: (x, jnp.full(x.shape, -jnp.inf)))
    made = run(0, extinct, toy.inputs(), num_particles=4, policy=Policy("never"), history=True)
    with pytest.raises(RuntimeError, match="extinct"):
        backward_sample(0, made, toy.log_move, toy.inputs(), num=2)
