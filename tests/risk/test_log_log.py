import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from ppl.records import Records
from ppl.risk.attempts import Attempts
from ppl.risk.log_log import LogLogLine, fit_line, line_budget, line_coverage, line_weights, log_log, mean_curve
from ppl.risk.pass_at import log_spaced, pass_at_k


def beta_counts(seed, problems=100, trials=100, alpha=0.4, beta=4.0):
    rng = np.random.default_rng(seed)
    return rng.binomial(trials, rng.beta(alpha, beta, problems))


def test_a_curve_that_is_a_line_is_found_again():
    ks = np.array([1, 3, 10, 40, 100])
    curve = line_coverage(np.log(3.0), 0.35, ks.astype(float))
    for weights in ("uniform", "saber"):
        log_a, b = fit_line(jnp.float32(curve), jnp.asarray(ks), jnp.float32(line_weights(ks, weights)))
        assert float(log_a) == pytest.approx(np.log(3.0), abs=1e-5)
        assert float(b) == pytest.approx(0.35, abs=1e-5)


def test_saber_weights_are_those_of_polyfit_with_one_over_k():
    successes, ks = beta_counts(0), log_spaced(5, 100)
    y = np.log(-np.log(np.mean(pass_at_k(100, successes[:, None], ks), axis=0)))
    slope, height = np.polyfit(np.log(ks), y, 1, w=1 / ks)  # as SABER's code calls it
    line = log_log(successes, 100, first=5, weights="saber", draws=10)
    assert (line.log_a, line.b) == pytest.approx((height, -slope))


def test_the_kernels_agree_with_float64_over_many_subsamples_at_once():
    counts = np.stack([beta_counts(seed, 128, 10_000, 0.2, 20.0) for seed in range(50)])
    ks = log_spaced(1, 10_000)
    curves = jax.vmap(mean_curve, (0, None, None))(jnp.asarray(counts), jnp.full(128, 10_000), jnp.asarray(ks))
    exact = np.stack([np.mean(pass_at_k(10_000, c[:, None], ks), axis=0) for c in counts])
    assert np.asarray(curves) == pytest.approx(exact, rel=5e-6)
    fits = jax.vmap(fit_line, (0, None, None))(curves, jnp.asarray(ks), jnp.ones(len(ks)))
    lines = [log_log(c, 10_000, draws=1) for c in counts[:5]]
    assert np.asarray(fits[0])[:5] == pytest.approx([line.log_a for line in lines], abs=1e-4)
    assert np.asarray(fits[1])[:5] == pytest.approx([line.b for line in lines], abs=1e-5)


def test_the_kernel_takes_uneven_trials_and_is_nan_beyond_the_least():
    successes, trials, ks = jnp.array([3, 0, 20]), jnp.array([5, 8, 20]), jnp.array([1, 5, 6])
    curve = np.asarray(mean_curve(successes, trials, ks))
    assert curve[:2] == pytest.approx([np.mean([0.6, 0, 1]), np.mean([1, 0, 1])])
    assert np.isnan(curve[2])


def test_points_at_0_and_1_are_left_out():
    ks, weights = jnp.array([1, 2, 4, 8, 16]), jnp.ones(5)
    middle = jnp.float32(line_coverage(0.5, 0.7, np.array([2.0, 4.0, 8.0])))
    log_a, b = fit_line(jnp.concatenate([jnp.zeros(1), middle, jnp.ones(1)]), ks, weights)
    assert (float(log_a), float(b)) == pytest.approx((0.5, 0.7), abs=1e-5)
    assert np.isnan(fit_line(jnp.array([0.0, 0.0, 0.5, 1.0, 1.0]), ks, weights)).all()


def test_second_calls_do_not_compile():
    successes, trials, ks = jnp.arange(7), jnp.full(7, 10), jnp.array([1, 5])
    mean_curve(successes, trials, ks)
    before = mean_curve._cache_size()
    mean_curve(successes + 1, trials, ks)
    assert mean_curve._cache_size() == before


def test_coverage_of_the_bootstrap_over_problems():
    # The target is the line through the exact curve of the population: what no sampling error would give.
    alpha, beta, repeats = 0.4, 4.0, 200
    ks = log_spaced(1, 50)
    curve = -np.expm1(special.betaln(alpha, beta + ks) - special.betaln(alpha, beta))
    _, truth = fit_line(jnp.float32(curve), jnp.asarray(ks), jnp.ones(len(ks)))
    inside = 0
    for seed in range(repeats):
        line = log_log(beta_counts(seed, 60, 50, alpha, beta), 50, key=seed, draws=400)
        lower, upper = line.estimate("b", 0.9).interval
        inside += lower <= float(truth) <= upper
    # Standard error .021. A bootstrap of 60 skewed problems is a little short of its level: .86 to .9 +- 4 of them.
    assert 0.775 < inside / repeats < 0.985


def test_extrapolation_has_an_interval_and_says_what_it_covers():
    line = log_log(beta_counts(1), 100)
    mean, (lower, upper) = line.pass_at(10_000, 0.8)
    assert mean == pytest.approx(np.exp(-np.exp(line.log_a) * 10_000**-line.b))
    assert lower < mean < upper
    assert "other problems" in line.covers
    assert "not that coverage may leave the line" in line.to_arviz().attrs["covers"]
    assert {"log_a", "b"} == set(line.summary().index)
    assert line.plot_curve().axes[0].get_xlabel() == "attempts k"


def test_targets_are_turned_into_budgets_with_intervals():
    line = log_log(beta_counts(1), 100)
    mean, (lower, upper) = line.budget(0.95, 0.8)
    assert line.pass_at(round(mean)).mean == pytest.approx(0.95, abs=1e-4)
    assert lower < mean < upper
    # The same draws: where the upper end of the budget is, the lower end of coverage is the target.
    assert line.pass_at(round(upper), 0.8).interval.lower == pytest.approx(0.95, abs=1e-3)
    assert line.budget(1e-9).mean == 1.0
    assert line_budget(1.0, np.array([0.3, 0.0, -0.1, 1e-3]), 0.99).tolist()[1:] == [np.inf] * 3
    with pytest.raises(ValueError, match="target: must be in"):
        line.budget(1.0)


def test_records_bring_their_counts():
    rows = [
        {"problem": problem, "sample": i, "method": "sample", "seed": 0, "correct": i < right}
        for problem, right in (("a", 1), ("b", 3)) for i in range(9)
    ]  # fmt: skip
    line = log_log(Records.from_rows(rows), draws=1)
    assert line.curve == pytest.approx(log_log([1, 3], 9, draws=1).curve)


@pytest.mark.parametrize("right", [0, 9])
def test_all_zeros_and_all_ones_identify_no_line(right):
    with pytest.raises(ValueError, match="strictly between 0 and 1 at 0 of k = 1..9.*use ppl.risk.fit"):
        log_log([right] * 4, 9)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([1, 2], 9), {"rule": "adaptive"}, "rule: the log-log line needs"),
        (([1, 2], 4), {"first": 5}, "at least 5 trials of every problem are wanted, got 4"),
        (([1, 2], 9), {"draws": 0}, "draws: at least 1"),
        (([1, 2],), {}, "trials: a number for each problem"),
    ],
)
def test_bad_input_is_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        log_log(*arguments, **options)


def test_attempts_below_1_are_refused():
    line = log_log(Attempts([1, 2, 0], 9), draws=5)
    assert isinstance(line, LogLogLine)
    with pytest.raises(ValueError, match="attempts: at least 1"):
        line.pass_at(0)
