"""SABER on its own twelve settings, simulated: accuracy, budgets, and what its interval covers.

    python examples/papers/saber_feng2026.py [--repeats 10] [--seed 0]

The paper's counts are not public; its fitted (alpha, beta) are. Each repeat draws 159 queries from one of them, makes
100 attempts at each, and predicts the attack success rate (ASR) of these queries within 1000 attempts.

**Source:** Feng et al. (2026), "Statistical estimation of adversarial risk in large language models under best-of-N
sampling", arXiv 2601.22636v2, tables 1, 4 and 5.
"""

import argparse

import numpy as np

from ppl.risk.saber import beta_log_failure, naive, saber

QUERIES, SEEN, TARGET = 159, 100, 1000

# Attacker, victim, judge; alpha, beta; per cent: ASR@1000, and its predictions from 100 by baseline and anchored.
SETTINGS = [
    ("ADV-LLM", "GPT-4.1-mini", "HarmBench", 0.16, 0.44, 75.16, 63.40, 74.28),
    ("ADV-LLM", "GPT-4.1-mini", "LLM", 0.15, 0.50, 72.18, 58.87, 70.04),
    ("ADV-LLM", "Llama-3.1-8B", "HarmBench", 1.44, 0.67, 100.00, 100.00, 100.00),
    ("ADV-LLM", "Llama-3.1-8B", "LLM", 1.01, 0.77, 99.31, 97.99, 99.81),
    ("TextAug", "GPT-4.1-mini", "HarmBench", 0.37, 2.14, 92.62, 77.23, 89.44),
    ("TextAug", "GPT-4.1-mini", "LLM", 0.31, 2.10, 88.59, 67.04, 82.54),
    ("TextAug", "Llama-3.1-8B", "HarmBench", 0.81, 14.31, 97.55, 81.13, 96.40),
    ("TextAug", "Llama-3.1-8B", "LLM", 0.54, 16.16, 87.99, 65.41, 88.88),
    ("Jailbreak-R1", "GPT-4.1-mini", "HarmBench", 0.99, 3.94, 99.97, 97.48, 99.71),
    ("Jailbreak-R1", "GPT-4.1-mini", "LLM", 0.72, 4.04, 98.43, 90.31, 97.93),
    ("Jailbreak-R1", "Llama-3.1-8B", "HarmBench", 0.64, 5.55, 98.66, 86.54, 96.37),
    ("Jailbreak-R1", "Llama-3.1-8B", "LLM", 0.51, 7.76, 92.71, 73.33, 90.61),
]

# Table 4: attempts until an ASR of 95%, from 200 attempts: setting, true, SABER.
BUDGETS = [(6, 484, 465.9), (10, 320, 381.5), (9, 223, 196.9)]


def simulate(rng: np.random.Generator, alpha: float, beta: float, attempts: int) -> tuple[np.ndarray, np.ndarray]:
    theta = rng.beta(alpha, beta, QUERIES)
    return rng.binomial(attempts, theta), theta


def one(rng: np.random.Generator, alpha: float, beta: float) -> list[float]:
    """Absolute errors of four predictions, and whether Eq. 14 holds the truth, and how wide it is."""
    successes, theta = simulate(rng, alpha, beta, SEEN)
    truth = float(np.mean(-np.expm1(TARGET * np.log1p(-theta))))
    fit = saber(successes, SEEN, draws=1)
    left = float(np.mean(successes == 0))  # 0 in some runs: anchored is 1 then, and its interval has no width
    ratio = np.exp(beta_log_failure(fit.alpha, fit.beta, TARGET) - beta_log_failure(fit.alpha, fit.beta, SEEN))
    guesses = [
        naive(successes, SEEN, TARGET), 1 - left * (SEEN / TARGET) ** fit.alpha, 1 - left * ratio, fit.exact(TARGET),
    ]  # fmt: skip
    interval = fit.interval(TARGET, 0.95) if left else None
    covers = interval is not None and interval.lower <= truth <= interval.upper
    return [*(abs(guess - truth) for guess in guesses), covers, interval.upper - interval.lower if interval else 0.0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    table = np.array(
        [[one(rng, alpha, beta) for _ in range(arguments.repeats)] for *_, alpha, beta, _, _, _ in SETTINGS]
    )
    published = np.array([[abs(base - truth), abs(anchored - truth)] for *_, truth, base, anchored in SETTINGS])

    print(f"ASR@{TARGET} from {SEEN} attempts at {QUERIES} queries: mean absolute error in points\n")
    print(f"{'':38s} {'paper':>15s}   {'simulated':>31s}")
    print(f"{'':38s} {'naive':>7s} {'anchor':>7s}   {'naive':>7s} {'anchor':>7s} {'ratio':>7s} {'plug-in':>7s}")
    rows = [*zip(SETTINGS, published, 100 * table.mean(axis=1), strict=True)]
    for (attacker, victim, judge, *_), theirs, ours in rows:
        print(f"{attacker + ', ' + victim + ', ' + judge:38s} {theirs[0]:7.2f} {theirs[1]:7.2f}   ", end="")
        print(" ".join(f"{error:7.2f}" for error in ours[:4]))
    mean = 100 * table.mean(axis=(0, 1))
    print(f"{'mean':38s} {12.04:7.2f} {1.66:7.2f}   " + " ".join(f"{error:7.2f}" for error in mean[:4]))
    print(f"\nEq. 14, 95%: holds the truth in {mean[4]:.0f}% of these runs, mean width {mean[5]:.1f} points")

    print("\nBudget@95% from 200 attempts: median and 80% of simulated runs\n")
    print(f"{'':38s} {'true':>6s} {'paper':>6s}   {'anchored, Eq. 16':>20s}   {'exact ratio':>20s}")
    for index, truth, theirs in BUDGETS:
        attacker, victim, judge, alpha, beta, *_ = SETTINGS[index]
        fits = [saber(simulate(rng, alpha, beta, 200)[0], 200, draws=1) for _ in range(10 * arguments.repeats)]
        cells = []
        for method in ("anchored", "exact_ratio"):
            low, middle, high = np.quantile([fit.budget(0.95, method) for fit in fits], [0.1, 0.5, 0.9])
            cells.append(f"{middle:6.0f} [{low:4.0f}, {high:5.0f}]")
        name = f"{attacker}, {victim}, {judge}"
        print(f"{name:38s} {truth:6d} {theirs:6.0f}   {cells[0]:>20s}   {cells[1]:>20s}")
    print(
        "\nThe paper's errors include that real queries follow no beta law; the simulation has sampling error alone."
        "\nIts interval counts neither that nor the error of ASR@100; that of ppl.risk.fit holds its level."
    )


if __name__ == "__main__":
    main()
