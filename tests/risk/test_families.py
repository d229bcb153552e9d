import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy import special, stats

from ppl.risk import quadrature, tails
from ppl.risk.families import FAMILIES
from ppl.risk.tails import tail_sensitivity

# Right and wrong answers: few and many, none and all, up to a million.
SUCCESSES = np.array([0, 0, 0, 1, 5, 50, 99, 100, 0, 300, 9000, 10000, 0, 2, 1, 0], float)
FAILURES = np.array([1, 10, 100, 99, 95, 50, 1, 0, 10000, 9700, 1000, 0, 0, 2, 0, 1000000], float)
FAR = 10_000

FINE = np.linspace(-60, 45, 200_001)
LOG_P, LOG_Q = special.log_expit(FINE), special.log_expit(-FINE)


def kumaraswamy(a, b):
    return np.log(a * b) + a * LOG_P + (b - 1) * np.log(-np.expm1(a * LOG_P)) + LOG_Q


def beta(a, b):
    return a * LOG_P + b * LOG_Q - special.betaln(a, b)


def two_piece(a, b, mode):
    return np.log(a * b / (a + b)) + np.where(FINE < mode, a * (FINE - mode), -b * (FINE - mode))


def logit(p):
    return float(special.logit(p))


# Name, unconstrained parameters, log density of y = logit(theta / ceiling) on the fine grid, ceiling.
LAWS = {
    "kumaraswamy": ("kumaraswamy", np.log([0.4, 3.0]), kumaraswamy(0.4, 3.0), 1.0),
    "kumaraswamy, mostly right": ("kumaraswamy", np.log([2.0, 0.3]), kumaraswamy(2.0, 0.3), 1.0),
    "scaled beta": ("scaled_beta", [*np.log([0.4, 3.0]), logit(0.62)], beta(0.4, 3.0), 0.62),
    "scaled beta, low ceiling": ("scaled_beta", [*np.log([0.6, 0.5]), logit(0.12)], beta(0.6, 0.5), 0.12),
    "logit-normal": ("logit_normal", [-3.0, np.log(2.5)], stats.norm.logpdf(FINE, -3, 2.5), 1.0),
    "logit-normal, narrow": ("logit_normal", [-1.0, np.log(0.4)], stats.norm.logpdf(FINE, -1, 0.4), 1.0),
    "two-piece": ("two_piece", [np.log(0.4), np.log(1.35), -2.0], two_piece(0.4, 1.35, -2.0), 1.0),
}


def integrated(log_density, ceiling):
    """Log marginal less the saturated log-likelihood, and E[(1 - theta)^FAR], by 200,000 nodes in float64."""
    log_rest = LOG_Q if ceiling == 1 else np.log1p(-ceiling * special.expit(FINE))
    marginals, misses = [], []
    for s, f in zip(SUCCESSES, FAILURES, strict=True):
        n = max(s + f, 1)
        logs = log_density + s * (np.log(ceiling) + LOG_P) + f * log_rest
        logs = logs - special.xlogy(s, s / n) - special.xlogy(f, f / n)
        total = special.logsumexp(logs)
        marginals.append(total + np.log(FINE[1] - FINE[0]))
        misses.append(np.exp(special.logsumexp(logs + FAR * log_rest) - total))
    return np.array(marginals), np.array(misses)


def single(*values):
    return [jnp.asarray(value, jnp.float32) for value in values]


def computed(name, parameters, attempts=FAR, successes=SUCCESSES, failures=FAILURES):
    """Log marginal and miss by the family, in float32."""

    @jax.jit
    def both(x, s, f, attempts):
        return FAMILIES[name].log_marginal(x, s, f), FAMILIES[name].miss(x, s, f, attempts)

    return (np.asarray(value) for value in both(*single(parameters, successes, failures, attempts)))


@pytest.mark.parametrize("kind", LAWS)
def test_quadrature_is_the_integral(kind):
    name, parameters, log_density, ceiling = LAWS[kind]
    marginal, miss = integrated(log_density, ceiling)
    got_marginal, got_miss = computed(name, parameters)
    np.testing.assert_allclose(got_marginal, marginal, atol=2e-3, rtol=5e-4)
    # Counts that exclude a law (less likely by e^-100 than their own share) have no say in its miss either.
    possible = marginal > -100
    assert possible.sum() >= 11
    np.testing.assert_allclose(got_miss[possible], miss[possible], atol=1e-3)


