"""tau-bench: pass^k of gpt-4o on airline tasks from its released trials, with intervals, and what two moments foresee.

    python examples/papers/tau_bench_yao2024.py

**Source:** Yao et al. (2024), "tau-bench", arXiv 2406.12045; rewards from github.com/sierra-research/tau-bench (MIT),
shipped in examples/data. Leaderboard rows of tau2-bench (MIT) are read from ../shared/data where that folder is.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from ppl.risk.moments import are_moments, beta_from_moments
from ppl.risk.pass_at import coverage
from ppl.risk.readers import read

HERE = Path(__file__).resolve()
REWARDS = HERE.parents[1] / "data" / "tau-bench-airline-gpt4o" / "rewards.csv"
LEADERBOARD = HERE.parents[3] / "shared" / "data" / "tau2-leaderboard-passk" / "passk.csv"
PUBLISHED = [0.420, 0.273, 0.220, 0.200]


def main() -> None:
    table = coverage(read(REWARDS).attempts, metric="pass_hat").summary()
    measured = table["pass^k"].to_numpy()
    law = beta_from_moments(measured[0], measured[1])
    print("gpt-4o, airline, 50 tasks x 4 trials")
    print("        published   here   90% interval over tasks   beta from pass^1, pass^2   independent")
    for k, theirs, row in zip(table.index, PUBLISHED, table.itertuples(index=False), strict=True):
        print(
            f"pass^{k} {theirs:11.3f} {row[0]:6.3f}   [{row.lower:.3f}, {row.upper:.3f}] {law.pass_hat(int(k)):25.3f}"
            f" {measured[0] ** k:15.3f}"
        )
    print(
        f"two trials of one task correlate by {law.rho:.2f}; all four are moments of some law: {are_moments(measured)}"
    )

    if not LEADERBOARD.exists():
        print(f"\n{LEADERBOARD} is not there: the leaderboard comparison is left out")
        return
    rows = pd.read_csv(LEADERBOARD)
    moments = rows[["pass_1", "pass_2", "pass_3", "pass_4"]].to_numpy() / 100
    laws = beta_from_moments(moments[:, 0], moments[:, 1])
    print(f"\ntau2-bench leaderboard, {len(rows)} rows: mean absolute error of pass^3 / pass^4 in points")
    print("  (computed before: 0.63 / 1.49 by the beta, 13.99 / 16.30 by independence)")
    for label, foreseen in (
        ("beta from pass^1, pass^2", np.stack([laws.pass_hat(3), laws.pass_hat(4)], axis=1)),
        ("independent trials", moments[:, :1] ** [3, 4]),
    ):
        errors = 100 * np.abs(foreseen - moments[:, 2:]).mean(axis=0)
        print(f"  {label:26s} pass^3 {errors[0]:5.2f}   pass^4 {errors[1]:5.2f}")
    possible = are_moments(moments, rounding=0.0005)
    print(f"  rows that can be moments of some law, to rounding: {possible.sum()} of {len(rows)}")


if __name__ == "__main__":
    main()
