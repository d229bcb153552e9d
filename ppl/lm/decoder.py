r"""A decoder-only transformer in flax.nnx, with a key-value cache whose slots are shared by a batch.

All rows of a batch write the same cache slot at the same time, and a boolean mask says which slots of a row
hold a token. A write is then one contiguous `dynamic_update_slice` for the whole batch (not a scatter per row),
and rows may pause (a particle that has finished its step) without any row being moved. Positions for the
rotary embedding count a row's own tokens, so a paused row's text is unaffected by its empty slots.

**Source:** Vaswani et al. (2017); Touvron et al. (2023) for RMSNorm, rotary positions and SwiGLU.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from ppl.lm.config import DecoderConfig


class Cache(NamedTuple):
    """Keys and values of the tokens read so far; every leaf has the batch (particle) axis first.

    `keys`, `values`: one [batch, kv_heads, slots, head_dim] array a layer; `valid` [batch, slots]: does the slot
    hold a token of this row; `length` [batch]: tokens read.
    """

    keys: tuple[Float[Array, "batch kv_heads slots head_dim"], ...]
    values: tuple[Float[Array, "batch kv_heads slots head_dim"], ...]
    valid: Bool[Array, "batch slots"]
    length: Int[Array, " batch"]


def empty_cache(config: DecoderConfig, *, batch: int, slots: int) -> Cache:
    """A cache of `slots` empty slots for `batch` rows, float32."""
    zeros = jnp.zeros((batch, config.num_key_value_heads, slots, config.head_dim))
    layers = (zeros,) * config.num_hidden_layers
    return Cache(layers, layers, jnp.zeros((batch, slots), bool), jnp.zeros(batch, jnp.int32))


class Attention(nnx.Module):
    """Grouped-query self-attention with rotary positions."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        width, heads, kv_heads, dim = (
            config.hidden_size,
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
        )
        init = nnx.initializers.normal(width**-0.5)
        self.q_proj = nnx.Linear(width, heads * dim, use_bias=False, kernel_init=init, rngs=rngs)
        self.k_proj = nnx.Linear(width, kv_heads * dim, use_bias=False, kernel_init=init, rngs=rngs)
        self.v_proj = nnx.Linear(width, kv_heads * dim, use_bias=False, kernel_init=init, rngs=rngs)
        out_init = nnx.initializers.normal(width**-0.5 * (2 * config.num_hidden_layers) ** -0.5)
        self.o_proj = nnx.Linear(heads * dim, width, use_bias=False, kernel_init=out_init, rngs=rngs)
        self.dim, self.theta = dim, config.rope_theta

    def __call__(
        self,
        x: Float[Array, "batch query width"],
        positions: Int[Array, "batch query"],
        mask: Bool[Array, "batch query slots"],
        past: tuple[Float[Array, "batch kv_heads slots dim"], Float[Array, "batch kv_heads slots dim"]] | None,
        slot: int | Int[Array, ""],
    ) -> tuple[Float[Array, "batch query width"], tuple[Array, Array]]:
        batch, query, _ = x.shape
        # [batch, heads, query, dim]: a contiguous product for each head. With heads inside of slots, as the projections
        # leave them, the two products over the cache took two thirds of the decoding time on a CPU.
        split = lambda y: y.reshape(batch, query, -1, self.dim).swapaxes(1, 2)  # noqa: E731
        q = rotate(split(self.q_proj(x)), positions, self.theta)
        k = rotate(split(self.k_proj(x)), positions, self.theta)
        v = split(self.v_proj(x))
        if past is not None:
            k = jax.lax.dynamic_update_slice_in_dim(past[0], k, slot, axis=2)
            v = jax.lax.dynamic_update_slice_in_dim(past[1], v, slot, axis=2)
        kv_heads = k.shape[1]
        grouped = q.reshape(batch, kv_heads, -1, query, self.dim)  # the query heads that share a key head
        scores = jnp.einsum("bkgqd,bksd->bkgqs", grouped, k) * self.dim**-0.5
        # A masked row of nothing but -inf (a padding query) must not become NaN: a large finite value instead.
        weights = jax.nn.softmax(jnp.where(mask[:, None, None], scores, -1e30), axis=-1)
        mixed = jnp.einsum("bkgqs,bksd->bkgqd", weights, v).reshape(batch, -1, query, self.dim)
        mixed = mixed.swapaxes(1, 2).reshape(batch, query, -1)
        return self.o_proj(mixed), (k, v)