def test_the_beta_law_and_never_solved_problems_in_closed_form():
    a, b, never = 0.3, 7.0, 0.25
    n = SUCCESSES + FAILURES
    saturated = special.xlogy(SUCCESSES, SUCCESSES / np.maximum(n, 1))
    saturated = saturated + special.xlogy(FAILURES, FAILURES / np.maximum(n, 1))
    whole = special.betaln(a + SUCCESSES, b + FAILURES) - special.betaln(a, b)
    miss = np.exp(special.betaln(a + SUCCESSES, b + FAILURES + FAR) - special.betaln(a + SUCCESSES, b + FAILURES))
    parameters = [np.log(a), np.log(b), logit(never)]
    got_marginal, got_miss = computed("beta", parameters[:2])
    np.testing.assert_allclose(got_marginal, whole - saturated, atol=1e-4, rtol=1e-5)
    np.testing.assert_allclose(got_miss, miss, atol=1e-4)
    mixed = (1 - never) * np.exp(whole - saturated) + never * (SUCCESSES == 0)
    share = np.where(SUCCESSES == 0, never / mixed, 0)
    got_marginal, got_miss = computed("zero_inflated", parameters)
    np.testing.assert_allclose(got_marginal, np.log(mixed), atol=1e-4, rtol=1e-5)
    np.testing.assert_allclose(got_miss, share + (1 - share) * miss, atol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_no_law_does_better_than_the_best_there_can_be(name):
    # The narrower a law, the likelier that it falls upon a node: 400 draws from a prior far wider than the family's.
    family = FAMILIES[name]
    rng = np.random.default_rng(3)
    points = np.asarray(family.centre) + 4 * np.asarray(family.scale) * rng.normal(size=(400, len(family.centre)))
    x, s, f = single(np.clip(points, -12, 12), SUCCESSES, FAILURES)
    got = np.asarray(jax.jit(jax.vmap(lambda one: family.log_marginal(one, s, f)))(x))
    assert not np.isnan(got).any()
    assert got.max() < 0.1 + 1e-3  # a total mass is let be within a tenth of 1


def test_natural_parameters():
    for name, family in FAMILIES.items():
        got = np.asarray(family.natural(jnp.asarray([family.centre] * 2)))
        assert got.shape == (2, len(family.parameters)), name
    got = np.asarray(FAMILIES["scaled_beta"].natural(jnp.asarray([np.log(0.3), np.log(5.0), logit(0.2)])))
    assert got == pytest.approx([0.3, 5.0, 0.2], rel=1e-5)


# --- fits

PROBLEMS, TRIALS, AT = 400, 60, (1, 60, 6_000)
TRUTHS = {
    "kumaraswamy": lambda rng: (1 - rng.uniform(size=PROBLEMS) ** (1 / 3.0)) ** (1 / 0.4),
    "scaled_beta": lambda rng: 0.3 * rng.beta(0.4, 1.0, PROBLEMS),
    "logit_normal": lambda rng: special.expit(rng.normal(-3, 2.0, PROBLEMS)),
    "two_piece": lambda rng: special.expit(
        -2 + np.where(rng.uniform(size=PROBLEMS) < 1.35 / 1.75, -rng.exponential(1 / 0.4, PROBLEMS),
                      rng.exponential(1 / 1.35, PROBLEMS))
    ),
    "zero_inflated": lambda rng: rng.beta(0.6, 3.0, PROBLEMS) * (rng.uniform(size=PROBLEMS) > 0.3),
    "beta": lambda rng: rng.beta(0.3, 6.0, PROBLEMS),
}  # fmt: skip
NATURAL = {
    "kumaraswamy": (0.4, 3.0), "scaled_beta": (0.4, 1.0, 0.3), "logit_normal": (-3.0, 2.0),
    "two_piece": (0.4, 1.35, -2.0), "zero_inflated": (0.6, 3.0, 0.3), "beta": (0.3, 6.0),
}  # fmt: skip


@pytest.fixture(scope="module")
def found():
    """All families fitted to data of the beta law."""
    rng = np.random.default_rng(11)
    theta = TRUTHS["beta"](rng)
    return tail_sensitivity(rng.binomial(TRIALS, theta), TRIALS, at=AT, key=1)


@pytest.fixture(scope="module")
def recovered():
    """By family, the fit of data that it made, and the truth at `AT`."""
    result = {}
    for number, (name, truth) in enumerate(TRUTHS.items()):
        rng = np.random.default_rng(20 + number)
        theta = truth(rng)
        fit = tail_sensitivity(rng.binomial(TRIALS, theta), TRIALS, at=AT, families=[name], key=number)
        result[name] = fit, np.array([1 - np.mean((1 - theta) ** n) for n in AT])
    return result


@pytest.mark.calibration
@pytest.mark.parametrize("name", TRUTHS)
def test_a_family_finds_what_it_made(recovered, name):
    fit, truth = recovered[name]
    draws = fit.parameters[name]
    assert draws.shape == (256, len(NATURAL[name]))
    z = (draws.mean(axis=0) - NATURAL[name]) / draws.std(axis=0)
    # 14 parameters and 18 coverages, fixed seeds: 4 posterior sd, false alarm 2e-3; ends of 256 draws are Monte Carlo.
    assert np.abs(z).max() < 4, z
    pass_at = fit.draws["pass_at"][:, 0]
    assert np.abs((pass_at.mean(axis=0) - truth) / (pass_at.std(axis=0) + 1e-4)).max() < 4
    assert fit.ess[name] > 100


def test_families_agree_on_the_attempts_made_and_not_beyond(found):
    table = found.table()
    assert list(table.index) == list(FAMILIES)
    assert table.index.name == "family"
    # With 400 problems and 60 attempts the logit-normal's light tail shows in its likelihood; the others' does not.
    others = table.drop(index="logit_normal")
    assert np.ptp(others["log_likelihood"]) < 6
    assert table["log_likelihood"]["logit_normal"] < others["log_likelihood"].min()
    # Within the posterior's own spread of each other (an interval is 0.04 wide) where attempts were made; not beyond.
    assert np.ptp(others["pass@60"]) < 0.04
    assert np.ptp(others["pass@6000"]) > 0.05
    for n in AT:
        assert (table[f"lower@{n}"] <= table[f"pass@{n}"]).all()
        assert (table[f"pass@{n}"] <= table[f"upper@{n}"]).all()
    low, high = found.span
    np.testing.assert_allclose(low, table[[f"pass@{n}" for n in AT]].min())
    np.testing.assert_allclose(high, table[[f"pass@{n}" for n in AT]].max())


def test_results_plot_summarise_and_compare_in_arviz(found):
    assert isinstance(found.plot_tails(), Figure)
    summary = found.summary()
    assert f"pass_at[logit_normal, {AT[-1]}]" in summary.index
    assert len(summary) == len(FAMILIES) * len(AT)
    arviz = importlib.import_module("arviz")
    data = found.to_arviz()
    loo = arviz.loo(data, var_name="beta")
    assert np.isfinite(loo.elpd_loo if hasattr(loo, "elpd_loo") else loo.elpd)
    assert data["log_likelihood"]["kumaraswamy"].shape == (4, 64, PROBLEMS)


def test_the_same_key_gives_the_same_whatever_else_is_fitted(found):
    rng = np.random.default_rng(11)
    successes = rng.binomial(TRIALS, TRUTHS["beta"](rng))
    alone = tail_sensitivity(successes, TRIALS, at=AT, families=("beta",), key=1)
    np.testing.assert_array_equal(alone.draws["pass_at"][:, 0], found.draws["pass_at"][:, 0])
    np.testing.assert_array_equal(alone.log_likelihood["beta"], found.log_likelihood["beta"])


def test_log_likelihoods_are_those_of_the_counts(found):
    alpha, beta_ = found.parameters["beta"][:5].astype(np.float64).T
    successes = found.observed["successes"]
    want = stats.betabinom.logpmf(successes, TRIALS, alpha[:, None], beta_[:, None])
    np.testing.assert_allclose(found.log_likelihood["beta"][:5], want, atol=1e-3)


def test_tables_of_many_pairs_are_thinned_evenly(monkeypatch):
    assert tails._MOST_PAIRS == 512
    monkeypatch.setattr(tails, "_MOST_PAIRS", 32)  # the shapes of `found`, which are compiled
    successes = np.repeat(np.arange(700), 2)
    thinned = tail_sensitivity(successes, 10_000, at=AT, families=["beta"])
    kept = thinned.observed["successes"]
    assert len(np.unique(kept)) == 32
    # Sorted by difficulty, and yet all of it is seen: the mean within 4 sd of a draw without replacement.
    assert abs(kept.mean() - successes.mean()) < 4 * successes.std() / np.sqrt(len(kept))
    assert thinned.to_arviz()["log_likelihood"]["beta"].shape[-1] == len(kept)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"at": [1], "families": ["beta", "gamma"]}, r"families: some of beta.*got \['gamma'\]"),
        ({"at": [1], "families": []}, "families: some of .* got none"),
        ({"at": [0, 5]}, r"at: numbers of attempts from 1 to 10\^7 are wanted, got \[0\]"),
        ({"at": [10**7 + 1]}, "at: numbers of attempts"),
        ({"at": []}, "at: .* got none"),
        ({"at": [1], "rule": "often"}, "rule: fixed"),
    ],
)
def test_bad_input_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        tail_sensitivity([1, 2], 5, **options)


def test_unknown_family_of_a_result(found):
    with pytest.raises(ValueError, match="family: one of beta, .* got 'gamma'"):
        found.pass_at("gamma")


def test_nodes_reach_as_far_as_they_say():
    _, parameters, log_density, _ = LAWS["two-piece"]
    _, got = computed("two_piece", parameters, quadrature.MOST_ATTEMPTS, [0.0], [1000.0])
    logs = log_density + 1000 * LOG_Q
    want = np.exp(special.logsumexp(logs + quadrature.MOST_ATTEMPTS * LOG_Q) - special.logsumexp(logs))
    assert got[0] == pytest.approx(want, rel=2e-2)
