"""Where each of a decoder's arrays lies in a checkpoint: names, orientation, and what is stored in pieces.

The decoder holds what it multiplies at once as one array (queries, keys and values; gate and up), and checkpoints hold
them apart, or, GPT-2's, in another order. An `Entry` names the pieces and goes both ways; neither way rounds.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ppl.lm.config import DecoderConfig

Path = tuple[Any, ...]


class Entry(NamedTuple):
    """One array of the decoder: the `names` of its pieces in a checkpoint, each piece's `shapes` there, and the way
    from the pieces to the array (`join`) and back (`split`)."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    join: Callable[[Sequence[np.ndarray]], np.ndarray]
    split: Callable[[np.ndarray], list[np.ndarray]]


def entries(config: DecoderConfig) -> dict[Path, Entry]:
    """The entry of every parameter of `Decoder(config)`, by its path in the module."""
    return _gpt2(config) if config.model_type == "gpt2" else _llama_like(config)


def ignored(name: str) -> bool:
    """Is `name` a buffer that some checkpoints carry and every implementation computes anew?"""
    return name.endswith((".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias"))


def _as_is(name: str, *shape: int) -> Entry:
    return Entry((name,), (shape,), lambda pieces: pieces[0], lambda array: [array])


def _turned(name: str, *shape: int) -> Entry:
    """A linear map that the checkpoint stores the other way round."""
    return Entry((name,), (shape,), lambda pieces: pieces[0].T, lambda array: [array.T])


