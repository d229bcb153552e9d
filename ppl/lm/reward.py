"""Reward models: P(right) of the beginning of a solution, from a score head, a token classifier, or a judge's yes.

Three kinds of public checkpoints, one question. A *sequence* classifier scores a text at its last token. A *token*
classifier (Qwen2.5-Math-PRM) reads a separator after each step and scores the step there. A *judge* (RLHFlow) is a
language model that answers each step with a token for right or for wrong. The last two give a number for each step,
which an aggregation makes one of.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from ppl.lm.bundled import model_folder
from ppl.lm.decoder import Decoder
from ppl.lm.model import Model, parts
from ppl.lm.padding import padded
from ppl.lm.placement import Placement
from ppl.lm.scoring import Frame
from ppl.lm.tokenizer import encode

_MARK = "@@step@@"  # where a step goes in a chat; no template has it
Steps = Float[np.ndarray, " steps"]

AGGREGATIONS: Mapping[str, Callable[[Steps], float]] = {
    "last": lambda scores: float(scores[-1]),
    "min": lambda scores: float(scores.min()),
    "product": lambda scores: float(np.exp(np.log(scores).sum())) if scores.all() else 0.0,
    "mean": lambda scores: float(scores.mean()),
    "model": lambda scores: float(scores[-1]),  # of the whole text, read as one step
}


@dataclass(frozen=True, eq=False)
class RewardModel(Model):
    """A sequence classifier of one label: the probability that a solution which begins like this ends up right."""

    def score(self, prompts: Sequence[str], prefixes: Sequence[str]) -> Float[np.ndarray, " batch"]:
        """P(right) of each prefix of a solution, in [0, 1].

        A prefix ends with a whole step, its delimiter included (`"8 + 4 = 12 left: 6 10 12 \\n"`), and a finished
        solution with the end-of-text token (`"12 + 12 = 24 </s>"`): the places at which the model learnt to judge.

        **Raises:** `ValueError` if the two lists differ in length, or a text has words that the model lacks.
        """
        _check_pairs(prompts, prefixes)
        if not prompts:
            return np.zeros(0, np.float32)
        ids, known = self.pad([a + b for a, b in zip(prompts, prefixes, strict=True)])
        last = known.sum(axis=1) - 1
        return np.asarray(jax.nn.sigmoid(_scores_at(self.graph, self.params, ids, known, last[:, None])[:, 0, 0]))


@dataclass(frozen=True, eq=False)
class StepRewardModel(Model):
    """A reward model that scores each step of a solution; a solution is cut into steps at `step_delimiter`.

    `kind` `"token"`: `separator` is put after each step, and label 1 of two (or the one label) is read there. `kind`
    `"judge"`: a language model, asked after each step in its chat form, whose next token is `yes` or `no`.
    """

    kind: Literal["token", "judge"] = "token"
    aggregation: str = "last"
    step_delimiter: str = "\n\n"
    separator: str = "<extra_0>"
    yes: str = "+"
    no: str = "-"

    def __post_init__(self) -> None:
        if self.aggregation not in AGGREGATIONS:
            raise ValueError(f"aggregation must be one of {', '.join(AGGREGATIONS)}, got {self.aggregation!r}")
        if not self.step_delimiter:
            raise ValueError("step_delimiter must be a text of one character or more, got ''")
        for token in (self.separator,) if self.kind == "token" else (self.yes, self.no):
            self.token_id(token)

    def score(self, prompts: Sequence[str], prefixes: Sequence[str]) -> Float[np.ndarray, " batch"]:
        """P(right) of each prefix, in [0, 1]: its steps' probabilities, made one number by `aggregation`.

        `"product"` takes the steps' scores for probabilities that hang together by multiplication only; `"model"` reads
        the whole prefix as one step. **Raises:** as `step_scores`.
        """
        join = AGGREGATIONS[self.aggregation]
        return np.array([join(steps) for steps in self.step_scores(prompts, prefixes)], np.float32)

    def step_scores(self, prompts: Sequence[str], prefixes: Sequence[str]) -> list[Steps]:
        """P(right) after each step of each prefix, all steps of all prefixes in one pass over each text.

        **Raises:** `ValueError` if the two lists differ in length, a prefix has no step, or a text does not fit.
        """
        _check_pairs(prompts, prefixes)
        if not prompts:
            return []
        rows, places = zip(*map(self._read, prompts, self._cut(prefixes)), strict=True)
        longest = max(map(len, rows))
        if longest > self.config.max_position_embeddings:
            raise ValueError(
                f"a solution has {longest} tokens, model {self.name!r} reads {self.config.max_position_embeddings}"
            )
        ids, known = padded(rows, self.pad_id)
        most = -(-max(map(len, places)) // 4) * 4  # few numbers of steps compile
        at = np.array([[*place, *[place[-1]] * (most - len(place))] for place in places], np.int32)
        if self.kind == "token":
            out = _scores_at(self.graph, self.params, ids, known, at)
            right = jax.nn.sigmoid(out[..., 0]) if out.shape[-1] == 1 else jax.nn.softmax(out)[..., 1]
        else:
            tokens = np.array([self.token_id(self.no), self.token_id(self.yes)], np.int32)
            right = jax.nn.softmax(_scores_at(self.graph, self.params, ids, known, at, tokens))[..., 1]
        return [np.asarray(row[: len(place)]) for row, place in zip(np.asarray(right), places, strict=True)]

    def frame(self, prompts: Sequence[str]) -> tuple[list[list[int]], Frame]:
        """What is read step by step instead of at once: token ids before each prompt's first step, and the frame.

        **Raises:** `ValueError` if the chat template puts other texts around each step, or `aggregation` is `"model"`,
        which reads no steps.
        """
        if self.aggregation == "model":
            raise ValueError('aggregation="model" reads a solution whole; a particle filter scores it after each step')
        words = None
        if self.kind == "token":
            heads = [self.encode(prompt) for prompt in prompts] if self.chat is None else [
                self._around([{"role": "user", "content": prompt}, {"role": "assistant", "content": _MARK}])[0]
                for prompt in prompts
            ]  # fmt: skip
            ask, between = [self.token_id(self.separator)], []
        else:
            words = np.array([self.token_id(self.no), self.token_id(self.yes)], np.int32)
            turn = {"role": "assistant", "content": self.yes}
            asked = [[{"role": "user", "content": f"{prompt} {_MARK}"}] for prompt in prompts]
            heads = [self._around(turns, answering=True)[0] for turns in asked]
            again = [{"role": "user", "content": _MARK}, turn, {"role": "user", "content": _MARK}]
            _, joint, ask = self._around(again, answering=True)
            between = joint[len(ask) :]
            if joint[: len(ask)] != ask:
                raise ValueError(f"model {self.name!r}: its chat template asks otherwise after a first step than later")
        return heads, Frame(np.array(ask, np.int32), np.array(between, np.int32), self._silent, words, self.aggregation)

    def _around(self, messages: Sequence[Mapping[str, str]], *, answering: bool = False) -> list[list[int]]:
        """Ids of the texts around each mark in a chat."""
        texts = self.chat_prompt(messages, add_generation_prompt=answering).split(_MARK)
        return [self.tokenizer.encode(text, add_special_tokens=False).ids for text in texts]

    @cached_property
    def _silent(self) -> Bool[np.ndarray, " vocab"]:
        """Tokens that say nothing at the end of a step: special ones, blanks, the delimiter."""
        size = self.config.vocab_size
        texts = self.tokenizer.decode_batch([[i] for i in range(min(size, self.tokenizer.get_vocab_size()))])
        silent = np.ones(size, bool)
        silent[: len(texts)] = [text.strip() in ("", self.step_delimiter.strip()) for text in texts]
        return silent

    def _cut(self, prefixes: Sequence[str]) -> list[list[str]]:
        found = []
        for i, prefix in enumerate(prefixes):
            whole = [prefix.strip()] if self.aggregation == "model" else prefix.split(self.step_delimiter)
            steps = [step for step in whole if step.strip()]
            if not steps:
                raise ValueError(f"prefixes[{i}] has no step to score, got {prefix!r}")
            found.append(steps)
        return found

    def _read(self, prompt: str, steps: list[str]) -> tuple[list[int], list[int]]:
        """Ids of one solution, and the places at which its steps are scored."""
        if self.kind == "token":
            mark = self.token_id(self.separator)
            if self.chat is None:
                pieces = [[*encode(self.tokenizer, step), mark] for step in steps]
                ids = sum(pieces, self.encode(prompt))
            else:
                body = "".join(step + self.separator for step in steps)
                text = [{"role": "user", "content": prompt}, {"role": "assistant", "content": body}]
                ids = self._chat_ids(text, answering=False)
            places = [i for i, token in enumerate(ids) if token == mark]
            if len(places) != len(steps):
                raise ValueError(
                    f"separator {self.separator!r} must not be in a text itself: {len(places)} in a solution of "
                    f"{len(steps)} steps, {prompt + ' '.join(steps)!r:.80}"
                )
            return ids, places
        turns: list[Mapping[str, str]] = []
        places, ids = [], []
        for i, step in enumerate(steps):
            turns.append({"role": "user", "content": f"{prompt} {step}" if i == 0 else step})
            ids = self._chat_ids(turns, answering=True)
            places.append(len(ids) - 1)  # the judge's answer is the token after it
            turns.append({"role": "assistant", "content": self.yes})
        return ids, places

    def _chat_ids(self, messages: Sequence[Mapping[str, str]], *, answering: bool) -> list[int]:
        text = self.chat_prompt(messages, add_generation_prompt=answering)
        return self.tokenizer.encode(text, add_special_tokens=False).ids


def load_reward(
    path_or_name: str | Path,
    *,
    kind: Literal["judge"] | None = None,
    aggregation: str = "last",
    step_delimiter: str = "\n\n",
    separator: str = "<extra_0>",
    yes: str = "+",
    no: str = "-",
    dtype: DTypeLike = jnp.float32,
    sharding: Placement = None,
) -> RewardModel | StepRewardModel:
    """A reward model from a folder, or a bundled one by name (`"countdown-prm"`).

    What the folder's architecture is says how it scores: a sequence classifier of one label is a `RewardModel`; a token
    classifier or process reward model is a `StepRewardModel`, and so is a language model with `kind="judge"`. The
    options up to `no` are for these alone.

    **Arguments, Raises:** as `ppl.lm.load`; also `ValueError` for a language model without `kind`, a classifier of
    several labels, or a separator or verdict that is not one token of the model.
    """
    folder = model_folder(path_or_name)
    made = parts(folder, dtype, sharding)
    config = made[4]
    per_token = config.score_bias  # what tells a token classifier from a sequence classifier
    if config.num_labels == 1 and not per_token:
        return RewardModel(*made)
    if config.num_labels > 2 or (config.num_labels == 2 and not per_token):
        raise ValueError(f"{folder} is not a reward model: its score head has {config.num_labels} labels")
    if not config.num_labels and kind is None:
        raise ValueError(f'{folder} is a language model and has no score head; kind="judge" takes it for a judge')
    if config.num_labels and kind is not None:
        raise ValueError(f"{folder} has a score head, got kind={kind!r}; a judge is a language model")
    return StepRewardModel(
        *made, kind=kind or "token", aggregation=aggregation, step_delimiter=step_delimiter, separator=separator,
        yes=yes, no=no,
    )  # fmt: skip


def _check_pairs(prompts: Sequence[str], prefixes: Sequence[str]) -> None:
    if len(prompts) != len(prefixes):
        raise ValueError(f"prompts and prefixes must pair up, got {len(prompts)} and {len(prefixes)}")


@partial(jax.jit, static_argnums=0)
def _scores_at(
    graph: nnx.GraphDef,
    params: nnx.State,
    tokens: Int[Array | np.ndarray, "batch length"],
    known: Bool[Array | np.ndarray, "batch length"],
    places: Int[Array | np.ndarray, "batch places"],
    words: Int[Array | np.ndarray, " labels"] | None = None,
) -> Float[Array, "batch places labels"]:
    """Scores at some places of each row, or, of a language model, its logits of some words."""
    decoder: Decoder = nnx.merge(graph, params)
    hidden, _ = decoder.hidden(jnp.asarray(tokens), jnp.asarray(known))
    hidden = jnp.take_along_axis(hidden, jnp.asarray(places)[:, :, None], axis=1)
    return decoder.scores(hidden) if words is None else decoder.logits(hidden)[..., words]
