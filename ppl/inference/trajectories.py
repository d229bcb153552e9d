"""Trajectories of the No-U-Turn sampler, one leapfrog step at a time, for chains that do not wait for each other.

Under `vmap` a sampler whose draws are loops makes all chains wait in each draw for the longest one. Here a chain is a
machine whose state says where in a trajectory it is: a step of all machines is one leapfrog step of each, whatever
draw it belongs to, and a chain whose trajectory is over begins the next one while the others go on.

Where densities are cheap, what counts is what XLA makes of a step on a CPU. It writes an operation out again wherever
its result is used, which is why chances are drawn a step ahead; and of numbers that lie in one array with others it
makes code that asks of each which one it is, which is why hardly anything is stacked.

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
from ppl.inference.compiling import in_one_piece, loops_are_whole
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


class End(NamedTuple):
    """An end of a trajectory."""

    position: Float[Array, "*chains d"]
    momentum: Float[Array, "*chains d"]
    velocity: Float[Array, "*chains d"]
    gradient: Float[Array, "*chains d"]


class Stretch(NamedTuple):
    """The state chosen from a stretch of a trajectory, and the log weight and summed momenta of all its states."""

    position: Float[Array, "*chains d"]
    gradient: Float[Array, "*chains d"]
    logdensity: Float[Array, "*chains"]
    energy: Float[Array, "*chains"]
    weight: Float[Array, "*chains"]
    momenta: Float[Array, "*chains d"]


class Marks(NamedTuple):
    """Steps where stretches of the part begin that are still to be looked at for a U-turn, one for each doubling: the
    velocity, and the sum of momenta up to the middle of the step.
    """

    velocity: Float[Array, "*chains doublings d"]
    middle: Float[Array, "*chains doublings d"]


class Trajectory(NamedTuple):
    """A trajectory in the making: the whole of it, and the part that doubles it once that has as many steps."""

    t: UInt32[Array, "*chains"]  # which draw it is for
    turns: UInt32[Array, "*chains"]  # bit j: the direction of doubling j
    direction: Float[Array, "*chains"]  # 1, -1, or 0 for a chain that has all its draws
    energy: Float[Array, "*chains"]  # at the start
    moving: End
    resting: End
    part: Stretch
    whole: Stretch
    marks: Marks
    chances: tuple[Float[Array, "*chains"], Float[Array, "*chains"]]  # uniform numbers for the next step
    acceptance: Float[Array, "*chains"]  # summed over steps
    doubling: Int[Array, "*chains"]
    leaf: Int[Array, "*chains"]  # steps of the part
    steps: Int[Array, "*chains"]  # in all
    diverging: Bool[Array, "*chains"]
    over: Bool[Array, "*chains"]

    def state(self) -> Point:
        """The state chosen so far."""
        return Point(self.whole.position, self.whole.logdensity, self.whole.gradient)


Arrive = Callable[[Bool[Array, " chains"], Int[Array, " chains"], Trajectory, Motion, Any], tuple[Motion, Any]]


def journey(
    keys: Key[Array, " chains"],
    log_density: LogDensity,
    starts: Point,
    motion: Motion,
    first: Int[Array, ""],
    draws: int | Int[Array, ""],
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

    def underway(trajectories: Trajectory) -> Bool[Array, ""]:
        return ~jnp.any(trajectories.over)

    def step(trajectories: Trajectory, motion: Motion) -> Trajectory:
        moved = each_chain(lambda *those: _leapfrog(value_and_gradient, *those), trajectories, motion)
        return in_one_piece(lambda those: each_chain(_decided, words, those, *moved), trajectories)

    def unfinished(carry: tuple[Any, ...]) -> Bool[Array, ""]:
        return jnp.any(carry[0] < draws)

    def arrival(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        t, trajectories, reached, motion, kept = carry
        arrived = trajectories.over & (t < draws)
        motion, kept = arrive(arrived, t, trajectories, motion, kept)
        t = t + arrived
        chosen = trajectories.state()
        reached = chosen_by(arrived, chosen, reached)
        trajectories = chosen_by(trajectories.over, each_chain(begun, words, t, chosen, motion), trajectories)
        return t, trajectories, reached, motion, kept

    def until_one_arrives(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        t, trajectories, reached, motion, kept = carry
        trajectories = jax.lax.while_loop(underway, lambda those: step(those, motion), trajectories)
        return in_one_piece(arrival, (t, trajectories, reached, motion, kept))

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
    zero, none = jnp.zeros((), dtype), jnp.zeros((), jnp.int32)
    end = End(start.position, momentum, velocity, start.gradient)
    state = Stretch(start.position, start.gradient, start.logdensity, energy, zero, momentum)
    return Trajectory(
        t=t,
        turns=bits[d],
        direction=jnp.where(active, _direction(bits[d], none, dtype), 0),
        energy=energy,
        moving=end,
        resting=end,
        part=state,
        whole=state,
        marks=Marks(jnp.zeros((doublings, d), dtype), jnp.zeros((doublings, d), dtype)),
        chances=_chances(words, t, none, dtype),
        acceptance=zero,
        doubling=none,
        leaf=none,
        steps=none,
        diverging=jnp.zeros((), bool),
        over=jnp.zeros((), bool),
    )


def _leapfrog(
    value_and_gradient: Callable[..., Any], now: Trajectory, motion: Motion
) -> tuple[End, Float[Array, "*chains"]]:
    """One step of the moving end, and the log density there."""
    position, momentum, _, gradient = now.moving
    size = now.direction * motion.step_size
    half = momentum + 0.5 * size * gradient
    position = position + size * _times(motion.inverse_mass_matrix, half)
    logdensity, gradient = value_and_gradient(position)
    momentum = half + 0.5 * size * gradient
    return End(position, momentum, _times(motion.inverse_mass_matrix, momentum), gradient), logdensity


def _decided(words: UInt32[Array, "2"], now: Trajectory, end: End, logdensity: Float[Array, "*chains"]) -> Trajectory:
    """What a step decides: the state chosen, whether the trajectory doubles, whether it is over."""
    dtype = now.energy.dtype
    (one, other), doubling, leaf, far = now.chances, now.doubling, now.leaf, now.resting
    doublings = now.marks.middle.shape[0]

    # Where the gradient is near the largest float, products that a whole matrix sums to the kinetic energy overflow to
    # both signs; a sum of -inf would always be accepted.
    energy = 0.5 * jnp.sum(end.momentum * end.velocity) - logdensity
    log_weight = jnp.where(jnp.isfinite(energy), now.energy - energy, -jnp.inf)
    diverging = -log_weight > _DIVERGENT

    begins = leaf == 0
    weight = jnp.where(begins, log_weight, _log_sum(now.part.weight, log_weight))
    momenta = jnp.where(begins, 0, now.part.momenta) + end.momentum
    here = begins | (one < jnp.exp(log_weight - weight))
    state = Stretch(end.position, end.gradient, logdensity, energy, weight, momenta)
    part = _either(here, state, now.part)._replace(weight=weight, momenta=momenta)

    # Of the part, stretches from marks to here; of the whole, all of it.
    lowest, highest = _levels(leaf)
    mark = Marks(end.velocity, momenta - 0.5 * end.momentum)
    turned = _turned_since_a_mark(lowest, highest, now.marks, mark)
    new = (jnp.arange(doublings) == highest) & (leaf % 2 == 0)
    marks = _either(new[:, None], mark, now.marks)
    whole_momenta = now.whole.momenta + momenta
    across = whole_momenta - 0.5 * (end.momentum + far.momentum)

    failed = diverging | turned
    closes = failed | (leaf + 1 == 1 << doubling)
    joins = closes & ~failed
    there = joins & (other < jnp.exp(weight - now.whole.weight))
    whole = _either(there, part, now.whole)._replace(
        weight=jnp.where(joins, _log_sum(now.whole.weight, weight), now.whole.weight),
        momenta=jnp.where(joins, whole_momenta, now.whole.momenta),
    )
    over = closes & (failed | _turned(across, far.velocity, end.velocity) | (doubling + 1 == doublings))
    direction = jnp.where(closes, _direction(now.turns, doubling + 1, dtype) * jnp.abs(now.direction), now.direction)
    swaps = direction != now.direction
    return Trajectory(
        t=now.t,
        turns=now.turns,
        direction=direction,
        energy=now.energy,
        moving=_either(swaps, far, end),
        resting=_either(swaps, end, far),
        part=part,
        whole=whole,
        marks=marks,
        chances=_chances(words, now.t, now.steps + 1, dtype),
        acceptance=now.acceptance + jnp.minimum(1, jnp.exp(log_weight)),
        doubling=doubling + closes,
        leaf=jnp.where(closes, 0, leaf + 1),
        steps=now.steps + 1,
        diverging=diverging,
        over=over,
    )


def _turned_since_a_mark(lowest: Int[Array, ""], highest: Int[Array, ""], marks: Marks, here: Marks) -> Bool[Array, ""]:
    """Whether the stretch from any of those marks to here has turned.

    Of ten marks one on average is to be looked at; where a loop over those few costs more than the others, all are.
    """
    if not loops_are_whole():
        level = jnp.arange(marks.middle.shape[0])
        back = _turned(here.middle - marks.middle, marks.velocity, here.velocity)
        return jnp.any(back & (lowest <= level) & (level <= highest))

    def look(carry: tuple[Int[Array, ""], Bool[Array, ""]]) -> tuple[Int[Array, ""], Bool[Array, ""]]:
        level, _ = carry
        velocity, middle = (jax.lax.dynamic_index_in_dim(x, level, keepdims=False) for x in marks)
        return level + 1, _turned(here.middle - middle, velocity, here.velocity)

    none = jnp.zeros((), bool)
    return jax.lax.while_loop(lambda carry: (carry[0] <= highest) & ~carry[1], look, (lowest, none))[1]


def _turned(
    momenta: Float[Array, "*stretches d"], behind: Float[Array, "*stretches d"], ahead: Float[Array, " d"]
) -> Bool[Array, "*stretches"]:
    """Whether stretches of these summed momenta have turned back at either end, of which the velocities are given."""
    return (jnp.sum(momenta * ahead, axis=-1) <= 0) | (jnp.sum(momenta * behind, axis=-1) <= 0)


def _log_sum(log_a: Float[Array, ""], log_b: Float[Array, ""]) -> Float[Array, ""]:
    """`jnp.logaddexp` of weights not both zero: without its care for that, and for digits that no chance sees."""
    return jnp.maximum(log_a, log_b) + jnp.log(1 + jnp.exp(-jnp.abs(log_a - log_b)))


def _either(which: Bool[Array, "*#shape"], new: Any, old: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(which, a, b), new, old)


def _chances(
    words: UInt32[Array, "2"], t: UInt32[Array, ""], step: Int[Array, ""], dtype: Any
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    one, other = hashed(words, t, step.astype(jnp.uint32) + _OF_STEPS)
    return _uniform(one, dtype), _uniform(other, dtype)


def _times(matrix: Float[Array, "*d"], vector: Float[Array, " d"]) -> Float[Array, " d"]:
    return matrix * vector if matrix.ndim == 1 else matrix @ vector


def _levels(leaf: Int[Array, ""]) -> tuple[Int[Array, ""], Int[Array, ""]]:
    """First and last of the marks that step `leaf` of a part is compared with: none for an even one, whose own is the
    last.

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
