"""What a run returns: `Run`, and the `History` it keeps on request."""

import json
from os import PathLike
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from ppl.cost import Ledger
from ppl.keys import like_leaf, raw_array
from ppl.smc.resampling import systematic

_FORMAT = "ppl-smc-run-1"


class History(eqx.Module):
    """Every generation of particles, kept when `history=True`.

    - `states`: leaves `[T + 1, N, ...]`, after the move of the step and before the next resampling.
    - `log_weights`: `[T + 1, N]`, after weighting (log mean exp 0 at each step; all `-inf` once extinct).
    - `log_potentials`: `[T + 1, N]`, what the kernels returned.
    """

    states: PyTree
    log_weights: Float[Array, "*replicates generations n"]
    log_potentials: Float[Array, "*replicates generations n"]


class Run(eqx.Module):
    """A particle approximation of a Feynman-Kac model, its evidence and its diagnostics.

    Shapes are for one run of `T` steps with `N` particles; `R` replicates put an axis `R` in front of everything but
    `log_evidence` and `log_evidence_se`.

    - `particles`: the state, leaves `[N, ...]`.
    - `log_weights`: `[N]`, log mean exp 0; all `-inf` when no particle is left alive.
    - `log_evidence`: $\\log \\hat Z$; of replicates, the log of the mean of $\\hat Z$. `None` when not `proper`.
    - `log_evidence_se`: its standard error (delta method): from replicates when there are several, else from the
      genealogy of the one run (`ppl.smc.variance`); NaN where that cannot tell (one family left, extinct).
    - `log_evidence_increments`: `[T + 1]`; they sum to the log evidence of a run. `None` when not `proper`.
    - `ess`: `[T + 1]` effective sample sizes after weighting, before resampling.
    - `ancestors`: `[T, N]` int32, row `t - 1` the indices in generation `t - 1` of the particles of generation `t`;
      `0 .. N-1` where no resampling took place (permuted by a model that arranges them), `-1` where a transport mixed
      the particles. `None` if not kept. A host run whose number of particles changes has a tuple of rows.
    - `resampled`: `[T]` whether it took place.
    - `extinct_at`: the first step at which every particle was dead, or -1.
    - `sibling_pairs`: `[2]` pairs of siblings that were looked at after their step, and how many of them differed.
    - `proper`: whether the weights are proper; if not, this is a search and not a posterior.
    - `cost`: what was spent, or `None`.
    - `history`: `History` or `None`.
    """

    particles: PyTree
    log_weights: Float[Array, "*replicates n"]
    log_evidence: Float[Array, "*problems"] | None
    log_evidence_se: Float[Array, "*problems"] | None
    log_evidence_increments: Float[Array, "*replicates generations"] | None
    ess: Float[Array, "*replicates generations"]
    ancestors: Int[Array, "*replicates steps n"] | tuple[Int[Array, " _"], ...] | None
    resampled: Bool[Array, "*replicates steps"]
    extinct_at: Int[Array, "*replicates"]
    sibling_pairs: Int[Array, "*replicates 2"]
    proper: bool = eqx.field(static=True, default=True)
    cost: Ledger | None = None
    history: History | None = None

    def to_arviz(self, key: int = 0) -> Any:
        """This run for ArviZ (`InferenceData` or `DataTree`, whichever is installed): a chain is a replicate.

        `posterior` holds N equal-weight draws a chain, resampled systematically with `key`; `weighted_posterior` and
        `sample_stats` hold the particles and log weights as they are, ESS and increments.

        **Raises:** `ValueError` for an extinct run: no particle of it is a draw.
        """
        from ppl.arviz_adapter import named_leaves, weighted_posterior  # pandas and xarray, for nothing else here

        if np.any(np.asarray(self.extinct_at) >= 0):
            raise ValueError(f"run: every particle was dead at step {np.max(self.extinct_at)}; there are no draws")
        run = eqx.tree_at(lambda r: (r.cost, r.history), self, (None, None), is_leaf=lambda x: x is None)
        if self.log_weights.ndim == 1:
            run = jax.tree.map(lambda x: x[None], run)
        chains, num = run.log_weights.shape
        keys = jax.random.split(jax.random.key(key), chains)
        indices = jax.vmap(lambda k, w: systematic(k, w, num))(keys, run.log_weights)
        statistics = {"ess": run.ess, "resampled": run.resampled}
        if run.log_evidence_increments is not None:
            statistics["log_evidence_increment"] = run.log_evidence_increments
        attrs = {"proper": int(self.proper)}
        if self.log_evidence is not None and self.log_evidence_se is not None:
            attrs |= {"log_evidence": float(self.log_evidence), "log_evidence_se": float(self.log_evidence_se)}
        dims = {"ess": ["generation"], "resampled": ["step"], "log_evidence_increment": ["generation"]}
        return weighted_posterior(
            named_leaves(run.particles), run.log_weights, indices, sample_stats=statistics, dims=dims, attrs=attrs
        )

    def save(self, path: str | PathLike[str]) -> Path:
        """Write every array of the run to one `.npz` file. **Returns:** its path, as given."""
        path = Path(path)
        leaves, _ = jax.tree_util.tree_flatten_with_path(self)
        arrays: dict[str, Any] = {f"{i:05d}": raw_array(leaf) for i, (_, leaf) in enumerate(leaves)}
        names = [jax.tree_util.keystr(p) for p, _ in leaves]
        header = {"format": _FORMAT, "names": names, "proper": self.proper}
        with path.open("wb") as file:  # a file object, so that numpy does not add a suffix of its own
            np.savez(file, header=np.asarray(json.dumps(header)), **arrays)
        return path

    @staticmethod
    def load(path: str | PathLike[str], like: "Run") -> "Run":
        """Read a run that `save` wrote.

        **Arguments:**

        - `path`: the file.
        - `like`: a run of the same model and options, for the structure of its state (shapes may differ);
          `jax.eval_shape` of the call that made it serves and computes nothing.

        **Raises:** `ValueError` if the file is not such a run, or its entries are not those of `like`.
        """
        with np.load(Path(path), allow_pickle=False) as file:
            if "header" not in file:
                raise ValueError(f"{path}: not a saved run (no header)")
            header = json.loads(str(file["header"]))
            if header.get("format") != _FORMAT:
                raise ValueError(f"{path}: format {_FORMAT!r} is wanted, got {header.get('format')!r}")
            stored = [file[f"{i:05d}"] for i in range(len(header["names"]))]
        leaves, structure = jax.tree_util.tree_flatten_with_path(like)
        names = [jax.tree_util.keystr(p) for p, _ in leaves]
        if names != header["names"] or like.proper != header["proper"]:
            missing = sorted(set(names) ^ set(header["names"]))
            raise ValueError(f"{path}: holds another structure than `like`; entries in only one of them: {missing}")
        return jax.tree.unflatten(structure, [_typed(x, leaf) for x, (_, leaf) in zip(stored, leaves, strict=True)])


def _typed(stored: np.ndarray, leaf: Any) -> Any:
    """A stored leaf with the type of its counterpart in `like`."""
    if not hasattr(leaf, "dtype"):  # a Python number of the ledger
        return type(leaf)(stored)
    return like_leaf(stored, leaf)
