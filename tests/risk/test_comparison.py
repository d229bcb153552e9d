import warnings
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy import special, stats

from ppl.intervals import beta_interval, mean_interval
from ppl.risk.attempts import Attempts, stop_at_success
from ppl.risk.comparison import compare
from ppl.risk.paired_logit import OWN_SD, PRIOR_MEAN, PRIOR_SD, pass_at

SLOPE2 = 256 / (75 * np.pi**2)


def pair(rng, problems, most, hyper=None, least=0):
    """A and B, with uneven attempts (also none), and true differences: of the population, and of these problems."""
    hyper = rng.normal(PRIOR_MEAN, PRIOR_SD) if hyper is None else np.asarray(hyper)
    alone, rho = np.exp(hyper[2:4]), np.tanh(hyper[4])
    covariance = np.outer(alone, alone) * np.array([[1, rho], [rho, 1]]) + OWN_SD**2 * np.eye(2)
    mean = hyper[:2] * np.sqrt(1 + SLOPE2 * np.diag(covariance))
    theta = special.expit(rng.multivariate_normal(mean, covariance, problems))
    n = rng.integers(least, most + 1, size=(problems, 2))
    s = rng.binomial(n, theta)
    rates = np.asarray(pass_at(jnp.asarray(hyper[None], jnp.float32), jnp.float32(1)))[0]
    return Attempts(s[:, 0], n[:, 0]), Attempts(s[:, 1], n[:, 1]), rates[0] - rates[1], np.subtract(*theta.mean(axis=0))


