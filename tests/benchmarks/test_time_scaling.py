"""Does test-time scaling pay here? Methods at equal budgets on fixed problems over several seeds, with intervals.

    python tests/benchmarks/test_time_scaling.py [--out build/test-time-scaling] [--seeds 5] [--cases game24:100:32,...]

Prints a table for each task and JSON at the end: accuracy (mean over problems of the share of seeds that got it
right), its 90% interval by Bayesian bootstrap over problems, the paired difference of each method to best-of-n, how
often some sample was right (what a perfect selector would reach), Brier score and cost.
"""

import argparse
import json
from pathlib import Path

import pandas as pd

from ppl.decode import Decoding, Options, run_methods
from ppl.intervals import mean_interval
from ppl.lm import LanguageModel, RewardModel, load, load_reward
from ppl.tasks import Task, task_named

# Task, problems and budget. Where the best of 32 samples is nearly always right no method can show its worth: so also
# the puzzles at smaller budgets, and longer ones.
CASES = (
    ("game24", 100, 32),
    ("game24", 100, 8),
    ("game24", 100, 4),
    ("arithmetic-6", 200, 32),
    ("countdown-4", 100, 8),
    ("countdown-5", 100, 32),
    ("countdown-6", 100, 32),
)
METHODS = ["sample", "majority", "best_of_n", "weighted_best_of_n", "particle_filter"]
TARGETS = ["particle_filter_product", "particle_filter_odds"]  # on the first case alone: what naming the target does


def evaluate(
    lm: LanguageModel,
    prm: RewardModel,
    task: Task,
    methods: list[str],
    num_problems: int,
    *,
    seeds: int,
    options: Options,
) -> Decoding:
    """All methods on the same problems, once for each seed."""
    chosen = [name for name in methods if task.numeric_answers or name != "majority"]
    return Decoding.concat(
        [
            run_methods(lm, prm, task, seed, chosen, options=options, num_problems=num_problems, seed=seed)
            for seed in range(seeds)
        ]
    )


def differences(result: Decoding, baseline: str) -> dict[str, dict[str, float]]:
    """Paired difference in accuracy of each method to `baseline`, over problems, with a 90% interval."""
    by_problem = result.answers.pivot_table(index="problem", columns="method", values="correct", aggfunc="mean")
    rows = {}
    for name in by_problem.columns.drop(baseline):
        gap = (by_problem[name] - by_problem[baseline]).to_numpy(dtype=float)
        interval = mean_interval(gap, 0.9, bounds=(-1.0, 1.0))
        rows[name] = {"mean": float(gap.mean()), "lower": float(interval.lower), "upper": float(interval.upper)}
    return rows


def some_sample_right(result: Decoding) -> float:
    """How often one of a problem's plain samples is right: the ceiling of every selector."""
    plain = result.records.frame[result.records.frame.method == METHODS[0]]
    return float(plain.groupby(["problem", "seed"]).correct.any().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/test-time-scaling"))
    parser.add_argument("--cases", default=",".join(f"{task}:{num}:{budget}" for task, num, budget in CASES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--model", default="countdown")
    parser.add_argument("--reward", default="countdown-prm")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    lm, prm = load(arguments.model), load_reward(arguments.reward)
    figures = []
    for case in arguments.cases.split(","):
        name, num_problems, budget = case.split(":")
        options = Options(int(budget), arguments.temperature)
        methods = METHODS + (TARGETS if case == "game24:100:32" else [])
        result = evaluate(lm, prm, task_named(name), methods, int(num_problems), seeds=arguments.seeds, options=options)
        summary, ceiling = result.summary(), some_sample_right(result)
        print(f"\n{name}, {num_problems} problems, budget {budget}, {arguments.seeds} seeds")
        with pd.option_context("display.width", 200, "display.max_columns", 20):
            print(summary.drop(columns=["prompt_tokens", "reward_tokens"]).round(3).to_string(index=False))
        gaps = differences(result, "best_of_n")
        print(f"some sample right {ceiling:.3f}; accuracy minus that of best_of_n:")
        for method, gap in gaps.items():
            print(f"  {method}: {gap['mean']:+.3f} [{gap['lower']:+.3f}, {gap['upper']:+.3f}]", flush=True)
        rows = summary.astype(object).where(summary.notna(), None).to_dict("records")
        figures.append(
            {
                "task": name,
                "problems": int(num_problems),
                "budget": int(budget),
                "some_sample_right": ceiling,
                "methods": rows,
                "difference_to_best_of_n": gaps,
            }
        )
        result.answers.to_parquet(arguments.out / f"{name}-{budget}.parquet")
    whole = {"seeds": arguments.seeds, "temperature": arguments.temperature, "cases": figures}
    (arguments.out / "figures.json").write_text(json.dumps(whole, indent=1) + "\n")
    print(json.dumps(whole))


if __name__ == "__main__":
    main()
