"""The particle engine: Feynman-Kac models, one driver, resampling, evidence with its error.

- `FeynmanKac(init, step)`: a model, two batched kernels; `run(key, model, inputs, num_particles=...)` -> `Run`;
- `Policy(when=, how=)`: when to resample (`ess_below`, `always`, `never`, `at`) and how (`systematic`, `stratified`,
  `residual`, `multinomial`, `killing`, `ssp`, `optimal_transport`, and conditional versions);
- `in_batches`: a model whose kernels see few particles at a time;
- `ppl.smc.driver.filter` is the pure core for `jit` and `vmap`; `ppl.smc.variance` the error of one run's evidence.
"""

from ppl.smc.batching import in_batches
from ppl.smc.conditional_resampling import (
    conditional_killing,
    conditional_multinomial,
    conditional_stratified,
    conditional_systematic,
)
from ppl.smc.feynman_kac import FeynmanKac
from ppl.smc.policy import Policy, always, at, ess_below, never
from ppl.smc.resampling import killing, multinomial, residual, ssp, stratified, systematic
from ppl.smc.results import History, Run
from ppl.smc.running import run
from ppl.smc.transport import Transport, optimal_transport

__all__ = [
    "FeynmanKac",
    "History",
    "Policy",
    "Run",
    "Transport",
    "always",
    "at",
    "conditional_killing",
    "conditional_multinomial",
    "conditional_stratified",
    "conditional_systematic",
    "ess_below",
    "in_batches",
    "killing",
    "multinomial",
    "never",
    "optimal_transport",
    "residual",
    "run",
    "ssp",
    "stratified",
    "systematic",
]
