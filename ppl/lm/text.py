"""Texts as a NumPyro distribution: what a language model writes after a prompt, to sample, score and condition on."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Key
from numpyro.distributions import constraints

from ppl.lm.decoder import Decoder
from ppl.lm.model import LanguageModel
from ppl.lm.padding import padded
from ppl.lm.proposals import Proposal, log_density
from ppl.lm.writing import read_prompt, start_writing, write_step


class Text(dist.Distribution):
    """The law of a language model's continuations of a prompt, of at most `max_tokens` tokens.

    A value is [max_tokens] token ids: those of a text, the one that ends it included, then the model's padding id. A
    text that has not ended after `max_tokens` counts as it stands, so that all values together have probability one.

    **Arguments:** `lm`; `prompts`: one or several; `which`: the number of the prompt, which may be a latent site;
    `temperature`, above 0, which may be one, too. Both may have batch shapes, which broadcast.

    **Raises:** `ValueError` if there is no prompt, `max_tokens` is below 1, or a text could be longer than the context.
    """

    pytree_data_fields = ("which", "temperature")
    pytree_aux_fields = ("lm", "prompts", "max_tokens")

    def __init__(
        self,
        lm: LanguageModel,
        prompts: str | Sequence[str],
        max_tokens: int,
        *,
        which: ArrayLike = 0,
        temperature: ArrayLike = 1.0,
        validate_args: bool | None = None,
    ):
        self.lm, self.max_tokens = lm, max_tokens
        self.prompts = (prompts,) if isinstance(prompts, str) else tuple(prompts)
        if not self.prompts:
            raise ValueError("prompts: at least one is needed, got none")
        if max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {max_tokens}")
        longest, limit = max(len(lm.encode(p)) for p in self.prompts), lm.config.max_position_embeddings
        if longest + max_tokens > limit:
            raise ValueError(f"a prompt of {longest} tokens and max_tokens={max_tokens} are more than the {limit} read")
        self.which, self.temperature = jnp.asarray(which), jnp.asarray(temperature, jnp.float32)
        shape = jnp.broadcast_shapes(self.which.shape, self.temperature.shape)
        super().__init__(shape, (max_tokens,), validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.nonnegative_integer, 1)

    def encode(self, texts: Sequence[str], *, ended: bool = True) -> Int[np.ndarray, "texts max_tokens"]:
        """Texts as values to observe, the token that ends a text appended if it has `ended`.

        **Raises:** `ValueError` for a text of more than `max_tokens` tokens.
        """
        rows = np.full((len(texts), self.max_tokens), self.lm.pad_id, np.int32)
        for row, text in zip(rows, texts, strict=True):
            ids = self.lm.tokenizer.encode(text, add_special_tokens=False).ids
            ids += [self.lm.config.eos_token_ids[0]] if ended else []
            if len(ids) > self.max_tokens:
                raise ValueError(f"text {text!r:.60} has {len(ids)} tokens, max_tokens is {self.max_tokens}")
            row[: len(ids)] = ids
        return rows

    def sample(self, key: Key[Array, ""] | None, sample_shape: tuple[int, ...] = ()) -> Int[Array, "..."]:
        """Token ids [*sample_shape, *batch_shape, max_tokens]."""
        if key is None:
            raise ValueError("key: a random key is needed to sample, got None")
        which, temperature = self._flat()
        num = math.prod(sample_shape)
        ids, known = self._prompts()
        decoder: Decoder = nnx.merge(self.lm.graph, self.lm.params)

        def one(key, which, temperature):
            prefix, last = read_prompt(decoder, ids[which], known[which])
            writing = start_writing(decoder, prefix, last, n=num, slots=self.max_tokens)
            _, step = write_step(
                decoder, key, prefix, writing, 0, Proposal(temperature), max_tokens=self.max_tokens, delimiter=None,
                eos=self.lm.config.eos_token_ids,
            )  # fmt: skip
            return jnp.where(step.written, step.tokens, self.lm.pad_id)

        rows = jax.vmap(one, out_axes=1)(jax.random.split(key, len(which)), which, temperature)
        return rows.reshape(*sample_shape, *self.batch_shape, self.max_tokens)

    def log_prob(self, value: ArrayLike, intermediates: list[Any] | None = None) -> Float[Array, "..."]:
        """Natural log of each text's probability."""
        value = jnp.asarray(value, jnp.int32)
        shape = jnp.broadcast_shapes(value.shape[:-1], self.batch_shape)
        rows = jnp.broadcast_to(value, (*shape, self.max_tokens)).reshape(-1, self.max_tokens)
        which, temperature = (jnp.broadcast_to(x, shape).reshape(-1) for x in (self.which, self.temperature))
        ids, known = self._prompts()
        decoder: Decoder = nnx.merge(self.lm.graph, self.lm.params)
        ends = jnp.isin(rows, jnp.asarray(self.lm.config.eos_token_ids, jnp.int32))
        written = jnp.cumsum(ends, axis=1) - ends == 0  # up to the first end, itself included
        hidden, _ = decoder.hidden(
            jnp.concatenate([ids[which], rows], axis=1), jnp.concatenate([known[which], written], axis=1)
        )
        # A text's first token follows the prompt's last, the others follow each other: padding lies between.
        last = jnp.sum(known[which], axis=1) - 1
        places = jnp.concatenate([last[:, None], jnp.broadcast_to(
            jnp.arange(ids.shape[1], ids.shape[1] + self.max_tokens - 1), (len(rows), self.max_tokens - 1)
        )], axis=1)  # fmt: skip
        law = jax.nn.log_softmax(decoder.logits(jnp.take_along_axis(hidden, places[:, :, None], axis=1)))
        drawn = jax.vmap(log_density, in_axes=(Proposal(0), 0))(Proposal(temperature), law)
        each = jnp.take_along_axis(drawn, rows[:, :, None], axis=2)[..., 0]
        # After its end a text is padding for sure, and nothing else.
        each = jnp.where(written, each, jnp.where(rows == self.lm.pad_id, 0.0, -jnp.inf))
        return jnp.sum(each, axis=1).reshape(shape)

    def _flat(self) -> tuple[Array, Array]:
        which, temperature = (jnp.broadcast_to(x, self.batch_shape).reshape(-1) for x in (self.which, self.temperature))
        return which, temperature

    def _prompts(self) -> tuple[Int[Array, "prompts length"], Bool[Array, "prompts length"]]:
        ids, known = padded([self.lm.encode(prompt) for prompt in self.prompts], self.lm.pad_id)
        return jnp.asarray(ids), jnp.asarray(known)
