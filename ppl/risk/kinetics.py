r"""What an answer costs: FLOPs and memory traffic of generation, from the shape of the model.

Token $t$ of an answer ($t = 1, \ldots, L$, after a prompt of $C$ tokens) passes all $P$ weights once, $2P$ FLOPs, and
attends to $k_t$ keys. In each layer a head spends $2d$ FLOPs a key on the score and $2d$ on the weighted sum, and reads
the key and the value, $2d$ numbers a key and KV head. With $A = \sum_t k_t$ keys an answer, $\ell$ layers, $h$ heads,
$h_{kv}$ KV heads (grouped-query attention) and $w$ bytes a number,

$$\mathrm{FLOPs} = 2PL + 4\, \ell h d\, A, \qquad \mathrm{bytes} = 2 w\, \ell h_{kv} d\, A.$$

Dense attention has $k_t = C + t$, so $A = CL + L(L+1)/2$. Attention to the best $B$ keys has $k_t = \min(B, C + t)$:
with $m = \min(L, \max(0, B - C))$ steps before the window is full,

$$A = BL - \sum_{t=1}^{m} (B - C - t) = BL - \left(m (B - C) - \frac{m(m+1)}{2}\right) .$$

The correction is **subtracted**. The authors' code (cost_model/utils.py) adds $\frac12 \max(0, B - C)^2$ for top-k and
subtracts it for blocks: the sum shows that top-k has the wrong sign. Both are wrong for answers that end before the
window is full ($L < B - C$), where the subtraction goes too far; the sum above is right there too.

The price of a byte is the machine's intensity, 562.5 FLOPs a byte for an NVIDIA B200, and FLOPs plus bytes times
intensity are eFLOPs. Weights are read once for a large batch and are not counted, nor is reading the prompt: both as
published.

**Source:** Sadhukhan et al. (2025), "Kinetics: Rethinking Test-Time Scaling Laws", arXiv 2506.05333, Eq. 4, and
github.com/Infini-AI-Lab/Kinetics, read for checking.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

B200_INTENSITY = 562.5  # FLOPs for the time of one byte: 4.5e15 FLOP/s over 8e12 byte/s

Whole = int | Int[np.ndarray, "..."]
Amount = float | Float[np.ndarray, "..."]


@dataclasses.dataclass(frozen=True)
class ModelShape:
    """What the cost of a decoder-only transformer depends on. `parameters`: those active for a token."""

    name: str
    parameters: float
    layers: int
    heads: int
    kv_heads: int
    head_dim: int

    def __post_init__(self):
        for field in ("parameters", "layers", "heads", "kv_heads", "head_dim"):
            if getattr(self, field) <= 0:
                raise ValueError(f"{field}: a positive number is wanted, got {getattr(self, field)}")

    def kv_bytes(self, bytes_per_number: float = 2.0) -> float:
        """Bytes of keys and values of one token, all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * bytes_per_number


# Shapes: config.json of each model, as in the Qwen3 technical report (arXiv 2505.09388), table 1. Parameters: those of
# the Kinetics cost model (cost_model/best_of_N/cost_model_ntrial.py), where the small models' embeddings count twice.
QWEN3 = {
    shape.name: shape
    for shape in (
        ModelShape("Qwen3-0.6B", 0.752e9, 28, 16, 8, 128),
        ModelShape("Qwen3-1.7B", 2.03e9, 28, 16, 8, 128),
        ModelShape("Qwen3-4B", 4.02e9, 36, 32, 8, 128),
        ModelShape("Qwen3-8B", 8.19e9, 36, 32, 8, 128),
        ModelShape("Qwen3-14B", 14.77e9, 40, 40, 8, 128),
        ModelShape("Qwen3-32B", 32.76e9, 64, 64, 8, 128),
    )
}


@dataclasses.dataclass(frozen=True)
class Dense:
    """Each token attends to all tokens before it and itself. Answers to one prompt share the reading of its cache."""


@dataclasses.dataclass(frozen=True)
class TopK:
    """Each token attends to the best `budget` keys, found at no cost: a bound for what sparse attention can save."""

    budget: int


@dataclasses.dataclass(frozen=True)
class BlockTopK:
    """Each token scores one representative a block of `block_size` keys, and attends to the `blocks` best blocks and to
    the last `local` keys."""

    local: int
    block_size: int
    blocks: int

    @property
    def budget(self) -> int:
        """Keys attended to once the context is long enough."""
        return self.local + self.block_size * self.blocks


DENSE = Dense()


class Cost(NamedTuple):
    """Cost of answering one prompt; numbers or arrays, in FLOPs and bytes (not in units of 1e12)."""

    weight_flops: Amount
    attention_flops: Amount
    bytes_read: Amount
    intensity: float

    @property
    def flops(self) -> Amount:
        """What compute-optimal scaling counts."""
        return self.weight_flops + self.attention_flops

    @property
    def eflops(self) -> Amount:
        """FLOPs plus memory traffic at the machine's intensity: what Kinetics counts."""
        return self.flops + self.intensity * self.bytes_read


