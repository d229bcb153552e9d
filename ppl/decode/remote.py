"""Decoding with models behind endpoints: the same particle system on the host driver, one request a continuation.

A particle is a text. Each step asks the language model for one continuation up to the delimiter, particles of one text
by one request with that many samples, and the reward model for P(right) of every text that grew. Weights, resampling,
evidence and its error are those of `ppl.smc`, and a finished text is absorbed, as in `ppl.decode.particles`.
"""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from ppl.cost import Ledger
from ppl.decode.engine import Decoded, Settings
from ppl.decode.judging import LocalJudge
from ppl.decode.targets import TARGETS
from ppl.lm import Completion, Endpoint, LanguageModel, RewardEndpoint, RewardModel, StepRewardModel
from ppl.lm.endpoint.answers import Choice
from ppl.smc import FeynmanKac
from ppl.smc.host import host_filter

Judge = RewardEndpoint | LocalJudge

# A server's P(right) of 1 is one that its float32 rounded: its odds are those of the largest number below.
_LARGEST = 1 - 2.0**-24


class Texts(NamedTuple):
    """Particles, every leaf with the particle axis first: a gather moves numbers, the texts stay in the `_Library`.

    `text` [n]: which text; `finished` [n]: has it ended by itself; `log_prob`, `log_proposal` [n]: of the whole text,
    NaN where the server does not tell; `log_odds` [n, max_steps]: the reward model's word after each step, and `newest`
    [n] the last of it; `steps`, `generated` [n]; `spent`: the cost of the whole system, the same in every row.
    """

    text: Int[Array, " n"]
    finished: Bool[Array, " n"]
    log_prob: Float[Array, " n"]
    log_proposal: Float[Array, " n"]
    log_odds: Float[Array, "n max_steps"]
    newest: Float[Array, " n"]
    steps: Int[Array, " n"]
    generated: Int[Array, " n"]
    spent: Ledger


