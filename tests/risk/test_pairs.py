import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy import stats

from ppl.risk.moments import beta_from_moments
from ppl.risk.pairs import (
    epistemic_covariance,
    epistemic_variance,
    hallucination_bound,
    pair_calibration,
    probability_interval,
    problem_moments,
)


def test_moments_of_a_beta_are_recovered():
    a, b = np.array([0.5, 2.0, 9.0]), np.array([4.0, 1.0, 3.0])
    mean, repeated = a / (a + b), (a + 1) / (a + b + 1)
    assert epistemic_variance(mean, repeated) == pytest.approx(stats.beta(a, b).var())
    law = beta_from_moments(mean, mean * repeated)
    assert np.array([law.alpha, law.beta]) == pytest.approx(np.array([a, b]))


def test_a_fair_coin_is_told_from_an_unknown_sure_thing():
    assert probability_interval(0.5, 0.5) == (0.5, 0.5)  # knows the coin
    assert probability_interval(0.5, 1.0) == (0.0, 1.0)  # one of two sure things
    assert (hallucination_bound(0.5, 0.5), hallucination_bound(0.5, 1.0), hallucination_bound(0.0, 0.0)) == (0, 0.5, 1)


def test_covariance_of_a_mixture_of_categoricals():
    rng = np.random.default_rng(0)
    truth = rng.dirichlet([0.3, 1.0, 2.0], size=500)
    pair = np.einsum("ni,nj->ij", truth, truth) / 500
    covariance = epistemic_covariance(pair)
    assert covariance == pytest.approx(np.cov(truth.T, bias=True))
    single = pair.sum(axis=1)
    assert np.diag(covariance) == pytest.approx(epistemic_variance(single, np.diag(pair) / single))


def three_points(rng, mean, half, outside, size):
    """True probabilities at `mean`, or at `mean +- half` with a chance of `outside`: where Chebyshev is met exactly."""
    side = rng.choice([-1.0, 1.0], size=size)
    return mean + np.where(rng.uniform(size=size) < outside, side * half, 0.0)


@pytest.mark.parametrize("level", [0.8, 0.9])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_bound_covers_if_calibrated_and_fails_visibly_if_not(seed, level):
    rng, size = np.random.default_rng(seed), 20_000
    # A little more than 1 - level lies outside by a little less than the half-width: then all is covered.
    cases = {
        "least favourable": (0.35, three_points(rng, 0.35, 0.3, 1 - level, size)),
        "beta": (0.2, rng.beta(0.4, 1.6, size)),
        "two points": (0.3, np.where(rng.uniform(size=size) < 0.3, 1.0, 0.0)),
    }
    for name, (mean, truth) in cases.items():
        second = {"least favourable": 0.35**2 + 0.09 * (1 - level), "beta": 0.2 * 1.4 / 3, "two points": 0.3}[name]
        lower, upper = probability_interval(mean, second / mean, level)
        covered = np.mean((lower - 1e-9 <= truth) & (truth <= upper + 1e-9))
        assert covered >= level
    # A model that states a quarter of the variance: half the width, and what it leaves out is its error.
    mean, truth = cases["least favourable"]
    lower, upper = probability_interval(mean, mean + 0.09 * (1 - level) / mean / 4, level)
    covered = np.mean((lower <= truth) & (truth <= upper))
    assert covered == pytest.approx(level, abs=4 * np.sqrt(0.25 / size))  # exactly `level` here: outside is outside
    worse = three_points(rng, mean, 0.3, 3 * (1 - level), size)  # thrice as often wrong as it says
    assert np.mean((lower <= worse) & (worse <= upper)) < level - 0.1


def test_hallucinations_are_as_rare_as_bounded():
    rng = np.random.default_rng(2)
    # Impossible with chance 0.3, else beta; and the tight case of one value where possible.
    for possible in (rng.beta(2.0, 3.0, 50_000), np.full(50_000, 0.4)):
        truth = np.where(rng.uniform(size=50_000) < 0.3, 0.0, possible)
        bound = hallucination_bound(truth.mean(), (truth**2).mean() / truth.mean())
        assert np.mean(truth == 0) <= bound + 1e-9
    assert bound == pytest.approx(np.mean(truth == 0))


