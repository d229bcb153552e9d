"""What the training recipes share: the shape of the bundled models, the optimiser, and a loop bound by the clock."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ppl.lm.config import DecoderConfig

WARMUP = 0.01  # share of the time budget
EMBEDDING_SCALE = 0.15  # Adam's rate for embedding, norms and head, relative to Muon's for the matrices

# glibc returns each step's large buffers to the system and faults them in again; keeping them took system time
# from 25% to 10% of the training run. They must be set before the process starts.
_ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 34),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 34),
    "MALLOC_TOP_PAD_": str(1 << 28),
}


def keep_memory() -> None:
    """Start this script anew with an allocator that keeps its memory, if it was not started so."""
    if sys.platform == "linux" and not all(name in os.environ for name in _ALLOCATOR):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **_ALLOCATOR})


def config(vocab_size: int, *, num_labels: int = 0) -> DecoderConfig:
    """The shape of both bundled models."""
    return DecoderConfig(
        vocab_size=vocab_size,
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=128,
        num_labels=num_labels,
    )


def optimizer() -> optax.GradientTransformation:
    """Muon for matrices, Adam for the rest; the rate is injected, because it follows the clock."""

    # Maps that the decoder holds as one array are orthogonalised apart: queries, keys and values, the gate.
    axes = {"'qkv'": (0, (1, 3)), "'up'": (0, 2), "'out'": (0, 1), "'down'": (0, 1)}

    def dimensions(params):
        def of(path, _):
            name = jax.tree_util.keystr(path)
            return next((optax.contrib.MuonDimensionNumbers(*at) for key, at in axes.items() if key in name), None)

        return jax.tree_util.tree_map_with_path(of, params)

    def build(learning_rate):
        muon = optax.contrib.muon(
            learning_rate,
            weight_decay=0.01,
            adam_b2=0.98,
            adam_learning_rate=learning_rate * EMBEDDING_SCALE,
            muon_weight_dimension_numbers=dimensions,
        )
        return optax.chain(optax.clip_by_global_norm(1.0), muon)

    return optax.inject_hyperparams(build)(learning_rate=0.0)


def fit(
    params: Any,
    loss: Callable[..., jax.Array],
    batches: Iterator[tuple],
    *,
    minutes: float,
    peak: float,
    every: int = 50,
) -> tuple[Any, list[dict]]:
    """Minimise `loss(params, *batch)` for `minutes` of wall time; returns the parameters and the log.

    The rate rises to `peak`, then falls linearly to zero with elapsed time, so that a shorter or slower run is a
    complete run, only of a weaker model.
    """
    tx = optimizer()
    state = tx.init(params)

    @jax.jit
    def step(params, state, batch, learning_rate):
        value, gradient = jax.value_and_grad(loss)(params, *batch)
        state.hyperparams["learning_rate"] = learning_rate
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    start, seen, log, recent = time.monotonic(), 0, [], []
    while (progress := (time.monotonic() - start) / (60 * minutes)) < 1:
        batch = next(batches)
        rate = peak * min(progress / WARMUP, (1 - progress) / (1 - WARMUP))
        params, state, value = step(params, state, batch, jnp.float32(rate))
        seen += len(batch[0])
        recent.append(float(value))
        if len(recent) == every:
            log.append(
                {"seconds": round(time.monotonic() - start), "examples": seen, "loss": round(float(np.mean(recent)), 4)}
            )
            print(json.dumps(log[-1]), flush=True)
            recent = []
    return params, log
