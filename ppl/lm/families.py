"""Families of public checkpoints: how each one's `config.json` says what a `DecoderConfig` says, both ways.

A family is a row of `FAMILIES`: what it has by itself, the keys that it renames, and two functions for what a
rename cannot say. Llama 2 and 3, Mistral, Qwen 2, 2.5 and 3, Gemma 2, the text part of Gemma 3, and GPT-2.
Configurations are written with the older, flat keys for rotary positions, which every `transformers` reads.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from ppl.lm.config import DecoderConfig, RopeScaling

Raw = dict[str, Any]

# DecoderConfig's field: the key in config.json; what most families share.
_SHARED = {
    **{
        name: name
        for name in (
            "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
            "num_key_value_heads", "max_position_embeddings", "head_dim", "tie_word_embeddings", "bos_token_id",
            "eos_token_id", "pad_token_id",
        )
    },
    "norm_eps": "rms_norm_eps",
}  # fmt: skip
_ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}


class Family(NamedTuple):
    """`classes`: the architecture names of a causal model, a sequence and a token classifier; `has`: fields that every
    member has; `keys`: where a field is in config.json; `defaults`: of keys that a file may leave out; `fixed`: keys
    that may only have one value; `activation`: which key names it; `read`, `write`: the rest."""

    classes: tuple[str, str, str]
    has: Mapping[str, Any]
    defaults: Mapping[str, Any]
    read: Callable[[Raw], Raw]
    write: Callable[[DecoderConfig], Raw]
    keys: Mapping[str, str] = _SHARED
    fixed: Mapping[str, Any] = {}
    activation: str = "hidden_act"


def _classes(prefix: str) -> tuple[str, str, str]:
    return f"{prefix}ForCausalLM", f"{prefix}ForSequenceClassification", f"{prefix}ForTokenClassification"


def _read_rope(raw: Raw) -> Raw:
    """Rotary positions from flat keys, or `rope_parameters` in newer files (Gemma 3 nests them by kind of layer)."""
    nested = raw.get("rope_parameters") or {}
    whole = nested.get("full_attention", nested)
    local = (nested.get("sliding_attention") or {}).get("rope_theta", raw.get("rope_local_base_freq"))
    scaling = raw.get("rope_scaling") or whole
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind not in ("default", "linear", "llama3"):
        raise ValueError(f"rope_scaling of type {kind!r} is not supported; known: 'default', 'linear', 'llama3'")
    stretched = None
    if kind != "default":
        names = {"factor": "factor"}
        if kind == "llama3":
            names |= {
                "low": "low_freq_factor", "high": "high_freq_factor",
                "original_length": "original_max_position_embeddings",
            }  # fmt: skip
        if missing := [key for key in names.values() if key not in scaling]:
            raise ValueError(f"rope_scaling of type {kind!r} lacks {missing[0]!r}, got {scaling}")
        stretched = RopeScaling(kind, **{field: scaling[key] for field, key in names.items()})
    read: Raw = {"rope_scaling": stretched, "rope_local_theta": local}
    theta = whole.get("rope_theta", raw.get("rope_theta"))
    return read if theta is None else read | {"rope_theta": theta}


def _write_rope(config: DecoderConfig) -> Raw:
    raw: Raw = {"rope_theta": config.rope_theta}
    if config.rope_local_theta is not None:
        raw["rope_local_base_freq"] = config.rope_local_theta
    if (scaling := config.rope_scaling) is not None:
        raw["rope_scaling"] = {"rope_type": scaling.kind, "factor": scaling.factor}
        if scaling.kind == "llama3":
            raw["rope_scaling"] |= {
                "low_freq_factor": scaling.low,
                "high_freq_factor": scaling.high,
                "original_max_position_embeddings": scaling.original_length,
            }
    return raw


def _windows(raw: Raw, slides: Callable[[int], bool]) -> tuple[int | None, ...]:
    """Each layer's window: by `layer_types` where the file has them, else by `slides` of the layer's number."""
    size, layers = raw.get("sliding_window"), raw["num_hidden_layers"]
    if size is None:
        return ()
    kinds = raw.get("layer_types") or ["sliding_attention" if slides(i) else "full_attention" for i in range(layers)]
    if unknown := set(kinds) - {"sliding_attention", "full_attention"}:
        raise ValueError(f"layer_types: {sorted(unknown)[0]!r} is not supported")
    windows = tuple(size if kind == "sliding_attention" else None for kind in kinds)
    return windows if any(windows) else ()


def _write_windows(config: DecoderConfig) -> Raw:
    if not config.windows:
        return {"sliding_window": None}
    kinds = ["full_attention" if window is None else "sliding_attention" for window in config.windows]
    return {"sliding_window": next(w for w in config.windows if w is not None), "layer_types": kinds}


def _read_llama(raw: Raw) -> Raw:
    bias = bool(raw.get("attention_bias"))
    return {**_read_rope(raw), "qkv_bias": bias, "out_bias": bias, "mlp_bias": bool(raw.get("mlp_bias"))}


def _write_llama(config: DecoderConfig) -> Raw:
    return {**_write_rope(config), "attention_bias": config.qkv_bias, "mlp_bias": config.mlp_bias}


def _read_mistral(raw: Raw) -> Raw:
    return {**_read_rope(raw), "windows": _windows(raw, lambda i: True)}


def _write_mistral(config: DecoderConfig) -> Raw:
    return {**_write_rope(config), "sliding_window": _write_windows(config)["sliding_window"]}


def _read_qwen(raw: Raw) -> Raw:
    windows = _windows(raw, lambda i: i >= raw.get("max_window_layers", 28)) if raw.get("use_sliding_window") else ()
    bias = {"qkv_bias": bool(raw.get("attention_bias")), "out_bias": bool(raw.get("attention_bias"))}
    return {**_read_rope(raw), "windows": windows, **(bias if raw["model_type"] == "qwen3" else {})}


def _write_qwen(config: DecoderConfig) -> Raw:
    raw = {**_write_rope(config), **_write_windows(config), "use_sliding_window": bool(config.windows)}
    return raw | ({"attention_bias": config.qkv_bias} if config.model_type == "qwen3" else {})


def _read_gemma(raw: Raw) -> Raw:
    every = raw.get("sliding_window_pattern", 6) if raw["model_type"] == "gemma3_text" else 2
    bias = bool(raw.get("attention_bias"))
    return {
        **_read_rope(raw),
        "windows": _windows(raw, lambda i: bool((i + 1) % every)),
        "query_scale": raw["query_pre_attn_scalar"] ** -0.5,
        "attention_softcap": raw["attn_logit_softcapping"],
        "logit_softcap": raw["final_logit_softcapping"],
        "embedding_scale": raw["hidden_size"] ** 0.5,
        "qkv_bias": bias,
        "out_bias": bias,
    }


def _write_gemma(config: DecoderConfig) -> Raw:
    return {
        **_write_rope(config),
        **_write_windows(config),
        "query_pre_attn_scalar": round(
            (config.query_scale or config.head_dim**-0.5) ** -2
        ),  # transformers wants an int
        "attn_logit_softcapping": config.attention_softcap,
        "final_logit_softcapping": config.logit_softcap,
        "attention_bias": config.qkv_bias,
    }


def _read_gpt2(raw: Raw) -> Raw:
    inner = raw.get("n_inner") or 4 * raw["n_embd"]
    return {"num_key_value_heads": raw["n_head"], "intermediate_size": inner}


def _write_gpt2(config: DecoderConfig) -> Raw:
    return {"n_inner": config.intermediate_size}


_GEMMA = {
    "norm": "rms_plus_one", "activation": "gelu_tanh", "post_norms": True,
}  # fmt: skip
_GEMMA_DEFAULTS = {
    "num_key_value_heads": 4, "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh", "tie_word_embeddings": True,
    "query_pre_attn_scalar": 256, "sliding_window": 4096, "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0,
    "rms_norm_eps": 1e-6,
}  # fmt: skip
_UNTIED = {"tie_word_embeddings": False, "hidden_act": "silu", "rms_norm_eps": 1e-6}
_GPT2_KEYS = {
    "vocab_size": "vocab_size", "hidden_size": "n_embd", "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head", "max_position_embeddings": "n_positions", "norm_eps": "layer_norm_epsilon",
    "tie_word_embeddings": "tie_word_embeddings", "bos_token_id": "bos_token_id", "eos_token_id": "eos_token_id",
    "pad_token_id": "pad_token_id",
}  # fmt: skip

FAMILIES: dict[str, Family] = {
    "llama": Family(
        _classes("Llama"), {}, {**_UNTIED, "bos_token_id": 1, "eos_token_id": 2}, _read_llama, _write_llama
    ),
    "mistral": Family(
        _classes("Mistral"),
        {},
        {**_UNTIED, "bos_token_id": 1, "eos_token_id": 2, "num_key_value_heads": 8, "sliding_window": 4096},
        _read_mistral,
        _write_mistral,
    ),
    "qwen2": Family(_classes("Qwen2"), {"qkv_bias": True}, {**_UNTIED}, _read_qwen, _write_qwen),
    "qwen3": Family(_classes("Qwen3"), {"qk_norm": True}, {**_UNTIED, "head_dim": 128}, _read_qwen, _write_qwen),
    "gemma2": Family(
        _classes("Gemma2"),
        _GEMMA,
        {**_GEMMA_DEFAULTS, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
        _read_gemma,
        _write_gemma,
        fixed={"use_bidirectional_attention": None},
        activation="hidden_activation",
    ),
    "gemma3_text": Family(
        ("Gemma3ForCausalLM", "Gemma3TextForSequenceClassification", ""),
        {**_GEMMA, "qk_norm": True},
        {
            **_GEMMA_DEFAULTS,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "rope_theta": 1_000_000.0,
            "rope_local_base_freq": 10_000.0,
        },
        _read_gemma,
        _write_gemma,
        fixed={"use_bidirectional_attention": False},
        activation="hidden_activation",
    ),
    "gpt2": Family(
        ("GPT2LMHeadModel", "GPT2ForSequenceClassification", ""),
        {
            "norm": "layer",
            "gated": False,
            "qkv_bias": True,
            "out_bias": True,
            "mlp_bias": True,
            "learned_positions": True,
        },
        {
            "activation_function": "gelu_new",
            "tie_word_embeddings": True,
            "layer_norm_epsilon": 1e-5,
            "bos_token_id": 50256,
            "eos_token_id": 50256,
        },
        _read_gpt2,
        _write_gpt2,
        keys=_GPT2_KEYS,
        fixed={
            "scale_attn_weights": True,
            "scale_attn_by_inverse_layer_idx": False,
            "reorder_and_upcast_attn": False,
            "add_cross_attention": False,
        },
        activation="activation_function",
    ),
}


def read_config(path: Path) -> DecoderConfig:
    """The configuration in `path` (a `config.json`).

    **Raises:** `ValueError` naming the file and the key that is missing or unsupported, or the known families.
    """
    raw = read_json(path)
    family = FAMILIES.get(str(raw.get("model_type")))
    if family is None:
        known = ", ".join(repr(name) for name in FAMILIES)
        raise ValueError(f"{path}: model_type {raw.get('model_type')!r} is not supported; known: {known}")
    raw = {**family.defaults, **raw}
    for key, supported in family.fixed.items():
        if raw.get(key, supported) not in (supported, None):
            raise ValueError(f"{path}: {key} {raw[key]!r} is not supported, only {supported!r}")
    act = raw[family.activation]
    if act not in _ACTIVATIONS:
        raise ValueError(f"{path}: {family.activation} {act!r} is not supported; known: {', '.join(_ACTIVATIONS)}")
    required = [family.keys[f.name] for f in fields(DecoderConfig)[:7] if f.name in family.keys]
    required = [key for key in required if key != "num_key_value_heads"]  # by default one for each query head
    if missing := [key for key in required if raw.get(key) is None]:
        raise ValueError(f"{path}: key {missing[0]!r} is missing")
    try:
        found = {name: raw[key] for name, key in family.keys.items() if raw.get(key) is not None}
        found.setdefault("num_key_value_heads", found["num_attention_heads"])
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            found[name] = _tokens(raw.get(name))
        found["eos_token_id"] = () if found["eos_token_id"] is None else found["eos_token_id"]
        found |= {**family.has, "activation": _ACTIVATIONS[act], **family.read(raw), **_read_head(raw)}
        return DecoderConfig(model_type=raw["model_type"], **found)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None


def write_config(config: DecoderConfig, path: Path, *, dtype: str) -> None:
    """Write `config` so that `transformers` opens it: a causal LM or a classifier; weights are `dtype`.

    **Raises:** `ValueError` if the family has no class for such a model.
    """
    family = FAMILIES[config.model_type]
    raw: Raw = {key: getattr(config, name) for name, key in family.keys.items()}
    raw |= {name: list(ids) if isinstance(ids := getattr(config, name), tuple) else ids for name in ("eos_token_id",)}
    activation = next(
        key for key, value in _ACTIVATIONS.items()
        if value == config.activation and (key not in ("gelu_new",) or config.model_type == "gpt2")
    )  # fmt: skip
    raw |= {family.activation: activation, **family.fixed, **family.write(config)}
    kind = 0 if not config.num_labels else 2 if config.score_bias else 1
    if config.score_hidden:
        architecture = "Qwen2ForProcessRewardModel"
    elif not (architecture := family.classes[kind]):
        raise ValueError(f"transformers has no {config.model_type} class for a score head with a bias")
    if config.num_labels:
        labels = {str(i): f"LABEL_{i}" for i in range(config.num_labels)}
        raw |= {"num_labels": config.num_labels, "id2label": labels, "label2id": {v: int(k) for k, v in labels.items()}}
    raw |= {"architectures": [architecture], "model_type": config.model_type, "torch_dtype": dtype}
    path.write_text(json.dumps(raw, indent=2) + "\n")


def read_json(path: Path) -> Raw:
    """The JSON object in `path`. **Raises:** `ValueError` naming the file."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"{path}: no such file; a model folder holds config.json, model.safetensors, tokenizer.json"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
    if not isinstance(raw, dict):
        raise ValueError(f"{path}: a JSON object is wanted, got {type(raw).__name__}")
    return raw


def _tokens(ids: Any) -> int | tuple[int, ...] | None:
    """One id, several, or None; older files write -1 for none."""
    if isinstance(ids, list):
        return tuple(ids) if len(ids) != 1 else ids[0]
    return None if ids == -1 else ids


def _read_head(raw: Raw) -> Raw:
    """Which head the file's architecture has; a file without one is a language model unless it counts labels."""
    architecture = (raw.get("architectures") or [""])[0]
    labels = raw.get("num_labels", len(raw.get("id2label") or {}))
    if architecture.endswith("ForProcessRewardModel"):
        return {"num_labels": labels or 2, "score_bias": True, "score_hidden": True}
    if architecture.endswith("ForTokenClassification"):
        return {"num_labels": labels or 2, "score_bias": raw.get("token_classification_bias", True)}
    if architecture.endswith("ForSequenceClassification"):
        # transformers writes labels only where they are not its default, two.
        return {"num_labels": labels or 2}
    if architecture.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")):
        return {}
    if architecture:
        raise ValueError(
            f"architecture {architecture!r} is not supported; known: a family's ...ForCausalLM, "
            "...ForSequenceClassification, ...ForTokenClassification, ...ForProcessRewardModel"
        )
    return {"num_labels": labels}
