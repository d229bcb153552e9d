"""State of a run on disk as it goes, so that a killed run goes on where it was and gives the same draws.

Arrays are written by orbax, which replaces a checkpoint only by a complete one. A small manifest beside them says what
the run was of: program, data, method, key and sizes. Another run does not resume from it.
"""

import dataclasses
import hashlib
import json
import time
from collections.abc import Collection, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, PyTree

from ppl.files import replacing
from ppl.inference.program import Program
from ppl.keys import like_leaf, raw_array

_MANIFEST = "run.json"
_FORMAT = "ppl-chains-2"
# Seconds between two states of a particle method on disk; what a kill loses.
_EVERY = 10.0


class Checkpoint:
    """A folder of one run's checkpoints."""

    def __init__(self, folder: str | PathLike[str], identity: Mapping[str, Any], free: Collection[str] = ()):
        import orbax.checkpoint as orbax  # takes a second to import, which only this route should pay

        self.folder = Path(folder).resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.manager = orbax.CheckpointManager(
            self.folder / "state", options=orbax.CheckpointManagerOptions(max_to_keep=1)
        )
        self.args = orbax.args
        self.saved = time.monotonic()
        manifest = self.folder / _MANIFEST
        if manifest.exists():
            stored = json.loads(manifest.read_text())
            identity = {**identity, **{name: stored[name] for name in free if name in stored}}
            differing = [name for name in {**identity, **stored} if stored.get(name) != identity.get(name)]
            if differing:
                name = sorted(differing)[0]
                raise ValueError(
                    f"checkpoint: {self.folder} is of another run; {name} was {stored.get(name)!r} there and is "
                    f"{identity.get(name)!r} here. Name another folder, or remove this one"
                )
        else:
            with replacing(manifest) as partial:
                partial.write_text(json.dumps(dict(identity), indent=1))
        self.identity = dict(identity)

    @staticmethod
    def of(
        folder: str | PathLike[str] | None,
        program: Program,
        method: Any,
        key: Key[Array, ""],
        sizes: Mapping[str, int],
        starts: Float[Array, "chains d"] | None = None,
        free: Collection[str] = (),
    ) -> "Checkpoint | None":
        """The checkpoint of this run in `folder`, or `None` without one.

        **Arguments:** `starts`: those that the user gave. `free`: sizes that may be others than those of this call; the
        run keeps to the ones in `identity`.
        """
        if folder is None:
            return None
        given = {} if starts is None else {"starts": _digest(starts)}
        return Checkpoint(folder, {**_identity(program, method, key, sizes), **given}, free)

    @property
    def due(self) -> bool:
        """Whether a run that saves when it likes should do so now."""
        return time.monotonic() - self.saved >= _EVERY

    def save(self, step: int, carry: PyTree, **more: PyTree) -> None:
        """The state after `step` steps, and dicts of arrays; returns when they are on disk."""
        self.manager.save(step, args=self.args.StandardSave({"carry": numbered(carry), **more}))
        self.manager.wait_until_finished()
        self.saved = time.monotonic()

    def restore(self, like: PyTree) -> tuple[int, PyTree, dict[str, Any]] | None:
        """Step, carry and the dicts of arrays of the newest checkpoint; `None` if there is none.

        **Arguments:** `like`: what has the structure of the carry and its dtypes, as from `jax.eval_shape`.
        """
        step = self.manager.latest_step()
        if step is None:
            return None
        stored = dict(self.manager.restore(step, args=self.args.StandardRestore()))
        return step, rebuilt(stored.pop("carry"), like), stored


def numbered(tree: PyTree) -> dict[str, np.ndarray]:
    """The leaves of a tree by number, as a checkpoint holds them."""
    return {f"{i:04d}": raw_array(leaf) for i, leaf in enumerate(jax.tree.leaves(tree))}


def rebuilt(stored: Mapping[str, np.ndarray], like: PyTree) -> PyTree:
    """The tree of which `numbered` made `stored`, its structure and dtypes those of `like`."""
    likes, structure = jax.tree.flatten(like)
    return jax.tree.unflatten(structure, [like_leaf(stored[f"{i:04d}"], leaf) for i, leaf in enumerate(likes)])


def storable(tree: PyTree) -> PyTree:
    """Arrays without weak types, as restored ones are: to the compiler those are others."""

    def strong(x: Array) -> Array:
        return x if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x.astype(x.dtype)

    return jax.tree.map(strong, tree)


def _identity(program: Program, method: Any, key: Key[Array, ""], sizes: Mapping[str, int]) -> dict[str, Any]:
    start = dict(sorted((getattr(method, "start", None) or {}).items()))
    if start:  # distributions show themselves by their address
        method = dataclasses.replace(method, start=None)
    return {
        "format": _FORMAT,
        "sites": [[site.name, list(site.shape), site.kind] for site in program.structure.sites],
        "data": _digest((program.args, program.kwargs, start)),
        "method": repr(method),
        "start": {name: type(distribution).__name__ for name, distribution in start.items()},
        "key": np.asarray(jax.random.key_data(key)).tolist(),
        **sizes,
    }


def _digest(tree: PyTree) -> str:
    """Of arrays the bytes, of other leaves how they show themselves."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, jax.Array):
            digest.update(np.ascontiguousarray(np.asarray(leaf)).tobytes())
        else:
            digest.update(repr(leaf).encode())
    return digest.hexdigest()
