"""Kinetics: what answers cost when memory traffic counts, and the sign of a correction in its published cost model.

    python examples/papers/kinetics_sadhukhan2025.py [--prompt 256]

Exact sums for the Qwen3 series: no model is run, and nothing here is random.

**Source:** Sadhukhan et al. (2025), "Kinetics: Rethinking test-time scaling laws", arXiv 2506.05333, and
github.com/Infini-AI-Lab/Kinetics, cost_model/utils.py.
"""

import argparse

from ppl.risk.kinetics import QWEN3, BlockTopK, Dense, TopK, affordable_trials, attended_keys, generation_cost

BLOCKS = BlockTopK(local=64, block_size=16, blocks=60)  # a window of 1,024 keys, as TopK(1024)


def sign(prompt: int) -> None:
    window = 2048
    print(f"keys attended to by one answer, prompt {prompt}, window of the best {window} keys, in millions")
    print("  answer     counted   top-k code (+)   block code (-)   exact sum")
    gap = max(0, window - prompt)
    for length in (500, 1792, 2000, 4000, 16_384, 65_536):
        # Small enough to count one by one: the keys that each new token sees.
        counted = sum(min(window, prompt + token) for token in range(1, length + 1))
        exact = float(attended_keys(prompt, length, TopK(window)))
        print(f"{length:8,d} {counted / 1e6:11.3f}", end="")
        for wrong_or_right in (+1, -1):
            published = window * length + wrong_or_right * 0.5 * gap**2
            print(f" {published / 1e6:8.3f} {published / counted - 1:+7.1%}", end="")
        print(f" {exact / 1e6:11.3f}")
    print(
        "  While the window fills, a token sees fewer keys than the window holds: the correction must be subtracted."
        "\n  Subtracted it is right from the answer that fills the window on; for shorter ones it goes too far."
    )


def attention_over_weights(prompt: int) -> None:
    print("\nattention over weights, in eFLOPs, for one answer; published: 10 to 1000 times at long answers")
    lengths = (1024, 4096, 16_384, 32_768)
    print(f"  {'':12s}" + "".join(f"{length:9,d}" for length in lengths) + " tokens   as FLOPs alone")
    for name, shape in QWEN3.items():
        costs = [generation_cost(shape, prompt, length) for length in lengths]
        print(f"  {name:12s}" + "".join(f"{cost.eflops / cost.weight_flops - 1:9.1f}" for cost in costs), end="")
        print(f" {costs[-1].flops / costs[-1].weight_flops - 1:23.1f}")


def affordable(prompt: int) -> None:
    length = 16_384
    print(f"\nanswers of {length:,d} tokens for the price of one of Qwen3-32B")
    print(f"  {'':12s} {'FLOPs':>8s} {'eFLOPs':>8s}   {'eFLOPs, best 1,024 keys':>24s} {'by blocks of 16':>16s}")
    budget = generation_cost(QWEN3["Qwen3-32B"], prompt, length)
    for name, shape in QWEN3.items():
        by_flops = affordable_trials(shape, prompt, length, float(budget.flops), cost="flops")
        dense, top_k, blocks = (
            affordable_trials(shape, prompt, length, float(budget.eflops), attention=attention)
            for attention in (Dense(), TopK(1024), BLOCKS)
        )
        print(f"  {name:12s} {by_flops:8.1f} {dense:8.1f}   {top_k:24.1f} {blocks:16.1f}")
    print(
        "  By FLOPs alone the smallest model looks ten times as cheap as it is; sparse attention wins most of it back."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompt", type=int, default=256)
    prompt = parser.parse_args().prompt
    sign(prompt)
    attention_over_weights(prompt)
    affordable(prompt)


if __name__ == "__main__":
    main()
