"""Tokens a pass and wall time of `LanguageModel.complete(speculate=k)` against k=0 in the same process. JSON lines.

    python tests/benchmarks/speculation.py [--speculate 1 3 6] [--models countdown 25M] [--repeats 5]

`countdown` is the bundled model on 64 generated prompts, 16 samples each, in calls of 512, 64 and 16 rows, and with one
sample a prompt in calls of one row. `25M` has random weights, 128 tokens: at temperature 1 there is nothing to guess,
which shows what a pass costs, and at 0 it soon repeats itself, which shows the other end. Neither says how well texts
of a trained model of that size are guessed. Calls with and without speculation take turns, after one of each that
compiles; `time_ratio` is the least time of one over the least of the other, below 1 where speculation is faster, and
`spread` the least and the greatest ratio of neighbours. `same` counts the texts that are equal token by token: of
the random model at temperature 1, whose law is nearly uniform over 19,200 tokens, rounding puts a draw in a thousand
on the other side of a boundary.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from lm_decode import SHAPES, write_model

from ppl import lm

PROMPT = 32


def games(number: int) -> list[str]:
    """Four numbers each, not always solvable."""
    rng = np.random.default_rng(0)
    return [f"Numbers: {' '.join(map(str, sorted(rng.integers(1, 14, 4))))} Target: 24 \n" for _ in range(number)]


def compare(model: lm.LanguageModel, prompts, speculate: int, repeats: int, **options) -> dict:
    """Both ways in turn on the same requests."""

    def ask(k: int):
        start = time.perf_counter()
        found = [one for texts in model.complete(prompts, 0, speculate=k, **options) for one in texts]
        return found, time.perf_counter() - start

    (plain, _), (ours, _) = ask(0), ask(speculate)
    seconds = np.array([[ask(0)[1], ask(speculate)[1]] for _ in range(repeats)])
    tokens, passes = sum(len(one.tokens) for one in ours), sum(one.passes for one in ours)
    same = sum(a.tokens == b.tokens for a, b in zip(plain, ours, strict=True))
    best, ratios = seconds.min(axis=0), seconds[:, 1] / seconds[:, 0]
    return {
        "speculate": speculate, "texts": len(ours), "same": same,
        "tokens_per_pass": tokens / passes, "plain_s": best[0], "ours_s": best[1], "time_ratio": best[1] / best[0],
        "spread": [ratios.min(), ratios.max()],
    }  # fmt: skip


def main() -> None:
    """Every model, request and number of guesses."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speculate", nargs="+", type=int, default=[1, 3, 6])
    parser.add_argument("--models", nargs="+", default=["countdown", "25M"], choices=["countdown", *SHAPES])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dtype", default="float32")
    arguments = parser.parse_args()
    for name in arguments.models:
        with tempfile.TemporaryDirectory() as folder:
            if name == "countdown":
                model, prompts = lm.load(name), games(64)
                cases = [
                    {"num_samples": 16, "batch_size": 512}, {"num_samples": 16, "batch_size": 64},
                    {"num_samples": 16, "batch_size": 16}, {"num_samples": 1, "batch_size": 1},
                    {"num_samples": 1, "batch_size": 1, "temperature": 0.0},
                ]  # fmt: skip
                cases = [{"max_tokens": 48, **case} for case in cases]
            else:
                write_model(name, Path(folder), arguments.dtype)
                model = lm.load(folder, dtype=arguments.dtype)
                rng = np.random.default_rng(0)
                prompts = rng.integers(4, model.config.vocab_size, (8, PROMPT)).tolist()
                cases = [
                    {"max_tokens": 128, "batch_size": rows, "temperature": heat}
                    for rows in (1, 8)
                    for heat in (0.0, 1.0)
                ]
            for case in cases:
                for speculate in arguments.speculate:
                    row = compare(model, prompts, speculate, arguments.repeats, **case)
                    print(json.dumps({"model": name, "prompts": len(prompts), **case, **row}), flush=True)


if __name__ == "__main__":
    main()
