"""`Endpoint`: a language model behind the OpenAI-compatible protocol, with the methods of a local one."""

import itertools
import math
from collections.abc import Mapping, Sequence
from functools import partial
from os import PathLike
from typing import Any
from urllib.parse import urlsplit

import jax
import numpy as np
from jaxtyping import Array, Int, Key, UInt32

from ppl.keys import as_key
from ppl.lm.completion import Completion
from ppl.lm.endpoint.answers import Answer, Choice, read_answer
from ppl.lm.endpoint.client import Client, Request
from ppl.records import Records

Prompt = str | Sequence[int]
Message = Mapping[str, Any]
_LAWS = ("model", "proposal", None)


class Endpoint:
    """A language model on a server: vLLM, SGLang, `ppl serve`, or another that speaks OpenAI's protocol.

    ```text
    vllm serve Qwen/Qwen2.5-1.5B-Instruct
    endpoint = ppl.lm.Endpoint("http://127.0.0.1:8000/v1", "Qwen/Qwen2.5-1.5B-Instruct", journal="paid.jsonl")
    ```

    **Arguments:**

    - `url`: the server's address with its `/v1`, which is added to a bare `http://host:port`.
    - `model`: the model's name on the server.
    - `api_key_env`: the environment variable that holds the API key, None for none. The key is read at each call, sent
      in one header, and neither kept nor shown.
    - `concurrency`: requests under way at once, over all calls and threads.
    - `timeout`: seconds that one attempt may take from its beginning to its last byte.
    - `retries`: further attempts after a failure that may pass (429, 408, 5xx, a connection refused, broken or cut
      off, no answer in time, malformed JSON). Before each, `backoff` seconds doubled each time, with jitter, and no
      less than a `Retry-After` says; one that says more than `timeout` ends the attempts.
    - `journal`: a file in which each answer is kept as it comes: a restart asks only for what is missing.
    - `logprobs`: which law the server's log-probabilities are of. `"model"`: the model's own, before temperature and
      cuts (vLLM unless started with `--logprobs-mode processed_logprobs`; SGLang with
      `SGLANG_RETURN_ORIGINAL_LOGPROB=1`). `"proposal"`: what the token was drawn from. None: do not ask for them. The
      law that the server does not tell is filled in where both are one (temperature 1, no cut), and None otherwise.
    - `extensions`: send fields of vLLM and SGLang besides OpenAI's: `top_k`, `min_p`, `repetition_penalty=1` and
      `return_token_ids`. Without them a server fills in what its model's generation_config.json says. A server that
      refuses unknown fields needs `extensions=False`.
    - `max_n`: samples in one request, all when None. 1 is for a server that gives each of a request's `n` samples
      the same seed, which would make them equal.

    Methods may be called from several threads, and where an event loop runs (a notebook).

    **Raises:** `ValueError` naming the argument that is out of range, or a journal that is none.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        api_key_env: str | None = "OPENAI_API_KEY",
        concurrency: int = 8,
        timeout: float = 600.0,
        retries: int = 5,
        backoff: float = 0.5,
        journal: str | PathLike[str] | None = None,
        logprobs: str | None = "model",
        extensions: bool = True,
        max_n: int | None = None,
    ):
        if logprobs not in _LAWS:
            raise ValueError(f"logprobs must be 'model', 'proposal' or None, got {logprobs!r}")
        if max_n is not None and max_n < 1:
            raise ValueError(f"max_n must be at least 1 sample a request, got {max_n}")
        self.model, self.logprobs, self.extensions, self.max_n = model, logprobs, extensions, max_n
        self._client = Client(
            url if urlsplit(url).path.strip("/") else url.rstrip("/") + "/v1",
            api_key_env=api_key_env, concurrency=concurrency, timeout=timeout, retries=retries, backoff=backoff,
            journal=journal,
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"Endpoint({self._client.url!r}, {self.model!r})"

    def __enter__(self) -> "Endpoint":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; the next call opens others. Without it they end with the program."""
        self._client.close()

    @property
    def name(self) -> str:
        return self.model

    @property
    def concurrency(self) -> int:
        return self._client.concurrency

    def fingerprint(self) -> str:
        """What is known of the model from here: its name, and which law its log-probabilities are of."""
        return f"endpoint-{self.model}-{self.logprobs}"

    def generate(
        self,
        prompts: Sequence[Prompt],
        key: int | np.integer | Key[Array, ""],
        *,
        num_samples: int = 1,
        max_tokens: int = 256,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        stop: str | Sequence[str] | None = None,
    ) -> Records:
        """`num_samples` continuations of each prompt, as a table: one row each, in the order of the prompts.

        **Arguments:** as `complete`.
        **Returns:** Records with `problem` the prompt's place, `text`, `log_prob` and `log_proposal` (NaN where the
        server does not tell), `prompt_tokens` and `generated_tokens` by the server's usage.
        **Raises:** as `complete`.
        """
        answers = self.ask(
            prompts, key, num_samples=num_samples, max_tokens=max_tokens, temperature=temperature, top_k=top_k,
            top_p=top_p, min_p=min_p, stop=stop,
        )  # fmt: skip
        law = partial(self.completion, temperature=temperature, cut=_cuts(top_k, top_p, min_p))
        rows = []
        for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            for j, (choice, generated) in enumerate(zip(answer.choices, answer.generated, strict=True)):
                one = law(choice)
                rows.append({
                    "problem": str(i), "sample": j, "method": "generate", "text": one.text,
                    "prompt": prompt if isinstance(prompt, str) else "",
                    "log_prob": _sum(one.log_probs), "log_proposal": _sum(one.log_proposals),
                    "prompt_tokens": answer.prompt_tokens, "generated_tokens": generated,
                    "seed": int(key) if isinstance(key, int | np.integer) else 0,
                })  # fmt: skip
        return Records.from_rows(rows)

    def complete(
        self,
        prompts: Sequence[Prompt],
        key: int | np.integer | Key[Array, ""],
        *,
        num_samples: int = 1,
        max_tokens: int = 256,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        stop: str | Sequence[str] | None = None,
    ) -> list[list[Completion]]:
        """`num_samples` continuations of each prompt.

        **Arguments:**

        - `prompts`: texts, or token ids;
        - `key`: each prompt's seed is made from it and the prompt's place. Whether a seed makes a server repeat itself
          is the server's affair; its batching alone may change the last digits;
        - `temperature`: at least 0, where 0 takes the likeliest token; `top_k`, `top_p`, `min_p`: None for no cut;
        - `stop`: strings that end a text, and are not part of it.

        **Returns:** `[prompts][num_samples]`.
        **Raises:** `ValueError` naming the argument that is out of range; `EndpointError` for a request that failed.
        """
        answers = self.ask(
            prompts, key, num_samples=num_samples, max_tokens=max_tokens, temperature=temperature, top_k=top_k,
            top_p=top_p, min_p=min_p, stop=stop,
        )  # fmt: skip
        law = partial(self.completion, temperature=temperature, cut=_cuts(top_k, top_p, min_p))
        return [[law(choice) for choice in answer.choices] for answer in answers]

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        key: int | np.integer | Key[Array, ""],
        *,
        num_samples: int = 1,
        max_tokens: int = 256,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        stop: str | Sequence[str] | None = None,
    ) -> list[list[Completion]]:
        """`num_samples` replies to each conversation, by the server's chat template.

        **Arguments:** `messages`: a conversation (mappings with `role` and `content`) or several; the others as
        `complete`.
        **Returns:** `[conversations][num_samples]`.
        **Raises:** as `complete`.
        """
        conversations = [messages] if messages and isinstance(messages[0], Mapping) else messages
        answers = self.ask(
            conversations, key, num_samples=num_samples, max_tokens=max_tokens, temperature=temperature, top_k=top_k,
            top_p=top_p, min_p=min_p, stop=stop, chat=True,
        )  # fmt: skip
        law = partial(self.completion, temperature=temperature, cut=_cuts(top_k, top_p, min_p))
        return [[law(choice) for choice in answer.choices] for answer in answers]

    def ask(
        self,
        prompts: Sequence[Any],
        key: int | np.integer | Key[Array, ""] | Key[Array, " prompts"],
        *,
        num_samples: int | Sequence[int],
        max_tokens: int,
        temperature: float,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        stop: str | Sequence[str] | None = None,
        keep_stop: bool = False,
        chat: bool = False,
    ) -> list[Answer]:
        """The server's answers themselves, one a prompt, with ids and counts: what the other methods read.

        **Arguments:** as `complete`; `key`: also one a prompt; `num_samples`: also one a prompt; `keep_stop`: leave the
        stop string at the end of a text; `chat`: prompts are conversations.
        """
        counts = [num_samples] * len(prompts) if isinstance(num_samples, int) else list(num_samples)
        _check(
            num_samples if isinstance(num_samples, int) else min(counts, default=1),
            max_tokens,
            temperature,
            top_k,
            top_p,
            min_p,
        )
        if not self.extensions and (top_k is not None or min_p is not None):
            raise ValueError("top_k and min_p are fields beyond OpenAI's, which extensions=False does not send")
        body: dict[str, Any] = {
            "model": self.model, "max_tokens": max_tokens, "temperature": temperature,
            "top_p": 1.0 if top_p is None else top_p,
        }  # fmt: skip
        if stop:
            body["stop"] = [stop] if isinstance(stop, str) else list(stop)
        if self.logprobs is not None:
            body["logprobs"] = True if chat else 1  # of the chosen token and one more: 0 is none to some servers
        if self.extensions:
            # What is left out a server takes from the model's generation_config.json: another law than was asked for.
            body |= {"top_k": -1 if top_k is None else top_k, "min_p": min_p or 0.0, "repetition_penalty": 1.0}
            body |= {"return_token_ids": True}
            if keep_stop:
                body |= {"include_stop_str_in_output": True, "no_stop_trim": True}  # vLLM's name, SGLang's
        sizes = [[num] if self.max_n is None else _split(num, self.max_n) for num in counts]
        seeds = _seeds(key, len(prompts), max(map(len, sizes), default=1))
        requests = []
        for i, prompt in enumerate(prompts):
            content = {"messages": list(prompt)} if chat else {"prompt": _as_json(prompt)}
            for size, seed in zip(sizes[i], seeds[i].tolist(), strict=False):
                what = f"model {self.model!r}, {'conversation' if chat else 'prompt'} {i} of {len(prompts)}, n={size}"
                path = "/chat/completions" if chat else "/completions"
                requests.append(Request(path, body | content | {"n": size, "seed": seed}, what))
        parts = iter(self._client.ask(requests, self._read))
        return [_joined(list(itertools.islice(parts, len(one)))) for one in sizes]

    def _read(self, request: Request, answer: Mapping[str, Any]) -> Answer:
        return read_answer(answer, num=request.body["n"], logprobs=self.logprobs is not None)

    def completion(self, choice: Choice, *, temperature: float, cut: bool) -> Completion:
        """A choice with the laws that are known of it; `cut`: was any token cut off from the model's law."""
        given = choice.log_probs
        model, proposal = (given, None) if self.logprobs == "model" else (None, given)
        if temperature == 1 and not cut:
            model = proposal = given
        if temperature == 0:  # one token, taken for sure
            proposal = None if given is None else [0.0] * len(given)
        return Completion(choice.text, choice.tokens, model, proposal, choice.finish)


