"""Random keys at the public boundary: a typed key, or an integer seed for those who do not need more."""

import operator
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

_SEEDS = 2**32


def as_key(key: int | np.integer | Key[Array, ""]) -> Key[Array, ""]:
    """A typed scalar key from a typed scalar key (returned as it is) or from an integer seed.

    **Arguments:**

    - `key`: a scalar made by `jax.random.key`, or an integer in `[0, 2**32)`.

    **Returns:** a typed scalar key.

    **Raises:** `TypeError` for anything else, raw `uint32` keys of `jax.random.PRNGKey` among it; `ValueError` for a
    seed out of range: JAX keeps only its low 32 bits unless 64-bit mode is on, so that seeds 0 and 2**32 would
    silently be one.
    """
    if _is_key(key):
        if key.shape != ():
            raise TypeError(f"key: one key is wanted, got an array of keys of shape {key.shape}")
        return key
    if isinstance(key, bool) or not isinstance(key, int | np.integer):
        raise TypeError(f"key: a typed key (jax.random.key) or an int is wanted, got {key!r}")
    seed = operator.index(key)
    if not 0 <= seed < _SEEDS:
        raise ValueError(f"key: a seed must be in [0, 2**32), got {seed}")
    return jax.random.key(seed)


def numpy_generator(key: int | np.integer | Key[Array, ""]) -> np.random.Generator:
    """A numpy generator from a key or seed, for draws that numpy makes faster than JAX on the host.

    **Raises:** as `as_key`.
    """
    return np.random.default_rng(np.asarray(jax.random.key_data(as_key(key))))


def raw_array(leaf: Any) -> np.ndarray:
    """A leaf as files hold it: an array, or the raw numbers of a random key."""
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def like_leaf(stored: Any, like: Any) -> Array:
    """What `raw_array` made of a leaf, again an array of that leaf's kind and dtype (`like` may be a shape alone)."""
    if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(jnp.asarray(stored), impl=jax.random.key_impl(jnp.empty((), like.dtype)))
    return jnp.asarray(stored, like.dtype)


def _is_key(leaf: Any) -> TypeGuard[jax.Array]:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
