"""Bounded memory: a few chains or particles at a time, and chains spread over devices."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import PyTree

CHAIN_METHODS = ("vectorized", "sequential", "parallel")
# Draws evaluated at a time, of any number: pointwise likelihoods of all of them need not lie in memory as one trace.
BATCH = 1024


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where and when chains run: on `devices` devices, `batch` of them at a time on each.

    Chains do not depend on it: each has keys of its own.
    """

    devices: int
    batch: int

    @staticmethod
    def of(chains: int, chain_method: str, batch_size: int | None, *, ensemble: bool, label: str) -> "Layout":
        """The layout that `infer(..., chain_method=, batch_size=)` asks for.

        Groups are of one size, the largest that divides the chains of a device and is not above `batch_size`.

        **Raises:** `ValueError` for a method that is not known, sizes that contradict each other, `"parallel"` on one
        device, and methods whose chains adapt together.
        """
        if chain_method not in CHAIN_METHODS:
            known = ", ".join(map(repr, CHAIN_METHODS))
            raise ValueError(f"chain_method: {chain_method!r} is not known; known are {known}")
        check_batch_size(batch_size)
        if ensemble and (chain_method != "vectorized" or batch_size is not None):
            raise ValueError(
                f"{'batch_size' if chain_method == 'vectorized' else 'chain_method'}: chains of {label} learn from "
                "each other and run together; take NUTS or HMC for chains by themselves"
            )
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


def mapped(one: Callable[..., Any], batch_size: int | None, *arguments: PyTree) -> Any:
    """`one` over the first axis of all arguments, `batch_size` at a time, or all at once."""
    if batch_size is None:
        return jax.vmap(one)(*arguments)
    return jax.lax.map(lambda packed: one(*packed), arguments, batch_size=batch_size)


def check_batch_size(batch_size: int | None) -> None:
    """**Raises:** `ValueError` for what is no number of chains or particles."""
    if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
        raise ValueError(f"batch_size: a whole number from 1 up is wanted, got {batch_size!r}")


def _divisor(num: int, most: int) -> int:
    """The largest divisor of `num` that is not above `most`."""
    return next(size for size in range(min(num, most), 0, -1) if num % size == 0)
