"""Random keys at the public boundary: a typed key, or an integer seed for those who do not need more."""

import operator

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
    if isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
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
