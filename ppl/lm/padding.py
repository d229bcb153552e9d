"""Rows put together into few shapes, so that few programs are compiled."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from jaxtyping import Bool, Int

Item = TypeVar("Item")


def padded(
    rows: Sequence[Sequence[int]], pad_id: int
) -> tuple[Int[np.ndarray, "batch length"], Bool[np.ndarray, "batch length"]]:
    """Rows in one array, padded to a multiple of 8 and, of long ones, of an eighth of the length."""
    longest = max((len(row) for row in rows), default=1)
    multiple = max(8, 2 ** (longest - 1).bit_length() // 8)
    ids = np.full((len(rows), -(-longest // multiple) * multiple), pad_id, np.int32)
    known = np.zeros(ids.shape, bool)
    for i, row in enumerate(rows):
        ids[i, : len(row)], known[i, : len(row)] = row, True
    return ids, known


def filled(items: Sequence[Item]) -> list[Item]:
    """One item or more, followed by the first one until they are a power of two."""
    return [*items, *[items[0]] * (2 ** (len(items) - 1).bit_length() - len(items))]
