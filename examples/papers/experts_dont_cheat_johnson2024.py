"""Experts don't cheat: a model that predicts pairs of answers says how far its probabilities are from the true ones.

    python examples/papers/experts_dont_cheat_johnson2024.py [--seed 0]

The paper's networks and their data are not rerun here. What it proves is checked instead, on a model that cannot know
enough: it sees inputs only up to the cell of a coarse grid, while the true probability swings within cells. Then two
real trials a task, those of tau-bench.

**Source:** Johnson, Tarlow, Duvenaud & Maddison (2024), "Experts don't cheat: learning what you don't know by
predicting pairs", ICML, arXiv 2402.08733. Trials: github.com/sierra-research/tau-bench (MIT), in examples/data.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from ppl.risk.pairs import (
    epistemic_variance,
    hallucination_bound,
    pair_calibration,
    probability_interval,
    problem_moments,
)

REWARDS = Path(__file__).resolve().parents[1] / "data" / "tau-bench-airline-gpt4o" / "rewards.csv"
CELLS = 20


def chance(x: np.ndarray) -> np.ndarray:
    """True probability of the answer: slow small waves on the left, fast large ones on the right, there often 0."""
    swing = 0.4 + (0.15 + 0.2 * x) * np.sin(2 * np.pi * (8 * x + 20 * x**3))
    return np.where((x > 0.8) & ((150 * x) % 1 < 0.4), 0.0, swing)


def pairs(rng: np.random.Generator, size: int) -> tuple[np.ndarray, ...]:
    x = rng.uniform(size=size)
    truth = chance(x)
    first, second = (rng.uniform(size=(2, size)) < truth).astype(int)
    return (x * CELLS).astype(int), truth, first, second


def coarse_model(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cell, _, first, second = pairs(rng, 4_000_000)
    count, ones = np.bincount(cell), np.bincount(cell, first + second)
    stated = ones / (2 * count)  # p(y) by cell, and p(y again | y)
    again = np.maximum(2 * np.bincount(cell, first * second) / ones, stated)

    cell, truth, first, second = pairs(rng, 4_000)
    variance = epistemic_variance(stated, again)
    # What an ensemble or a bootstrap sees: how far fits to other data of this size would differ.
    ensemble = stated * (1 - stated) / (2 * count)
    print(f"a model that sees {CELLS} cells, 4,000,000 training pairs, 4,000 held-out inputs")
    print("  interval of p(y | x)            guaranteed   measured   mean width")
    for level in (0.8, 0.9, 0.95):
        lower, upper = probability_interval(stated[cell], again[cell], level)
        print(
            f"  from pairs, {level:4.0%} {level:26.0%}"
            f" {np.mean((lower <= truth) & (truth <= upper)):10.1%} {np.mean(upper - lower):12.2f}"
        )
    half = np.sqrt(ensemble / 0.1)[cell]
    print(
        f"  from refits,  90%                   nothing {np.mean(np.abs(stated[cell] - truth) <= half):10.1%}"
        f" {np.mean(2 * half):12.2f}"
    )
    bound = hallucination_bound(stated, again)[cell]
    print(f"  inputs for which y is impossible: at most {bound.mean():.1%}, measured {np.mean(truth == 0):.1%}")

    error = np.mean((truth - stated[cell]) ** 2)
    print(f"\n  mean squared error of p(y), true {error:.4f}; stated by pairs {variance[cell].mean():.4f},", end="")
    print(f" by refits {ensemble[cell].mean():.6f}")
    for name, repeated in (("pairs", again), ("refits", stated + ensemble / stated)):
        check = pair_calibration(stated[cell], repeated[cell], first, second, draws=500, key=seed)
        seen = check.estimate("squared_error")
        print(
            f"  seen by two answers an input, against {name:6s} {seen.mean:.4f}"
            f" [{seen.interval.lower:.4f}, {seen.interval.upper:.4f}]   P(overconfident) {check.overconfident:.2f}"
        )
    print("  (published: what compares fits is overconfident if the model underfits, pairs are not)")


def two_trials(seed: int) -> None:
    rewards = pd.read_csv(REWARDS).pivot(index="task_id", columns="trial", values="reward").to_numpy()
    once, twice = 0.420, 0.273
    print(f"\ntau-bench, gpt-4o, {len(rewards)} airline tasks: spread of success over tasks")
    spread = epistemic_variance(once, twice / once)
    print(f"  published pass^1 {once}, pass^2 {twice}, of four trials: variance {spread:.3f}")
    result = problem_moments(rewards[:, 0], rewards[:, 1], key=seed)
    for name in ("mean", "variance", "correlation"):
        mean, (lower, upper) = result.estimate(name)
        print(f"  from trials 0 and 1: {name:11s} {mean:.3f} [{lower:.3f}, {upper:.3f}]")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    coarse_model(arguments.seed)
    two_trials(arguments.seed)


if __name__ == "__main__":
    main()
