"""Do the folders that we save open in `transformers`, and compute the same there? `make parity` runs it.

    python tests/parity/transformers_parity.py [--python build/transformers/bin/python]

Our side runs in the project's environment, writes model folders with random texts and our logits beside them, and
starts this script again with `--compare` under another interpreter, which has torch and transformers and none of ours.
Prints one line of JSON a folder; exits with 1 if the logits of any differ by 1e-4 or more.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

TOLERANCE = 1e-4
ROOT = Path(__file__).resolve().parents[2]
SHAPES = {"one-head-size": 4, "grouped-heads": 2}  # number of key-value heads of the random models
LENGTHS = (24, 17, 5)  # rows of a batch, padded on the right


def write(folder: Path) -> None:
    """Write random and bundled models with tokens and our logits into subfolders of `folder`."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    sys.path.insert(0, str(ROOT))
    from ppl.lm import bundled_models
    from ppl.lm.checkpoint import load_folder, save_folder
    from ppl.lm.config import DecoderConfig
    from ppl.lm.decoder import Decoder
    from ppl.lm.tokenizer import number_tokenizer

    words = number_tokenizer(("+", "="), max_number=93)
    models = {name: load_folder(path) for name, path in bundled_models().items()}
    for name, kv_heads in SHAPES.items():
        for labels in (0, 1):
            config = DecoderConfig(100, 32, 48, 3, 4, kv_heads, 64, rope_theta=5000.0, num_labels=labels)
            graph, params = nnx.split(Decoder(config, rngs=nnx.Rngs(labels)))
            decoder = nnx.merge(graph, jax.tree.map(lambda x: 1.5 * x, params))  # far from the uniform law
            models[f"{name}-{'reward' if labels else 'lm'}"] = decoder, words
    rng = np.random.default_rng(0)
    for name, (decoder, tokenizer) in models.items():
        valid = np.arange(max(LENGTHS)) < np.array(LENGTHS)[:, None]
        tokens = np.where(valid, rng.integers(4, decoder.config.vocab_size, valid.shape), decoder.config.pad_token_id)
        hidden, _ = decoder.hidden(jnp.asarray(tokens, jnp.int32), jnp.asarray(valid))
        last = hidden[np.arange(len(LENGTHS)), np.array(LENGTHS) - 1]
        ours = decoder.scores(last) if decoder.config.num_labels else decoder.logits(hidden)
        save_folder(folder / name, decoder, tokenizer, dtype=jnp.float32)
        np.savez(folder / name / "parity.npz", tokens=tokens, valid=valid, ours=np.asarray(ours))


def compare(folder: Path) -> bool:
    """Open every folder in `transformers` and print the largest difference of logits; are all below the tolerance?"""
    import torch
    import transformers

    good = True
    for path in sorted(folder.iterdir()):
        config = json.loads((path / "config.json").read_text())
        kind = (
            transformers.AutoModelForSequenceClassification
            if config["num_labels"]
            else transformers.AutoModelForCausalLM
        )
        model, report = kind.from_pretrained(path, dtype=torch.float32, output_loading_info=True)
        data = np.load(path / "parity.npz")
        with torch.no_grad():
            mask = torch.tensor(data["valid"]).long()
            theirs = model.eval()(input_ids=torch.tensor(data["tokens"]), attention_mask=mask).logits.numpy()
        compared = np.ones(len(LENGTHS), bool) if config["num_labels"] else data["valid"]
        difference = float(np.abs(theirs - data["ours"])[compared].max())
        loaded = not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        good &= loaded and difference < TOLERANCE
        print(
            json.dumps(
                {
                    "model": path.name,
                    "class": type(model).__name__,
                    "largest_difference": difference,
                    "largest_logit": float(np.abs(data["ours"])[compared].max()),
                    "every_tensor_in_place": loaded,
                    "transformers": transformers.__version__,
                }
            )
        )
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, default=ROOT / "build" / "transformers" / "bin" / "python")
    parser.add_argument("--compare", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.compare:
        return 0 if compare(arguments.compare) else 1
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        return subprocess.run([arguments.python, __file__, "--compare", folder]).returncode


if __name__ == "__main__":
    sys.exit(main())
