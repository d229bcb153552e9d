import numpy as np
import pytest
from scipy import integrate, optimize, special, stats

from ppl.risk.attempts import Attempts
from ppl.risk.log_log import log_log
from ppl.risk.pass_at import pass_at_k
from ppl.risk.saber import alpha_error, beta_log_failure, naive, saber, with_benign, with_unbreakable

# (alpha, beta) of the paper's twelve attackers, victims and judges, table 5.
TRIPLETS = [
    (0.16, 0.44), (0.15, 0.5), (1.44, 0.67), (1.01, 0.77), (0.37, 2.14), (0.31, 2.1), (0.81, 14.31), (0.54, 16.16),
    (0.99, 3.94), (0.72, 4.04), (0.64, 5.55), (0.51, 7.76),
]  # fmt: skip


def simulate(rng, alpha, beta, problems=159, trials=100):
    theta = rng.beta(alpha, beta, problems)
    return rng.binomial(trials, theta), theta


@pytest.fixture(scope="module")
def fitted():
    successes, _ = simulate(np.random.default_rng(0), 0.4, 4.0)
    return saber(successes, 100)


def log_likelihood(alpha, beta, successes, trials):
    return stats.betabinom.logpmf(successes, trials, alpha, beta).sum()


@pytest.mark.parametrize("trials", [np.full(60, 20), np.repeat([3, 40, 200], 20)])
def test_the_fit_is_the_maximum_of_the_likelihood(trials):
    rng = np.random.default_rng(1)
    successes = rng.binomial(trials, rng.beta(0.3, 5.0, 60))
    fit = saber(successes, trials)
    best = optimize.minimize(
        lambda x: -log_likelihood(*np.exp(x), successes, trials), [0.0, 0.0], method="Nelder-Mead",
        options={"xatol": 1e-9, "fatol": 1e-12},
    )  # fmt: skip
    assert np.log([fit.alpha, fit.beta]) == pytest.approx(best.x, abs=1e-5)


def test_the_observed_information_is_minus_the_second_derivative(fitted):
    def value(da, db):
        return log_likelihood(fitted.alpha + da, fitted.beta + db, fitted.attempts.successes, 100)

    h, g = 1e-3 * fitted.alpha, 1e-3 * fitted.beta
    numeric = np.array([
        [value(h, 0) - 2 * value(0, 0) + value(-h, 0), (value(h, g) - value(h, -g) - value(-h, g) + value(-h, -g)) / 4],
        [0, value(0, g) - 2 * value(0, 0) + value(0, -g)],
    ]) / np.array([[h * h, h * g], [h * g, g * g]])  # fmt: skip
    assert fitted.information[np.triu_indices(2)] == pytest.approx(-numeric[np.triu_indices(2)], rel=1e-4)


def information_by_enumeration(alpha, beta, n):
    """The variance of the score in (alpha, beta)."""
    s = np.arange(n + 1)
    both = special.digamma(alpha + beta) - special.digamma(n + alpha + beta)
    score = np.stack([
        special.digamma(s + alpha) - special.digamma(alpha) + both,
        special.digamma(n - s + beta) - special.digamma(beta) + both,
    ])  # fmt: skip
    return (score * stats.betabinom.pmf(s, n, alpha, beta)) @ score.T


def test_the_standard_error_is_that_of_the_expected_information():
    alpha, beta = 0.6, 3.0
    one = information_by_enumeration(alpha, beta, 7)
    assert alpha_error(alpha, beta, np.array([7])) ** 2 == pytest.approx(np.linalg.inv(one)[0, 0], rel=1e-5)
    uneven = np.linalg.inv(2 * one + information_by_enumeration(alpha, beta, 2))
    assert alpha_error(alpha, beta, np.array([7, 2, 7])) ** 2 == pytest.approx(uneven[0, 0], rel=1e-5)


