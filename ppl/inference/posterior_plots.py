"""Pictures of a posterior: traces of chains beside their distributions."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from ppl.inference.evaluation import scalars

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
    components = list(scalars({name: posterior.draws[name] for name in chosen}).items())[:_MOST]
    weights = posterior.weights()
    figure = Figure(
        figsize=(9.0, 1.6 * len(components) + 0.4), layout="constrained"
    )  # not by pyplot, as in `ppl.plots`
    axes = figure.subplots(len(components), 2, squeeze=False, width_ratios=(2, 1))
    for (label, values), (trace, histogram) in zip(components, axes, strict=True):
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
