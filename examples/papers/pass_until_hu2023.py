"""PassUntil: pass rates that a fixed number of attempts reads as zero, and the task law through them.

    python examples/papers/pass_until_hu2023.py [--seed 0]

Simulated: models of 30 M to 1.5 B parameters on 164 problems whose pass rates differ, the mean on a task law that
gives 5% at 2.4 B, the size that the paper predicts. No per-model counts of the paper are public.

**Source:** Hu et al. (2024), "Predicting emergent abilities with infinite resolution evaluation", arXiv 2310.03262.
"""

import argparse
import warnings

import numpy as np

from ppl.risk.pass_until import pass_until, task_law

SIZES = np.array([30e6, 0.1e9, 0.2e9, 0.4e9, 0.7e9, 1.5e9])
PREDICTED, PROBLEMS, TARGET = 2.4e9, 164, 5
SLOPE, AT_PREDICTED = -0.16, 0.05


def mean_rate(size: float) -> float:
    """The true pass rate: ln(-ln rate) is linear in ln size."""
    return float(np.exp(np.log(AT_PREDICTED) * (size / PREDICTED) ** SLOPE))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    rng = np.random.default_rng(parser.parse_args().seed)
    # One difficulty a problem for all models: pass rates are the mean times a factor of mean 1, most of them below it.
    factor = rng.gamma(2.0, 0.5, PROBLEMS)
    factor /= factor.mean()
    print(" parameters pass rate  unbiased  90% over problems      r/T  pass@1 of 20  attempts")
    rates = []
    for size in SIZES:
        p = np.minimum(mean_rate(size) * factor, 1.0)
        trials = TARGET + rng.negative_binomial(TARGET, p)
        result = pass_until(np.full(PROBLEMS, TARGET), trials, TARGET, draws=1)
        mean, (lower, upper) = result.pass_rate()
        rates.append(mean)
        few = rng.binomial(20, p)
        print(
            f"{size / 1e9:9.2f}B {p.mean():9.3%} {mean:9.3%}  [{lower:.3%}, {upper:.3%}]  {result.mle.mean():7.3%}"
            f" {few.mean() / 20:12.3%} {trials.sum():9,d}"
        )
    law = task_law(SIZES, rates)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # outside the fitted sizes, which is the point here
        mean, (lower, upper) = law.predict(PREDICTED)
    print(f"\ntask law: slope {law.estimate('slope').mean:.3f} (true {SLOPE})")
    print(f"predicted at 2.4 B: {mean:.2%}, 90% interval [{lower:.2%}, {upper:.2%}]; true {AT_PREDICTED:.2%}")
    print(f"deviation {abs(mean - AT_PREDICTED):.2%}; published, on their own models and code task: 0.05%")
    print("\nr/T is too high by about r/(r - 1); (r - 1)/(T - 1) is what its mean should be.")


if __name__ == "__main__":
    main()
