"""The training corpus of `models/countdown`: written solutions of Countdown, Game of 24 and arithmetic.

Held-out problems (`ppl.tasks.holdout`) are dropped here, so no example, and no state of a Countdown solution, is a
problem that any evaluation set can draw. Of expressions only the whole is held out: one of two operations often is a
part of a longer one. `tests/models/test_corpus.py` checks it on what this file yields.
"""

import itertools
import random
from collections.abc import Iterator

import numpy as np
from tokenizers import Tokenizer

from ppl.lm.tokenizer import BOS, EOS, number_tokenizer
from ppl.tasks import arithmetic, countdown_corpus
from ppl.tasks.game24 import public_hashes

MAX_NUMBER, MIN_TARGET = 15, 10  # Countdown as trained: numbers 1..15, targets 10..999
WORDS = ("Numbers:", "Target:", "left:", "Evaluate:", "+", "-", "*", "/", "=", "(", ")")

# (kind, size, share of examples): Countdown with `size` numbers, Game of 24, arithmetic with `size` operations,
# grouped by padded length so that a batch wastes few tokens.
MIXTURE = {
    36: (
        ("countdown", 3, 3), ("countdown", 4, 36), ("game24", 4, 17),
        ("arithmetic", 1, 1), ("arithmetic", 2, 3), ("arithmetic", 3, 6),
    ),
    48: (("countdown", 5, 10), ("arithmetic", 4, 6)),
    64: (("countdown", 6, 6), ("arithmetic", 5, 5), ("arithmetic", 6, 7)),
}  # fmt: skip


def tokenizer() -> Tokenizer:
    """The vocabulary of both bundled models: task words and one token for each number 0..999."""
    return number_tokenizer(WORDS, max_number=countdown_corpus.MAX_VALUE)


def examples(seed: int, kind: str, size: int, num: int) -> list[tuple[str, str]]:
    """`num` (prompt, solution) pairs of one kind, none of them held out."""
    if kind == "arithmetic":
        rng = random.Random(f"{seed}-{kind}-{size}")
        return [arithmetic.demonstration(rng, depth=size, max_number=20) for _ in range(num)]
    rng = np.random.default_rng([seed, size, kind == "game24"])
    named, texts = public_hashes(), []
    while len(texts) < num:
        batch = countdown_corpus.derive(
            rng,
            batch=200_000 if kind == "game24" else 2 * num,
            count=size,
            max_number=13 if kind == "game24" else MAX_NUMBER,
        )
        wanted = batch.target == 24 if kind == "game24" else batch.target >= MIN_TARGET
        batch = countdown_corpus.select(batch, wanted)
        texts += countdown_corpus.solution_texts(
            countdown_corpus.select(batch, countdown_corpus.training_mask(batch, named=named))
        )
    return texts[:num]


def token_rows(tok: Tokenizer, pairs: list[tuple[str, str]], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Padded ids [num, length] uint16 and the length of each row's prompt [num]."""
    prompts = tok.encode_batch([f"{BOS} {prompt}" for prompt, _ in pairs])
    whole = tok.encode_batch([f"{BOS} {prompt}{solution} {EOS}" for prompt, solution in pairs])
    rows = np.zeros((len(pairs), length), np.uint16)
    for row, encoding in zip(rows, whole, strict=True):
        row[: len(encoding.ids)] = encoding.ids
    return rows, np.asarray([len(p.ids) for p in prompts])


def batches(seed: int, length: int, size: int, *, chunk: int = 20_000) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Endless shuffled batches of `size` (rows, prompt lengths) of the mixture's part with one padded length."""
    tok, parts = tokenizer(), MIXTURE[length]
    total = sum(share for *_, share in parts)
    rng = np.random.default_rng([seed, length])
    for round_ in itertools.count():
        pairs = []
        for kind, size_, share in parts:
            pairs += examples(seed * 1_000_003 + round_, kind, size_, max(1, round(chunk * share / total)))
        rows, prompts = token_rows(tok, pairs, length)
        order = rng.permutation(len(rows))
        rows, prompts = rows[order], prompts[order]
        for start in range(0, len(rows) - size + 1, size):
            yield rows[start : start + size], prompts[start : start + size]