def simulated_pairs(rng, size):
    """A calibrated model of beta true probabilities whose means and strengths differ by input, and pairs of answers."""
    mean, strength = rng.uniform(0.1, 0.7, size), rng.choice([1.0, 6.0, 60.0], size)
    truth = rng.beta(mean * strength, (1 - mean) * strength)
    first, second = (rng.uniform(size=(2, size)) < truth).astype(int)
    return mean, (mean * strength + 1) / (strength + 1), first, second


def test_pair_calibration_covers_zero_for_a_calibrated_model():
    rng = np.random.default_rng(3)
    inside = []
    for i in range(200):
        result = pair_calibration(*simulated_pairs(rng, 150), draws=500, key=i)
        inside.append(
            [
                result.estimate(name).interval.lower <= 0 <= result.estimate(name).interval.upper
                for name in ("bias", "excess")
            ]
        )
    # The standard error is 0.021; 0.9 -+ 4 of them (false alarm 6e-5), and the bootstrap's own shortfall at 150 inputs.
    assert np.all(np.abs(np.mean(inside, axis=0) - 0.88) < 0.1)


def test_an_overconfident_model_is_found():
    p, repeated, first, second = simulated_pairs(np.random.default_rng(4), 3_000)
    good = pair_calibration(p, repeated, first, second)
    assert 0.001 < good.overconfident < 0.999
    bad = pair_calibration(p, p + (repeated - p) / 4, first, second)
    assert bad.overconfident > 0.999
    assert bad.estimate("excess").interval.lower > 0
    assert bad.estimate("bias").mean == pytest.approx(good.estimate("bias").mean)
    # What is observed does not depend on the statement of the spread, and is the truth: E m (1 - m) / (strength + 1).
    spread = np.mean([1 / 2, 1 / 7, 1 / 61]) * np.mean([x * (1 - x) for x in np.linspace(0.1, 0.7, 10_001)])
    lower, upper = good.estimate("squared_error", 0.9999).interval
    assert lower < spread < upper


def test_pair_results_are_summarised_exported_and_plotted():
    result = pair_calibration(*simulated_pairs(np.random.default_rng(5), 40), num_bins=3, draws=100)
    assert result.bins["count"].tolist() == [14, 13, 13]
    assert "bin_observed[2]" in result.summary().index
    assert result.to_arviz()["observed_data"]["first"].shape == (40,)
    assert isinstance(result.plot_reliability(), Figure)
    assert result.estimate("bin_stated").mean == pytest.approx(result.bins["stated_variance"].to_numpy(), rel=0.1)


@pytest.mark.parametrize("seed", [0, 1])
def test_moments_from_two_trials_cover(seed):
    # Truths from the prior: Dirichlet(1/2) on 0, 1, 2 successes where a mixture can give it.
    rng, inside = np.random.default_rng(seed), []
    while len(inside) < 200:
        none, one, two = rng.dirichlet([0.5] * 3)
        if two * none <= one**2 / 4:
            continue
        successes = rng.choice(3, size=60, p=[none, one, two])
        result = problem_moments(successes >= 1, successes == 2, draws=1_000, key=len(inside))
        truth = {"mean": two + one / 2, "variance": two - (two + one / 2) ** 2}
        inside.append([np.mean(result.draws[name] < value) for name, value in truth.items()])
    ranks = np.array(inside)
    covered = np.mean((ranks > 0.05) & (ranks < 0.95), axis=0)
    assert covered == pytest.approx(0.9, abs=0.085)  # 4 standard errors of 0.021: false alarm 6e-5 each


