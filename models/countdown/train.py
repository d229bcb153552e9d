"""Train the bundled Countdown, Game-of-24 and arithmetic language model from scratch.

    python models/countdown/train.py [--minutes 46] [--out models/countdown]

A decoder of 0.93 M parameters on freshly generated solutions: no example is seen twice on purpose, and none is a
held-out problem (`corpus.py`). Games of 24 are few, so those do recur.
"""

import argparse
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

from ppl.lm.checkpoint import save_folder
from ppl.lm.decoder import Decoder

TOKENS_PER_BATCH = 7_000
PEAK = 0.03


def loss(graph: nnx.GraphDef, params: nnx.State, rows: jax.Array, prompts: jax.Array) -> jax.Array:
    """Mean negative log-likelihood of the solution tokens (the prompt is given, so it is not learnt)."""
    decoder, rows = nnx.merge(graph, params), rows.astype(jnp.int32)
    valid = rows != 0
    hidden, _ = decoder.hidden(rows[:, :-1], valid[:, :-1])
    log_probs = jax.nn.log_softmax(decoder.logits(hidden))
    picked = jnp.take_along_axis(log_probs, rows[:, 1:, None], axis=-1)[..., 0]
    weight = valid[:, 1:] & (jnp.arange(1, rows.shape[1]) >= prompts[:, None])
    return -(picked * weight).sum() / weight.sum()


def batches(seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches of one padded length each, in the shares of the mixture."""
    rng, lengths = np.random.default_rng(seed), list(corpus.MIXTURE)
    size = {length: TOKENS_PER_BATCH // length for length in lengths}
    steps = np.asarray([sum(share for *_, share in corpus.MIXTURE[length]) / size[length] for length in lengths])
    streams = {length: corpus.batches(seed, length, size[length]) for length in lengths}
    while True:
        yield next(streams[int(rng.choice(lengths, p=steps / steps.sum()))])


def train(minutes: float, out: Path, seed: int) -> None:
    """Train for `minutes` of wall time and write the model folder."""
    tok = corpus.tokenizer()
    graph, params = nnx.split(Decoder(recipe.config(tok.get_vocab_size()), rngs=nnx.Rngs(seed)))
    params, log = recipe.fit(params, lambda p, *b: loss(graph, p, *b), batches(seed), minutes=minutes, peak=PEAK)
    save_folder(out, nnx.merge(graph, params), tok)
    (out / "training.json").write_text(
        json.dumps({"minutes": minutes, "seed": seed, "log": log[:: max(1, len(log) // 40)]}) + "\n"
    )


if __name__ == "__main__":
    recipe.keep_memory()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=46.0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    train(arguments.minutes, arguments.out, arguments.seed)
