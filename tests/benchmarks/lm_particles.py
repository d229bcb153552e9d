"""What a particle filter over texts costs beside plain sampling of as many tokens, in seconds and memory. JSON lines.

    python tests/benchmarks/lm_particles.py [--shape 25M] [--particles 64] [--prompts 2] [--rounds 5]

`overhead`: seconds of a filter that weighs for a power of the model, and resamples after each step, over seconds of
plain sampling, without a reward model and with one of the same shape; the three in turn, the median of the rounds'
ratios. Texts have one length, so tokens are equal. `memory`: bytes of keys and values when all particles of a prompt of
2,048 tokens are written, beside those of the prompt and of the written parts, and what the compiler sets aside for the
whole filter.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx

sys.path.insert(0, str(Path(__file__).parent))

import lm_decode

from ppl.decode.engine import Settings, _decode_batch, decode, plan_for
from ppl.lm import LanguageModel, RewardModel, load, load_reward, save_folder
from ppl.lm.decoder import Decoder
from ppl.lm.generation import Weights, _begin, _grow
from ppl.lm.proposals import Proposal
from ppl.smc import Policy

STEPS, STEP_TOKENS = 8, 16


def models(shape: str, folder: Path) -> tuple[LanguageModel, RewardModel]:
    """A random language model and a reward model of its shape; neither knows an end of text."""
    lm_decode.write_model(shape, folder / "lm", "float32")
    lm = load(folder / "lm")
    scorer = Decoder(replace(lm.config, num_labels=1, max_position_embeddings=4096), rngs=nnx.Rngs(1))
    save_folder(folder / "prm", scorer, lm.tokenizer)
    # With a context for the long prompt, which no weight depends on.
    config = replace(lm.config, max_position_embeddings=4096, eos_token_id=())
    graph, _ = nnx.split(nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0))))
    return replace(lm, graph=graph, config=config), load_reward(folder / "prm")


def overhead(lm: LanguageModel, reward: RewardModel, prompts: int, particles: int, rounds: int) -> dict:
    """Seconds of plain sampling, and ratios of the filters' to them."""
    texts = [" ".join(f"w{17 * i + j}" for j in range(32)) for i in range(prompts)]
    plain = Settings(particles, STEPS, STEP_TOKENS, delimiter=None, policy=Policy("always"))
    sides = {
        "plain": (plain, None), "filter": (replace(plain, power=1.1), None),
        "filter_with_reward": (replace(plain, target="product"), reward),
    }  # fmt: skip
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for i in range(rounds + 1):
        for name, (settings, judge) in sides.items():
            start = time.perf_counter()
            out = decode(lm, judge, texts, jax.random.split(jax.random.key(i), prompts), settings)
            if i:  # the first round compiles
                seconds[name].append(time.perf_counter() - start)
            assert (out.generated == STEPS * STEP_TOKENS).all()
    ratio = lambda name: statistics.median(a / b for a, b in zip(seconds[name], seconds["plain"], strict=True))  # noqa: E731
    return {
        "tokens": prompts * particles * STEPS * STEP_TOKENS, "plain_s": statistics.median(seconds["plain"]),
        "filter_over_plain": ratio("filter"), "filter_with_reward_over_plain": ratio("filter_with_reward"),
    }  # fmt: skip


def memory(lm: LanguageModel, particles: int, length: int = 2048) -> dict:
    """Bytes of keys and values, and of all that the compiled filter sets aside."""
    text = " ".join(f"w{4 + j % 900}" for j in range(length))
    ids, known = lm.pad([text])
    weights, written = Weights(lm.graph, lm.params), STEPS * STEP_TOKENS
    keys = jax.random.split(jax.random.key(0), 1)
    prefix, _, _ = _begin(weights, jnp.asarray(ids), jnp.asarray(known), keys, None, particles, written)
    cache = _grow(weights, None, prefix, particles, written)
    size = lambda tree: sum(leaf.nbytes for leaf in jax.tree.leaves((tree.keys, tree.values)))  # noqa: E731
    config = lm.config
    a_token = 2 * 4 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    settings = Settings(particles, STEPS, STEP_TOKENS, delimiter=None, policy=Policy("always"), power=1.1)
    plan, _ = plan_for(lm, None, [text], settings)
    compiled = _decode_batch.lower(
        lm.graph, lm.params, None, None, jnp.asarray(ids), jnp.asarray(known), None, keys, Proposal(jnp.float32(1.0)),
        jnp.float32(1.1), None, particles, None, settings.policy, plan,
    ).compile()  # fmt: skip
    return {
        "particles": particles, "prompt_tokens": int(known.sum()), "written_tokens": written,
        "kv_bytes": size(prefix) + size(cache), "kv_of_prompt_and_written": a_token * (length + particles * written),
        "kv_if_prompts_were_copied": a_token * particles * (length + written),
        "filter_temporary_bytes": compiled.compiled.memory_analysis().temp_size_in_bytes,
    }  # fmt: skip


def main() -> None:
    """Both, for one shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="25M", choices=list(lm_decode.SHAPES))
    parser.add_argument("--particles", type=int, default=64)
    parser.add_argument("--prompts", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        lm, reward = models(arguments.shape, Path(folder))
        print(json.dumps({"shape": arguments.shape, **memory(lm, arguments.particles)}), flush=True)
        found = overhead(lm, reward, arguments.prompts, arguments.particles, arguments.rounds)
        print(json.dumps({"shape": arguments.shape, **found}))


if __name__ == "__main__":
    main()
