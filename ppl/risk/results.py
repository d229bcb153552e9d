"""What every estimator of `ppl.risk` returns: posterior draws by name, summarised, exported and plotted in one way."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped
from matplotlib.figure import Figure

from ppl import arviz_adapter
from ppl.intervals import Interval, check_level
from ppl.plots import new_figure

_CHAINS = 4  # independent draws are dealt to chains, so that ArviZ's diagnostics across chains have chains to compare


class Estimate(NamedTuple):
    """A posterior mean and an equal-tailed interval: floats, or arrays where several were asked for at once."""

    mean: float | Float[np.ndarray, "..."]
    interval: Interval


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class DrawsResult:
    """Independent posterior draws by name.

    - `draws`: for each name an array [draws, ...];
    - `log_likelihood`: by name of the observed variable [draws, observations], what LOO needs; empty where the
      posterior has no likelihood of separate observations;
    - `observed`: the data by name; `dims`, `coords`: names of the axes after the draws, and their labels;
    - `attrs`: facts for the netCDF file, such as the prior.

    A result of a domain derives from this class and adds its own fields and plots; nothing here is overridden.
    """

    draws: Mapping[str, Shaped[np.ndarray, "draws ..."]]
    log_likelihood: Mapping[str, Float[np.ndarray, "draws ..."]] = dataclasses.field(default_factory=dict)
    observed: Mapping[str, Shaped[np.ndarray, "..."]] = dataclasses.field(default_factory=dict)
    dims: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    coords: Mapping[str, Sequence[Any] | np.ndarray] = dataclasses.field(default_factory=dict)
    attrs: Mapping[str, str | int | float] = dataclasses.field(default_factory=dict)

    def estimate(self, name: str, level: float = 0.9) -> Estimate:
        """Mean and interval of one quantity, elementwise. **Raises:** `ValueError` naming an unknown `name`."""
        if name not in self.draws:
            raise ValueError(f"name: one of {', '.join(self.draws)} is wanted, got {name!r}")
        return estimate(self.draws[name], level)

    def summary(self, level: float = 0.9) -> pd.DataFrame:
        """One row for each scalar, named `name` or `name[label, ...]`: mean, sd and the interval's ends."""
        rows = [
            {"quantity": label, "mean": values.mean(), "sd": values.std(), **_ends(values, level)}
            for label, values in self._scalars()
        ]
        return pd.DataFrame(rows).set_index("quantity")

    def to_arviz(self) -> Any:
        """The draws as ArviZ data, with the pointwise log-likelihood where there is one, so that LOO works."""
        groups: dict[str, Mapping[str, np.ndarray]] = {
            "posterior": {name: _in_chains(values) for name, values in self.draws.items()}
        }
        if self.log_likelihood:
            groups["log_likelihood"] = {name: _in_chains(values) for name, values in self.log_likelihood.items()}
        if self.observed:
            groups["observed_data"] = dict(self.observed)
        return arviz_adapter.from_dict(groups, dims=self.dims, coords=self.coords, attrs=self.attrs)

    def plot_posterior(self, names: Sequence[str] | None = None, level: float = 0.9) -> Figure:
        """Each scalar as a dot with its interval, one below the other.

        **Raises:** `ValueError` naming an unknown name.
        """
        unknown = [name for name in names or () if name not in self.draws]
        if unknown:
            raise ValueError(f"names: only {', '.join(self.draws)} are known, got {unknown[0]!r}")
        return interval_plot(
            {label: values for label, values in self._scalars() if names is None or label.split("[")[0] in names}, level
        )

    def _scalars(self) -> Iterator[tuple[str, np.ndarray]]:
        """Each scalar quantity by label, with its draws."""
        for name, values in self.draws.items():
            axes = self.dims.get(name, ())
            for where in np.ndindex(values.shape[1:]):
                labels = [
                    str(self.coords[axis][i]) if axis in self.coords else str(i)
                    for axis, i in zip(axes or [""] * len(where), where, strict=True)
                ]
                yield (f"{name}[{', '.join(labels)}]" if labels else name), values[(slice(None), *where)]


def estimate(draws: Shaped[np.ndarray, "draws ..."], level: float = 0.9) -> Estimate:
    """Mean and equal-tailed interval over the first axis. **Raises:** `ValueError` for a level outside (0, 1)."""
    check_level(level)
    lower, upper = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    mean = np.asarray(np.mean(draws, axis=0, dtype=np.float64))
    return Estimate(mean[()], Interval(lower[()], upper[()]))


def interval_plot(scalars: Mapping[str, Float[np.ndarray, " draws"]], level: float = 0.9) -> Figure:
    """A dot and an interval for each scalar, one below the other, the first on top."""
    figure, axes = new_figure()
    figure.set_size_inches(7, 1 + 0.32 * len(scalars))
    for row, values in enumerate(scalars.values()):
        middle, (lower, upper) = estimate(values, level)
        axes.hlines(row, lower, upper, color="C0", alpha=0.5, linewidth=3)
        axes.plot(middle, row, "o", color="C0", markersize=4)
    axes.set_yticks(range(len(scalars)), list(scalars))
    axes.set(xlabel=f"posterior mean and {level:.0%} interval", ylim=(len(scalars) - 0.5, -0.5))
    return figure


def _ends(values: np.ndarray, level: float) -> dict[str, float]:
    lower, upper = estimate(values, level).interval
    return {"lower": float(lower), "upper": float(upper)}


def _in_chains(values: np.ndarray) -> np.ndarray:
    chains = _CHAINS if len(values) % _CHAINS == 0 else 1
    return values.reshape(chains, -1, *values.shape[1:])
