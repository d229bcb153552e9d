"""Language models for the server's tests: one made of nothing, and one that is a small decoder."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ppl.lm import LanguageModel
from ppl.lm.completion import Completion
from ppl.lm.writing import read_prompt, write_step
from tests.lm.toys import NEWLINE, TOKENIZER, WORDS, toy_config


class Fake:
    """Writes words drawn from the key alone, and remembers each call."""

    name, tokenizer, config = "fake", TOKENIZER, toy_config()

    def __init__(self, before=lambda: None):
        self.calls: list[dict] = []
        self.before = before

    def encode(self, text: str) -> list[int]:
        if "bad" in text:
            raise ValueError(f"text {text!r}: 'bad' is not in the model's vocabulary")
        return [self.config.bos_token_id, *TOKENIZER.encode(text, add_special_tokens=False).ids]

    def decode(self, tokens: Sequence[int]) -> str:
        return TOKENIZER.decode(list(tokens), skip_special_tokens=True)

    def chat_prompt(self, messages) -> str:
        return "<s> " + " ".join(message["content"] for message in messages)

    def complete(self, prompts, key, *, num_samples, max_tokens, temperature, stop, **cuts):
        self.calls.append(
            {"prompts": prompts, "n": num_samples, "max_tokens": max_tokens, "temperature": temperature, "stop": stop}
            | cuts
        )
        self.before()
        if any(prompt[-1] == NEWLINE for prompt in prompts):
            raise ValueError("a prompt that ends with a newline")
        return [
            [self._one(np.random.default_rng([*np.asarray(jax.random.key_data(k)), j]), max_tokens, stop)
             for j in range(num_samples)]
            for k in key
        ]  # fmt: skip

    def _one(self, rng, max_tokens, stop):
        words = [TOKENIZER.token_to_id(word) for word in [*WORDS, "\n"]]
        tokens = rng.choice(words, size=max_tokens).tolist()
        text, finish = self.decode(tokens), "length"
        if stop and any(end in text for end in stop):
            end = next(i for i in range(1, max_tokens + 1) if any(s in self.decode(tokens[:i]) for s in stop))
            tokens, finish = tokens[:end], "stop"
            text = text[: min(place for s in stop if (place := text.find(s)) >= 0)]
        return Completion(text, tokens, [-0.5] * len(tokens), [-0.25] * len(tokens), finish)


class Stepwise:
    """A `LanguageModel` that completes up to one delimiter: what `ppl.lm.writing` does, one prompt at a time."""

    def __init__(self, lm: LanguageModel):
        self.lm = lm
        self.name, self.tokenizer, self.config = lm.name, lm.tokenizer, lm.config
        self.encode, self.decode = lm.encode, lm.decode

    def chat_prompt(self, messages) -> str:
        raise ValueError(f"model {self.name!r} has no chat template")

    def complete(self, prompts, key, *, num_samples, max_tokens, temperature, top_k, top_p, min_p, stop):
        assert (top_k, top_p, min_p) == (None, None, None)
        assert len(stop) <= 1
        delimiter = self.lm.token_id(stop[0]) if stop else None
        found = []
        for ids, k, heat in zip(prompts, key, temperature, strict=True):  # one shape, whatever shares a batch
            padded, known = np.zeros(-(-len(ids) // 8) * 8, np.int32), np.arange(-(-len(ids) // 8) * 8) < len(ids)
            padded[: len(ids)] = ids
            step = _write(
                self.lm.graph, self.lm.params, padded, known, k, jnp.float32(heat),
                n=num_samples, max_tokens=max_tokens, delimiter=delimiter, eos=self.config.eos_token_id,
            )  # fmt: skip
            rows = jax.tree.map(np.asarray, step)
            found.append([self._completion([part[j] for part in rows], delimiter) for j in range(num_samples)])
        return found

    def _completion(self, row, delimiter):
        tokens, mask, log_probs, log_proposals = row
        tokens = tokens[mask].tolist()
        ended = tokens[-1] in (delimiter, self.config.eos_token_id)
        text = self.decode(tokens)
        return Completion(
            text[: text.find("\n")] if delimiter is not None and "\n" in text else text,
            tokens, log_probs[mask].tolist(), log_proposals[mask].tolist(), "stop" if ended else "length",
        )  # fmt: skip


@partial(jax.jit, static_argnums=0, static_argnames=("n", "max_tokens", "delimiter", "eos"))
def _write(graph, params, ids, known, key, heat, *, n, max_tokens, delimiter, eos):
    decoder = nnx.merge(graph, params)
    writing = read_prompt(decoder, ids, known, n=n, slots=max_tokens)

    def token(carry, inputs):
        writing, active = carry
        offset, key = inputs
        paused = writing._replace(finished=~active)
        moved, step = write_step(
            decoder, key, paused, ids.shape[0] + offset, heat, max_tokens=1, delimiter=delimiter, eos=eos
        )
        drawn, written = step.tokens[:, 0], step.written[:, 0]
        more = active & (drawn != eos) & (drawn != (-1 if delimiter is None else delimiter))
        return (moved, more), (drawn, written, step.log_prob, step.log_proposal)

    scanned = (jnp.arange(max_tokens), jax.random.split(key, max_tokens))
    _, parts = jax.lax.scan(token, (writing, jnp.ones(n, bool)), scanned)
    return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), parts)
