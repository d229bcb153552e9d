"""The particle engine: Feynman-Kac models, one driver, resampling, evidence with its error.

- `FeynmanKac(init, step)`: a model, two batched kernels; `run(key, model, inputs, num_particles=...)` -> `Run`;
- `Policy(when=, how=)`: when to resample (`ess_below`, `always`, `never`, `at`) and how (`systematic`, `stratified`,
  `residual`, `multinomial`, `killing`, `ssp`, `optimal_transport`, and conditional versions);
- combinators, which steer particles and keep the target: `twist`, `lookahead` (on `ahead(inputs)`), `auxiliary`,
  `temper`, `absorb`; `in_batches` for kernels that should see few particles at a time;
- paths: `trajectories`, `sample_trajectories`, `distinct_roots`, `backward_sample`, and `conditional_smc` (on
  `conditional`), the kernel of particle Gibbs;
- `ppl.smc.driver.filter` is the pure core for `jit` and `vmap`; `ppl.smc.variance` the error of one run's evidence.
"""

from ppl.smc.absorbing import absorb
from ppl.smc.auxiliary import auxiliary
from ppl.smc.backward import backward_sample
from ppl.smc.batching import in_batches
from ppl.smc.conditional import conditional, conditional_smc
from ppl.smc.conditional_resampling import (
    conditional_killing,
    conditional_multinomial,
    conditional_stratified,
    conditional_systematic,
)
from ppl.smc.feynman_kac import FeynmanKac
from ppl.smc.genealogy import Trajectory, distinct_roots, sample_trajectories, trajectories
from ppl.smc.lookahead import ahead, lookahead
from ppl.smc.policy import Policy, always, at, ess_below, never
from ppl.smc.resampling import killing, multinomial, residual, ssp, stratified, systematic
from ppl.smc.results import History, Run
from ppl.smc.running import run
from ppl.smc.tempering import temper
from ppl.smc.transport import Transport, optimal_transport
from ppl.smc.twisting import twist

__all__ = [
    "FeynmanKac",
    "History",
    "Policy",
    "Run",
    "Trajectory",
    "Transport",
    "absorb",
    "ahead",
    "always",
    "at",
    "auxiliary",
    "backward_sample",
    "conditional",
    "conditional_killing",
    "conditional_multinomial",
    "conditional_smc",
    "conditional_stratified",
    "conditional_systematic",
    "distinct_roots",
    "ess_below",
    "in_batches",
    "killing",
    "lookahead",
    "multinomial",
    "never",
    "optimal_transport",
    "residual",
    "run",
    "sample_trajectories",
    "ssp",
    "stratified",
    "systematic",
    "temper",
    "trajectories",
    "twist",
]
