"""Measure the bundled models on held-out problems and write their cards (README.md and figures).

python models/evaluate.py [--problems 100] [--samples 32]
"""

import argparse
import json
from pathlib import Path

import jax
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import mannwhitneyu

from ppl.calibration import brier_score, expected_calibration_error, reliability_bins
from ppl.decode.engine import Settings, decode
from ppl.intervals import mean_interval
from ppl.lm import LanguageModel, RewardModel, load, load_reward
from ppl.tasks import task_named
from ppl.tasks.protocol import steps_of

HERE = Path(__file__).resolve().parent
TASKS = ("countdown-3", "countdown-4", "countdown-5", "countdown-6", "game24") + tuple(
    f"arithmetic-{d}" for d in range(2, 7)
)
BATCH = 1024


def rollouts(lm: LanguageModel, name: str, num_problems: int, num_samples: int) -> pd.DataFrame:
    """Plain samples on held-out problems: one row each with prompt, text, and whether it is right."""
    task = task_named(name)
    problems = task.problems(min(num_problems, 100) if name == "game24" else num_problems, seed=1000)
    settings = Settings(num_samples, task.max_steps, task.max_step_tokens, task.step_delimiter)
    keys = jax.random.split(jax.random.key(1000), len(problems))
    out = decode(lm, None, [problem.prompt for problem in problems], keys, settings)
    rows = [
        (problem.id, problem.prompt, text, task.verify(problem, text))
        for problem, texts in zip(problems, out.texts, strict=True)
        for text in texts
    ]
    return pd.DataFrame(rows, columns=["problem", "prompt", "text", "right"]).assign(task=name)


def scored_steps(prm: RewardModel, table: pd.DataFrame) -> pd.DataFrame:
    """The reward of each step's end of each text: one row a step, `step` counted from 1, `last` marks the end."""
    rows = []
    for i, (prompt, text, right) in enumerate(zip(table.prompt, table.text, table.right, strict=True)):
        steps = steps_of(text, "\n")
        for n in range(1, len(steps) + 1):
            whole = n == len(steps)
            rows.append((i, n, whole, right, prompt, " \n ".join(steps[:n]) + (" </s>" if whole else " \n")))
    frame = pd.DataFrame(rows, columns=["row", "step", "last", "right", "prompt", "prefix"])
    scores = [
        prm.score(frame.prompt[i : i + BATCH].tolist(), frame.prefix[i : i + BATCH].tolist())
        for i in range(0, len(frame), BATCH)
    ]
    return frame.assign(score=np.concatenate(scores))


def auroc(score: np.ndarray, right: np.ndarray) -> float:
    """The chance that a right text scores above a wrong one."""
    return float(mannwhitneyu(score[right], score[~right]).statistic / (right.sum() * (~right).sum()))


def within_problem(part: pd.DataFrame) -> float:
    """AUROC among the samples of one problem, averaged over problems that have right and wrong ones.

    This is what a particle filter lives on: telling an easy puzzle from a hard one helps no particle.
    """
    groups = [(g.score.to_numpy(float), g.right.to_numpy(bool)) for _, g in part.groupby("prompt")]
    return float(np.mean([auroc(score, right) for score, right in groups if 0 < right.sum() < len(right)]))


def by_step(steps: pd.DataFrame) -> pd.DataFrame:
    """AUROC, Brier score and calibration error of each step."""
    rows = []
    for step, part in steps.groupby("step"):
        right, score = part.right.to_numpy(bool), part.score.to_numpy(float)
        if 0 < right.sum() < len(right):
            error = expected_calibration_error(score, right)
            pooled, within = auroc(score, right), within_problem(part)
            rows.append((step, len(part), right.mean(), pooled, within, brier_score(score, right), error))
    return pd.DataFrame(rows, columns=["step", "prefixes", "right", "AUROC", "within problem", "Brier", "ECE"])


def reliability_figure(steps: pd.DataFrame, title: str) -> Figure:
    """A reliability diagram for each step."""
    numbers = sorted(steps.step.unique())
    figure = Figure(figsize=(3.2 * len(numbers), 3.4), layout="constrained")
    figure.suptitle(title)
    for axes, step in zip(np.atleast_1d(figure.subplots(1, len(numbers), sharey=True)), numbers, strict=True):
        part = steps[steps.step == step]
        bins = reliability_bins(part.score.to_numpy(float), part.right.to_numpy(bool))
        # Jeffreys' interval does not reach a frequency of 0 or 1.
        error = np.maximum([bins.frequency - bins.lower, bins.upper - bins.frequency], 0)
        axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
        axes.errorbar(bins.mean_probability, bins.frequency, error, fmt="o-", markersize=4, linewidth=1)
        axes.set(title=f"step {step}", xlabel="stated P(right)", xlim=(0, 1), ylim=(0, 1))
    figure.axes[0].set_ylabel("share that ended right")
    return figure


def markdown(frame: pd.DataFrame) -> str:
    """A Markdown table, numbers to three places."""
    cells = [[f"{v:.3f}" if isinstance(v, float) else str(v) for v in row] for row in frame.itertuples(index=False)]
    lines = [list(map(str, frame.columns)), ["---"] * len(frame.columns), *cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    """Measure, print, and write the tables and figures of the cards."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=100)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--lm", default="countdown")
    parser.add_argument("--prm", default="countdown-prm", help="'' to measure the language model alone")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--out", type=Path, default=HERE)
    arguments = parser.parse_args()
    lm, prm = load(arguments.lm), load_reward(arguments.prm) if arguments.prm else None
    accuracy, quality = [], {}
    for name in arguments.tasks.split(","):
        table = rollouts(lm, name, arguments.problems, arguments.samples)
        shares = table.groupby("problem").right.mean().to_numpy()
        low, high = mean_interval(shares, 0.9, bounds=(0.0, 1.0))
        accuracy.append((name, len(shares), shares.mean(), low, high, float((shares > 0).mean())))
        print(
            json.dumps(
                dict(zip(("task", "problems", "pass@1", "low", "high", "some right"), accuracy[-1], strict=True))
            ),
            flush=True,
        )
        if prm is not None:
            steps = scored_steps(prm, table)
            quality[name] = by_step(steps)
            print(quality[name].round(3).to_string(index=False), flush=True)
            folder = arguments.out / "countdown-prm"
            if name in ("countdown-4", "game24", "arithmetic-6"):
                reliability_figure(steps, f"{name}: P(right) of a prefix").savefig(
                    folder / f"reliability-{name}.png", dpi=90
                )
    columns = ["task", "problems", "pass@1", "lower", "upper", f"some of {arguments.samples} right"]
    fill(arguments.out / "countdown" / "README.md", "accuracy", markdown(pd.DataFrame(accuracy, columns=columns)))
    if quality:
        text = "\n\n".join(f"### {name}\n\n{markdown(frame)}" for name, frame in quality.items())
        fill(arguments.out / "countdown-prm" / "README.md", "quality", text)


def fill(card: Path, mark: str, text: str) -> None:
    """Put `text` between the comments `mark` and `end` of a card, in the place of what stood there."""
    before, _, rest = card.read_text().partition(f"<!-- {mark} -->")
    _, _, after = rest.partition("<!-- end -->")
    card.write_text(f"{before}<!-- {mark} -->\n\n{text}\n\n<!-- end -->{after}")


if __name__ == "__main__":
    main()
