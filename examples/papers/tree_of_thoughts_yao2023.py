"""Game of 24: what GPT-4 scored by prompt and by tree search, beside a 0.9 M specialist with a particle filter.

    python examples/papers/tree_of_thoughts_yao2023.py [--problems 100] [--budget 32] [--seed 0]

**Source:** Yao et al. (2023), "Tree of Thoughts", arXiv 2305.10601; the published figures are counted from the authors'
recorded samples on puzzles 900..999, which ship with `ppl.tasks`.
"""

import argparse

import pandas as pd

import ppl
from ppl.intervals import beta_interval

METHODS = {
    "sample": "one sample",
    "best_of_n": "best of N by reward",
    "weighted_best_of_n": "best answer of N by summed reward",
    "particle_filter": "particle filter, target final_reward",
}
CAVEAT = """
Not the same experiment: GPT-4 is a general model that was shown five examples and, in the tree search, judged its own
steps. Ours has 0.9 M parameters, was trained on generated puzzles of this kind (these hundred left out), and is steered
by a reward model trained on its own rollouts. An oracle row needs a verifier that picks the right attempt."""


def published(problems: int) -> pd.DataFrame:
    """GPT-4 on the first so many puzzles: share of right attempts, or of puzzles for the searches."""
    counts = ppl.tasks.puzzles().iloc[:problems]
    rows = [
        ("GPT-4, direct answer", counts.io_successes.sum() / counts.io_trials.sum(), 1),
        ("GPT-4, one chain of thought", counts.cot_successes.sum() / counts.cot_trials.sum(), 1),
        ("GPT-4, any right of 100 chains (oracle)", (counts.cot_successes > 0).mean(), 100),
        ("GPT-4, tree of thoughts, best beam", counts.tot_top1.mean(), None),
        ("GPT-4, tree of thoughts, any of 5 beams (oracle)", counts.tot_any5.mean(), None),
    ]
    return pd.DataFrame(rows, columns=["method", "accuracy", "samples"]).assign(interval="")


def measured(problems: int, budget: int, seed: int) -> pd.DataFrame:
    """The bundled model on the same puzzles."""
    lm, reward = ppl.lm.load("countdown"), ppl.lm.load_reward("countdown-prm")
    task, options = ppl.tasks.task_named("game24"), ppl.decode.Options(budget)
    result = ppl.decode.run_methods(lm, reward, task, seed, list(METHODS), options=options, num_problems=problems)
    rows = [
        (f"ours, {METHODS[row.method]}", row.accuracy, 1 if row.method == "sample" else budget, row.lower, row.upper)
        for row in result.summary().itertuples()
    ]
    frame = result.records.frame
    some = frame[frame.method == "sample"].groupby("problem").correct.any()
    ends = beta_interval(int(some.sum()), len(some))
    rows.append((f"ours, any right of {budget} samples (oracle)", float(some.mean()), budget, *ends))
    table = pd.DataFrame(rows, columns=["method", "accuracy", "samples", "lower", "upper"])
    interval = [f"[{lower:.1%}, {upper:.1%}]" for lower, upper in zip(table.lower, table.upper, strict=True)]
    return table.assign(interval=interval)[["method", "accuracy", "samples", "interval"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=10)
    parser.add_argument("--budget", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    table = pd.concat([published(arguments.problems), measured(arguments.problems, arguments.budget, arguments.seed)])
    print(f"Game of 24, puzzles 900..{899 + arguments.problems}; intervals: 90%, over puzzles\n")
    print(f"{'method':52s} {'samples':>7s} {'accuracy':>8s}")
    for row in table.itertuples():
        samples = "-" if pd.isna(row.samples) else f"{row.samples:.0f}"
        print(f"{row.method:52s} {samples:>7s} {row.accuracy:8.1%} {row.interval}".rstrip())
    print(CAVEAT)


if __name__ == "__main__":
    main()
