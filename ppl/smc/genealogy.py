"""Ancestral paths: which particle of each generation the survivors descend from.

The paths of the final particles, with the final weights, are a weighted sample of the whole trajectory. They are free
once a history is kept, but they coalesce: going back in time they share ever fewer ancestors, and `distinct_roots`
says how many. Where that is too few, sample backwards (`ppl.smc.backward`).

**Source:** Kitagawa (1996); Jacob, Murray & Rubenthaler (2015), Path storage in the particle filter, for the rate at
which paths coalesce.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree

from ppl.keys import as_key
from ppl.smc.resampling import multinomial
from ppl.smc.results import History, Run


class Trajectory(eqx.Module):
    """Paths through a history; `M` paths have a leading axis `M`, a single one has none.

    - `states`: leaves `[..., T + 1, ...]`.
    - `log_potentials`: `[..., T + 1]`, those of the particles along the path, as the kernels returned them.
    - `indices`: `[..., T + 1]` which particle of each generation it is.
    """

    states: PyTree
    log_potentials: Float[Array, "... steps_and_init"]
    indices: Int[Array, "... steps_and_init"]

    def __getitem__(self, item: int | slice | Int[Array, "..."]) -> "Trajectory":
        """Path number `item`, or several, of a trajectory with a leading axis."""
        return jax.tree.map(lambda leaf: leaf[item], self)


def lineages(ancestors: Int[Array, "*r steps n"]) -> Int[Array, "*r steps_and_init n"]:
    """Indices of the ancestors of each final particle in every generation.

    **Arguments:** `ancestors`: `[T, N]`, of `Run.ancestors`; axes in front are kept.

    **Returns:** `[T + 1, N]`: column `i` is the path that ends in particle `i`; the last row is `0 .. N-1`. Entries
    of -1 (particles that a transport mixed have no ancestor) are an error, also under jit.
    """
    if ancestors.ndim > 2:
        return jax.vmap(lineages)(ancestors)
    ancestors = eqx.error_if(
        ancestors, ancestors < 0, "ancestors: -1 found; particles mixed by a transport have no genealogy"
    )

    def back(index: Int[Array, " n"], row: Int[Array, " n"]) -> tuple[Int[Array, " n"], Int[Array, " n"]]:
        parent = row[index]
        return parent, parent

    final = jnp.arange(ancestors.shape[1], dtype=ancestors.dtype)
    _, parents = jax.lax.scan(back, final, ancestors, reverse=True)
    return jnp.concatenate([parents, final[None]])


def distinct_roots(ancestors: Int[Array, "*r steps n"]) -> Int[Array, "*r steps_and_init"]:
    """How many particles of each generation have a descendant in the last one, `[T + 1]`; the last entry is `N`.

    One root left in generation `t` means that the final particles know the law of `x_t` by a single draw.
    """
    paths = lineages(ancestors)

    def count(row: Int[Array, " n"]) -> Int[Array, ""]:
        return jnp.zeros(row.shape[0], jnp.int32).at[row].set(1).sum()

    return jax.vmap(count)(paths.reshape(-1, paths.shape[-1])).reshape(paths.shape[:-1])


def trajectories(run: Run, indices: Int[Array, " m"] | None = None) -> Trajectory:
    """The ancestral paths of final particles, to be weighted by `run.log_weights`.

    **Arguments:**

    - `run`: one run (no replicates) with `history=True`.
    - `indices`: `[M]` which final particles; all of them, in order, when left out.

    **Returns:** `Trajectory` with a leading axis `M`.

    **Raises:** `ValueError` for a run without history or with replicates, or whose number of particles changed.
    """
    history, ancestors = kept(run)
    paths = lineages(ancestors) if indices is None else lineages(ancestors)[:, indices]
    return follow(history, paths.T)


def sample_trajectories(key: int | Key[Array, ""], run: Run, num: int) -> Trajectory:
    """`num` ancestral paths drawn by the final weights, so that they count alike.

    **Arguments:** `key`; `run` as in `trajectories`; `num`: how many, 1 or more. **Returns:** `Trajectory` with a
    leading axis `num`. **Raises:** as `trajectories`.
    """
    if num < 1:
        raise ValueError(f"num: 1 or more is wanted, got {num}")
    kept(run)  # with replicates the weights have one axis too many: say so before drawing
    return trajectories(run, multinomial(as_key(key), run.log_weights, num))


def kept(run: Run) -> tuple[History, Int[Array, "steps n"]]:
    """The history and the ancestors of one run. **Raises:** `ValueError` as `trajectories`, saying what to ask for."""
    if run.history is None:
        raise ValueError("run: a run with a history is wanted; ask for it by ppl.smc.run(..., history=True)")
    if run.ancestors is None or isinstance(run.ancestors, tuple):
        raise ValueError(f"run: ancestors [T, N] are wanted, got {type(run.ancestors).__name__}")
    if run.ancestors.ndim != 2:
        raise ValueError(
            f"run: one run is wanted, got ancestors of shape {run.ancestors.shape}; take one replicate at a time"
        )
    return run.history, run.ancestors


def follow(history: History, indices: Int[Array, "m steps_and_init"]) -> Trajectory:
    """The states and log potentials of a history along `indices` `[M, T + 1]`."""
    times = jnp.arange(indices.shape[1])
    return Trajectory(
        jax.tree.map(lambda leaf: leaf[times, indices], history.states), history.log_potentials[times, indices], indices
    )
