"""Accuracy and coverage of `ppl.risk.fit` beyond the attempts made, from one default setting.

    python tests/benchmarks/risk_calibration.py [--shared ../shared] [--replicates 20] [--out FILE]

Two worlds, with N up to 100 times n. *Real*: hypergeometric subsamples of 10,000 attempts at 128 MATH problems by each
of five Pythia models (counts without a licence, read in place). *Beta*: the twelve pairs (alpha, beta) that SABER fits
to HarmBench, 159 problems each. For the stack and for each expert: mean absolute error in points and the share of 80%
and 95% intervals that hold the truth of the corpus, with the error of that share as if replicates were independent (the
real ones share five models, and are not). Prints JSON.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from ppl import risk

PUBLISHED = {  # mean absolute errors in points on the same counts and settings, as others' methods were measured
    "10->100": {"target": 5.8, "naive": 22.9, "flat prior": 59.3, "SABER anchored": 30.1, "plug-in": 8.3},
    "100->1000": {"target": 3.4, "naive": 22.8, "flat prior": 41.3, "SABER anchored": 5.6, "plug-in": 3.9},
    "100->10000": {"target": 2.9, "naive": 39.1, "flat prior": 31.3, "SABER anchored": 7.1, "plug-in": 6.9},
    "1000->10000": {"target": 1.8, "naive": 15.9, "flat prior": 27.6, "SABER anchored": 2.9, "plug-in": 2.9},
}
REAL, SIMULATED = (
    ((10, 100), (100, 1000), (100, 10_000), (1000, 10_000)),
    ((100, 1000), (100, 10_000), (10, 100), (10, 1000)),
)
ALPHA_BETA = "saber_tables_1_5.csv"


def real(shared: Path, n: int, total: int, replicates: int):
    table = pd.read_csv(shared / "data" / "monkeys-pythia-math" / "counts.csv")
    for number, (_, rows) in enumerate(table.groupby("model", sort=False)):
        right = rows.n_correct.to_numpy()
        truth = float(np.mean(risk.pass_at_k(10_000, right, total)))
        for replicate in range(replicates):
            rng = np.random.default_rng([number, n, replicate])
            yield rng.hypergeometric(right, 10_000 - right, n), truth


def simulated(pairs: pd.DataFrame, n: int, total: int, replicates: int):
    rng = np.random.default_rng([n, total])
    for a, b in zip(pairs.alpha_hat, pairs.beta_hat, strict=True):
        for _ in range(replicates):
            theta = rng.beta(a, b, 159)
            truth = float(-np.expm1(total * np.log1p(-np.minimum(theta, 1 - 1e-16))).mean())
            yield rng.binomial(n, theta), truth


def measure(data, n: int, total: int) -> dict:
    rows: dict[str, list] = {expert: [] for expert in ("stack", "beta", "line")}
    weights = []
    for seed, (successes, truth) in enumerate(data):
        fit = risk.fit(successes, n, key=seed)
        weights.append(fit.experts["line"])
        for expert, found in rows.items():
            miss = fit.miss(total, expert=expert)
            inside = [
                1 - np.quantile(miss, (1 + level) / 2) <= truth <= 1 - np.quantile(miss, (1 - level) / 2)
                for level in (0.8, 0.95)
            ]
            found.append((100 * abs(1 - miss.mean() - truth), *inside))
        print(f"\r{n}->{total}: {seed + 1}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    count = len(weights)
    result: dict = {"data sets": count, "weight of the line": round(float(np.mean(weights)), 3)}
    for expert, found in rows.items():
        error, narrow, wide = np.mean(found, axis=0)
        result[expert] = {
            "mean absolute error": round(float(error), 2),
            "coverage 80%": [round(float(narrow), 3), round(float(np.sqrt(0.8 * 0.2 / count)), 3)],
            "coverage 95%": [round(float(wide), 3), round(float(np.sqrt(0.95 * 0.05 / count)), 3)],
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shared", type=Path, default=Path(__file__).resolve().parents[3] / "shared")
    parser.add_argument("--replicates", type=int, default=20)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    counts = options.shared / "data" / "monkeys-pythia-math"
    if not counts.is_dir():
        sys.exit(f"--shared: no folder {counts}; these counts have no licence, and are not ours to ship")
    pairs = pd.read_csv(options.shared / "data" / "published-targets" / ALPHA_BETA)
    report: dict = {"real": {}, "beta": {}}
    for n, total in REAL:
        name = f"{n}->{total}"
        found = measure(real(options.shared, n, total, options.replicates), n, total)
        report["real"][name] = {"others, mean absolute error": PUBLISHED[name], **found}
    for n, total in SIMULATED:
        found = measure(simulated(pairs, n, total, max(1, options.replicates // 2)), n, total)
        report["beta"][f"{n}->{total}"] = found
    print(text := json.dumps(report, indent=2))
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
