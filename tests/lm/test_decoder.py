import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from ppl.lm.decoder import empty_cache
from tests.lm.toys import full_logits, toy_config, toy_decoder

DECODER = toy_decoder()
GRAPH, PARAMS = nnx.split(DECODER)
TOLERANCE = 1e-4
ROWS, LENGTH, SLOTS = 3, 9, 24
TOKENS = np.random.default_rng(0).integers(0, DECODER.config.vocab_size, (ROWS, LENGTH))


@jax.jit
def read(tokens, valid, cache, slot):
    """Logits and cache after a chunk; jitted, with the slot traced, as decoding calls it."""
    decoder = nnx.merge(GRAPH, PARAMS)
    hidden, cache = decoder.hidden(tokens, valid, cache, slot)
    return decoder.logits(hidden), cache


@jax.jit
def padded_logits(tokens, valid):
    """Logits of rows in which `valid` says what is a token, without a cache."""
    decoder = nnx.merge(GRAPH, PARAMS)
    return decoder.logits(decoder.hidden(tokens, valid)[0])


def read_all(chunks, rows=ROWS, slots=SLOTS):
    """Logits of each row's own tokens, in order, for chunks of (tokens, valid)."""
    cache, slot = empty_cache(DECODER.config, batch=rows, slots=slots), 0
    seen = [[] for _ in range(rows)]
    for tokens, valid in chunks:
        logits, cache = read(jnp.asarray(tokens, jnp.int32), jnp.asarray(valid), cache, jnp.int32(slot))
        slot += tokens.shape[1]
        for row in range(rows):
            seen[row].extend(np.asarray(logits)[row, valid[row]])
    return [np.asarray(rows_) for rows_ in seen], cache


def test_the_toy_is_far_from_uniform_and_depends_on_order():
    probs = jax.nn.softmax(full_logits(DECODER, TOKENS))
    assert probs.max() > 0.5
    swapped = TOKENS.copy()
    swapped[:, [2, 3]] = swapped[:, [3, 2]]
    assert jnp.abs(full_logits(DECODER, swapped)[:, -1] - full_logits(DECODER, TOKENS)[:, -1]).max() > 0.01


@pytest.mark.parametrize("sizes", [(9,), (4, 5), (1,) * 9, (3, 1, 5)])
def test_chunks_through_the_cache_equal_one_full_pass(sizes):
    ends = np.cumsum(sizes)
    chunks = [(TOKENS[:, e - s : e], np.ones((ROWS, s), bool)) for s, e in zip(sizes, ends, strict=True)]
    seen, cache = read_all(chunks)
    assert np.abs(np.asarray(seen) - full_logits(DECODER, TOKENS)).max() < TOLERANCE
    assert cache.length.tolist() == [LENGTH] * ROWS
    assert cache.valid.sum() == ROWS * LENGTH


def test_a_full_pass_with_padding_on_the_right_equals_each_row_alone():
    valid = np.arange(LENGTH) < np.array([[9], [4], [1]])
    logits = padded_logits(jnp.asarray(np.where(valid, TOKENS, 0), jnp.int32), jnp.asarray(valid))
    for row, length in enumerate((9, 4, 1)):
        alone = full_logits(DECODER, TOKENS[row : row + 1, :length])
        assert jnp.abs(logits[row, :length] - alone[0]).max() < TOLERANCE


# Chunks of four slots in which any slot of any row may be a hole: padding, or a particle that pauses.
@settings(max_examples=15)
@given(st.lists(st.integers(0, 2 ** (ROWS * 4) - 1), min_size=1, max_size=6))
def test_holes_anywhere_change_nothing(masks):
    chunks, written = [], [[] for _ in range(ROWS)]
    for mask in masks:
        valid = np.array([(mask >> i) & 1 for i in range(ROWS * 4)], bool).reshape(ROWS, 4)
        tokens = np.full((ROWS, 4), 3)  # what lies in a hole must not matter
        for row in range(ROWS):
            for column in np.flatnonzero(valid[row]):
                token = (7 * row + 5 * len(written[row])) % DECODER.config.vocab_size
                tokens[row, column] = token
                written[row].append(token)
        chunks.append((tokens, valid))
    seen, cache = read_all(chunks)
    for row in range(ROWS):
        assert cache.length[row] == len(written[row])
        assert np.isfinite(seen[row]).all()
        if written[row]:
            assert np.abs(seen[row] - full_logits(DECODER, [written[row]])[0]).max() < TOLERANCE