def test_two_trials_identify_the_beta():
    rng = np.random.default_rng(6)
    theta = rng.beta(0.6, 1.8, size=5_000)
    first, second = rng.uniform(size=(2, 5_000)) < theta
    result = problem_moments(first, second)
    for name, truth in (("alpha", 0.6), ("beta", 1.8), ("mean", 0.25), ("correlation", 1 / 3.4)):
        lower, upper = result.estimate(name, 0.9999).interval
        assert lower < truth < upper
    assert result.refused == 0
    assert result.draws["alpha"].std() < 0.05


def test_posterior_is_the_dirichlet_one_where_all_of_it_is_a_mixture():
    successes = np.repeat([0, 1, 2], [90, 20, 40])
    result = problem_moments(successes >= 1, successes == 2, draws=20_000)
    cells = stats.dirichlet(np.array([90, 20, 40]) + 0.5)
    mean = cells.mean()[2] + cells.mean()[1] / 2
    assert result.draws["mean"].mean() == pytest.approx(mean, abs=5 * result.draws["mean"].std() / np.sqrt(20_000))
    assert result.draws["variance"] == pytest.approx(
        result.draws["correlation"] * result.draws["mean"] * (1 - result.draws["mean"])
    )
    log_likelihood = result.log_likelihood["successes"]
    assert log_likelihood.shape == (20_000, 150)
    assert np.exp(log_likelihood[:, [0, 100, 149]]).sum(axis=1) == pytest.approx(np.ones(20_000), rel=1e-5)
    assert result.to_arviz()["log_likelihood"]["successes"].shape == (4, 5_000, 150)


@pytest.mark.parametrize("outcome", [0, 1])
@pytest.mark.parametrize("num", [1, 25])
def test_trials_all_alike_leave_a_spread(outcome, num):
    result = problem_moments([outcome] * num, [outcome] * num)
    assert all(np.isfinite(values).all() for values in result.draws.values())
    assert min(values.min() for values in result.draws.values()) > 0
    low, high = result.estimate("mean").interval
    assert 0 < low < high < 1


def test_pairs_that_no_mixture_explains_are_refused():
    with pytest.raises(ValueError, match="200 of 200 problems have one success of two, more than any mixture"):
        problem_moments([1] * 200, [0] * 200)
    assert problem_moments([1, 0, 1, 0, 0], [0, 1, 1, 0, 1]).refused > 0.2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: epistemic_variance(0.5, 0.4), "repeated: at least probability 0.5 is wanted, got 0.4"),
        (lambda: epistemic_variance(np.array([0.1, 1.2]), np.array([0.5, 0.5])), r"probability: .* got 1.2 at \(1,\)"),
        (lambda: epistemic_variance(np.array([0.1]), np.array([np.nan])), "repeated: must be in .0, 1., got nan"),
        (lambda: epistemic_variance(np.array([0.1]), np.array([0.5, 0.5])), "repeated: one for each probability"),
        (lambda: probability_interval(0.5, 0.6, 1.0), "level: must be in"),
        (
            lambda: epistemic_covariance(np.full((2, 2), 0.3)),
            "pair: probabilities of sum 1 are wanted, got a sum of 1.2",
        ),
        (lambda: epistemic_covariance(np.array([[0.2, 0.5], [0.1, 0.2]])), "pair: p.y, y.. = p.y., y. is wanted"),
        (lambda: epistemic_covariance(np.array([[0.1, 0.4], [0.4, 0.1]])), "pair: no true probabilities"),
        (lambda: problem_moments([], []), "first: at least one problem"),
        (lambda: problem_moments([1, 2], [0, 1]), "first: row 1 has 2; 0 or 1 is wanted"),
        (lambda: problem_moments([1, 0], [0]), "second: one outcome a row, 2 of them, is wanted"),
        (lambda: problem_moments([1, 0], [0, 1], draws=0), "draws: at least 1"),
        (lambda: pair_calibration(np.array([0.5]), np.array([0.5]), [1], [1], num_bins=1), "at least 2, is wanted"),
        (lambda: pair_calibration(np.full(3, 0.5), np.full(3, 0.5), [1] * 3, [1] * 3), "num_bins: .* got 5 of 3"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
