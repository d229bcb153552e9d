import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from scipy import special

from ppl.risk.ttspm import rethink_curve, saturation, ttspm, ttspm_attempts, ttspm_curve


@given(f=st.floats(0.01, 1), p=st.floats(1e-4, 0.999), gain=st.floats(1e-9, 0.5))
def test_saturation_is_the_first_attempt_that_gains_less(f, p, gain):
    n = saturation(f, p, gain)

    def next_gain(at):
        return f * p * np.exp(at * np.log1p(-p))

    assert next_gain(n) < gain * (1 + 1e-9)
    assert n == 0 or next_gain(n - 1) >= gain * (1 - 1e-9)


def test_saturation_by_search_and_at_its_edges():
    for f, p, gain in ((0.8, 0.1, 0.01), (1.0, 0.5, 0.25), (0.5, 0.5, 0.125), (0.3, 0.9, 0.01)):
        curve = ttspm_curve(f, p, np.arange(500))
        assert saturation(f, p, gain) == np.argmax(np.diff(curve) < gain - 1e-15)
    assert saturation(0.2, 0.0, 0.01) == 0
    assert saturation(1.0, 1.0, 0.01) == 1
    assert saturation(0.1, 0.05, 0.01) == 0
    assert saturation(np.array([0.8, 0.2]), 0.1, 0.001).shape == (2,)
    with pytest.raises(ValueError, match="gain: must be positive"):
        saturation(0.5, 0.5, 0.0)
    with pytest.raises(ValueError, match="ceiling, chance: shares"):
        saturation(1.5, 0.5, 0.1)


def test_rethinking_is_its_markov_chain():
    step = np.array([[1 - 0.15, 0.15], [0.0, 1.0]])
    for rounds in (0, 1, 7):
        state = np.array([1 - 0.3, 0.3]) @ np.linalg.matrix_power(step, rounds)
        assert rethink_curve(0.3, 0.15, rounds) == pytest.approx(state[1])
    assert rethink_curve(0.15, 0.15, 6) == pytest.approx(ttspm_curve(1.0, 0.15, 7))
    assert ttspm_curve(0.7, 1e-12, 10**6) == pytest.approx(0.7e-6, rel=1e-5)
    assert ttspm_curve(0.7, 1.0, 1) == 0.7


def test_attempts_to_a_target():
    n = ttspm_attempts(0.8, 0.1, 0.6)
    assert ttspm_curve(0.8, 0.1, n - 1) < 0.6 <= ttspm_curve(0.8, 0.1, n)
    assert ttspm_attempts(0.8, 0.1, 0.8) == np.inf
    with pytest.raises(ValueError, match="target, chance"):
        ttspm_attempts(0.8, 0.1, 0.0)


@pytest.mark.parametrize(
    ("successes", "trials"),
    [([0, 3, 5, 0, 1], [4, 9, 20, 2, 2]), ([0] * 12, [10] * 12), ([5] * 6, [5] * 6), ([0, 40_000], [10**5, 10**5])],
)
def test_draws_have_the_moments_of_the_posterior(successes, trials):
    s, n = np.array(successes), np.array(trials)
    fit = ttspm(s, n, draws=20_000)

    def log_density(f, p):
        zero = np.log(1 - f + f * np.exp(n[s == 0] * np.log1p(-p))).sum()
        return zero + (s > 0).sum() * np.log(f) + special.xlogy(s, p).sum() + special.xlog1py((n - s)[s > 0], -p).sum()

    grid = np.linspace(1e-6, 1 - 1e-6, 200)
    chances = grid if n.max() < 1000 else np.linspace(0.39, 0.41, 200)
    table = np.array([[log_density(f, p) for p in chances] for f in grid])
    weight = np.exp(table - table.max())
    weight /= weight.sum()
    for name, axis, values in (("ceiling", 1, grid), ("chance", 0, chances)):
        marginal = weight.sum(axis=axis)
        mean = marginal @ values
        sd = np.sqrt(marginal @ (values - mean) ** 2)
        # Standard error sd / 141; 5 of them, and half a cell of this reference grid.
        assert fit.draws[name].mean() == pytest.approx(
            mean, abs=sd / 28 + 3e-3 * np.ptp(chances if axis == 0 else grid)
        )


def test_coverage_averaged_over_the_prior():
    rng, repeats, inside = np.random.default_rng(0), 200, {"ceiling": 0, "chance": 0, "curve": 0}
    for seed in range(repeats):
        ceiling, chance = rng.random(2)
        successes = rng.binomial(6, chance, 25) * (rng.random(25) < ceiling)
        fit = ttspm(successes, 6, key=seed, draws=500)
        for name, truth in (("ceiling", ceiling), ("chance", chance)):
            lower, upper = fit.estimate(name, 0.8).interval
            inside[name] += lower <= truth <= upper
        lower, upper = fit.coverage(30, 0.8).interval
        inside["curve"] += lower <= ttspm_curve(ceiling, chance, 30) <= upper
    for name, count in inside.items():  # standard error .028; 4 of them
        assert count / repeats == pytest.approx(0.8, abs=0.113), name


def test_rethinking_counts_have_the_same_posterior_under_their_rule():
    # Problems that came right in rounds 2, 5, 1, and two that never did in 8: geometric, and cut off.
    fit = ttspm([1, 1, 1, 0, 0], [2, 5, 1, 8, 8], rule="stop_at_success", key=3)
    same = ttspm([1, 1, 1, 0, 0], [2, 5, 1, 8, 8], key=3)
    assert fit.draws["chance"] == pytest.approx(same.draws["chance"])
    assert fit.spread_p_value is None
    assert len(fit.plot_curve().axes[0].lines) == len(ttspm([1, 0], [2, 5]).plot_curve().axes[0].lines) - 1  # no dots
    f, p = fit.draws["ceiling"][0], fit.draws["chance"][0]
    expected = [f * p * (1 - p), f * p * (1 - p) ** 4, f * p, 1 - f + f * (1 - p) ** 8, 1 - f + f * (1 - p) ** 8]
    assert np.exp(fit.log_likelihood["successes"][0]) == pytest.approx(expected)


def test_problems_that_differ_are_seen_and_said():
    rng = np.random.default_rng(1)
    alike = ttspm(rng.binomial(50, 0.2, 60), 50)
    assert alike.misfit is None
    differing = ttspm(rng.binomial(50, rng.beta(0.4, 1.6, 60)), 50)
    assert "differ more than one common chance allows" in differing.misfit
    assert differing.plot_curve().axes[0].get_title().startswith("problems differ")
    data = differing.to_arviz()
    assert data["log_likelihood"]["successes"].shape[-1] == 60
    assert {"ceiling", "chance"} == set(differing.summary().index)
    mean, (lower, upper) = alike.saturation(0.01)
    assert lower <= mean <= upper


def test_a_false_alarm_of_the_misfit_is_rare():
    rng = np.random.default_rng(2)
    alarms = sum(ttspm(rng.binomial(20, 0.3, 30), 20, draws=200, key=i).misfit is not None for i in range(100))
    assert alarms <= 15  # at most 5 are expected; binomial chance of 16 below 1e-4


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [(([1], [0]), {}, "successes: row 0"), (([1],), {}, "trials: a number"), (([1], [2]), {"draws": 0}, "draws")],
)
def test_bad_input_is_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        ttspm(*arguments, **options)
    with pytest.raises(ValueError, match="attempts: at least 0"):
        ttspm([1], [2]).coverage(-1)
