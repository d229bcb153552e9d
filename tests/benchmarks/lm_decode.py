"""Tokens a second of `LanguageModel.complete` beside `transformers.generate`, on the same weights. Prints JSON lines.

    python tests/benchmarks/lm_decode.py [--shapes 25M 120M] [--batch 32] [--tokens 128] [--plot tokens.png]

Both sides sample from the model's own law, prompts of 32 tokens, no end before the last token, each side in a process
of its own (for its peak of memory), sides in turn, `--rounds` times; a side's figure is the best of its warm repeats.
Without `--python`, or where it has no torch, ours is measured alone. On a GPU it also reports the share of the
bandwidth floor: weights, keys and values read once a token step, over a measured copy bandwidth.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROMPT = 32
# vocabulary, width, inner width, layers, heads, key heads, head size, tied
SHAPES = {
    "25M": (19200, 384, 1024, 10, 6, 6, 64, True),
    "120M": (45056, 768, 2048, 12, 12, 12, 64, True),
    "qwen2.5-1.5B": (151936, 1536, 8960, 28, 12, 2, 128, True),
}


def write_model(shape: str, folder: Path, dtype: str) -> int:
    """A random Llama-shaped model in `folder`; returns its number of parameters."""
    import jax
    import jax.numpy as jnp
    from flax import nnx
    from tokenizers import Tokenizer, models, pre_tokenizers

    from ppl.lm import save_folder
    from ppl.lm.config import DecoderConfig
    from ppl.lm.decoder import Decoder

    vocab, width, inner, layers, heads, kv, dim, tied = SHAPES[shape]
    config = DecoderConfig(vocab, width, inner, layers, heads, kv, 1024, dim, tie_word_embeddings=tied, qkv_bias=False)
    decoder = Decoder(config, rngs=nnx.Rngs(0))
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(vocab)}, unk_token="w3"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    save_folder(folder, decoder, words, dtype=jnp.dtype(dtype))
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(decoder)))


def ours(folder: Path, batch: int, tokens: int, dtype: str, repeats: int) -> dict:
    """Our side: seconds of the first call and of each warm one."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from ppl.lm import load
    from ppl.lm.generation import Weights, generate
    from ppl.lm.proposals import Proposal

    lm = load(folder, dtype=jnp.dtype(dtype))
    ids = np.random.default_rng(0).integers(4, lm.config.vocab_size, (batch, PROMPT)).astype(np.int32)
    seconds = []
    for i in range(repeats + 1):
        start = time.perf_counter()
        generate(
            Weights(lm.graph, lm.params), ids, ids >= 0, jax.random.split(jax.random.key(i), batch),
            Proposal(jnp.float32(1.0)), None, None, num_samples=1, max_tokens=tokens, eos=(),
        )  # fmt: skip
        seconds.append(time.perf_counter() - start)
    return {"cold_s": seconds[0], "warm_s": seconds[1:], **floor(lm, batch, tokens, min(seconds[1:]))}


def floor(lm, batch: int, tokens: int, seconds: float) -> dict:
    """On an accelerator: the share of what its memory could do."""
    import jax
    import jax.numpy as jnp

    if jax.default_backend() == "cpu":
        return {}
    big = jnp.ones(1 << 30, jnp.bfloat16)
    copy = jax.jit(lambda x: x + 1)
    copy(big).block_until_ready()
    start = time.perf_counter()
    for _ in range(10):
        big = copy(big)
    big.block_until_ready()
    bandwidth = 10 * 2 * big.nbytes / (time.perf_counter() - start)
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(lm.params))
    config = lm.config
    a_token = (
        2
        * config.num_hidden_layers
        * config.num_key_value_heads
        * config.head_dim
        * lm.params.embed_tokens.dtype.itemsize
    )
    read = tokens * weights + batch * sum(PROMPT + t for t in range(tokens)) * a_token
    return {
        "device": jax.devices()[0].device_kind, "copy_bytes_per_s": bandwidth,
        "share_of_floor": read / bandwidth / seconds,
        "peak_bytes": jax.devices()[0].memory_stats()["peak_bytes_in_use"],
    }  # fmt: skip


