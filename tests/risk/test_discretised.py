import numpy as np
import pytest
from scipy import integrate, special, stats

from ppl.risk.discretised import EDGES, DiscretisedFit, fit_discretised


def counts(seed=0, problems=159, trials=10_000, alpha=0.3, beta=3.0):
    rng = np.random.default_rng(seed)
    return rng.binomial(trials, rng.beta(alpha, beta, problems))


def test_the_fit_is_a_maximum_of_the_binned_likelihood():
    fit = fit_discretised(counts(), 10_000)
    rates = counts() / 10_000
    assert fit.scale == rates.max()
    histogram = np.histogram(rates, EDGES)[0]
    assert fit.histogram.tolist() == histogram.tolist()

    def log_likelihood(a, b):
        mass = np.diff(special.betainc(a, b, np.minimum(EDGES / fit.scale, 1)))
        return special.xlogy(histogram, np.where(histogram > 0, mass, 1)).sum()

    best = log_likelihood(fit.a, fit.b)
    assert best == pytest.approx(fit.log_likelihood)
    for a, b in ((1.01, 1), (0.99, 1), (1, 1.01), (1, 0.99), (1.01, 1.02), (0.99, 0.98)):
        assert log_likelihood(a * fit.a, b * fit.b) < best
    assert fit.exponent == fit.a


@pytest.mark.parametrize("family", ["beta", "kumaraswamy"])
def test_coverage_is_the_expectation_under_the_law(family):
    fit = fit_discretised(counts(), 10_000, family=family)
    law = (
        stats.beta(fit.a, fit.b).ppf
        if family == "beta"
        else lambda u: np.exp(np.log(-np.expm1(np.log1p(-u) / fit.b)) / fit.a)
    )
    for attempts in (1, 30, 1000):
        # Quantiles u = v^4 resolve the mass near 0.
        value, _ = integrate.quad(
            lambda v, n=attempts: -np.expm1(n * np.log1p(-fit.scale * law(v**4))) * 4 * v**3, 0, 1, limit=500
        )
        assert fit.pass_at(attempts) == pytest.approx(value, abs=2e-4)
    with pytest.raises(ValueError, match="attempts: at least 1"):
        fit.pass_at(0)


def test_kumaraswamy_is_its_distribution():
    # b = 1 is x^a, a = 1 is 1 - (1 - x)^b: both are betas, and so must their coverage be.
    attempts = fit_discretised(counts(), 10_000).attempts
    common = {"scale": 1.0, "histogram": np.array([1, 2]), "log_likelihood": 0.0, "attempts": attempts}
    for a, b in ((0.4, 1.0), (1.0, 3.0)):
        one, other = (DiscretisedFit(family=name, a=a, b=b, **common) for name in ("kumaraswamy", "beta"))
        for n in (1, 50, 2000):
            assert one.pass_at(n) == pytest.approx(other.pass_at(n), abs=1e-9)


def test_a_fit_says_what_it_is():
    fit = fit_discretised(counts(), 10_000)
    assert fit.summary().loc["beta", "scale"] == fit.scale
    data = fit.to_arviz()
    assert float(data["constant_data"]["a"]) == fit.a
    assert fit.plot_histogram().axes[0].get_xscale() == "log"


@pytest.mark.parametrize(
    ("successes", "trials", "message"),
    [
        ([0, 0, 0], 100, "all s/n lie in one bin"),
        ([100, 100], 100, "all s/n lie in one bin"),
        ([1, 0], [10, 0], "trials: problem '1' has none"),
        ([3], 2, "successes: row 0"),
    ],
)
def test_what_identifies_no_law_is_refused(successes, trials, message):
    with pytest.raises(ValueError, match=message):
        fit_discretised(successes, trials)
    with pytest.raises(ValueError, match="trials: a number"):
        fit_discretised([1])


def test_rates_that_a_rule_biases_are_refused():
    with pytest.raises(ValueError, match="rule: a histogram of s/n needs numbers of trials"):
        fit_discretised([1, 0], [60, 10_020], rule="stop_at_success(batch=60)")
