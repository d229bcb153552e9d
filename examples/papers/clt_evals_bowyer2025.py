"""Intervals and comparisons on small benchmarks, where the central limit theorem's are too narrow.

    python examples/papers/clt_evals_bowyer2025.py [--seed 0]

**Source:** Bowyer, Aitchison & Ivanova (2025), "Position: Don't use the CLT in LLM evals with fewer than a few hundred
datapoints", arXiv 2503.01747; outcomes from github.com/sambowyer/no_clt_paper (MIT), in tests/risk/data/eval-matrices.
Their figures show coverage without numbers; the three intervals of 20 questions are their Beta(1, 1) posterior's.
"""

import argparse
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from ppl.intervals import beta_interval
from ppl.risk.attempts import Attempts
from ppl.risk.comparison import compare

DATA = Path(__file__).resolve().parents[2] / "tests" / "risk" / "data" / "eval-matrices"
PUBLISHED = {
    "claude-2.1": (0.8389, 0.9988),
    "llama-v2-13b-chat": (0.0012, 0.1611),
    "gpt-4-1106-preview (functions)": (0.6962, 0.9695),
}
MODELS = ["o3-mini (high)", "o1 (medium)", "DeepSeek-R1"]


def coverage_of_means() -> None:
    """Exact: over all outcomes, and over accuracies uniform in (0, 1)."""
    print("\n95% intervals of an accuracy: share of accuracies covered, uniform over (0, 1), by enumeration")
    theta = (np.arange(1000) + 0.5) / 1000
    print(f"{'questions':>10s} {'CLT':>7s} {'Beta(1, 1)':>11s}")
    for n in (3, 10, 30, 100, 300):
        successes = np.arange(n + 1)
        chance = stats.binom.pmf(successes, n, theta[:, None])
        share = successes / n
        half = stats.norm.isf(0.025) * np.sqrt(share * (1 - share) / n)
        lower, upper = beta_interval(successes, n, 0.95, prior=(1.0, 1.0))
        cells = [
            (chance * ((low <= theta[:, None]) & (theta[:, None] <= high))).sum(axis=1).mean()
            for low, high in ((share - half, share + half), (lower, upper))
        ]
        print(f"{n:10d} {cells[0]:7.1%} {cells[1]:11.1%}")


def clt_difference(values: np.ndarray, level: float) -> tuple[float, float]:
    half = stats.norm.isf((1 - level) / 2) * values.std(ddof=1) / np.sqrt(len(values))
    return values.mean() - half, values.mean() + half


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    if not DATA.exists():
        print(f"{DATA} is not there: only what needs no data follows")
        return coverage_of_means()

    tools = pd.read_csv(DATA / "langchain_tool_use.csv")
    print("LangChain tool use, 20 questions, 95% intervals")
    print(f"{'':31s} {'right':>6s} {'published':>17s} {'here':>17s} {'CLT width':>10s}")
    for model, (low, high) in PUBLISHED.items():
        right = int(tools[model].sum())
        lower, upper = beta_interval(right, 20, 0.95, prior=(1.0, 1.0))
        width = 2 * stats.norm.isf(0.025) * np.sqrt(right / 20 * (1 - right / 20) / 20)
        print(f"{model:31s} {right:3d}/20  [{low:.4f}, {high:.4f}]  [{lower:.4f}, {upper:.4f}] {width:10.4f}")

    coverage_of_means()

    aime = pd.read_csv(DATA / "matharena_aime2025_II.csv")
    problem = aime["Question"].astype(float).astype(int).astype(str)
    counts = aime.groupby(problem, sort=False)[MODELS].sum()
    print("\nAIME 2025 II, 15 problems x 4 attempts: difference of accuracies in points, 95% intervals")
    print(f"{'':34s} {'CLT, 60 questions':>18s} {'hierarchical':>18s} {'P(A better)':>12s} {'here':>6s}")
    for first, second in combinations(MODELS, 2):
        naive = clt_difference((aime[first] - aime[second]).to_numpy(), 0.95)
        sides = [Attempts(counts[model].to_numpy(), 4, list(counts.index)) for model in (first, second)]
        fit = compare(*sides, key=seed, draws=1000)
        cells = [f"[{100 * low:5.1f}, {100 * high:5.1f}]" for low, high in (naive, fit.difference(0.95).interval)]
        print(
            f"{first + ' - ' + second:34s} {cells[0]:>18s} {cells[1]:>18s} {fit.probability_better:12.3f}"
            f" {fit.probability_better_here:6.3f}"
        )
    print(
        "\nSixty questions that are fifteen asked four times: the CLT on sixty takes repeats for problems. `here` is\n"
        "for the mean over these fifteen; the other columns are for the problems that these stand for."
    )
    return None


if __name__ == "__main__":
    main()
