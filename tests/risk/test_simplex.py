import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ppl.risk.judge_gibbs import ordered
from ppl.risk.simplex import PRIORS, JudgePrior, judge_sensitivity, judged_levels

SCORES = Path(__file__).resolve().parents[2] / "examples" / "data" / "judge-scores-mtbench" / "scores.csv"


def quietly(*arguments, **options):
    """Where the warnings are not the point."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return judged_levels(*arguments, **options)


def items(counts, levels):
    """Scores of one judge and their candidates, from counts [candidates, levels]."""
    owner, given = np.nonzero(counts)
    times = np.asarray(counts)[owner, given]
    return np.repeat(np.asarray(levels)[given], times)[:, None], np.repeat([f"c{i}" for i in owner], times).tolist()


def test_two_levels_are_those_of_quadrature():
    # One candidate, 9 of 12 scored 1: integrate over share and the two rows on a grid.
    prior = JudgePrior(agreement=0.7, strength=5.0)
    nodes = (np.arange(120) + 0.5) / 120
    share, low, high = np.meshgrid(nodes, nodes, nodes, indexing="ij")  # low, high: chance of a 1 for a true 0 and 1
    seen = share * high + (1 - share) * low
    density = stats.beta(1.5, 3.5).pdf(low) * stats.beta(3.5, 1.5).pdf(high) * (high >= low) * seen**9 * (1 - seen) ** 3
    density /= density.sum()
    mean = (density * share).sum()
    sd = np.sqrt((density * (share - mean) ** 2).sum())
    fit = quietly(*items([[3, 9]], [0, 1]), levels=[0, 1], prior=prior, draws=20_000)
    # Draws of a chain are dependent: 0.1 of the sd is 5 standard errors from 2,500 independent ones.
    assert fit.draws["score"].mean() == pytest.approx(mean, abs=0.1 * sd)
    assert fit.draws["score"].std() == pytest.approx(sd, rel=0.1)
    assert fit.draws["confusion"][:, 0, 1, 1].mean() == pytest.approx((density * high).sum(), abs=0.02)


def test_without_items_of_a_level_the_prior_is_left():
    prior = JudgePrior(agreement=0.6, strength=8.0, monotone=False)
    base = prior.counts(3)
    assert base.sum(axis=1) == pytest.approx(8.0)
    assert np.diag(base) == pytest.approx(4.8)
    fit = quietly(*items([[1, 0, 0]], [1, 2, 3]), levels=[1, 2, 3], prior=prior, draws=20_000)
    # One item scored 1 weighs the prior's draws by how probable they make it.
    rng = np.random.default_rng(0)
    share, rows = rng.dirichlet(np.ones(3), 100_000), np.stack([rng.dirichlet(row, 100_000) for row in base], axis=1)
    weight = (share * rows[:, :, 0]).sum(axis=1)
    assert fit.draws["share"][:, 0].mean(axis=0) == pytest.approx((weight @ share) / weight.sum(), abs=0.02)
    assert fit.draws["confusion"][:, 0].mean(axis=0) == pytest.approx(
        np.tensordot(weight, rows, axes=1) / weight.sum(), abs=0.02
    )


@pytest.mark.parametrize("judges", [1, 2])
def test_coverage_over_the_prior(judges):
    # Truth from the prior that the posterior has; ordered rows by rejection, as the prior says.
    rng = np.random.default_rng(judges)
    prior, values, inside, below = JudgePrior(strength=6.0), np.array([0.0, 1.0, 2.0]), [], []
    for key in range(25):
        rows = []
        while len(rows) < judges:
            drawn = np.stack([rng.dirichlet(row) for row in prior.counts(3)])
            rows += [drawn] if ordered(drawn) else []
        share = rng.dirichlet(np.ones(3), 3)
        true = [rng.choice(3, 20, p=one) for one in share]
        scores = np.array([[rng.choice(3, p=row[level]) for row in rows] for one in true for level in one])
        fit = quietly(
            scores, np.repeat(["a", "b", "c"], 20).tolist(), levels=[0, 1, 2], prior=prior, key=key, draws=400
        )
        score = share @ values
        lower, upper = fit.estimate("score", 0.8).interval
        inside.append((lower <= score) & (score <= upper))
        below.append(np.mean(fit.draws["score"] < score, axis=0))
    # 75 scores, correlated in threes: a standard error of at most 0.08 as if 25, and of 0.046 as if 75; 3 of the first.
    assert np.mean(inside) == pytest.approx(0.8, abs=0.16)
    assert np.mean(below) == pytest.approx(0.5, abs=0.17)  # uniform: 0.289 / 5, 3 of these


def test_two_levels_show_the_order_whatever_the_prior():
    scores, names = items([[60, 120], [85, 95]], [0, 1])
    above = judge_sensitivity(
        scores, names, levels=[0, 1], priors={name: PRIORS[name] for name in ("default", "sharp", "blunt")}, draws=400
    ).probability_above
    # The shares seen leave 0.996; a prior takes some of it, as long as items are few, and never turns it.
    assert above.loc[("c0", "c1"), "least"] > 0.9
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit = judged_levels(scores, names, levels=[0, 1], draws=400)
    assert fit.identified
    assert not fit.warnings
    # Shares themselves are the prior's: a sharp judge means that what was seen is so.
    assert fit.draws["score"].std(axis=0).min() > 0.04


def test_three_levels_do_not():
    # A gets the middle only, B the ends with more at the top. A judge that gives the middle to what is low makes A low;
    # one that gives it to what is high makes A high. No number of items tells which it is.
    scores, names = items([[0, 200, 0], [90, 0, 110]], [0, 1, 2])
    middle_is = {
        "low": np.array([[[5, 95, 0], [5, 90, 5], [0, 5, 95]]]),
        "high": np.array([[[95, 5, 0], [5, 90, 5], [0, 95, 5]]]),
    }
    best = {}
    for name, labels in middle_is.items():
        fit = quietly(scores, names, levels=[0, 1, 2], prior=JudgePrior(monotone=False), labelled=labels, draws=200)
        assert fit.identified  # by the labels
        best[name] = fit.draws["score"][:, 0].mean()
    assert best["high"] - best["low"] > 0.1
    with pytest.warns(UserWarning, match="the order of candidates rests, with 3 levels, on the prior of the judge"):
        fit = judged_levels(*items([[10, 30, 10], [20, 10, 20]], [0, 1, 2]), levels=[0, 1, 2], draws=400)
    assert not fit.identified


def test_partial_judges_and_three_judges_have_warnings_of_their_own():
    scores, names = items([[20, 30], [25, 25]], [0, 1])
    with pytest.warns(UserWarning, match="treat candidates differently"):
        fit = judged_levels(scores, names, levels=[0, 1], prior=JudgePrior(constant=False), draws=200)
    assert fit.draws["confusion"].shape == (200, 1, 2, 2, 2)
    three = np.random.default_rng(0).integers(1, 4, size=(40, 3))
    with pytest.warns(UserWarning, match="judges erring independently"):
        fit = judged_levels(three, ["a", "b"] * 20, levels=[1, 2, 3], draws=200)
    assert fit.draws["confusion"].shape == (200, 3, 3, 3)


def test_labelled_items_teach_the_judge():
    labels = np.array([[[180, 20, 0], [60, 120, 20], [0, 40, 160]]])
    scores, names = items([[80, 60, 60]], [0, 1, 2])
    fit = quietly(scores, names, levels=[0, 1, 2], labelled=labels, draws=400)
    assert fit.identified
    assert fit.draws["confusion"][:, 0].mean(axis=0) == pytest.approx(labels[0] / 200, abs=0.04)
    # Shares seen are a third or so each; solved for the true ones.
    expected = np.array([0.4, 0.3, 0.3]) @ np.linalg.inv(labels[0] / 200)
    assert fit.draws["share"][:, 0].mean(axis=0) == pytest.approx(expected, abs=0.08)


def test_repeated_bias_is_not_truth_for_one_judge():
    frame = pd.read_csv(SCORES)
    fit = quietly(frame[["score_1"]].to_numpy(), frame["response_source"].tolist(), levels=[1, 2, 3, 4, 5], draws=400)
    assert fit.names == tuple(frame["response_source"].unique())
    assert fit.ranking.table().index[0] == "chatgpt"
    assert fit.ranking.probability_best["chatgpt"] > 0.75


def test_likelihood_of_items_and_export(tmp_path):
    scores, names = items([[3, 4, 2], [1, 1, 5]], [1, 2, 3])
    fit = quietly(scores, names, levels=[1, 2, 3], draws=40)
    share, confusion = fit.draws["share"], fit.draws["confusion"][:, 0]
    owner, given = [int(name[1]) for name in names], scores[:, 0] - 1
    expected = np.log(np.einsum("dim,dmi->di", share[:, owner], confusion[:, :, given]))
    assert fit.log_likelihood["verdict"] == pytest.approx(expected, abs=1e-5)
    assert fit.to_arviz()["log_likelihood"]["verdict"].shape == (4, 10, 16)
    assert "score[c1]" in fit.summary().index
    fit.plot_confusion().savefig(tmp_path / "confusion.png")
    assert ordered(confusion).all()
    several = judge_sensitivity(scores, names, levels=[1, 2, 3], draws=40)
    assert several.table().loc[("sharp", "c0"), "score"] < several.table().loc[("sharp", "c1"), "score"]
    assert "rank[blunt, c0]" in several.summary().index
    assert several.to_arviz()["posterior"]["score"].shape == (4, 10, len(PRIORS), 2)
    several.plot_sensitivity().savefig(tmp_path / "sensitivity.png")
    same = quietly(scores, names, levels=[1, 2, 3], draws=40)
    assert (same.draws["score"] == fit.draws["score"]).all()


@pytest.mark.parametrize("levels", [2, 3, 5, 8])
@pytest.mark.parametrize("prior", PRIORS.values())
def test_prior_means_are_ordered(levels, prior):
    counts = prior.counts(levels)
    assert ordered(counts / counts.sum(axis=1, keepdims=True))
    assert (counts > 0).all()


ONE = (np.array([[1], [2]]), ["a", "b"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: judged_levels(*ONE, levels=[1]), "levels: at least two, ascending"),
        (lambda: judged_levels(*ONE, levels=[2, 1]), "levels: at least two, ascending"),
        (lambda: judged_levels(*ONE, levels=[1, 3]), "scores: item 1, judge 0 has 2; levels are .1, 3."),
        (lambda: judged_levels(np.array([[1.0], [np.nan]]), ["a", "b"], levels=[1, 2]), "item 1, judge 0 has nan"),
        (lambda: judged_levels(np.array([[1], [2]]), ["a"], levels=[1, 2]), "candidates: one for each of 2 items"),
        (lambda: judged_levels(np.zeros((0, 1)), [], levels=[1, 2]), "candidates: one for each of 0 items"),
        (lambda: judged_levels(*ONE, levels=[1, 2], labelled=np.ones((2, 2, 2), int)), "labelled: counts from 0 up"),
        (lambda: judged_levels(*ONE, levels=[1, 2], labelled=-np.ones((1, 2, 2), int)), "labelled: .* least -1"),
        (lambda: judged_levels(*ONE, levels=[1, 2], draws=0), "draws: at least 1"),
        (lambda: judge_sensitivity(*ONE, levels=[1, 2], priors={}), "priors: at least one"),
        (lambda: JudgePrior(agreement=1.0), "agreement: must be in"),
        (lambda: JudgePrior(decay=0.0), "decay: must be in"),
        (lambda: JudgePrior(strength=0.0), "strength: must be positive"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