def generation_cost(
    shape: ModelShape,
    prompt: Whole,
    generated: Whole,
    trials: Whole = 1,
    *,
    attention: Dense | TopK | BlockTopK = DENSE,
    intensity: float = B200_INTENSITY,
    bytes_per_number: float = 2.0,
) -> Cost:
    """Cost of `trials` answers of `generated` tokens each to one prompt.

    **Arguments:** `prompt`, `generated`, `trials`: whole numbers from 0 up, or arrays of them that broadcast.
    `attention`: `Dense()`, `TopK(budget)` or `BlockTopK(local, block_size, blocks)`. `intensity`: FLOPs in the time of
    one byte. `bytes_per_number`: of keys and values (2: bfloat16).

    Sums are exact over positions; the published formulas put an integral for them, lower by half a token a token.
    Answers share the reading of the prompt's cache in dense attention, and of its blocks' representatives; the keys
    that sparse attention picks differ between answers, so they do not share those (as published).

    **Raises:** `ValueError` for a negative length or number, or a window of no keys.

    **Source:** see the module.
    """
    for name, value in (("prompt", prompt), ("generated", generated), ("trials", trials)):
        if np.any(np.asarray(value) < 0):
            raise ValueError(f"{name}: whole numbers from 0 up are wanted, got {np.min(value)}")
    c, length, n = (np.asarray(x, dtype=np.float64) for x in (prompt, generated, trials))
    keys = attended_keys(prompt, generated, attention)
    key_reads, blocks_scored, block_reads = n * keys, np.zeros_like(c), np.zeros_like(c)
    match attention:
        case Dense():
            key_reads = c * length + n * (keys - c * length)
        case BlockTopK(block_size=size):
            blocks_scored = _blocks(np.asarray(c + length), size) - _blocks(c, size)
            shared = np.ceil(c / size) * length
            block_reads = shared + n * (blocks_scored - shared)
    per_key = shape.layers * shape.heads * shape.head_dim
    kv_per_key = shape.layers * shape.kv_heads * shape.head_dim
    return Cost(
        weight_flops=(2 * shape.parameters * length * n)[()],
        attention_flops=(per_key * n * (4 * keys + 2 * blocks_scored))[()],
        bytes_read=(bytes_per_number * kv_per_key * (2 * key_reads + block_reads))[()],
        intensity=intensity,
    )


def affordable_trials(
    shape: ModelShape,
    prompt: int,
    generated: Whole,
    budget: float,
    *,
    cost: str = "eflops",
    attention: Dense | TopK | BlockTopK = DENSE,
    intensity: float = B200_INTENSITY,
) -> Amount:
    """Answers of each length that a budget buys, not rounded: an isocost curve in length and trials, where a cost is a
    shared part and one a trial. Below 1 not even one answer is affordable.

    **Arguments:** as `generation_cost`; `generated` from 1 up; `budget` in FLOPs; `cost`: `flops` or `eflops`.

    **Raises:** `ValueError` for an unknown cost, or as `generation_cost`.
    """
    if cost not in ("flops", "eflops"):
        raise ValueError(f"cost: flops or eflops is wanted, got {cost!r}")
    if np.any(np.asarray(generated) < 1):
        raise ValueError(f"generated: at least 1 token is wanted, got {np.min(generated)}")
    one, two = (
        np.asarray(
            getattr(generation_cost(shape, prompt, generated, n, attention=attention, intensity=intensity), cost)
        )
        for n in (1, 2)
    )
    return np.maximum(1 + (budget - one) / (two - one), 0)[()]


def attended_keys(prompt: Whole, generated: Whole, attention: Dense | TopK | BlockTopK = DENSE) -> Amount:
    r"""$\sum_{t=1}^{L} k_t$: keys that the tokens of one answer attend to, together.

    **Raises:** `ValueError` for a window of no keys.
    """
    c, length = np.asarray(prompt, dtype=np.float64), np.asarray(generated, dtype=np.float64)
    match attention:
        case Dense():
            return (c * length + length * (length + 1) / 2)[()]
        case TopK() | BlockTopK():
            if attention.budget < 1:
                raise ValueError(f"budget: a window of at least 1 key is wanted, got {attention.budget}")
            room = np.maximum(attention.budget - c, 0)
            filling = np.minimum(length, room)  # steps that see fewer keys than the window holds
            return (attention.budget * length - (filling * room - filling * (filling + 1) / 2))[()]


def _blocks(context: Shaped[np.ndarray, "..."], size: int) -> Float[np.ndarray, "..."]:
    r"""$\sum_{x=1}^{n} \lceil x / b \rceil$: blocks seen over all contexts up to a length."""
    whole, rest = np.divmod(context, size)
    return np.asarray(size * whole * (whole + 1) / 2 + rest * (whole + 1))
