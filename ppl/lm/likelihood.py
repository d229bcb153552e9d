"""How likely texts are under a language model: log-probabilities of their tokens, by full forward passes."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import takewhile

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from ppl.lm.decoder import Decoder
from ppl.lm.padding import padded

_LOGITS = 1 << 26  # entries that are in memory at once: a vocabulary of 150 thousand takes 2.5 GB for 4,096 tokens


@partial(jax.jit, static_argnums=0)
def next_log_probs(
    graph: nnx.GraphDef, params: nnx.State, tokens: Int[Array, "batch length"]
) -> Float[Array, "batch length-1"]:
    """Log probability of each next token given those before it; the logits of few places are in memory at once."""
    decoder: Decoder = nnx.merge(graph, params)
    hidden, _ = decoder.hidden(tokens[:, :-1], jnp.ones(tokens[:, :-1].shape, bool))
    batch, places = hidden.shape[:2]
    size = max(1, min(places, _LOGITS // (batch * decoder.config.vocab_size)))
    parts = -(-places // size)

    def in_parts(array):
        filled = jnp.pad(array, [(0, 0), (0, parts * size - places), *[(0, 0)] * (array.ndim - 2)])
        return jnp.moveaxis(filled.reshape(batch, parts, size, *array.shape[2:]), 1, 0)

    def one_part(part):
        log_probs = jax.nn.log_softmax(decoder.logits(part[0]))
        return jnp.take_along_axis(log_probs, part[1][..., None], axis=-1)[..., 0]

    found = jax.lax.map(one_part, (in_parts(hidden), in_parts(tokens[:, 1:])))
    return jnp.moveaxis(found, 0, 1).reshape(batch, parts * size)[:, :places]


def text_log_probs(
    encode: Callable[[str], list[int]],
    log_probs: Callable[[Int[np.ndarray, "batch length"]], Float[Array, "batch length-1"]],
    pad_id: int,
    prompts: Sequence[str],
    texts: Sequence[str],
    batch_size: int,
) -> list[Float[np.ndarray, " tokens"]]:
    """See `LanguageModel.log_likelihood`."""
    rows = [encode(prompt + text) for prompt, text in zip(prompts, texts, strict=True)]
    starts = [_shared(encode(prompt), row) for prompt, row in zip(prompts, rows, strict=True)]
    found: list[Float[np.ndarray, " tokens"]] = [np.zeros(0, np.float32)] * len(rows)
    # Texts of like length together: little padding is read.
    order = np.argsort([len(row) for row in rows], kind="stable")
    for chosen in np.array_split(order, -(-len(rows) // batch_size)) if len(rows) else []:
        filled = [*chosen, *[chosen[0]] * (min(batch_size, len(rows)) - len(chosen))]  # one number of rows compiles
        values = np.asarray(log_probs(padded([rows[i] for i in filled], pad_id)[0]))
        for i, row in zip(chosen, values, strict=False):
            found[i] = row[max(starts[i] - 1, 0) : max(len(rows[i]) - 1, 0)]
    return found


def _shared(a: Sequence[int], b: Sequence[int]) -> int:
    """Tokens that both begin with."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))
