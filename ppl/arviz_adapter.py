"""The one place that knows which ArviZ is installed.

On Python 3.11 it is 0.23 with its `InferenceData`, from 3.12 on 1.x with `xarray.DataTree`. Both hold named groups of
`xarray.Dataset`s and open the same netCDF files, so the data sets are built here, and only the container differs.
"""

import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
import xarray
from jaxtyping import Array, Float, Int, PyTree, Shaped

from ppl.files import replacing
from ppl.keys import raw_array

# Asked of the metadata: importing ArviZ takes seconds, and 1.x is not needed to build or read what it works on.
_HAS_INFERENCE_DATA = int(version("arviz").split(".")[0]) < 1

# Above it, smoothed importance weights of an observation left out are not to be relied on (Vehtari et al. 2024).
BAD_PARETO_K = 0.7

# ArviZ's own groups of draws: each variable starts with the axes (chain, draw).
SAMPLED_GROUPS = frozenset(
    {"posterior", "posterior_predictive", "predictions", "sample_stats", "log_likelihood", "prior", "prior_predictive"}
)


def from_dict(
    groups: Mapping[str, Mapping[str, Shaped[np.ndarray | Array, "..."]]],
    *,
    dims: Mapping[str, Sequence[str]] | None = None,
    coords: Mapping[str, Sequence[Any] | np.ndarray] | None = None,
    attrs: Mapping[str, str | int | float] | None = None,
    leading: Mapping[str, tuple[str, ...]] | None = None,
) -> Any:
    """Arrays by group and name, as what the installed ArviZ works on.

    **Arguments:**

    - `groups`: `{group: {variable: array}}`. In `SAMPLED_GROUPS` an array's leading axes are (chain, draw).
    - `dims`: names of a variable's axes (after chain and draw, in a group of draws), for one group alone under
      `"<group>/<variable>"`. Unnamed: `<variable>_dim_<i>`.
    - `coords`: labels along named axes, used in each group that has the axis.
    - `attrs`: facts about the whole, such as the method's name.
    - `leading`: names of the first axes of all variables of a group, where they are not those said above: particles
      that a group of draws was resampled from are (chain, particle).

    **Returns:** `arviz.InferenceData` for ArviZ 0.x, `xarray.DataTree` for 1.x.

    **Raises:** `ValueError` naming group and variable if axes are missing or the number of names does not fit.
    """
    dims, coords = dims or {}, coords or {}
    datasets = {
        group: _dataset(group, variables, dims=dims, coords=coords, leading=(leading or {}).get(group))
        for group, variables in groups.items()
    }
    return _container(datasets, attrs)


def weighted_posterior(
    particles: Mapping[str, Shaped[np.ndarray | Array, "chain particle ..."]],
    log_weights: Float[np.ndarray | Array, "chain particle"],
    indices: Int[np.ndarray | Array, "chain draw"],
    *,
    sample_stats: Mapping[str, Shaped[np.ndarray | Array, "..."]] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    coords: Mapping[str, Sequence[Any] | np.ndarray] | None = None,
    attrs: Mapping[str, str | int | float] | None = None,
) -> Any:
    """Weighted particles in a form that no ArviZ function misreads.

    ArviZ has no place for weights and takes every draw for equal. So `posterior` holds equal-weight draws, those that
    `indices` names (resampled by the weights, by the caller), and the particles themselves are kept beside it:

    - `posterior`: draws `particles[chain, indices[chain, draw]]`, axes (chain, draw, ...);
    - `weighted_posterior`: all particles, axes (chain, particle, ...);
    - `sample_stats`: `log_weight` with axes (chain, particle), `particle_index` with axes (chain, draw), and whatever
      `sample_stats` adds: any axes, the leading one `chain`, names of the others from `dims`.

    A chain is one independent run of the particle method.

    **Raises:** `ValueError` if an index lies outside the particles, or a name in `sample_stats` is taken.
    """
    log_weights, indices = np.asarray(log_weights), np.asarray(indices)
    num_particles = log_weights.shape[1]
    if indices.size and (indices.min() < 0 or indices.max() >= num_particles):
        raise ValueError(
            f"indices: must lie in [0, {num_particles}), the particles; got {indices.min()} to {indices.max()}"
        )
    extra = dict(sample_stats or {})
    taken = {"log_weight", "particle_index"} & extra.keys()
    if taken:
        raise ValueError(f"sample_stats: the name {sorted(taken)[0]!r} is written by weighted_posterior itself")
    dims, coords = dims or {}, coords or {}
    whole = {name: np.asarray(value) for name, value in particles.items()}
    chains = np.arange(len(indices))[:, None]
    posterior = _dataset(
        "posterior", {name: value[chains, indices] for name, value in whole.items()}, dims=dims, coords=coords
    )
    weighted = _dataset("weighted_posterior", whole, dims=dims, coords=coords, leading=("chain", "particle"))
    statistics = _dataset("sample_stats", extra, dims=dims, coords=coords, leading=("chain",))
    statistics["log_weight"] = (("chain", "particle"), log_weights)
    statistics["particle_index"] = (("chain", "draw"), indices)
    return _container({"posterior": posterior, "weighted_posterior": weighted, "sample_stats": statistics}, attrs)


