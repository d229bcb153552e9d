"""Resampling: unbiased schemes that draw ancestors in proportion to weights.

All have one signature, `scheme(key, log_weights, num) -> ancestors`, are jit- and vmap-able, never draw a particle of
weight zero while one of positive weight exists (all dead counts as equal weights, so that a run can go on), and work
on exact integer masses (`ppl.smc.counting`), so that a million float32 weights are resampled without bias.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, UInt32

from ppl.smc.counting import ancestors_of, cumulative, fraction_bits, masses, uniform_below
from ppl.smc.weights import normalised


def systematic(key: Key[Array, ""], log_weights: Float[Array, " n"], num: int) -> Int[Array, " num"]:
    r"""Systematic resampling: one uniform, `num` equally spaced points on the CDF of the weights.

    Offspring of particle $i$ number $\lfloor N W_i \rfloor$ or $\lceil N W_i \rceil$, with $N$ = `num`. The lowest
    variance in practice, and the default; no central limit theorem covers it in every order of the particles.

    **Arguments:**

    - `key`: one key.
    - `log_weights`: `[n]`, unnormalised.
    - `num`: how many ancestors to draw.

    **Returns:** sorted int32 indices `[num]`.

    **Source:** Kitagawa (1996); Chopin & Papaspiliopoulos (2020), algorithm 9.3.
    """
    key_round, key_point = jax.random.split(key)
    bits = fraction_bits(num)
    ends = cumulative(masses(key_round, log_weights, num))
    point = _fraction(key_point, (), bits)
    return ancestors_of((ends + point) >> bits, num)


def stratified(key: Key[Array, ""], log_weights: Float[Array, " n"], num: int) -> Int[Array, " num"]:
    r"""Stratified resampling: an independent uniform point in each of `num` equal strata of the CDF.

    Arguments and result as `systematic`. Variance no larger than multinomial.

    **Source:** Kitagawa (1996); Douc, Cappé & Moulines (2005).
    """
    key_round, key_points = jax.random.split(key)
    bits = fraction_bits(num)
    ends = cumulative(masses(key_round, log_weights, num))
    return ancestors_of(ends_stratified(ends, _fraction(key_points, (num,), bits), bits), num)


def ends_stratified(ends: UInt32[Array, " n"], points: UInt32[Array, " num"], bits: int) -> UInt32[Array, " n"]:
    """Cumulative offspring counts when stratum `s` holds its point at fraction `points[s]` (in units of `2**-bits`).

    Strata that end before `ends[i]` count whole; the one that `ends[i]` falls into counts if its point lies below.
    """
    stratum = ends >> bits
    # The last end closes the last stratum and falls into none: any point is above a fraction of 0.
    below = points.at[stratum].get(mode="clip") < (ends & ((1 << bits) - 1))
    return stratum + below.astype(jnp.uint32)


def multinomial(key: Key[Array, ""], log_weights: Float[Array, " n"], num: int) -> Int[Array, " num"]:
    """Multinomial resampling: independent draws. The highest variance; for theory and comparison.

    Arguments as `systematic`; the indices are not sorted.

    **Source:** Gordon, Salmond & Smith (1993).
    """
    key_round, key_points = jax.random.split(key)
    ends = cumulative(masses(key_round, log_weights, num))
    return _draw(key_points, ends, jnp.int32(num), num)


def residual(key: Key[Array, ""], log_weights: Float[Array, " n"], num: int) -> Int[Array, " num"]:
    r"""Residual resampling: $\lfloor N W_i \rfloor$ copies of each, the rest multinomial on what is left.

    Arguments as `systematic`; the deterministic copies come first, sorted, then the rest.

    **Source:** Liu & Chen (1998).
    """
    key_round, key_points = jax.random.split(key)
    bits = fraction_bits(num)
    mass = masses(key_round, log_weights, num)
    copies = cumulative((mass >> bits).astype(jnp.int32))
    left = num - copies[-1]
    ends = cumulative(mass & ((1 << bits) - 1))
    # Nothing left (equal weights, say) leaves nothing to draw on: draw on one whole, and use none of it.
    drawn = _draw(key_points, ends, jnp.maximum(left, 1), num)
    return jnp.where(
        jnp.arange(num, dtype=jnp.int32) < copies[-1], ancestors_of(copies, num), jnp.minimum(drawn, mass.shape[0] - 1)
    )


def killing(key: Key[Array, ""], log_weights: Float[Array, " n"], num: int) -> Int[Array, " num"]:
    r"""Killing: slot $i$ keeps particle $i$ with probability $W_i / \max W$, otherwise draws from the weights.

    Moves few particles when weights are nearly equal, which suits fine time steps. With `num` unlike `n`, slots are
    matched with particles by a random permutation, repeated as needed, so that it stays unbiased.

    Arguments as `systematic`; survivors stand in their own slots when `num == n`.

    **Source:** Del Moral (2004), section 2.5.3; Chopin, Singh, Soto & Vihola (2022).
    """
    n = log_weights.shape[0]
    key_keep, key_round, key_points, key_slots = jax.random.split(key, 4)
    slots = jnp.arange(n, dtype=jnp.int32)
    if num != n:
        slots = jnp.resize(jax.random.permutation(key_slots, slots), (num,))
    drawn = _draw(key_points, cumulative(masses(key_round, log_weights, num)), jnp.int32(num), num)
    weights = normalised(log_weights)
    keep = jax.random.uniform(key_keep, (num,), weights.dtype) < (weights / jnp.max(weights))[slots]
    return jnp.where(keep, slots, drawn)


def ssp(key: Key[Array, ""], log_weights: Float[Array, " n"], num: int) -> Int[Array, " num"]:
    r"""SSP (Srinivasan sampling process): floor or ceiling of $N W_i$, with negatively associated counts.

    As even as systematic resampling, and consistent in any order of the particles. Two fractions $p, q$ meet; one of
    them becomes 0 or 1 and the other takes what is left, in expectation unchanged, until all are settled.

    Arguments and result as `systematic`. Pairs meet in a knock-out tree (depth $\log_2 n$) instead of one after the
    other as in Gerber et al.: Srinivasan's own order, as negatively associated, and parallel.

    **Source:** Srinivasan (2001); Gerber, Chopin & Whiteley (2019), algorithm 3; Brändén & Jonasson (2012) for
    tournament orders.
    """
    key_round, key_pairs = jax.random.split(key)
    bits = fraction_bits(num)
    mass = masses(key_round, log_weights, num)
    one = jnp.uint32(1 << bits)
    counts = (mass >> bits).astype(jnp.int32)
    fraction = mass & (one - 1)
    holder = jnp.arange(mass.shape[0], dtype=jnp.int32)
    while fraction.shape[0] > 1:
        key_pairs, key_level = jax.random.split(key_pairs)
        counts, fraction, holder = _ssp_round(key_level, counts, fraction, holder, one)
    # Fractions sum to an integer, so the champion holds 0 or 1.
    counts = counts.at[holder].add((fraction >> bits).astype(jnp.int32))
    return ancestors_of(cumulative(counts), num)


def _ssp_round(
    key: Key[Array, ""],
    counts: Int[Array, " n"],
    fraction: UInt32[Array, " m"],
    holder: Int[Array, " m"],
    one: UInt32[Array, ""],
) -> tuple[Int[Array, " n"], UInt32[Array, " half"], Int[Array, " half"]]:
    """All pairs of one round meet; of each, one is settled (its count final) and the other goes on."""
    if fraction.shape[0] % 2:  # a bye: an opponent of fraction 0 changes nothing
        fraction, holder = jnp.pad(fraction, (0, 1)), jnp.pad(holder, (0, 1), mode="edge")
    p, q = fraction[0::2], fraction[1::2]
    first, second = holder[0::2], holder[1::2]
    total = p + q
    over = total > one
    # Sum at most one: the winner takes it all, the loser is settled at 0; it is `first` with probability p / (p + q).
    # Sum above one: one of them is settled at 1, `second` with probability (1 - p) / (2 - p - q).
    chance, among = jnp.where(over, one - p, p), jnp.where(over, 2 * one - total, total)
    uniform = jax.random.uniform(key, p.shape, jnp.float32)
    first_goes_on = uniform * among.astype(jnp.float32) < chance.astype(jnp.float32)
    settled = jnp.where(first_goes_on, second, first)
    counts = counts.at[settled].add(over.astype(jnp.int32))
    return counts, jnp.where(over, total - one, total), jnp.where(first_goes_on, first, second)


def _fraction(key: Key[Array, ""], shape: tuple[int, ...], bits: int) -> UInt32[Array, "..."]:
    """Uniform integers in `[0, 2**bits)`."""
    return jax.random.bits(key, shape, jnp.uint32) >> (32 - bits)


def _draw(key: Key[Array, ""], ends: UInt32[Array, " n"], whole: Int[Array, ""], num: int) -> Int[Array, " num"]:
    """`num` independent draws on cumulative masses of `whole` particles in total."""
    total = whole.astype(jnp.uint32) << fraction_bits(num)
    return jnp.searchsorted(ends, uniform_below(key, total, (num,)), side="right").astype(jnp.int32)
