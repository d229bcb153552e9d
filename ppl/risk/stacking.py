r"""How far to trust each expert beyond the attempts made: stacking on attempts held back.

Nested subsamples keep a part of the attempts, both experts predict from it the coverage of all of them, and the
logarithmic scores of their predictions move the weight of the line from its prior.

The subsamples come from one data set, and their mean score counts as one observation: a weight learned from them as
from independent data sets is noise, and costs accuracy (on five Pythia models it takes the mean error at 1000 to 10,000
attempts from 1.4 to 2.2 points).
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key
from scipy import special

from ppl.keys import numpy_generator
from ppl.risk.attempts import Attempts
from ppl.risk.beta_binomial import CountTable, count_table, hyper_draws
from ppl.risk.predictive import LinePoints, coverage, line_points, log_log, predict

LINE_PRIOR = 0.75
_SHARES = (0.1, 0.3)
_REPLICATES = 4
_DRAWS = 200
_MOST_PROBLEMS = 1_000
_LEAST_REACH = 5
_FLOOR = 0.1  # of the spread of ln(-ln coverage) that a score allows: neither expert is exact


class Stack(NamedTuple):
    """Weights of the experts, and their log scores [subsamples] of predictions from `held` attempts a problem."""

    weights: Mapping[str, float]
    held: Int[np.ndarray, " subsamples"]
    scores: Mapping[str, Float[np.ndarray, " subsamples"]]


def stack(
    key: Key[Array, ""],
    attempts: Attempts,
    reach: int,
    log_rest: Float[Array, "draws problems"],
    prior: Float[Array, "5"],
) -> Stack:
    """Learn the weights of the beta law and of the line.

    With `reach` below 5, or a rule by which attempts cannot be held back, they are the prior's.

    **Arguments:** `reach`: the attempts a problem that are predicted. `log_rest`: the posterior by all attempts.
    """
    if reach < 2:
        return Stack({"beta": 1.0, "line": 0.0}, np.zeros(0, int), {})  # a line wants two points
    if reach < _LEAST_REACH or attempts.rule.name == "adaptive":
        return Stack({"beta": 1 - LINE_PRIOR, "line": LINE_PRIOR}, np.zeros(0, int), {})
    key_host, key_device = jax.random.split(key)
    rng = numpy_generator(key_host)
    kept = np.sort(rng.permutation(len(attempts))[:_MOST_PROBLEMS])
    held = np.repeat([max(2, round(share * reach)) for share in _SHARES], _REPLICATES)
    pairs = [_held_back(rng, attempts, kept, size / reach) for size in held]
    size = 2 ** int(np.ceil(np.log2(max(16, *(len(set(zip(*pair, strict=True))) for pair in pairs)))))
    tables = [count_table(*pair, size) for pair in pairs]
    successes, trials = (np.stack(values).astype(np.float32) for values in zip(*pairs, strict=True))
    scores = _scores(
        jax.random.split(key_device, len(held)),
        CountTable(*(jnp.stack(column) for column in zip(*tables, strict=True))),
        successes,
        trials - successes,
        LinePoints(*(np.stack(column) for column in zip(*map(line_points, held.tolist()), strict=True))),
        log_rest[:_DRAWS, kept],
        jnp.float32(reach),
        prior,
    )
    beta, line = (np.asarray(score, np.float64) for score in scores)
    weight = line_weight(line, beta)
    return Stack({"beta": 1 - weight, "line": weight}, held, {"beta": beta, "line": line})


def line_weight(line: Float[np.ndarray, " subsamples"], beta: Float[np.ndarray, " subsamples"]) -> float:
    """Bayes' rule for which expert is right, the mean score being that of one observation (pseudo-BMA).

    **Source:** Yao et al. (2018), Bayesian Analysis 13(3), section 3.4, with a prior and without its sum over data.
    """
    return float(special.expit(special.logit(LINE_PRIOR) + np.mean(line - beta)))


@jax.jit
def _scores(keys, tables, successes, failures, points, log_rest, reach, prior):
    """Log scores (beta, line) of each subsample, in turn: batched, they take twice as long to compile."""
    subsamples = (keys, tables, successes, failures, points)
    return jax.lax.map(lambda subsample: _score(subsample, log_rest, reach, prior), subsamples)


def _score(subsample, log_rest, reach, prior):
    """Log scores (beta, line) of one subsample's predictions of ln(-ln coverage) at `reach`."""
    key, table, successes, failures, points = subsample
    key_hyper, key_rest = jax.random.split(key)
    hyper = hyper_draws(key_hyper, table, prior, _DRAWS, _DRAWS)
    found = predict(key_rest, hyper, successes, failures, points)
    equal = jnp.full(log_rest.shape, 1 / successes.size)
    truth = log_log(coverage(log_rest, reach[None], equal))[:, 0]
    beta = log_log(coverage(found.theta.log_rest, reach[None], equal))[:, 0]
    line = found.line.height - found.line.slope * (jnp.log(reach) - found.line.middle)

    def score(predicted):
        variance = jnp.var(predicted) + jnp.var(truth) + _FLOOR**2
        return -0.5 * (jnp.log(variance) + (jnp.mean(predicted) - jnp.mean(truth)) ** 2 / variance)

    return score(beta), score(line)


def _held_back(rng, attempts: Attempts, kept: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Successes and trials among a part of each problem's attempts: of the first ones, where order is known."""
    s, n = attempts.successes[kept], attempts.trials[kept]
    if attempts.rule.name == "fixed":
        part = np.round(share * n).astype(n.dtype)
        return rng.hypergeometric(s, n - s, part), part
    # By its rule, whatever precedes the last batch failed.
    part = np.minimum(n, max(1, round(share * n.max())))
    last = np.minimum(attempts.rule.batch, n)
    reached = np.maximum(part - (n - last), 0)
    return rng.hypergeometric(s, last - s, np.minimum(reached, last)), part
