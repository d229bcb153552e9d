"""Game of 24 on the public hundred puzzles (indices 900..999), and what GPT-4 scored on them.

Data: `data/game24/`, from the tree-of-thought repository (MIT, Copyright (c) 2023 Shunyu Yao; notice beside the
data). **Source:** Yao et al. (2023), arXiv 2305.10601.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import UInt64

from ppl.tasks.countdown import Countdown, puzzle
from ppl.tasks.holdout import puzzle_hash
from ppl.tasks.protocol import Problem

_DATA = Path(__file__).parent / "data" / "game24"


@dataclass(frozen=True)
class Game24(Countdown):
    """The public puzzles: four numbers 1..13 to 24. `problems` gives them in their order, whatever the seed."""

    count: int = 4
    max_number: int = 13
    max_target: int = 24
    name: str = "game24"

    def problems(self, num: int, *, seed: int = 0) -> Sequence[Problem]:
        """The first `num` of the hundred; `seed` changes nothing, because the set is fixed.

        **Raises:** `ValueError` if `num` is over 100.
        """
        rows = puzzles()
        if not 0 <= num <= len(rows):
            raise ValueError(f"num must be 0 to {len(rows)} for game24, got {num}")
        return [
            puzzle([int(n) for n in numbers.split()], 24)._replace(id=f"game24-{index}")
            for index, numbers in zip(rows.problem[:num], rows.numbers[:num], strict=True)
        ]


@cache
def puzzles() -> pd.DataFrame:
    """The hundred puzzles, one row each: problem, numbers, and GPT-4's successes and trials by method."""
    return pd.read_csv(_DATA / "puzzles.csv")


@cache
def published_samples() -> pd.DataFrame:
    """GPT-4's published attempts: problem, method (`cot`, `io`, `tot` beams), sample, correct."""
    return pd.read_csv(_DATA / "samples.csv.gz")


@cache
def public_hashes() -> UInt64[np.ndarray, " puzzles"]:
    """Hashes of the hundred puzzles, for `ppl.tasks.holdout`."""
    numbers = np.asarray([[int(n) for n in text.split()] for text in puzzles().numbers])
    return puzzle_hash(numbers, np.full(len(numbers), 24))
