"""Which problems no bundled model may train on: a fixed hash bucket, and Game of 24's public hundred.

A problem is held out by what it *is* (its numbers and target), not by a list drawn once, so the rule covers
every evaluation seed, and a training corpus can drop held-out problems without knowing the evaluation sets.
"""

import numpy as np
from jaxtyping import Bool, Int, UInt64

BUCKETS = 50  # one problem in fifty is held out


def puzzle_hash(
    numbers: Int[np.ndarray, "batch count"], target: Int[np.ndarray, " batch"]
) -> UInt64[np.ndarray, " batch"]:
    """A 64-bit hash of (sorted numbers, target): equal for every order of the same numbers.

    **Arguments:** `numbers` [batch, count] integers; `target` [batch].
    """
    with np.errstate(over="ignore"):  # wrapping multiplication is the point
        mixed = np.full(len(numbers), 0x9E3779B97F4A7C15 + numbers.shape[1], np.uint64)
        for column in (target, *np.sort(numbers, axis=1).T):
            mixed = (mixed ^ column.astype(np.uint64)) * np.uint64(0xBF58476D1CE4E5B9)
            mixed ^= mixed >> np.uint64(29)
    return mixed


def in_bucket(hashes: UInt64[np.ndarray, " batch"]) -> Bool[np.ndarray, " batch"]:
    """Whether each hash falls into the held-out bucket."""
    return (hashes >> np.uint64(16)) % np.uint64(BUCKETS) == 0


def puzzles_held_out(
    numbers: Int[np.ndarray, "batch count"], target: Int[np.ndarray, " batch"], *, named: UInt64[np.ndarray, " names"]
) -> Bool[np.ndarray, " batch"]:
    """Held out by bucket, or named in `named` (hashes of the public Game-of-24 puzzles)."""
    hashes = puzzle_hash(numbers, target)
    return in_bucket(hashes) | np.isin(hashes, named)


def text_held_out(text: str) -> bool:
    """The bucket rule for problems that are texts (arithmetic expressions)."""
    mixed = 0x94D049BB133111EB
    for code in text.encode():
        mixed = (mixed ^ code) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF  # Python's integers do not wrap by themselves
        mixed ^= mixed >> 29
    return bool(in_bucket(np.asarray([mixed], np.uint64))[0])
