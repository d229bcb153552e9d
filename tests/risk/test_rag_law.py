import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ppl.risk.rag_law import (
    COEFFICIENTS,
    GEMINI_FLASH,
    GEMINI_SIGMOID,
    Design,
    Sigmoid,
    effective_context,
    fit_rag_law,
)


def grid(tasks=((0.10, 0.02), (0.25, 0.08), (0.05, 0.15)), steps=(1, 2, 5)):
    rows = np.array(
        [(k, m, n, i, j) for (i, j), k, m, n in itertools.product(tasks, (0, 1, 5, 20, 100), (0, 1, 4), steps)]
    )
    return Design(*rows.T)


def simulated(rng, design, noise, link):
    y = design.matrix() @ np.array(list(GEMINI_FLASH.values())) + noise * rng.normal(size=len(design))
    return link(y)


@pytest.mark.parametrize("link", [Sigmoid(), GEMINI_SIGMOID])
def test_published_coefficients_are_recovered(link):
    design = grid()
    fit = fit_rag_law(simulated(np.random.default_rng(0), design, 0.1, link), design, link=link)
    assert fit.unidentified == ()
    for name, truth in GEMINI_FLASH.items():
        # 5 posterior standard deviations: false alarm 1e-6 each.
        assert fit.draws[name].mean() == pytest.approx(truth, abs=5 * fit.draws[name].std())
    assert fit.r_squared > 0.95
    assert fit.plot_fit().axes


def test_posterior_is_regressions_t():
    design = grid(steps=(1, 2))
    score = simulated(np.random.default_rng(1), design, 0.4, Sigmoid())
    fit = fit_rag_law(score, design, draws=20_000)
    x, y = design.matrix(), np.log(score / (1 - score))
    beta, rss, *_ = np.linalg.lstsq(x, y, rcond=None)
    freedom = len(y) - 6
    for j, name in enumerate(COEFFICIENTS):
        scale = np.sqrt(rss[0] / freedom * np.linalg.inv(x.T @ x)[j, j])
        # Kolmogorov's distance at 20,000 draws is above 0.0163 with chance 4e-5.
        assert stats.kstest(fit.draws[name], stats.t(freedom, beta[j], scale).cdf).statistic < 0.0163
    assert fit.mse == pytest.approx(rss[0] / len(y))


def test_intervals_cover_coefficients_and_predictions():
    # 20 runs of five coefficients: small enough that the t matters.
    rng = np.random.default_rng(2)
    tasks = rng.uniform(0, 0.3, (20, 2))
    design = Design(rng.integers(1, 50, 20), rng.integers(0, 8, 20), rng.integers(1, 5, 20), *tasks.T)
    new = Design(np.array([30]), np.array([2]), np.array([2]), 0.1, 0.1)
    truth = float(Sigmoid()(new.matrix() @ np.array(list(GEMINI_FLASH.values())))[0])
    hits = []
    for seed in range(300):
        fit = fit_rag_law(simulated(rng, design, 0.5, Sigmoid()), design, draws=1000, key=seed)
        intervals = [(fit.estimate("a_documents").interval, GEMINI_FLASH["a_documents"])]
        prediction = fit.predict(new).interval
        intervals.append(((prediction.lower[0], prediction.upper[0]), truth))
        hits.append([lower <= value <= upper for (lower, upper), value in intervals])
    # Exact but for 1,000 draws' ends (0.1%): 3.5 binomial standard errors, false alarm 5e-4 each.
    assert np.mean(hits, axis=0) == pytest.approx([0.9, 0.9], abs=3.5 * np.sqrt(0.09 / 300) + 0.002)


