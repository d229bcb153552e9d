import io

import numpy as np
import pandas as pd
import pytest
from matplotlib import image

from ppl import plots
from ppl.calibration import rank_counts


def drawn(figure):
    """The figure as pixels, after checking that it is not blank."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=80)
    file.seek(0)
    pixels = image.imread(file)
    assert pixels[..., :3].std() > 0.05
    return pixels


def accuracies():
    budgets = np.array([50, 100, 200, 400])
    rows = []
    for method, top in (("best_of_n", 0.5), ("particle_filter", 0.7)):
        accuracy = top * budgets / (budgets + 60)
        rows.append(
            pd.DataFrame(
                {
                    "method": method,
                    "tokens": budgets,
                    "accuracy": accuracy,
                    "lower": accuracy - 0.06,
                    "upper": accuracy + 0.05,
                }
            )
        )
    single = pd.DataFrame({"method": ["sample"], "tokens": [12.0], "accuracy": [0.1], "lower": [0.06], "upper": [0.16]})
    return pd.concat([single, *rows], ignore_index=True)


def test_accuracy_against_tokens_has_a_line_for_each_method():
    figure = plots.accuracy_against_tokens(accuracies())
    drawn(figure)
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["sample", "best_of_n", "particle_filter"]
    np.testing.assert_allclose(axes.get_lines()[2].get_ydata()[-1], 0.7 * 400 / 460)


def test_accuracy_against_tokens_names_bad_columns_and_rows():
    with pytest.raises(ValueError, match="column 'lower': missing"):
        plots.accuracy_against_tokens(accuracies().drop(columns="lower"))
    frame = accuracies()
    frame.loc[2, "tokens"] = 0
    with pytest.raises(ValueError, match="column 'tokens', row 2: must be positive, got 0.0"):
        plots.accuracy_against_tokens(frame)


def test_ess_is_drawn_as_a_share_of_the_particles():
    rng = np.random.default_rng(0)
    ess = 32 * rng.beta(5, 2, size=(40, 6))
    ess[30:, 4:] = np.nan  # some runs end early
    figure = plots.ess_by_step({"particle_filter": ess, "equal": np.full((3, 6), 32.0)}, 32)
    drawn(figure)
    median, equal = figure.axes[0].get_lines()
    np.testing.assert_allclose(median.get_ydata(), np.nanmedian(ess, axis=0) / 32)
    np.testing.assert_allclose(equal.get_ydata(), 1.0)


@pytest.mark.parametrize(
    ("ess", "num", "message"),
    [
        ({}, 4, "at least one method"),
        ({"m": np.ones((2, 3))}, 0, "at least one method and one particle"),
        ({"m": np.ones((0, 3))}, 4, "method 'm' has a step without any run"),
        ({"m": np.array([[1.0, np.nan]])}, 4, "method 'm' has a step without any run"),
        ({"m": np.array([[1.0, 4.5]])}, 4, "method 'm' has 4.5, above 4"),
    ],
)
def test_ess_names_bad_input(ess, num, message):
    with pytest.raises(ValueError, match=message):
        plots.ess_by_step(ess, num)


def test_reliability_draws_each_bin_with_its_interval():
    rng = np.random.default_rng(0)
    probability = rng.beta(0.6, 1.2, size=600)
    outcome = rng.random(600) < probability**1.3
    figure = plots.reliability(probability, outcome)
    drawn(figure)
    upper, lower = figure.axes
    assert upper.get_title().startswith("ECE 0.0")
    assert sum(bar.get_height() for bar in lower.patches) == 600


def test_rank_ecdfs_draw_each_curve_in_the_band():
    rng = np.random.default_rng(0)
    ranks = {"mu": rng.integers(0, 21, 100), "tau": rng.integers(0, 15, 100)}
    figure = plots.rank_ecdfs(ranks, 21)
    drawn(figure)
    _, mu, tau = figure.axes[0].get_lines()
    assert mu.get_ydata() == pytest.approx(rank_counts(ranks["mu"], 21) / 100 - np.arange(1, 21) / 21)
    assert tau.get_ydata().max() > 0.2
    with pytest.raises(ValueError, match="ranks: those of at least one"):
        plots.rank_ecdfs({}, 21)
