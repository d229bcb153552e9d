"""The configuration of a decoder, as Hugging Face's `config.json` for Llama-shaped models names it."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path


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
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
    if raw.get("model_type") != "llama":
        raise ValueError(f"{path}: model_type {raw.get('model_type')!r} is not supported; known: 'llama'")
    if not raw.get("tie_word_embeddings", False) and not raw.get("num_labels"):
        raise ValueError(f"{path}: tie_word_embeddings must be true; untied heads are not supported")
    known = {field.name for field in fields(DecoderConfig)}
    try:
        return DecoderConfig(**{key: value for key, value in raw.items() if key in known})
    except TypeError as error:
        raise ValueError(f"{path}: {error}") from None


def write_config(config: DecoderConfig, path: Path) -> None:
    """Write `config` so that `transformers` opens it: a causal LM, or a one-label sequence classifier."""
    raw = asdict(config)
    architecture = "LlamaForSequenceClassification" if config.num_labels else "LlamaForCausalLM"
    if config.num_labels:
        labels = {str(i): f"LABEL_{i}" for i in range(config.num_labels)}
        raw |= {"id2label": labels, "label2id": {name: int(i) for i, name in labels.items()}}
    raw |= {
        "architectures": [architecture],
        "model_type": "llama",
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
    }
    path.write_text(json.dumps(raw, indent=2) + "\n")