def test_gathering_by_ancestor_then_going_on_equals_reading_from_scratch():
    """What a particle filter does: read, resample, read on."""
    rng, n = np.random.default_rng(1), 6
    texts, slot = [[] for _ in range(n)], 0
    cache = empty_cache(DECODER.config, batch=n, slots=SLOTS)
    for _ in range(5):
        tokens, valid = rng.integers(0, DECODER.config.vocab_size, (n, 4)), rng.random((n, 4)) < 0.7
        logits, cache = read(jnp.asarray(tokens, jnp.int32), jnp.asarray(valid), cache, jnp.int32(slot))
        slot += 4
        for row in range(n):
            texts[row] = texts[row] + tokens[row, valid[row]].tolist()
            newest = np.flatnonzero(valid[row])
            if newest.size:
                expected = full_logits(DECODER, [texts[row]])[0, -1]
                assert jnp.abs(logits[row, newest[-1]] - expected).max() < TOLERANCE
        ancestors = rng.integers(0, n, n)  # some rows die, some are copied
        cache = jax.tree.map(lambda x, a=ancestors: x[a], cache)
        texts = [list(texts[a]) for a in ancestors]


def test_a_batch_does_not_mix_its_rows():
    alone = full_logits(DECODER, TOKENS[1:2])
    changed = TOKENS.copy()
    changed[[0, 2]] = 5
    assert jnp.abs(full_logits(DECODER, changed)[1] - alone[0]).max() < TOLERANCE


def test_later_tokens_do_not_change_earlier_logits():
    changed = TOKENS.copy()
    changed[:, 6:] = 2
    assert jnp.abs(full_logits(DECODER, changed)[:, :6] - full_logits(DECODER, TOKENS)[:, :6]).max() < TOLERANCE


def test_a_row_of_nothing_but_padding_is_finite_and_has_a_finite_gradient():
    def loss(params):
        decoder = nnx.merge(GRAPH, params)
        hidden, _ = decoder.hidden(jnp.zeros((2, 3), jnp.int32), jnp.array([[False] * 3, [True] * 3]))
        return jnp.sum(decoder.logits(hidden) ** 2)

    value, gradient = jax.jit(jax.value_and_grad(loss))(PARAMS)
    assert jnp.isfinite(value)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_grouped_heads_equal_repeated_key_heads():
    """Two query heads on a key head: the same as four key heads, each written twice."""
    wide_graph, wide = nnx.split(toy_decoder(num_key_value_heads=4))
    flat = dict(nnx.to_flat_state(PARAMS))

    def widened(path, leaf):
        value = flat[path].get_value()
        if path[-1] == "qkv":
            q, k, v = value[:, :2], value[:, 2], value[:, 3]
            repeated = jnp.repeat(k, 2, axis=0), jnp.repeat(v, 2, axis=0)
            value = jnp.stack([q.reshape(repeated[0].shape), *repeated], axis=1)
        assert value.shape == leaf.get_value().shape
        return leaf.replace(value)

    wide = nnx.from_flat_state([(path, widened(path, leaf)) for path, leaf in nnx.to_flat_state(wide)])
    assert jnp.abs(full_logits(nnx.merge(wide_graph, wide), TOKENS) - full_logits(DECODER, TOKENS)).max() < TOLERANCE


def test_a_cache_without_room_is_refused():
    cache = empty_cache(DECODER.config, batch=1, slots=4)
    one = jnp.ones((1, 3), jnp.int32)
    with pytest.raises(ValueError, match="the cache has 4 slots, no room for 3 from slot 2 on"):
        DECODER.hidden(one, one > 0, cache, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 0}, "vocab_size must be a number above 0, got 0"),
        ({"num_hidden_layers": -1}, "num_hidden_layers must be a number above 0, got -1"),
        ({"hidden_size": 12}, "head_dim must be even for rotary positions, got 3"),
        ({"num_key_value_heads": 3}, r"num_attention_heads \(4\) must be a multiple of num_key_value_heads \(3\)"),
    ],
)
def test_impossible_shapes_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        toy_config(**changes)
