"""The configuration of a decoder, as Hugging Face's `config.json` for Llama-shaped models names it."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

_MAY_BE_ZERO = ("bos_token_id", "eos_token_id", "pad_token_id", "num_labels")
# What Llama-shaped configurations may also ask for, and the one value of each that the decoder computes.
_FIXED = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "rope_scaling": None}


@dataclass(frozen=True)
class DecoderConfig:
    """Shape of a decoder-only transformer (RMSNorm, rotary positions, SwiGLU, tied embeddings).

    Field names are those of `transformers.LlamaConfig`, so that `config.json` is read without a mapping.
    `num_labels` > 0 adds a score head (a reward model) in the place of the language-model head.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    max_position_embeddings: int
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    bos_token_id: int = 1
    eos_token_id: int = 2
    pad_token_id: int = 0
    num_labels: int = 0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if name not in _MAY_BE_ZERO and not value > 0:
                raise ValueError(f"{name} must be above 0, got {value}")
        heads, kv_heads = self.num_attention_heads, self.num_key_value_heads
        if self.hidden_size % (2 * heads):  # rotary positions turn pairs of a head's coordinates
            raise ValueError(f"hidden_size must be an even multiple of the {heads} heads, got {self.hidden_size}")
        if heads % kv_heads:
            raise ValueError(f"num_attention_heads ({heads}) must be a multiple of num_key_value_heads ({kv_heads})")

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads


def read_config(path: Path) -> DecoderConfig:
    """The configuration in `path` (a `config.json`).

    **Raises:** `ValueError` naming the file and the key that is missing or unsupported.
    """
    try:
        raw = json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(
            f"{path}: no such file; a model folder holds config.json, model.safetensors, tokenizer.json"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
    if not isinstance(raw, dict):
        raise ValueError(f"{path}: a JSON object is wanted, got {type(raw).__name__}")
    if raw.get("model_type") != "llama":
        raise ValueError(f"{path}: model_type {raw.get('model_type')!r} is not supported; known: 'llama'")
    if not raw.get("tie_word_embeddings", False) and not raw.get("num_labels"):
        raise ValueError(f"{path}: tie_word_embeddings must be true; untied heads are not supported")
    for key, supported in _FIXED.items():
        if raw.get(key, supported) != supported:
            raise ValueError(f"{path}: {key} {raw[key]!r} is not supported, only {supported!r}")
    rotary = raw.pop("rope_parameters", None) or {}  # where newer files keep what older ones have at the top
    if rotary.keys() - {"rope_type", "rope_theta"} or rotary.get("rope_type", "default") != "default":
        raise ValueError(f"{path}: rope_parameters {rotary} is not supported, only rope_type 'default' and rope_theta")
    raw |= {key: value for key, value in rotary.items() if key == "rope_theta"}
    known = {field.name for field in fields(DecoderConfig)}
    try:
        config = DecoderConfig(**{key: value for key, value in raw.items() if key in known})
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None
    if raw.get("head_dim", config.head_dim) != config.head_dim:
        raise ValueError(f"{path}: head_dim {raw['head_dim']} is not supported, only {config.head_dim} (width / heads)")
    return config


def write_config(config: DecoderConfig, path: Path, *, dtype: str) -> None:
    """Write `config` so that `transformers` opens it: a causal LM, or a sequence classifier; weights are `dtype`."""
    raw = asdict(config)
    architecture = "LlamaForSequenceClassification" if config.num_labels else "LlamaForCausalLM"
    if config.num_labels:
        labels = {str(i): f"LABEL_{i}" for i in range(config.num_labels)}
        raw |= {"id2label": labels, "label2id": {name: int(i) for i, name in labels.items()}}
    raw |= {
        **_FIXED,
        "architectures": [architecture],
        "model_type": "llama",
        "tie_word_embeddings": True,
        "torch_dtype": dtype,
    }
    path.write_text(json.dumps(raw, indent=2) + "\n")
