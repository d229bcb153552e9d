"""Tokenizers: Hugging Face `tokenizer.json` files, and the word-level vocabulary of the bundled models."""

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Sequence as Pipeline
from tokenizers.pre_tokenizers import Split
from tokenizers.processors import TemplateProcessing

PAD, BOS, EOS, UNKNOWN = "<pad>", "<s>", "</s>", "<unk>"
SPECIAL = (PAD, BOS, EOS, UNKNOWN)


def number_tokenizer(words: Sequence[str], *, max_number: int) -> Tokenizer:
    """A word-level tokenizer: `words`, a newline token, and one token for each number 0..`max_number`.

    Words are separated by blanks; a newline is a token by itself. Decoding joins tokens with blanks. A text begins with
    the start token.
    """
    vocabulary = [*SPECIAL, "\n", *words, *map(str, range(max_number + 1))]
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = Pipeline([Split(Regex(" +"), "removed"), Split("\n", "isolated")])
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.post_processor = TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, vocabulary.index(BOS))])
    return tokenizer


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in `path` (a `tokenizer.json`).

    **Raises:** `ValueError` naming the file when it is missing or not a tokenizer.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; a model folder holds config.json, model.safetensors, tokenizer.json")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the tokenizers package raises bare Exception
        raise ValueError(f"{path}: not a tokenizer file ({error})") from None


def encode(tokenizer: Tokenizer, text: str, *, special: bool = False) -> list[int]:
    """Token ids of `text`; with the `special` ones that the tokenizer puts around a text (a start token), or without.

    **Raises:** `ValueError` naming the first piece that the vocabulary lacks.
    """
    encoding = tokenizer.encode(text, add_special_tokens=special)
    unknown = tokenizer.token_to_id(UNKNOWN)
    if unknown is not None and unknown in encoding.ids:
        start, end = encoding.offsets[encoding.ids.index(unknown)]
        raise ValueError(f"text {text!r}: {text[start:end]!r} is not in the model's vocabulary")
    return encoding.ids
