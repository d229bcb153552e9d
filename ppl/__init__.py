"""Test-time scaling and data selection as Bayesian inference, on one particle engine in JAX.

Packages, from the bottom layer up:

- `ppl.smc`: Feynman-Kac models, the particle driver, resampling, tempering, conditional SMC;
- `ppl.tasks`: generated problems with exact verifiers; `ppl.lm`: language and reward models;
- `ppl.decode`: test-time scaling methods over one weighted set of samples;
- shared types in modules of their own: `ppl.records`, `ppl.cost`, `ppl.intervals`, `ppl.keys`, `ppl.arviz_adapter`,
  `ppl.plots`.

Nothing is imported here: `import ppl` costs nothing and a part brings only what it needs.
"""
