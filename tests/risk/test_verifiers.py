import jax
import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy import special, stats

from ppl.risk.prevalence import judged_accuracy
from ppl.risk.results import DrawsResult
from ppl.risk.verifiers import ceiling, ceiling_from_counts, check_counts, verifier

pytestmark = pytest.mark.runs_long


def covered(result, name, truth, level=0.9):
    lower, upper = result.estimate(name, level).interval
    return lower <= truth <= upper


def assert_quantiles(draws, distribution, sigmas=5):
    """Five quantiles within 5 Monte Carlo standard errors, sqrt(q (1 - q) / draws) in probability: alarm 3e-6."""
    for q in (0.05, 0.25, 0.5, 0.75, 0.95):
        share = np.mean(draws <= distribution.ppf(q))
        assert abs(share - q) < sigmas * np.sqrt(q * (1 - q) / len(draws)), q


@pytest.mark.parametrize("key", [0, 1, 2])
def test_four_numbers_give_jeffreys_posteriors(key):
    result = verifier(41, 3, 7, 12, draws=4000, key=key)
    assert_quantiles(result.draws["sensitivity"], stats.beta(41.5, 3.5))
    assert_quantiles(result.draws["specificity"], stats.beta(7.5, 12.5))
    assert_quantiles(result.draws["false_accept"], stats.beta(12.5, 7.5))
    assert abs(np.corrcoef(result.draws["sensitivity"], result.draws["specificity"])[0, 1]) < 5 / np.sqrt(4000)


def test_one_verdict_a_problem_is_the_same_posterior():
    # 30 problems with a right attempt (26 accepted), 20 with a wrong one (3 accepted).
    tp, fn, tn, fp = (
        np.repeat(block, [26, 4, 17, 3]) for block in ([1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1])
    )
    result = verifier(tp, fn, tn, fp, draws=4000, key=3)
    assert_quantiles(result.draws["sensitivity"], stats.beta(26.5, 4.5))
    assert_quantiles(result.draws["specificity"], stats.beta(17.5, 3.5))


def test_the_prior_is_the_users():
    result = verifier(0, 0, 0, 0, prior=(2.0, 5.0), draws=4000)
    assert_quantiles(result.draws["sensitivity"], stats.beta(2, 5))
    assert_quantiles(result.draws["false_accept"], stats.beta(2, 5))


def test_verdicts_that_resemble_each_other_within_a_problem_are_covered():
    rng = np.random.default_rng(4)
    repeats, problems = 100, 60
    inside, naive = np.zeros((repeats, 2)), np.zeros(repeats)
    for i in range(repeats):
        # 10 attempts a problem, more of them right where problems are easy; false positives crowd on few problems.
        right = rng.binomial(10, rng.beta(1, 1, problems))
        tp, fp = rng.binomial(right, rng.beta(9, 1, problems)), rng.binomial(10 - right, rng.beta(0.2, 1.8, problems))
        result = verifier(tp, right - tp, 10 - right - fp, fp, draws=500, key=i)
        inside[i] = covered(result, "sensitivity", 0.9), covered(result, "specificity", 0.9)
        pooled = stats.beta(0.5 + fp.sum(), 0.5 + (10 - right - fp).sum())
        naive[i] = pooled.ppf(0.05) <= 0.1 <= pooled.ppf(0.95)
    # 60 skewed problems give the bootstrap .94 and .89; 4 standard errors of .031 below the lower, 0.01% of seeds.
    assert np.all(inside.mean(axis=0) > 0.77)
    assert naive.mean() < 0.7  # independent verdicts would claim too much


def test_coverage_of_rates_and_ceiling():
    c, s, r = 0.93, 0.8, 0.25
    rng = np.random.default_rng(5)
    repeats = 150
    inside = np.zeros((repeats, 4))
    for i in range(repeats):
        right = rng.binomial(150, r)
        tp, fp = rng.binomial(right, c), rng.binomial(150 - right, 1 - s)
        result = verifier(tp, right - tp, 150 - right - fp, fp, draws=500, key=i)
        success = rng.beta(right + 0.5, 150 - right + 0.5, 500)
        worth = ceiling(result, success)
        precision = c * r / (c * r + (1 - s) * (1 - r))
        counted = ceiling_from_counts(tp, tp + fp, 150, draws=500, key=i)
        inside[i] = (
            covered(result, "sensitivity", c),
            covered(result, "specificity", s),
            covered(worth, "ceiling", precision),
            covered(counted, "ceiling", precision),
        )
    # Jeffreys' coverage of one binomial lies in .86 to .94 here; beyond that 4 standard errors of .0245.
    assert np.all(np.abs(inside.mean(axis=0) - 0.9) < 0.04 + 4 * 0.0245)


