"""A small asymmetric chain whose every path can be listed, and the check that a model is proper on it.

Three states, four generations, 81 paths; the potentials depend on the previous state as well, so that nothing that
holds for bootstrap filters alone passes. The state carries its own path, so the law of whole paths is what is tested.
"""

import functools
import itertools
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from ppl.smc.driver import filter
from ppl.smc.feynman_kac import FeynmanKac
from ppl.smc.genealogy import Trajectory

K, T = 3, 3
_rng = np.random.default_rng(20260)
INITIAL = np.array([0.5, 0.3, 0.2])
MOVE = np.array([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.35, 0.15, 0.5]])
# Potential of step t for a move from j to k. Step 0 has no previous state and reads row 0.
POTENTIAL = np.exp(_rng.normal(0.0, 0.8, (T + 1, K, K)))
# As in a state space model: the potential looks at the new state alone.
EMISSION = np.broadcast_to(np.exp(_rng.normal(0.0, 0.8, (T + 1, 1, K))), (T + 1, K, K))

PATHS = np.array(list(itertools.product(range(K), repeat=T + 1)))


class Walk(NamedTuple):
    """Where a particle is `[n]` and where it has been `[n, T + 1]`."""

    x: jax.Array
    path: jax.Array


def init(key, n, u):
    x = jax.random.categorical(key, jnp.log(jnp.asarray(INITIAL)), shape=(n,))
    path = jnp.zeros((n, T + 1), jnp.int32).at[:, 0].set(x)
    return Walk(x, path), u["log_g"][0, x]


def step(key, state, u):
    x = jax.random.categorical(key, jnp.log(jnp.asarray(MOVE))[state.x])
    return Walk(x, state.path.at[:, u["t"]].set(x)), u["log_g"][state.x, x]


MODEL = FeynmanKac(init, step)


def inputs(potential=POTENTIAL):
    return {"t": jnp.arange(T + 1), "log_g": jnp.log(jnp.asarray(potential))}


def gamma(potential=POTENTIAL, lengths=None):
    """Unnormalised probability of each of the 81 paths; its sum is the evidence.

    With `lengths` (a function of a path: the time at which it is finished) later moves and potentials do not count;
    paths that differ only after that share one probability, given to the one that stays where it is.
    """
    out = np.zeros(len(PATHS))
    for i, path in enumerate(PATHS):
        end = T if lengths is None else lengths(path)
        if np.any(path[end:] != path[end]):
            continue
        value = INITIAL[path[0]] * potential[0, 0, path[0]]
        for t in range(1, end + 1):
            value *= MOVE[path[t - 1], path[t]] * potential[t, path[t - 1], path[t]]
        out[i] = value
    return out


def optimal_twist(potential=POTENTIAL):
    """`psi[t, k]`: the expected product of the potentials after step t, from state k at step t."""
    psi = np.ones((T + 1, K))
    for t in range(T - 1, -1, -1):
        psi[t] = (MOVE * potential[t + 1]) @ psi[t + 1]
    return psi


def number(path):
    """The position in `PATHS` of paths `[..., T + 1]`."""
    return path @ (K ** jnp.arange(T, -1, -1))


# The models here are tiny and each is compiled for itself: compiling them without optimisation halves the tests' time.
_FAST = {"xla_backend_optimization_level": 0}
# One compiled run of the particle filter; models of one structure share it.
run = eqx.filter_jit(filter, compiler_options=_FAST)


def estimates(key, model, inputs, path_of, policy, num_particles=6, num_keys=20_000):
    """For each of `num_keys` runs, its estimate `[81]` of the unnormalised probability of each path."""
    keys = jax.random.split(key, num_keys)
    return np.asarray(_estimates(keys, model, inputs, path_of, policy, num_particles), float)


