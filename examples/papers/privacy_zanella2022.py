"""Bayesian estimation of differential privacy: published intervals of epsilon, and how narrow and how right ours are.

    python examples/papers/privacy_zanella2022.py [--seed 0]

**Source:** Zanella-Béguelin et al. (2023), "Bayesian estimation of differential privacy", ICML, arXiv 2206.05199
(2022). The counts and their intervals are those in the README of github.com/microsoft/responsible-ai-toolbox-privacy
(MIT). The rest is simulated.
"""

import argparse
import time

import numpy as np

from ppl.intervals import Interval
from ppl.risk.privacy import epsilon, epsilon_from_rates, epsilon_interval, epsilon_per_model

COUNTS = {"tp": 487, "tn": 1, "fp": 512, "fn": 0}
DELTA = 1e-5


def text(interval: Interval) -> str:
    return f"[{interval.lower:6.4f}, {interval.upper:6.4f}]"


def published(seed: int) -> None:
    start = time.perf_counter()
    result = epsilon(**COUNTS, delta=DELTA, draws=2_000_000, key=seed)
    seconds = time.perf_counter() - start
    print("1,000 guesses, TP 487 TN 1 FP 512 FN 0, delta 1e-5: 90% interval of epsilon")
    print("  method             published          here")
    print(f"  joint beta         [0.145, 6.399]     {text(result.interval)}")
    dirichlet = epsilon(**COUNTS, delta=DELTA, method="dirichlet", draws=1_000_000, key=seed + 1)
    print(f"  joint Dirichlet    the same in law    {text(dirichlet.interval)}")
    for method, name in (("clopper_pearson", "Clopper-Pearson"), ("jeffreys", "Jeffreys")):
        print(f"  {name:18s} [0, inf)           {text(epsilon_interval(**COUNTS, delta=DELTA, method=method))}")
    print("  (published by a root search to 1e-2 in about 5 minutes; exact by quadrature: [0.1439, 6.4156])")
    print(f"  2 million draws here: {seconds:.1f} s")


def widths(seed: int, fnr: float, fpr: float, audits: int = 400) -> None:
    each = 500
    truth = float(epsilon_from_rates(fnr, fpr, DELTA))
    rng = np.random.default_rng(seed)
    names = {"joint beta": [], "Jeffreys": [], "Clopper-Pearson": []}
    for i in range(audits):
        fn, fp = (int(count) for count in rng.binomial(each, (fnr, fpr)))
        cells = {"tp": each - fn, "tn": each - fp, "fp": fp, "fn": fn, "delta": DELTA}
        names["joint beta"].append(epsilon(**cells, draws=2_000, key=i).interval)
        names["Jeffreys"].append(epsilon_interval(**cells, method="jeffreys"))
        names["Clopper-Pearson"].append(epsilon_interval(**cells))
    print(
        f"\n{audits} simulated audits of {2 * each} guesses, FNR {fnr}, FPR {fpr}, epsilon {truth:.3f}: 90% intervals"
    )
    print("  method             mean width   narrower than Clopper-Pearson   held the truth   lay above it")
    reference = np.mean([upper - lower for lower, upper in names["Clopper-Pearson"]])
    for name, intervals in names.items():
        width = np.mean([upper - lower for lower, upper in intervals])
        held = np.mean([lower <= truth <= upper for lower, upper in intervals])
        above = np.mean([lower > truth for lower, _ in intervals])
        print(f"  {name:18s} {width:10.3f} {1 - width / reference:31.0%} {held:16.0%} {above:14.0%}")


def several_guesses(seed: int, audits: int = 40) -> None:
    models, each = 12, 20
    truth = float(epsilon_from_rates(0.2, 0.4, DELTA))
    rng = np.random.default_rng(seed)
    held = {"all guesses as independent": 0, "by model": 0}
    for i in range(audits):
        fn = rng.binomial(each, rng.beta(0.8, 3.2, models))
        fp = rng.binomial(each, rng.beta(1.6, 2.4, models))
        cells = (each - fn, each - fp, fp, fn)
        pooled = epsilon(*(int(cell.sum()) for cell in cells), DELTA, draws=2_000, key=i).interval
        clustered = epsilon_per_model(*cells, DELTA, draws=2_000, key=i).interval
        for name, (lower, upper) in zip(held, (pooled, clustered), strict=True):
            held[name] += lower <= truth <= upper
    print(f"\n{audits} simulated audits of {models} models, {2 * each} guesses at each, which leak more or less")
    print("  guesses taken                 90% intervals that held the truth")
    for name, count in held.items():
        print(f"  {name:28s} {count / audits:8.0%}")
    print("  (published: drawing several samples a model as if independent is a heuristic, validated on its models)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    published(arguments.seed)
    widths(arguments.seed, 0.4, 0.1)
    widths(arguments.seed, 0.12, 0.12)
    print("  (published: around 40% narrower, on the paper's own audits)")
    print("  (of two rates that are equal the smaller estimate is too small: there the posterior says too much)")
    several_guesses(arguments.seed)


if __name__ == "__main__":
    main()
