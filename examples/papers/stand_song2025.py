"""STAND: speculation without a draft model, by n-grams of what sibling texts have written.

    python examples/papers/stand_song2025.py [--prompts 8] [--samples 16] [--speculate 3] [--seed 0]

Published is the time saved on reasoning models of billions of parameters on a GPU; measured is what the bundled model
of 0.93 M parameters does here, in tokens a pass of the decoder, which hangs on the texts alone, and in time, which
hangs on the machine.

**Source:** Song et al. (2025), "Accelerated test-time scaling with model-free speculative sampling", EMNLP 2025,
arXiv 2506.04708; the two figures are its abstract's (the second of version 1). No data of it is used.
"""

import argparse
import time

import jax
import numpy as np

from ppl import lm

PUBLISHED = [("several trajectories a problem", "60-65%"), ("a single trajectory", "48-58%")]
CAVEAT = """
Not the same experiment. Texts here have 25 tokens, those of the paper thousands, and this model is so small that its
arithmetic, not the reading of its weights, takes the time: a pass over more tokens costs more, and speculation loses on
a CPU what it saves in passes. What carries over is that the texts are the very same, token by token, and how many are
guessed right. The paper drafts trees and accepts by chance; here a draft is a chain, and a guess is right if it is what
the row's own uniform draws."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--speculate", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    model, rng = lm.load("countdown"), np.random.default_rng(arguments.seed)
    draw = lambda: " ".join(map(str, sorted(rng.integers(1, 14, 4))))  # noqa: E731
    games = [f"Numbers: {draw()} Target: 24 \n" for _ in range(arguments.prompts)]
    many = [game for game in games for _ in range(arguments.samples)]
    size = arguments.samples
    cases = {
        f"{size} texts a prompt, one after another": (many, {"batch_size": 1}),
        f"{size} texts a prompt at once": (games, {"num_samples": size, "batch_size": size}),
        "a text a prompt": (games, {"batch_size": 1}),
    }

    print("published: time saved against one token a pass")
    for name, saved in PUBLISHED:
        print(f"  {name:45s}{saved:>10s}")
    print(f"\nmeasured on {jax.default_backend()}, {arguments.speculate} guesses a pass, {len(games)} prompts")
    print(f"  {'':45s}{'time saved':>10s}{'tokens a pass':>15s}{'the same texts':>16s}")
    for name, (prompts, options) in cases.items():
        found, seconds = {}, {}
        for speculate in (0, arguments.speculate):
            took = []
            for _ in range(3):  # the first one compiles
                start = time.perf_counter()
                out = model.complete(prompts, arguments.seed, max_tokens=48, speculate=speculate, **options)
                took.append(time.perf_counter() - start)
            found[speculate], seconds[speculate] = [one for texts in out for one in texts], min(took[1:])
        plain, ours = found[0], found[arguments.speculate]
        same = sum(a.tokens == b.tokens for a, b in zip(plain, ours, strict=True))
        tokens, passes = sum(len(one.tokens) for one in ours), sum(one.passes for one in ours)
        saved = 1 - seconds[arguments.speculate] / seconds[0]
        print(f"  {name:45s}{saved:10.0%}{tokens / passes:15.2f}{same:9d} of {len(ours)}")
    print(CAVEAT)


if __name__ == "__main__":
    main()
