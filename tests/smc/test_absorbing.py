from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppl.smc.absorbing import absorb
from ppl.smc.feynman_kac import FeynmanKac
from ppl.smc.lookahead import ahead, lookahead
from ppl.smc.policy import Policy
from ppl.smc.tempering import ess, temper
from ppl.smc.twisting import twist
from tests.smc import enumeration as toy

KEY = jax.random.key(15)
POOR = jnp.asarray([0.5, -1.0, 0.3])


class Stopping(NamedTuple):
    """A walk that is finished once it reaches state 2; `path` stays at 2 from then on."""

    walk: toy.Walk


def step(key, state, u):
    """The toy's step, with a recorded path that stays where it is after the end."""
    walk, log_potential = toy.step(key, state.walk, u)
    later = jnp.arange(toy.T + 1) >= u["t"]
    return Stopping(walk._replace(path=jnp.where(later, walk.x[:, None], walk.path))), log_potential


def init(key, n, u):
    walk, log_potential = toy.init(key, n, u)
    return Stopping(walk._replace(path=jnp.broadcast_to(walk.x[:, None], (n, toy.T + 1)))), log_potential


MODEL = FeynmanKac(init, step)


def finished(state):
    return state.walk.x == 2


def finished_inside(state, u):
    return state.walk.x == 2


def poor(state, u):
    return POOR[state.walk.x] + 0.3 * u["t"]


def length(path):
    """When a path is finished: at its first 2, else at the last step."""
    return int(np.argmax(path == 2)) if np.any(path == 2) else toy.T


TRUTH = toy.gamma(lengths=length)


def test_absorption_is_proper():
    samples = toy.estimates(KEY, absorb(MODEL, finished), toy.inputs(), lambda state: state.walk.path, Policy())
    toy.assert_proper(samples, TRUTH)


def test_a_twist_outside_or_one_that_ends_with_the_particle_is_proper():
    for model, path_of in [
        (twist(absorb(MODEL, finished), poor, last=toy.T), lambda state: state.inner.walk.path),
        (
            absorb(
                twist(MODEL, poor, last=lambda state, u: finished_inside(state, u) | (u["t"] == toy.T)),
                lambda state: finished(state.inner),
            ),
            lambda state: state.inner.walk.path,
        ),
    ]:
        samples = toy.estimates(KEY, model, toy.inputs(), path_of, Policy())
        toy.assert_proper(samples, TRUTH)


def test_looking_ahead_of_absorbed_particles_tempered_is_proper():
    model = temper(lookahead(absorb(MODEL, finished), pilots=2), ess(0.8))
    samples = toy.estimates(KEY, model, ahead(toy.inputs(), 2), lambda state: state.inner.walk.path, Policy("always"))
    toy.assert_proper(samples, TRUTH)


@pytest.mark.parametrize("value", [jnp.nan, -jnp.inf, 7.0])
def test_what_the_step_says_about_finished_particles_does_not_matter(value):
    """State leaves of any shape and kind, typed keys among them, stay; NaN potentials do not leak."""

    def init(key, n, u):
        return {"done": jnp.arange(n) % 2 == 0, "x": jnp.ones((n, 2, 3)), "key": jax.random.split(key, n)}, jnp.zeros(n)

    def step(key, state, u):
        moved = {"done": state["done"], "x": state["x"] + 1, "key": jax.random.split(key, len(state["done"]))}
        return moved, jnp.where(state["done"], value, -0.5)

    start, _ = init(KEY, 6, 0)
    moved, log_potential = absorb(FeynmanKac(init, step), lambda state: state["done"]).step(jax.random.key(1), start, 1)
    np.testing.assert_array_equal(log_potential, [0.0, -0.5] * 3)
    np.testing.assert_array_equal(moved["x"][:, 0, 0], [1, 2] * 3)
    same = jnp.all(jax.random.key_data(moved["key"]) == jax.random.key_data(start["key"]), axis=1)
    np.testing.assert_array_equal(same, [True, False] * 3)


def test_weighing_finished_particles_again_is_another_target():
    """The defect that absorption is for: without it the 81 numbers above are not what comes out."""

    def frozen(key, state, u):
        moved, log_potential = step(key, state, u)
        done = finished(state)
        kept = jax.tree.map(lambda a, b: jnp.where(done.reshape((-1,) + (1,) * (a.ndim - 1)), a, b), state, moved)
        return kept, log_potential

    samples = toy.estimates(KEY, FeynmanKac(init, frozen), toy.inputs(), lambda state: state.walk.path, Policy())
    assert np.max(np.abs(toy.z_scores(samples, TRUTH))) > 20
