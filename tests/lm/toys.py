"""Small random decoders whose laws the tests know exactly."""

from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ppl.lm.checkpoint import save_folder
from ppl.lm.config import DecoderConfig
from ppl.lm.decoder import Decoder
from ppl.lm.tokenizer import number_tokenizer

WORDS = ("Numbers:", "Target:", "left:", "+", "-", "=")
TOKENIZER = number_tokenizer(WORDS, max_number=9)  # 4 special tokens, a newline, 6 words, 10 numbers
NEWLINE = 4


def toy_config(**changes) -> DecoderConfig:
    """Two layers, two query heads on each key head."""
    sizes = {
        "vocab_size": TOKENIZER.get_vocab_size(),
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
    }
    return DecoderConfig(**(sizes | changes))


@cache
def toy_decoder(seed: int = 0, **changes) -> Decoder:
    """A random decoder with weights well above the usual scale, so that next-token laws are far from uniform."""
    rng = np.random.default_rng(seed)
    graph, shapes = nnx.split(nnx.eval_shape(lambda: Decoder(toy_config(**changes), rngs=nnx.Rngs(0))))

    def fill(path, leaf):
        spread = 0.3 if leaf.ndim == 1 else 1.7 * toy_config(**changes).hidden_size ** -0.5
        # Linear maps [*outputs, inputs] are drawn with their inputs first.
        turned = any(name in jax.tree_util.keystr(path) for name in ("'qkv'", "'out'", "'up'", "'down'", "'head'"))
        drawn = rng.normal(size=np.roll(leaf.shape, 1) if turned else leaf.shape)
        drawn = np.moveaxis(drawn, 0, -1) if turned else drawn
        return jnp.asarray((leaf.ndim == 1) + spread * drawn, jnp.float32)

    return nnx.merge(graph, jax.tree_util.tree_map_with_path(fill, shapes))


def full_logits(decoder: Decoder, tokens) -> jax.Array:
    """Logits [batch, length, vocab] by one pass without a cache.

    Batch and length are filled up with tokens that come later or are another row's, which change nothing (tested in
    `test_decoder.py`), so that the many lengths of the tests share one compilation.
    """
    tokens = np.asarray(tokens)
    padded = np.zeros([-(-size // 8) * 8 for size in tokens.shape], np.int32)
    padded[: tokens.shape[0], : tokens.shape[1]] = tokens
    return _logits(*nnx.split(decoder), padded)[: tokens.shape[0], : tokens.shape[1]]


@partial(jax.jit, static_argnums=0)
def _logits(graph, params, tokens):
    decoder = nnx.merge(graph, params)
    hidden, _ = decoder.hidden(tokens, jnp.ones(tokens.shape, bool))
    return decoder.logits(hidden)


def write_toy_folder(folder: Path, *, dtype=jnp.float32, seed: int = 0, **changes) -> Decoder:
    """A model folder on disk, and the decoder that it holds."""
    decoder = toy_decoder(seed, **changes)
    save_folder(folder, decoder, TOKENIZER, dtype=dtype)
    return decoder
