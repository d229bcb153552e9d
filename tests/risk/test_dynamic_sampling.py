import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from ppl.risk.dynamic_sampling import dynamic_sampling, fewest_successes, plug_in_allocation


def test_fewest_successes_then_fewest_attempts_then_first():
    def chosen(successes, trials):
        return int(fewest_successes(jnp.array(successes), jnp.array(trials)))

    assert chosen([1, 0, 0, 0], [1, 9, 4, 4]) == 2
    assert chosen([2, 1], [2, 900]) == 1
    assert chosen([0], [5]) == 0


@given(
    p=st.lists(st.floats(0.01, 0.6), min_size=2, max_size=5),
    attempts=st.integers(1, 20),
)
def test_plug_in_allocation_has_the_least_variance(p, attempts):
    p = np.array(p)
    share = plug_in_allocation(p, attempts)
    v = attempts**2 * p * (1 - p) ** (2 * attempts - 1)
    assert share.sum() == pytest.approx(1)
    # Cauchy-Schwarz: the least of sum v / b over shares b is the square of the sum of the roots.
    assert np.sum(v / share) == pytest.approx(np.sqrt(v).sum() ** 2, rel=1e-9)


def test_plug_in_allocation_by_search_and_at_the_ends():
    p = np.array([0.02, 0.3])
    v = p * (1 - p) ** 5
    share = np.linspace(0.001, 0.999, 999)
    best = share[np.argmin(v[0] / share + v[1] / (1 - share))]
    assert plug_in_allocation(p, 3)[0] == pytest.approx(best, abs=1e-3)
    share = plug_in_allocation(np.array([0.0, 1e-4, 0.5, 1.0]), 10_000)
    assert np.isfinite(share).all()
    assert share[[0, 3]].tolist() == [0, 0]
    assert share[1] == pytest.approx(1)


@pytest.mark.parametrize("rule", ["uniform", "fewest_successes", "look_ahead"])
def test_simulation_spends_the_budget_by_the_rule(rule):
    p = np.array([0.0, 0.1, 0.9])
    runs = dynamic_sampling(p, 40, attempts=5, prior=(0.5, 1.0), rule=rule, runs=20, key=3)
    assert (runs.trials.sum(axis=1) == 40).all()
    assert (runs.successes <= runs.trials).all()
    assert (runs.successes[:, 0] == 0).all()
    if rule == "uniform":
        assert np.ptp(runs.trials, axis=1).max() <= 1
    else:
        # A problem that is never solved draws most attempts.
        assert (runs.trials[:, 0] >= runs.trials[:, 2]).all()
    again = dynamic_sampling(p, 40, attempts=5, prior=(0.5, 1.0), rule=rule, runs=20, key=3)
    assert (again.trials == runs.trials).all()
    assert set(runs.summary().index) == {"error", "sd"}


def test_look_ahead_beats_uniform_and_its_sd_is_honest():
    rng = np.random.default_rng(2)
    p = rng.beta(0.4, 4.0, (400, 60))
    results = {
        rule: dynamic_sampling(p, 1800, attempts=30, prior=(0.4, 4.0), rule=rule, key=1)
        for rule in ("uniform", "fewest_successes", "look_ahead")
    }
    # With problems from the prior the posterior variance is the expected squared error: less noise than the errors.
    variance = {rule: np.mean(result.draws["sd"] ** 2) for rule, result in results.items()}
    assert variance["uniform"] / variance["look_ahead"] == pytest.approx(1.22, abs=0.06)
    assert variance["fewest_successes"] > 1.1 * variance["look_ahead"]
    for rule, result in results.items():
        # A mean of 400 squared near-normal errors: 5 of its standard errors of 7%, though the rule adapted.
        assert result.root_mean_square_error**2 == pytest.approx(variance[rule], rel=0.36)


def test_posterior_covers_under_adaptive_rules():
    rng = np.random.default_rng(4)
    runs = dynamic_sampling(
        rng.beta(0.4, 4.0, (600, 60)), 600, attempts=100, prior=(0.4, 4.0), rule="look_ahead", key=5
    )
    inside = np.mean(np.abs(runs.draws["error"]) < 1.645 * runs.draws["sd"])
    # 90% of near-normal errors: 4 binomial standard errors, false alarm 6e-5.
    assert inside == pytest.approx(0.9, abs=4 * np.sqrt(0.09 / 600))


def test_edges():
    runs = dynamic_sampling(np.array([0.5]), 0, attempts=1, prior=(1.0, 1.0), runs=2)
    assert runs.draws["error"] == pytest.approx([0.0, 0.0], abs=1e-6)
    assert np.isfinite(
        dynamic_sampling(np.array([1.0, 0.0]), 4, attempts=10**6, prior=(0.1, 1.0), runs=2).draws["sd"]
    ).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dynamic_sampling(np.array([1.2]), 5, attempts=1, prior=(1.0, 1.0)), "probability: numbers in"),
        (
            lambda: dynamic_sampling(np.array([0.2]), 5, attempts=0, prior=(1.0, 1.0)),
            "attempts: at least 1 is wanted, got 0",
        ),
        (
            lambda: dynamic_sampling(np.array([0.2]), 5, attempts=1, prior=(1.0, 0.0)),
            "prior: beta must be positive, got 0",
        ),
        (lambda: plug_in_allocation(np.array([0.0, 1.0]), 5), "at least one strictly between 0 and 1"),
        (lambda: plug_in_allocation(np.array([-0.1]), 5), "probability: numbers in .0, 1. are wanted, got -0.1"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
