"""What a request of the OpenAI-compatible protocol asks for, checked; what would change the law unasked is refused."""

import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, NamedTuple

# Fields that change what is sampled, and the values that change nothing.
_REFUSED = {
    "frequency_penalty": (None, 0), "presence_penalty": (None, 0), "repetition_penalty": (None, 1),
    "logit_bias": (None, {}), "suffix": (None, ""), "echo": (None, False), "best_of": (None, 1),
    "tools": (None, []), "functions": (None, []), "response_format": (None, {"type": "text"}),
    "stop_token_ids": (None, []), "ignore_eos": (None, False), "min_tokens": (None, 0), "prompt_logprobs": (None,),
    "logits_processors": (None, []), "allowed_token_ids": (None,), "bad_words": (None, []),
}  # fmt: skip
_MOST_SAMPLES = 4096


class Refused(Exception):
    """A request that cannot be served: an HTTP status, what is wrong, and which field."""

    def __init__(self, message: str, *, param: str | None = None, status: int = HTTPStatus.BAD_REQUEST):
        super().__init__(message)
        self.param, self.status = param, int(status)

    def as_json(self) -> dict[str, Any]:
        """OpenAI's error object."""
        kind = "invalid_request_error" if self.status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error"
        code = "model_not_found" if self.param == "model" and self.status == HTTPStatus.NOT_FOUND else None
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": code}}


class Sampling(NamedTuple):
    """What requests must share to be one batch: see `Writer.complete`."""

    num_samples: int
    max_tokens: int
    top_k: int | None
    top_p: float | None
    min_p: float | None
    stop: tuple[str, ...]


class Asked(NamedTuple):
    """How to sample and what to tell; `max_tokens` None: as many as the context has room for."""

    num_samples: int
    max_tokens: int | None
    temperature: float
    top_k: int | None
    top_p: float | None
    min_p: float | None
    stop: tuple[str, ...]
    seed: int | None
    logprobs: bool
    keep_stop: bool
    token_ids: bool
    stream: bool
    stream_usage: bool


def asked(body: Mapping[str, Any], *, chat: bool) -> Asked:
    """The sampling fields of a completion request, or of a `chat` completion's.

    **Raises:** `Refused` naming the field.
    """
    for name, harmless in _REFUSED.items():
        value = body.get(name)
        if value not in harmless and not (name == "best_of" and value == body.get("n", 1)):
            raise Refused(f"{name} is not supported, got {value!r}", param=name)
    tokens = _number(body, "max_completion_tokens", None, kind=int, low=1) if chat else None
    if tokens is None:
        tokens = _number(body, "max_tokens", None if chat else 16, kind=int, low=1)
    top_p = _number(body, "top_p", None, low=0, high=1)
    if top_p == 0:
        raise Refused("top_p must be in (0, 1], got 0", param="top_p")
    top_k = _number(body, "top_k", None, kind=int, low=-1)
    seed = _number(body, "seed", None, kind=int, low=-(2**63), high=2**63 - 1)
    stream_options = body.get("stream_options") or {}
    return Asked(
        num_samples=_number(body, "n", 1, kind=int, low=1, high=_MOST_SAMPLES),
        max_tokens=tokens,
        temperature=float(_number(body, "temperature", 1.0, low=0)),
        top_k=top_k if top_k is not None and top_k > 0 else None,
        top_p=None if top_p is None or top_p == 1 else float(top_p),
        min_p=float(_number(body, "min_p", 0.0, low=0, high=1)) or None,
        stop=_stop(body.get("stop")),
        seed=seed,
        logprobs=_logprobs(body, chat),
        keep_stop=_flag(body, "include_stop_str_in_output") or _flag(body, "no_stop_trim"),
        token_ids=_flag(body, "return_token_ids"),
        stream=_flag(body, "stream"),
        stream_usage=isinstance(stream_options, Mapping) and bool(stream_options.get("include_usage")),
    )


def prompts(body: Mapping[str, Any]) -> list[str | list[int]]:
    """The prompts of a completion request: a text, texts, token ids, or lists of token ids."""
    prompt = body.get("prompt")
    if isinstance(prompt, str):
        return [prompt]
    if isinstance(prompt, Sequence) and prompt:
        if _are_ids(prompt):
            return [list(prompt)]
        if all(isinstance(one, str) or (one and _are_ids(one)) for one in prompt):
            return list(prompt)
    raise Refused("prompt must be a text, a list of texts, or token ids", param="prompt")


def messages(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The conversation of a chat request."""
    found = body.get("messages")
    if not (isinstance(found, list) and found and all(isinstance(one, Mapping) and "role" in one for one in found)):
        raise Refused("messages must be a list of objects with role and content", param="messages")
    return found


def texts(body: Mapping[str, Any]) -> list[str]:
    """The texts of a pooling request."""
    found = body.get("input")
    if isinstance(found, str):
        return [found]
    if isinstance(found, list) and found and all(isinstance(one, str) for one in found):
        return found
    raise Refused("input must be a text or a list of texts", param="input")


def _are_ids(value: Any) -> bool:
    return isinstance(value, Sequence) and all(isinstance(one, int) and not isinstance(one, bool) for one in value)


def _number(
    body: Mapping[str, Any], name: str, default: Any, *, kind: type = float, low: float, high: float = math.inf
) -> Any:
    value = body.get(name)
    if value is None:
        return default
    fits = isinstance(value, int) if kind is int else isinstance(value, int | float)
    if not fits or isinstance(value, bool) or not low <= value <= high or value == math.inf:
        what = "a whole number" if kind is int else "a number"
        bounds = f"of at least {low}" if high == math.inf else f"in {low}..{high}"
        raise Refused(f"{name} must be {what} {bounds}, got {value!r}", param=name)
    return value


def _flag(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise Refused(f"{name} must be true or false, got {value!r}", param=name)
    return bool(value)


def _stop(value: Any) -> tuple[str, ...]:
    found = [value] if isinstance(value, str) else value or []
    if not (isinstance(found, list) and all(isinstance(one, str) and one for one in found)):
        raise Refused(f"stop must be a text or a list of texts, none empty, got {value!r}", param="stop")
    return tuple(found)


def _logprobs(body: Mapping[str, Any], chat: bool) -> bool:
    """Whether the chosen tokens' log-probabilities are asked for; other tokens' are not kept."""
    if chat:
        if body.get("top_logprobs"):
            raise Refused("top_logprobs is not supported: only chosen tokens' are known", param="top_logprobs")
        return _flag(body, "logprobs")
    value = body.get("logprobs")
    if value is None or value is False:
        return False
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 1:
        raise Refused(f"logprobs must be 0 or 1 (only chosen tokens' are known), got {value!r}", param="logprobs")
    return True
