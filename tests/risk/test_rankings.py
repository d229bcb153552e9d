from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from ppl.intervals import mean_interval
from ppl.risk.rankings import rank_counts, rank_draws, rank_levels, rank_scores

SCORES = Path(__file__).resolve().parents[2] / "examples" / "data" / "judge-scores-mtbench" / "scores.csv"


def test_ranks_probabilities_and_ties_by_hand():
    fit = rank_draws(np.array([[3.0, 1.0, 2.0], [1.0, 1.0, 0.0], [2.0, 2.0, 2.0], [0.0, 5.0, 1.0]]), ["a", "b", "c"])
    assert fit.draws["rank"].tolist() == [[1, 3, 2], [1.5, 1.5, 3], [2, 2, 2], [3, 1, 2]]
    assert fit.probability_best.tolist() == pytest.approx([(1 + 1 / 2 + 1 / 3) / 4, (1 / 2 + 1 / 3 + 1) / 4, 1 / 12])
    above = fit.probability_above
    assert above.loc["a", "b"] == pytest.approx((1 + 0.5 + 0.5 + 0) / 4)
    assert np.diag(above).tolist() == [0.5] * 3
    assert (above + above.T).to_numpy() == pytest.approx(np.ones((3, 3)))
    places = fit.rank_distribution
    assert places.loc["a"].tolist() == pytest.approx([(1 + 1 / 2 + 1 / 3) / 4, (1 / 2 + 1 / 3) / 4, (1 / 3 + 1) / 4])
    assert places.sum(axis=0).tolist() == pytest.approx([1, 1, 1])
    assert fit.table(0.5).loc["a", ["lower", "upper"]].tolist() == [1.0, 3.0]
    assert list(fit.table().index) == ["a", "b", "c"]


@given(
    draws=st.lists(st.lists(st.integers(0, 3), min_size=4, max_size=4), min_size=1, max_size=20),
    level=st.floats(0.1, 0.95),
)
def test_every_draw_is_a_ranking_and_the_interval_holds_its_level(draws, level):
    fit = rank_draws(np.array(draws, dtype=float), ["a", "b", "c", "d"])
    assert fit.draws["rank"].sum(axis=1) == pytest.approx(10.0)  # 1 + 2 + 3 + 4, ties or not
    assert fit.rank_distribution.to_numpy().sum(axis=1) == pytest.approx(1)
    assert fit.rank_distribution.to_numpy().sum(axis=0) == pytest.approx(1)
    assert fit.rank_distribution.to_numpy() @ [1, 2, 3, 4] == pytest.approx(fit.draws["rank"].mean(axis=0))
    table = fit.table(level).loc[["a", "b", "c", "d"]]
    inside = (fit.draws["rank"] >= table["lower"].to_numpy()) & (fit.draws["rank"] <= table["upper"].to_numpy())
    assert (inside.mean(axis=0) >= level - 1e-12).all()


@pytest.mark.parametrize("key", [0, 1, 2])
def test_counts_give_the_exact_probability_of_being_above(key):
    fit = rank_counts(np.array([17, 9]), np.array([20, 15]), ["a", "b"], key=key)
    a, b = stats.beta(17.5, 3.5), stats.beta(9.5, 6.5)
    exact = integrate.quad(lambda x: a.pdf(x) * b.cdf(x), 0, 1)[0]
    # 4.5 standard errors at 10,000 draws: false alarm 7e-6.
    assert fit.probability_above.loc["a", "b"] == pytest.approx(exact, abs=4.5 * np.sqrt(exact * (1 - exact) / 10_000))


def test_no_trials_and_all_zeros_stay_uncertain():
    fit = rank_counts(np.array([0, 0, 5]), np.array([0, 5, 5]), ["new", "zeros", "ones"])
    assert fit.probability_above.loc["new", "zeros"] > 0.8
    assert 0.5 < fit.probability_above.loc["ones", "new"] < 0.99
    assert (fit.table().loc["new", ["lower", "upper"]] == [1, 3]).all()


def test_levels_have_dirichlet_means():
    fit = rank_levels(
        np.array([[3, 0, 7], [1, 1, 1]]), ["a", "b"], values=(1, 2, 4), prior=(1.0, 1.0, 0.5), draws=40_000
    )
    share = np.array([4.0, 1.0, 7.5]) / 12.5
    values = np.array([1, 2, 4])
    variance = (share @ values**2 - (share @ values) ** 2) / 13.5
    # 5 standard errors, false alarm 6e-7.
    assert fit.draws["score"][:, 0].mean() == pytest.approx(share @ values, abs=5 * np.sqrt(variance / 40_000))
    assert fit.draws["score"][:, 0].var() == pytest.approx(variance, rel=0.05)


def test_a_bounded_bootstrap_has_the_margin_of_mean_interval():
    values = np.array([1.0] * 12 + [0.0] * 3)
    fit = rank_scores(np.stack([values, 1 - values], axis=1), ["a", "b"], bounds=(0, 1), draws=40_000)
    # An end moves by sqrt(.05 * .95 / 40000) / density = 7e-4 on either side; 5 of both.
    assert fit.estimate("score", 0.9).interval.lower[0] == pytest.approx(
        mean_interval(values, bounds=(0, 1)).lower, abs=0.01
    )


