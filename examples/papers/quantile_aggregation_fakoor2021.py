"""Flexible aggregation of quantile forecasts, on COVID-19 forecasts whose scores are published.

    python examples/papers/quantile_aggregation_fakoor2021.py [--seed 0]

Scores of each model, published and here; then weights fitted to the first weeks and scored on the later ones; repair of
crossings; and conformal recalibration.

**Source:** Fakoor, Kim, Mueller, Smola & Tibshirani (2023), "Flexible model aggregation for quantile regression",
JMLR 24, arXiv 2103.00083 (2021). Forecasts: github.com/epiforecasts/scoringutils (MIT), in examples/data; its README
prints the scores to three digits, the package computes the rest.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from ppl.risk.conformal import conformalize
from ppl.risk.quantile_aggregation import fit_aggregation
from ppl.risk.quantiles import isotonic_quantiles, score, sort_quantiles, weighted_interval_score

FORECASTS = Path(__file__).resolve().parents[1] / "data" / "covid-quantile" / "forecasts.csv"
KEYS = ["location", "forecast_date", "target_end_date", "horizon"]
# Mean WIS and share of observations in the 50% interval.
PUBLISHED = {
    ("Cases", "EuroCOVIDhub-ensemble"): (17943.8, 0.391),
    ("Cases", "EuroCOVIDhub-baseline"): (28483.6, 0.328),
    ("Cases", "epiforecasts-EpiNow2"): (20831.6, 0.469),
    ("Deaths", "EuroCOVIDhub-ensemble"): (41.42, 0.875),
    ("Deaths", "EuroCOVIDhub-baseline"): (159.40, 0.664),
    ("Deaths", "UMass-MechBayes"): (52.65, 0.461),
    ("Deaths", "epiforecasts-EpiNow2"): (66.64, 0.420),
}


class Forecasts(NamedTuple):
    """Those that all models made: quantiles [rows, models, levels], observations, models, dates; split by time."""

    predicted: np.ndarray
    observed: np.ndarray
    models: list[str]
    dates: np.ndarray
    known: np.ndarray  # observed before the first later forecast
    later: np.ndarray


def complete(table: pd.DataFrame, target: str, names: list[str]) -> Forecasts:
    rows = table[table["target_type"] == target]
    models = sorted(rows["model"].unique())
    wide = rows.pivot(index=KEYS, columns="model", values=names).dropna()
    predicted = np.stack([wide.xs(model, axis=1, level="model")[names].to_numpy() for model in models], axis=1)
    observed = rows.drop_duplicates(KEYS).set_index(KEYS)["observed"].loc[wide.index].to_numpy()
    dates = wide.index.get_level_values("forecast_date").to_numpy()
    half = np.unique(dates)[5]
    ends = wide.index.get_level_values("target_end_date").to_numpy()
    return Forecasts(predicted, observed, models, dates, ends < half, dates >= half)


def published(table: pd.DataFrame, names: list[str], levels: np.ndarray, seed: int) -> None:
    print("mean weighted interval score (90% interval over dates), share in the 50% interval")
    print("  target model                  published         here                       published   here")
    for (target, model), (wis, half) in PUBLISHED.items():
        rows = table[(table["target_type"] == target) & (table["model"] == model)]
        predicted, observed = rows[names].to_numpy(), rows["observed"].to_numpy()
        result = score(predicted, observed, levels, clusters=rows["forecast_date"].to_numpy(), key=seed)
        lower, upper = result.estimate("wis").interval
        print(
            f"  {target:6s} {model:22s} {wis:9.2f} {result.means['wis']:12.2f} [{lower:8.2f}, {upper:8.2f}]"
            f" {half:11.3f} {result.coverage(0.5):8.3f}"
        )


def aggregated(forecasts: Forecasts, levels: np.ndarray, seed: int) -> None:
    q, y, models, dates, known, later = forecasts
    print(f"\nDeaths: fitted to {known.sum()} forecasts, scored on the {later.sum()} from {dates[later].min()} on")
    for number, model in enumerate(models):
        print(f"  {model:36s} {weighted_interval_score(q[later, number], y[later], levels).mean():9.2f}")
    print(f"  {'equal weights':36s} {weighted_interval_score(q[later].mean(axis=1), y[later], levels).mean():9.2f}")
    for vary in ("model", "cross"):
        fit = fit_aggregation(
            q[known],
            y[known],
            levels,
            vary=vary,
            shrinkage=0.01,
            models=models,
            clusters=dates[known],
            steps=400,
            draws=16 if vary == "model" else 1,
            key=seed,
        )
        label = f"weights by {vary}, shrunk"
        print(f"  {label:36s} {weighted_interval_score(fit.predict(q[later]), y[later], levels).mean():9.2f}")
        if vary == "model":
            middle, (lower, upper) = fit.estimate("weights")
            for name, values in zip(models, np.stack([middle, lower, upper], axis=1), strict=True):
                print(f"      {name:32s} {values[0]:.2f} [{values[1]:.2f}, {values[2]:.2f}]")


def repaired(forecasts: Forecasts, levels: np.ndarray, seed: int) -> None:
    q, y, _, _, known, later = forecasts
    # Without penalty and shrinkage a level may be taken from any other, and neighbours cross.
    fit = fit_aggregation(q[known], y[known], levels, vary="cross", crossing=0.0, steps=400, draws=1, key=seed)
    raw = fit.predict(q[later], monotone=None)
    before = weighted_interval_score(raw, y[later], levels)
    print("\nDeaths: weights by cross, neither penalty nor shrinkage; repair (published: never increases the score)")
    print(f"  as it is   score {before.mean():9.2f}   rows that cross {np.mean((np.diff(raw) < 0).any(axis=1)):.0%}")
    for name, repair in (("sort", sort_quantiles), ("isotonic", isotonic_quantiles)):
        after = weighted_interval_score(repair(raw), y[later], levels)
        worse = np.sum(after > before * (1 + 1e-12))
        print(f"  {name:10s} score {after.mean():9.2f}   rows made worse {worse} of {len(after)}")


def recalibrated(forecasts: Forecasts, levels: np.ndarray, model: str, seed: int) -> None:
    q, y, models, _, known, later = forecasts
    # 47 forecasts cannot vouch for a 98% interval, which wants 49.
    inner = (levels > 0.02) & (levels < 0.98)
    own, tau = q[:, models.index(model)][:, inner], levels[inner]
    size = 1 + np.abs(own[:, len(tau) // 2])
    fit = conformalize(own[known], y[known], tau, scale=size[known], key=seed)
    forecasts_of = {"as it is": own[later], "recalibrated": fit.apply(own[later], size[later])}
    print(f"\nDeaths, {model}: conformal recalibration on the same {known.sum()} forecasts")
    print("                  score   later observations in the 50%, 80%, 90% interval")
    for name, quantiles in forecasts_of.items():
        mean = weighted_interval_score(quantiles, y[later], tau).mean()
        shares = [share_inside(quantiles, y[later], tau, level) for level in (0.5, 0.8, 0.9)]
        print(f"  {name:12s} {mean:8.2f} {shares[0]:11.0%} {shares[1]:6.0%} {shares[2]:6.0%}")
    print("  (later weeks are not like the first: coverage comes nearer, and is not exact)")


def share_inside(q: np.ndarray, y: np.ndarray, levels: np.ndarray, central: float) -> float:
    lower = int(np.argmin(np.abs(levels - (1 - central) / 2)))
    return float(np.mean((q[:, lower] <= y) & (y <= q[:, -1 - lower])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    table = pd.read_csv(FORECASTS)
    names = [name for name in table.columns if name.startswith("0.")]
    levels = np.array(names, dtype=np.float64)
    published(table, names, levels, arguments.seed)
    deaths = complete(table, "Deaths", names)
    aggregated(deaths, levels, arguments.seed)
    repaired(deaths, levels, arguments.seed)
    recalibrated(deaths, levels, "EuroCOVIDhub-ensemble", arguments.seed)


if __name__ == "__main__":
    main()