def _llama_like(config: DecoderConfig) -> dict[Path, Entry]:
    width, inner, dim = config.hidden_size, config.intermediate_size, config.head_dim
    kv = config.num_key_value_heads
    group = config.num_attention_heads // kv
    heads = kv * group * dim, kv * dim, kv * dim
    found: dict[Path, Entry] = {
        ("embed_tokens",): _as_is("model.embed_tokens.weight", config.vocab_size, width),
        ("norm", "scale"): _as_is("model.norm.weight", width),
    }

    # Queries that share a key head, that key head and its value head lie side by side: a shard of key heads is whole.
    def join_heads(pieces: Sequence[np.ndarray]) -> np.ndarray:
        q, k, v = (p.reshape(kv, -1, dim, *p.shape[1:]) for p in pieces)
        return np.concatenate([q, k, v], axis=1)

    def split_heads(array: np.ndarray) -> list[np.ndarray]:
        parts = np.split(array, [group, group + 1], axis=1)
        return [part.reshape(-1, *part.shape[3:]) for part in parts]

    for i in range(config.num_hidden_layers):
        at, ours = f"model.layers.{i}.", ("layers", i)
        attn = f"{at}self_attn."
        names = tuple(f"{attn}{part}_proj" for part in "qkv")
        found[*ours, "attention", "qkv"] = Entry(
            tuple(f"{name}.weight" for name in names), tuple((size, width) for size in heads), join_heads, split_heads
        )
        found[*ours, "attention", "out"] = _as_is(f"{attn}o_proj.weight", width, heads[0])
        if config.qkv_bias:
            found[*ours, "attention", "qkv_bias"] = Entry(
                tuple(f"{name}.bias" for name in names), tuple((size,) for size in heads), join_heads, split_heads
            )
        if config.out_bias:
            found[*ours, "attention", "out_bias"] = _as_is(f"{attn}o_proj.bias", width)
        if config.qk_norm:
            for part in ("q_norm", "k_norm"):
                found[*ours, "attention", part, "scale"] = _as_is(f"{attn}{part}.weight", dim)
        gate = tuple(f"{at}mlp.{part}_proj" for part in ("gate", "up"))
        found[*ours, "mlp", "up"] = Entry(
            tuple(f"{name}.weight" for name in gate), ((inner, width),) * 2, np.stack, list
        )
        found[*ours, "mlp", "down"] = _as_is(f"{at}mlp.down_proj.weight", width, inner)
        if config.mlp_bias:
            found[*ours, "mlp", "up_bias"] = Entry(
                tuple(f"{name}.bias" for name in gate), ((inner,),) * 2, np.stack, list
            )
            found[*ours, "mlp", "down_bias"] = _as_is(f"{at}mlp.down_proj.bias", width)
        norms = {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
        if config.post_norms:  # Gemma gives one of these names another place
            norms = {
                "attention_norm": "input_layernorm", "attention_post_norm": "post_attention_layernorm",
                "mlp_norm": "pre_feedforward_layernorm", "mlp_post_norm": "post_feedforward_layernorm",
            }  # fmt: skip
        for part, name in norms.items():
            found[*ours, part, "scale"] = _as_is(f"{at}{name}.weight", width)
    return found | _heads(config)


def _gpt2(config: DecoderConfig) -> dict[Path, Entry]:
    width, inner, dim, heads = config.hidden_size, config.intermediate_size, config.head_dim, config.num_attention_heads

    # One array for queries, keys and values, each of them with all heads. GPT-2 stores its linear maps [in, out].
    def join(pieces: Sequence[np.ndarray]) -> np.ndarray:
        outputs = pieces[0].T
        return outputs.reshape(3, heads, dim, *outputs.shape[1:]).swapaxes(0, 1)

    def split(array: np.ndarray) -> list[np.ndarray]:
        stored = array.swapaxes(0, 1)
        return [stored.reshape(3 * width, *stored.shape[3:]).T]

    def single(name: str, *shape: int) -> Entry:
        """The feed-forward layer's first map: no gate beside it."""
        return Entry((name,), (shape,), lambda p: p[0].T[None], lambda array: [array[0].T])

    found: dict[Path, Entry] = {
        ("embed_tokens",): _as_is("transformer.wte.weight", config.vocab_size, width),
        ("embed_positions",): _as_is("transformer.wpe.weight", config.max_position_embeddings, width),
    }
    norms = {("norm",): "ln_f"}
    for i in range(config.num_hidden_layers):
        at, ours = f"transformer.h.{i}.", ("layers", i)
        found[*ours, "attention", "qkv"] = Entry((f"{at}attn.c_attn.weight",), ((width, 3 * width),), join, split)
        found[*ours, "attention", "qkv_bias"] = Entry((f"{at}attn.c_attn.bias",), ((3 * width,),), join, split)
        found[*ours, "attention", "out"] = _turned(f"{at}attn.c_proj.weight", width, width)
        found[*ours, "attention", "out_bias"] = _as_is(f"{at}attn.c_proj.bias", width)
        found[*ours, "mlp", "up"] = single(f"{at}mlp.c_fc.weight", width, inner)
        found[*ours, "mlp", "up_bias"] = single(f"{at}mlp.c_fc.bias", inner)
        found[*ours, "mlp", "down"] = _turned(f"{at}mlp.c_proj.weight", inner, width)
        found[*ours, "mlp", "down_bias"] = _as_is(f"{at}mlp.c_proj.bias", width)
        norms |= {(*ours, "attention_norm"): f"h.{i}.ln_1", (*ours, "mlp_norm"): f"h.{i}.ln_2"}
    for path, name in norms.items():
        found[*path, "scale"] = _as_is(f"transformer.{name}.weight", width)
        found[*path, "bias"] = _as_is(f"transformer.{name}.bias", width)
    return found | _heads(config)


def _heads(config: DecoderConfig) -> dict[Path, Entry]:
    width, labels = config.hidden_size, config.num_labels
    if not labels:
        return {} if config.tie_word_embeddings else {("head",): _as_is("lm_head.weight", config.vocab_size, width)}
    if config.score_hidden:
        return {
            ("score_hidden",): _turned("score.0.weight", width, width),
            ("score_hidden_bias",): _as_is("score.0.bias", width),
            ("score",): _turned("score.2.weight", labels, width),
            ("score_bias",): _as_is("score.2.bias", labels),
        }
    found: dict[Path, Entry] = {("score",): _turned("score.weight", labels, width)}
    return found | ({("score_bias",): _as_is("score.bias", labels)} if config.score_bias else {})
