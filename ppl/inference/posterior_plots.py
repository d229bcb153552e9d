"""Pictures of a posterior: traces of chains beside their distributions."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from ppl.inference.posterior import Posterior

_MOST = 12


def trace_figure(posterior: "Posterior", names: list[str] | None = None) -> Figure:
    """Each scalar component (the first dozen): its draws in order, and its histogram, a colour for each chain.

    **Raises:** `ValueError` naming a site that the posterior has not.
    """
    chosen = list(posterior.draws) if names is None else names
    for name in chosen:
        if name not in posterior.draws:
            raise ValueError(f"names: {name!r} is no site of the posterior; they are {', '.join(posterior.draws)}")
    scalars = [
        (name + (f"[{', '.join(map(str, index))}]" if index else ""), posterior.draws[name][(..., *index)])
        for name in chosen
        for index in np.ndindex(posterior.draws[name].shape[2:])
    ][:_MOST]
    weights = posterior.weights()
    figure = Figure(figsize=(9.0, 1.6 * len(scalars) + 0.4), layout="constrained")  # not by pyplot, as in `ppl.plots`
    axes = figure.subplots(len(scalars), 2, squeeze=False, width_ratios=(2, 1))
    for (label, values), (trace, histogram) in zip(scalars, axes, strict=True):
        bins = np.histogram_bin_edges(values, bins=40)
        for chain in range(posterior.num_chains):
            colour = f"C{chain % 10}"
            trace.plot(values[chain], linewidth=0.4, color=colour)
            histogram.hist(values[chain], bins=bins, weights=weights[chain], histtype="step", color=colour)
        trace.set_ylabel(label)
        histogram.set_yticks([])
    axes[-1, 0].set_xlabel("draw" if posterior.log_weights is None else "particle")
    axes[-1, 1].set_xlabel("value")
    return figure
