import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppl.keys import as_key, like_leaf, numpy_generator, raw_array


def test_a_typed_key_is_returned_as_it_is():
    key = jax.random.key(3)
    assert as_key(key) is key


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1, np.int64(7), np.uint8(7)])
def test_a_seed_gives_the_key_that_jax_makes_of_it(seed):
    assert as_key(seed) == jax.random.key(int(seed))


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_jax_would_fold_onto_another_is_refused(seed):
    with pytest.raises(ValueError, match=rf"key: a seed must be in \[0, 2\*\*32\), got {seed}"):
        as_key(seed)


# `__wrapped__`: the function without the tests' type checker, which would refuse these first.
@pytest.mark.parametrize("bad", [True, 1.0, "1", None, jnp.uint32(1), jax.random.PRNGKey(0)])
def test_what_is_neither_key_nor_seed_is_refused(bad):
    with pytest.raises(TypeError, match="key: a typed key"):
        as_key.__wrapped__(bad)


def test_several_keys_are_refused():
    with pytest.raises(TypeError, match=r"key: one key is wanted, got an array of keys of shape \(2,\)"):
        as_key.__wrapped__(jax.random.split(jax.random.key(0)))


def test_it_works_under_jit_and_vmap():
    keys = jax.random.split(jax.random.key(0), 3)
    drawn = jax.jit(jax.vmap(lambda key: jax.random.uniform(as_key(key))))(keys)
    assert drawn.shape == (3,)
    assert len(set(drawn.tolist())) == 3


def test_a_numpy_generator_repeats_by_its_key_and_refuses_what_is_no_seed():
    first, again, other = (numpy_generator(key).random(3).tolist() for key in (0, jax.random.key(0), 1))
    assert first == again != other
    with pytest.raises(ValueError, match="key: a seed must be in"):
        numpy_generator(-1)


def test_keys_and_arrays_go_through_files_as_raw_numbers():
    key = jax.random.key(5, impl="rbg")
    assert like_leaf(raw_array(key), key) == key
    assert like_leaf(raw_array(key), jax.eval_shape(lambda: key)) == key
    half = jnp.arange(3, dtype=jnp.bfloat16)
    again = like_leaf(np.asarray(raw_array(half), np.float32), half)
    assert again.dtype == jnp.bfloat16
    assert again.tolist() == half.tolist()
