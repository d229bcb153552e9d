"""Convergence of chains, of all scalars in one compiled program: rank-normalised R-hat and bulk ESS, by blackjax."""

import jax
import numpy as np
from jaxtyping import Array, Float, Shaped

from ppl.inference.compiling import InOrder


def convergence(
    values: Shaped[np.ndarray, "chains draws scalars"],
) -> tuple[Float[np.ndarray, " scalars"], Float[np.ndarray, " scalars"]]:
    """Bulk effective sample size and R-hat of each scalar; NaN where all draws are alike, R-hat of one chain, too.

    **Source:** Vehtari, Gelman, Simpson, Carpenter & Bürkner (2021).
    """
    size, r_hat = jax.device_get(_convergence(np.asarray(values, np.float32)))
    alike = np.ptp(values, axis=(0, 1)) == 0
    if values.shape[0] == 1:
        r_hat = np.full_like(size, np.nan)
    return np.where(alike, np.nan, size), np.where(alike, np.nan, r_hat)


@InOrder
def _convergence(
    values: Float[Array | np.ndarray, "chains draws scalars"],
) -> tuple[Float[Array, " scalars"], Float[Array, " scalars"]]:
    import blackjax.diagnostics as diagnostics

    # One after another: ranks and autocorrelations of all at once take many times the memory of the draws.
    return jax.lax.map(
        lambda x: (diagnostics.ess_bulk(x), diagnostics.rhat(x)), jax.numpy.moveaxis(values, -1, 0), batch_size=64
    )
