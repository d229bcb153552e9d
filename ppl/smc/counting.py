"""Integer arithmetic of resampling: weights as fixed-point masses, offspring counts as ancestor indices.

Resampling compares points on `[0, num)` with the cumulative sum of `num * W_i`. At a million particles a float32
cumulative sum near its end resolves 1/16 of a particle, which biases the counts. Here masses are 32-bit integers:
`num * W_i` in units of `2**-bits`, rounded at random so that their expectation is exact, and their cumulative sum is
exact. Whatever is drawn on them is then unbiased at every size, and counts never leave floor and ceiling by rounding.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, UInt32

from ppl.smc.weights import normalised

# Measured on CPU at 10**6 particles: windows of 16, and in turn of their totals, take a third of the time of
# `jnp.cumsum`, which works in log-depth passes over the whole array.
_WINDOW = 16
_GOLDEN = 2654435769  # 2**32 over the golden ratio: its multiples mod 2**32 are the most even sequence there is


def fraction_bits(num: int) -> int:
    """Bits after the point that let `num + 1` offspring fit into 32 bits: 22 for a thousand, 12 for a million.

    **Raises:** `ValueError` unless `1 <= num < 2**28`.
    """
    if not 1 <= num < 2**28:
        raise ValueError(f"num: from 1 to 2**28 - 1 particles can be drawn, got {num}")
    return 32 - num.bit_length()


def masses(key: Key[Array, ""], log_weights: Float[Array, " n"], num: int) -> UInt32[Array, " n"]:
    """`num * W_i` in units of `2**-fraction_bits(num)`, as integers whose sum is exactly `num` units of particles.

    Each is rounded to one of its two neighbours with the right expectation; the thresholds are an even sequence
    shifted by one random number, so that rounding errors cancel in every run of neighbours. What float32 leaves of the
    total, some 1e-7 of it, goes to the heaviest particle.
    """
    one = 2.0 ** fraction_bits(num)
    scaled = normalised(log_weights) * (num * one)
    whole = jnp.floor(scaled)
    index = jax.lax.iota(jnp.uint32, log_weights.shape[0])
    threshold = jax.random.bits(key, (), jnp.uint32) + index * jnp.uint32(_GOLDEN)
    # Only 24 bits of the threshold survive in float32, and a threshold of 1 would never round up: shift it below.
    unit = (threshold >> 8).astype(scaled.dtype) * 2.0**-24
    mass = whole.astype(jnp.uint32) + (unit < scaled - whole).astype(jnp.uint32)
    # Sums wrap around 2**32, which keeps their small difference exact.
    missing = jnp.uint32(num * int(one)) - jnp.sum(mass, dtype=jnp.uint32)
    # The first of the heaviest; two plain reductions, which XLA vectorises on CPU as it does not `argmax`.
    heaviest = jnp.min(jnp.where(scaled == jnp.max(scaled), index, jnp.uint32(log_weights.shape[0] - 1)))
    return mass.at[heaviest].add(missing)


def cumulative(x: UInt32[Array, " n"] | Int[Array, " n"]) -> UInt32[Array, " n"] | Int[Array, " n"]:
    """Cumulative sum of integers."""
    n = x.shape[0]
    zero = jnp.zeros((), x.dtype)
    if n <= 4 * _WINDOW:
        return jax.lax.reduce_window(x, zero, jax.lax.add, (n,), (1,), ((n - 1, 0),))
    rows = jnp.pad(x, (0, -n % _WINDOW)).reshape(-1, _WINDOW)
    within = jax.lax.reduce_window(rows, zero, jax.lax.add, (1, _WINDOW), (1, 1), ((0, 0), (_WINDOW - 1, 0)))
    totals = within[:, -1]
    before = cumulative(totals) - totals
    return (within + before[:, None]).reshape(-1)[:n]


def uniform_below(key: Key[Array, ""], bound: UInt32[Array, ""], shape: tuple[int, ...] = ()) -> UInt32[Array, "..."]:
    """Uniform integers in `[0, bound)`: the high word of a 32-bit random number times `bound`.

    Every stretch of integers has its probability to within 2**-32. (`jax.random.randint` takes a remainder of 32 bits,
    which makes the lower part of a range of 2**30 a third more likely than the upper.)
    """
    bits = jax.random.bits(key, shape, jnp.uint32)
    low, high = bits & 0xFFFF, bits >> 16
    bound_low, bound_high = bound & 0xFFFF, bound >> 16
    first, second = high * bound_low, low * bound_high
    carry = (first & 0xFFFF) + (second & 0xFFFF) + (low * bound_low >> 16)
    return high * bound_high + (first >> 16) + (second >> 16) + (carry >> 16)


def ancestors_of(ends: Int[Array, " n"] | UInt32[Array, " n"], num: int) -> Int[Array, " num"]:
    """Sorted ancestor indices from cumulative offspring counts: slot `s` goes to the first `i` with `ends[i] > s`.

    A scatter of marks and a cumulative sum, 4.7 times faster than `searchsorted` at a million particles on CPU.
    """
    marks = jnp.zeros((num,), jnp.int32).at[ends].add(1, mode="drop", indices_are_sorted=True)
    return cumulative(marks)
