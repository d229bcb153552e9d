r"""Conditional SMC: a particle filter around a given path, the kernel of particle Gibbs.

Slot 0 holds the reference path: after every move its particle is overwritten by the reference's state and log
potential, and a *conditional* resampler (`policy.how`) draws the other ancestors given that slot 0 descends from
slot 0. Drawing a final particle by its weight and following its ancestors gives a new path, and if the reference was
drawn from the target (the law of paths weighted by the potentials), so is the new path, for any number of particles.

**When it is exact.** The argument of Andrieu et al. needs two things. (1) The ancestors must be drawn from their law
given that of slot 0: an unconditional scheme lets the reference die or be counted twice, so it is refused. (2) Nothing
may depend on which slot the reference is in, since it is put back into slot 0 each time. Resampling decided by the ESS
is as exact as resampling at every step: the decision is a function of the weights (the reference's among them) that
no order of particles changes, and where it does not resample the ancestors are the particles themselves, with
probability one also given the reference.

**Ancestor sampling** (`log_transition`) draws, before each step, the particle that the rest of the reference is joined
to, $P(i) \propto w_{t-1}^i \, m_t(x_t^{ref} \mid x_{t-1}^i)$, whether or not a resampling follows. The chosen particle
is brought to slot 0 by a rotation of all slots, which systematic resampling on a circle does not notice (it would
notice a swap). Paths then mix also where the genealogy has coalesced.

**Source:** Andrieu, Doucet & Holenstein (2010), Particle Markov chain Monte Carlo methods; Chopin & Singh (2015), On
particle Gibbs sampling (conditional resampling); Lindsten, Jordan & Schön (2014), Particle Gibbs with ancestor
sampling.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree

from ppl.keys import as_key
from ppl.smc.backward import LogTransition
from ppl.smc.conditional_resampling import (
    conditional_killing,
    conditional_multinomial,
    conditional_stratified,
    conditional_systematic,
)
from ppl.smc.driver import filter
from ppl.smc.feynman_kac import FeynmanKac, InitKernel, Input, State, StepKernel
from ppl.smc.genealogy import Trajectory, follow, kept, lineages
from ppl.smc.policy import Policy
from ppl.smc.resampling import multinomial
from ppl.smc.results import Run
from ppl.smc.wrapping import first_clock, rewrapped

_CONDITIONAL = (conditional_killing, conditional_multinomial, conditional_stratified, conditional_systematic)


class Conditioned(NamedTuple):
    """State of a conditional model: the wrapped state, the steps taken `[n]`, and the slot `[n]` last stood in."""

    inner: State
    clock: Int[Array, " n"]
    slot: Int[Array, " n"]


def conditional_smc(
    key: int | Key[Array, ""],
    model: FeynmanKac,
    reference: Trajectory,
    inputs: PyTree = None,
    *,
    num_particles: int,
    policy: Policy = Policy("ess", "conditional_systematic"),
    log_transition: LogTransition | None = None,
    log_potential: LogTransition | None = None,
) -> tuple[Trajectory, Run]:
    """One sweep of conditional SMC: from a reference path to a new path, leaving the target invariant.

    A chain of sweeps is particle Gibbs for the path; alternate it with moves of the parameters given the path.

    **Arguments:**

    - `model`: the model of the reference, not yet conditioned.
    - `reference`: one path (no leading axis): a path of `ppl.smc.genealogy.sample_trajectories` from a run with this
      model to begin with, then the path that the sweep before returned.
    - `inputs`: leaves `[T + 1, ...]`; `None` for a model that takes the step index.
    - `num_particles`: 2 or more, the reference among them.
    - `policy`: its `how` must be one of the conditional resamplers, or a function of the same contract with an
      attribute `conditional = True`; its `when` any function of the weights that does not depend on their order.
    - `log_transition`: for ancestor sampling; see `ppl.smc.backward`, also for what belongs in it.
    - `log_potential`: `log_potential(previous, next, u)` `[n]` like `log_transition`, the log potential of one next
      state given each previous one. Needed with ancestor sampling if potentials depend on the previous state, since
      the reference is then joined to another past; left out, the reference's stored potentials are taken.

    **Returns:** the new path (one, without a leading axis), and the `Run` it was drawn from. The evidence of that run
    is not an unbiased estimate: the reference belongs to it.

    **Raises:** `ValueError` for a policy that is not exact, a model that arranges its particles (the reference would
    not stay in its slot), a reference with a leading axis or of another length than the inputs, fewer than two
    particles, or `log_potential` without `log_transition`. Under jit: a reference of probability zero.
    """
    if not (policy.how in _CONDITIONAL or getattr(policy.how, "conditional", False)):
        name = getattr(policy.how, "__name__", policy.how)
        raise ValueError(
            f"policy: how={name} is not exact here: slot 0 must descend from slot 0 and the other ancestors be drawn "
            "given that; take how='conditional_systematic', 'conditional_stratified', 'conditional_multinomial' or "
            "'conditional_killing'"
        )
    num_steps = _length(reference) - 1
    lengths = {jnp.shape(leaf)[0] for leaf in jax.tree.leaves(inputs)}
    if lengths - {num_steps + 1}:
        raise ValueError(
            f"inputs: as many slices as the reference has states, {num_steps + 1}, are wanted, got {sorted(lengths)}"
        )
    conditioned = conditional(model, reference, log_transition=log_transition, log_potential=log_potential)
    return _sweep(as_key(key), conditioned, inputs, num_particles, policy, num_steps)


def conditional(
    model: FeynmanKac,
    reference: Trajectory,
    *,
    log_transition: LogTransition | None = None,
    log_potential: LogTransition | None = None,
) -> FeynmanKac:
    """`model` with the reference path in slot 0; the building block of `conditional_smc`, which is what to call.

    Arguments as there. A model with ancestor sampling cannot see which resampler it runs under: use it with a
    conditional one. Without ancestor sampling a resampler that moves the reference is an error of the run.

    **Returns:** a `FeynmanKac` with state `Conditioned`, for runs of the reference's length and 2 or more particles.

    **Raises:** `ValueError` for a reference with a leading axis, a model that arranges its particles, or
    `log_potential` without `log_transition`.
    """
    if log_potential is not None and log_transition is None:
        raise ValueError("log_potential: only ancestor sampling, which needs log_transition too, changes a potential")
    if model.arrange is not None:
        raise ValueError("model: one that arranges its particles would move the reference out of slot 0")
    _length(reference)
    arrange = None if log_transition is None else _JoinAncestor(reference, log_transition)
    step = _Step(model.step, reference, log_potential, log_transition is None)
    wrapped = rewrapped(model, _Init(model.init, reference), step)
    return FeynmanKac(wrapped.init, wrapped.step, wrapped.resampling_weights, arrange)


def _length(reference: Trajectory) -> int:
    shape = reference.log_potentials.shape
    if len(shape) != 1:
        raise ValueError(
            f"reference: one path is wanted, got log_potentials of shape {shape}; take one by trajectory[i]"
        )
    return shape[0]


@eqx.filter_jit
def _sweep(
    key: Key[Array, ""], model: FeynmanKac, inputs: PyTree, num_particles: int, policy: Policy, num_steps: int
) -> tuple[Trajectory, Run]:
    key_run, key_path = jax.random.split(key)
    run = filter(key_run, model, inputs, num_particles, policy, history=True, num_steps=num_steps)
    history, ancestors = kept(run)
    final = multinomial(key_path, run.log_weights, 1)
    path = follow(history, lineages(ancestors)[:, final].T)[0]
    return Trajectory(path.states.inner, path.log_potentials, path.indices), run


class _Init(eqx.Module):
    init: InitKernel
    reference: Trajectory

    def __call__(self, key: Key[Array, ""], n: int, u: Input, /) -> tuple[Conditioned, Float[Array, " n"]]:
        if n < 2:
            raise ValueError(f"num_particles: the reference and at least one other particle are wanted, got {n}")
        state, log_potential = self.init(key, n, u)
        clock = first_clock(n)
        inner, log_potential = _pin(state, log_potential, self.reference, clock[0])
        return Conditioned(inner, clock, jnp.arange(n, dtype=jnp.int32)), log_potential


class _Step(eqx.Module):
    step: StepKernel
    reference: Trajectory
    log_potential: LogTransition | None
    watched: bool = eqx.field(static=True)

    def __call__(self, key: Key[Array, ""], state: Conditioned, u: Input, /) -> tuple[Conditioned, Float[Array, " n"]]:
        clock = state.clock + 1
        t = eqx.error_if(
            clock[0],
            clock[0] >= self.reference.log_potentials.shape[0],
            f"conditional: the run is longer than the reference, which has {self.reference.log_potentials.shape[0]} "
            f"states",
        )
        if self.watched:
            t = eqx.error_if(
                t,
                state.slot[0] != 0,
                "conditional: the resampler has moved the reference out of slot 0; take a conditional policy.how",
            )
        moved, log_potential = self.step(key, state.inner, u)
        inner, log_potential = _pin(moved, log_potential, self.reference, t)
        if self.log_potential is not None:
            parent = jax.tree.map(lambda leaf: leaf[:1], state.inner)
            joined = self.log_potential(parent, jax.tree.map(lambda leaf: leaf[0], inner), u)
            log_potential = log_potential.at[0].set(joined[0])
        return Conditioned(inner, clock, jnp.arange(clock.shape[0], dtype=jnp.int32)), log_potential


class _JoinAncestor(eqx.Module):
    """Ancestor sampling: the rotation that brings the drawn particle to slot 0."""

    reference: Trajectory
    log_transition: LogTransition

    def __call__(
        self, key: Key[Array, ""], log_weights: Float[Array, " n"], state: Conditioned, u: Input, /
    ) -> Int[Array, " n"]:
        t = state.clock[0] + 1
        following = jax.tree.map(lambda leaf: leaf[t], self.reference.states)
        density = self.log_transition(state.inner, following, u)
        log_backward = jnp.where(jnp.isneginf(log_weights), -jnp.inf, log_weights + density)
        index = multinomial(key, log_backward, 1)[0]
        index = eqx.error_if(
            index,
            ~(jnp.max(log_backward) > -jnp.inf),  # NaN too
            "conditional: log_transition is NaN, or -inf from every particle (that of the reference among them) to the "
            "reference's next state; it does not describe the step of this model",
        )
        n = log_weights.shape[0]
        return (jnp.arange(n, dtype=jnp.int32) + index) % n


def _pin(
    state: State, log_potential: Float[Array, " n"], reference: Trajectory, t: Int[Array, ""]
) -> tuple[State, Float[Array, " n"]]:
    """Slot 0 overwritten by the reference at step `t`."""
    own = reference.log_potentials[t].astype(log_potential.dtype)
    own = eqx.error_if(
        own, jnp.isneginf(own) | jnp.isnan(own), "conditional: the reference has a potential of zero or NaN"
    )
    pinned = jax.tree.map(lambda leaf, path: leaf.at[0].set(path[t]), state, reference.states)
    return pinned, log_potential.at[0].set(own)
