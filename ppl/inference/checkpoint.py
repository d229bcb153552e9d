"""State of a run on disk between blocks, so that a killed run goes on where it was and gives the same draws.

Arrays are written by orbax, which replaces a checkpoint only by a complete one. A small manifest beside them says what
the run was of: program, data, method, key and sizes. Another run does not resume from it.
"""

import hashlib
import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Key, PyTree

from ppl.files import replacing
from ppl.inference.program import Program
from ppl.keys import like_leaf, raw_array

_MANIFEST = "run.json"
_FORMAT = "ppl-chains-1"


class Checkpoint:
    """A folder of one run's checkpoints."""

    def __init__(self, folder: str | PathLike[str], identity: Mapping[str, Any]):
        import orbax.checkpoint as orbax  # takes a second to import, which only this route should pay

        self.folder = Path(folder).resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.manager = orbax.CheckpointManager(
            self.folder / "state", options=orbax.CheckpointManagerOptions(max_to_keep=1)
        )
        self.args = orbax.args
        manifest = self.folder / _MANIFEST
        if manifest.exists():
            stored = json.loads(manifest.read_text())
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

    @staticmethod
    def of(
        folder: str | PathLike[str] | None, program: Program, method: Any, key: Key[Array, ""], sizes: Mapping[str, int]
    ) -> "Checkpoint | None":
        """The checkpoint of this run in `folder`, or `None` without one."""
        return None if folder is None else Checkpoint(folder, _identity(program, method, key, sizes))

    def save(
        self, carry: PyTree, positions: list[np.ndarray], statistics: list[dict[str, np.ndarray]], done: int
    ) -> None:
        """The state after `done` draws, and the draws; returns when they are on disk."""
        leaves = {f"{i:04d}": raw_array(leaf) for i, leaf in enumerate(jax.tree.leaves(carry))}
        stats = {name: np.concatenate([part[name] for part in statistics]) for name in statistics[0]}
        tree = {"carry": leaves, "positions": np.concatenate(positions), "stats": stats}
        self.manager.save(done, args=self.args.StandardSave(tree))
        self.manager.wait_until_finished()

    def restore(self, shapes: PyTree) -> tuple[PyTree, list[np.ndarray], list[dict[str, np.ndarray]], int] | None:
        """Carry, draws, statistics and number of draws of the newest checkpoint; `None` if there is none.

        **Arguments:** `shapes`: the structure of the carry, by `jax.eval_shape`.
        """
        step = self.manager.latest_step()
        if step is None:
            return None
        stored = self.manager.restore(step, args=self.args.StandardRestore())
        likes, structure = jax.tree.flatten(shapes)
        leaves = [like_leaf(stored["carry"][f"{i:04d}"], like) for i, like in enumerate(likes)]
        stats = {name: np.asarray(value) for name, value in stored["stats"].items()}
        return jax.tree.unflatten(structure, leaves), [np.asarray(stored["positions"])], [stats], step


def _identity(program: Program, method: Any, key: Key[Array, ""], sizes: Mapping[str, int]) -> dict[str, Any]:
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves((program.args, program.kwargs)):
        if isinstance(leaf, jax.Array):
            digest.update(np.ascontiguousarray(np.asarray(leaf)).tobytes())
        else:
            digest.update(repr(leaf).encode())
    return {
        "format": _FORMAT,
        "sites": [[site.name, list(site.shape), site.kind] for site in program.structure.sites],
        "data": digest.hexdigest(),
        "method": repr(method),
        "key": np.asarray(jax.random.key_data(key)).tolist(),
        **sizes,
    }
