"""One resampling and one weighting: the code that both drivers share.

Weights are normalised to log mean exp 0 after every weighting and evidence is carried apart, so that float32 serves any
number of steps. The increment of step `t` is the log mean weight after it, measured from the normalised weights before
the resampling: that holds whether or not a resampling took place, and for offspring that carry unequal weights.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from ppl.smc.feynman_kac import Arrange, Input, ResamplingWeights, State
from ppl.smc.policy import Resampler
from ppl.smc.transport import Transport
from ppl.smc.variance import Genealogy, descend
from ppl.smc.weights import is_dead, logmeanexp, shifted, weigh

_PROBES = 16


class Weighted(NamedTuple):
    """A weighted generation and what its genealogy says so far."""

    state: State
    log_weights: Float[Array, " n"]
    genealogy: Genealogy


def resample(
    key: Key[Array, ""],
    how: Resampler | Transport,
    resampling_weights: ResamplingWeights | None,
    weighted: Weighted,
    u: Input,
    num: int,
) -> tuple[Weighted, Int[Array, " num"]]:
    """`num` offspring of a weighted generation, and their ancestors (all -1 when a transport mixed the particles).

    This is the only place where particles are gathered, so nothing that belongs to a particle can stay behind.
    """
    state, log_weights, genealogy = weighted
    if isinstance(how, Transport):
        # Its weights are not proper, so that no variance of evidence will be asked of the genealogy.
        moved = how(key, log_weights, state)
        return Weighted(moved, _equal(log_weights, num), genealogy), jnp.full((num,), -1, jnp.int32)
    if resampling_weights is None:
        ancestors = how(key, log_weights, num)
        carried = _equal(log_weights, num)  # w_a / v_a * mean(v) is mean(w) = 1
    else:
        log_drawn = resampling_weights(log_weights, state, u)
        ancestors = how(key, log_drawn, num)
        ratio = jnp.where(is_dead(log_drawn), -jnp.inf, log_weights - log_drawn)
        carried = ratio[ancestors] + logmeanexp(log_drawn)
    state = _taken(state, ancestors)
    return Weighted(state, carried, descend(genealogy, log_weights, ancestors, carried)), ancestors


def arranged(key: Key[Array, ""], arrange: Arrange, weighted: Weighted, u: Input) -> tuple[Weighted, Int[Array, " n"]]:
    """A weighted generation in the order its model wants, and which particle came to stand in each slot."""
    state, log_weights, genealogy = weighted
    order = arrange(key, log_weights, state, u)
    state = _taken(state, order)
    genealogy = eqx.tree_at(lambda g: g.eve, genealogy, genealogy.eve[order])
    return Weighted(state, log_weights[order], genealogy), order


def through(order: Int[Array, " n"], ancestors: Int[Array, " num"]) -> Int[Array, " num"]:
    """Ancestors among arranged particles as indices before they were arranged; -1 (no ancestor) stays."""
    return jnp.where(ancestors < 0, ancestors, order[ancestors])


def _taken(state: State, places: Int[Array, " num"]) -> State:
    """The particles at some places, which are in range: clipping them costs nothing, where the select that filling in
    would take reads and writes every particle once more."""
    return jax.tree.map(lambda x: x.at[places].get(mode="clip"), state)


def _equal(log_weights: Float[Array, " n"], num: int) -> Float[Array, " num"]:
    """Equal weights for the offspring, unless no particle is left alive."""
    return jnp.where(is_dead(jnp.max(log_weights)), -jnp.inf, jnp.zeros((num,), log_weights.dtype))


def reweigh(
    carried: Float[Array, " n"], log_potential: Float[Array, " n"]
) -> tuple[Float[Array, " n"], Float[Array, ""], Float[Array, ""]]:
    """Multiply weights by potentials: the normalised log weights, the increment of log evidence, and the ESS.

    All dead: increment and log weights are `-inf`, and stay so. NaN goes through; the driver names its step.
    """
    log_weights = carried + log_potential
    increment, size = weigh(log_weights)
    return shifted(log_weights, increment), increment, size


def sibling_pairs(state: State, log_potential: Float[Array, " n"], ancestors: Int[Array, " n"]) -> Int[Array, "2"]:
    """Of a few slots: how many live ones have a sibling beside them or in their ancestor's slot, and how many differ.

    Siblings that never differ mean a kernel without noise, under which resampling only loses particles.
    """
    slots = jnp.arange(min(_PROBES, ancestors.shape[0]), dtype=jnp.int32)
    parent = ancestors[slots]
    left = jnp.maximum(slots - 1, 0)
    beside = (ancestors[left] == parent) & (slots > 0)
    stayed = (ancestors[jnp.maximum(parent, 0)] == parent) & (parent != slots)
    paired = (beside | stayed) & (parent >= 0) & ~is_dead(log_potential[slots])
    other = jnp.where(beside, left, jnp.maximum(parent, 0))
    differ = jnp.zeros_like(paired)
    for leaf in jax.tree.leaves(state):
        x = jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        differ |= jnp.any((x[slots] != x[other]).reshape(slots.shape[0], -1), axis=1)
    return jnp.stack([jnp.sum(paired, dtype=jnp.int32), jnp.sum(paired & differ, dtype=jnp.int32)])


def as_log_potential(where: str, state: State, log_potential: Array, num: int) -> Float[Array, " num"]:
    """What a kernel returned as log potential, in float32 at least: half precision holds logits, not their sums.

    **Raises:** `ValueError` unless the leaves of the state are `[num, ...]` and log potentials floats `[num]`.
    """
    if jnp.shape(log_potential) != (num,) or not jnp.issubdtype(jnp.result_type(log_potential), jnp.floating):
        raise ValueError(
            f"{where}: log potentials must be floats of shape ({num},), one a particle, got "
            f"{jnp.result_type(log_potential)}{list(jnp.shape(log_potential))}"
        )
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        if jnp.ndim(leaf) == 0 or leaf.shape[0] != num:
            raise ValueError(
                f"{where}: every leaf of the state must have the particle axis first, of length {num}; "
                f"state{jax.tree_util.keystr(path)} has shape {jnp.shape(leaf)}"
            )
    return log_potential.astype(jnp.promote_types(log_potential.dtype, jnp.float32))