@functools.partial(eqx.filter_jit, compiler_options=_FAST)
def _estimates(keys, model, inputs, path_of, policy, num_particles):
    def one(key):
        run = filter(key, model, inputs, num_particles, policy)
        weights = jnp.exp(run.log_weights + run.log_evidence) / num_particles
        return jnp.zeros(len(PATHS)).at[number(path_of(run.particles))].add(weights)

    return jax.vmap(one)(keys)


def _pairs():
    """Indicators `[81, 27]` of each pair of successive states: together they determine the law of a Markov path."""
    columns = []
    for t in range(T):
        columns += [np.all(PATHS[:, t : t + 2] == pair, axis=1) for pair in itertools.product(range(K), repeat=2)]
    return np.array(columns, float).T


def z_scores(samples, truth, evidence=True):
    """Standard scores of means of independent samples `[keys, 81]` against the truth: for each pair, and for Z.

    With `evidence=False` not for Z: of normalised samples the total is known.
    """
    assert np.all(samples[:, truth == 0] == 0), "a path of probability zero was given weight"
    # Single paths are too rare: 20,000 keys leave the mean of such a sample far from normal.
    events = np.hstack([_pairs(), np.ones((len(PATHS), 1))]) if evidence else _pairs()
    samples, truth = samples @ events, truth @ events
    possible = truth > 0
    standard_error = samples.std(axis=0, ddof=1) / np.sqrt(len(samples))
    return (samples.mean(axis=0) - truth)[possible] / standard_error[possible]


def assert_proper(samples, truth):
    """Unbiased for the evidence and for every pair of successive states at once: E[Z f] = gamma(f), at any N.

    28 scores at 5 standard errors: chance of a false alarm 2e-5 for each call with normal errors. The evidence must be
    known to a fiftieth, so that passing means something.
    """
    scores = z_scores(samples, truth)
    assert np.max(np.abs(scores)) < 5, scores
    totals = samples.sum(axis=1)
    assert totals.std(ddof=1) / np.sqrt(len(totals)) < 0.02 * truth.sum()


def bare_init(key, n, u):
    x = jax.random.categorical(key, jnp.log(jnp.asarray(INITIAL)), shape=(n,))
    return x, u["log_g"][0, x]


def bare_step(key, x, u):
    moved = jax.random.categorical(key, jnp.log(jnp.asarray(MOVE))[x])
    return moved, u["log_g"][x, moved]


# The same chain whose state is the present position alone, for methods that find the path themselves.
BARE = FeynmanKac(bare_init, bare_step)


def log_move(previous, following, u):
    """Log density of the move from each of `previous` `[n]` to one state."""
    return jnp.log(jnp.asarray(MOVE))[previous, following]


def log_potential(previous, following, u):
    """Log potential of one state, given each of `previous` `[n]`."""
    return u["log_g"][previous, following]


def log_target(previous, following, u):
    """What depends on the previous state in the target: move and potential."""
    return log_move(previous, following, u) + log_potential(previous, following, u)


def exact_paths(seed, num, potential=POTENTIAL):
    """`num` paths `[num, T + 1]` drawn from the target itself, and their log potentials."""
    weights = gamma(potential)
    drawn = np.random.default_rng(seed).choice(len(PATHS), num, p=weights / weights.sum())
    paths = PATHS[drawn]
    previous = np.hstack([np.zeros((num, 1), int), paths[:, :-1]])
    log_potentials = np.log(potential)[np.arange(T + 1), previous, paths]
    return Trajectory(jnp.asarray(paths), jnp.asarray(log_potentials), jnp.zeros(paths.shape, jnp.int32))


def p_value(paths, weights):
    """Pearson's test that independent paths `[num, T + 1]` were drawn in proportion to `weights` `[81]`."""
    counts = np.bincount(np.asarray(number(paths)).ravel(), minlength=len(PATHS))
    expected = weights / weights.sum() * counts.sum()
    assert np.all(counts[expected == 0] == 0), "a path of probability zero was drawn"
    return scipy.stats.chisquare(counts[expected > 0], expected[expected > 0]).pvalue
