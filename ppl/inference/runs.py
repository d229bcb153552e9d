"""Independent runs of a particle method as one posterior: a run counts by its evidence."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, PyTree, Shaped

from ppl.inference.checkpoint import Checkpoint, numbered, rebuilt
from ppl.inference.posterior import Posterior, posterior_of
from ppl.inference.program import Program
from ppl.inference.progress import progress
from ppl.smc.running import pooled_evidence


@runtime_checkable
class Staged(Protocol):
    """One run of a particle method in stages, such as temperatures, so that the host may look and save between them."""

    def begin(self, key: Key[Array, ""]) -> PyTree:
        """The state before the first stage."""
        ...

    def advance(
        self, carry: PyTree, stages: Int[Array, ""]
    ) -> tuple[PyTree, bool | Bool[Array, ""], float | Float[Array, ""]]:
        """The state after `stages` stages more, or at the end; whether it is the end; and how far it is, of 1."""
        ...

    def finish(self, carry: PyTree) -> PyTree:
        """What is kept of a run that has ended."""
        ...


# More stages than any run has.
_ALL = 2**30


def some_stages(
    stage: Callable[[Any], Any], go_on: Callable[[Any], Bool[Array, ""]], carry: PyTree, stages: Int[Array, ""]
) -> tuple[PyTree, Bool[Array, ""]]:
    """`carry` after `stages` more at most, as long as `go_on(carry)`; and whether that is the end."""

    def step(state: tuple[PyTree, Int[Array, ""]]) -> tuple[PyTree, Int[Array, ""]]:
        carry, count = state
        return stage(carry), count + 1

    carry, _ = jax.lax.while_loop(lambda state: go_on(state[0]) & (state[1] < stages), step, (carry, stages * 0))
    return carry, ~go_on(carry)


def independent_runs(
    key: Key[Array, ""], staged: Staged, num: int, name: str, *, show_progress: bool, store: Checkpoint | None = None
) -> Any:
    """What is kept of `num` runs, one after another, each leaf stacked on the host with the runs as its first axis.

    The program is the same whether a run stops between stages or not, and so are its results.
    """
    keys = jax.random.split(key, num)
    stages = jnp.asarray(1 if show_progress or store is not None else _ALL)
    step, carry, ended = 0, None, []
    if store is not None:
        like = jax.eval_shape(staged.begin, keys[0])
        resumed = store.restore(like)
        if resumed is not None:
            step, carry, more = resumed
            likes = jax.eval_shape(staged.finish, like)
            ended = [rebuilt(run, likes) for _, run in sorted(more.get("ended", {}).items())]
    if carry is None:
        carry = staged.begin(keys[0])
    with progress(name, num, enabled=show_progress) as tick:
        tick(advance=len(ended))
        while len(ended) < num:
            carry, done, reached = staged.advance(carry, stages)
            if done:
                ended.append(jax.device_get(staged.finish(carry)))
                carry = staged.begin(keys[len(ended)]) if len(ended) < num else carry
                tick()
            elif show_progress:
                tick(f"{float(reached):.2g} of the way", advance=0)
            if store is not None and (done or store.due):
                step += 1
                more = {"ended": {f"{i:04d}": numbered(run) for i, run in enumerate(ended)}} if ended else {}
                store.save(step, carry, **more)
    return jax.tree.map(lambda *xs: np.stack(xs), *ended)


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