def test_draws_have_the_moments_of_the_information(fitted):
    logs = np.log(np.stack([fitted.draws["alpha"], fitted.draws["beta"]]))
    scaled = fitted.information * np.outer([fitted.alpha, fitted.beta], [fitted.alpha, fitted.beta])
    # 1000 draws: relative standard error of a variance .045; 5 of them.
    assert np.cov(logs) == pytest.approx(np.linalg.inv(scaled), rel=0.22)
    data = fitted.to_arviz()
    assert data["log_likelihood"]["successes"].shape[-1] == 159
    at_mle = stats.betabinom.logpmf(fitted.attempts.successes, 100, fitted.draws["alpha"][0], fitted.draws["beta"][0])
    assert fitted.log_likelihood["successes"][0] == pytest.approx(at_mle, abs=1e-9)
    assert set(fitted.summary().index) == {"alpha", "beta"}


def test_the_estimators_are_their_formulas(fitted):
    a, b, asr = fitted.alpha, fitted.beta, fitted.asr
    assert asr == np.mean(fitted.attempts.successes > 0)
    assert fitted.plug_in(1000) == pytest.approx(1 - special.gamma(a + b) / special.gamma(b) * 1000**-a)
    assert fitted.exact(1000) == pytest.approx(1 - np.exp(special.betaln(a, b + 1000) - special.betaln(a, b)))
    assert fitted.anchored(1000) == pytest.approx(1 - (1 - asr) * 0.1**a)
    ratio = (1 - fitted.exact(1000)) / (1 - fitted.exact(100))
    assert fitted.exact_ratio(1000) == pytest.approx(1 - (1 - asr) * ratio)
    assert fitted.exact_ratio(100) == pytest.approx(asr)
    shift = b + (a - 1) / 2
    assert fitted.anchored(1000, corrected=True) == pytest.approx(1 - (1 - asr) * ((100 + shift) / (1000 + shift)) ** a)
    line = log_log(fitted.attempts, first=5, weights="saber", draws=1)
    assert fitted.line(1000) == pytest.approx(np.exp(-np.exp(line.log_a) * 1000**-line.b))
    assert fitted.line(np.array([100.0, 1000.0]))[1] == fitted.line(1000)
    assert fitted.plot_curve().axes[0].get_ylabel() == "ASR@N"


@pytest.mark.parametrize(("alpha", "beta"), [(0.3, 0.5), (0.7, 20.0), (1.5, 3.0)])
def test_the_small_n_correction_has_the_residual_of_the_paper(alpha, beta):
    # |G(N) - law at w| is at most about Gamma(a+b)/Gamma(b) |a (a+1) (a-1)| / 24 w^(-a-2), Eq. 56.
    n = np.array([20.0, 100.0])
    w = n + beta + (alpha - 1) / 2
    leading = np.exp(special.gammaln(alpha + beta) - special.gammaln(beta))
    gap = np.abs(np.exp(beta_log_failure(alpha, beta, n)) - leading * w**-alpha)
    bound = leading * abs(alpha * (alpha + 1) * (alpha - 1)) / 24 * w ** (-alpha - 2)
    assert (gap < 1.01 * bound + 1e-14).all()
    assert (gap > 0.9 * bound).all()


def test_correction_uses_the_fitted_beta_and_matters_when_n_is_below_it():
    # Their package shifts by beta = 1 whatever beta is. Here beta = 60 > n = 20, where the ratio n/N is no ratio of G.
    rng = np.random.default_rng(2)
    successes, _ = simulate(rng, 0.3, 60.0, 4000, 20)
    fit = saber(successes, 20)
    truth = -np.expm1(beta_log_failure(0.3, 60.0, 200))
    errors = {
        name: abs(value - truth)
        for name, value in (
            ("anchored", fit.anchored(200)), ("corrected", fit.anchored(200, corrected=True)),
            ("exact ratio", fit.exact_ratio(200)),
        )
    }  # fmt: skip
    assert errors["exact ratio"] < 0.02
    assert abs(errors["corrected"] - errors["exact ratio"]) < 1e-3
    assert errors["anchored"] > 3 * errors["exact ratio"] + 0.05


