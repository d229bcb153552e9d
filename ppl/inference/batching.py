"""Bounded memory: a few chains or particles at a time, and chains spread over cores and devices."""

import concurrent.futures
import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import Array, Int, PyTree, Shaped

from ppl.inference.compiling import loops_are_whole
from ppl.inference.work import numbers_an_operation

CHAIN_METHODS = ("auto", "vectorized", "sequential", "parallel")
# Draws evaluated at a time, of any number: pointwise likelihoods of all of them need not lie in memory as one trace.
BATCH = 1024
# Numbers an operation from which on chains of NUTS run one after another. Of the posteriors of posteriordb those with
# 100 to 125 took .6 to 1.0 times as long together as apart, the one with 355 took 1.9 times as long.
_LARGE = 200


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where and when chains run: on `devices` devices, `batch` of them at a time on each.

    Chains do not depend on it: each has keys of its own. With `by_work`, it is one at a time if arrays are large. With
    `groups`, a device is a processor of several cores, and `batch` chains of each group run at the same time.
    """

    devices: int
    batch: int
    by_work: bool = False
    groups: int = 1

    @staticmethod
    def of(
        chains: int, chain_method: str, batch_size: int | None, *, ensemble: bool, uneven: bool, label: str
    ) -> "Layout":
        """The layout that `infer(..., chain_method=, batch_size=)` asks for.

        Groups are of one size, the largest that divides the chains of a device and is not above `batch_size`.
        `uneven`: chains do unequal work in a step. `"auto"` then goes by the work on a CPU; else it is `"vectorized"`.

        **Raises:** `ValueError` for a method that is not known, sizes that contradict each other, `"parallel"` on one
        device, and methods whose chains adapt together.
        """
        if chain_method not in CHAIN_METHODS:
            known = ", ".join(map(repr, CHAIN_METHODS))
            raise ValueError(f"chain_method: {chain_method!r} is not known; known are {known}")
        check_batch_size(batch_size)
        if ensemble and (chain_method in ("sequential", "parallel") or batch_size is not None):
            raise ValueError(
                f"{'chain_method' if batch_size is None else 'batch_size'}: chains of {label} learn from "
                "each other and run together; take NUTS or HMC for chains by themselves"
            )
        if chain_method == "auto" and not ensemble and batch_size is None and jax.default_backend() == "cpu":
            groups = _divisor(chains, _cores())
            return Layout(1, chains // groups, by_work=uneven, groups=groups)
        if chain_method == "sequential":
            if batch_size not in (None, 1):
                raise ValueError(f"batch_size: sequential chains run one at a time, got {batch_size}")
            return Layout(1, 1)
        devices = 1
        if chain_method == "parallel":
            devices = _divisor(chains, len(jax.devices()))
            if devices == 1:
                raise ValueError(
                    f"chain_method: {chains} chains cannot be spread evenly over {len(jax.devices())} device(s); on a "
                    "CPU, jax.config.update('jax_num_cpu_devices', 2) before anything else makes two"
                )
        return Layout(devices, _divisor(chains // devices, batch_size or chains))

    def settled(self, target: Any, size: int) -> "Layout":
        """The layout for a target; one that goes by the work traces it, a log density of `size` numbers.

        Chains that run together share what an operation costs whatever its size, which counts where arrays are small;
        large arrays of one chain stay nearer to the processor, and slices of several wait for the longest.
        """
        if not self.by_work:
            return self
        flat = jax.ShapeDtypeStruct((size,), jnp.result_type(float))
        return dataclasses.replace(
            self, by_work=False, batch=1 if numbers_an_operation(target, flat) > _LARGE else self.batch
        )


def over_chains(layout: Layout, run: Callable[..., Any], *trees: PyTree) -> Any:
    """`run(*trees)`, group by group and device by device. Every leaf, given and returned, has chains first."""
    each = jax.tree.leaves(trees)[0].shape[0] // layout.devices

    def on_device(*trees: PyTree) -> Any:
        if layout.batch == each:
            return run(*trees)
        groups = jax.tree.map(lambda x: x.reshape(-1, layout.batch, *x.shape[1:]), trees)
        results = jax.lax.map(lambda group: run(*group), groups)
        return jax.tree.map(lambda x: x.reshape(each, *x.shape[2:]), results)

    if layout.devices == 1:
        return on_device(*trees)
    mesh = jax.make_mesh((layout.devices,), ("chains",), (AxisType.Auto,), devices=jax.devices()[: layout.devices])
    spread = PartitionSpec("chains")
    return jax.shard_map(on_device, mesh=mesh, in_specs=spread, out_specs=spread, check_vma=False)(*trees)


def each_chain(one: Callable[..., Any], *trees: PyTree) -> Any:
    """`one(*trees)` of each chain, every leaf with chains first; of a single chain without `vmap`.

    Under `vmap` both sides of a branch are computed, and loops carry masks.
    """
    if jax.tree.leaves(trees)[0].shape[0] > 1:
        return jax.vmap(one)(*trees)
    return jax.tree.map(lambda x: jnp.asarray(x)[None], one(*jax.tree.map(lambda x: x[0], trees)))


def where_new_arrays_are(tree: PyTree) -> bool:
    """Whether all arrays are on the one device on which JAX makes new ones."""
    home = jnp.empty(()).devices()
    return all(leaf.devices() == home for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array))


def side_by_side(one: Callable[..., Any], *lists: Sequence[Any]) -> list[Any]:
    """`one(*arguments)` of each group, each in a thread of its own.

    Those of JAX run where other threads' may run, too: two groups of chains take little more than half the time on two
    cores. An interrupt is heard here while they run.
    """
    if len(lists[0]) == 1:
        return [one(*(each[0] for each in lists))]
    pool = concurrent.futures.ThreadPoolExecutor(len(lists[0]))
    try:
        return list(pool.map(one, *lists))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def put(
    rows: Shaped[Array, "chains length d"], places: Int[Array, " chains"], new: Shaped[Array, "chains d"]
) -> Shaped[Array, "chains length d"]:
    """`rows` with the new one of each chain at its place.

    On a CPU in a loop, if that is cheap: XLA's scatter took 2.5 us for four rows of 16 numbers, as long as three steps
    of NUTS.
    """
    chains, _, d = rows.shape
    if not loops_are_whole():
        return rows.at[jnp.arange(chains), places].set(new)

    def one(chain: Int[Array, ""], rows: Shaped[Array, "chains length d"]) -> Shaped[Array, "chains length d"]:
        row = jax.lax.dynamic_slice(new, (chain, first), (1, d))
        return jax.lax.dynamic_update_slice(rows, row[:, None], (chain, places[chain], first))

    # Of one dtype, under x64, too, where Python's numbers are of 64 bits.
    first, last = jnp.zeros((), places.dtype), jnp.full((), chains, places.dtype)
    return jax.lax.fori_loop(first, last, one, rows)


def mapped(one: Callable[..., Any], batch_size: int | None, *arguments: PyTree) -> Any:
    """`one` over the first axis of all arguments, `batch_size` at a time, or all at once."""
    if batch_size is None:
        return jax.vmap(one)(*arguments)
    return jax.lax.map(lambda packed: one(*packed), arguments, batch_size=batch_size)


def check_batch_size(batch_size: int | None) -> None:
    """**Raises:** `ValueError` for what is no number of chains or particles."""
    if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
        raise ValueError(f"batch_size: a whole number from 1 up is wanted, got {batch_size!r}")


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _divisor(num: int, most: int) -> int:
    """The largest divisor of `num` that is not above `most`."""
    return next(size for size in range(min(num, most), 0, -1) if num % size == 0)
