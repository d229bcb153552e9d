"""Nested sampling: evidence from exact draws above each bound is unbiased, its error right, and bad draws are seen."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from scipy import stats

from ppl.inference import infer
from ppl.inference.nested import insertion_p_values, weighed
from tests.inference.targets import TARGETS

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
    runs = np.stack([exact_run(generator, delete, 300 // delete) for _ in range(500)])
    log_evidence, variance, log_weights = weighed(generator, runs, LIVE, delete)
    exact = WIDTH * -np.expm1(-1 / WIDTH)
    ratios = np.exp(log_evidence) / exact
    # With the mean volumes n / (n + 1) it is 1.12 to 1.14, ten standard errors away.
    assert abs(ratios.mean() - 1) < 4 * ratios.std() / np.sqrt(len(ratios))
    # The delta method and 200 simulated paths: a few hundredths.
    assert np.sqrt(variance.mean()) == pytest.approx(log_evidence.std(), rel=0.1)
    assert np.exp(log_weights).sum(axis=1) == pytest.approx(np.exp(log_evidence))


def test_insertion_ranks_of_independent_draws_are_uniform_and_others_are_not():
    generator = np.random.default_rng(1)
    uniform = generator.multinomial(2000, np.full(LIVE, 1 / LIVE), size=2000).astype(float)
    # Ranks are few, so that distances are a little smaller than in the limit, and p-values a little larger.
    assert 0.01 < np.mean(insertion_p_values(uniform) < 0.05) < 0.06
    bent = np.diff(np.linspace(0, 1, LIVE + 1) ** 1.2)
    assert np.all(insertion_p_values(generator.multinomial(2000, bent, size=20).astype(float)) < 1e-3)


def advised(post):
    return any(advice.statistic == "insertion_p_value" for advice in post.diagnose())


def test_uneven_ranks_are_told_of():
    model: Any = TARGETS["cauchy_2"].model
    post = infer(model, method="nested_sampling", key=0, chains=4, draws=200)
    assert post.stats["insertion_p_value"].shape == (4,)
    assert not advised(post)
    uneven = post.stats | {"insertion_p_value": np.array([0.3, 1e-7, 0.9, 0.5])}
    assert advised(dataclasses.replace(post, stats=uneven))


@pytest.mark.calibration
def test_runs_that_wait_for_others_do_not_count_ranks_of_equal_likelihoods():
    """Where shells end float32 has few likelihoods: with the ranks of what comes after, half of p-values were 0."""
    model: Any = TARGETS["shells_10"].model
    post = infer(model, method="nested_sampling", key=1, chains=12, draws=200)
    assert stats.kstest(post.stats["insertion_p_value"], "uniform").pvalue > 1e-3