def test_a_large_beta_does_not_overflow():
    rng = np.random.default_rng(3)
    successes, _ = simulate(rng, 0.9, 900.0, 2000, 1000)
    fit = saber(successes, 1000)
    assert fit.beta > 171  # from where gamma(beta) is infinite
    for value in (fit.plug_in(10**5), fit.plug_in(10**5, corrected=True), fit.exact(10**6)):
        assert 0.9 < value < 1


def test_many_trials_do_not_overflow():
    rng = np.random.default_rng(4)
    theta = rng.beta(0.3, 5.0, 100)
    fit = saber(rng.binomial(100_000, theta), 100_000)
    assert 0 < fit.line(10**6) < 1  # comb(100000, m) is infinite in floats
    assert fit.asr < fit.exact_ratio(10**6) < 1


def test_uneven_trials_are_taken_as_they_are():
    # Their package takes the mean of n with the share of problems broken at any n.
    rng = np.random.default_rng(5)
    trials = np.repeat([50, 400], 100)
    successes = rng.binomial(trials, rng.beta(0.4, 4.0, 200))
    fit = saber(successes, trials)
    assert fit.anchor == 50
    assert fit.asr == pytest.approx(np.mean(pass_at_k(trials, successes, 50)))
    assert fit.asr < np.mean(successes > 0)
    assert fit.budget(fit.asr) <= 50


def test_a_rule_that_looks_at_outcomes_refuses_what_it_invalidates():
    fit = saber([1, 0, 1, 2], [60, 10_020, 120, 60], rule="stop_at_success(batch=60)")
    assert 0 < fit.exact(1000) < 1
    for estimator in (fit.anchored, fit.exact_ratio, fit.line, fit.interval):
        with pytest.raises(ValueError, match="rule: .* needs numbers of trials"):
            estimator(20_000)


def test_targets_are_turned_into_budgets(fitted):
    anchored = fitted.budget(0.95, "anchored")
    assert anchored == pytest.approx(100 * ((1 - fitted.asr) / 0.05) ** (1 / fitted.alpha))
    assert fitted.anchored(anchored) == pytest.approx(0.95)
    assert fitted.exact_ratio(fitted.budget(0.95)) == pytest.approx(0.95)
    assert fitted.exact(fitted.budget(0.95, "exact")) == pytest.approx(0.95)
    inside = int(fitted.budget(0.5))
    curve = [np.mean(pass_at_k(100, fitted.attempts.successes, k)) for k in (inside - 1, inside)]
    assert curve[0] < 0.5 <= curve[1]
    assert fitted.budget(1 - 1e-12) > 1e20
    with pytest.raises(ValueError, match="target: must be in"):
        fitted.budget(1.0)


def test_a_budget_that_means_nothing_is_infinite():
    fit = saber([0] * 200 + [1, 90], 100)
    assert fit.alpha < 0.02
    assert fit.budget(0.9999, "anchored") == fit.budget(0.9999) == np.inf


def test_the_published_interval_under_covers_and_says_so(fitted):
    interval = fitted.interval(1000)
    assert interval.under_covers
    assert "61%" in interval.reason
    assert interval.lower < fitted.anchored(1000) < interval.upper
    error = alpha_error(fitted.alpha, fitted.beta, fitted.attempts.trials)
    assert interval.upper == pytest.approx(1 - (1 - fitted.asr) * 0.1 ** (fitted.alpha + 1.959964 * error))
    covered = []
    rng = np.random.default_rng(6)
    for alpha, beta in TRIPLETS:
        for _ in range(20):
            successes, theta = simulate(rng, alpha, beta)
            truth = np.mean(-np.expm1(1000 * np.log1p(-theta)))
            if np.all(successes > 0):  # ASR@n = 1: the interval has no width, and not the truth
                covered.append(False)
                continue
            interval = saber(successes, 100, draws=1).interval(1000, 0.95)
            covered.append(interval.lower <= truth <= interval.upper)
    # Standard error .031: .61 +- 4 of them, far from .95.
    assert 0.48 < np.mean(covered) < 0.74


