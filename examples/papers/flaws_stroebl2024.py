"""Inference scaling fLaws: the reward of resampling under an imperfect verifier, published, exact and with intervals.

    python examples/papers/flaws_stroebl2024.py [--seed 0]

**Source:** Stroebl, Kapoor & Narayanan (2024), "Inference scaling fLaws: the limits of LLM resampling with imperfect
verifiers", arXiv 2411.17501; numbers printed in its notebooks (MIT) are shipped in examples/data/flaws. The counts
behind them are not public, so the part with intervals is simulated.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from ppl.risk.observed_value import observed_value
from ppl.risk.resampling_value import Optimum, resampling_value
from ppl.risk.verifiers import ceiling_from_counts, verifier

DATA = Path(__file__).resolve().parents[1] / "data" / "flaws"
# Share of right attempts at easy and hard problems, shares of these problems, specificity; sensitivity is 1.
EXAMPLE = np.array([0.87, 0.13]), np.array([0.58, 0.42]), 0.75
LLAMA_8B = np.array([0.8738248665464701, 0.13823971665148135]), np.array([0.56, 0.44]), 0.7516008131097383


def published_reward(success: np.ndarray, weights: np.ndarray, s: float, value: float, attempts: int) -> np.ndarray:
    """The notebooks' reward of 1, 2, ... attempts, which has the posterior of the type in both factors."""
    reject = s * (1 - success)
    still = reject ** np.arange(attempts)[:, None]
    posterior = weights * still / (weights * still).sum(axis=1, keepdims=True)
    gain = success + value * (1 - s) * (1 - success)
    return np.cumsum((posterior @ gain) * (still * posterior).sum(axis=1))


def exact(model: tuple[np.ndarray, np.ndarray, float], value: float) -> Optimum:
    success, weights, s = model
    return resampling_value(success, (1.0, s), weights=weights, false_positive_value=value).optimum()


def example() -> None:
    print("the example of the paper: best number of attempts K and its reward, for a false positive's value V")
    print("    V   published K, reward   by their formula   exact K, reward")
    for value, k, reward in ((-0.7, 3, 0.554), (-1.0, 2, 0.488), (-2.0, 1, 0.339)):
        theirs, best = published_reward(*EXAMPLE, value, 15), exact(EXAMPLE, value)
        print(
            f"{value:5.1f} {k:11d} {reward:8.3f} {theirs.argmax() + 1:10d} {theirs.max():7.3f}"
            f" {best.attempts:11d} {best.reward.mean:8.3f}"
        )


def heatmap() -> None:
    costs = [0.1, 0.5, 0.6, 0.7, 0.8, 1.0, 2.0, 4.0, 10.0]
    published = [82, 79, 76, 3, 2, 2, 1, 1, 0]
    print("\nLlama 3.1 8B, two types and one specificity: best K by a false positive's cost")
    print("  cost      " + "".join(f"{cost:6.1f}" for cost in costs))
    print("  published " + "".join(f"{k:6d}" for k in published))
    print("  exact     " + "".join(f"{exact(LLAMA_8B, -cost).attempts:6d}" for cost in costs))
    print("  (up to .6 every attempt gains: published is where float64 stops to change, exact the first within 1e-6)")


def counted() -> None:
    table = pd.read_csv(DATA / "k_opt.csv")
    print("\nthe same model, published from its counts (200 attempts): one specificity for all does not hold")
    print("    V   counted K, reward   two types, one specificity")
    rows = table.loc[table.model == "Llama 3.1 8B", ["fp_value", "k_opt", "max_reward"]]
    for value, k, reward in rows.to_numpy():
        best = exact(LLAMA_8B, value)
        print(f"{value:5.0f} {k:11.0f} {reward:8.3f} {best.attempts:15d} {best.reward.mean:10.3f}")


def ceilings() -> None:
    table = pd.read_csv(DATA / "humaneval_plus.csv").set_index("model")
    strong = table.humaneval_plus_pass1["GPT-4o"]
    print(f"\nP(right | passes the tests), published: the limit of resampling, against GPT-4o's one attempt, {strong}")
    for model in ("GPT-4o", "Llama 3.1 405B", "Llama 3.1 70B", "Llama 3.1 8B", "Code Llama 7B"):
        pass_1, limit = table.loc[model]
        print(f"  {model:15s} one attempt {pass_1:.3f}   limit {limit:.3f}   {'below' if limit < strong else 'above'}")
    print(f"  below: {(table.plus_given_base < strong).sum()} of {len(table)} models")


def simulated(seed: int) -> None:
    rng = np.random.default_rng(seed)
    problems, attempts, value = 150, 200, -2.0
    success = np.where(np.arange(problems) < 84, rng.beta(8, 1.2, problems), rng.beta(0.5, 3.0, problems))
    # Wrong attempts pass with a quarter's chance on average, most of them on problems whose tests are weak.
    slips = rng.beta(0.12, 0.36, problems)
    right = rng.binomial(attempts, success)
    wrong = rng.binomial(attempts - right, slips)
    rejected = attempts - right - wrong
    rates = verifier(right, np.zeros_like(right), rejected, wrong, key=seed)
    counted = observed_value(right, wrong, np.full(problems, attempts), false_positive_value=value, key=seed).optimum()
    easy = right > attempts / 2
    shares = np.array([right[easy].mean(), right[~easy].mean()]) / attempts
    weights = np.array([easy.mean(), 1 - easy.mean()])
    modelled = resampling_value(shares, rates, weights=weights, false_positive_value=value).optimum()
    limit = ceiling_from_counts(right, right + wrong, key=seed).estimate("ceiling_by_problem")
    print(f"\nsimulated, {problems} problems x {attempts} attempts, V = {value:g}, 90% intervals over problems")
    print(
        f"  P(right | accepted), by problem {limit.mean:.3f} [{limit.interval.lower:.3f}, {limit.interval.upper:.3f}]"
    )
    for name, best in (("from counts", counted), ("two types, one specificity", modelled)):
        (low, high), reward = best.interval, best.reward
        print(
            f"  {name:27s} K {best.attempts:3d} [{low:.0f}, {high:.0f}]   reward {reward.mean:6.3f}"
            f" [{reward.interval.lower:.3f}, {reward.interval.upper:.3f}]"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    example()
    heatmap()
    counted()
    ceilings()
    simulated(arguments.seed)


if __name__ == "__main__":
    main()
