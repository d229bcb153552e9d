"""Particle filtering against best-of-N and voting at one budget: the published order, and ours.

    python examples/papers/particle_filtering_puri2025.py [--task arithmetic-6] [--problems 200] [--budget 32]

**Source:** Puri et al. (2025), "A probabilistic inference approach to inference-time scaling of LLMs using
particle-based Monte Carlo methods", arXiv 2502.01618, table 1.
"""

import argparse
import math

import ppl

# Qwen2.5-1.5B-Instruct on MATH500, 32 generations, Qwen2.5-Math-PRM-7B: per cent right. The first row is greedy.
PUBLISHED = {
    "sample": ("one sample (theirs: greedy)", 54.4),
    "majority": ("majority (self-consistency)", 61.0),
    "best_of_n": ("best of N", 67.8),
    "weighted_best_of_n": ("weighted best of N", 69.2),
    "particle_filter": ("particle filter, target final_reward", None),
    "particle_filter_odds": ("particle filter, target odds (what their code targets)", 79.3),
}
CAVEAT = """
Compare the order, not the numbers: model, task and reward model all differ (a decoder of 0.9 M parameters on nested
sums with a reward model of its own size, against 1.5 B parameters on MATH500 with a reward model of 7 B). The method
differs in two things: a finished text stops gaining weight here, and the answer is the one with the largest posterior
mass, where theirs is that of the particle with the highest reward."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="arithmetic-6", help="one with numeric answers, or voting means nothing")
    parser.add_argument("--problems", type=int, default=10)
    parser.add_argument("--budget", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    lm, reward = ppl.lm.load("countdown"), ppl.lm.load_reward("countdown-prm")
    task, options = ppl.tasks.task_named(arguments.task), ppl.decode.Options(arguments.budget)
    result = ppl.decode.run_methods(
        lm, reward, task, arguments.seed, list(PUBLISHED), options=options, num_problems=arguments.problems
    )
    print(
        f"published: MATH500, N = 32    ours: {arguments.task}, {arguments.problems} problems, N = {arguments.budget}\n"
    )
    print(f"{'method':56s} {'published':>9s} {'ours':>7s}  90% interval      tokens  log Z")
    for row in result.summary().itertuples():
        label, theirs = PUBLISHED[row.method]
        said = "-" if theirs is None else f"{theirs:.1f}%"
        interval = f"[{row.lower:.1%}, {row.upper:.1%}]"
        evidence = "" if math.isnan(row.log_evidence) else f"{row.log_evidence:.2f}"
        figures = f"{said:>9s} {row.accuracy:7.1%}  {interval:16s} {row.generated_tokens:7.0f}  {evidence}"
        print(f"{label:56s} {figures}".rstrip())
    print(CAVEAT)


if __name__ == "__main__":
    main()