def test_what_the_runs_do_not_show_is_said_and_refused():
    one_task = grid(tasks=((0.1, 0.02),), steps=(1,))
    fit = fit_rag_law(simulated(np.random.default_rng(3), one_task, 0.1, Sigmoid()), one_task)
    assert fit.unidentified == ("a_steps", "b_documents", "b_shots")
    same = Design(np.array([7]), np.array([2]), np.array([1]), 0.1, 0.02)
    assert fit.predict(same).mean == pytest.approx(
        Sigmoid()(same.matrix() @ np.array(list(GEMINI_FLASH.values()))), abs=0.05
    )
    with pytest.raises(ValueError, match="design: configuration 0 depends on a_steps"):
        fit.predict(Design(np.array([7]), np.array([2]), np.array([2]), 0.1, 0.02))
    with pytest.raises(ValueError, match="configuration 1 depends on b_documents"):
        fit.predict(Design(np.array([7, 7]), np.array([2, 2]), np.array([1, 1]), np.array([0.1, 0.3]), 0.02))


def test_log_likelihood_is_of_scores_and_serves_loo():
    design, link = grid(), Sigmoid(height=2.0, slope=1.5, centre=0.3, floor=-0.5)
    score = simulated(np.random.default_rng(4), design, 0.3, link)
    fit = fit_rag_law(score, design, link=link, draws=1000)
    # The density of a score by a numerical derivative of the distribution of the score.
    mean = np.stack([fit.draws[name][0] for name in COEFFICIENTS]) @ design.matrix()[5]
    step = 1e-5
    upper, lower = (stats.norm.cdf(link.inverse(score[5] + s), mean, fit.draws["noise"][0]) for s in (step, -step))
    assert fit.log_likelihood["score"][0, 5] == pytest.approx(np.log((upper - lower) / (2 * step)), abs=1e-4)
    assert fit.to_arviz()["log_likelihood"]["score"].shape == (4, 250, len(design))


def test_allocation_is_the_best_affordable_configuration():
    design = grid()
    fit = fit_rag_law(simulated(np.random.default_rng(5), design, 0.05, Sigmoid()), design)
    task = Design(*(np.asarray(x) for x in (design.documents, design.shots, design.steps)), 0.1, 0.02)
    lengths = effective_context(task)
    for budget in (10_000, 100_000, 1_000_000):
        chosen = fit.allocate(task, lengths, budget)
        truth = task.matrix() @ np.array(list(GEMINI_FLASH.values()))
        inside = lengths <= budget
        picked = (task.documents == chosen.documents) & (task.shots == chosen.shots) & (task.steps == chosen.steps)
        assert truth[picked].max() == pytest.approx(truth[inside].max(), abs=0.05)
        assert chosen.tokens <= budget
        assert 0 < chosen.probability_best <= 1
        assert not chosen.extrapolates
    with pytest.raises(ValueError, match="budget: the shortest configuration takes 64 tokens, more than 10"):
        fit.allocate(task, lengths, 10)


def test_extrapolation_is_marked():
    design = grid()
    fit = fit_rag_law(simulated(np.random.default_rng(6), design, 0.1, Sigmoid()), design)
    new = Design(np.array([50, 500]), np.array([2, 2]), np.array([1, 1]), 0.1, 0.05)
    assert fit.extrapolates(new).tolist() == [False, True]


def test_effective_context_counts_each_step():
    design = Design(np.array([2, 3]), np.array([1, 0]), np.array([2, 1]))
    # Two steps: the shot (2 documents and its question) twice, the question twice, 2 then 4 documents.
    assert effective_context(design, document_tokens=10, query_tokens=1) == pytest.approx([2 * 21 + 2 + 20 + 40, 31])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: fit_rag_law(np.array([0.5, 1.0]), Design(*np.ones((3, 2)))),
            r"score: run 1 has 1; numbers inside \(0, 1\)",
        ),
        (
            lambda: fit_rag_law(np.array([0.5]), Design(*np.ones((3, 2)))),
            "score: one for each of 2 runs is wanted, got 1",
        ),
        (lambda: fit_rag_law(np.array([0.5]), Design(*np.ones((3, 1)))), "score: more than 1 runs are wanted"),
        (lambda: Design(np.array([1]), np.array([-1]), np.array([1])), "shots: one number from 0 up"),
        (lambda: Design(np.array([1]), np.array([1]), np.array([1]), np.nan), "i_doc: one finite number"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_arrays_of_jax_are_taken():
    assert len(Design(jnp.ones(3), jnp.ones(3), jnp.ones(3))) == 3