class Mlp(nnx.Module):
    """SwiGLU feed-forward layer."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        width, inner = config.hidden_size, config.intermediate_size
        init = nnx.initializers.normal(width**-0.5)
        self.gate_proj = nnx.Linear(width, inner, use_bias=False, kernel_init=init, rngs=rngs)
        self.up_proj = nnx.Linear(width, inner, use_bias=False, kernel_init=init, rngs=rngs)
        out_init = nnx.initializers.normal(inner**-0.5 * (2 * config.num_hidden_layers) ** -0.5)
        self.down_proj = nnx.Linear(inner, width, use_bias=False, kernel_init=out_init, rngs=rngs)

    def __call__(self, x: Float[Array, "batch query width"]) -> Float[Array, "batch query width"]:
        return self.down_proj(jax.nn.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nnx.Module):
    """A pre-norm transformer layer."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        norm = lambda: nnx.RMSNorm(config.hidden_size, epsilon=config.rms_norm_eps, rngs=rngs)  # noqa: E731
        self.input_layernorm, self.post_attention_layernorm = norm(), norm()
        self.self_attn, self.mlp = Attention(config, rngs=rngs), Mlp(config, rngs=rngs)

    def __call__(self, x, positions, mask, past, slot):
        mixed, past = self.self_attn(self.input_layernorm(x), positions, mask, past, slot)
        x = x + mixed
        return x + self.mlp(self.post_attention_layernorm(x)), past


class Decoder(nnx.Module):
    """Embedding, layers, final norm, and either the tied language-model head or a score head."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        self.config = config
        width = config.hidden_size
        self.embed_tokens = nnx.Embed(
            config.vocab_size, width, embedding_init=nnx.initializers.normal(width**-0.5), rngs=rngs
        )
        self.layers = nnx.List([Layer(config, rngs=rngs) for _ in range(config.num_hidden_layers)])
        self.norm = nnx.RMSNorm(width, epsilon=config.rms_norm_eps, rngs=rngs)
        if config.num_labels:
            init = nnx.initializers.normal(width**-0.5)
            self.score = nnx.Linear(width, config.num_labels, use_bias=False, kernel_init=init, rngs=rngs)

    def hidden(
        self,
        tokens: Int[Array, "batch query"],
        valid: Bool[Array, "batch query"],
        cache: Cache | None = None,
        slot: int | Int[Array, ""] = 0,
    ) -> tuple[Float[Array, "batch query width"], Cache | None]:
        """Final hidden states of `tokens`, read after what `cache` holds, written to slots from `slot` on.

        **Arguments:** `tokens`, `valid` [batch, query]: ids, and which of them are tokens rather than padding;
        `cache`: what was read before (None: nothing, and nothing is kept); `slot`: the first slot to write, after
        all that were written, with room for `query` slots (a traced `slot` is not checked: JAX would clamp it).
        **Returns:** hidden states [batch, query, width] (meaningless where not valid), and the cache with the
        new tokens in it. **Raises:** `ValueError` if the cache has no room.
        """
        query = tokens.shape[1]
        if cache is not None and query + (slot if isinstance(slot, int) else 0) > cache.valid.shape[1]:
            raise ValueError(f"the cache has {cache.valid.shape[1]} slots, no room for {query} from slot {slot} on")
        start = jnp.zeros(tokens.shape[0], jnp.int32) if cache is None else cache.length
        positions = start[:, None] + jnp.maximum(jnp.cumsum(valid, axis=1, dtype=jnp.int32) - 1, 0)
        if cache is None:
            known, first = valid, 0
        else:
            known, first = jax.lax.dynamic_update_slice_in_dim(cache.valid, valid, slot, axis=1), slot
        causal = jnp.arange(known.shape[1]) <= first + jnp.arange(query)[:, None]
        mask = known[:, None, :] & causal
        x = self.embed_tokens(tokens)
        keys, values = [], []
        for i, layer in enumerate(self.layers):
            past = None if cache is None else (cache.keys[i], cache.values[i])
            x, (k, v) = layer(x, positions, mask, past, slot)
            keys.append(k)
            values.append(v)
        length = start + valid.sum(axis=1, dtype=jnp.int32)
        return self.norm(x), (None if cache is None else Cache(tuple(keys), tuple(values), known, length))

    def logits(self, hidden: Float[Array, "*batch width"]) -> Float[Array, "*batch vocab"]:
        """Next-token logits by the tied head."""
        return self.embed_tokens.attend(hidden)

    def scores(self, hidden: Float[Array, "*batch width"]) -> Float[Array, "*batch labels"]:
        """Logits of the score head."""
        return self.score(hidden)


def rotate(
    x: Float[Array, "batch heads query dim"], positions: Int[Array, "batch query"], theta: float
) -> Float[Array, "batch heads query dim"]:
    """Rotary position embedding, halves paired as in Hugging Face's Llama (not interleaved as in the paper)."""
    half = x.shape[-1] // 2
    frequency = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle = positions[:, None, :, None] * frequency
    cos, sin = jnp.cos(angle).astype(x.dtype), jnp.sin(angle).astype(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
