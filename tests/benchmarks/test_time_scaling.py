"""Does test-time scaling pay here? Methods at one budget on fixed problems over several seeds, with intervals.

    python tests/benchmarks/test_time_scaling.py [--out build/test-time-scaling] [--seeds 5] [--budget 32]

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

TASKS = {"game24": 100, "arithmetic": 200, "countdown": 200}
PLAIN = ["sample", "majority", "best_of_n", "weighted_best_of_n"]
FILTERS = ["particle_filter", "particle_filter_product", "particle_filter_odds"]


def evaluate(
    lm: LanguageModel, prm: RewardModel, task: Task, num_problems: int, *, seeds: int, options: Options
) -> Decoding:
    """All methods on the same problems, once for each seed."""
    methods = [name for name in PLAIN + FILTERS if task.numeric_answers or name != "majority"]
    parts = []
    for seed in range(seeds):
        parts.append(run_methods(lm, prm, task, seed, methods, options=options, num_problems=num_problems, seed=seed))
        print(f"{task.name}: seed {seed} done", flush=True)
    return Decoding.concat(parts)


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
    plain = result.records.frame[result.records.frame.method == PLAIN[0]]
    return float(plain.groupby(["problem", "seed"]).correct.any().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/test-time-scaling"))
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--problems", type=int)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--budget", type=int, default=32)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--model", default="countdown")
    parser.add_argument("--reward", default="countdown-prm")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    lm, prm = load(arguments.model), load_reward(arguments.reward)
    options, figures = Options(arguments.budget, arguments.temperature), {}
    for name in arguments.tasks.split(","):
        num_problems = arguments.problems or TASKS.get(name, 100)
        result = evaluate(lm, prm, task_named(name), num_problems, seeds=arguments.seeds, options=options)
        summary, ceiling = result.summary(), some_sample_right(result)
        with pd.option_context("display.width", 200, "display.max_columns", 20):
            print(summary.drop(columns=["prompt_tokens", "reward_tokens"]).round(3).to_string(index=False))
        gaps = differences(result, "best_of_n")
        print(f"{name}: some sample right {ceiling:.3f}; accuracy minus that of best_of_n:")
        for method, gap in gaps.items():
            print(f"  {method}: {gap['mean']:+.3f} [{gap['lower']:+.3f}, {gap['upper']:+.3f}]")
        rows = summary.astype(object).where(summary.notna(), None).to_dict("records")
        figures[name] = {"some_sample_right": ceiling, "methods": rows, "difference_to_best_of_n": gaps}
        result.answers.to_parquet(arguments.out / f"{name}.parquet")
    settings = {"seeds": arguments.seeds, "budget": arguments.budget, "temperature": arguments.temperature}
    (arguments.out / "figures.json").write_text(json.dumps({**settings, "tasks": figures}, indent=1) + "\n")
    print(json.dumps({**settings, "tasks": figures}))


if __name__ == "__main__":
    main()
