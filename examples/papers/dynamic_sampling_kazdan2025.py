"""Dynamic sampling: attempts spent on the problems that are still unsolved, against an even split and a look ahead.

    python examples/papers/dynamic_sampling_kazdan2025.py [--runs 100] [--seed 0]

Success probabilities are those of Pythia 2.8B on MATH where ../shared/data/monkeys-pythia-math is there (10,000
attempts at 128 problems; no licence, so not shipped), and draws from the beta law that fits these where it is not.

**Source:** Kazdan et al. (2025), "Efficient prediction of pass@k scaling in large language models", arXiv 2510.05197:
dynamic sampling (fewest successes first) and the shares of Theorem 1. Their tables were not at hand: what is looked at
is their claim that sampling hard problems more predicts pass@k better at the same budget.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from ppl.risk.dynamic_sampling import RULES, dynamic_sampling, plug_in_allocation

COUNTS = Path(__file__).resolve().parents[3] / "shared" / "data" / "monkeys-pythia-math" / "counts.csv"
MODEL, PROBLEMS, LAW = "Pythia 2.8B", 128, (0.2460, 11.70)  # beta-binomial fit of its counts
TRIALS, ATTEMPTS = 50, (10, 100, 1000)


def probabilities() -> tuple[np.ndarray, bool]:
    if COUNTS.exists():
        rows = pd.read_csv(COUNTS).query("model == @MODEL")
        return (rows.n_correct / rows.n_samples).to_numpy(), True
    return np.random.default_rng(1).beta(*LAW, PROBLEMS), False


def plug_in_sd(p: np.ndarray, attempts: int, trials: np.ndarray) -> float:
    """Of the plug-in pass@N, by the delta method; infinite where a problem that matters gets no trial."""
    variance = attempts**2 * p * (1 - p) ** (2 * attempts - 1)
    return float(np.sqrt(np.sum(variance[variance > 0] / trials[variance > 0])) / len(p))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    p, real = probabilities()
    if not real:
        print(f"{COUNTS} is not there: simulated probabilities\n")
    budget = TRIALS * len(p)
    print(f"{budget:,d} attempts at {len(p)} problems; error of pass@N of these problems, in points")
    print("(root mean square over runs; in brackets the mean posterior standard deviation)\n")
    print("      N   true pass@N " + "".join(f"{rule.replace('_', ' '):>18s}" for rule in RULES))
    for attempts in ATTEMPTS:
        truth = np.mean(-np.expm1(attempts * np.log1p(-p)))
        print(f"{attempts:7,d} {truth:13.1%} ", end="")
        for rule in RULES:
            runs = dynamic_sampling(
                p, budget, attempts=attempts, prior=LAW, rule=rule, runs=arguments.runs, key=arguments.seed
            )
            spread = 100 * runs.draws["sd"].mean()
            print(f"{100 * runs.root_mean_square_error:10.2f} ({spread:5.2f})", end="")
        print()
    print(
        "\nThe posterior counts all corpora that the law allows, so its deviation may be above the error on this one."
        "\nFewest successes first helps where N is far above the attempts a problem gets, and hurts where it is not: at"
        "\nsmall N the uncertainty is in problems that are solved now and then, and it takes the attempts from them."
        "\nLooking ahead knows N, and is the best or as good in each row."
    )
    print("\nshares of Theorem 1, which know the probabilities: standard deviation of the plug-in pass@N, points")
    print("      N   even split   best shares   problems with half of the budget")
    for attempts in ATTEMPTS:
        share = plug_in_allocation(p, attempts)
        half = int(np.searchsorted(np.cumsum(np.sort(share)[::-1]), 0.5)) + 1
        even, best = (100 * plug_in_sd(p, attempts, trials) for trials in (np.full(len(p), TRIALS), budget * share))
        print(f"{attempts:7,d} {even:12.2f} {best:13.2f} {half:20d} of {len(p)}")


if __name__ == "__main__":
    main()
