"""Importance sampling from the prior or from an approximation, with Pareto-smoothed weights and their k-hat."""

import dataclasses
import time
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from blackjax.diagnostics import psis_weights
from jaxtyping import Array, Float, Key
from numpyro.distributions import Distribution

from ppl.inference.batching import BATCH, check_batch_size, mapped
from ppl.inference.compiling import InOrder
from ppl.inference.densities import never_nan
from ppl.inference.posterior import Posterior, posterior_of
from ppl.inference.program import Program, check_continuous
from ppl.inference.starts import Start, check_start
from ppl.smc.weights import logmeanexp


@dataclasses.dataclass(frozen=True)
class Importance:
    """Importance sampling with the prior, or other distributions by site, as the proposal.

    **Arguments:** `start`: distributions by latent site to draw from instead of the prior. `batch_size`: memory: how
    many draws are evaluated at a time.

    Useful where the data say little; `diagnose()` tells by k-hat when they say too much.

    **Source:** Vehtari, Simpson, Gelman, Yao & Gabry (2024) for the smoothing of weights.
    """

    start: Mapping[str, Distribution] | None = dataclasses.field(default=None, hash=False)
    batch_size: int = BATCH

    def __post_init__(self) -> None:
        check_batch_size(self.batch_size)

    def run(self, key: Key[Array, ""], program: Program, *, chains: int, draws: int, show_progress: bool) -> Posterior:
        """`chains` times `draws` independent weighted draws; see `ppl.infer`."""
        check_continuous(program, "Importance")
        check_start(program, self.start, "Importance")
        begun = time.perf_counter()
        keys = jax.random.split(key, chains * draws)
        points, log_proposal = _from_start(keys, program, dict(self.start or {}), self.batch_size)
        shape = (chains, draws)
        return weighted(
            program,
            points.reshape(*shape, -1),
            log_proposal.reshape(shape),
            method="importance",
            begun=begun,
            batch_size=self.batch_size,
        )


def weighted(
    program: Program,
    points: Float[Array, "chains draws d"],
    log_proposal: Float[Array, "chains draws"],
    *,
    method: str,
    begun: float,
    attrs: Mapping[str, str | int | float] | None = None,
    batch_size: int = BATCH,
) -> Posterior:
    """Draws of a proposal as a posterior: Pareto-smoothed weights over all of them, k-hat, and the evidence.

    **Arguments:** `points`: unconstrained; `log_proposal`: their normalised log density there.
    """
    log_ratio, smoothed, k_hat, evidence, error, bad = _ratios(program, points, log_proposal, batch_size)
    if not bool(jnp.isfinite(evidence)):
        raise ValueError(
            f"method: of {log_proposal.size} draws of {method} none has a finite posterior density; use a proposal "
            "nearer to the posterior, or TemperedSMC"
        )
    stats = {"lp": np.asarray(log_ratio + log_proposal), "k_hat": np.full(points.shape[0], float(k_hat))}
    stats["non_finite"] = np.asarray(bad)
    return posterior_of(
        program,
        points,
        method=method,
        log_weights=smoothed,
        stats=stats,
        log_evidence=float(evidence),
        log_evidence_se=float(error),
        attrs={"seconds": time.perf_counter() - begun, "k_hat": float(k_hat), **(attrs or {})},
    )


@InOrder
def _from_start(
    keys: Key[Array, " n"], program: Program, given: dict[str, Distribution], batch_size: int
) -> tuple[Float[Array, "n d"], Float[Array, " n"]]:
    start = Start(program, given)
    points = mapped(start.draw, batch_size, keys)
    return points, mapped(lambda x: start.densities(x)[0], batch_size, points)


@InOrder
def _ratios(
    program: Program,
    points: Float[Array, "chains draws d"],
    log_proposal: Float[Array, "chains draws"],
    batch_size: int,
) -> tuple[Array, Array, Array, Array, Array, Array]:
    flat = points.reshape(-1, points.shape[-1])
    raw = jax.lax.map(program.log_density, flat, batch_size=batch_size)
    density = never_nan(raw).reshape(log_proposal.shape)
    ratio = (density - log_proposal).ravel()
    evidence = logmeanexp(ratio)
    relative = jnp.exp(ratio - evidence)
    error = jnp.sqrt(jnp.mean((relative - 1) ** 2) / ratio.size)  # delta method
    smoothed, k_hat = psis_weights(ratio)
    # Of ratios that are all alike there is no tail to fit, and none to fear.
    exact = jnp.ptp(ratio) < 0.1
    smoothed = jnp.where(exact, ratio - evidence - jnp.log(ratio.size), smoothed)
    k_hat = jnp.where(exact, 0.0, k_hat)
    smoothed = (smoothed + jnp.log(ratio.size)).reshape(log_proposal.shape)
    bad = jnp.sum(jnp.isnan(raw).reshape(log_proposal.shape), axis=1, dtype=jnp.int32)
    return ratio.reshape(log_proposal.shape), smoothed, k_hat, evidence, error, bad