def decode(
    lm: Endpoint | LanguageModel,
    reward: RewardEndpoint | RewardModel | StepRewardModel | None,
    prompts: Sequence[str],
    keys: Key[Array, " problems"],
    settings: Settings,
) -> Decoded:
    """`ppl.decode.engine.decode` for endpoints; `settings.delimiter` is a stop string and need not be one token.

    Plain samples are asked for whole, with room for all steps, so that a prompt is read once. Problems go side by side
    as far as the endpoint's `concurrency` has room. Prompt tokens are counted as often as the server read them, and
    reward tokens by its usage.

    A local reward model reads a server's texts, too.

    **Raises:** `ValueError` unless the language model is an endpoint, if a target comes without a reward model, or
    there is no prompt; `EndpointError`.
    """
    lm, judge = check(lm, reward, settings)
    if not prompts:
        raise ValueError("prompts: at least one is needed, got none")
    if settings.target is None:
        return _stacked(_plain(lm, judge, prompts, keys, settings))
    assert judge is not None
    together = min(len(prompts), 1 + lm.concurrency // settings.num_particles)
    with ThreadPoolExecutor(together) as pool:
        runs = [pool.submit(_filtered, lm, judge, prompt, keys[i], settings) for i, prompt in enumerate(prompts)]
        try:
            return _stacked([run.result() for run in runs])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def check(
    lm: Endpoint | LanguageModel, reward: RewardEndpoint | RewardModel | StepRewardModel | None, settings: Settings
) -> tuple[Endpoint, Judge | None]:
    """The endpoint, and what reads its texts.

    **Raises:** `ValueError` if the language model is no endpoint, or `settings` ask for a model that is missing.
    """
    if not isinstance(lm, Endpoint):
        raise ValueError(
            "a reward endpoint wants a language model behind an endpoint, too: `ppl serve` makes one of a loaded model"
        )
    if settings.target is not None and reward is None:
        raise ValueError(f"target {settings.target!r} needs a reward model, got None")
    if settings.power is not None:
        raise ValueError(
            f"power={settings.power} needs both log-probabilities of every token, which a server does not give: load "
            "the model with ppl.lm.load"
        )
    if settings.must_end and settings.target is None:
        raise ValueError("must_end=True needs a target on a server, whose plain samples have no weights")
    return lm, LocalJudge(reward) if isinstance(reward, RewardModel | StepRewardModel) else reward


def _cuts(settings: Settings) -> dict[str, Any]:
    """What tokens are drawn from, as a server is told."""
    return {name: getattr(settings, name) for name in ("temperature", "top_k", "top_p", "min_p")}


def _is_cut(settings: Settings) -> bool:
    return not settings.top_k is settings.top_p is settings.min_p is None


class _Library:
    """Texts by number, each once: particles with equal texts have equal numbers. `ids`: prompt and text as tokens."""

    def __init__(self, prompt: str):
        self.prompt = prompt
        self.texts: list[str] = [""]
        self.ids: list[tuple[int, ...] | None] = [None]
        self._numbers: dict[tuple[str, tuple[int, ...] | None], int] = {("", None): 0}

    def add(self, text: str, ids: tuple[int, ...] | None) -> int:
        number = self._numbers.setdefault((text, ids), len(self.texts))
        if number == len(self.texts):
            self.texts.append(text)
            self.ids.append(ids)
        return number

    def prompt_of(self, number: int) -> str | list[int]:
        """What continues text `number`: its tokens if they are known, since text cut anew may be other tokens."""
        ids = self.ids[number]
        return self.prompt + self.texts[number] if ids is None else list(ids)


def text_model(lm: Endpoint, reward: Judge, library: _Library, settings: Settings) -> FeynmanKac:
    """The Feynman-Kac model of solutions to one prompt, for the host driver alone: its kernels make requests."""
    assert settings.target is not None
    target = TARGETS[settings.target]

    def init(key: Key[Array, ""], n: int, u: Int[Array, ""]) -> tuple[Texts, Float[Array, " n"]]:
        zeros, none = jnp.zeros(n), jnp.zeros(n, jnp.int32)
        spent = Ledger(none, none, none, none, zeros)
        log_odds = jnp.zeros((n, settings.max_steps))
        return advance(key, Texts(none, none > 0, zeros, zeros, log_odds, zeros, none, none, spent), u, first=True)

    def step(key: Key[Array, ""], state: Texts, u: Int[Array, ""]) -> tuple[Texts, Float[Array, " n"]]:
        return advance(key, state, u, first=False)

    def advance(key, state, u, *, first):
        # A text that the reward gave no chance is dead under every target: it is not paid for again.
        active = ~np.asarray(state.finished) & ~np.isneginf(np.asarray(state.newest))
        text, finished = np.array(state.text), np.array(state.finished)
        sums = {name: np.zeros(len(text)) for name in ("log_prob", "log_proposal", "generated")}
        asked = _continue(lm, library, key, text, active, settings)
        for i, (number, ended, completion, generated) in asked.moved.items():
            text[i], finished[i] = number, ended
            sums["log_prob"][i] = _sum(completion.log_probs)
            sums["log_proposal"][i] = _sum(completion.log_proposals)
            sums["generated"][i] = generated
        grown = np.flatnonzero(active)
        values, read = _judge(reward, library, text[grown], finished[grown])
        newest = np.array(state.newest)
        newest[grown] = _log_odds(values)
        counts = Ledger(asked.generated, asked.prompt, len(grown), read, 0.0)
        log_odds = jnp.asarray(newest)
        potential = jnp.where(active, target(log_odds, None if first else state.newest), 0.0)
        if settings.must_end and int(u) == settings.max_steps - 1:
            potential = jnp.where(finished, potential, -jnp.inf)
        return Texts(
            jnp.asarray(text), jnp.asarray(finished),
            state.log_prob + sums["log_prob"].astype(np.float32),
            state.log_proposal + sums["log_proposal"].astype(np.float32),
            state.log_odds.at[:, u].set(log_odds), log_odds,
            state.steps + active, state.generated + sums["generated"].astype(np.int32),
            jax.tree.map(lambda total, more: total + jnp.asarray(more, total.dtype), state.spent, counts),
        ), potential  # fmt: skip

    return FeynmanKac(init, step)


class _Asked(NamedTuple):
    """`moved`: by particle its new text, whether that has ended, the completion and its tokens; counts of the call."""

    moved: dict[int, tuple[int, bool, Completion, int]]
    prompt: int
    generated: int


def _continue(
    lm: Endpoint,
    library: _Library,
    key: Key[Array, ""],
    text: Int[np.ndarray, " n"],
    active: Bool[np.ndarray, " n"],
    settings: Settings,
) -> _Asked:
    """One more step of every active particle."""
    counts = Counter(text[active].tolist())
    answers = lm.ask(
        [library.prompt_of(number) for number in counts], key, num_samples=list(counts.values()),
        max_tokens=settings.max_step_tokens, stop=settings.delimiter, keep_stop=True, **_cuts(settings),
    )  # fmt: skip
    law = partial(lm.completion, temperature=settings.temperature, cut=_is_cut(settings))
    moved = {}
    for number, answer in zip(counts, answers, strict=True):
        ids = library.ids[number] or (None if answer.prompt_ids is None else tuple(answer.prompt_ids))
        particles = np.flatnonzero(active & (text == number))
        for i, choice, generated in zip(particles, answer.choices, answer.generated, strict=True):
            written, ended = _step(choice, settings.delimiter)
            whole = library.texts[number] + written
            new = library.add(whole, ids + tuple(choice.tokens) if ids is not None and choice.tokens else None)
            moved[int(i)] = (new, ended, law(choice), generated)
    return _Asked(
        moved, sum(answer.prompt_tokens for answer in answers), sum(sum(answer.generated) for answer in answers)
    )


def _step(choice: Choice, delimiter: str | None) -> tuple[str, bool]:
    """The text of a step, its delimiter included, and whether the whole text has ended with it."""
    if delimiter is None or choice.finish != "stop":
        return choice.text, choice.finish == "stop"
    if choice.text.endswith(delimiter):
        return choice.text, False
    # A server that leaves stop strings out says which one it was; what ended otherwise has ended for good.
    return (choice.text + delimiter, False) if choice.stopped_by == delimiter else (choice.text, True)


def _judge(
    reward: Judge, library: _Library, text: Int[np.ndarray, " n"], finished: Bool[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " n"], int]:
    """P(right) of texts, and the tokens read for it."""
    texts = [library.texts[number] + reward.end_of_text * bool(end) for number, end in zip(text, finished, strict=True)]
    judged = reward.judge([library.prompt] * len(texts), texts)
    return judged.values, judged.tokens


def _log_odds(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    with np.errstate(divide="ignore"):
        capped = np.minimum(values, _LARGEST)
        return (np.log(capped) - np.log1p(-capped)).astype(np.float32)


def _filtered(lm: Endpoint, reward: Judge, prompt: str, key: Key[Array, ""], settings: Settings) -> dict:
    """One problem's fields of `Decoded`, by a particle filter."""
    library = _Library(prompt)
    run = host_filter(
        key, text_model(lm, reward, library, settings), None, settings.num_particles, settings.policy,
        num_steps=settings.max_steps - 1, ancestors=False,
    )  # fmt: skip
    end: Texts = run.particles
    return {
        "texts": [library.texts[number] for number in np.asarray(end.text)], "generated": end.generated,
        "steps": end.steps, "finished": end.finished, "log_prob": end.log_prob, "log_proposal": end.log_proposal,
        "reward": jax.nn.sigmoid(end.newest), "reward_trace": jax.nn.sigmoid(end.log_odds),
        "log_weights": run.log_weights, "log_evidence": run.log_evidence, "log_evidence_se": run.log_evidence_se,
        "ess": run.ess, "resampled": run.resampled, "cost": jax.tree.map(lambda x: x[0], end.spent),
    }  # fmt: skip


def _plain(
    lm: Endpoint,
    reward: Judge | None,
    prompts: Sequence[str],
    keys: Key[Array, " problems"],
    settings: Settings,
) -> list[dict]:
    """Each problem's fields of `Decoded`, by plain samples."""
    n, longest = settings.num_particles, settings.max_steps * settings.max_step_tokens
    answers = lm.ask(prompts, keys, num_samples=n, max_tokens=longest, **_cuts(settings))
    law = partial(lm.completion, temperature=settings.temperature, cut=_is_cut(settings))
    found = []
    for prompt, answer in zip(prompts, answers, strict=True):
        completions, generated = [law(choice) for choice in answer.choices], np.asarray(answer.generated, np.int32)
        finished = np.asarray([one.finish == "stop" for one in completions])
        values, read = np.full(n, np.nan), 0
        if reward is not None:
            ends = [one.text + reward.end_of_text * (one.finish == "stop") for one in completions]
            values, read = reward.judge([prompt] * n, ends)
        found.append({
            "texts": [one.text for one in completions], "generated": generated,
            "steps": _steps([one.text for one in completions], generated, settings), "finished": finished,
            "log_prob": np.asarray([_sum(one.log_probs) for one in completions], np.float32),
            "log_proposal": np.asarray([_sum(one.log_proposals) for one in completions], np.float32),
            "reward": values.astype(np.float32),
            "reward_trace": np.full((n, settings.max_steps), np.nan, np.float32),
            "log_weights": np.zeros(n, np.float32), "log_evidence": np.float32(0), "log_evidence_se": np.float32(0),
            "ess": np.full(settings.max_steps, n, np.float32), "resampled": np.zeros(settings.max_steps - 1, bool),
            "cost": Ledger(int(generated.sum()), answer.prompt_tokens, 0 if reward is None else n, read),
        })  # fmt: skip
    return found


def _steps(texts: Sequence[str], generated: Int[np.ndarray, " n"], settings: Settings) -> Int[np.ndarray, " n"]:
    """How many steps whole texts have."""
    if settings.delimiter is None:
        return -(-generated // settings.max_step_tokens)
    delimiter = settings.delimiter
    return np.asarray([max(1, text.count(delimiter) + (not text.endswith(delimiter))) for text in texts], np.int32)


def _stacked(problems: Sequence[dict]) -> Decoded:
    texts = [problem.pop("texts") for problem in problems]
    fields = jax.tree.map(lambda *xs: np.stack([np.asarray(x) for x in xs]), *problems)
    return Decoded(texts=texts, **fields)


def _sum(log_probs: Sequence[float] | None) -> float:
    return np.nan if log_probs is None else float(np.sum(log_probs))
