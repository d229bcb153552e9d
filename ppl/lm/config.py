"""The configuration of a decoder: what the families of public checkpoints differ in, as fields of one dataclass."""

import math
from dataclasses import dataclass
from typing import Literal

_ABOVE_ZERO = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "max_position_embeddings", "norm_eps", "rope_theta", "rope_local_theta", "head_dim",
    "attention_softcap", "logit_softcap", "query_scale",
)  # fmt: skip


@dataclass(frozen=True)
class RopeScaling:
    """How rotary positions were stretched after training.

    `"linear"` divides every frequency by `factor`; `"llama3"` divides those whose wave is longer than
    `original_length / low` tokens, keeps those shorter than `original_length / high`, and goes from one to the other
    between (Llama 3.1).
    """

    kind: Literal["linear", "llama3"]
    factor: float
    low: float = 1.0
    high: float = 4.0
    original_length: int = 8192


@dataclass(frozen=True)
class DecoderConfig:
    """Shape and parts of a decoder-only transformer; the defaults are Llama's with tied embeddings.

    - `model_type`: the family's name in Hugging Face's `config.json`, which says how the folder is written;
    - `head_dim`: by default `hidden_size / num_attention_heads`;
    - `norm`: `"rms"`, `"rms_plus_one"` (Gemma: the weight is one plus what is stored), `"layer"` (with a bias);
    - `activation`, `gated`: the feed-forward layer, `down(act(gate(x)) * up(x))` or `down(act(up(x)))`;
    - `qkv_bias`, `out_bias`, `mlp_bias`: which linear maps have biases; `qk_norm`: RMSNorm of each query and key head;
    - `post_norms`: a norm after each block, too (Gemma);
    - `embedding_scale`: what embeddings are multiplied by; `learned_positions`: absolute ones, none rotary (GPT-2);
    - `rope_theta`, `rope_scaling`: of layers that see everything; `rope_local_theta`: of layers with a window, where
      it differs (Gemma 3);
    - `windows`: a layer's sliding window in tokens, itself included, or None; empty means none anywhere;
    - `query_scale`: of the products of queries and keys, by default `head_dim ** -0.5`; `attention_softcap`,
      `logit_softcap`: `cap tanh(x / cap)` of them and of the logits (Gemma 2);
    - `tie_word_embeddings`: is the language-model head the embedding;
    - `eos_token_id`: one or several; `bos_token_id`, `pad_token_id`: None where the family has none;
    - `num_labels`: above 0, a score head takes the place of the language-model head: linear, with a bias if
      `score_bias`, after a layer of the same width and a ReLU if `score_hidden` (Qwen2.5-Math-PRM).

    **Raises:** `ValueError` naming the field that is out of range.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    max_position_embeddings: int
    head_dim: int = 0
    model_type: str = "llama"
    norm: Literal["rms", "rms_plus_one", "layer"] = "rms"
    norm_eps: float = 1e-6
    activation: Literal["silu", "gelu", "gelu_tanh"] = "silu"
    gated: bool = True
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    post_norms: bool = False
    embedding_scale: float = 1.0
    learned_positions: bool = False
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    rope_local_theta: float | None = None
    windows: tuple[int | None, ...] = ()
    query_scale: float | None = None
    attention_softcap: float | None = None
    logit_softcap: float | None = None
    tie_word_embeddings: bool = True
    bos_token_id: int | None = 1
    eos_token_id: int | tuple[int, ...] = 2
    pad_token_id: int | None = 0
    num_labels: int = 0
    score_bias: bool = False
    score_hidden: bool = False

    def __post_init__(self) -> None:
        if not self.head_dim and self.hidden_size > 0 and self.num_attention_heads > 0:
            if self.hidden_size % self.num_attention_heads:
                raise ValueError(
                    f"hidden_size must be a multiple of the {self.num_attention_heads} heads, got {self.hidden_size}"
                )
            object.__setattr__(self, "head_dim", self.hidden_size // self.num_attention_heads)
        for name in _ABOVE_ZERO:
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int | float) and 0 < value < math.inf):
                raise ValueError(f"{name} must be a number above 0, got {value!r}")
        if self.head_dim % 2 and not self.learned_positions:  # rotary positions turn pairs of a head's coordinates
            raise ValueError(f"head_dim must be even for rotary positions, got {self.head_dim}")
        heads, kv_heads = self.num_attention_heads, self.num_key_value_heads
        if heads % kv_heads:
            raise ValueError(f"num_attention_heads ({heads}) must be a multiple of num_key_value_heads ({kv_heads})")
        if self.windows and len(self.windows) != self.num_hidden_layers:
            raise ValueError(f"windows: one a layer ({self.num_hidden_layers}) or none, got {len(self.windows)}")
        for name in ("eos_token_id", "bos_token_id", "pad_token_id"):
            ids = getattr(self, name)
            for token in ids if isinstance(ids, tuple) else (ids,):
                if token is not None and not (isinstance(token, int) and 0 <= token < self.vocab_size):
                    raise ValueError(f"{name} must be in 0..{self.vocab_size - 1} (vocab_size), got {token!r}")

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """Every token that ends a text."""
        return self.eos_token_id if isinstance(self.eos_token_id, tuple) else (self.eos_token_id,)

    def window(self, layer: int) -> int | None:
        """The sliding window of a layer, None where it sees everything."""
        return self.windows[layer] if self.windows else None
