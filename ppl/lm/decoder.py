r"""A decoder-only transformer in flax.nnx, with a key-value cache whose slots are shared by a batch.

One module computes every family of `ppl.lm.families`; what they differ in are fields of its configuration.

All rows of a batch write the same cache slot at the same time, and a boolean mask says which slots of a row
hold a token. A write is then one contiguous `dynamic_update_slice` for the whole batch (not a scatter per row),
and rows may pause (a particle that has finished its step) without any row being moved. Positions count a row's own
tokens, so a paused row's text is unaffected by its empty slots. What all rows have read in common, a prompt, is held
once, as a `Prefix` that their queries see beside their own slots.

**Source:** Vaswani et al. (2017); Touvron et al. (2023) for RMSNorm, rotary positions and SwiGLU.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from ppl.lm.config import DecoderConfig
from ppl.lm.rotary import frequencies, rotate

_ACTIVATIONS = {
    "silu": jax.nn.silu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
}


class Cache(NamedTuple):
    """Keys and values of the tokens read so far; every leaf has the batch (particle) axis first.

    `keys`, `values`: one [batch, kv_heads, slots, head_dim] array a layer; `valid` [batch, slots]: does the slot
    hold a token of this row; `length` [batch]: tokens read, those of a prefix among them.
    """

    keys: tuple[Float[Array, "batch kv_heads slots head_dim"], ...]
    values: tuple[Float[Array, "batch kv_heads slots head_dim"], ...]
    valid: Bool[Array, "batch slots"]
    length: Int[Array, " batch"]


class Prefix(NamedTuple):
    """Keys and values of tokens that all rows of a problem begin with: they are held once a problem.

    `keys`, `values`: one [problems, kv_heads, prefix, head_dim] array a layer; `valid` [problems, prefix]: which places
    hold a token. The rows of a batch are those of the first problem, then those of the second, equally many each.
    """

    keys: tuple[Float[Array, "problems kv_heads prefix head_dim"], ...]
    values: tuple[Float[Array, "problems kv_heads prefix head_dim"], ...]
    valid: Bool[Array, "problems prefix"]

    def length(self, batch: int) -> Int[Array, " batch"]:
        """Tokens of each row's prefix."""
        return jnp.repeat(jnp.sum(self.valid, axis=1, dtype=jnp.int32), batch // self.valid.shape[0])


def empty_cache(
    config: DecoderConfig, *, batch: int, slots: int, prefix: Prefix | None = None, dtype: DTypeLike = jnp.float32
) -> Cache:
    """A cache of `slots` empty slots for `batch` rows, which go on after `prefix` where there is one."""
    zeros = jnp.zeros((batch, config.num_key_value_heads, slots, config.head_dim), dtype)
    layers = (zeros,) * config.num_hidden_layers
    length = jnp.zeros(batch, jnp.int32) if prefix is None else prefix.length(batch)
    return Cache(layers, layers, jnp.zeros((batch, slots), bool), length)


class Sight(NamedTuple):
    """What the queries of one pass see, the same for all layers of a kind: `mask` [batch, query, slots] of the rows'
    own slots, `prefix` [batch, query, prefix] of the shared ones; `cos`, `sin` [batch, 1, query, half]."""

    mask: Bool[Array, "batch query slots"]
    prefix: Bool[Array, "batch query prefix"] | None
    cos: Float[Array, "batch 1 query half"] | None
    sin: Float[Array, "batch 1 query half"] | None


class Norm(nnx.Module):
    """RMSNorm, with the scale as it is or one plus it, or LayerNorm with a bias; computed in float32."""

    def __init__(self, config: DecoderConfig, size: int):
        self.kind, self.eps = config.norm, config.norm_eps
        self.scale = nnx.Param(jnp.zeros(size) if self.kind == "rms_plus_one" else jnp.ones(size))
        self.bias = nnx.Param(jnp.zeros(size)) if self.kind == "layer" else None

    def __call__(self, x: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
        wide = x.astype(jnp.float32)
        if self.kind == "layer":
            wide = wide - jnp.mean(wide, axis=-1, keepdims=True)
        wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.eps)
        scale = self.scale[...].astype(jnp.float32)
        wide = wide * (1 + scale if self.kind == "rms_plus_one" else scale)
        return (wide if self.bias is None else wide + self.bias[...].astype(jnp.float32)).astype(x.dtype)


class Attention(nnx.Module):
    """Grouped-query self-attention."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        width, dim, kv = config.hidden_size, config.head_dim, config.num_key_value_heads
        group = config.num_attention_heads // kv
        # Queries of a group, its key and its value side by side, so that one product makes all three.
        self.qkv = _map(rngs, (kv, group + 2, dim), width)
        self.qkv_bias = nnx.Param(jnp.zeros((kv, group + 2, dim))) if config.qkv_bias else None
        self.out = _map(rngs, (width,), kv * group * dim, 2 * config.num_hidden_layers * width)
        self.out_bias = nnx.Param(jnp.zeros(width)) if config.out_bias else None
        self.q_norm = Norm(config, dim) if config.qk_norm else None
        self.k_norm = Norm(config, dim) if config.qk_norm else None
        self.scale = dim**-0.5 if config.query_scale is None else config.query_scale
        self.cap = config.attention_softcap

    def __call__(
        self,
        x: Float[Array, "batch query width"],
        sight: Sight,
        past: tuple[Float[Array, "batch kv_heads slots dim"], Float[Array, "batch kv_heads slots dim"]] | None,
        shared: tuple[Float[Array, "problems kv_heads prefix dim"], Float[Array, "problems kv_heads prefix dim"]]
        | None,
        slot: int | Int[Array, ""] | Int[Array, " batch"],
    ) -> tuple[Float[Array, "batch query width"], tuple[Array, Array]]:
        batch, query, _ = x.shape
        kv, sizes, dim, _ = self.qkv.shape
        made = _through(self.qkv[...], x)
        if self.qkv_bias is not None:
            made = made + self.qkv_bias[...]
        # [batch, kv_heads, group, query, dim]: a contiguous product for each head. With heads inside of slots, as the
        # projection leaves them, the two products over the cache took two thirds of the decoding time on a CPU.
        made = made.transpose(0, 2, 3, 1, 4)
        q, k, v = made[:, :, :-2], made[:, :, -2], made[:, :, -1]
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if sight.cos is not None and sight.sin is not None:
            q = rotate(q, sight.cos[:, None], sight.sin[:, None])
            k = rotate(k, sight.cos, sight.sin)
        if past is not None:
            k, v = _put(past[0], k, slot, 2), _put(past[1], v, slot, 2)
        scores = self._masked(jnp.einsum("bkgqd,bksd->bkgqs", q, k), sight.mask)
        if shared is not None and sight.prefix is not None:
            # Rows of one problem share its keys: [problems, rows of it, ...].
            of_problem = lambda y: y.reshape(shared[0].shape[0], -1, *y.shape[1:])  # noqa: E731
            ahead = jnp.einsum("pnkgqd,pksd->pnkgqs", of_problem(q), shared[0])
            ahead = self._masked(ahead.reshape(batch, *ahead.shape[2:]), sight.prefix)
            weights = jax.nn.softmax(jnp.concatenate([ahead, scores], axis=-1), axis=-1).astype(x.dtype)
            split = ahead.shape[-1]
            mixed = jnp.einsum("pnkgqs,pksd->pnqkgd", of_problem(weights[..., :split]), shared[1])
            mixed = mixed.reshape(batch, *mixed.shape[2:])
            mixed = mixed + jnp.einsum("bkgqs,bksd->bqkgd", weights[..., split:], v)
        else:
            mixed = jnp.einsum("bkgqs,bksd->bqkgd", jax.nn.softmax(scores, axis=-1).astype(x.dtype), v)
        out = _through(self.out[...], mixed.reshape(batch, query, kv * (sizes - 2) * dim))
        return (out if self.out_bias is None else out + self.out_bias[...]), (k, v)

    def _masked(self, scores: Array, mask: Array) -> Array:
        """Scores in float32, scaled and capped. A row of nothing but -inf (a padding query) must not become NaN: a
        large finite value stands for it."""
        scores = scores.astype(jnp.float32) * self.scale
        scores = scores if self.cap is None else self.cap * jnp.tanh(scores / self.cap)
        return jnp.where(mask[:, None, None], scores, -1e30)


class Mlp(nnx.Module):
    """Feed-forward layer, gated (SwiGLU, GeGLU) or not."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        width, inner, maps = config.hidden_size, config.intermediate_size, 2 if config.gated else 1
        self.up = _map(rngs, (maps, inner), width)
        self.up_bias = nnx.Param(jnp.zeros((maps, inner))) if config.mlp_bias else None
        self.down = _map(rngs, (width,), inner, 2 * config.num_hidden_layers * inner)
        self.down_bias = nnx.Param(jnp.zeros(width)) if config.mlp_bias else None
        self.activation = config.activation

    def __call__(self, x: Float[Array, "batch query width"]) -> Float[Array, "batch query width"]:
        made = _through(self.up[...], x)
        if self.up_bias is not None:
            made = made + self.up_bias[...]
        inner = _ACTIVATIONS[self.activation](made[:, :, 0])
        inner = inner * made[:, :, 1] if made.shape[2] == 2 else inner
        out = _through(self.down[...], inner)
        return out if self.down_bias is None else out + self.down_bias[...]


class Layer(nnx.Module):
    """A pre-norm transformer layer, with norms after the blocks, too, where the family has them."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        width = config.hidden_size
        self.attention_norm, self.mlp_norm = Norm(config, width), Norm(config, width)
        self.attention_post_norm = Norm(config, width) if config.post_norms else None
        self.mlp_post_norm = Norm(config, width) if config.post_norms else None
        self.attention, self.mlp = Attention(config, rngs=rngs), Mlp(config, rngs=rngs)

    def __call__(self, x, sight, past, shared, slot):
        mixed, past = self.attention(self.attention_norm(x), sight, past, shared, slot)
        x = x + (mixed if self.attention_post_norm is None else self.attention_post_norm(mixed))
        mixed = self.mlp(self.mlp_norm(x))
        return x + (mixed if self.mlp_post_norm is None else self.mlp_post_norm(mixed)), past


class Decoder(nnx.Module):
    """Embedding, layers, final norm, and either a language-model head or a score head."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        self.config = config
        width = config.hidden_size
        self.embed_tokens = _matrix(rngs, (config.vocab_size, width), width)
        if config.learned_positions:
            self.embed_positions = _matrix(rngs, (config.max_position_embeddings, width), width)
        self.layers = nnx.List([Layer(config, rngs=rngs) for _ in range(config.num_hidden_layers)])
        self.norm = Norm(config, width)
        if config.num_labels:
            if config.score_hidden:
                self.score_hidden = _matrix(rngs, (width, width), width)
                self.score_hidden_bias = nnx.Param(jnp.zeros(width))
            self.score = _matrix(rngs, (width, config.num_labels), width)
            self.score_bias = nnx.Param(jnp.zeros(config.num_labels)) if config.score_bias else None
        elif not config.tie_word_embeddings:
            self.head = _map(rngs, (config.vocab_size,), width)

    @property
    def dtype(self) -> jnp.dtype:
        """What the weights are held in, and the cache."""
        return self.embed_tokens.dtype

    def hidden(
        self,
        tokens: Int[Array, "batch query"],
        valid: Bool[Array, "batch query"],
        cache: Cache | None = None,
        slot: int | Int[Array, ""] | Int[Array, " batch"] = 0,
        prefix: Prefix | None = None,
    ) -> tuple[Float[Array, "batch query width"], Cache | None]:
        """Final hidden states of `tokens`, read after what `prefix` and `cache` hold, written to slots from `slot` on.

        **Arguments:** `tokens`, `valid` [batch, query]: ids, and which of them are tokens rather than padding;
        `cache`: what was read before (None: nothing but `prefix`, and nothing is kept); `slot`: the first slot to
        write, after all that hold a token, one or one a row, with room for `query` slots (a traced `slot` is not
        checked: JAX would clamp it).
        **Returns:** hidden states [batch, query, width] (meaningless where not valid), and the cache with the
        new tokens in it. **Raises:** `ValueError` if the cache has no room.
        """
        query = tokens.shape[1]
        if cache is not None and query + (slot if isinstance(slot, int) else 0) > cache.valid.shape[1]:
            raise ValueError(f"the cache has {cache.valid.shape[1]} slots, no room for {query} from slot {slot} on")
        before = jnp.zeros(tokens.shape[0], jnp.int32) if prefix is None else prefix.length(tokens.shape[0])
        start = before if cache is None else cache.length
        positions = start[:, None] + jnp.maximum(jnp.cumsum(valid, axis=1, dtype=jnp.int32) - 1, 0)
        if cache is None:
            known, first = valid, 0
        else:
            known, first = _put(cache.valid, valid, slot, 1), slot
        sights = self._sights(positions, known, first, prefix, before)
        x = self.embed_tokens[...][tokens] * jnp.asarray(self.config.embedding_scale, self.dtype)
        if self.config.learned_positions:
            x = x + self.embed_positions[...][positions]
        keys, values = [], []
        for i, layer in enumerate(self.layers):
            past = None if cache is None else (cache.keys[i], cache.values[i])
            ahead = None if prefix is None else (prefix.keys[i], prefix.values[i])
            x, (k, v) = layer(x, sights[self.config.window(i)], past, ahead, slot)
            keys.append(k)
            values.append(v)
        length = start + valid.sum(axis=1, dtype=jnp.int32)
        return self.norm(x), (None if cache is None else Cache(tuple(keys), tuple(values), known, length))

    def read_prefix(
        self, tokens: Int[Array, "problems length"], valid: Bool[Array, "problems length"]
    ) -> tuple[Float[Array, "problems length width"], Prefix]:
        """Read what the rows of each problem will begin with: hidden states, and the prefix."""
        cache = empty_cache(self.config, batch=tokens.shape[0], slots=tokens.shape[1], dtype=self.dtype)
        hidden, cache = self.hidden(tokens, valid, cache, 0)
        assert cache is not None
        return hidden, Prefix(cache.keys, cache.values, valid)

    def logits(self, hidden: Float[Array, "*batch width"]) -> Float[Array, "*batch vocab"]:
        """Next-token logits, float32."""
        head = self.embed_tokens if self.config.tie_word_embeddings else self.head
        out = jnp.einsum("...w,vw->...v", hidden, head[...], preferred_element_type=jnp.float32)
        cap = self.config.logit_softcap
        return out if cap is None else cap * jnp.tanh(out / cap)

    def scores(self, hidden: Float[Array, "*batch width"]) -> Float[Array, "*batch labels"]:
        """Logits of the score head, float32."""
        if self.config.score_hidden:
            hidden = jax.nn.relu(hidden @ self.score_hidden[...] + self.score_hidden_bias[...])
        out = jnp.einsum("...w,wl->...l", hidden, self.score[...], preferred_element_type=jnp.float32)
        return out if self.score_bias is None else out + self.score_bias[...]

    def _sights(self, positions, known, first, prefix, before) -> dict[int | None, Sight]:
        """What queries at `positions` see, for each window that some layer has."""
        query, config = positions.shape[1], self.config
        causal = jnp.arange(known.shape[1]) <= jnp.asarray(first)[..., None, None] + jnp.arange(query)[:, None]
        mask = known[:, None, :] & causal
        ahead = ahead_place = None
        if prefix is not None:
            rows = positions.shape[0] // prefix.valid.shape[0]
            of_row = lambda x: jnp.repeat(x, rows, axis=0)[:, None]  # noqa: E731
            ahead = jnp.broadcast_to(of_row(prefix.valid), (*positions.shape, prefix.valid.shape[1]))
            ahead_place = of_row(jnp.cumsum(prefix.valid, axis=1, dtype=jnp.int32) - 1)
        sights = {}
        for window in {config.window(i) for i in range(config.num_hidden_layers)}:
            seen, seen_ahead = mask, ahead
            if window is not None:
                # A slot's position counts the row's tokens up to it: holes have none and are masked anyway.
                place = before[:, None] + jnp.cumsum(known, axis=1, dtype=jnp.int32) - 1
                oldest = positions[:, :, None] - window
                seen = mask & (place[:, None] > oldest)
                if ahead is not None:
                    seen_ahead = ahead & (ahead_place > oldest)
            cos = sin = None
            if not config.learned_positions:
                angles = positions[:, None, :, None] * frequencies(config, local=window is not None)
                cos, sin = jnp.cos(angles), jnp.sin(angles)
            sights[window] = Sight(seen, seen_ahead, cos, sin)
        return sights


def _put(past: Array, new: Array, slot: int | Int[Array, ""] | Int[Array, " batch"], axis: int) -> Array:
    """`new` in the slots of `past` from `slot` on, one place or one a row."""
    if isinstance(slot, int) or slot.ndim == 0:
        return jax.lax.dynamic_update_slice_in_dim(past, new, slot, axis)
    return jax.vmap(lambda old, new, at: jax.lax.dynamic_update_slice_in_dim(old, new, at, axis - 1))(past, new, slot)


def _matrix(rngs: nnx.Rngs, shape: tuple[int, ...], variance_of: int) -> nnx.Param:
    return nnx.Param(variance_of**-0.5 * jax.random.normal(rngs.params(), shape))


def _map(rngs: nnx.Rngs, outputs: tuple[int, ...], inputs: int, variance_of: int | None = None) -> nnx.Param:
    """A linear map [*outputs, inputs], as checkpoints of PyTorch store it.

    A product with few rows waits for its weights, and on a CPU this order is read up to twice as fast as the other.
    """
    drawn = jax.random.normal(rngs.params(), (inputs, *outputs))
    return nnx.Param((variance_of or inputs) ** -0.5 * jnp.moveaxis(drawn, 0, -1))


def _through(weight: Float[Array, "*outputs inputs"], x: Float[Array, "batch query inputs"]) -> Array:
    """[batch, query, *outputs]. By a matrix: a weight of more axes the CPU's compiler turns round at every product."""
    out = jnp.einsum("bqi,oi->bqo", x, weight.reshape(-1, weight.shape[-1]))
    return out.reshape(*x.shape[:-1], *weight.shape[:-1])
