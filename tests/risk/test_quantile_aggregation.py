import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy import optimize, sparse, stats

from ppl.risk.quantile_aggregation import fit_aggregation
from ppl.risk.quantiles import isotonic_quantiles, weighted_interval_score

pytestmark = pytest.mark.runs_long

LEVELS = np.array([0.05, 0.25, 0.5, 0.75, 0.95])


def forecasts(seed, rows=200):
    """Three models of unequal quality: noise, bias and width differ."""
    rng = np.random.default_rng(seed)
    middle = 2 * rng.normal(size=rows)
    y = middle + rng.normal(size=rows)
    kinds = ((0.5, 0.0, 0.6), (1.0, 1.0, 1.2), (1.5, -0.5, 2.0))
    q = [(middle + rng.normal(size=rows) * s + b)[:, None] + w * stats.norm.ppf(LEVELS) for s, b, w in kinds]
    return np.stack(q, axis=1), y


def least_wis(q, y, levels):
    """The optimum over weights shared by levels: a linear programme in the weights and both parts of the error."""
    rows, models, num = q.shape
    eye = sparse.eye(rows * num)
    sums = sparse.hstack([sparse.csr_matrix(q.transpose(0, 2, 1).reshape(-1, models)), eye, -eye])
    total = sparse.csr_matrix(np.concatenate([np.ones(models), np.zeros(2 * rows * num)])[None])
    cost = np.concatenate([np.zeros(models), np.tile(levels, rows), np.tile(1 - levels, rows)]) * 2 / (rows * num)
    solved = optimize.linprog(
        cost, A_eq=sparse.vstack([sums, total]), b_eq=np.append(np.repeat(y, num), 1.0), bounds=(0, None)
    )
    return solved.fun, solved.x[:models]


@pytest.mark.parametrize("seed", [0, 1])
def test_global_weights_reach_the_linear_programme(seed):
    q, y = forecasts(seed)
    best, weights = least_wis(q, y, LEVELS)
    fit = fit_aggregation(q, y, LEVELS, crossing=0.0, draws=1)
    assert weighted_interval_score(fit.predict(q, monotone=None), y, LEVELS).mean() == pytest.approx(best, rel=1e-5)
    assert fit.weights() == pytest.approx(weights, abs=0.002)
    assert fit.weights().sum() == pytest.approx(1)
    assert fit.losses[-1] < fit.losses[0] == pytest.approx(1)


def test_weights_by_level_reach_one_programme_a_level():
    q, y = forecasts(2)
    fit = fit_aggregation(q, y, LEVELS, vary="level", crossing=0.0, draws=1)
    best = np.mean([least_wis(q[:, :, [i]], y, LEVELS[[i]])[0] for i in range(5)])
    assert weighted_interval_score(fit.predict(q, monotone=None), y, LEVELS).mean() == pytest.approx(best, rel=2e-5)
    assert fit.weights().shape == (5, 3)


def test_a_useless_model_gets_no_weight_and_units_do_not_matter():
    # The far model sets the unit of the loss, 20 times too large for the others: 400 steps left 8e-4 of the optimum.
    q, y = forecasts(3)
    q = np.concatenate([q, q[:, :1] + 50], axis=1)
    best, _ = least_wis(q, y, LEVELS)
    fit = fit_aggregation(q, y, LEVELS, draws=1, models=["a", "b", "c", "far"])
    assert weighted_interval_score(fit.predict(q, monotone=None), y, LEVELS).mean() == pytest.approx(best, rel=1e-5)
    # What is left of its weight w costs 50 w in WIS, about 100 times the optimum times w.
    assert fit.weights()[3] < 1e-6
    assert fit.models[3] == "far"
    large = fit_aggregation(1e6 * q + 3e8, 1e6 * y + 3e8, LEVELS, draws=1)  # float32 would not see y in 3e8
    assert large.weights() == pytest.approx(fit.weights(), abs=0.01)


def test_cross_takes_what_single_levels_cannot():
    # One model whose quantiles are all too far out: the combination's outer ones are best made of its inner ones.
    rng = np.random.default_rng(4)
    y = rng.normal(size=300)
    q = np.broadcast_to(2.5 * stats.norm.ppf(LEVELS), (300, 1, 5))
    single, cross = (fit_aggregation(q, y, LEVELS, vary=vary, draws=1) for vary in ("level", "cross"))
    scores = [weighted_interval_score(fit.predict(q), y, LEVELS).mean() for fit in (single, cross)]
    assert scores[1] < 0.9 * scores[0]
    assert cross.weights().shape == (5, 1, 5)
    assert cross.weights().sum(axis=(1, 2)) == pytest.approx(1)


@pytest.mark.parametrize("hidden", [0, 4])
def test_local_weights_follow_the_features(hidden):
    # Model 0 is right where the feature is positive, model 1 elsewhere.
    rng = np.random.default_rng(5)
    feature = rng.normal(size=(400, 1)) * 7 + 3
    y, z = rng.normal(size=400), stats.norm.ppf(LEVELS)
    shift = np.where(feature > 3, 0.0, 4.0)
    q = np.stack([shift + z, 4 - shift + z], axis=1)
    fit = fit_aggregation(q, y, LEVELS, features=feature, hidden=hidden, draws=1)
    weights = fit.weights(np.array([[13.0], [-7.0]]))
    assert weights[0, 0] > 0.95
    assert weights[1, 1] > 0.95
    known = weighted_interval_score(np.broadcast_to(z, (400, 5)), y, LEVELS).mean()
    assert weighted_interval_score(fit.predict(q, feature), y, LEVELS).mean() < 1.1 * known
    assert fit.draws["weights"].shape == (1, 2)


