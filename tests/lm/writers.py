"""Language models for the server's tests: one made of nothing, and one that is a small decoder."""

from collections.abc import Sequence

import jax
import numpy as np

from ppl.lm import Model
from ppl.lm.completion import Completion
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

    added_text = Model.added_text

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
