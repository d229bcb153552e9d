"""A task and models that take milliseconds, and hand-made tables of attempts."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd
from flax import nnx

from ppl.lm import LanguageModel, RewardModel
from ppl.lm.checkpoint import save_folder
from ppl.lm.tokenizer import number_tokenizer
from ppl.records import Records
from ppl.tasks import Problem
from tests.decode import tiny

DIGITS = number_tokenizer(("Start:",), max_number=9)


@dataclass(frozen=True)
class Primes:
    """Write words; right if the first one is a prime digit. A random model is right about one time in four."""

    name: str = "primes"
    step_delimiter: str = "\n"
    max_steps: int = 3
    max_step_tokens: int = 2
    numeric_answers: bool = False

    def problems(self, num: int, *, seed: int = 0) -> Sequence[Problem]:
        return [Problem(f"primes-{i}", f"Start: {i % 10} {i // 10 % 10} \n") for i in range(num)]

    def verify(self, problem: Problem, text: str) -> bool:
        return self.answer(problem, text) in ("2", "3", "5", "7")

    def answer(self, problem: Problem, text: str) -> str | None:
        word = text.split(" ")[0]
        return word if word.isdigit() else None

    def reachable(self, problem: Problem, prefix: str) -> bool:
        return not prefix or self.verify(problem, prefix)


@cache
def models() -> tuple[LanguageModel, RewardModel]:
    """A random language model and reward model for `Primes`."""
    size = DIGITS.get_vocab_size()
    lm = tiny.decoder(1, sharpness=2.0, vocabulary=size)
    reward = tiny.decoder(2, labels=1, sharpness=2.0, vocabulary=size)
    return (
        LanguageModel("tiny", *nnx.split(lm), DIGITS, lm.config),
        RewardModel("tiny-prm", *nnx.split(reward), DIGITS, reward.config),
    )


def write_models(folder, *, words, max_number, context=64):
    """Two model folders with the vocabulary of a real task; returns their paths."""
    tokenizer = number_tokenizer(words, max_number=max_number)
    paths = []
    for name, labels in (("lm", 0), ("prm", 1)):
        made = tiny.decoder(3 + labels, labels=labels, vocabulary=tokenizer.get_vocab_size(), context=context)
        save_folder(folder / name, made, tokenizer)
        paths.append(folder / name)
    return paths


def attempts(answers, *, problem="p", method="sample", **columns) -> Records:
    """Attempts with those answers (None: no answer) and columns."""
    frame = pd.DataFrame({"problem": problem, "sample": np.arange(len(answers)), "method": method})
    frame["answer"] = pd.array(answers, "string")
    for name, values in columns.items():
        frame[name] = values
    return Records(frame)