def compare_loo(data: Mapping[str, Any], sites: Mapping[str, str]) -> pd.DataFrame:
    """Leave-one-out comparison by either ArviZ, in one form: the best model first, all on the scale of log density.

    **Arguments:** `data`: by model, what `from_dict` returned, with `posterior` and `log_likelihood`; `sites`: by
    model, the variable of `log_likelihood`.

    **Returns:** columns `elpd`, `se`, `p_loo`, `elpd_diff` (from the best, at most 0), `diff_se`, `weight` (stacking),
    `pareto_k` (the largest) and `bad_k` (how many are above 0.7).
    """
    arviz = _arviz()
    with warnings.catch_warnings():
        # Said of each model by the caller, with the number that this leaves out.
        warnings.filterwarnings("ignore", message="Estimated shape parameter of Pareto", category=UserWarning)
        # What 0.23 says to pandas.
        warnings.filterwarnings("ignore", message="The inplace keyword", category=DeprecationWarning)
        found = {name: arviz.loo(one, pointwise=True, var_name=sites[name]) for name, one in data.items()}
        options = {"scale": "log"} if _HAS_INFERENCE_DATA else {"round_to": "none"}
        table = arviz.compare(found, method="stacking", **options)
    table = table.rename(columns={"elpd_loo": "elpd", "p": "p_loo", "dse": "diff_se"})
    table["elpd_diff"] = table["elpd"] - table["elpd"].max()  # 0.23 has it with the other sign
    largest = {name: np.asarray(one.pareto_k) for name, one in found.items()}
    table["pareto_k"] = [float(largest[name].max()) for name in table.index]
    table["bad_k"] = [int((largest[name] > BAD_PARETO_K).sum()) for name in table.index]
    table.index.name = "model"
    return table[["elpd", "se", "p_loo", "elpd_diff", "diff_se", "weight", "pareto_k", "bad_k"]]


def named_leaves(tree: PyTree) -> dict[str, np.ndarray]:
    """The array leaves of a particle state by path (`"x"`, `"inner.cache.0"`; a bare array is `"value"`).

    Random keys, which netCDF cannot hold, are given as their raw numbers.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    named = {}
    for path, leaf in leaves:
        name = jax.tree_util.keystr(path, simple=True, separator=".") or "value"
        named[name] = raw_array(leaf)
    return named


def save_netcdf(data: Any, path: str | PathLike[str]) -> Path:
    """Write what `from_dict` or `weighted_posterior` returned; `arviz.from_netcdf` of either line opens it.

    An existing file is replaced, and only by a complete one.
    """
    if _HAS_INFERENCE_DATA:
        data = _tree({group: data[group] for group in data.groups()}, data.attrs)
    with replacing(path) as partial:
        data.to_netcdf(partial, engine="h5netcdf")
    return Path(path)


def load_netcdf(path: str | PathLike[str]) -> Any:
    """Read a file of groups into memory; the file is closed again.

    **Raises:** `FileNotFoundError`; `ValueError` naming the file if it is not netCDF.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with xarray.open_datatree(path, engine="h5netcdf") as tree:
            tree.load()
            datasets = {group: tree[group].to_dataset() for group in tree.children}
            return _container(datasets, {str(name): value for name, value in tree.attrs.items()})
    except OSError as error:  # what HDF5 raises on foreign or truncated bytes
        raise ValueError(f"{path}: not a netCDF file: {error}") from error


def _dataset(
    group: str,
    variables: Mapping[str, Shaped[np.ndarray | Array, "..."]],
    *,
    dims: Mapping[str, Sequence[str]],
    coords: Mapping[str, Sequence[Any] | np.ndarray],
    leading: tuple[str, ...] | None = None,
) -> xarray.Dataset:
    """One group: `leading` axes (by default chain and draw for ArviZ's groups of draws), then named ones."""
    if leading is None:
        leading = ("chain", "draw") if group in SAMPLED_GROUPS else ()
    data = {}
    for name, value in variables.items():
        array = np.asarray(value)
        if array.ndim < len(leading):
            raise ValueError(f"{group}/{name}: the leading axes must be {leading}, got shape {array.shape}")
        unnamed = tuple(f"{name}_dim_{i}" for i in range(array.ndim - len(leading)))
        trailing = tuple(dims.get(f"{group}/{name}", dims.get(name, unnamed)))
        if len(trailing) != array.ndim - len(leading):
            raise ValueError(
                f"{group}/{name}: dims names {len(trailing)} axes {trailing}, "
                f"but shape {array.shape} has {array.ndim - len(leading)} after {leading}"
            )
        data[name] = (leading + trailing, array)
    dataset = xarray.Dataset(data)
    known = {name: list(labels) for name, labels in coords.items() if name in dataset.dims}
    counted = {name: np.arange(dataset.sizes[name]) for name in leading if name in dataset.dims}
    return dataset.assign_coords(counted | known)


def _container(datasets: Mapping[str, xarray.Dataset], attrs: Mapping[str, Any] | None) -> Any:
    if not _HAS_INFERENCE_DATA:
        return _tree(datasets, attrs)
    return _arviz().InferenceData(attrs=dict(attrs or {}), **datasets)


def _arviz() -> Any:
    with warnings.catch_warnings():
        # 0.23 announces 1.x at every import; this module is our answer to it, and a user can do nothing about it.
        warnings.filterwarnings("ignore", message=r"\s*ArviZ is undergoing a major refactor", category=FutureWarning)
        return import_module("arviz")


def _tree(datasets: Mapping[str, xarray.Dataset], attrs: Mapping[str, Any] | None) -> xarray.DataTree:
    tree = xarray.DataTree.from_dict({f"/{group}": dataset for group, dataset in datasets.items()})
    tree.attrs.update(attrs or {})
    return tree
