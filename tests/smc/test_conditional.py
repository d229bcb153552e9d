"""Exactness of conditional SMC: a reference drawn from the target itself gives a path from the target.

100,000 references are drawn exactly, each is moved by one sweep of 3 particles (few, so that an error shows), and the
81 paths are counted: independent draws, so Pearson's test needs no allowance for autocorrelation. A test fails at
p < 1e-5, its chance of a false alarm.
"""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppl.smc.conditional import conditional, conditional_smc
from ppl.smc.genealogy import Trajectory, sample_trajectories
from ppl.smc.policy import Policy, at
from ppl.smc.resampling import systematic
from ppl.smc.running import run
from ppl.smc.tempering import temper
from ppl.smc.twisting import Twisted, twist
from tests.smc import enumeration as toy

NUM = 100_000
KEY = jax.random.key(16)
POOR = jnp.asarray([[0.0, 1.0, -1.5], [1.2, -0.3, 0.4], [-0.7, 0.1, 0.9], [5.0, -5.0, 2.0]])


def poor(x, u):
    return POOR[u["t"], x]


@functools.partial(eqx.filter_jit, compiler_options={"xla_backend_optimization_level": 0})
def sweeps(keys, model, references, policy, log_transition=None, log_potential=None):
    def one(key, reference):
        path, _ = conditional_smc(
            key,
            model,
            reference,
            toy.inputs(),
            num_particles=3,
            policy=policy,
            log_transition=log_transition,
            log_potential=log_potential,
        )
        return path.states

    return jax.vmap(one)(keys, references)


REFERENCES = toy.exact_paths(1, NUM)
KEYS = jax.random.split(KEY, NUM)


@pytest.mark.parametrize("how", ["multinomial", "systematic", "stratified", "killing"])
def test_the_target_is_invariant(how):
    paths = sweeps(KEYS, toy.BARE, REFERENCES, Policy("always", f"conditional_{how}"))
    assert toy.p_value(paths, toy.gamma()) > 1e-5
    assert np.mean(np.any(np.asarray(paths != REFERENCES.states), axis=1)) > 0.3  # it moves at all


def test_the_target_is_invariant_when_resampling_depends_on_the_weights():
    policy = Policy("ess", "conditional_systematic", threshold=0.8)
    assert toy.p_value(sweeps(KEYS, toy.BARE, REFERENCES, policy), toy.gamma()) > 1e-5


@pytest.mark.parametrize(("when", "how"), [("ess", "systematic"), ("always", "stratified")])
def test_the_target_is_invariant_under_ancestor_sampling(when, how):
    policy = Policy(when, f"conditional_{how}")
    paths = sweeps(KEYS, toy.BARE, REFERENCES, policy, toy.log_target, toy.log_potential)
    assert toy.p_value(paths, toy.gamma()) > 1e-5
    # Without it some 40% of the paths move (measured), most of them at the end.
    assert np.mean(np.any(np.asarray(paths != REFERENCES.states), axis=1)) > 0.6


def test_tempered_and_twisted_models_are_invariant_too():
    model = temper(twist(toy.BARE, poor, last=toy.T), 0.4)
    log_psi = POOR.at[toy.T].set(0.0)[jnp.arange(toy.T + 1), REFERENCES.states]
    clock = jnp.broadcast_to(jnp.arange(toy.T + 1, dtype=jnp.int32), log_psi.shape)
    ratios = jnp.diff(log_psi, axis=1, prepend=0.0)
    references = Trajectory(
        Twisted(REFERENCES.states, log_psi, clock), REFERENCES.log_potentials + ratios, REFERENCES.indices
    )
    paths = sweeps(KEYS, model, references, Policy("always", "conditional_systematic")).inner
    assert toy.p_value(paths, toy.gamma()) > 1e-5


def test_the_check_has_power():
    """An unconditional scheme with slot 0 overwritten, which several codes use, is not invariant."""

    def overwritten(key, log_weights, num):
        return systematic(key, log_weights, num).at[0].set(0)

    overwritten.conditional = True
    assert toy.p_value(sweeps(KEYS, toy.BARE, REFERENCES, Policy("always", overwritten)), toy.gamma()) < 1e-9


def test_particle_gibbs_from_a_run():
    """The public way: a path of a run, then sweeps; the path returned is one of the run it came from."""
    start = run(0, toy.BARE, toy.inputs(), num_particles=20, history=True)
    path = sample_trajectories(1, start, 1)[0]
    inputs = toy.inputs()
    for seed in range(2):
        path, sweep = conditional_smc(
            seed,
            toy.BARE,
            path,
            inputs,
            num_particles=20,
            log_transition=toy.log_target,
            log_potential=toy.log_potential,
        )
    assert path.states.shape == (toy.T + 1,)
    times = np.arange(toy.T + 1)
    np.testing.assert_array_equal(sweep.history.states.inner[times, path.indices], path.states)
    for t in range(toy.T):
        assert sweep.ancestors[t, path.indices[t + 1]] == path.indices[t]
    previous = np.concatenate([[0], path.states[:-1]])
    np.testing.assert_allclose(path.log_potentials, inputs["log_g"][times, previous, path.states], rtol=1e-6)


def test_policies_that_are_not_exact_are_refused():
    path = REFERENCES[0]
    with pytest.raises(ValueError, match="how=systematic is not exact"):
        conditional_smc(0, toy.BARE, path, toy.inputs(), num_particles=4, policy=Policy())


def test_an_unconditional_resampler_under_the_bare_combinator_is_an_error():
    def reverse(key, log_weights, num):
        return jnp.arange(num, dtype=jnp.int32)[::-1]

    with pytest.raises(RuntimeError, match="moved the reference"):
        toy.run(
            KEY, conditional(toy.BARE, REFERENCES[0]), toy.inputs(), 4, Policy(at(np.array([1, 0, 0], bool)), reverse)
        )


def test_bad_references_are_named():
    def go(reference, inputs=None, num_particles=4, **options):
        inputs = toy.inputs() if inputs is None else inputs
        return conditional_smc(0, toy.BARE, reference, inputs, num_particles=num_particles, **options)

    with pytest.raises(ValueError, match=r"reference: one path.*\(100000, 4\)"):
        go(REFERENCES)
    with pytest.raises(ValueError, match=r"inputs: .* 4, are wanted, got \[3\]"):
        go(REFERENCES[0], jax.tree.map(lambda leaf: leaf[:3], toy.inputs()))
    with pytest.raises(ValueError, match="num_particles.*got 1"):
        go(REFERENCES[0], num_particles=1)
    with pytest.raises(ValueError, match="log_potential"):
        go(REFERENCES[0], log_potential=toy.log_potential)
    arranged = eqx.tree_at(
        lambda model: model.arrange, toy.BARE, lambda key, w, x, u: jnp.argsort(x), is_leaf=lambda leaf: leaf is None
    )
    with pytest.raises(ValueError, match="model: one that arranges"):
        conditional(arranged, REFERENCES[0])
    impossible = eqx.tree_at(lambda path: path.log_potentials, REFERENCES[0], jnp.full(toy.T + 1, -jnp.inf))
    with pytest.raises(RuntimeError, match="potential of zero"):
        go(impossible)
