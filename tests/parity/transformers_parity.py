"""Do our decoder and `transformers` compute the same, from their folders and from ours? `make parity` runs it.

    python tests/parity/transformers_parity.py [--python build/transformers/bin/python] [--seed 1]

The other interpreter has torch and transformers and none of ours. It first makes random checkpoints of every family
(`tests/lm/golden/make.py`, under a seed that the committed ones do not have); our side loads them and compares logits
and 64 greedy tokens, and saves them and the bundled models anew; then it opens what we saved and compares logits once
more. Prints one line of JSON a folder and direction; exits with 1 if any logits differ by 1e-4 or more, or any token.
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
LENGTHS = (24, 17, 5)  # rows of a batch, padded on the right


def load_theirs(made: Path, saved: Path) -> bool:
    """Compare our logits with theirs for every folder in `made`, and save each, with our logits, into `saved`."""
    import jax.numpy as jnp

    sys.path.insert(0, str(ROOT))
    from ppl.lm import bundled_models
    from ppl.lm.checkpoint import load_folder, save_folder

    good = True
    models = {
        path.name: (path, np.load(path / "expected.npz")) for path in sorted(made.iterdir()) if path.name != "tokenizer"
    }
    rng = np.random.default_rng(0)
    valid = np.arange(max(LENGTHS)) < np.array(LENGTHS)[:, None]
    for name, path in bundled_models().items():
        tokens = np.where(valid, rng.integers(4, 1016, valid.shape), 0)
        models[name] = path, {"tokens": tokens, "valid": valid}
    for name, (path, known) in models.items():
        decoder, tokenizer = load_folder(path)
        labels = decoder.config.num_labels

        def ours(tokens, valid, decoder=decoder, labels=labels):
            hidden, _ = decoder.hidden(jnp.asarray(tokens, jnp.int32), jnp.asarray(valid))
            out = np.asarray(decoder.scores(hidden) if labels else decoder.logits(hidden))
            one = labels and not decoder.config.score_bias  # a sequence classifier tells of the last token alone
            return out[np.arange(len(valid)), valid.sum(axis=1) - 1] if one else out

        logits = ours(known["tokens"], known["valid"])
        save_folder(saved / name, decoder, tokenizer, dtype=jnp.float32)
        np.savez(saved / name / "parity.npz", tokens=known["tokens"], valid=known["valid"], ours=logits)
        if "logits" not in known:
            continue
        compared = known["valid"] if logits.ndim == 3 else np.ones(len(logits), bool)
        row = {"model": name, "direction": "theirs to ours"}
        row["largest_difference"] = float(np.abs(logits - known["logits"])[compared].max())
        row["largest_logit"] = float(np.abs(logits)[compared].max())
        good &= row["largest_difference"] < TOLERANCE
        if "greedy" in known:
            text = np.concatenate([known["prompt"], known["greedy"]])[None]
            best = ours(text, text >= 0)[0, len(known["prompt"]) - 1 : -1].argmax(axis=-1)
            row["greedy_tokens_equal"] = int((best == known["greedy"]).sum())
            good &= row["greedy_tokens_equal"] == len(known["greedy"])
        print(json.dumps(row), flush=True)
    return good


def compare(folder: Path) -> bool:
    """Open every folder in `transformers` and print the largest difference of logits; are all below the tolerance?"""
    import torch
    import transformers

    good = True
    for path in sorted(folder.iterdir()):
        config = json.loads((path / "config.json").read_text())
        architecture = config["architectures"][0]
        if architecture == "Qwen2ForProcessRewardModel":
            continue  # a class of its authors' own code, which transformers has not
        kind = getattr(transformers, architecture)
        model, report = kind.from_pretrained(path, dtype=torch.float32, output_loading_info=True)
        data = np.load(path / "parity.npz")
        with torch.no_grad():
            mask = torch.tensor(data["valid"]).long()
            theirs = model.eval()(input_ids=torch.tensor(data["tokens"]), attention_mask=mask).logits.numpy()
        compared = np.ones(len(LENGTHS), bool) if theirs.ndim == 2 else data["valid"]
        difference = float(np.abs(theirs - data["ours"])[compared].max())
        loaded = not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        good &= loaded and difference < TOLERANCE
        print(
            json.dumps(
                {
                    "model": path.name,
                    "direction": "ours to theirs",
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
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--compare", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.compare:
        return 0 if compare(arguments.compare) else 1
    with tempfile.TemporaryDirectory() as folder:
        made, saved = Path(folder) / "made", Path(folder) / "saved"
        make = ROOT / "tests" / "lm" / "golden" / "make.py"
        command = [arguments.python, make, "--out", made, "--seed", str(arguments.seed)]
        subprocess.run(command, check=True, capture_output=True)
        loaded = load_theirs(made, saved)
        opened = subprocess.run([arguments.python, __file__, "--compare", saved]).returncode == 0
        return 0 if loaded and opened else 1


if __name__ == "__main__":
    sys.exit(main())
