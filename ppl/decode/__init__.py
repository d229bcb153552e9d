"""Test-time scaling: methods that spend a token budget on better answers, over one weighted set of solutions.

`sample`, `majority`, `best_of_n` and `particle_filter` are one call each; `run_methods` runs several on the same
problems, and `solve` is the resumable job behind `ppl solve`. Targets are named (`ppl.decode.targets`), selectors are
functions of Records (`ppl.decode.selectors`), and every attempt, answer and cost is in the `Decoding` that comes back.
"""

from ppl.decode.calls import best_of_n, majority, particle_filter, sample
from ppl.decode.job import solve
from ppl.decode.methods import METHODS, Cut, Options, run_methods
from ppl.decode.replay import accuracy_by_budget
from ppl.decode.results import Decoding
from ppl.decode.targets import TARGETS

__all__ = [
    "METHODS",
    "TARGETS",
    "Cut",
    "Decoding",
    "Options",
    "accuracy_by_budget",
    "best_of_n",
    "majority",
    "particle_filter",
    "run_methods",
    "sample",
    "solve",
]