def test_coverage_of_a_ceiling_from_unlabelled_attempts():
    c, s = 0.9, 0.85
    rng = np.random.default_rng(6)
    repeats = 100
    inside = np.zeros(repeats)
    for i, r in enumerate(rng.uniform(0.05, 0.95, repeats)):  # the posterior is flat in r, so r is drawn
        tp, fp = rng.binomial(80, c), rng.binomial(120, 1 - s)
        accepted = rng.binomial(400, c * r + (1 - s) * (1 - r))
        judged = judged_accuracy((int(accepted), 400), (int(tp), 80), (int(fp), 120), draws=500, key=i)
        worth = ceiling(judged, judged.draws["accuracy"])
        inside[i] = covered(worth, "ceiling", c * r / (c * r + (1 - s) * (1 - r)))
    assert abs(inside.mean() - 0.9) < 4 * 0.03 + 0.02  # 4 standard errors, and .02 for rates that are not drawn


def test_the_ceiling_is_bayes_rule():
    result = ceiling(DrawsResult(draws={"sensitivity": np.array([0.8]), "specificity": np.array([0.7])}), 0.4)
    assert result.draws["ceiling"] == pytest.approx(0.8 * 0.4 / (0.8 * 0.4 + 0.3 * 0.6))
    assert result.draws["acceptance"] == pytest.approx(0.8 * 0.4 + 0.3 * 0.6)
    assert ceiling(verifier(5, 1, 4, 2), 0.0).draws["ceiling"].max() == 0
    assert ceiling(verifier(5, 1, 4, 2), 1.0).draws["ceiling"].min() == 1


def test_small_false_acceptance_keeps_its_digits():
    # 1 - s of about 1e-7 is below float32's resolution next to 1.
    result = verifier(50, 50, 10_000_000, 0)
    worth = ceiling(result, 1e-6)
    expected = np.median(stats.beta(0.5, 10_000_000.5).rvs(100_000, random_state=0))
    assert np.median(result.draws["false_accept"]) == pytest.approx(expected, rel=0.15)
    assert 0.5 < worth.estimate("ceiling").mean < 1


def test_coverage_of_checked_answers_by_problem():
    # HumanEval+ in small: 60 problems, 20 attempts, a of them accepted, of these b right, less where a is low.
    rng = np.random.default_rng(7)
    a = lambda u: special.betaincinv(0.5, 0.5, u)  # noqa: E731
    b = lambda u: 1 - 0.6 * (1 - a(u)) ** 2  # noqa: E731
    u = (np.arange(200_000) + 0.5) / 200_000
    accept, share = a(u), b(u)
    some = 1 - (1 - accept) ** 20
    truth = {
        "ceiling": np.mean(accept * share) / accept.mean(),
        "ceiling_by_problem": np.mean(some * share) / some.mean(),
        "acceptance": accept.mean(),
        "success": np.mean(accept * share),
        "gap": np.mean(accept * (1 - share)),
    }
    repeats = 150
    inside = {name: np.zeros(repeats) for name in truth}
    for i in range(repeats):
        level = rng.uniform(size=60)
        accepted = rng.binomial(20, a(level))
        right = rng.binomial(accepted, b(level))
        result = ceiling_from_counts(right, accepted, np.full(60, 20), draws=500, key=i)
        for name, value in truth.items():
            inside[name][i] = covered(result, name, value)
    for name, values in inside.items():
        # About .88 by the bootstrap at 60 problems; 4 standard errors of .027 below it, .025 above .9.
        assert 0.77 < values.mean() < 1.0, name
    assert truth["ceiling_by_problem"] < truth["ceiling"]


