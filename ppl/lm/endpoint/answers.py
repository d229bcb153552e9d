"""What an answer of the OpenAI-compatible protocol says, checked: choices, log-probabilities, token ids, usage."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Choice(NamedTuple):
    """One choice: `text`, `tokens` (ids, empty where the server does not tell), `log_probs` of each token by the
    server, or None, `finish` ("stop" or "length"), and the stop string that ended it, where the server tells."""

    text: str
    tokens: list[int]
    log_probs: list[float] | None
    finish: str
    stopped_by: str | None


class Answer(NamedTuple):
    """A request's choices in order; `prompt_tokens` by the server's usage, `generated` tokens of each choice;
    `prompt_ids`: the prompt as the server's tokenizer cut it, where it tells."""

    choices: list[Choice]
    prompt_tokens: int
    generated: list[int]
    prompt_ids: list[int] | None


def read_answer(answer: Mapping[str, Any], *, num: int, logprobs: bool) -> Answer:
    """The `num` choices of a completion's or chat completion's answer.

    **Raises:** `ValueError` saying what is missing: choices, log-probabilities that were asked for, usage, or the end
    of a choice (one that was filtered or aborted is no sample of the model).
    """
    raw = answer.get("choices")
    if not isinstance(raw, Sequence) or len(raw) != num:
        count = len(raw) if isinstance(raw, Sequence) else "none"
        raise ValueError(f"{num} choices are wanted (n={num}), got {count}")
    raw = sorted(raw, key=lambda choice: choice.get("index", 0))
    choices = [_choice(choice, i, logprobs) for i, choice in enumerate(raw)]
    usage = answer.get("usage")
    prompt_tokens, generated = (_count(usage, name) for name in ("prompt_tokens", "completion_tokens"))
    ids = raw[0].get("prompt_token_ids", answer.get("prompt_token_ids"))
    return Answer(choices, prompt_tokens, _shares(choices, generated), None if ids is None else [int(i) for i in ids])


def _choice(raw: Mapping[str, Any], i: int, logprobs: bool) -> Choice:
    message = raw.get("message")
    text = raw.get("text") if message is None else message.get("content")
    if text is None and message is None:
        raise ValueError(f"choice {i}: no text")
    finish = raw.get("finish_reason")
    if finish not in ("stop", "length"):
        raise ValueError(f"choice {i}: finish_reason must be 'stop' or 'length' for a whole sample, got {finish!r}")
    stopped_by = raw.get("stop_reason", raw.get("matched_stop"))  # vLLM's name for it, SGLang's
    return Choice(
        text or "",
        [int(token) for token in raw.get("token_ids") or ()],
        _log_probs(raw.get("logprobs"), i) if logprobs else None,
        finish,
        stopped_by if isinstance(stopped_by, str) else None,  # a number is a token's id, the end of text among them
    )


def _log_probs(raw: Any, i: int) -> list[float]:
    found = None
    if isinstance(raw, Mapping):
        found = raw.get("token_logprobs")  # completions
        if found is None and raw.get("content") is not None:  # chat
            found = [token.get("logprob") for token in raw["content"]]
    if found is None:
        raise ValueError(
            f"choice {i}: no logprobs, which were asked for; if the server has none, use Endpoint(logprobs=None)"
        )
    bad = [value for value in found if not isinstance(value, int | float) or math.isnan(value) or value > 1e-3]
    if bad:
        raise ValueError(f"choice {i}: logprobs must be natural logs of probabilities, got {bad[0]!r}")
    return [min(float(value), 0.0) for value in found]  # a server's rounding may leave 1e-7 above


def _count(usage: Any, name: str) -> int:
    count = usage.get(name) if isinstance(usage, Mapping) else None
    # A server that generates nothing may leave the count out of a whole usage.
    if count is None and isinstance(usage, Mapping) and name == "completion_tokens":
        count = 0
    if not isinstance(count, int) or count < 0:
        raise ValueError(f"usage: {name} must be a count of tokens, got {count!r}")
    return count


def _shares(choices: Sequence[Choice], total: int) -> list[int]:
    """Tokens of each choice. Usage is only a total: without ids or log-probabilities it is split evenly."""
    counts = [len(choice.tokens) or len(choice.log_probs or ()) for choice in choices]
    if sum(counts) == total or not choices:
        return counts
    each, rest = divmod(total, len(choices))
    return [each + (i < rest) for i in range(len(choices))]
