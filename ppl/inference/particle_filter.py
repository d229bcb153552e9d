"""Filtering and smoothing of a NumPyro state-space model at given parameters."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Key, Shaped

from ppl import smc
from ppl.inference.program import Program
from ppl.inference.state_space import StateSpace, check_filter
from ppl.keys import as_key
from ppl.smc.weights import normalised


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Filtered:
    """What a particle filter says of the states.

    - `log_evidence`, `log_evidence_se`: the log likelihood of the parameters and its standard error (of the replicates,
      or from the genealogy of a single run); `log_likelihood_runs`: `[replicates]`, of each run.
    - `mean`, `sd`: `{site: [T, ...]}` of the filtering distributions, of sites of the loop; sites before it
      that belong to the state (`[...]`) are in generation 0.
    - `paths`: `{site: [num, T, ...]}` draws of the smoothing distribution, where they were asked for.
    - `run`: the `ppl.smc.Run`, with ESS and ancestors.
    """

    log_evidence: float
    log_evidence_se: float
    log_likelihood_runs: Float[np.ndarray, " replicates"]
    mean: Mapping[str, Float[np.ndarray, "..."]]
    sd: Mapping[str, Float[np.ndarray, "..."]]
    paths: Mapping[str, Shaped[np.ndarray, "..."]]
    run: smc.Run


def particle_filter(
    model: Callable[..., Any],
    *args: Any,
    parameters: Mapping[str, Any],
    num_particles: int = 1000,
    key: int | np.integer | Key[Array, ""] = 0,
    filter: str = "bootstrap",
    num_paths: int = 0,
    replicates: int = 1,
    policy: smc.Policy = smc.Policy(),
    state: tuple[str, ...] | None = None,
    **data: Any,
) -> Filtered:
    """Filter the states of a model with a `scan` (or `ppl.markov`), and sample their paths backwards.

    **Arguments:**

    - `model`, `args`, `data`: the NumPyro model and its arguments, as for `ppl.infer`.
    - `parameters`: values of its static parameters by site, those before the loop that are no initial state.
    - `filter`: `"bootstrap"` moves by the model; `"guided"` by `infer={"proposal": distribution}` where a site
      has it; `"auxiliary"` also resamples on the likelihood of the next observation at the mean of the move.
    - `num_paths`: draws of the whole path by exact backward sampling.
    - `replicates`: independent runs for the evidence; means and paths are of one more, which keeps its history.
    - `state`: names of sites before the loop that belong to the state; left out, those handed to `scan` in its carry.

    **Returns:** `Filtered`.

    **Raises:** `ValueError` as `StateSpace`, and for parameters that are missing or unknown.
    """
    check_filter(filter, policy)
    space = StateSpace(Program(model, args, data), state)
    theta = space.unconstrained(parameters)
    key_run, key_more, key_paths = jax.random.split(as_key(key), 3)
    kernels, inputs = space.model(theta, filter), space.inputs()
    run = smc.run(key_run, kernels, inputs, num_particles=num_particles, policy=policy, history=True)
    several = run
    if replicates > 1:
        several = smc.run(key_more, kernels, inputs, num_particles=num_particles, policy=policy, replicates=replicates)
    runs = np.asarray(several.log_evidence_increments, np.float64).sum(axis=-1)
    paths = {}
    if num_paths:
        drawn = smc.backward_sample(key_paths, run, space.log_transition(theta), inputs, num=num_paths).states
        paths = {name: np.asarray(value[:, 1:]) for name, value in drawn.values.items()}
        paths |= {name: np.asarray(value[:, 0]) for name, value in drawn.initial.items()}
    mean, sd = _moments(run, space)
    return Filtered(
        log_evidence=float(np.asarray(several.log_evidence)),
        log_evidence_se=float(np.asarray(several.log_evidence_se)),
        log_likelihood_runs=np.atleast_1d(runs),
        mean=mean,
        sd=sd,
        paths=paths,
        run=run,
    )


_normalised = jax.jit(jax.vmap(normalised))  # step by step each of its operations would be compiled


def _moments(run: smc.Run, space: StateSpace) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Weighted means and standard deviations of the filtering distributions."""
    assert run.history is not None
    states = run.history.states
    values = {name: (value[1:], run.history.log_weights[1:]) for name, value in states.values.items()}
    values |= {name: (value[:1], run.history.log_weights[:1]) for name, value in states.initial.items()}
    mean, sd = {}, {}
    for name, (value, log_weights) in values.items():
        weights = np.asarray(_normalised(log_weights), np.float64)
        x = np.asarray(value, np.float64)
        first = np.einsum("tn,tn...->t...", weights, x)
        second = np.einsum("tn,tn...->t...", weights, (x - first[:, None]) ** 2)
        pick = (lambda a: a[0]) if name in space.parts.initial else (lambda a: a)
        mean[name], sd[name] = pick(first), pick(np.sqrt(second))
    return mean, sd