def quietly(*arguments, **options):
    """Where few draws are on purpose."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the draws are worth", category=UserWarning)
        return compare(*arguments, **options)


@pytest.mark.calibration
def test_coverage_and_calibration_over_the_prior():
    rng = np.random.default_rng(5)
    below, better = [], []
    for key in range(32):
        a, b, truth, truth_here = pair(rng, 12, 3)
        fit = quietly(a, b, key=key, draws=500)
        below.append([np.mean(fit.draws["difference"] < truth), np.mean(fit.draws["difference_here"] < truth_here)])
        better.append([[fit.probability_better, truth > 0], [fit.probability_better_here, truth_here > 0]])
    below, (stated, happened) = np.array(below), np.array(better).transpose(2, 0, 1)
    # Over the prior coverage is the level exactly. Binomial standard errors 0.053 (90%) and 0.088 (50%); 3.5 of each.
    assert np.mean((below > 0.05) & (below < 0.95), axis=0) == pytest.approx(0.9, abs=0.186)
    assert np.mean((below > 0.25) & (below < 0.75), axis=0) == pytest.approx(0.5, abs=0.31)
    # What is called probable happens that often, in sum and weighed by how sure it was (a slope): 4 standard errors.
    excess, variance = happened - stated, stated * (1 - stated)
    assert (np.abs(excess.sum(axis=0)) < 4 * np.sqrt(variance.sum(axis=0))).all()
    sure = stated - 0.5
    assert (np.abs((excess * sure).sum(axis=0)) < 4 * np.sqrt((variance * sure**2).sum(axis=0))).all()
    assert np.abs(sure).mean() > 0.2  # not by saying one half


@pytest.mark.parametrize(
    ("method", "hyper"),
    [
        pytest.param("hierarchical", (1.2, 0.6, 0.6, 0.3, 1.0), marks=pytest.mark.calibration),
        ("bootstrap", (1.2, 0.6, 0.6, 0.3, 1.0)),
        ("clustered", (-1.0, 0.6, 0.6, 0.9, 0.0)),
    ],
)
def test_coverage_at_one_truth(method, hyper):
    rng = np.random.default_rng(11)
    repeats, inside = {"bootstrap": 200, "clustered": 100}.get(method, 25), []
    for key in range(repeats):
        a, b, truth, _ = pair(rng, 14, 4, hyper, least=1)
        fit = quietly(a, b, method, key=key, draws=500)
        lower, upper = fit.difference(0.8).interval
        inside.append(lower <= truth <= upper)
    # 4 standard errors.
    assert np.mean(inside) == pytest.approx(0.8, abs=4 * np.sqrt(0.16 / repeats))


def singles(table):
    """A and B with one attempt each, from counts of neither, B only, A only, both."""
    cells = np.repeat(np.arange(4), table)
    return Attempts(cells // 2, 1), Attempts(cells % 2, 1)


@pytest.mark.parametrize("table", [(10, 3, 9, 20), (0, 0, 4, 16), (30, 0, 0, 0)])
def test_paired_is_a_beta_posterior_of_the_pairs_that_differ(table):
    exact = stats.beta(table[1] + 0.5, table[2] + 0.5).cdf(0.5)  # B only has less than half of the differing pairs
    fit = compare(*singles(table), "paired", draws=20_000)
    # 4.5 standard errors, false alarm 7e-6.
    assert fit.probability_better == pytest.approx(exact, abs=4.5 * np.sqrt(0.25 / 20_000))
    total = sum(table) + 2
    assert fit.draws["rate_a"].mean() == pytest.approx((table[2] + table[3] + 1) / total, abs=0.01)
    assert fit.effective_draws == float("inf")


def test_coverage_of_the_paired_interval_over_its_prior():
    rng = np.random.default_rng(2)
    inside = []
    for key in range(300):
        shares = rng.dirichlet(np.full(4, 0.5))
        fit = compare(*singles(rng.multinomial(15, shares)), "paired", key=key, draws=300)
        lower, upper = fit.difference(0.9).interval
        inside.append(lower <= shares[2] - shares[1] <= upper)
    assert np.mean(inside) == pytest.approx(0.9, abs=4 * np.sqrt(0.09 / 300))  # 4 standard errors


def test_with_one_attempt_a_problem_the_methods_agree():
    a, b = singles((12, 4, 15, 29))
    hierarchical, paired = compare(a, b, draws=500), compare(a, b, "paired")
    assert hierarchical.difference()[0] == pytest.approx(paired.difference()[0], abs=0.03)
    assert hierarchical.draws["difference"].std() == pytest.approx(paired.draws["difference"].std(), rel=0.25)
    assert hierarchical.probability_better == pytest.approx(paired.probability_better, abs=0.03)


def test_pairing_narrows_and_repeats_are_no_problems():
    rng = np.random.default_rng(0)
    a, b, _, _ = pair(rng, 16, 8, (0.8, 0.2, 0.9, 0.9, 1.5))
    paired, apart = compare(a, b, draws=500), compare(a, b, "clustered", draws=500)
    assert paired.draws["difference"].std() < 0.8 * apart.draws["difference"].std()
    # On these problems more attempts settle what on others like them they do not.
    more = compare(Attempts(4 * a.successes, 4 * a.trials), Attempts(4 * b.successes, 4 * b.trials), draws=500)
    assert more.draws["difference_here"].std() < 0.5 * more.draws["difference"].std()


def test_the_bootstrap_is_that_of_the_differences():
    a, b = Attempts([4, 0, 3, 1, 2], 4), Attempts([2, 0, 4, 0, 1], 4)
    fit = compare(a, b, "bootstrap", draws=20_000)
    lower, upper = mean_interval((a.successes - b.successes) / 4, 0.9, bounds=(-1, 1), draws=20_000)
    assert fit.difference(0.9).interval == pytest.approx((lower, upper), abs=0.02)


def test_pass_at_k_of_many_attempts():
    rng = np.random.default_rng(3)
    a, b = Attempts(rng.binomial(20, 0.3, 16), 20), Attempts(rng.binomial(20, 0.15, 16), 20)  # problems all alike
    exact = (1 - 0.7**5) - (1 - 0.85**5)
    for method in ("hierarchical", "bootstrap"):
        mean, (lower, upper) = compare(a, b, method, k=5, draws=500).difference(0.99)
        assert lower < exact < upper
        assert mean == pytest.approx(exact, abs=0.1)


def test_clusters_are_the_unit():
    rng = np.random.default_rng(4)
    text = np.repeat(np.arange(12), 5)
    names = [f"q{i}" for i in range(60)]
    theta = np.clip(0.5 + 0.45 * rng.choice([-1, 1], 12)[text], 0, 1)  # questions of a text are alike for A
    a, b = Attempts(rng.binomial(1, theta), 1, names), Attempts(rng.binomial(1, 0.5, 60), 1, names)
    clusters = {name: f"text {number}" for name, number in zip(names, text, strict=True)}
    for method in ("bootstrap", "clustered"):
        alone, together = (compare(a, b, method, clusters=which) for which in (None, clusters))
        assert together.draws["rate_a"].std() > 1.4 * alone.draws["rate_a"].std()


def test_problems_are_matched_by_name_and_the_rest_is_named():
    a = Attempts([3, 1, 2], [3, 3, 3], ["x", "only a", "y"])
    b = Attempts([0, 1, 3, 1], [2, 2, 4, 2], ["y", "extra", "x", "more"])
    with pytest.warns(UserWarning, match="are left out") as caught:
        fit = compare(a, b, draws=500)
    assert [str(warning.message) for warning in caught] == list(fit.warnings)
    assert fit.warnings == (
        "1 of A's problems not attempted by B are left out: 'only a'",
        "2 of B's problems not attempted by A are left out: 'extra', 'more'",
    )
    assert fit.problems == ("x", "y")
    assert fit.observed["successes_b"].tolist() == [3, 0]
    assert fit.observed["trials_b"].tolist() == [4, 2]


@pytest.mark.parametrize("method", ["hierarchical", "paired", "bootstrap", "clustered"])
@pytest.mark.parametrize(("s", "t"), [(0, 0), (1, 1), (1, 0)])
def test_all_wrong_and_all_right_leave_doubt(method, s, t):
    fit = quietly(Attempts([s] * 3, 1), Attempts([t] * 3, 1), method, draws=500)
    _, (lower, upper) = fit.difference()
    assert upper - lower > 0.2
    assert fit.probability_better == pytest.approx(0.5, abs=0.15) if s == t else 0.8 < fit.probability_better < 1


def test_swapping_the_sides_turns_the_sign():
    a, b, _, _ = pair(np.random.default_rng(9), 14, 4)
    one, other = compare(a, b, draws=500), compare(b, a, draws=500)
    assert one.difference()[0] == pytest.approx(-other.difference()[0], abs=0.04)
    assert one.probability_better == pytest.approx(1 - other.probability_better, abs=0.1)


def test_one_problem_and_stopping_rules():
    fit = quietly(Attempts([2], [3]), Attempts([0], [2]), draws=500)
    assert 0.6 < fit.probability_better < 0.99
    stopped = Attempts([1, 1, 0], [4, 2, 9], rule=stop_at_success())
    assert np.isfinite(quietly(stopped, Attempts([1, 0, 1], 3), draws=500).probability_better)
    with pytest.raises(ValueError, match="the bootstrap comparison needs numbers of trials that do not depend"):
        compare(stopped, Attempts([1, 0, 1], 3), "bootstrap")


def test_results_export_and_plot(tmp_path):
    a, b, _, _ = pair(np.random.default_rng(1), 12, 3)
    fit = compare(a, b, draws=500)
    assert list(fit.summary().index) == ["rate_a", "rate_b", "difference", "difference_here", "correlation"]
    data = fit.to_arviz()
    assert data["log_likelihood"]["pair"].shape == (4, 125, 12)
    fit.plot_difference().savefig(tmp_path / "difference.png")
    again = compare(a, b, draws=500)
    assert (again.draws["difference"] == fit.draws["difference"]).all()


ONE = Attempts([1, 0], [1, 2], ["p", "q"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: compare(ONE, Attempts([1], 1, ["r"])),
            "b: no problem is shared with a, whose first is 'p'; b's .* 'r'",
        ),
        (lambda: compare(ONE, ONE, "paired"), "a: the paired comparison wants one attempt a problem, and 'q' has 2"),
        (lambda: compare(ONE, ONE, "bootstrap", k=2), "at least 2 attempts a problem, and 'p' has 1"),
        (lambda: compare(ONE, ONE, k=3), "k: at most the attempts that each side made somewhere, 2, is wanted, got 3"),
        (lambda: compare(ONE, ONE, k=0), "k: at least 1"),
        (lambda: compare(ONE, ONE, "clustered", k=2), "k: the clustered method has 1 only, got 2"),
        (
            lambda: compare(ONE, ONE, clusters={"p": "t", "q": "t"}),
            "clusters: for the clustered and bootstrap methods",
        ),
        (lambda: compare(ONE, ONE, "clustered", clusters={"p": "t"}), "clusters: problem 'q' has none"),
        (lambda: compare(ONE, ONE, draws=0), "draws: at least 1"),
        (lambda: compare(ONE, ONE, "clustered").probability_better_here, "name: one of rate_a, .* 'difference_here'"),
    ],
)
def test_bad_calls_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("model", "right", "published"),
    [
        ("claude-2.1", 20, (0.8389, 0.9988)),
        ("llama-v2-13b-chat", 0, (0.0012, 0.1611)),
        ("gpt-4-1106-preview (functions)", 18, (0.6962, 0.9695)),
    ],
)
def test_published_intervals_of_twenty_questions(model, right, published):
    table = pd.read_csv(Path(__file__).parent / "data" / "eval-matrices" / "langchain_tool_use.csv")
    assert table[model].sum() == right
    assert beta_interval(right, 20, 0.95, prior=(1.0, 1.0)) == pytest.approx(published, abs=5e-5)
