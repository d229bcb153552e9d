r"""Whether counts declared as fixed-n look as if sampling had looked at outcomes."""

import math

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import special

_CHANCE = 1e-4  # of a false alarm, at most, for each of the two tests
_DRAWS = 64


def optional_stopping(successes: Int[np.ndarray, " problems"], trials: Int[np.ndarray, " problems"]) -> str | None:
    r"""A warning, if trials differ between problems in a way that outcomes would explain; else `None`.

    Two tests of the hypothesis that numbers of trials are exchangeable over the $K$ problems, whatever the problems'
    difficulties. Each raises a false alarm in at most 1 of 10,000 files:

    - *Every unsolved problem has the most trials*, as when sampling stops at a success or at a limit. If $z$ problems
      are unsolved and $m$ have the largest number of trials, the chance is at most $\binom{m}{z} / \binom{K}{z}$: the
      $z$ would be unsolved after so many trials wherever these $m$ places fall.
    - *Problems with more trials succeed less often.* One attempt of each problem, drawn at random among its $n_i$, has
      the chance of success that its difficulty gives it, at whatever $n_i$; so the failures among these attempts are at
      a random subset of problems. How likely a mean of $\ln n_i$ at least as large is in a random subset is bounded by
      Chernoff, from the $\ln n_i$ themselves, and twice the average bound over 64 draws holds for all of them.

    What they show is dependence. Problems known beforehand to be hard, and given more trials for it, look alike, and
    are no fault of a fixed rule.

    **Source:** sampling without replacement is no more spread than with it: Hoeffding (1963), Thm. 4; averages of
    p-values: Rüschendorf (1982).
    """
    tried = trials > 0
    s, n = successes[tried], trials[tried]
    if len(n) < 2 or n.min() == n.max():
        return None
    found, unsolved = [], s == 0
    if unsolved.any() and (n[unsolved] == n.max()).all():
        num, most = int(unsolved.sum()), int((n == n.max()).sum())
        chance = math.exp(_log_choose(most, num) - _log_choose(len(n), num))
        if chance < _CHANCE:
            found.append(
                f"each of the {num} problems without a success has the largest number of trials, {n.max()} (chance "
                f"{chance:.1g})"
            )
    chance = _chance_of_harder_having_more(s / n, np.log(n))
    if chance < _CHANCE:
        found.append(f"problems with more trials succeed less often (chance {chance:.1g})")
    if not found:
        return None
    return (
        f"warning: the rule is said to be fixed, and the counts look like optional stopping: {'; '.join(found)}, if "
        "trials do not depend on outcomes. If they do, declare the rule: stop_at_success(batch=N) or adaptive"
    )


def _log_choose(n: int, k: int) -> float:
    return float(special.gammaln(n + 1) - special.gammaln(k + 1) - special.gammaln(n - k + 1))


def _chance_of_harder_having_more(shares: Float[np.ndarray, " problems"], x: Float[np.ndarray, " problems"]) -> float:
    # A fixed seed: the same file gives the same answer.
    right = np.random.default_rng(0).random((_DRAWS, len(x))) < shares
    x = (x - x.mean()) / np.ptp(x)
    bounds = np.minimum(_log_bound(~right, x), _log_bound(right, -x))
    return min(1.0, 2 * float(np.exp(bounds).mean()))


def _log_bound(
    chosen: Bool[np.ndarray, "draws problems"], x: Float[np.ndarray, " problems"]
) -> Float[np.ndarray, " draws"]:
    """Log of a bound on the chance that a random subset of this size has a sum of `x` as large as the chosen ones'."""
    tilts = np.concatenate([[0.0], np.geomspace(0.05, 200, 50)])
    log_mgf = np.log(np.exp(tilts[:, None] * x).mean(axis=1))  # |tilt x| is at most 200
    return (chosen.sum(axis=1)[:, None] * log_mgf - (chosen @ x)[:, None] * tilts).min(axis=1)
