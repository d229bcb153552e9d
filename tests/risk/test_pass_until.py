import numpy as np
import pytest
from scipy import stats

from ppl.risk.pass_until import pass_until, task_law


def sample(rng, p, target):
    return target + rng.negative_binomial(target, p)


@pytest.mark.parametrize(("p", "target"), [(0.3, 2), (0.05, 4)])
def test_the_estimates_have_their_means(p, target):
    trials = target + np.arange(4000)
    weight = stats.nbinom.pmf(trials - target, target, p)
    result = pass_until(np.full(4000, target), trials, target, draws=1)
    assert weight @ result.unbiased == pytest.approx(p, rel=1e-9)
    assert weight @ result.mle > 1.05 * p


def test_the_posterior_is_conjugate():
    result = pass_until([3, 3], [3, 400], 3, prior=(0.5, 2.0), draws=20_000)
    for column, posterior in ((0, stats.beta(3.5, 2.0)), (1, stats.beta(3.5, 399.0))):
        draws = result.draws["p"][:, column]
        # Standard error of a mean: sd / 141; 5 of them. Kolmogorov-Smirnov: 1e-4 chance of a false alarm.
        assert draws.mean() == pytest.approx(posterior.mean(), abs=5 * posterior.std() / 141)
        assert stats.kstest(draws, posterior.cdf).pvalue > 1e-4


def test_the_log_likelihood_is_that_of_the_sampling():
    result = pass_until([2, 1, 0], [5, 9, 4], 2, prior=(0.5, 0.5), draws=3)
    p = result.draws["p"]
    assert result.log_likelihood["trials"][:, 0] == pytest.approx(stats.nbinom.logpmf(3, 2, p[:, 0]))
    assert result.log_likelihood["trials"][:, 1] == pytest.approx(stats.binom.logpmf(1, 9, p[:, 1]))
    assert result.log_likelihood["trials"][:, 2] == pytest.approx(stats.binom.logpmf(0, 4, p[:, 2]))
    assert result.capped.tolist() == [False, True, True]


@pytest.mark.parametrize("p", [0.001, 0.04])
def test_coverage_of_one_pass_rate_at_a_fixed_small_p(p):
    # One problem a repetition, all of the same p: their intervals are independent.
    trials = 3 + np.random.default_rng(0).negative_binomial(3, p, 800)
    lower, upper = pass_until(np.full(800, 3), trials, 3, draws=500).estimate("p", 0.9).interval
    # Standard error .0106; 4 of them, and 1% for draws and for p not being small.
    assert np.mean((lower <= p) & (p <= upper)) == pytest.approx(0.9, abs=0.053)


def test_coverage_of_the_mean_pass_rate():
    # Pass rates differ a hundredfold; the population mean of exp(normal) capped at 1 is what the interval is about.
    rng, inside, repeats = np.random.default_rng(1), 0, 60
    population = np.minimum(np.exp(rng.normal(-4, 1, 10**6)), 1)
    for seed in range(repeats):
        trials = sample(rng, rng.choice(population, 80), 8)
        lower, upper = pass_until(np.full(80, 8), trials, 8, draws=1).pass_rate(0.9, key=seed).interval
        inside += lower <= population.mean() <= upper
    # Standard error .043; a bootstrap of skewed values falls a little short: .86 - 4 of them.
    assert inside / repeats > 0.69


def test_task_law_finds_its_line_and_extrapolates_with_a_warning():
    sizes = np.array([1e7, 3e7, 1e8, 4e8, 1e9])
    law = task_law(sizes, np.exp(-np.exp(4.0 - 0.15 * np.log(sizes))))
    assert law.draws["slope"] == pytest.approx(-0.15, abs=1e-6)
    assert law.predict(2e8).mean == pytest.approx(np.exp(-np.exp(4.0 - 0.15 * np.log(2e8))))
    with pytest.warns(UserWarning, match="size: 2.4e.09 is outside the fitted 1e.07 to 1e.09"):
        mean, (lower, upper) = law.predict(2.4e9)
    assert mean == pytest.approx(np.exp(-np.exp(4.0 - 0.15 * np.log(2.4e9))))
    assert lower <= mean <= upper
    assert law.plot_law().axes[0].get_xlabel() == "size N"
    assert {"intercept", "slope", "sigma"} == set(law.summary().index)
    assert law.to_arviz()["posterior"]["slope"].size == 2000


def test_draws_of_the_law_are_its_student_t():
    x = np.linspace(0, 3, 6)
    y = 1.5 - 0.4 * x + np.array([0.1, -0.2, 0.05, 0.1, -0.15, 0.1])
    law = task_law(np.exp(x), np.exp(-np.exp(y)), draws=20_000)
    line = stats.linregress(x, y)
    for name, value, error in (
        ("slope", line.slope, line.stderr), ("intercept", line.intercept, line.intercept_stderr)
    ):  # fmt: skip
        assert stats.kstest((law.draws[name] - value) / error, stats.t(4).cdf).pvalue > 1e-4


@pytest.mark.filterwarnings("ignore:size:UserWarning")
def test_coverage_of_the_prediction_of_one_new_model():
    rng, inside, repeats = np.random.default_rng(2), 0, 400
    x = np.log([1.0, 2, 4, 8, 16])
    for _ in range(repeats):
        y = 1.2 - 0.3 * np.append(x, np.log(32)) + rng.normal(0, 0.1, 6)
        rates = np.exp(-np.exp(y))
        lower, upper = task_law(np.exp(x), rates[:5], draws=1).predict(32.0, 0.9).interval
        inside += lower <= rates[5] <= upper
    assert inside / repeats == pytest.approx(0.9, abs=4 * 0.015)


def test_what_has_no_unbiased_estimate_says_why():
    with pytest.raises(ValueError, match="target: .* at least 2"):
        _ = pass_until([1, 1], [4, 9], 1).unbiased
    with pytest.raises(ValueError, match="row 1 was cut off at 1 of 2"):
        pass_until([2, 1], [4, 9], 2).pass_rate()


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([3], [4], 2), {}, "successes: row 0 has 3; sampling stops at the target 2"),
        (([0], [4], 2), {}, "row 0 has 0 of 4 and prior .* no posterior"),
        (([0], [0], 2), {"prior": (1.0, 1.0)}, "row 0 has 0 of 0"),
        (([1], [4], 0), {}, "target: at least 1"),
        (([1], [4], 2), {"prior": (1.0, 0.0)}, "prior: first parameter"),
        (([5], [4], 9), {}, "successes: row 0 .* more than its 4 trials"),
    ],
)
def test_bad_attempts_are_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        pass_until(*arguments, **options)


@pytest.mark.parametrize(
    ("sizes", "rates", "message"),
    [
        ([1, 2], [0.1, 0.2], "at least three models"),
        ([1, 2, 0], [0.1, 0.2, 0.3], "sizes: row 2 has 0"),
        ([1, 2, 3], [0.1, 1.0, 0.3], "pass_rates: row 1 has 1"),
        ([2, 2, 2], [0.1, 0.2, 0.3], "sizes: all alike"),
    ],
)
def test_bad_models_are_refused(sizes, rates, message):
    with pytest.raises(ValueError, match=message):
        task_law(sizes, rates)
    with pytest.raises(ValueError, match="size: must be positive"):
        task_law([1, 2, 3], [0.1, 0.2, 0.3]).predict(0.0)