def test_the_penalty_removes_crossings_and_repair_removes_the_rest():
    # Two models that cross each other once weights may differ by level.
    rng = np.random.default_rng(6)
    levels = np.array([0.3, 0.4, 0.5, 0.6, 0.7])
    y = rng.normal(size=60)
    q = np.stack(
        [y[:, None] + rng.normal(size=(60, 1)) + 0.1 * stats.norm.ppf(levels), rng.normal(size=(60, 5)) * 0.8], 1
    )
    crossed = [
        np.maximum(
            -np.diff(fit_aggregation(q, y, levels, vary="level", crossing=c, draws=1).predict(q, monotone=None)), 0
        ).sum()
        for c in (0.0, 3.0)
    ]
    assert crossed[1] < 0.5 * crossed[0]
    fit = fit_aggregation(q, y, levels, vary="level", crossing=0.0, draws=1)
    raw = fit.predict(q, monotone=None)
    for monotone in ("sort", "isotonic"):
        repaired = fit.predict(q, monotone=monotone)
        assert (np.diff(repaired) >= 0).all()
        assert weighted_interval_score(repaired, y, levels).mean() <= weighted_interval_score(raw, y, levels).mean()
    assert fit.predict(q) == pytest.approx(isotonic_quantiles(raw))


def test_shrinkage_leads_to_equal_weights():
    q, y = forecasts(7)
    assert fit_aggregation(q, y, LEVELS, vary="level", shrinkage=1e3, draws=1).weights() == pytest.approx(
        1 / 3, abs=5e-3
    )


def test_draws_cover_the_weights_of_the_population():
    population = fit_aggregation(*forecasts(8, rows=5_000), LEVELS, draws=1, steps=150).weights()
    inside = []
    for seed in range(40):
        fit = fit_aggregation(*forecasts(100 + seed, rows=120), LEVELS, draws=39, steps=100, key=seed)
        lower, upper = fit.estimate("weights").interval
        inside.append((lower <= population) & (population <= upper))
    # Standard error 0.05 for each weight at 40 repetitions; three of them below 0.9.
    assert (np.mean(inside, axis=0) > 0.75).all()


@pytest.mark.parametrize("vary", ["model", "level", "cross"])
def test_fits_are_summarised_exported_and_plotted(vary):
    q, y = forecasts(9, rows=30)
    fit = fit_aggregation(
        q, y, LEVELS, vary=vary, steps=20, draws=8, clusters=np.arange(30) // 3, models=["a", "b", "c"]
    )
    assert ("weights[b]" if vary == "model" else "weights[0.25, b]") in fit.summary().index
    assert fit.to_arviz()["posterior"]["weights"].shape[:2] == (4, 2)
    assert fit.draws["weights"].sum(axis=-1) == pytest.approx(1)
    for figure in (fit.plot_weights(), fit.plot_loss()):
        assert isinstance(figure, Figure)


def test_one_model_and_perfect_forecasts():
    q, y = forecasts(10, rows=20)
    assert fit_aggregation(q[:, :1], y, LEVELS, draws=2, steps=5).weights().tolist() == [1.0]
    perfect = np.broadcast_to(y[:, None, None], (20, 2, 5))
    assert fit_aggregation(perfect, y, LEVELS, draws=2, steps=5).predict(perfect) == pytest.approx(perfect[:, 0])


Q, Y = forecasts(11, rows=6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fit_aggregation(np.where(Q > 1, np.nan, Q), Y, LEVELS), "predicted: row . has nan"),
        (lambda: fit_aggregation(Q, Y[:5], LEVELS), "predicted: 5 rows and 5 levels are wanted"),
        (lambda: fit_aggregation(Q[:, :0], Y, LEVELS), "predicted: .* at least one model"),
        (lambda: fit_aggregation(Q, Y, LEVELS, hidden=3), "hidden: a number of units from 0 up, with features"),
        (lambda: fit_aggregation(Q, Y, LEVELS, crossing=-1.0), "crossing: a finite number from 0 up"),
        (lambda: fit_aggregation(Q, Y, LEVELS, steps=0), "steps, learning_rate: positive"),
        (lambda: fit_aggregation(Q, Y, LEVELS, models=["a"]), "models: one name for each of 3 models"),
        (
            lambda: fit_aggregation(Q, Y, LEVELS, features=np.ones((6, 2))),
            "features: column 0 is the same in every row",
        ),
        (lambda: fit_aggregation(Q, Y, LEVELS, features=np.ones((5, 2))), "features: finite numbers .6 rows"),
        (lambda: fit_aggregation(Q, Y, LEVELS, clusters=np.zeros(6)), "clusters: at least two are wanted, got 1"),
        (
            lambda: fit_aggregation(Q, Y, LEVELS, steps=1, draws=1).predict(Q[:, :2]),
            "predicted: finite numbers .rows, 3 models",
        ),
        (
            lambda: fit_aggregation(Q, Y, LEVELS, steps=1, draws=1).predict(Q, np.ones((6, 1))),
            "features: none were given",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
