"""Large Language Monkeys: coverage of MATH by Pythia models against attempts, and its log-log line.

    python examples/papers/monkeys_brown2024.py

Reads the counts of 10,000 attempts at 128 problems from ../shared/data/monkeys-pythia-math where that folder is; it
comes without a licence and is not shipped. Without it, counts are drawn from the beta laws fitted to it.

**Source:** Brown et al. (2024), "Large Language Monkeys", arXiv 2407.21787; exponents of the same counts as computed
from the processed file of Schaeffer et al. (2025), arXiv 2502.17578, on their own grid of 101 points.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ppl.risk.log_log import fit_line, line_coverage, log_log, mean_curve
from ppl.risk.pass_at import coverage, log_spaced
from ppl.risk.readers import read

COUNTS = Path(__file__).resolve().parents[3] / "shared" / "data" / "monkeys-pythia-math" / "counts.csv"
ATTEMPTS, PROBLEMS, SUBSAMPLES = 10_000, 128, 200

# Exponent of the line; (alpha, beta) of the beta-binomial fitted to the counts.
MODELS = {
    "Pythia 70M": (0.1943, (0.0650, 100.08)),
    "Pythia 160M": (0.2797, (0.1755, 65.57)),
    "Pythia 410M": (0.2863, (0.1804, 28.75)),
    "Pythia 2.8B": (0.3355, (0.2460, 11.70)),
    "Pythia 12B": (0.3702, (0.2955, 12.37)),
}


def counts() -> tuple[dict[str, np.ndarray], bool]:
    """Successes by model, and whether they are the real ones."""
    if COUNTS.exists():
        return {name: read(COUNTS, select={"model": name}).attempts.successes for name in MODELS}, True
    rng = np.random.default_rng(0)
    drawn = {name: rng.binomial(ATTEMPTS, rng.beta(*law, PROBLEMS)) for name, (_, law) in MODELS.items()}
    return drawn, False


def main() -> None:
    successes, real = counts()
    if not real:
        print(f"{COUNTS} is not there: simulated counts, of which only the size can be compared\n")
    one = coverage(successes["Pythia 160M"], ATTEMPTS, [1, ATTEMPTS])
    print("Pythia 160M, coverage of MATH          published      here  90% interval over problems")
    for k, theirs, row in zip((1, ATTEMPTS), (0.0027, 0.57), one.summary().itertuples(index=False), strict=True):
        print(f"  {k:6,d} attempts {theirs:30.2%} {row[0]:9.2%}  [{row.lower:.2%}, {row.upper:.2%}]")
    print("\nexponent b of coverage = exp(-a k^-b)  published      here  90% interval over problems")
    for name, (theirs, _) in MODELS.items():
        line = log_log(successes[name], ATTEMPTS, points=101)
        lower, upper = line.estimate("b").interval
        print(f"  {name:35s} {theirs:10.3f} {line.b:9.3f}  [{lower:.3f}, {upper:.3f}]")
    print(f"\ncoverage at 10,000 attempts, by the line through 100 of them: {SUBSAMPLES} subsamples")
    rng, ks = np.random.default_rng(1), log_spaced(1, 100)
    for name, right in successes.items():
        drawn = rng.hypergeometric(right, ATTEMPTS - right, 100, size=(SUBSAMPLES, len(right)))
        curves = jax.vmap(mean_curve, (0, None, None))(jnp.asarray(drawn), jnp.full(len(right), 100), jnp.asarray(ks))
        log_a, b = jax.vmap(fit_line, (0, None, None))(curves, jnp.asarray(ks), jnp.ones(len(ks)))
        low, middle, high = np.quantile(line_coverage(log_a, b, float(ATTEMPTS)), [0.1, 0.5, 0.9])
        print(
            f"  {name:12s} seen {np.mean(right > 0):6.1%}   line {middle:6.1%}, 80% of them in [{low:.1%}, {high:.1%}]"
        )


if __name__ == "__main__":
    main()
