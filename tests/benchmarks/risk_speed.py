"""`ppl.risk.fit` beside mpmath, saber-risk and scorio, in one run; each peer in an environment of its own.

    python tests/benchmarks/risk_speed.py [--out FILE]

1,000 problems with 100 attempts each, warm: posterior, predictive at 1,000 and 10,000 attempts, stack and
log-likelihoods. `mpmath` is the fit of Schaeffer et al. as their code does it: the scaled beta-binomial likelihood by
mpmath's hypergeometric function, maximised by L-BFGS with numerical gradients, on 128 problems; ours of the same law is
the posterior of `tail_sensitivity`, on the same counts. saber-risk fits by maximum likelihood and predicts a point;
scorio states pass@k for k within the attempts, with a flat prior for each problem. They answer less; the ratio is of
their time to ours. Prints JSON.
"""

import argparse
import json
import os
import statistics
import subprocess
import time
from pathlib import Path

import numpy as np
from workers import environment

PEERS = {
    "mpmath": ("mpmath==1.3.0", "scipy", "numpy"),
    "saber-risk": ("saber-risk==0.2.0",),
    "scorio": ("scorio==0.2.3",),
}
REPEATS = 7

CODE = {
    "mpmath": """
import mpmath, numpy as np
from scipy.optimize import minimize
counts = counts[:128]
values, weights = np.unique(counts, return_counts=True)
c = min(1.0, (len(counts) + 1) / len(counts) * values.max() / n)
def loss(x):
    a, b = np.exp(x)
    total = mpmath.mpf(0)
    for s, w in zip(values, weights):
        s = int(s)
        p = mpmath.binomial(n, s) * mpmath.mpf(c) ** s * mpmath.beta(s + a, b) / mpmath.beta(a, b)
        p *= mpmath.hyp2f1(-(n - s), s + a, s + a + b, c)
        total -= int(w) * mpmath.log(p)
    return float(total)
def work():
    return minimize(loss, np.log([0.3, 5.0]), method="L-BFGS-B").x
repeats = 1
""",
    "saber-risk": """
import numpy as np
from saber import SABER
def work():
    model = SABER()
    model.fit(counts, np.full(len(counts), n))
    return model.predict(1000)
""",
    "scorio": """
import numpy as np
from scorio import eval as ev
right = (np.arange(n)[None, :] < counts[:, None]).astype(int)
def work():
    return ev.pass_at_k_ci(right, 50)
""",
}
DRIVER = """
import json, sys, time
import numpy as np
n, repeats = 100, {repeats}
counts = np.asarray(json.loads(sys.stdin.read()))
{code}
work() if repeats > 1 else None
times = []
for _ in range(repeats):
    start = time.perf_counter()
    work()
    times.append(time.perf_counter() - start)
print(json.dumps(times))
"""


def theirs(peer: str, counts: np.ndarray) -> float:
    code = DRIVER.format(code=CODE[peer], repeats=REPEATS)
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(
        [environment(peer, PEERS[peer]), "-c", code],
        input=json.dumps(counts.tolist()),
        capture_output=True,
        text=True,
        env=clean,
    )
    if result.returncode:
        raise RuntimeError(f"{peer}: {result.stderr.strip().splitlines()[-1]}")
    return statistics.median(json.loads(result.stdout.splitlines()[-1]))


def median_time(work) -> float:
    work()
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    from ppl import risk

    rng = np.random.default_rng(0)
    counts = rng.binomial(100, 0.6 * rng.beta(0.3, 5, 1_000))
    for peer in PEERS:
        environment(peer, PEERS[peer])

    def whole():
        return risk.fit(counts, 100).pass_at([1_000, 10_000])

    def scaled():
        return risk.tail_sensitivity(counts[:128], 100, at=[1_000, 10_000], families=["scaled_beta"])

    ours, law = median_time(whole), median_time(scaled)
    report = {
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "ppl, 1,000 problems, seconds": ours,
        "ppl, scaled beta posterior of 128 problems, seconds": law,
    }
    for peer in PEERS:
        seconds = theirs(peer, counts)
        report[f"{peer}, seconds"] = seconds
        report[f"{peer} over ppl"] = seconds / (law if peer == "mpmath" else ours)
    report["ppl, 1,000 problems, again, seconds"] = median_time(whole)
    print(text := json.dumps(report, indent=2))
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
