"""Volumes of nested sampling: evidence from exact draws above each bound is unbiased, and its error is stated right."""

import numpy as np
import pytest

from ppl.inference.nested import weighed

LIVE, WIDTH = 30, 0.02


def exact_run(generator, delete, batches):
    """Log likelihood -X / WIDTH of the points of one run, where X is the prior volume above a point."""
    volumes, dead = generator.uniform(size=LIVE), []
    for _ in range(batches):
        order = np.argsort(-volumes)
        dead.append(volumes[order[:delete]])
        bound = volumes[order[delete - 1]]
        volumes = np.concatenate([volumes[order[delete:]], bound * generator.uniform(size=delete)])
    return -np.concatenate([*dead, volumes]) / WIDTH


@pytest.mark.parametrize("delete", [1, 6])
def test_evidence_is_unbiased_and_its_error_right(delete):
    generator = np.random.default_rng(0)
    runs = np.stack([exact_run(generator, delete, 300 // delete) for _ in range(1000)])
    log_evidence, variance, log_weights = weighed(generator, runs, LIVE, delete)
    exact = WIDTH * -np.expm1(-1 / WIDTH)
    ratios = np.exp(log_evidence) / exact
    # With the mean volumes n / (n + 1) it is 1.12 to 1.14, ten standard errors away.
    assert abs(ratios.mean() - 1) < 4 * ratios.std() / np.sqrt(len(ratios))
    # The delta method and 200 simulated paths: a few hundredths.
    assert np.sqrt(variance.mean()) == pytest.approx(log_evidence.std(), rel=0.1)
    assert np.exp(log_weights).sum(axis=1) == pytest.approx(np.exp(log_evidence))
