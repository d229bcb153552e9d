"""ARISE: test-time scaling scored problem by problem, so that lost answers are charged and noise is told from harm.

    python examples/papers/arise_2025.py [--problems 200] [--seed 0]

Three simulated models whose accuracy rises alike with the level of reasoning, and whose tokens double: what differs is
how many answers they lose on the way. The paper's counts are of closed models and not public, so no score of its tables
can be recomputed.

**Source:** Yin et al. (2025), "ARISE: an adaptive resolution-aware metric for test-time scaling evaluation in large
reasoning models", arXiv 2510.06014.
"""

import argparse

import numpy as np

from ppl.risk.arise import arise, combined_variation, plan_runs
from ppl.risk.e3 import compare_e3, e3

TOKENS, RUNS = 1000 * 2.0 ** np.arange(4), 4
RISE = np.array([0.40, 0.50, 0.58, 0.64])  # mean accuracy at each level, of every model


def outcomes(rng: np.random.Generator, kind: str, problems: int, runs: int) -> tuple[np.ndarray, np.ndarray]:
    """Right or wrong and tokens, [problems, levels, runs]."""
    ability = rng.random((problems, 1))
    if kind == "steady":  # what is solved stays solved
        p = np.broadcast_to(ability < RISE, (problems, len(RISE))).astype(float)
    elif kind == "overthinks":  # a tenth of the problems is solved at each second level only
        flips = 0.1 * (np.arange(len(RISE)) % 2)
        p = ((ability < RISE - flips) | (ability > 1 - flips)).astype(float)
    else:  # noisy: each problem has a chance between, and runs differ
        p = np.clip(RISE + 0.7 * (ability - 0.5), 0.02, 0.98)
    tokens = TOKENS[:, None] * rng.gamma(20, 1 / 20, (problems, len(RISE), runs))
    return (rng.random(tokens.shape) < p[..., None]).astype(int), tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)

    exact = arise(np.array([[0, 1], [1, 0]]), np.array([[1000, 2000], [1000, 2000]]), draws=1)
    print(
        "an answer gained, and one lost, at twice the tokens: by the definition 0.5 and -2, here", exact.scores.tolist()
    )

    kinds = ("steady", "noisy", "overthinks")
    tables = {kind: outcomes(rng, kind, arguments.problems, RUNS) for kind in kinds}
    print(f"\n{arguments.problems} problems, accuracy by level of reasoning; slope in points a doubling of tokens\n")
    for kind, (right, _) in tables.items():
        means = right.mean(axis=(0, 2))
        slope = 100 * np.polyfit(np.arange(len(means)), means, 1)[0]
        print(f"  {kind:12s}" + "".join(f"{mean:7.1%}" for mean in means) + f"   slope {slope:.1f}")
    print(f"\nARISE, 90% over problems{'':10s} gained    lost   if the level did not matter   P(as high by chance)")
    for kind, (right, tokens) in tables.items():
        for runs in (1, RUNS):
            result = arise(right[..., :runs].sum(axis=2), tokens[..., :runs].mean(axis=2), trials=runs)
            mean, (lower, upper) = result.estimate("arise")
            gained, lost = result.steps.sum(axis=0)
            print(
                f"  {kind:11s}{runs} run{'s' * (runs > 1):1s} {mean:6.2f} [{lower:5.2f}, {upper:5.2f}] {gained:7.2f}"
                f" {lost:7.2f} {result.noise_floor:20.2f} {result.noise_tail:24.3f}"
            )
    print(
        "\nA loss costs four times what a gain at the same doubling earns, so a model that only wavers scores below 0:"
        "\ncompare a score with that of chance, not with 0. More runs a cell bring that of chance up."
    )

    right, tokens = tables["noisy"]
    plan = plan_runs(combined_variation(right[..., :3], tokens[..., :3]), 5 * right[..., 0].size)
    print(f"\nsecond pass by the published rule, {plan.sum():,d} runs in all: cells with 3, 4-9, 10 runs:", end=" ")
    print(", ".join(str(int(np.sum(part))) for part in (plan == 3, (plan > 3) & (plan < 10), plan == 10)))

    print("\nE3, accuracy squared over tokens, at the first and at the last level")
    for kind, (right, tokens) in tables.items():
        accuracy, spent = right.mean(axis=2), tokens.mean(axis=2)
        first, last = (e3(accuracy[:, level], spent[:, level]).estimate("e3").mean for level in (0, -1))
        ratio = compare_e3((accuracy[:, -1], accuracy[:, 0]), (spent[:, -1], spent[:, 0])).estimate("ratio")
        print(
            f"  {kind:12s} {first:5.2f} {last:5.2f}   ratio {ratio.mean:.2f}"
            f" [{ratio.interval.lower:.2f}, {ratio.interval.upper:.2f}]"
        )


if __name__ == "__main__":
    main()
