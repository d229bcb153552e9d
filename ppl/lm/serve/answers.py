"""What a server answers, in OpenAI's form with vLLM's fields: completions, chat, chunks of both, pooling."""

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ppl.lm.completion import Completion
from ppl.lm.serve.models import Writer
from ppl.lm.serve.requests import Asked

_LEAST = -9999.0  # vLLM's word for a probability of zero: JSON has no infinity


class Written(NamedTuple):
    """The continuations of one prompt of a request, and the ids that were read."""

    prompt_ids: list[int]
    completions: Sequence[Completion]


def completion_answer(lm: Writer, request: Asked, written: Sequence[Written], *, chat: bool) -> dict[str, Any]:
    """The answer to a completion or chat completion: choices prompt by prompt, and usage."""
    choices = []
    for one in written:
        for completion in one.completions:
            choices.append(_choice(lm, request, one.prompt_ids, completion, len(choices), chat=chat))
    prompt = sum(len(one.prompt_ids) for one in written)
    generated = sum(len(completion.tokens) for one in written for completion in one.completions)
    usage = {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated}
    kind = ("chat.completion", "chatcmpl") if chat else ("text_completion", "cmpl")
    return {**_head(lm.name, *kind), "choices": choices, "usage": usage}


def chunks(answer: Mapping[str, Any], request: Asked, *, chat: bool) -> Iterator[dict[str, Any]]:
    """The same answer as a stream's chunks: each choice comes whole, since rows of a batch end together."""
    head = {name: answer[name] for name in ("id", "created", "model")}
    head["object"] = "chat.completion.chunk" if chat else "text_completion"
    for choice in answer["choices"]:
        if chat:
            choice = {**choice, "delta": choice["message"]}
            del choice["message"]
        yield {**head, "choices": [choice]}
    if request.stream_usage:
        yield {**head, "choices": [], "usage": answer["usage"]}


def pooling_answer(name: str, values: Sequence[float], tokens: int) -> dict[str, Any]:
    """vLLM's `/pooling` answer: one row of one probability for each text."""
    data = [{"index": i, "object": "pooling", "data": [[float(value)]]} for i, value in enumerate(values)]
    return {**_head(name, "list", "pool"), "data": data, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}


def models_answer(models: Mapping[str, int | None]) -> dict[str, Any]:
    """The list of models by name, with the length of their context."""
    return {"object": "list", "data": [model_answer(name, length) for name, length in models.items()]}


def model_answer(name: str, length: int | None) -> dict[str, Any]:
    """One model."""
    return {"id": name, "object": "model", "created": 0, "owned_by": "ppl", "max_model_len": length}


def _head(name: str, kind: str, prefix: str) -> dict[str, Any]:
    return {"id": f"{prefix}-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": name}


def _choice(
    lm: Writer, request: Asked, prompt_ids: list[int], completion: Completion, index: int, *, chat: bool
) -> dict[str, Any]:
    text, stopped_by = _text(lm, request, prompt_ids, completion)
    choice: dict[str, Any] = {"index": index, "finish_reason": completion.finish, "stop_reason": stopped_by}
    choice |= {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
    choice["logprobs"] = _logprobs(lm, completion, chat=chat) if request.logprobs else None
    if request.token_ids:
        choice |= {"token_ids": completion.tokens, "prompt_token_ids": prompt_ids}
    return choice


def _text(lm: Writer, request: Asked, prompt_ids: list[int], completion: Completion) -> tuple[str, str | None]:
    """The text up to its stop string, or with it, if that was asked for; and the stop string, if there is one."""
    text = lm.added_text(prompt_ids, completion.tokens)
    found = [(place, stop) for stop in request.stop if (place := text.find(stop)) >= 0]
    if completion.finish != "stop" or not found:
        return text, None
    place, stop = min(found)
    return text[: place + len(stop) * request.keep_stop], stop


def _logprobs(lm: Writer, completion: Completion, *, chat: bool) -> dict[str, Any]:
    """The chosen tokens and their log-probabilities under the model, before temperature and cuts (vLLM's default)."""
    tokens = [lm.decode([token]) or lm.tokenizer.id_to_token(token) or "" for token in completion.tokens]
    values = [max(value, _LEAST) for value in completion.log_probs or ()]
    if chat:
        content = [
            {"token": token, "logprob": value, "bytes": list(token.encode()), "top_logprobs": []}
            for token, value in zip(tokens, values, strict=True)
        ]
        return {"content": content, "refusal": None}
    offsets, place = [], 0
    for token in tokens:
        offsets.append(place)
        place += len(token)
    return {"tokens": tokens, "token_logprobs": values, "top_logprobs": None, "text_offset": offsets}
