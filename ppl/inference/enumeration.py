"""Exact inference in programs whose latent sites are all discrete and finite: every joint value, with its weight."""

import dataclasses
import itertools
import math
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, Shaped
from numpyro import handlers

from ppl.inference.compiling import InOrder
from ppl.inference.posterior import Posterior
from ppl.inference.program import Program, check_whole
from ppl.inference.sites import site_log_prob
from ppl.smc.weights import logmeanexp


@dataclasses.dataclass(frozen=True)
class Enumeration:
    """All joint values of the discrete sites; the weights are the posterior and the evidence is exact.

    **Arguments:** `max_values`: joint values at most, which grow as a product over sites and elements.
    """

    max_values: int = 1_000_000

    def run(self, key: Key[Array, ""], program: Program, *, chains: int, draws: int, show_progress: bool) -> Posterior:
        """One chain that holds each joint value once, weighted; `chains` and `draws` are not used."""
        check_whole(program, "Enumeration")
        begun = time.perf_counter()
        structure = program.structure
        if structure.latents:
            names = ", ".join(site.name for site in structure.latents)
            raise ValueError(
                f"model: Enumeration wants discrete latent sites alone, and {names} is continuous; use NUTS"
            )
        if not structure.discrete:
            raise ValueError("model: it has no latent site; every `numpyro.sample` in it is observed")
        supports = {site.name: _support(program, site.name, site.enumerable) for site in structure.discrete}
        sizes = {site.name: math.prod(site.shape) for site in structure.discrete}
        total = math.prod(len(supports[name]) ** size for name, size in sizes.items())
        if total > self.max_values:
            raise ValueError(f"max_values: the sites have {total} joint values, more than {self.max_values}")
        axes = [supports[name] for name, size in sizes.items() for _ in range(size)]
        table = np.array(list(itertools.product(*axes)))
        values, start = {}, 0
        for site in structure.discrete:
            stop = start + sizes[site.name]
            values[site.name] = table[:, start:stop].reshape(-1, *site.shape).astype(supports[site.name].dtype)
            start = stop
        log_joint, deterministic = _evaluated(program, {name: jnp.asarray(value) for name, value in values.items()})
        evidence = logmeanexp(log_joint) + np.log(total)
        if not bool(jnp.isfinite(evidence)):
            raise ValueError("model: the data have probability zero under every value of its latent sites")
        weights = np.asarray(log_joint - evidence + np.log(total))[None]
        return Posterior(
            draws={name: np.asarray(value)[None] for name, value in {**values, **deterministic}.items()},
            unconstrained=np.zeros((1, total, 0), np.float32),
            log_weights=weights,
            stats={},
            log_evidence=float(evidence),
            log_evidence_se=0.0,
            method="enumeration",
            program=program,
            attrs={"seconds": time.perf_counter() - begun},
        )


def _support(program: Program, name: str, enumerable: bool) -> np.ndarray:
    if not enumerable:
        raise ValueError(f"model: the discrete latent site {name!r} has no finite support to sum over")
    trace = handlers.trace(handlers.seed(program.model, jax.random.key(0))).get_trace(*program.args, **program.kwargs)
    return np.asarray(trace[name]["fn"].enumerate_support(expand=False)).ravel()


@InOrder
def _evaluated(
    program: Program, values: dict[str, Shaped[Array, "n ..."]]
) -> tuple[Float[Array, " n"], dict[str, Shaped[Array, "n ..."]]]:
    names = {site.name for site in program.structure.of_kind("deterministic")}

    def one(values: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
        model = handlers.substitute(handlers.seed(program.model, jax.random.key(0)), data=values)
        trace: dict[str, Any] = handlers.trace(model).get_trace(*program.args, **program.kwargs)
        terms = [site_log_prob(site) for site in trace.values() if site["type"] == "sample"]
        return sum(terms, start=jnp.zeros(())), {name: trace[name]["value"] for name in names}

    return jax.lax.map(one, values, batch_size=4096)