def test_the_exact_ratio_is_as_good_as_published_on_the_twelve_settings():
    rng, errors = np.random.default_rng(7), {"naive": [], "anchored": [], "exact": []}
    for alpha, beta in TRIPLETS:
        for _ in range(10):
            successes, theta = simulate(rng, alpha, beta)
            truth = np.mean(-np.expm1(1000 * np.log1p(-theta)))
            fit = saber(successes, 100, draws=1)
            left = np.mean(successes == 0)  # 0 included, as the paper does
            ratio = np.exp(beta_log_failure(fit.alpha, fit.beta, 1000) - beta_log_failure(fit.alpha, fit.beta, 100))
            errors["naive"].append(abs(naive(successes, 100, 1000) - truth))
            errors["anchored"].append(abs(1 - left * 0.1**fit.alpha - truth))
            errors["exact"].append(abs(1 - left * ratio - truth))
    points = {name: 100 * np.mean(values) for name, values in errors.items()}
    # 10.95, 1.11 and 1.10 by 60 repetitions; the standard errors over 120 here are .7 and .1.
    assert 8 < points["naive"] < 14
    assert points["anchored"] < 1.7
    assert points["exact"] < 1.7


def test_extensions_are_expectations():
    alpha, beta, share, n = 0.5, 3.0, 0.3, 40
    density = stats.beta(alpha, beta)
    mixed, _ = integrate.quad(lambda t: (1 - share * t) ** n * density.pdf(t), 0, 1)
    assert with_benign(alpha, beta, share, n) == pytest.approx(1 - mixed, abs=1e-7)
    assert with_benign(alpha, beta, share, n) == pytest.approx(1 - special.hyp2f1(-n, alpha, alpha + beta, share))
    assert with_benign(alpha, beta, 1.0, n) == pytest.approx(with_unbreakable(alpha, beta, 0.0, n))
    assert with_benign(alpha, beta, 0.1, 100_000) == pytest.approx(
        -np.expm1(beta_log_failure(alpha, beta, 1e4)), abs=1e-4
    )
    assert with_unbreakable(alpha, beta, 0.25, 10**6) == pytest.approx(0.75, abs=1e-2)
    with pytest.raises(ValueError, match="mass: must be in"):
        with_unbreakable(1, 1, 1.5, 3)
    with pytest.raises(ValueError, match="harmful: must be in"):
        with_benign(1, 1, -0.1, 3)


@pytest.mark.parametrize(
    ("successes", "trials", "message"),
    [
        ([0, 0, 0], 10, "all 30 attempts are wrong; .* no finite maximum; ppl.risk.fit"),
        ([10, 10], 10, "all 20 attempts are right"),
        ([0, 1, 1], 1, "trials: one each tells the mean"),
        ([0, 10, 10], 10, "every problem is all right or all wrong"),
        ([5] * 10, 10, "vary no more than one common probability"),
        ([0] * 99 + [1], 100, "vary no more than one common probability"),
        ([4], 10, "vary no more than one common probability"),
        ([1, 0], [10, 0], "trials: problem '1' has none"),
        ([11], 10, "successes: row 0"),
    ],
)
def test_counts_without_a_finite_maximum_are_refused(successes, trials, message):
    with pytest.raises(ValueError, match=message):
        saber(successes, trials)


def test_what_cannot_be_anchored_is_refused(fitted):
    with pytest.raises(ValueError, match="anchored estimates start at n = 100, got 50"):
        fitted.anchored(50)
    everywhere = saber(Attempts([1, 9, 50, 100], 100))
    with pytest.raises(ValueError, match="every problem has a success within 100 attempts"):
        everywhere.exact_ratio(1000)
    assert 0.9 < everywhere.exact(1000) < 1
    with pytest.raises(ValueError, match="level"):
        fitted.interval(1000, 1.0)
    with pytest.raises(ValueError, match="trials: a number"):
        saber([1, 2])
