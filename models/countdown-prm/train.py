"""Train the bundled process reward model on the language model's own rollouts.

    python models/countdown-prm/train.py [--minutes 20] [--prompts 50000] [--out models/countdown-prm]

The label of a rollout is whether the verifier accepts it, and every step's end is asked to predict that label: so the
score of a prefix is P(the language model ends up right from here). No exact solver is involved. Many puzzles with few
rollouts each: a reward trained on many rollouts of few puzzles memorises the puzzles.
"""

import argparse
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import recipe
from countdown import corpus

from ppl.decode.engine import Settings, decode
from ppl.lm import LanguageModel, load
from ppl.lm.checkpoint import save_folder
from ppl.lm.decoder import Decoder
from ppl.tasks import Arithmetic, Countdown, Problem

ROLLOUTS, BATCH, PEAK = 4, 192, 0.01
LONGEST = 96  # room for what a language model may ramble; rollouts over the longest bucket are left out below
# (task, share of the prompts): the kinds that the language model knows, the measured ones most often.
SHARES = (
    ("countdown", 3, 3), ("countdown", 4, 35), ("game24", 4, 15), ("countdown", 5, 10), ("countdown", 6, 5),
    ("arithmetic", 2, 2), ("arithmetic", 3, 5), ("arithmetic", 4, 7), ("arithmetic", 5, 8), ("arithmetic", 6, 10),
)  # fmt: skip


def rollouts(lm: LanguageModel, kind: str, size: int, num: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Token rows [num * ROLLOUTS, length] and labels (right or not) of rollouts on training prompts of one kind."""
    task = Arithmetic(size) if kind == "arithmetic" else Countdown(size)
    prompts = [prompt for prompt, _ in corpus.examples(seed, kind, size, num)]
    settings = Settings(ROLLOUTS, task.max_steps, task.max_step_tokens)
    out = decode(lm, None, prompts, jax.random.split(jax.random.key(seed), num), settings)
    flat = [(prompt, text) for prompt, texts in zip(prompts, out.texts, strict=True) for text in texts]
    labels = np.asarray([task.verify(Problem("rollout", prompt), text) for prompt, text in flat])
    rows, _ = corpus.token_rows(lm.tokenizer, flat, LONGEST)
    ended = out.finished.reshape(-1)
    rows[~ended] = np.where(rows[~ended] == lm.config.eos_token_id, 0, rows[~ended])  # a text cut off has no end
    return rows, labels


def loss(graph: nnx.GraphDef, params: nnx.State, delimiter: int, rows: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean binary cross-entropy of the label at the end of each step (not at the prompt's own newline)."""
    decoder, rows = nnx.merge(graph, params), rows.astype(jnp.int32)
    ends = (rows == delimiter) | (rows == decoder.config.eos_token_id)
    ends &= jnp.cumsum(ends, axis=1) > 1
    hidden, _ = decoder.hidden(rows, rows != 0)
    logits = decoder.scores(hidden)[..., 0]
    signed = jnp.where(labels[:, None], logits, -logits)
    return -(jax.nn.log_sigmoid(signed) * ends).sum() / ends.sum()


def batches(rows: np.ndarray, labels: np.ndarray, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Shuffled batches, trimmed to a few lengths; epoch after epoch."""
    rng = np.random.default_rng(seed)
    used = (rows != 0).sum(axis=1)
    groups = np.digitize(used, list(corpus.MIXTURE), right=True)
    for _ in itertools.count():
        plan = []
        for group, length in enumerate(corpus.MIXTURE):
            members = rng.permutation(np.flatnonzero(groups == group))
            plan += [(members[i : i + BATCH], length) for i in range(0, len(members) - BATCH + 1, BATCH)]
        for index in rng.permutation(len(plan)):
            chosen, length = plan[index]
            yield rows[chosen, :length], labels[chosen]


def train(minutes: float, num_prompts: int, lm_folder: str, out: Path, seed: int) -> None:
    """Make rollouts, train for `minutes` of wall time, and write the model folder."""
    lm = load(lm_folder)
    parts = []
    for i, (kind, size, share) in enumerate(SHARES):
        num = round(num_prompts * share / sum(s for *_, s in SHARES))
        parts.append(rollouts(lm, kind, size, num, seed=100 * (seed + 1) + i))
        print(
            json.dumps({"kind": kind, "size": size, "prompts": num, "right": round(float(parts[-1][1].mean()), 4)}),
            flush=True,
        )
    rows, labels = (np.concatenate(column) for column in zip(*parts, strict=True))
    decoder = Decoder(recipe.config(lm.config.vocab_size, num_labels=1), rngs=nnx.Rngs(seed))
    # The language model's own weights are the start: it knows the numbers already.
    nnx.update(decoder, lm.params)
    graph, params = nnx.split(decoder)
    delimiter = lm.token_id("\n")
    params, log = recipe.fit(
        params, lambda p, *b: loss(graph, p, delimiter, *b), batches(rows, labels, seed), minutes=minutes, peak=PEAK
    )
    save_folder(out, nnx.merge(graph, params), lm.tokenizer)
    summary = {"minutes": minutes, "seed": seed, "rollouts": len(rows), "right": round(float(labels.mean()), 4)}
    (out / "training.json").write_text(json.dumps({**summary, "log": log[:: max(1, len(log) // 40)]}) + "\n")


if __name__ == "__main__":
    recipe.keep_memory()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--prompts", type=int, default=50_000)
    parser.add_argument("--lm", default="countdown")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    train(arguments.minutes, arguments.prompts, arguments.lm, arguments.out, arguments.seed)
