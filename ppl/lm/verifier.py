"""Generative verifiers: a language model writes a verdict several times, and its share of yes is P(right).

**Source:** Zhang et al. (2024), arXiv 2408.15240 (GenRM): the score of a solution is the mean verdict of V samples.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import jax
import numpy as np
from jaxtyping import Array, Float, Int, Key

from ppl.cost import Ledger
from ppl.keys import as_key
from ppl.lm.model import LanguageModel

TEMPLATE = (
    "{prompt}\n\nProposed solution:\n{solution}\n\nCheck the solution step by step, then end with "
    "'Verdict: Yes' if it is right, or 'Verdict: No'.\n"
)


@dataclass(frozen=True, eq=False)
class Verdicts:
    """`yes`, `no` [batch]: how many of a solution's `num_votes` samples said so (the rest said neither); `cost`: what
    the samples cost."""

    yes: Int[np.ndarray, " batch"]
    no: Int[np.ndarray, " batch"]
    num_votes: int
    cost: Ledger

    @property
    def probability(self) -> Float[np.ndarray, " batch"]:
        """The mean verdict: a sample without one counts as half, so that silence is not a no."""
        return ((self.yes + (self.num_votes - self.no)) / (2 * self.num_votes)).astype(np.float32)


@dataclass(frozen=True, eq=False)
class GenerativeVerifier:
    """A judge that writes: `template` holds `{prompt}` and `{solution}`; the verdict is the last of the texts `yes` and
    `no` that a sample holds. Its prompt goes through the model's chat template if it has one.

    **Raises:** `ValueError` if `template` lacks a field, or `num_votes` or `max_tokens` is below 1.
    """

    lm: LanguageModel
    template: str = TEMPLATE
    num_votes: int = 8
    max_tokens: int = 512
    temperature: float = 1.0
    yes: str = "Verdict: Yes"
    no: str = "Verdict: No"
    stop: Sequence[str] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        for name in ("{prompt}", "{solution}"):
            if name not in self.template:
                raise ValueError(f"template must hold {name}, got {self.template!r:.80}")
        for name in ("num_votes", "max_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def verdicts(self, prompts: Sequence[str], solutions: Sequence[str], key: int | Key[Array, ""]) -> Verdicts:
        """Sample `num_votes` verdicts on each solution.

        **Raises:** `ValueError` if the lists do not pair up, or a text does not fit.
        """
        if len(prompts) != len(solutions):
            raise ValueError(f"prompts and solutions must pair up, got {len(prompts)} and {len(solutions)}")
        asked = []
        for prompt, solution in zip(prompts, solutions, strict=True):
            fields = {"{prompt}": prompt, "{solution}": solution}
            text = re.sub(r"\{prompt\}|\{solution\}", lambda found, fields=fields: fields[found[0]], self.template)
            chat = self.lm.chat
            if chat is None:
                asked.append(self.lm.encode(text))
            else:
                rendered = chat.render([{"role": "user", "content": text}])
                asked.append(self.lm.tokenizer.encode(rendered, add_special_tokens=False).ids)
        found = self.lm.complete(
            asked, as_key(key), num_samples=self.num_votes, max_tokens=self.max_tokens, temperature=self.temperature,
            stop=self.stop,
        )  # fmt: skip
        said = [[self._verdict(one.text) for one in votes] for votes in found]
        cost = Ledger(
            generated_tokens=sum(len(one.tokens) for votes in found for one in votes),
            prompt_tokens=sum(map(len, asked)),
            reward_calls=len(asked) * self.num_votes,
        )
        count = lambda word: np.array([votes.count(word) for votes in said], np.int64)  # noqa: E731
        return Verdicts(count("yes"), count("no"), self.num_votes, cost)

    def score(self, prompts: Sequence[str], solutions: Sequence[str]) -> Float[np.ndarray, " batch"]:
        """P(right) of each solution by a fixed key, with the signature of a reward model."""
        return self.verdicts(prompts, solutions, jax.random.key(0)).probability

    def _verdict(self, text: str) -> str:
        yes, no = text.rfind(self.yes), text.rfind(self.no)
        return "" if yes == no == -1 else "yes" if yes > no else "no"
