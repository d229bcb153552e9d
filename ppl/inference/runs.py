"""Independent runs of a particle method as one posterior: a run counts by its evidence."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PyTree, Shaped

from ppl.inference.posterior import Posterior, posterior_of
from ppl.inference.program import Program
from ppl.inference.progress import progress
from ppl.smc.running import pooled_evidence


def independent_runs(
    key: Key[Array, ""], run: Callable[[Key[Array, ""]], PyTree], num: int, name: str, show_progress: bool
) -> Any:
    """`num` runs one after another, each leaf stacked on the host with the runs as its first axis."""
    parts = []
    with progress(name, num, enabled=show_progress) as tick:
        for one in jax.random.split(key, num):
            parts.append(jax.device_get(run(one)))
            tick()
    return jax.tree.map(lambda *xs: np.stack(xs), *parts)


def by_step(
    names: Sequence[str], traces: Float[np.ndarray, "runs traces most"], steps: Int[np.ndarray, " runs"]
) -> dict[str, Float[np.ndarray, "runs steps"]]:
    """Traces by name, as long as the longest run took steps."""
    return {name: traces[:, i, : int(steps.max())] for i, name in enumerate(names)}


def combined_evidence(
    log_evidence: Float[np.ndarray, " runs"], variance: Float[np.ndarray, " runs"] | None
) -> tuple[float, float | None]:
    """The evidence of independent runs and its standard error.

    Two estimates of the same variance: that of each run's genealogy, and the spread over runs, on few degrees of
    freedom. The larger is stated: a genealogy sees no mode that its run has missed. Without a genealogy the spread is
    all there is, and one run has no error.
    """
    several = len(log_evidence) > 1
    pooled, spread = pooled_evidence(jnp.asarray(log_evidence)) if several else (log_evidence[0], 0.0)
    if variance is None:
        return float(pooled), float(spread) if several else None
    within = float(np.sqrt(np.nanmean(np.maximum(variance, 0)) / len(log_evidence)))
    return float(pooled), max(within, float(spread))


def posterior_of_runs(
    program: Program,
    particles: Float[np.ndarray, "runs n d"],
    log_evidence: Float[np.ndarray, " runs"],
    variance: Float[np.ndarray, " runs"] | None,
    *,
    method: str,
    log_weights: Float[np.ndarray, "runs n"] | None = None,
    stats: Mapping[str, Shaped[np.ndarray | Array, "runs ..."]],
    attrs: Mapping[str, str | int | float],
) -> Posterior:
    """Particles of several runs, weighted within a run by `log_weights` (log mean exp 0) and over runs by evidence.

    **Arguments:** `variance`: the relative variance of each run's evidence, `None` if runs have no estimate of it.
    """
    evidence, error = combined_evidence(log_evidence, variance)
    within = np.zeros(particles.shape[:2], particles.dtype) if log_weights is None else log_weights
    weights = (log_evidence - evidence)[:, None] + within
    by_run: dict[str, Any] = {**stats, "run_log_evidence": log_evidence}
    if variance is not None:
        by_run["run_log_evidence_se"] = np.sqrt(np.maximum(variance, 0))
    return posterior_of(
        program,
        jnp.asarray(particles),
        method=method,
        log_weights=jnp.asarray(weights, particles.dtype),
        stats=by_run,
        log_evidence=evidence,
        log_evidence_se=error,
        attrs=attrs,
    )
