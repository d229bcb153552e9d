r"""A success probability seen through clusters whose trials are alike: posterior of its mean and of their correlation.

Trials of one cluster (attacks on one trained model, answers to one problem) share a probability
$\theta_c \sim \mathrm{Beta}(\mu (1 - \rho) / \rho, (1 - \mu) (1 - \rho) / \rho)$, so that $\mu$ is the mean of all
and $\rho$ the correlation of two trials of one cluster: 0 makes all trials independent, 1 makes a cluster one trial.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import special

_FAR = 44.0  # logit range: below it Jeffreys' prior has a mass of 2e-10
_DROP = 30.0  # nats below the maximum from which the density is left out
_RHO_CELLS = 32


class RateDraws(NamedTuple):
    """Posterior draws: mean rate, one minus it (exact near 1), correlation, and the log-likelihood of each cluster."""

    mean: Float[np.ndarray, " draws"]
    complement: Float[np.ndarray, " draws"]
    correlation: Float[np.ndarray, " draws"]
    log_likelihood: Float[np.ndarray, "draws clusters"]


def clustered_rate(
    successes: Int[np.ndarray, " clusters"],
    trials: Int[np.ndarray, " clusters"],
    draws: int,
    generator: np.random.Generator,
) -> RateDraws:
    r"""Draws from the posterior of $(\mu, \rho)$ under $\mu \sim \mathrm{Beta}(1/2, 1/2)$ and $\rho \sim U(0, 1)$.

    With one trial a cluster (or as $\rho \to 0$) that of $\mu$ is Jeffreys', $\mathrm{Beta}(1/2 + s, 1/2 + f)$.
    The log-likelihood is that of a cluster's outcomes in one given order. Clusters without trials say nothing.

    Computed on a grid in (logit $\mu$, $\sqrt\rho$) that is drawn closer to where the mass is, in float64 on the host:
    two dimensions need no sampler, and a mean may be as small as 1e-18 where no success was seen.
    """
    rows, index, counts = np.unique(
        np.stack([successes, trials - successes], axis=1), axis=0, return_inverse=True, return_counts=True
    )
    logit = np.arange(-_FAR, _FAR, 0.25)
    for num in (256, 512):  # each pass keeps what holds mass, one step wider on both sides
        density = _log_posterior(logit, _rho_roots(8), rows, counts).max(axis=1)
        kept, step = logit[density > density.max() - _DROP], logit[1] - logit[0]
        logit = np.linspace(max(kept[0] - step, -_FAR), min(kept[-1] + step, _FAR), num)
    root = _rho_roots(_RHO_CELLS)
    density = _log_posterior(logit, root, rows, counts).ravel()
    cumulated = np.cumsum(np.exp(density - density.max()))
    # A uniform point within the chosen cell: the draws are continuous, and cells are far smaller than the posterior.
    cell = np.searchsorted(cumulated, generator.uniform(0, cumulated[-1], draws), side="right")
    place, shift = np.unravel_index(cell, (len(logit), _RHO_CELLS)), generator.uniform(-0.5, 0.5, (2, draws))
    drawn = logit[place[0]] + shift[0] * (logit[1] - logit[0])
    drawn_root = root[place[1]] + shift[1] / _RHO_CELLS
    return RateDraws(
        special.expit(drawn),
        special.expit(-drawn),
        drawn_root**2,
        _log_likelihood(drawn[:, None], drawn_root[:, None], rows).astype(np.float32)[:, index.ravel()],
    )


def _rho_roots(cells: int) -> Float[np.ndarray, " cells"]:
    return (np.arange(cells) + 0.5) / cells


def _log_posterior(
    logit: Float[np.ndarray, " places"],
    root: Float[np.ndarray, " cells"],
    rows: Int[np.ndarray, "rows 2"],
    counts: Int[np.ndarray, " rows"],
) -> Float[np.ndarray, "places cells"]:
    # Jeffreys' prior in the logit is sqrt(mu (1 - mu)); a uniform rho has density 2 sqrt(rho) in its root.
    prior = 0.5 * (special.log_expit(logit) + special.log_expit(-logit))[:, None] + np.log(root)
    return prior + _log_likelihood(logit[:, None, None], root[:, None], rows) @ counts


def _log_likelihood(
    logit: Float[np.ndarray, "..."], root: Float[np.ndarray, "..."], rows: Int[np.ndarray, "rows 2"]
) -> Float[np.ndarray, "... rows"]:
    strength = (1 - root**2) / root**2
    a, b = special.expit(logit) * strength, special.expit(-logit) * strength
    return special.betaln(a + rows[:, 0], b + rows[:, 1]) - special.betaln(a, b)
