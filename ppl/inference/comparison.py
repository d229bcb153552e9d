"""Models of the same data compared by how well they predict an observation that was left out."""

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from ppl.inference.evaluation import observed_data
from ppl.inference.posterior import Posterior
from ppl.inference.program import Program

if TYPE_CHECKING:
    import pandas


def compare(posteriors: Mapping[str, Posterior], *, site: str | None = None) -> "pandas.DataFrame":
    """Leave-one-out predictive density of each model, and the weights of their best mixture.

    **Arguments:** `posteriors`: by the name of the model, all of the same data. `site`: the observed site to compare
    by, where there are several.

    **Returns:** a row for each model, the best first: `elpd`, the sum of log predictive densities of each observation
    given the others, with `se`; `elpd_diff` from the best with its own error `diff_se` (models differ when it is
    several of these, of a hundred observations or more); `p_loo`, the effective number of parameters; `weight`, of
    stacking, which sum to 1; `pareto_k`, the largest over observations, and `bad_k`, how many are above 0.7.

    **Raises:** `ValueError` for fewer than two posteriors; posteriors without their program; data that differ; several
    observed sites and no `site`; and models without a log likelihood by observation: factors alone, discrete sites that
    were summed out, one observation of an event.

    **Warns:** `UserWarning` naming a model where some Pareto k is above 0.7.

    **Source:** Vehtari, Gelman & Gabry (2017) for PSIS-LOO, by ArviZ; Yao, Vehtari, Simpson & Gelman (2018) for
    stacking.
    """
    from ppl import arviz_adapter

    if len(posteriors) < 2:
        raise ValueError(f"posteriors: two at least are wanted to compare, got {len(posteriors)}")
    sites = {name: _site(name, posterior, site) for name, posterior in posteriors.items()}
    first, *others = posteriors
    values = {name: np.asarray(observed_data(_program(name, one))[sites[name]]) for name, one in posteriors.items()}
    for name in others:
        if not np.array_equal(values[first], values[name], equal_nan=True):
            raise ValueError(
                f"posteriors: {first!r} and {name!r} are of different data (their {sites[first]!r} and "
                f"{sites[name]!r}, shapes {values[first].shape} and {values[name].shape}); what they predict cannot be "
                "compared"
            )
    data = {name: posterior.to_arviz(predictive=False) for name, posterior in posteriors.items()}
    shapes = {name: data[name]["log_likelihood"][sites[name]].shape[2:] for name in posteriors}
    for name, shape in shapes.items():
        if np.prod(shape) < 2:
            raise ValueError(
                f"posteriors: {name!r} has one observation at {sites[name]!r}, an event of shape {values[name].shape}; "
                "nothing is left when it is left out. Put independent observations in a plate"
            )
        if shape != shapes[first]:
            raise ValueError(
                f"posteriors: {first!r} and {name!r} have observations of shapes {shapes[first]} and {shape}; the same "
                "plates are wanted"
            )
    table = arviz_adapter.compare_loo(data, sites)
    for name, bad, largest in zip(table.index, table["bad_k"], table["pareto_k"], strict=True):
        if bad:
            warnings.warn(
                f"compare: of {name!r}, {bad} of {np.prod(shapes[name])} observations have a Pareto k above "
                f"{arviz_adapter.BAD_PARETO_K} (largest {largest:.2f}): the posterior without them is too far from the "
                "one with them to tell elpd. Take more draws, refit without these observations, or compare by log "
                "evidence",
                UserWarning,
                stacklevel=2,
            )
    return table


def _site(name: str, posterior: Posterior, wanted: str | None) -> str:
    """The observed site of a posterior that is compared."""
    structure = _program(name, posterior).structure
    observed = [site.name for site in structure.of_kind("observed")]
    if not observed:
        raise ValueError(f"posteriors: {name!r} has no observed site; factors have no log likelihood by observation")
    if structure.discrete and structure.latents:
        raise ValueError(
            f"posteriors: {name!r} sums out {structure.discrete[0].name!r}, and given its drawn values observations "
            "are predicted too well; write the mixture as one distribution (numpyro.distributions.Mixture)"
        )
    if wanted is None and len(observed) > 1:
        raise ValueError(f"site: {name!r} observes {', '.join(observed)}; name the one to compare by")
    if wanted is not None and wanted not in observed:
        raise ValueError(f"site: {wanted!r} is no observed site of {name!r}; they are {', '.join(observed)}")
    return wanted or observed[0]


def _program(name: str, posterior: Posterior) -> Program:
    if posterior.program is None:
        raise ValueError(f"posteriors: {name!r} was loaded without its program; pass `program=` to Posterior.load")
    return posterior.program
