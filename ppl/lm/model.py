"""Language models and reward models as users hold them: weights, tokenizer and name, with jitted entry points."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int
from tokenizers import Tokenizer

from ppl.lm.bundled import model_folder
from ppl.lm.chat import ChatTemplate, Message, load_chat_template
from ppl.lm.checkpoint import Placement, load_folder
from ppl.lm.config import DecoderConfig
from ppl.lm.decoder import Decoder
from ppl.lm.families import read_json
from ppl.lm.tokenizer import encode


@dataclass(frozen=True, eq=False)
class Model:
    """What a language model and a reward model share.

    `graph` is the decoder's static part and `params` its arrays (`nnx.merge` joins them inside a jitted function);
    `name` is the folder's name; `chat`: its chat template, if it has one; `defaults`: what its generation_config.json
    suggests for sampling, which nothing here applies unasked.
    """

    name: str
    graph: nnx.GraphDef
    params: nnx.State
    tokenizer: Tokenizer
    config: DecoderConfig
    chat: ChatTemplate | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)

    @property
    def pad_id(self) -> int:
        """What stands where a row has no token; masks, not this id, say where that is."""
        return self.config.pad_token_id or 0

    def encode(self, text: str) -> list[int]:
        """Token ids of a prompt: the start token if the tokenizer puts one, then `text`.

        **Raises:** `ValueError` naming the first piece of `text` that the vocabulary lacks.
        """
        return encode(self.tokenizer, text, special=True)

    def chat_prompt(self, messages: Sequence[Message], **variables: Any) -> str:
        """The prompt that `messages` make by the model's chat template, see `ppl.lm.chat.ChatTemplate.render`.

        **Raises:** `ValueError` if the model has none, or it refuses the messages.
        """
        if self.chat is None:
            raise ValueError(f"model {self.name!r} has no chat template; give it a prompt as text")
        return self.chat.render(messages, **variables)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of `tokens`, special tokens left out."""
        return self.tokenizer.decode(list(tokens), skip_special_tokens=True)

    def token_id(self, text: str) -> int:
        """The id of the one token that is `text`. **Raises:** `ValueError` if it is not one token."""
        token = self.tokenizer.token_to_id(text)
        if token is None:
            raise ValueError(f"{text!r} is not one token of model {self.name!r}")
        return token

    def fingerprint(self) -> str:
        """A hash of shape and weights: two models of one fingerprint compute the same."""
        digest = hashlib.sha256(repr(self.config).encode())
        for leaf in jax.tree.leaves(self.params):
            digest.update(np.asarray(leaf).tobytes())
        return f"{self.name}-{digest.hexdigest()[:16]}"

    def pad(
        self, prompts: Sequence[str], *, multiple: int = 8
    ) -> tuple[Int[np.ndarray, "batch length"], Bool[np.ndarray, "batch length"]]:
        """Prompts as ids padded on the right, and which are tokens; to a `multiple`, so that few lengths compile.

        **Raises:** `ValueError` for a prompt that is longer than the model's context.
        """
        rows = [self.encode(prompt) for prompt in prompts]
        longest = max((len(row) for row in rows), default=1)
        if longest > self.config.max_position_embeddings:
            raise ValueError(
                f"a prompt has {longest} tokens, model {self.name!r} reads {self.config.max_position_embeddings}"
            )
        length = -(-longest // multiple) * multiple
        ids = np.full((len(rows), length), self.pad_id, np.int32)
        known = np.zeros(ids.shape, bool)
        for i, row in enumerate(rows):
            ids[i, : len(row)], known[i, : len(row)] = row, True
        return ids, known


@dataclass(frozen=True, eq=False)
class LanguageModel(Model):
    """A causal language model."""

    def log_probs(
        self, tokens: Int[Array, "batch length"] | Int[np.ndarray, "batch length"]
    ) -> Float[Array, "batch length-1"]:
        """Log probability of each next token given those before it, natural log, by one full forward pass.

        **Arguments:** `tokens` [batch, length] ids in 0..vocab_size-1, length at least 1.
        **Raises:** `ValueError` for ids out of range, or rows that are empty or longer than the model's context.
        """
        ids = np.asarray(tokens)
        longest = self.config.max_position_embeddings
        if not 1 <= ids.shape[1] <= longest:
            raise ValueError(f"tokens: model {self.name!r} reads rows of 1 to {longest}, got {ids.shape[1]}")
        if ids.size and not 0 <= ids.min() <= ids.max() < self.config.vocab_size:
            raise ValueError(f"tokens must be in 0..{self.config.vocab_size - 1}, got {ids.min()}..{ids.max()}")
        if ids.shape[0] == 0 or ids.shape[1] == 1:
            return jnp.zeros((ids.shape[0], ids.shape[1] - 1))  # nothing to predict
        return _log_probs(self.graph, self.params, jnp.asarray(ids, jnp.int32))


@dataclass(frozen=True, eq=False)
class RewardModel(Model):
    """A process reward model: the probability that a solution which begins like this ends up right."""

    def score(self, prompts: Sequence[str], prefixes: Sequence[str]) -> Float[np.ndarray, " batch"]:
        """P(right) of each prefix of a solution, in [0, 1].

        A prefix ends with a whole step, its delimiter included (`"8 + 4 = 12 left: 6 10 12 \\n"`), and a finished
        solution with the end-of-text token (`"12 + 12 = 24 </s>"`): the places at which the model learnt to judge.

        **Raises:** `ValueError` if the two lists differ in length, or a text has words that the model lacks.
        """
        if len(prompts) != len(prefixes):
            raise ValueError(f"prompts and prefixes must pair up, got {len(prompts)} and {len(prefixes)}")
        if not prompts:
            return np.zeros(0, np.float32)
        ids, known = self.pad([a + b for a, b in zip(prompts, prefixes, strict=True)])
        return np.asarray(jax.nn.sigmoid(_last_score(self.graph, self.params, ids, known)))


def load(path_or_name: str | Path, *, dtype: DTypeLike = jnp.float32, sharding: Placement = None) -> LanguageModel:
    """A language model from a folder in Hugging Face layout, or a bundled one by name (`"countdown"`).

    Read are config.json, one or several safetensors files, tokenizer.json, and, where they are, generation_config.json
    and the chat template.

    **Arguments:** `dtype`: what the weights are held and multiplied in, float32 whatever the file holds unless asked
    otherwise (norms, attention weights and log-probabilities are float32 always); `sharding`: a `jax.sharding.Mesh`,
    whose axis `tensors` splits heads, inner widths and vocabulary, or one `Sharding` for all arrays.
    **Raises:** `ValueError` naming the file that is missing or broken, and the known names.
    """
    folder = model_folder(path_or_name)
    model = LanguageModel(*_parts(folder, dtype, sharding))
    if model.config.num_labels:
        raise ValueError(f"{folder} is a reward model; ppl.lm.load_reward loads it")
    return model


def load_reward(path_or_name: str | Path, *, dtype: DTypeLike = jnp.float32, sharding: Placement = None) -> RewardModel:
    """A reward model from a folder, or a bundled one by name (`"countdown-prm"`). **Arguments, Raises:** as `load`."""
    folder = model_folder(path_or_name)
    model = RewardModel(*_parts(folder, dtype, sharding))
    if model.config.num_labels != 1:
        raise ValueError(f"{folder} is not a reward model with one label (num_labels={model.config.num_labels})")
    return model


def _parts(folder: Path, dtype: DTypeLike, sharding: Placement) -> tuple:
    decoder, tokenizer = load_folder(folder, dtype=dtype, sharding=sharding)
    path = folder / "generation_config.json"
    defaults = read_json(path) if path.is_file() else {}
    config = decoder.config
    if defaults.get("eos_token_id") is not None:  # tuned models end their turn with more tokens than their texts
        ends = defaults["eos_token_id"]
        config = replace(config, eos_token_id=tuple(ends) if isinstance(ends, list) else ends)
        decoder.config = config
    return folder.name, *nnx.split(decoder), tokenizer, config, load_chat_template(folder), defaults


@partial(jax.jit, static_argnums=0)
def _log_probs(
    graph: nnx.GraphDef, params: nnx.State, tokens: Int[Array, "batch length"]
) -> Float[Array, "batch length-1"]:
    decoder: Decoder = nnx.merge(graph, params)
    hidden, _ = decoder.hidden(tokens[:, :-1], jnp.ones(tokens[:, :-1].shape, bool))
    log_probs = jax.nn.log_softmax(decoder.logits(hidden))
    return jnp.take_along_axis(log_probs, tokens[:, 1:, None], axis=-1)[..., 0]


@partial(jax.jit, static_argnums=0)
def _last_score(
    graph: nnx.GraphDef, params: nnx.State, tokens: Int[Array, "batch length"], known: Bool[Array, "batch length"]
) -> Float[Array, " batch"]:
    decoder: Decoder = nnx.merge(graph, params)
    hidden, _ = decoder.hidden(tokens, known)
    last = jnp.sum(known, axis=1) - 1
    return decoder.scores(jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0])[:, 0]
