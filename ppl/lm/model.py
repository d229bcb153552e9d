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
from jaxtyping import Array, Bool, Float, Int, Key
from tokenizers import Tokenizer

from ppl.lm.bundled import model_folder
from ppl.lm.chat import ChatTemplate, Message, load_chat_template
from ppl.lm.checkpoint import load_folder
from ppl.lm.completion import Completion, completion_records
from ppl.lm.config import DecoderConfig
from ppl.lm.families import read_json
from ppl.lm.generation import ROWS_PER_CALL, Constraint, Weights, completions, generate, request
from ppl.lm.likelihood import next_log_probs, text_log_probs
from ppl.lm.padding import padded
from ppl.lm.placement import Placement, even_share, particle_mesh
from ppl.lm.tokenizer import encode
from ppl.records import Records

_CONTEXT = 16  # tokens of a prompt before a text, for what a tokenizer puts between them


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

    def added_text(self, prompt: Sequence[int], tokens: Sequence[int]) -> str:
        """The text that `tokens` add to a prompt, and not what they are alone.

        Many tokenizers drop a blank at the beginning of a text, and whoever appends a continuation to its prompt would
        run two words together.
        """
        context = list(prompt[-_CONTEXT:])
        before, whole = self.decode(context), self.decode([*context, *tokens])
        # Half a letter at the end of the prompt may become another text with what follows.
        return whole[len(before) :] if whole.startswith(before) else self.decode(tokens)

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

    def pad(self, prompts: Sequence[str]) -> tuple[Int[np.ndarray, "batch length"], Bool[np.ndarray, "batch length"]]:
        """Prompts as ids padded on the right, and which are tokens; to one of few lengths, so that few compile.

        **Raises:** `ValueError` for a prompt that is longer than the model's context.
        """
        rows = [self.encode(prompt) for prompt in prompts]
        longest = max((len(row) for row in rows), default=1)
        if longest > self.config.max_position_embeddings:
            raise ValueError(
                f"a prompt has {longest} tokens, model {self.name!r} reads {self.config.max_position_embeddings}"
            )
        return padded(rows, self.pad_id)


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
        return next_log_probs(self.graph, self.params, jnp.asarray(ids, jnp.int32))

    def log_likelihood(
        self, prompts: Sequence[str], texts: Sequence[str], *, batch_size: int = 16
    ) -> list[Float[np.ndarray, " tokens"]]:
        """Log probability of each token of each text after its prompt, natural log; a text's own is the sum.

        Prompt and text are cut into tokens as one. What is scored begins at the first token that is not the prompt's
        alone; the first token of all is left out where nothing comes before it, not even a start token. No end of text
        is added.

        **Arguments:** `batch_size`: texts in one compiled call, which bounds memory.
        **Raises:** `ValueError` if the lists differ in length, a text is longer than the model's context, or
        `batch_size` is below 1.
        """
        if len(prompts) != len(texts):
            raise ValueError(f"prompts and texts must pair up, got {len(prompts)} and {len(texts)}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1 text, got {batch_size}")
        return text_log_probs(self.encode, self.log_probs, self.pad_id, prompts, texts, batch_size)

    def perplexity(
        self, texts: Sequence[str], *, prompts: Sequence[str] | None = None, batch_size: int = 16
    ) -> Float[np.ndarray, " texts"]:
        """exp of the mean negative log probability of a text's tokens, 1 being a text that could not be otherwise.

        NaN for a text without a token that is scored. **Arguments, Raises:** as `log_likelihood`; `prompts`: what comes
        before each text, nothing by default.
        """
        before = [""] * len(texts) if prompts is None else prompts
        found = self.log_likelihood(before, texts, batch_size=batch_size)
        return np.array([np.exp(-row.mean()) if row.size else np.nan for row in found])

    def complete(
        self,
        prompts: Sequence[str] | Sequence[Sequence[int]],
        key: int | Key[Array, ""] | Key[Array, " prompts"],
        *,
        num_samples: int = 1,
        max_tokens: int = 256,
        temperature: float | Sequence[float] = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        stop: Sequence[str] = (),
        constraint: Constraint | None = None,
        must_end: bool = False,
        batch_size: int = ROWS_PER_CALL,
        speculate: int = 0,
    ) -> list[list[Completion]]:
        """`num_samples` continuations of each prompt, as `[prompts][num_samples]` completions.

        **Arguments:**

        - `prompts`: texts (see `encode`) or token ids;
        - `key`: one for each prompt, or one that is folded with a prompt's place, so that its samples do not hang on
          how many prompts there are;
        - `max_tokens`: most tokens of a continuation, the one that ends it included;
        - `temperature` (one, or one a prompt; 0 is greedy), `top_k`, `top_p`, `min_p`: see `ppl.lm.proposals.Proposal`;
        - `stop`: texts that end a continuation, found also across tokens; the text is cut before them, the tokens and
          their log-probabilities are not;
        - `constraint`: which tokens may come next, see `ppl.lm.Constraint`;
        - `must_end`: the last token that `max_tokens` lets a text have is drawn from those that end it, so that
          `log_prob - log_proposal` is a proper weight for the model's law of texts that end in time, whose normalising
          constant, the mean weight, is the probability that one does;
        - `batch_size`: rows (prompts times samples) in one compiled call, which bounds memory;
        - `speculate`: tokens that are guessed and read in one pass of the decoder, 0 to 16, see `ppl.lm.speculation`.
          The texts are the same, made in fewer passes, of which each costs more; `passes` of a completion counts them.

        **Raises:** `ValueError` naming the argument that is out of range, or the prompt that is empty or longer than
        the model's context less `max_tokens`.
        """
        asked = request(
            self.tokenizer, self.config.vocab_size, key, num_samples, max_tokens, temperature, top_k, top_p, min_p,
            stop, speculate,
        )  # fmt: skip
        rows = [self.encode(p) if isinstance(p, str) else [int(t) for t in p] for p in prompts]
        self._check_prompts(rows, max_tokens)
        if must_end and not self.config.eos_token_ids:
            raise ValueError(f"must_end=True: model {self.name!r} has no token that ends a text")
        if must_end and constraint is not None:
            raise ValueError(
                "must_end=True with a constraint: let the constraint allow the end alone as the last token"
            )
        if asked.key.ndim and asked.key.shape[0] != len(rows):
            raise ValueError(f"key: one, or one a prompt ({len(rows)}) is wanted, got {asked.key.shape[0]}")
        heat = np.broadcast_to(np.asarray(asked.proposal.temperature), len(rows))
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1 row, got {batch_size}")
        per_call = max(1, batch_size // num_samples)
        calls = -(-len(rows) // per_call)
        # Calls of one size, and as many rows on each device: the rest is filled up with a call's first prompt.
        size = even_share(particle_mesh(self.params), -(-len(rows) // max(calls, 1)), num_samples)
        found: list[list[Completion]] = [[] for _ in rows]
        grams = None  # what one call has learned speeds up the next
        # Prompts of like length together: little padding is read.
        for chosen in np.array_split(np.argsort([len(row) for row in rows], kind="stable"), max(calls, 1)):
            if not len(chosen):
                continue
            filled = np.concatenate([chosen, np.full(size - len(chosen), chosen[0])])
            ids, known = padded([rows[i] for i in filled], self.pad_id)
            keys = asked.key[filled] if asked.key.ndim else jax.vmap(partial(jax.random.fold_in, asked.key))(filled)
            out, grams = generate(
                Weights(self.graph, self.params), ids, known, keys,
                asked.proposal._replace(temperature=jnp.asarray(heat[filled])), asked.stops, constraint,
                num_samples=num_samples, max_tokens=max_tokens, eos=self.config.eos_token_ids,
                must_end=must_end, speculate=asked.speculate, grams=grams,
            )  # fmt: skip
            texts = completions(out, num_samples, [partial(self.added_text, rows[i]) for i in filled], stop)
            for i, of_prompt in zip(chosen, texts, strict=False):
                found[i] = of_prompt
        return found

    def generate(
        self,
        prompts: Sequence[str],
        key: int | Key[Array, ""],
        *,
        num_samples: int = 1,
        max_tokens: int = 256,
        temperature: float | Sequence[float] = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        stop: Sequence[str] = (),
        constraint: Constraint | None = None,
        must_end: bool = False,
        batch_size: int = ROWS_PER_CALL,
        speculate: int = 0,
    ) -> Records:
        """The same continuations as `complete` as a table of attempts.

        `log_prob` and `log_proposal` are sums over the tokens of a continuation, under the model and under what they
        were drawn from: `exp(log_prob - log_proposal)` is the importance weight of a sample. Problems are numbered by
        place. **Arguments, Raises:** as `complete`.
        """
        found = self.complete(
            prompts, key, num_samples=num_samples, max_tokens=max_tokens, temperature=temperature, top_k=top_k,
            top_p=top_p, min_p=min_p, stop=stop, constraint=constraint, must_end=must_end,
            batch_size=batch_size, speculate=speculate,
        )  # fmt: skip
        return completion_records(prompts, found, [len(self.encode(prompt)) for prompt in prompts])

    def _check_prompts(self, rows: Sequence[Sequence[int]], max_tokens: int) -> None:
        limit, vocab = self.config.max_position_embeddings, self.config.vocab_size
        for i, row in enumerate(rows):
            if not row:
                raise ValueError(f"prompt {i} has no token, and model {self.name!r} no start token: write one at least")
            if len(row) + max_tokens > limit:
                raise ValueError(
                    f"prompt {i} has {len(row)} tokens, with max_tokens={max_tokens} more than the {limit} that model "
                    f"{self.name!r} reads"
                )
            if not 0 <= min(row) <= max(row) < vocab:
                raise ValueError(f"prompt {i}: token ids must be in 0..{vocab - 1}, got {min(row)}..{max(row)}")


def load(path_or_name: str | Path, *, dtype: DTypeLike = jnp.float32, sharding: Placement = None) -> LanguageModel:
    """A language model from a folder in Hugging Face layout, or a bundled one by name (`"countdown"`).

    Read are config.json, one or several safetensors files, tokenizer.json, and, where they are, generation_config.json
    and the chat template.

    **Arguments:** `dtype`: what the weights are held and multiplied in, float32 whatever the file holds unless asked
    otherwise (norms, attention weights and log-probabilities are float32 always); `sharding`: a `jax.sharding.Mesh`,
    whose axis `tensors` splits heads, inner widths and vocabulary, and whose axis `particles` splits the rows of
    `generate` and the particles of a filter, or one `Sharding` for all arrays.
    **Raises:** `ValueError` naming the file that is missing or broken, and the known names.
    """
    folder = model_folder(path_or_name)
    model = LanguageModel(*parts(folder, dtype, sharding))
    if model.config.num_labels:
        raise ValueError(f"{folder} is a reward model; ppl.lm.load_reward loads it")
    return model


def parts(folder: Path, dtype: DTypeLike, sharding: Placement) -> tuple:
    """What a model is made of, from its folder."""
    decoder, tokenizer = load_folder(folder, dtype=dtype, sharding=sharding)
    path = folder / "generation_config.json"
    defaults = read_json(path) if path.is_file() else {}
    config = decoder.config
    if defaults.get("eos_token_id") is not None:  # tuned models end their turn with more tokens than their texts
        ends = defaults["eos_token_id"]
        config = replace(config, eos_token_id=tuple(ends) if isinstance(ends, list) else ends)
        decoder.config = config
    return folder.name, *nnx.split(decoder), tokenizer, config, load_chat_template(folder), defaults
