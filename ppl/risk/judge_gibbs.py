r"""Gibbs sampling of judges' confusions and candidates' true levels: the engine of `ppl.risk.simplex`.

Given the true levels of items all else is Dirichlet, and given all else the true levels of like items are multinomial.
Where the data do not say what a level means, the chain moves there by about the prior's worth over the items' number at
a sweep; so chains are many, start from the prior, and go on until they agree.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

CHAINS = 20
_SWEEPS = 100  # of the first block; each further block has twice as many, and only the last one's draws are kept
_BLOCKS = 6
AGREE = 1.05  # R-hat below which chains count as agreeing


class Items(NamedTuple):
    """Items that are alike in candidate and scores, and the prior's and the labels' counts of each judge.

    `constant`: one confusion for all candidates; `monotone`: rows stochastically ordered.
    """

    owner: Int[np.ndarray, " patterns"]
    given: Int[np.ndarray, "patterns judges"]
    times: Int[np.ndarray, " patterns"]
    base: Float[np.ndarray, "judges levels levels"]
    constant: bool
    monotone: bool


class Draws(NamedTuple):
    """Posterior draws, chain by chain; `confusion` has one candidate only where it is constant."""

    share: Float[np.ndarray, "draws candidates levels"]
    confusion: Float[np.ndarray, "draws judges owners levels levels"]
    r_hat: float


def run(items: Items, values: Float[np.ndarray, " levels"], per_chain: int, rng: np.random.Generator) -> Draws:
    """`per_chain` draws from each of the chains, evenly spaced over the last block of sweeps.

    `values`: of the levels; the chains are held to agree on the mean values of the candidates.
    """
    owners = np.eye(items.owner.max() + 1)[:, items.owner]  # [candidates, patterns]
    pools = np.ones((1, len(items.owner))) if items.constant else owners
    scored = np.eye(items.base.shape[1])[items.given].transpose(1, 2, 0)  # [judges, given, patterns]
    base = np.broadcast_to(items.base[:, None], (items.base.shape[0], len(pools), *items.base.shape[1:]))

    share = _dirichlet(np.ones((CHAINS, len(owners), items.base.shape[1])), rng)
    mean = base / base.sum(axis=-1, keepdims=True)
    confusion = np.broadcast_to(mean, (CHAINS, *mean.shape))
    confusion = _redraw(confusion, base, items.monotone, rng)
    found = None
    for block in range(_BLOCKS):
        sweeps = max(_SWEEPS, per_chain) * 2**block
        keep = set(np.linspace(0, sweeps, per_chain, endpoint=False, dtype=int).tolist())
        kept_share, kept_confusion = [], []
        for sweep in range(sweeps):  # each sweep needs the one before it; the chains go side by side
            joint = joint_probability(items, share, confusion)
            truth = rng.multinomial(items.times, joint / joint.sum(axis=-1, keepdims=True))
            share = _dirichlet(1 + np.einsum("kr,crm->ckm", owners, truth), rng)
            counts = base + np.einsum("jlr,pr,crm->cjpml", scored, pools, truth, optimize=True)
            confusion = _redraw(confusion, counts, items.monotone, rng)
            if sweep in keep:
                kept_share.append(share)
                kept_confusion.append(confusion)
        shares, confusions = np.stack(kept_share, axis=1), np.stack(kept_confusion, axis=1)
        r_hat = _r_hat(shares @ values)
        found = Draws(shares.reshape(-1, *shares.shape[2:]), confusions.reshape(-1, *confusions.shape[2:]), r_hat)
        if r_hat < AGREE:
            break
    assert found is not None  # there is a first block
    return found


def joint_probability(
    items: Items,
    share: Float[np.ndarray, "draws candidates levels"],
    confusion: Float[np.ndarray, "draws judges owners levels levels"],
) -> Float[np.ndarray, "draws patterns levels"]:
    """Probability of each pattern's scores together with each true level."""
    joint = share[:, items.owner]
    whose = np.zeros_like(items.owner) if items.constant else items.owner
    for judge, given in enumerate(items.given.T):
        joint = joint * confusion[:, judge, whose, :, given].transpose(1, 0, 2)
    return joint


def ordered(confusion: Float[np.ndarray, "... levels levels"]) -> Bool[np.ndarray, "..."]:
    """Whether a better true level never makes a given level or worse more likely."""
    below = np.cumsum(confusion, axis=-1)[..., :-1]
    return np.asarray((np.diff(below, axis=-2) <= 0).all(axis=(-2, -1)))


def _redraw(confusion, counts, monotone, rng):
    """Draws of the conditional. Where rows must be ordered and the proposal's are not, the old value stays: a
    Metropolis step whose proposal is the conditional without the order."""
    new = _dirichlet(np.broadcast_to(counts, confusion.shape), rng)
    return np.where(ordered(new)[..., None, None], new, confusion) if monotone else new


def _dirichlet(counts, rng):
    gammas = rng.standard_gamma(counts)
    return gammas / gammas.sum(axis=-1, keepdims=True)


def _r_hat(scores: Float[np.ndarray, "chains draws candidates"]) -> float:
    """The largest over candidates, of whole chains; infinite from a single draw a chain, which shows nothing."""
    num = scores.shape[1]
    if num < 2:
        return float("inf")
    within = scores.var(axis=1, ddof=1).mean(axis=0)
    between = scores.mean(axis=1).var(axis=0, ddof=1)
    return float(np.sqrt((num - 1) / num + between / within).max())