def test_repeats_of_a_question_are_not_more_questions():
    rng = np.random.default_rng(0)
    once = rng.integers(1, 6, size=(30, 2)).astype(float)
    assert rank_scores(np.repeat(once[:, :, None], 5, axis=2), ["a", "b"]).draws["score"] == pytest.approx(
        rank_scores(once, ["a", "b"]).draws["score"]
    )


def test_pairing_is_kept():
    # b is a, minus a little on every question, whose difficulties differ much: on the same questions a is surely above.
    difficulty = np.random.default_rng(0).normal(size=40)
    fit = rank_scores(np.stack([difficulty, difficulty - 0.1], axis=1), ["a", "b"])
    assert fit.probability_above.loc["a", "b"] == 1
    assert fit.draws["score"].std(axis=0).min() > 0.1


def test_candidates_alike_on_all_questions_tie_or_differ_with_bounds():
    table = np.ones((20, 2))
    assert rank_scores(table, ["a", "b"]).probability_above.loc["a", "b"] == 0.5
    bounded = rank_scores(table, ["a", "b"], bounds=(0, 1))
    assert bounded.draws["score"][:, 0].std() > 0.01
    assert bounded.probability_above.loc["a", "b"] == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("route", ["counts", "scores"])
def test_coverage_of_rank_intervals(route):
    # Five candidates near each other, so that ranks are uncertain; accuracies from the prior of the counts' posterior.
    rng = np.random.default_rng(11)
    names, repeats, level = list("abcde"), 200, 0.8
    inside, widths = [], []
    for key in range(repeats):
        if route == "counts":
            truth = rng.beta(0.5, 0.5, 5)
            fit = rank_counts(rng.binomial(8, truth), np.full(5, 8), names, key=key, draws=400)
        else:
            skill = 0.3 * rng.normal(size=5)
            truth, hard = skill, rng.normal(size=(60, 1))
            fit = rank_scores(skill + hard + rng.normal(size=(60, 5)), names, key=key, draws=400)
        table = fit.table(level).loc[names]
        rank = 5 - truth.argsort().argsort()
        inside.append((table["lower"].to_numpy() <= rank) & (rank <= table["upper"].to_numpy()))
        widths.append((table["upper"] - table["lower"]).mean())
    # Discrete intervals hold at least their level on average over the prior; 1,000 ranks, correlated in fives, standard
    # error below 0.02; 4 of them, false alarm 3e-5. An interval of everything would cover, too: it is not that.
    assert np.mean(inside) > level - 0.08
    assert np.mean(widths) < 2.5


def test_mt_bench_scores():
    frame = pd.read_csv(SCORES)
    names = sorted(frame["response_source"].unique())
    table = np.stack(
        [
            frame[frame["response_source"] == name]
            .sort_values("question_idx")[["score_1", "score_2", "score_3"]]
            .to_numpy()
            for name in names
        ],
        axis=1,
    )
    assert table.shape == (80, 4, 3)
    means = dict(zip(names, table.mean(axis=(0, 2)), strict=True))
    assert means == pytest.approx(
        {"chatgpt": 3.8167, "llama2_chat_13b": 3.4792, "wizardlm_13b": 3.3917, "vicuna_13b": 3.2667}, abs=5e-5
    )
    fit = rank_scores(table, names, bounds=(1, 5))
    assert list(fit.table().index) == ["chatgpt", "llama2_chat_13b", "wizardlm_13b", "vicuna_13b"]
    assert fit.probability_best["chatgpt"] > 0.95
    # The other three are not in order with certainty, whatever the means say.
    assert 0.6 < fit.probability_above.loc["llama2_chat_13b", "wizardlm_13b"] < 0.9


def test_results_export_and_plot(tmp_path):
    fit = rank_counts(np.array([8, 5, 1]), np.array([10, 10, 10]), ["a", "b", "c"], draws=1000)
    assert "rank[b]" in fit.summary().index
    assert fit.to_arviz()["posterior"]["rank"].sizes["candidate"] == 3
    fit.plot_ranks().savefig(tmp_path / "ranks.png")
    assert (
        rank_counts(np.array([8, 5, 1]), np.array([10, 10, 10]), ["a", "b", "c"], draws=1000).draws["rank"]
        == fit.draws["rank"]
    ).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rank_draws(np.zeros((0, 1)), ["a"]), "scores: at least one draw"),
        (lambda: rank_draws(np.array([[0.0, np.nan]]), ["a", "b"]), "draw 0 of candidate 'b' is nan"),
        (lambda: rank_draws(np.zeros((1, 2)), ["a", "a"]), "names: one unique name for each of 2"),
        (lambda: rank_counts(np.array([3]), np.array([2]), ["a"]), "successes: candidate 'a' has 3 of 2"),
        (lambda: rank_counts(np.array([3]), np.array([4, 4]), ["a"]), "trials: one for each of 1"),
        (lambda: rank_levels(np.array([[1, -1]]), ["a"], values=(0, 1)), "candidate 'a' has -1 at level 1"),
        (lambda: rank_levels(np.array([[1, 1]]), ["a"], values=(0,)), "values: one for each of 2 levels"),
        (lambda: rank_levels(np.array([[1, 1]]), ["a"], values=(0, 1), prior=0.0), "prior: pseudo-counts"),
        (lambda: rank_scores(np.array([[1.0, 2.0]]), ["a", "b"]), "at least two questions"),
        (lambda: rank_scores(np.array([[1.0], [9.0]]), ["a"], bounds=(0, 5)), "question 1, candidate 'a' has 9.0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