@pytest.mark.parametrize("shape", ["numbers", "arrays"])
def test_nothing_and_everything_accepted(shape):
    def counts(*values):
        return [value if shape == "numbers" else np.full(8, value // 8) for value in values]

    all_accepted = verifier(*counts(80, 0, 0, 80))
    assert all_accepted.estimate("sensitivity").interval.lower > 0.7
    assert all_accepted.estimate("specificity").interval.upper < 0.3
    # A verifier that accepts everything tells nothing: the ceiling is the share of right attempts.
    assert ceiling(all_accepted, 0.3).estimate("ceiling").mean == pytest.approx(0.3, abs=0.02)
    none_accepted = verifier(*counts(0, 80, 80, 0))
    assert none_accepted.estimate("sensitivity").interval.upper < 0.3
    unknown = verifier(*counts(0, 0, 0, 0))
    lower, upper = unknown.estimate("sensitivity").interval
    assert lower < 0.02
    assert upper > 0.98
    worth = ceiling_from_counts(*counts(0, 0, 0))
    assert worth.estimate("ceiling").interval.lower < 0.02
    assert ceiling_from_counts(*counts(80, 80, 80)).estimate("gap").interval.upper < 0.3


def test_a_single_problem_is_worth_one_problem():
    many = verifier(np.array([200]), np.array([0]), np.array([0]), np.array([0]))
    # One problem with 200 alike verdicts: Beta(1.5, .5), not Beta(200.5, .5); the lower ends are .23 and .99.
    assert many.estimate("sensitivity").interval.lower == pytest.approx(stats.beta.ppf(0.05, 1.5, 0.5), abs=0.05)


def test_what_goes_to_arviz():
    result = verifier(41, 3, 7, 12, draws=400)
    likelihood = result.to_arviz()["log_likelihood"]["accepted"]
    assert likelihood.shape == (4, 100, 2)
    expected = stats.binom.logpmf(41, 44, result.draws["sensitivity"].astype(np.float64))
    np.testing.assert_allclose(likelihood.to_numpy().reshape(400, 2)[:, 0], expected, rtol=1e-5)
    assert list(result.summary().index) == ["sensitivity", "specificity", "false_accept"]


def test_plots():
    result = verifier(41, 3, 7, 12)
    assert isinstance(result.plot_ceiling(), Figure)
    assert isinstance(ceiling(result, 0.4).plot_ceiling(), Figure)
    assert isinstance(ceiling_from_counts(np.array([3, 4]), np.array([4, 5])).plot_ceiling(), Figure)


def test_the_same_key_gives_the_same_draws():
    first, again, other = (verifier(4, 1, 3, 1, key=key) for key in (1, jax.random.key(1), 2))
    np.testing.assert_array_equal(first.draws["sensitivity"], again.draws["sensitivity"])
    assert not np.array_equal(first.draws["sensitivity"], other.draws["sensitivity"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: verifier(-1, 0, 0, 0), "tp: whole numbers from 0 up are wanted, got -1"),
        (lambda: verifier(1, 0, 0, 0, prior=(0.5, 0.0)), "prior: both parameters must be positive"),
        (lambda: verifier(1, 0, 0, 0, draws=0), "draws: at least 1"),
        (lambda: verifier(np.array([1]), 0, 0, 0), r"fn: all counts must be numbers, or arrays of one length"),
        (lambda: check_counts({"tp": np.array([1.0, 2.5])}), "tp: whole numbers from 0 up are wanted, row 1 has 2.5"),
        (lambda: check_counts({"tp": np.array([np.nan])}), "tp: .* row 0 has nan"),
        (lambda: check_counts({"tp": np.zeros(0, int)}), "tp: at least one problem"),
        (lambda: check_counts({"tp": np.zeros(3, int), "fn": np.zeros(2, int)}), r"fn: .* tp \(3,\), fn \(2,\)"),
        (lambda: ceiling_from_counts(3, 2), "right: at most accepted is wanted, got 3 of 2"),
        (
            lambda: ceiling_from_counts(np.array([0, 1]), np.array([0, 2]), np.array([0, 1])),
            "accepted: .* row 1 has 2 of 1",
        ),
        (lambda: ceiling(verifier(1, 1, 1, 1), 1.5), "success: draw 0 is 1.5"),
        (lambda: ceiling(verifier(1, 1, 1, 1), np.full(3, 0.5)), "success: one number or the verifier's 4000 draws"),
        (
            lambda: ceiling(DrawsResult(draws={"sensitivity": np.ones(2), "specificity": np.ones(2)}), 0.0),
            "verifier: it accepts nothing in draw 0",
        ),
        (lambda: ceiling(DrawsResult(draws={"x": np.ones(2)}), 0.5), "draws of sensitivity, specificity are wanted"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
