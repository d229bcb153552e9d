"""Conditional resampling: the law of all ancestors given that slot 0 descends from the reference.

Conditional SMC (particle Gibbs) keeps a reference path in slot 0. Drawing the other ancestors by the plain scheme and
overwriting slot 0 is wrong for every scheme but multinomial: the reference's offspring are then counted twice. Each
function here draws from the exact conditional law of its scheme, once the scheme's points have been given to slots by
a random rotation, so that every slot's ancestor has the marginal law $W$ (systematic points in order would tie slot 0
to the first particles).

Signature `scheme(key, log_weights, num, reference=0) -> ancestors` with `ancestors[0] == reference`.

**Source:** Andrieu, Doucet & Holenstein (2010); Chopin & Singh (2015), section 4; Karppinen, Singh & Vihola (2023) for
killing. The derivations are in each function.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, UInt32

from ppl.smc.counting import ancestors_of, cumulative, fraction_bits, masses, uniform_below
from ppl.smc.resampling import ends_stratified, killing, multinomial
from ppl.smc.weights import normalised


def conditional_multinomial(
    key: Key[Array, ""], log_weights: Float[Array, " n"], num: int, reference: int | Int[Array, ""] = 0
) -> Int[Array, " num"]:
    """Multinomial resampling given `ancestors[0] == reference`: draws are independent, so the others stay as they are.

    **Arguments:** as `ppl.smc.resampling.systematic`; `reference`: the index of the reference among the `n` particles.

    **Returns:** int32 indices `[num]`.
    """
    return multinomial(key, log_weights, num).at[0].set(reference)


def conditional_systematic(
    key: Key[Array, ""], log_weights: Float[Array, " n"], num: int, reference: int | Int[Array, ""] = 0
) -> Int[Array, " num"]:
    r"""Systematic resampling given `ancestors[0] == reference`. Arguments and result as `conditional_multinomial`.

    With a random rotation, slot 0's point $V$ is uniform on the whole CDF and slot $j$ has its point at $V + j/N$
    modulo 1. Given the ancestor of slot 0, $V$ is uniform on the reference's own stretch of the CDF.
    """
    key_round, key_point = jax.random.split(key)
    bits = fraction_bits(num)
    ends = cumulative(masses(key_round, log_weights, num))
    first, fraction = _point_of_reference(key_point, ends, reference, bits)
    # The systematic points that go through the reference's: fraction above counts as the next whole.
    sorted_ancestors = ancestors_of((ends + ((1 << bits) - 1 - fraction)) >> bits, num)
    return _rotated(sorted_ancestors, first, reference)


def conditional_stratified(
    key: Key[Array, ""], log_weights: Float[Array, " n"], num: int, reference: int | Int[Array, ""] = 0
) -> Int[Array, " num"]:
    r"""Stratified resampling given `ancestors[0] == reference`. Arguments and result as `conditional_multinomial`.

    With a random rotation slot 0's point is uniform on the whole CDF, hence, given its ancestor, uniform on the
    reference's stretch. It fixes the rotation and the point of one stratum; all other strata keep uniform points.

    The strata begin at a particle drawn at random, because the law of the counts depends on where the reference lies
    among them (unlike that of systematic points, which are even all the way round). A reference that always stands in
    slot 0 would always begin the first stratum, and sweeps of conditional SMC would not leave their target invariant.
    """
    key_round, key_point, key_points, key_origin = jax.random.split(key, 4)
    bits = fraction_bits(num)
    n = log_weights.shape[0]
    turn = jax.random.randint(key_origin, (), 0, n, jnp.int32)
    turned = (reference + turn) % n
    ends = cumulative(masses(key_round, jnp.roll(log_weights, turn), num))
    first, fraction = _point_of_reference(key_point, ends, turned, bits)
    points = jax.random.bits(key_points, (num,), jnp.uint32) >> (32 - bits)
    points = points.at[first].set(fraction)
    return (_rotated(ancestors_of(ends_stratified(ends, points, bits), num), first, turned) - turn) % n


def conditional_killing(
    key: Key[Array, ""], log_weights: Float[Array, " n"], num: int, reference: int | Int[Array, ""] = 0
) -> Int[Array, " num"]:
    r"""Killing given `ancestors[0] == reference`. Arguments and result as `conditional_multinomial`.

    After a random rotation slot 0 stands for the original slot $s$, uniform. Jointly,
    $P(s, A_s = r) = \frac1N [1_{s=r} p_r + (1 - p_s) W_r]$ with $p = W / \max W$, so that $s$ given $A_s = r$ is $r$
    with weight $p_r / W_r = 1 / \max W$ and any $s$ with weight $1 - p_s$. The other slots are killed as usual.

    **Raises:** `ValueError` unless `num` is the number of particles.
    """
    n = log_weights.shape[0]
    if num != n:
        raise ValueError(f"num: conditional killing keeps the number of particles, {n}, got {num}")
    key_slot, key_rest = jax.random.split(key)
    weights = normalised(log_weights)
    top = jnp.max(weights)
    # Compiled division by the largest weight may give a little more than 1, and the log of a negative chance is NaN.
    chance = jnp.maximum(1 - weights / top, 0).at[reference].add(1 / top)
    slot = jax.random.categorical(key_slot, jnp.log(chance)).astype(jnp.int32)
    return _rotated(killing(key_rest, log_weights, num).at[slot].set(reference), slot, reference)


def _point_of_reference(
    key: Key[Array, ""], ends: UInt32[Array, " n"], reference: int | Int[Array, ""], bits: int
) -> tuple[Int[Array, ""], UInt32[Array, ""]]:
    """A uniform point on the reference's stretch of the CDF, as the index of its stratum and its fraction therein."""
    end = ends[reference]
    start = jnp.where(reference > 0, ends[jnp.maximum(reference - 1, 0)], 0).astype(jnp.uint32)
    # A reference of weight zero has no stretch; its first unit then stands for it, and slot 0 is pinned below.
    length = jnp.maximum(end - start, 1)
    point = jnp.minimum(start + uniform_below(key, length), ends[-1] - 1)
    return (point >> bits).astype(jnp.int32), point & ((1 << bits) - 1)


def _rotated(
    ancestors: Int[Array, " num"], first: Int[Array, ""], reference: int | Int[Array, ""]
) -> Int[Array, " num"]:
    """Ancestors with entry `first` moved to slot 0, where the reference is pinned."""
    return jnp.roll(ancestors, -first).at[0].set(reference)
