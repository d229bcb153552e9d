"""Rankings by a judge nobody has checked: what two levels show, and what five do not.

    python examples/papers/simplex_judges2025.py [--repeats 6] [--seed 0]

MT-bench answers of four models, scored 1 to 5 by GPT-4 three times over (Prometheus-eval, Apache-2.0, in
examples/data). The mean scores have no published counterpart for these three runs; they are checked against
what the data's README says. Then a simulation of the paper's claim that a posterior which doubts the judge covers, and
one that takes its scores for the truth does not: candidates and judges are drawn from the default prior.

**Source:** Vossler et al. (2025), "Judging LLMs on a Simplex", arXiv 2505.21972.
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from ppl.risk.judge_gibbs import ordered
from ppl.risk.rankings import rank_levels, rank_scores
from ppl.risk.simplex import PRIORS, JudgePrior, judge_sensitivity, judged_levels

SCORES = Path(__file__).resolve().parents[1] / "data" / "judge-scores-mtbench" / "scores.csv"
MEANS = {"chatgpt": 3.8167, "llama2_chat_13b": 3.4792, "wizardlm_13b": 3.3917, "vicuna_13b": 3.2667}


def mt_bench(seed: int) -> None:
    frame = pd.read_csv(SCORES).sort_values(["response_source", "question_idx"])
    runs, names = frame[["score_1", "score_2", "score_3"]], list(MEANS)
    table = np.stack([runs[frame["response_source"] == name].to_numpy() for name in names], axis=1)
    ranking = rank_scores(table, names, bounds=(1, 5), key=seed)
    print("MT-bench, 80 questions, GPT-4's scores taken for the truth (Bayesian bootstrap over questions)")
    print(f"{'':18s} {'README':>7s} {'mean':>7s} {'P(best)':>8s} {'rank, 90%':>10s}")
    places = ranking.table()
    for name, mean in MEANS.items():
        row = places.loc[name]
        here = table[:, names.index(name)].mean()
        place = f"{row['lower']:.0f} to {row['upper']:.0f}"
        print(f"{name:18s} {mean:7.4f} {here:7.4f} {row['probability_best']:8.2f} {place:>10s}")

    priors = {name: PRIORS[name] for name in ("sharp", "blunt")}
    owners = frame["response_source"].tolist()
    first = runs[["score_1"]].to_numpy()  # one run: three of one judge are not three judges
    print("\nThe judge in doubt: least and greatest P(first above second) if it sees well, and if badly")
    cells = {}
    for label, scores, levels in (
        ("scores of 1 to 5", first, [1, 2, 3, 4, 5]),
        ("4 or more, or not", (first >= 4).astype(int), [0, 1]),
    ):
        fit = judge_sensitivity(scores, owners, levels=levels, priors=priors, key=seed, draws=400)
        cells[label] = fit.probability_above
        for prior, one in fit.fits.items():
            if prior == "sharp":
                print(f"{label}: " + (one.warnings[0] if one.warnings else "no warning; the order is identified"))
    print(f"\n{'':36s} " + " ".join(f"{label:>18s}" for label in cells))
    for pair in next(iter(cells.values())).index:
        row = [f"{frame.loc[pair, 'least']:.2f} to {frame.loc[pair, 'greatest']:.2f}" for frame in cells.values()]
        print(f"{pair[0] + ' above ' + pair[1]:36s} " + " ".join(f"{cell:>18s}" for cell in row))


def simulation(repeats: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    prior, values, names, number = JudgePrior(strength=8.0), np.arange(3.0), list("abcd"), 100
    held = {"judge taken for truth": [], "judge in doubt": []}
    for key in range(repeats):
        judge = None
        while judge is None:
            drawn = np.stack([rng.dirichlet(row) for row in prior.counts(3)])
            judge = drawn if ordered(drawn) else None
        share = rng.dirichlet(np.ones(3), 4)
        counts = np.stack([rng.multinomial(number, one @ judge) for one in share])
        truth = share @ values
        scores = np.concatenate([np.repeat(np.arange(3), row) for row in counts])[:, None]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            doubt = judged_levels(
                scores, np.repeat(names, number).tolist(), levels=[0, 1, 2], prior=prior, key=key, draws=400
            ).ranking
        for label, ranking in zip(
            held, (rank_levels(counts, names, values=values.tolist(), key=key), doubt), strict=True
        ):
            lower, upper = ranking.estimate("score", 0.9).interval
            held[label].append((lower <= truth) & (truth <= upper))
    print(f"\n90% intervals of the true mean level, 3 levels, {number} items each, {repeats} simulated judges")
    for label, inside in held.items():
        print(f"  {label:22s} holds {np.mean(inside):.0%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    mt_bench(arguments.seed)
    simulation(arguments.repeats, arguments.seed)


if __name__ == "__main__":
    main()
