"""Plates that subsample their data: all of their elements instead, or a minibatch drawn with a key."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key
from numpyro.primitives import Messenger


class Plates(Messenger):
    """Plates that subsample take all of their elements, or with a key a minibatch of them.

    Minibatches are drawn with replacement, at a cost of their own size; NumPyro's draw without it takes a loop over the
    minibatch on CPUs, 0.9 ms for 100 of 2,000 elements. Both are unbiased, and this one's variance is larger by
    1 / (1 - minibatch / size).
    """

    def __init__(self, fn: Callable[..., Any], key: Key[Array, ""] | None = None):
        self.key = key
        self.found: dict[str, tuple[int, int]] = {}
        self.drawn: dict[str, Array] = {}
        super().__init__(fn)

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] != "plate":
            return
        name, (size, minibatch) = msg["name"], msg["args"]
        if minibatch is None or minibatch == size:
            return
        self.found[name] = (size, minibatch)
        if self.key is None:
            msg["args"], msg["value"] = (size, None), jnp.arange(size)
            return
        if name not in self.drawn:
            self.drawn[name] = jax.random.randint(jax.random.fold_in(self.key, len(self.drawn)), (minibatch,), 0, size)
        msg["value"] = self.drawn[name]
