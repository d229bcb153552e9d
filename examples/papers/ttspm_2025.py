"""TTSPM: saturation points of parallel sampling and sequential rethinking, and how far one common chance carries.

    python examples/papers/ttspm_2025.py

**Source:** Wang et al. (2025), "Scaling over scaling: exploring test-time scaling plateau in large reasoning models",
arXiv 2505.20522; its accuracies of DeepSeek-R1-Distill-Qwen-1.5B on AIME 2024, 30.0% with one sample and 53.3% with 32,
are taken from a summary of its figure 5. The counts are tau-bench's (MIT), shipped in examples/data.
"""

from pathlib import Path

import numpy as np

from ppl.risk.pass_at import coverage
from ppl.risk.readers import read
from ppl.risk.ttspm import rethink_curve, saturation, ttspm, ttspm_curve

REWARDS = Path(__file__).resolve().parents[1] / "data" / "tau-bench-airline-gpt4o" / "rewards.csv"
ONE, MANY, SAMPLES = 0.300, 0.533, 32


def main() -> None:
    print("attempts until the next one gains less than 1 point of coverage, N*, with all problems in reach")
    print("   p   formula  by search")
    for p in (0.01, 0.02, 0.1, 0.3, 0.7):
        searched = int(np.argmax(np.diff(ttspm_curve(1.0, p, np.arange(2000))) < 0.01))
        print(f"{p:5.2f} {saturation(1.0, p, 0.01):8.0f} {searched:10d}")
    start, p = 0.3, 0.1
    chain = np.array([start, 1 - start]) @ np.linalg.matrix_power(np.array([[1, 0], [p, 1 - p]]), 5)
    print(f"\nrethinking 5 rounds from {start:.0%} at {p:.0%} a round: {rethink_curve(start, p, 5):.4f}", end="")
    print(f", by its Markov chain {chain[0]:.4f}")

    # With F(1) = F_max p and F(32) = F_max as good as reached, two published points fix the curve.
    p = ONE / MANY
    print(f"\nAIME 2024, 1.5B: published {ONE:.1%} at 1 sample and {MANY:.1%} at {SAMPLES}")
    reached = saturation(MANY, p, 0.01)
    print(f"  the TTSPM through both: p = {p:.3f}, F_max = {MANY:.3f}, and nothing to gain from N* = {reached:.0f} on")

    attempts = read(REWARDS).attempts
    fit, seen = ttspm(attempts), coverage(attempts)
    print("\ntau-bench airline, gpt-4o, 50 tasks x 4 trials")
    print(fit.summary().round(3).to_string())
    print("  N   unbiased  TTSPM  90% interval")
    for k, theirs in zip(seen.at, seen.mean, strict=True):
        mean, (lower, upper) = fit.coverage(int(k))
        print(f"  {k}   {theirs:8.3f} {mean:6.3f}  [{lower:.3f}, {upper:.3f}]")
    print(f"  misfit: {fit.misfit}")


if __name__ == "__main__":
    main()
