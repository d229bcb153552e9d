"""What a reader must know beside the figures of a fit: what data do not identify, and what is assumed beyond them."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Shaped

from ppl.risk.attempts import Attempts
from ppl.risk.beta_binomial import BetaPrior

_FAR = 100  # times the attempts made, up to where intervals were held to real counts
_FEW = 10
_LEAST_ESS = 100
_LEAST_LEARNED = 0.5  # posterior over prior spread of ln(alpha), above which the prior says as much as the data


def of_data(attempts: Attempts, reach: int) -> list[str]:
    """What the counts themselves leave open."""
    s, n = attempts.successes, attempts.trials
    found = []
    if s.sum() == 0:
        found.append(
            f"no success in {n.sum():,} attempts: coverage is bounded from above only, and every mean is the prior's "
            "as much as the data's"
        )
    elif (s == n).all():
        found.append(f"all {n.sum():,} attempts succeeded: rates are bounded from below only")
    if len(attempts) < _FEW:
        found.append(f"with {len(attempts)} problem(s) figures of the population are the prior's as much as the data's")
    if (n == 0).any():
        found.append(f"{(n == 0).sum()} problems without an attempt count in the corpus, by the other problems alone")
    if n.min() < n.max():
        found.append(f"{n.min()} to {n.max()} attempts a problem: 'observed' means up to {reach} of them")
    if attempts.rule.name != "fixed":
        found.append(
            f"rule {attempts.rule}: posteriors hold under it; the unbiased pass@k and rates pooled over attempts do not"
        )
    if attempts.rule.name == "adaptive" or reach < 5:
        found.append("attempts cannot be held back here: the experts keep their prior weights")
    return found


def of_posterior(draws: Mapping[str, Shaped[np.ndarray, "draws ..."]], prior: BetaPrior, ess: float) -> list[str]:
    """How little the data say about the tail, and how well it was computed."""
    found = []
    t_spread = prior.log_alpha_scale * np.sqrt(prior.freedom / (prior.freedom - 2)) if prior.freedom > 2 else np.inf
    spread = float(np.std(np.log(draws["alpha"])))
    if spread > _LEAST_LEARNED * t_spread:
        found.append(
            f"alpha, the exponent of the left tail, is known within a factor of {np.exp(1.645 * spread):.1f} (90%): "
            "far extrapolations rest on its prior; more problems or more attempts would say more"
        )
    if ess < _LEAST_ESS:
        found.append(f"importance sampling has an effective size of {ess:.0f} only; use method='nuts'")
    return found


def of_extrapolation(
    at: list[int],
    reach: int,
    weights: Mapping[str, float],
    means: Mapping[str, Float[np.ndarray, " ns"]],
    half_width: Float[np.ndarray, " ns"],
) -> list[str]:
    """What holds beyond `reach` only if its assumption does. `means`: of each expert at each of `at`."""
    beyond = [i for i, n in enumerate(at) if n > reach]
    if not beyond:
        return []
    named = " and ".join(f"{name} {weight:.2f}" for name, weight in weights.items() if weight > 0)
    found = [
        f"beyond {reach} attempts figures assume that coverage goes on as the experts have it (weights: {named}); "
        "no data of this size can check it"
    ]
    if max(at) > _FAR * reach:
        found.append(f"beyond {_FAR * reach:,} attempts, {_FAR} times those made, intervals have not been tested")
    if len(means) > 1:
        gaps = np.abs(np.subtract(*means.values()))
        apart = max(beyond, key=lambda i: gaps[i] - half_width[i])
        if gaps[apart] > half_width[apart]:
            both = ", ".join(f"{name} {values[apart]:.1%}" for name, values in means.items())
            found.append(f"the experts disagree at {at[apart]:,} attempts by more than the interval's half: {both}")
    return found
