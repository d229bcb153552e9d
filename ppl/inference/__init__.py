"""Any NumPyro program, every inference, one `Posterior`; `ppl.infer` is the call; `ppl.sbc` checks it."""

from collections.abc import Callable
from typing import Any

from ppl.inference.approximations import ADVI, Laplace, Pathfinder
from ppl.inference.comparison import compare
from ppl.inference.cyclical import CyclicalSGLD
from ppl.inference.diagnosis import Advice
from ppl.inference.ensemble import MEADS, ChEES
from ppl.inference.enumeration import Enumeration
from ppl.inference.hmc import HMC
from ppl.inference.ibis import IBIS
from ppl.inference.importance import Importance
from ppl.inference.infer import Method, infer
from ppl.inference.markov import markov
from ppl.inference.mclmc import MCLMC
from ppl.inference.moves import HMCMove, IndependentMove, Move, NUTSMove, RandomWalkMove, SliceMove
from ppl.inference.nested import NestedSampling
from ppl.inference.nuts import NUTS
from ppl.inference.particle_filter import Filtered, particle_filter
from ppl.inference.particle_gibbs import ParticleGibbs
from ppl.inference.persistent import PersistentSMC
from ppl.inference.pmmh import PMMH
from ppl.inference.posterior import Posterior
from ppl.inference.program import Program
from ppl.inference.random_walk import RandomWalk, Slice
from ppl.inference.ranks import SBC
from ppl.inference.sampler import Sampler
from ppl.inference.sbc import sbc
from ppl.inference.sghmc import SGHMC
from ppl.inference.sgld import SGLD
from ppl.inference.smc2 import SMC2
from ppl.inference.state_space import StateSpace
from ppl.inference.svgd import SVGD
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
    "sgld": SGLD,
    "sghmc": SGHMC,
    "cyclical_sgld": CyclicalSGLD,
    "tempered_smc": TemperedSMC,
    "persistent_smc": PersistentSMC,
    "ibis": IBIS,
    "nested_sampling": NestedSampling,
    "importance": Importance,
    "laplace": Laplace,
    "pathfinder": Pathfinder,
    "advi": ADVI,
    "svgd": SVGD,
    "enumeration": Enumeration,
    "pmmh": PMMH,
    "particle_gibbs": ParticleGibbs,
    "smc2": SMC2,
}

__all__ = [
    "ADVI",
    "HMC",
    "IBIS",
    "MCLMC",
    "MEADS",
    "METHODS",
    "NUTS",
    "PMMH",
    "SBC",
    "SGHMC",
    "SGLD",
    "SMC2",
    "SVGD",
    "Advice",
    "ChEES",
    "CyclicalSGLD",
    "Enumeration",
    "Filtered",
    "HMCMove",
    "Importance",
    "IndependentMove",
    "Laplace",
    "Method",
    "Move",
    "NUTSMove",
    "NestedSampling",
    "ParticleGibbs",
    "Pathfinder",
    "PersistentSMC",
    "Posterior",
    "Program",
    "RandomWalk",
    "RandomWalkMove",
    "Sampler",
    "Slice",
    "SliceMove",
    "StateSpace",
    "TemperedSMC",
    "compare",
    "infer",
    "markov",
    "particle_filter",
    "sbc",
]
