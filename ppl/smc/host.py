"""The particle filter as a Python loop, for kernels that call out or that change the number of particles."""

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PyTree

from ppl.smc.driver import as_inputs, bad_potential, step_keys
from ppl.smc.feynman_kac import FeynmanKac
from ppl.smc.policy import Policy
from ppl.smc.results import History, Run
from ppl.smc.steps import Weighted, arranged, as_log_potential, resample, reweigh, sibling_pairs, through
from ppl.smc.variance import found, log_evidence_se

# A fixed number of particles, or one for each generation 0 .. T.
NumParticles = int | Sequence[int] | Callable[[int], int]

_resample = eqx.filter_jit(resample)
_arranged = eqx.filter_jit(arranged)
_reweigh = eqx.filter_jit(reweigh)
_sibling_pairs = eqx.filter_jit(sibling_pairs)
_log_evidence_se = eqx.filter_jit(log_evidence_se)


def host_filter(
    key: Key[Array, ""],
    model: FeynmanKac,
    inputs: PyTree,
    num_particles: NumParticles,
    policy: Policy = Policy(),
    history: bool = False,
    *,
    num_steps: int | None = None,
    ancestors: bool = True,
) -> Run:
    """One run with kernels called from Python, once a step; the same keys and the same code for weights as `filter`.

    Arguments and result as `ppl.smc.driver.filter`, but that

    - kernels need not be jit-able, and `u` is a slice of the inputs as concrete arrays;
    - `num_particles` may also be a sequence of `T + 1` numbers or a function of the step. A generation of another size
      than the one before must be resampled, whatever the policy's `when` says; its offspring are drawn in the new
      number. The run's `ancestors` are then a tuple of rows, and there can be no history;
    - a NaN or `+inf` potential raises `ValueError` at its step.
    """
    inputs, num_steps = as_inputs(inputs, num_steps)
    policy.check(num_steps)
    sizes = _sizes(num_particles, num_steps)
    varies = len(set(sizes)) > 1
    if history and varies:
        raise ValueError("history: generations of several sizes cannot be stacked; run with history=False")
    if varies and not policy.proper:
        raise ValueError("num_particles: only a resampler that draws ancestors can change the number of particles")
    key_init, keys = step_keys(key, num_steps)

    state, log_potential = model.init(key_init, sizes[0], _slice(inputs, 0))
    log_potential = as_log_potential("init", state, log_potential, sizes[0])
    genealogy = found(jnp.zeros_like(log_potential))
    log_weights, increment, size = _reweigh(jnp.zeros_like(log_potential), log_potential)
    _check_increment(increment, 0)
    weighted = Weighted(state, log_weights, genealogy)
    increments, ess, generations = [increment], [size], [(state, log_weights, log_potential)]
    rows, resampled, siblings = [], [], jnp.zeros((2,), jnp.int32)

    for t in range(1, num_steps + 1):
        u = _slice(inputs, t)
        key_resample, order = keys[t - 1, 0], None
        if model.arrange is not None:
            key_resample, key_order = jax.random.split(key_resample)
            weighted, order = _arranged(key_order, model.arrange, weighted, u)
        decision = sizes[t] != sizes[t - 1] or bool(policy.when(weighted.log_weights, t))
        parents = jnp.arange(sizes[t], dtype=jnp.int32)
        if decision:
            weighted, parents = _resample(key_resample, policy.how, model.resampling_weights, weighted, u, sizes[t])
        if order is not None:
            parents = through(order, parents)
        state, log_potential = model.step(keys[t - 1, 1], weighted.state, u)
        log_potential = as_log_potential("step", state, log_potential, sizes[t])
        log_weights, increment, size = _reweigh(weighted.log_weights, log_potential)
        _check_increment(increment, t)
        siblings = siblings + _sibling_pairs(state, log_potential, parents)
        weighted = Weighted(state, log_weights, weighted.genealogy)
        increments.append(increment)
        ess.append(size)
        rows.append(parents)
        resampled.append(decision)
        if history:
            generations.append((state, log_weights, log_potential))

    stacked = jnp.stack(increments)
    dead = np.isneginf(np.asarray(stacked))
    return Run(
        particles=weighted.state,
        log_weights=weighted.log_weights,
        log_evidence=jnp.sum(stacked) if policy.proper else None,
        log_evidence_se=_log_evidence_se(weighted.genealogy, weighted.log_weights) if policy.proper else None,
        log_evidence_increments=stacked if policy.proper else None,
        ess=jnp.stack(ess),
        ancestors=_rows(rows, varies, sizes[0]) if ancestors else None,
        resampled=jnp.asarray(resampled, bool),
        extinct_at=jnp.int32(dead.argmax() if dead.any() else -1),
        sibling_pairs=siblings,
        proper=policy.proper,
        history=History(*jax.tree.map(lambda *xs: jnp.stack(xs), *generations)) if history else None,
    )


def _sizes(num_particles: NumParticles, num_steps: int) -> list[int]:
    if callable(num_particles):
        sizes = [num_particles(t) for t in range(num_steps + 1)]
    elif isinstance(num_particles, Sequence):
        sizes = list(num_particles)
    else:
        sizes = [num_particles] * (num_steps + 1)
    if len(sizes) != num_steps + 1:
        raise ValueError(f"num_particles: one number for each of {num_steps + 1} generations, got {len(sizes)} numbers")
    for t, size in enumerate(sizes):
        if size < 1:
            raise ValueError(f"num_particles: at least one particle is wanted, got {size} at step {t}")
    return sizes


def _slice(inputs: PyTree, t: int) -> PyTree:
    return jax.tree.map(lambda x: x[t], inputs)


def _rows(rows: list[Int[Array, " _"]], varies: bool, num: int) -> Int[Array, "steps n"] | tuple[Int[Array, " _"], ...]:
    if varies:
        return tuple(rows)
    return jnp.stack(rows) if rows else jnp.zeros((0, num), jnp.int32)


def _check_increment(increment: Float[Array, ""], t: int) -> None:
    if not increment < jnp.inf:
        raise ValueError(bad_potential(t))
