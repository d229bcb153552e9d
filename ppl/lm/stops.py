"""Where a text ends: stop strings found while tokens are drawn, also across the tokens that share them.

A stop string is a run of bytes, tokens are runs of bytes, and a text that so far ends with the beginning of a stop
string is a state. What each token does to each state is a table made once (Aho-Corasick), so that a jitted loop finds a
stop string by one lookup a token, whatever way the tokenizer cut it.
"""

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Int
from tokenizers import Tokenizer

HIT = 0  # the state of a text that has ended


class Stops(NamedTuple):
    """`table` [states, vocab]: the state after a token; state 0 is that a stop string has been seen, 1 the start."""

    table: Int[np.ndarray, "states vocab"] | Int[Array, "states vocab"]

    START = 1


def stop_table(tokenizer: Tokenizer, vocab_size: int, stops: Sequence[str]) -> Stops | None:
    """The table of some stop strings for a tokenizer; None without any.

    **Raises:** `ValueError` for an empty stop string, or a single text where a list is wanted.
    """
    if isinstance(stops, str):
        raise ValueError(f"stop must be a list of texts, got the text {stops!r}; write [{stops!r}]")
    if not stops:
        return None
    if not all(isinstance(stop, str) and stop for stop in stops):
        raise ValueError(f"stop must be texts of one character or more, got {list(stops)!r}")
    return Stops(_table(tuple(token_bytes(tokenizer, vocab_size)), tuple(stop.encode() for stop in stops)))


def token_bytes(tokenizer: Tokenizer, vocab_size: int) -> list[bytes]:
    """The bytes that each token adds to a text; special tokens and unused ids add none.

    Tokenizers that join words with blanks (no decoder) add the blank before a token.
    """
    kinds = _decoder_kinds(tokenizer)
    special = {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    found = []
    for i in range(vocab_size):
        token = tokenizer.id_to_token(i)
        if token is None or i in special:
            found.append(b"")
        elif "ByteLevel" in kinds:
            # Added tokens are plain text, which may hold characters that stand for no byte.
            found.append(b"".join(bytes([_BYTES[c]]) if c in _BYTES else c.encode() for c in token))
        elif kinds & {"Metaspace", "Replace", "ByteFallback"}:
            if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
                found.append(bytes([int(token[3:5], 16)]))
            else:
                found.append(token.replace("\u2581", " ").encode())
        elif kinds:
            raise ValueError(f"stop strings need a byte-level or SentencePiece tokenizer, this one is {sorted(kinds)}")
        else:
            found.append(f" {token}".encode())
    return found


@lru_cache(maxsize=32)
def _table(tokens: tuple[bytes, ...], stops: tuple[bytes, ...]) -> np.ndarray:
    # States are the beginnings of stop strings that a text can end with: the whole ones are all HIT.
    starts = sorted({stop[:i] for stop in stops for i in range(len(stop))} | {b""}, key=len)
    number = {start: i + 1 for i, start in enumerate(starts)}

    def after(state: bytes, byte: int) -> int:
        text = state + bytes([byte])
        if any(text.endswith(stop) for stop in stops):
            return HIT
        return next(number[text[i:]] for i in range(len(text) + 1) if text[i:] in number)

    moves = np.zeros((len(starts) + 1, 256), np.int32)
    moves[HIT] = HIT
    for state, i in number.items():
        moves[i] = [after(state, byte) for byte in range(256)]
    # All tokens at once, byte by byte: [states, vocab].
    longest = max(map(len, tokens), default=0)
    padded = np.zeros((len(tokens), longest), np.int32)
    lengths = np.array([len(token) for token in tokens])
    for i, token in enumerate(tokens):
        padded[i, : len(token)] = list(token)
    table = np.repeat(np.arange(len(starts) + 1, dtype=np.int32)[:, None], len(tokens), axis=1)
    for place in range(longest):
        table = np.where(place < lengths, moves[table, padded[:, place]], table)
    return table.astype(np.int16 if len(starts) < 2**15 else np.int32)


def _decoder_kinds(tokenizer: Tokenizer) -> set[str]:
    decoder = json.loads(tokenizer.to_str())["decoder"]
    if decoder is None:
        return set()
    return {part["type"] for part in decoder.get("decoders", [decoder])} - {"Fuse", "Strip"}


def _byte_alphabet() -> dict[str, int]:
    """The printable characters by which byte-level tokenizers write bytes (GPT-2's table)."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("\u00a1"), ord("\u00ac") + 1), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(plain)]
    return {chr(byte): byte for byte in plain} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTES = _byte_alphabet()
