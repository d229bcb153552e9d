"""Where arrays live on a `jax.sharding.Mesh`: tensors split over its axis `tensors`, particles over `particles`."""

import math
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental.multihost_utils import process_allgather
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding
from jax.typing import DTypeLike

Placement = Mesh | Sharding | None
Tree = TypeVar("Tree")

# Which axis of an array is split when tensors are: key heads with their queries, the inner width, the vocabulary.
_SPLIT_AXIS = {
    "qkv": 0, "qkv_bias": 0, "out": 1, "up": 1, "up_bias": 1, "down": 1, "embed_tokens": 0, "head": 0,
}  # fmt: skip


def place(array: np.ndarray, dtype: DTypeLike, keys: tuple, sharding: Placement) -> jax.Array:
    """The array of a model's leaf `keys`, as `dtype`, on its devices."""
    array = array.astype(dtype)
    if isinstance(sharding, Mesh):
        sharding = NamedSharding(sharding, _spec(array.shape, keys, sharding))
    return jax.device_put(array, sharding) if sharding is not None else jnp.asarray(array)


def checked(sharding: Placement) -> Placement:
    """A mesh as it is used here. **Raises:** `ValueError` naming an axis that has no meaning here."""
    if not isinstance(sharding, Mesh):
        return sharding
    if unknown := [axis for axis in sharding.axis_names if axis not in ("particles", "tensors")]:
        raise ValueError(f"sharding: the axes of a mesh are 'particles' and 'tensors', got {unknown[0]!r}")
    # The compiler finds what is between the arrays that are placed, whatever kind of axes the mesh was made with.
    return Mesh(sharding.devices, sharding.axis_names, axis_types=(AxisType.Auto,) * len(sharding.axis_names))


def particle_mesh(params: nnx.State) -> Mesh | None:
    """The mesh that a model was loaded on, if it spreads particles."""
    sharding = jax.tree.leaves(params)[0].sharding
    mesh = sharding.mesh if isinstance(sharding, NamedSharding) else None
    return mesh if isinstance(mesh, Mesh) and "particles" in mesh.shape else None


def over_particles(tree: Tree, mesh: Mesh | None) -> Tree:
    """Arrays whose first axis is that of particles, spread over the mesh's axis `particles`."""
    if mesh is None:
        return tree
    return jax.lax.with_sharding_constraint(tree, NamedSharding(mesh, PartitionSpec("particles")))


def check_particles(mesh: Mesh | None, name: str, count: int) -> None:
    """**Raises:** `ValueError` unless `count` particles are as many on each device."""
    if mesh is not None and count % mesh.shape["particles"]:
        raise ValueError(
            f"{name} must be a multiple of the {mesh.shape['particles']} devices of the axis 'particles', got {count}"
        )


def even_share(mesh: Mesh | None, prompts: int, num_samples: int) -> int:
    """The fewest prompts, `prompts` at least, whose rows of `num_samples` each are as many on each device."""
    if mesh is None:
        return prompts
    devices = mesh.shape["particles"]
    step = devices // math.gcd(devices, num_samples)
    return -(-prompts // step) * step


def gathered(tree: Tree) -> Tree:
    """NumPy arrays, whole on every process of `jax.distributed`, whichever processes' devices hold their parts."""

    def whole(array: jax.Array) -> np.ndarray:
        here = array.is_fully_addressable or array.is_fully_replicated
        return np.asarray(array if here else process_allgather(array, tiled=True))

    return jax.tree.map(whole, tree)


def _spec(shape: tuple[int, ...], keys: tuple, mesh: Mesh) -> PartitionSpec:
    """Split over the mesh's axis `tensors` along the axis that keeps products local; whole where it does not divide."""
    axis = _SPLIT_AXIS.get(str(keys[-1]))
    if "tensors" not in mesh.shape or axis is None or shape[axis] % mesh.shape["tensors"]:
        return PartitionSpec()
    return PartitionSpec(*(["tensors" if i == axis else None for i in range(len(shape))]))