def theirs(folder: Path, batch: int, tokens: int, dtype: str, repeats: int) -> dict:
    """The side of transformers."""
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).to(device).eval()
    torch.manual_seed(0)
    ids = torch.randint(4, model.config.vocab_size, (batch, PROMPT), device=device)
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        with torch.inference_mode():
            out = model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=True, top_k=0, max_new_tokens=tokens,
                min_new_tokens=tokens, pad_token_id=0,
            )  # fmt: skip
        if device == "cuda":
            torch.cuda.synchronize()
        assert out.shape[1] == PROMPT + tokens
        seconds.append(time.perf_counter() - start)
    found = {"cold_s": seconds[0], "warm_s": seconds[1:]}
    return found | ({"peak_bytes": torch.cuda.max_memory_allocated()} if device == "cuda" else {})


def side(name: str, python: Path | str, arguments: argparse.Namespace, folder: str, batch: int) -> dict:
    """One side in a process of its own."""
    command = [
        str(python), __file__, "--side", name, "--folder", folder, "--batch", str(batch), "--tokens",
        str(arguments.tokens), "--dtype", arguments.dtype, "--repeats", str(arguments.repeats),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Every shape and batch, both sides in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["25M", "120M"], choices=list(SHAPES))
    parser.add_argument("--batch", nargs="+", type=int, default=[32])
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--plot", type=Path, help="write tokens a second against batch")
    parser.add_argument("--python", type=Path, default=ROOT / "build" / "transformers" / "bin" / "python")
    parser.add_argument("--side", choices=["ours", "theirs"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        measure = {"ours": ours, "theirs": theirs}[arguments.side]
        found = measure(arguments.folder, arguments.batch[0], arguments.tokens, arguments.dtype, arguments.repeats)
        found.setdefault("peak_bytes", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
        print(json.dumps(found))
        return
    peer = (
        arguments.python.is_file()
        and not subprocess.run([arguments.python, "-c", "import torch, transformers"], capture_output=True).returncode
    )
    rows = []
    for shape in arguments.shapes:
        with tempfile.TemporaryDirectory() as folder:
            parameters = write_model(shape, Path(folder), arguments.dtype)
            for batch in arguments.batch:
                rounds = []
                for _ in range(arguments.rounds):
                    rounds.append({"ours": side("ours", sys.executable, arguments, folder, batch)})
                    if peer:
                        rounds[-1]["theirs"] = side("theirs", arguments.python, arguments, folder, batch)
                row = {"shape": shape, "parameters": parameters, "dtype": arguments.dtype, "batch": batch}
                for name in rounds[0]:
                    best = min(second for r in rounds for second in r[name]["warm_s"])
                    row[f"{name}_tokens_per_s"] = batch * arguments.tokens / best
                    row[f"{name}_cold_s"] = min(r[name]["cold_s"] for r in rounds)
                    row[f"{name}_peak_mb"] = min(r[name]["peak_bytes"] for r in rounds) / 2**20
                row |= {k: v for k, v in rounds[-1]["ours"].items() if k not in ("cold_s", "warm_s", "peak_bytes")}
                if peer:
                    row["ratio"] = row["ours_tokens_per_s"] / row["theirs_tokens_per_s"]
                rows.append(row)
                print(json.dumps(row), flush=True)
    if arguments.plot:
        plot(rows, arguments.plot)


def plot(rows: list[dict], path: Path) -> None:
    """Tokens a second against batch, a line for each shape and side."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for shape in dict.fromkeys(row["shape"] for row in rows):
        own = [row for row in rows if row["shape"] == shape]
        for name, style in (("ours", "o-"), ("theirs", "s--")):
            if f"{name}_tokens_per_s" in own[0]:
                label = f"{shape}, {'ppl.lm' if name == 'ours' else 'transformers'}"
                axes.plot([r["batch"] for r in own], [r[f"{name}_tokens_per_s"] for r in own], style, label=label)
    axes.set(
        xlabel="batch (rows)", ylabel="tokens a second", xscale="log", yscale="log", xticks=[r["batch"] for r in rows]
    )
    axes.set_xticklabels([str(r["batch"]) for r in rows])
    axes.legend()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
