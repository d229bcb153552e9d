"""What a model must offer to be served; `LanguageModel` and `RewardModel` do."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Float, Key
from tokenizers import Tokenizer

from ppl.lm.completion import Completion
from ppl.lm.config import DecoderConfig


@runtime_checkable
class Writer(Protocol):
    """A language model that can be served."""

    @property
    def name(self) -> str: ...
    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def config(self) -> DecoderConfig: ...

    def encode(self, text: str) -> list[int]:
        """Token ids of a prompt, its start token included."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of `tokens`, special tokens left out."""
        ...

    def added_text(self, prompt: Sequence[int], tokens: Sequence[int]) -> str:
        """The text that `tokens` add to a prompt."""
        ...

    def chat_prompt(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """The prompt that messages make, special tokens written out. **Raises:** `ValueError` without a template."""
        ...

    def complete(
        self,
        prompts: Sequence[Sequence[int]],
        key: Key[Array, " prompts"],
        *,
        num_samples: int,
        max_tokens: int,
        temperature: Sequence[float],
        top_k: int | None,
        top_p: float | None,
        min_p: float | None,
        stop: Sequence[str],
    ) -> list[list[Completion]]:
        """`num_samples` continuations of each prompt, by a key and a temperature of its own."""
        ...


@runtime_checkable
class Judge(Protocol):
    """A reward model that can be served."""

    @property
    def name(self) -> str: ...

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, its start token included."""
        ...

    def score(self, prompts: Sequence[str], prefixes: Sequence[str]) -> Float[np.ndarray, " batch"]:
        """P(right) of each prefix."""
        ...
