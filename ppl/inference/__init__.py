"""Any NumPyro program, every inference, one `Posterior`; `ppl.infer` is the call; `ppl.sbc` checks it."""

from collections.abc import Callable
from typing import Any

from ppl.inference.approximations import ADVI, Laplace, Pathfinder
from ppl.inference.chains import Sampler
from ppl.inference.comparison import compare
from ppl.inference.diagnosis import Advice
from ppl.inference.ensemble import MEADS, ChEES
from ppl.inference.enumeration import Enumeration
from ppl.inference.hmc import HMC, NUTS
from ppl.inference.importance import Importance
from ppl.inference.infer import Method, infer
from ppl.inference.mclmc import MCLMC
from ppl.inference.moves import HMCMove, IndependentMove, Move, NUTSMove, RandomWalkMove, SliceMove
from ppl.inference.nested import NestedSampling
from ppl.inference.posterior import Posterior
from ppl.inference.program import Program
from ppl.inference.random_walk import RandomWalk, Slice
from ppl.inference.ranks import SBC
from ppl.inference.sbc import sbc
from ppl.inference.tempering import TemperedSMC

# Methods by name, as `infer(method=...)` takes them.
METHODS: dict[str, Callable[[], Any]] = {
    "nuts": NUTS,
    "hmc": HMC,
    "chees": ChEES,
    "meads": MEADS,
    "mclmc": MCLMC,
    "random_walk": RandomWalk,
    "slice": Slice,
    "tempered_smc": TemperedSMC,
    "nested_sampling": NestedSampling,
    "importance": Importance,
    "laplace": Laplace,
    "pathfinder": Pathfinder,
    "advi": ADVI,
    "enumeration": Enumeration,
}

__all__ = [
    "ADVI",
    "HMC",
    "MCLMC",
    "MEADS",
    "METHODS",
    "NUTS",
    "SBC",
    "Advice",
    "ChEES",
    "Enumeration",
    "HMCMove",
    "Importance",
    "IndependentMove",
    "Laplace",
    "Method",
    "Move",
    "NUTSMove",
    "NestedSampling",
    "Pathfinder",
    "Posterior",
    "Program",
    "RandomWalk",
    "RandomWalkMove",
    "Sampler",
    "Slice",
    "SliceMove",
    "TemperedSMC",
    "compare",
    "infer",
    "sbc",
]
