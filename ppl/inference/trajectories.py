"""Trajectories of the No-U-Turn sampler, one leapfrog step at a time, for chains that do not wait for each other.

Under `vmap` a sampler whose draws are loops makes all chains wait in each draw for the longest one. Here a chain is a
machine whose state says where in a trajectory it is: a step of all machines is one leapfrog step of each, whatever
draw it belongs to, and a chain whose trajectory is over begins the next one while the others go on.

Where densities are cheap, what counts is the number of small operations in a step: things that change together lie in
one array, and random numbers come from one hash.

**Source:** trajectories: Hoffman & Gelman (2014), Betancourt (2017, A.3 and A.4.2: multinomial, with the generalised
U-turn); without recursion: Phan, Pradhan & Jankowiak (2019); chains as machines: Dance, Glaser, Orbanz & Adams (2025).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, PyTree, UInt32

from ppl.inference.batching import each_chain
from ppl.inference.densities import LogDensity
from ppl.inference.triangular import inverse_of_lower

# An error of energy above which a trajectory has left its level: Stan's.
_DIVERGENT = 1000.0
# Numbers of the hash from which on they are for steps; those below are for the momentum.
_OF_STEPS = np.uint32(2**31)


class Point(NamedTuple):
    """A position with its log density and gradient."""

    position: Float[Array, "*chains d"]
    logdensity: Float[Array, "*chains"]
    gradient: Float[Array, "*chains d"]


class Motion(NamedTuple):
    """What a chain moves by. The mass matrix is diagonal or whole; `root` times normal numbers is a momentum."""

    step_size: Float[Array, "*chains"]
    inverse_mass_matrix: Float[Array, "*chains d"] | Float[Array, "*chains d d"]
    root: Float[Array, "*chains d"] | Float[Array, "*chains d d"]


class Numbers(NamedTuple):
    """Of a trajectory: its energy at the start; of the part and of the whole the log density and energy of the state
    chosen from it and its log weight; acceptance summed over steps.
    """

    energy: Float[Array, "*chains"]
    part_logdensity: Float[Array, "*chains"]
    part_energy: Float[Array, "*chains"]
    part_weight: Float[Array, "*chains"]
    logdensity: Float[Array, "*chains"]
    chosen_energy: Float[Array, "*chains"]
    weight: Float[Array, "*chains"]
    acceptance: Float[Array, "*chains"]


class Trajectory(NamedTuple):
    """A trajectory in the making: the whole of it, and the part that doubles it once that has as many steps."""

    t: UInt32[Array, "*chains"]  # which draw it is for
    turns: UInt32[Array, "*chains"]  # bit j: the direction of doubling j
    direction: Float[Array, "*chains"]  # 1, -1, or 0 for a chain that has all its draws
    ends: Float[Array, "*chains 2 4 d"]  # the moving one and the other: position, momentum, velocity, gradient
    chosen: Float[Array, "*chains 2 2 d"]  # from the part and from the whole: position, gradient
    momenta: Float[Array, "*chains 2 d"]  # summed along the part and the whole
    # Of steps where stretches of the part begin that are still to be looked at for a U-turn, one for each doubling:
    # the velocity, and the sum of momenta up to the middle of the step.
    marks: Float[Array, "*chains 2 doublings d"]
    numbers: Float[Array, "*chains 8"]  # `Numbers`
    counts: Int[Array, "*chains 3"]  # doublings, steps of the part, steps in all
    diverging: Bool[Array, "*chains"]
    over: Bool[Array, "*chains"]

    def read(self) -> Numbers:
        """The numbers by name."""
        return Numbers(*(self.numbers[..., i] for i in range(len(Numbers._fields))))

    def state(self) -> Point:
        """The state chosen so far."""
        return Point(self.chosen[..., 1, 0, :], self.read().logdensity, self.chosen[..., 1, 1, :])


Arrive = Callable[[Bool[Array, " chains"], Int[Array, " chains"], Trajectory, Motion, Any], tuple[Motion, Any]]


def journey(
    keys: Key[Array, " chains"],
    log_density: LogDensity,
    starts: Point,
    motion: Motion,
    first: Int[Array, ""],
    draws: int,
    doublings: int,
    arrive: Arrive,
    kept: PyTree,
) -> tuple[Point, Motion, PyTree]:
    """`draws` draws of every chain, each going at its own pace.

    The randomness of a draw is that of its key and number, which count from `first`: it depends neither on other
    chains nor on `draws`.

    **Arguments:** `arrive(arrived, t, trajectories, motion, kept)` is called whenever trajectories are over; `arrived`
    says which, and `t`, `[chains]`, at which draw chains are. It returns `motion` and `kept`.

    **Returns:** where the chains are, what they move by, and what was kept.
    """
    value_and_gradient = jax.value_and_grad(log_density)
    words = each_chain(lambda key: jax.random.bits(key, (2,), jnp.uint32), keys)

    def begun(words: UInt32[Array, "2"], t: Int[Array, ""], start: Point, motion: Motion) -> Trajectory:
        return _begun(words, (first + t).astype(jnp.uint32), start, motion, t < draws, doublings)

    def step(words: UInt32[Array, "2"], trajectory: Trajectory, motion: Motion) -> Trajectory:
        return _step(words, value_and_gradient, trajectory, motion)

    def unfinished(carry: tuple[Any, ...]) -> Bool[Array, ""]:
        return jnp.any(carry[0] < draws)

    def until_one_arrives(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        t, trajectories, reached, motion, kept = carry
        trajectories = jax.lax.while_loop(
            lambda those: ~jnp.any(those.over), lambda those: each_chain(step, words, those, motion), trajectories
        )
        arrived = trajectories.over & (t < draws)
        motion, kept = arrive(arrived, t, trajectories, motion, kept)
        t = t + arrived
        chosen = trajectories.state()
        reached = chosen_by(arrived, chosen, reached)
        trajectories = chosen_by(trajectories.over, each_chain(begun, words, t, chosen, motion), trajectories)
        return t, trajectories, reached, motion, kept

    t = jnp.zeros(keys.shape, jnp.int32)
    carry = (t, each_chain(begun, words, t, starts, motion), starts, motion, kept)
    _, _, reached, motion, kept = jax.lax.while_loop(unfinished, until_one_arrives, carry)
    return reached, motion, kept


def chosen_by(which: Bool[Array, " chains"], new: PyTree, old: PyTree) -> PyTree:
    """Of each chain the new leaves or the old ones."""
    return jax.tree.map(lambda a, b: jnp.where(which.reshape(-1, *[1] * (a.ndim - 1)), a, b), new, old)


def root_of(inverse_mass_matrix: Float[Array, "*d"]) -> Float[Array, "*d"]:
    """What makes momenta of normal numbers: a root of the mass matrix."""
    if inverse_mass_matrix.ndim == 1:
        return jax.lax.rsqrt(inverse_mass_matrix)
    return inverse_of_lower(jnp.linalg.cholesky(inverse_mass_matrix)).T


def _begun(
    words: UInt32[Array, "2"],
    t: UInt32[Array, ""],
    start: Point,
    motion: Motion,
    active: Bool[Array, ""],
    doublings: int,
) -> Trajectory:
    d, dtype = start.position.shape[0], start.position.dtype
    bits = jnp.concatenate(hashed(words, t, jnp.arange(d // 2 + 1, dtype=jnp.uint32)))
    normal = jnp.sqrt(jnp.asarray(2, dtype)) * jax.lax.erf_inv(2 * _uniform(bits[:d], dtype) - 1)
    momentum = _times(motion.root, normal)
    velocity = _times(motion.inverse_mass_matrix, momentum)
    energy = 0.5 * jnp.sum(momentum * velocity) - start.logdensity
    zero = jnp.zeros((), dtype)
    numbers = Numbers(energy, start.logdensity, energy, zero, start.logdensity, energy, zero, zero)
    end = jnp.stack([start.position, momentum, velocity, start.gradient])
    none = jnp.zeros((), jnp.int32)
    return Trajectory(
        t=t,
        turns=bits[d],
        direction=jnp.where(active, _direction(bits[d], none, dtype), 0),
        ends=jnp.stack([end, end]),
        chosen=jnp.broadcast_to(end[::3], (2, 2, d)),
        momenta=jnp.stack([jnp.zeros_like(momentum), momentum]),
        marks=jnp.zeros((2, doublings, d), dtype),
        numbers=jnp.stack(numbers),
        counts=jnp.zeros(3, jnp.int32),
        diverging=jnp.zeros((), bool),
        over=jnp.zeros((), bool),
    )


def _step(
    words: UInt32[Array, "2"], value_and_gradient: Callable[..., Any], now: Trajectory, motion: Motion
) -> Trajectory:
    """One leapfrog step, and what it decides: the state chosen, whether the trajectory doubles, whether it is over."""
    dtype = now.numbers.dtype
    numbers, (doubling, leaf, steps) = now.read(), now.counts
    doublings = now.marks.shape[1]
    position, momentum, _, gradient = now.ends[0]
    size = now.direction * motion.step_size
    half = momentum + 0.5 * size * gradient
    position = position + size * _times(motion.inverse_mass_matrix, half)
    logdensity, gradient = value_and_gradient(position)
    momentum = half + 0.5 * size * gradient
    velocity = _times(motion.inverse_mass_matrix, momentum)
    end = jnp.stack([position, momentum, velocity, gradient])

    # Where the gradient is near the largest float, products that a whole matrix sums to the kinetic energy overflow to
    # both signs; a sum of -inf would always be accepted.
    energy = 0.5 * jnp.sum(momentum * velocity) - logdensity
    log_weight = jnp.where(jnp.isfinite(energy), numbers.energy - energy, -jnp.inf)
    diverging = -log_weight > _DIVERGENT
    one, other = (_uniform(word, dtype) for word in hashed(words, now.t, steps.astype(jnp.uint32) + _OF_STEPS))

    begins = leaf == 0
    part_weight = jnp.logaddexp(jnp.where(begins, -jnp.inf, numbers.part_weight), log_weight)
    here = begins | (one < jnp.exp(log_weight - part_weight))
    part = jnp.where(begins, 0, now.momenta[0]) + momentum
    whole = part + now.momenta[1]

    # Of the part, stretches from marks to here; of the whole, all of it.
    level, (lowest, highest) = jnp.arange(doublings), _levels(leaf)
    middle = part - 0.5 * momentum
    mark = jnp.stack([velocity, middle])[:, None]
    marks = jnp.where(((level == highest) & (leaf % 2 == 0))[:, None], mark, now.marks)
    far = now.ends[1]
    between = jnp.concatenate([middle - marks[1], (whole - 0.5 * (momentum + far[1]))[None]])
    ahead = jnp.sum(between * velocity, axis=1)
    behind = jnp.sum(between * jnp.concatenate([marks[0], far[2][None]]), axis=1)
    back = (ahead <= 0) | (behind <= 0)
    failed = diverging | jnp.any(back[:-1] & (lowest <= level) & (level <= highest))

    closes = failed | (leaf + 1 == 1 << doubling)
    joins = closes & ~failed
    there = joins & (other < jnp.exp(part_weight - numbers.weight))
    over = closes & (failed | back[-1] | (doubling + 1 == doublings))
    direction = _direction(now.turns, doubling + 1, dtype) * jnp.abs(now.direction)
    swaps = closes & (direction != now.direction)
    from_part = jnp.where(here, end[::3], now.chosen[0])
    part_logdensity = jnp.where(here, logdensity, numbers.part_logdensity)
    part_energy = jnp.where(here, energy, numbers.part_energy)
    return Trajectory(
        t=now.t,
        turns=now.turns,
        direction=jnp.where(closes, direction, now.direction),
        ends=jnp.where(swaps, jnp.stack([far, end]), jnp.stack([end, far])),
        chosen=jnp.stack([from_part, jnp.where(there, from_part, now.chosen[1])]),
        momenta=jnp.stack([part, jnp.where(joins, whole, now.momenta[1])]),
        marks=marks,
        numbers=jnp.stack(
            Numbers(
                energy=numbers.energy,
                part_logdensity=part_logdensity,
                part_energy=part_energy,
                part_weight=part_weight,
                logdensity=jnp.where(there, part_logdensity, numbers.logdensity),
                chosen_energy=jnp.where(there, part_energy, numbers.chosen_energy),
                weight=jnp.where(joins, jnp.logaddexp(numbers.weight, part_weight), numbers.weight),
                acceptance=numbers.acceptance + jnp.minimum(1, jnp.exp(log_weight)),
            )
        ),
        counts=jnp.stack([doubling + closes, jnp.where(closes, 0, leaf + 1), steps + 1]),
        diverging=diverging,
        over=over,
    )


def _times(matrix: Float[Array, "*d"], vector: Float[Array, " d"]) -> Float[Array, " d"]:
    return matrix * vector if matrix.ndim == 1 else matrix @ vector


def _levels(leaf: Int[Array, ""]) -> tuple[Int[Array, ""], Int[Array, ""]]:
    """First and last of the marks that step `leaf` of a part is compared with; of an even one, its own is the last.

    A mark is at the number of ones in the step it belongs to, halved; stretches that end at `leaf` are as many as the
    ones that it ends in.
    """
    highest = jax.lax.population_count(leaf >> 1)
    ends = jax.lax.population_count((~leaf & (leaf + 1)) - 1)
    return highest - ends + 1, highest


def _direction(turns: UInt32[Array, ""], doubling: Int[Array, ""], dtype: Any) -> Float[Array, ""]:
    return 1 - 2 * ((turns >> doubling.astype(jnp.uint32)) & 1).astype(dtype)


def _uniform(bits: UInt32[Array, "*shape"], dtype: Any) -> Float[Array, "*shape"]:
    """Numbers strictly between 0 and 1."""
    return ((bits >> 8).astype(dtype) + 0.5) * 2.0**-24


def hashed(
    words: UInt32[Array, "2"], high: UInt32[Array, "*#shape"], low: UInt32[Array, "*shape"]
) -> tuple[UInt32[Array, "*shape"], UInt32[Array, "*shape"]]:
    """Threefry-2x32 of two counters: what `jax.random` is made of, where on a CPU it is a loop of small operations.

    **Source:** Salmon, Moraes, Dror & Shaw (2011).
    """
    key = [words[0], words[1], words[0] ^ words[1] ^ jnp.uint32(0x1BD11BDA)]
    a, b = high + key[0], low + key[1]
    for group in range(5):
        for turn in ((13, 15, 26, 6), (17, 29, 16, 24))[group % 2]:
            a = a + b
            b = ((b << turn) | (b >> (32 - turn))) ^ a
        a, b = a + key[(group + 1) % 3], b + key[(group + 2) % 3] + jnp.uint32(group + 1)
    return a, b