def _check(
    num_samples: int,
    max_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    min_p: float | None,
) -> None:
    for name, value in (("num_samples", num_samples), ("max_tokens", max_tokens), ("top_k", top_k)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature must be at least 0 and finite, got {temperature}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p must be in (0, 1], got {top_p}")
    if min_p is not None and not 0 <= min_p <= 1:
        raise ValueError(f"min_p must be in [0, 1], got {min_p}")


def _cuts(top_k: int | None, top_p: float | None, min_p: float | None) -> bool:
    """Whether any token is cut off from the model's law."""
    return top_k is not None or top_p not in (None, 1.0) or bool(min_p)


def _seeds(
    key: int | np.integer | Key[Array, ""] | Key[Array, " num"], num: int, requests: int
) -> Int[np.ndarray, "num requests"]:
    """A seed for each prompt and request of it, by the prompt's place: the same whatever prompts come after it.

    Below 2**31, which every server takes. Hashed on the host: with JAX, each number of prompts would compile.
    """
    several = isinstance(key, jax.Array) and key.ndim == 1
    data = np.asarray(jax.random.key_data(key if several else as_key(key)))
    seeds = [[_hashed(data[i], 0, j) if several else _hashed(data, i, j) for j in range(requests)] for i in range(num)]
    return np.asarray(seeds, np.int64).reshape(num, requests)


def _hashed(data: UInt32[np.ndarray, " words"], i: int, j: int) -> int:
    return int(np.random.SeedSequence(data.tolist(), spawn_key=(i, j)).generate_state(1)[0]) >> 1


def _split(num: int, most: int) -> list[int]:
    return [min(most, num - start) for start in range(0, num, most)]


def _as_json(prompt: Prompt) -> str | list[int]:
    return prompt if isinstance(prompt, str) else [int(token) for token in prompt]


def _joined(parts: Sequence[Answer]) -> Answer:
    """One prompt's answers as one. The prompt was read once for each of them, and is counted so."""
    if len(parts) == 1:
        return parts[0]
    choices = [choice for part in parts for choice in part.choices]
    generated = [count for part in parts for count in part.generated]
    return Answer(choices, sum(part.prompt_tokens for part in parts), generated, parts[0].prompt_ids)


def _sum(log_probs: Sequence[float] | None) -> float | None:
    return None if log_probs is None else math.fsum(log_probs)
