"""The particle filter as one `lax.scan`: pure, jit-able and vmap-able."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from ppl.smc.feynman_kac import FeynmanKac, Input
from ppl.smc.policy import Policy
from ppl.smc.results import History, Run
from ppl.smc.steps import Weighted, arranged, as_log_potential, resample, reweigh, sibling_pairs, through
from ppl.smc.variance import found, log_evidence_se


class _Kept(NamedTuple):
    """What a step leaves in the record; `None` where it was not asked for."""

    increment: Float[Array, ""]
    ess: Float[Array, ""]
    ancestors: Int[Array, " n"] | None
    resampled: Bool[Array, ""]
    siblings: Int[Array, "2"]
    generation: tuple[PyTree, Float[Array, " n"], Float[Array, " n"]] | None


def filter(
    key: Key[Array, ""],
    model: FeynmanKac,
    inputs: PyTree,
    num_particles: int,
    policy: Policy = Policy(),
    history: bool = False,
    *,
    num_steps: int | None = None,
    ancestors: bool = True,
    throw: bool = True,
) -> Run:
    """One run of the particle filter: the pure core of `ppl.smc.run`.

    It has no Python side effects, so `jax.jit` and `jax.vmap` apply to it. Problems (prompts, data sets) are an outer
    `vmap`: each has its own ESS, resampling and evidence. (Under `vmap` both branches of a resampling decision are
    computed, which costs the gather at every step.)

    **Arguments:**

    - `key`: a typed key.
    - `model`: the Feynman-Kac model.
    - `inputs`: a pytree of arrays `[T + 1, ...]`, entry 0 for `init` and the others for `step`; or `None` with
      `num_steps`, and kernels get the step index.
    - `num_particles`: N.
    - `policy`: when and how to resample before a step. There is no resampling after the last step.
    - `history`: keep all generations.
    - `num_steps`: T, when there are no inputs.
    - `ancestors`: keep the ancestor indices, `4 T N` bytes.
    - `throw`: raise, naming the step, when a log potential is NaN or `+inf`; otherwise increments are left non-finite
      from that step on, for a caller who checks them outside of `jit`.

    **Returns:** a `Run`, whose `log_evidence_se` is from the genealogy of this one run.

    **Raises:** `ValueError` for particle numbers below 1, inputs of unequal or no length, and kernels that return other
    shapes than they should; under `throw`, an equinox runtime error for NaN or `+inf` potentials.
    """
    inputs, num_steps = as_inputs(inputs, num_steps)
    policy.check(num_steps)
    if num_particles < 1:
        raise ValueError(f"num_particles: at least one particle is wanted, got {num_particles}")
    key_init, keys = step_keys(key, num_steps)

    state, log_potential = model.init(key_init, num_particles, jax.tree.map(lambda x: x[0], inputs))
    log_potential = as_log_potential("init", state, log_potential, num_particles)
    genealogy = found(jnp.zeros_like(log_potential))
    log_weights, increment, size = reweigh(jnp.zeros_like(log_potential), log_potential)
    first = (state, log_weights, log_potential) if history else None

    def body(weighted: Weighted, scanned: tuple[Int[Array, ""], Key[Array, "2"], Input]) -> tuple[Weighted, _Kept]:
        t, step_key, u = scanned
        drawn, parents, resampled = maybe_resample(step_key[0], model, policy, weighted, t, u)
        state, log_potential = model.step(step_key[1], drawn.state, u)
        log_potential = as_log_potential("step", state, log_potential, num_particles)
        log_weights, increment, size = reweigh(drawn.log_weights, log_potential)
        siblings = sibling_pairs(state, log_potential, parents)
        generation = (state, log_weights, log_potential) if history else None
        kept = _Kept(increment, size, parents if ancestors else None, resampled, siblings, generation)
        return Weighted(state, log_weights, drawn.genealogy), kept

    steps = jnp.arange(1, num_steps + 1, dtype=jnp.int32)
    scanned = (steps, keys, jax.tree.map(lambda x: x[1:], inputs))
    last, kept = jax.lax.scan(body, Weighted(state, log_weights, genealogy), scanned)

    increments = jnp.concatenate([increment[None], kept.increment])
    if throw:
        increments = _checked(increments)
    dead = jnp.isneginf(increments)
    evidence, error = None, None
    if policy.proper:
        evidence = jnp.sum(increments)
        error = log_evidence_se(last.genealogy, last.log_weights)
    record = None
    if kept.generation is not None:
        record = History(*jax.tree.map(lambda x, xs: jnp.concatenate([x[None], xs]), first, kept.generation))
    return Run(
        particles=last.state,
        log_weights=last.log_weights,
        log_evidence=evidence,
        log_evidence_se=error,
        log_evidence_increments=increments if policy.proper else None,
        ess=jnp.concatenate([size[None], kept.ess]),
        ancestors=kept.ancestors,
        resampled=kept.resampled,
        extinct_at=jnp.where(jnp.any(dead), jnp.argmax(dead), -1).astype(jnp.int32),
        sibling_pairs=jnp.sum(kept.siblings, axis=0, dtype=jnp.int32),
        proper=policy.proper,
        history=record,
    )


def as_inputs(inputs: PyTree, num_steps: int | None) -> tuple[PyTree, int]:
    """Scanned inputs with leaves `[T + 1, ...]`, and T. **Raises:** `ValueError` when lengths are missing or differ."""
    if not jax.tree.leaves(inputs):
        if num_steps is None:
            raise ValueError("num_steps: a run without inputs needs the number of steps after the first generation")
        if num_steps < 0:
            raise ValueError(f"num_steps: must not be negative, got {num_steps}")
        return jnp.arange(num_steps + 1, dtype=jnp.int32), num_steps
    lengths = {jax.tree_util.keystr(p): jnp.shape(x)[:1] for p, x in jax.tree_util.tree_leaves_with_path(inputs)}
    if len(set(lengths.values())) != 1 or () in lengths.values() or (0,) in lengths.values():
        raise ValueError(
            "inputs: every leaf must have the steps as its first axis, of one length T + 1 >= 1, got leading axes "
            + ", ".join(f"inputs{name}: {length or 'none'}" for name, length in lengths.items())
        )
    ((length,),) = set(lengths.values())
    if num_steps is not None and num_steps != length - 1:
        raise ValueError(f"num_steps: inputs of length {length} make {length - 1} steps, got num_steps={num_steps}")
    return jax.tree.map(jnp.asarray, inputs), length - 1


def step_keys(key: Key[Array, ""], num_steps: int) -> tuple[Key[Array, ""], Key[Array, "steps 2"]]:
    """The key of `init`, and for each step one to resample and one to move."""
    key_init, key_steps = jax.random.split(key)
    return key_init, jax.random.split(key_steps, (num_steps, 2))


def maybe_resample(
    key: Key[Array, ""], model: FeynmanKac, policy: Policy, weighted: Weighted, t: Int[Array, ""], u: Input
) -> tuple[Weighted, Int[Array, " n"], Bool[Array, ""]]:
    """The generation that step `t` moves: resampled if the policy says so, its ancestors, and whether it was."""
    num = weighted.log_weights.shape[0]
    order = None
    if model.arrange is not None:
        key, key_order = jax.random.split(key)
        weighted, order = arranged(key_order, model.arrange, weighted, u)
    decision = policy.when(weighted.log_weights, t)

    def stay(weighted: Weighted) -> tuple[Weighted, Int[Array, " n"]]:
        return weighted, jnp.arange(num, dtype=jnp.int32)

    def draw(weighted: Weighted) -> tuple[Weighted, Int[Array, " n"]]:
        return resample(key, policy.how, model.resampling_weights, weighted, u, num)

    if isinstance(decision, bool):  # known before the run: the other branch is never compiled
        weighted, ancestors = draw(weighted) if decision else stay(weighted)
    else:
        weighted, ancestors = jax.lax.cond(decision, draw, stay, weighted)
    if order is not None:
        ancestors = through(order, ancestors)
    return weighted, ancestors, jnp.asarray(decision)


def _checked(increments: Float[Array, " steps_and_init"]) -> Float[Array, " steps_and_init"]:
    """Increments, or an error naming the first step whose potentials were NaN or `+inf`."""
    bad = jnp.isnan(increments) | jnp.isposinf(increments)
    messages = [bad_potential(t) for t in range(increments.shape[0])]
    return eqx.branched_error_if(increments, jnp.any(bad), jnp.argmax(bad), messages)


def bad_potential(t: int) -> str:
    """The message for a potential that is NaN or `+inf`."""
    kernel = "init" if t == 0 else "step"
    return (
        f"log potential at step {t}: {kernel} returned NaN or +inf for at least one particle; "
        f"a particle of probability zero has log potential -inf"
    )
