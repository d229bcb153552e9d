"""What `ppl.infer` returns: draws by name, what the sampler said of them, and the evidence where the method has one."""

import dataclasses
import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, Shaped

from ppl.files import replacing
from ppl.inference.convergence import convergence
from ppl.inference.diagnosis import Advice, diagnose
from ppl.inference.evaluation import (
    constrained_draws,
    log_likelihoods,
    observed_data,
    prior_draws,
    scalars,
    simulated_draws,
)
from ppl.inference.program import Program
from ppl.keys import as_key, numpy_generator
from ppl.smc.resampling import systematic

# For tables and plots alone, and 0.3 to 0.4 s each to import; so are pandas and xarray in `ppl.arviz_adapter`.
if TYPE_CHECKING:
    import matplotlib.figure
    import pandas

_FORMAT = "ppl-posterior-1"


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Posterior:
    """Draws from the posterior of a program.

    - `draws`: `{site: [chains, draws, ...]}` in the constrained space, deterministic sites among them. With
      `log_weights` these are weighted particles; `equal_weight()` resamples them.
    - `unconstrained`: [chains, draws, d], the vectors that the sampler moved.
    - `log_weights`: [chains, draws], or `None` where draws are of equal weight. Log mean exp is 0 over all.
    - `stats`: statistics of the sampler by ArviZ's names ([chains, draws] or, for traces of steps, [chains, steps]).
    - `log_evidence`, `log_evidence_se`: the log marginal likelihood and its standard error, or `None`.
    - `method`: the method's name; `program`: what it ran on (`None` after `load` without one);
      `attrs`: facts for the record, seconds and settings.
    """

    draws: Mapping[str, Shaped[np.ndarray, "chains draws ..."]]
    unconstrained: Float[np.ndarray, "chains draws d"]
    log_weights: Float[np.ndarray, "chains draws"] | None
    stats: Mapping[str, Shaped[np.ndarray, "chains ..."]]
    log_evidence: float | None
    log_evidence_se: float | None
    method: str
    program: Program | None
    attrs: Mapping[str, str | int | float] = dataclasses.field(default_factory=dict)

    @property
    def num_chains(self) -> int:
        return self.unconstrained.shape[0]

    @property
    def num_draws(self) -> int:
        """Draws (or particles) of one chain."""
        return self.unconstrained.shape[1]

    def equal_weight(self, key: int | Key[Array, ""] = 0) -> "Posterior":
        """The same posterior as draws of equal weight: itself, or its particles resampled systematically."""
        if self.log_weights is None:
            return self
        indices = self._indices(key)
        chains = np.arange(self.num_chains)[:, None]
        draws = {name: value[chains, indices] for name, value in self.draws.items()}
        return dataclasses.replace(
            self, draws=draws, unconstrained=self.unconstrained[chains, indices], log_weights=None, stats={}
        )

    def sample(self, num: int, key: int | Key[Array, ""] = 0) -> dict[str, Shaped[np.ndarray, "num ..."]]:
        """`num` of the draws by site, taken by their weights with replacement, from all chains."""
        if num < 1:
            raise ValueError(f"num: at least one draw is wanted, got {num}")
        taken = numpy_generator(key).choice(self.num_chains * self.num_draws, num, p=self.weights().ravel())
        which = np.unravel_index(taken, (self.num_chains, self.num_draws))
        return {name: value[which] for name, value in self.draws.items()}

    def mean(self) -> dict[str, Float[np.ndarray, "..."]]:
        """Posterior means by site, weighted where draws are."""
        weights = self.weights()
        return {
            name: np.tensordot(weights, value.astype(np.float64), axes=([0, 1], [0, 1]))
            for name, value in self.draws.items()
        }

    def sd(self) -> dict[str, Float[np.ndarray, "..."]]:
        """Posterior standard deviations by site."""
        weights, means = self.weights(), self.mean()
        return {
            name: np.asarray(np.sqrt(np.tensordot(weights, (value - means[name]) ** 2.0, axes=([0, 1], [0, 1]))))
            for name, value in self.draws.items()
        }

    def weights(self) -> Float[np.ndarray, "chains draws"]:
        """Weights of the draws that sum to one."""
        if self.log_weights is None:
            return np.full(self.unconstrained.shape[:2], 1 / (self.num_chains * self.num_draws))
        weights = np.exp(np.asarray(self.log_weights, np.float64) - self.log_weights.max())
        return weights / weights.sum()

    def summary(self, level: float = 0.9) -> "pandas.DataFrame":
        """A row for each scalar: mean, sd, an equal-tailed interval, and (without weights) MCSE, bulk ESS and R-hat."""
        import pandas as pd

        if not 0 < level < 1:
            raise ValueError(f"level: a probability strictly between 0 and 1 is wanted, got {level!r}")
        ends = ((1 - level) / 2, (1 + level) / 2)
        components = scalars(self.draws)
        sizes, r_hats = np.zeros(0), np.zeros(0)
        chains_tell = self.log_weights is None and self.num_draws >= 4
        if chains_tell:
            sizes, r_hats = convergence(np.stack(list(components.values()), axis=-1))
        weights, rows = self.weights().ravel(), []
        for i, (label, value) in enumerate(components.items()):
            scalar = value.astype(np.float64)
            mean = float(weights @ scalar.ravel())
            sd = float(np.sqrt(weights @ (scalar.ravel() - mean) ** 2))
            low, high = _weighted_quantiles(scalar.ravel(), weights, ends)
            row = {"site": label, "mean": mean, "sd": sd, f"{ends[0]:.1%}": low, f"{ends[1]:.1%}": high}
            if chains_tell:
                row |= {"mcse_mean": sd / np.sqrt(sizes[i]), "ess_bulk": sizes[i]}
                if self.num_chains > 1:
                    row["r_hat"] = r_hats[i]
            rows.append(row)
        return pd.DataFrame(rows).set_index("site")

    def diagnose(self) -> list[Advice]:
        """What is wrong with this run, each with a sentence of advice; empty when nothing was seen."""
        return diagnose(self.unconstrained, self.log_weights, self.stats, self.draws, self.attrs)

    def predict(
        self, key: int | Key[Array, ""] = 0, *args: Any, **kwargs: Any
    ) -> dict[str, Shaped[np.ndarray, "chains draws ..."]]:
        """Posterior predictive draws of the observed sites, [chains, draws, ...].

        **Arguments:** other arguments of the model predict for other covariates; left out, those it was fitted to.
        """
        program = self._program()
        if args or kwargs:
            program = Program(program.model, args or program.args, kwargs or program.kwargs)
        posterior = self.equal_weight()
        return simulated_draws(as_key(key), program, posterior.latent_values())

    def latent_values(self) -> dict[str, Shaped[np.ndarray, "chains draws ..."]]:
        """The draws of latent sites, without deterministic ones."""
        names = {site.name for site in self._program().structure.sites if site.kind in ("latent", "discrete")}
        return {name: value for name, value in self.draws.items() if name in names}

    def to_arviz(self, *, predictive: bool = True, prior: bool = False, key: int = 0) -> Any:
        """For ArviZ (`InferenceData` or `DataTree`): posterior, sample_stats, log_likelihood, observed_data and more.

        **Arguments:** `predictive`: with posterior predictive draws; `prior`: with draws of the prior.

        Weighted particles are resampled for `posterior` and kept with their weights in `weighted_posterior`. Where
        discrete sites were summed out there is no `log_likelihood`: that of observations given the drawn values of
        these sites would make LOO too good.
        """
        from ppl import arviz_adapter

        program = self._program()
        structure = program.structure
        equal = self.equal_weight(key)
        dims = {**structure.dims, "unconstrained": ("unconstrained_dim",)}
        coords = {name: np.arange(size) for name, size in structure.plates}
        attrs = {"inference_method": self.method, **self.attrs}
        if self.log_evidence is not None:
            attrs["log_evidence"] = self.log_evidence
        if self.log_evidence_se is not None:
            attrs["log_evidence_se"] = self.log_evidence_se
        groups: dict[str, Mapping[str, Any]] = {"posterior": equal.draws}
        if structure.of_kind("observed"):
            groups["observed_data"] = observed_data(program)
            values = equal.latent_values()
            if not structure.discrete or not structure.latents:
                groups["log_likelihood"] = log_likelihoods(program, values)
                for name, value in groups["log_likelihood"].items():  # one number an event, which has axes of its own
                    dims[f"log_likelihood/{name}"] = structure.dims[name][: value.ndim - 2]
            if predictive:
                observed = {site.name for site in structure.of_kind("observed")}
                drawn = simulated_draws(as_key(key), program, values)
                groups["posterior_predictive"] = {name: value for name, value in drawn.items() if name in observed}
        if prior and not structure.improper:
            groups["prior"] = prior_draws(as_key(key), program, self.num_draws)
        per_draw = {name: value for name, value in self.stats.items() if value.shape[:2] == self._shape()}
        traces = {name: value for name, value in self.stats.items() if name not in per_draw}
        leading = {"sampler_trace": ("chain",)}
        if traces:
            groups["sampler_trace"] = traces
        groups["sample_stats"] = per_draw
        if self.log_weights is not None:
            groups["weighted_posterior"] = self.draws
            groups["sample_stats"] = {"log_weight": self.log_weights, **per_draw}
            leading |= dict.fromkeys(("weighted_posterior", "sample_stats"), ("chain", "particle"))
        return arviz_adapter.from_dict(groups, dims=dims, coords=coords, attrs=attrs, leading=leading)

    def plot_trace(self, names: list[str] | None = None) -> "matplotlib.figure.Figure":
        """Traces and histograms of scalar components (at most 12), a colour for each chain."""
        from ppl.inference.posterior_plots import trace_figure

        return trace_figure(self, names)

    def save(self, path: str | PathLike[str]) -> Path:
        """Write draws, weights, statistics and evidence to one `.npz` file; the program is not in it."""
        header = {
            "format": _FORMAT,
            "method": self.method,
            "attrs": dict(self.attrs),
            "log_evidence": self.log_evidence,
            "log_evidence_se": self.log_evidence_se,
        }
        arrays = {f"draws/{name}": value for name, value in self.draws.items()}
        arrays |= {f"stats/{name}": value for name, value in self.stats.items()}
        arrays["unconstrained"] = self.unconstrained
        if self.log_weights is not None:
            arrays["log_weights"] = self.log_weights
        with replacing(path) as partial, partial.open("wb") as file:
            np.savez(file, header=np.asarray(json.dumps(header)), allow_pickle=False, **arrays)
        return Path(path)

    @staticmethod
    def load(path: str | PathLike[str], program: Program | None = None) -> "Posterior":
        """Read what `save` wrote.

        **Arguments:** `program`: `Program(model, args, data)` of the run, for `predict` and `to_arviz`.

        **Raises:** `ValueError` if the file is something else, or its draws are of other sites than the program's.
        """
        with np.load(Path(path), allow_pickle=False) as file:
            if "header" not in file:
                raise ValueError(f"{path}: not a saved posterior (no header)")
            header = json.loads(str(file["header"]))
            if header.get("format") != _FORMAT:
                raise ValueError(f"{path}: format {_FORMAT!r} is wanted, got {header.get('format')!r}")
            draws = {name.removeprefix("draws/"): file[name] for name in file if name.startswith("draws/")}
            stats = {name.removeprefix("stats/"): file[name] for name in file if name.startswith("stats/")}
            unconstrained = file["unconstrained"]
            log_weights = file.get("log_weights")
        if program is not None and unconstrained.shape[2] != program.structure.size:
            raise ValueError(
                f"{path}: draws of {unconstrained.shape[2]} unconstrained numbers, but the program has "
                f"{program.structure.size}"
            )
        return Posterior(
            draws=draws,
            unconstrained=unconstrained,
            log_weights=log_weights,
            stats=stats,
            log_evidence=header["log_evidence"],
            log_evidence_se=header["log_evidence_se"],
            method=header["method"],
            program=program,
            attrs=header["attrs"],
        )

    def _indices(self, key: int | Key[Array, ""]) -> np.ndarray:
        keys = jax.random.split(as_key(key), self.num_chains)
        weights = jnp.asarray(self.log_weights)
        return np.asarray(jax.vmap(lambda k, w: systematic(k, w, self.num_draws))(keys, weights))

    def _shape(self) -> tuple[int, int]:
        return self.unconstrained.shape[0], self.unconstrained.shape[1]

    def _program(self) -> Program:
        if self.program is None:
            raise ValueError("posterior: it was loaded without its program; pass `program=` to Posterior.load")
        return self.program


def posterior_of(
    program: Program,
    unconstrained: Float[Array, "chains draws d"],
    *,
    method: str,
    log_weights: Float[Array, "chains draws"] | None = None,
    stats: Mapping[str, Shaped[np.ndarray | Array, "chains ..."]] | None = None,
    log_evidence: float | None = None,
    log_evidence_se: float | None = None,
    attrs: Mapping[str, str | int | float] | None = None,
) -> Posterior:
    """A `Posterior` from what a sampler moved; weights of several chains are put on one scale by the caller."""
    return Posterior(
        draws=constrained_draws(program, unconstrained, jax.random.key(0)),
        unconstrained=np.asarray(unconstrained),
        log_weights=None if log_weights is None else np.asarray(log_weights),
        stats={name: np.asarray(value) for name, value in (stats or {}).items()},
        log_evidence=log_evidence,
        log_evidence_se=log_evidence_se,
        method=method,
        program=program,
        attrs=dict(attrs or {}),
    )


def _weighted_quantiles(values: np.ndarray, weights: np.ndarray, levels: tuple[float, ...]) -> np.ndarray:
    order = np.argsort(values)
    below = np.cumsum(weights[order]) - weights[order] / 2
    return np.interp(levels, below, values[order])
