"""`RewardEndpoint`: a reward model behind vLLM's `/pooling` or `/classify`, with the method of a local one."""

import math
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from ppl.lm.endpoint.client import Client, Request

_ROUTES = ("pooling", "classify")


@runtime_checkable
class Render(Protocol):
    """Makes the text that a reward model reads."""

    def __call__(self, prompt: str, prefix: str, /) -> str:
        """The text: a chat template around both, say, with the model's own mark after each step."""
        ...


class Judged(NamedTuple):
    """P(right) of each prefix, and the tokens that the server read for all of them together."""

    values: Float[np.ndarray, " batch"]
    tokens: int


AGGREGATES: dict[str, Callable[[Float[np.ndarray, " steps"]], Any]] = {
    "last": lambda steps: steps[-1], "min": np.min, "product": np.prod, "mean": np.mean,
}  # fmt: skip


def concatenated(prompt: str, prefix: str) -> str:
    """The prompt, and the prefix right behind it."""
    return prompt + prefix


class RewardEndpoint:
    """A reward model on a server: P(right) of solution prefixes.

    ```text
    vllm serve Qwen/Qwen2.5-Math-PRM-7B          # POST /pooling: [[p_wrong, p_right], ...], a row a step
    vllm serve org/sequence-classifier           # POST /classify: {"probs": [...]}, one row a text
    ```

    **Arguments:**

    - `url`: the server's address. vLLM has both routes beside its `/v1`, so a `/v1` at the end is taken off.
    - `model`: the model's name on the server.
    - `route`: `"pooling"`, whose answers hold a row of class probabilities for each step of a text (one entry, for a
      scalar head), or one row for the whole text; or `"classify"`, whose answers hold one row for each text.
    - `aggregate`: what the steps' values become: `"last"`, `"min"`, `"product"` or `"mean"`.
    - `label`: which entry of a row is P(right); the last one unless told.
    - `logits`: values are log odds, and not probabilities.
    - `render`: `render(prompt, prefix)` is the text that the model reads; see `Render`.
    - `end_of_text`: what the model knows a finished solution by, appended by `ppl.decode` (`"</s>"`, say).
    - `batch`: texts in one request.
    - `api_key_env`, `concurrency`, `timeout`, `retries`, `backoff`, `journal`: as `ppl.lm.Endpoint`.

    **Raises:** `ValueError` naming the argument that is out of range.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        route: str = "pooling",
        aggregate: str = "last",
        label: int = -1,
        logits: bool = False,
        render: Render = concatenated,
        end_of_text: str = "",
        batch: int = 16,
        api_key_env: str | None = "OPENAI_API_KEY",
        concurrency: int = 8,
        timeout: float = 600.0,
        retries: int = 5,
        backoff: float = 0.5,
        journal: str | PathLike[str] | None = None,
    ):
        if route not in _ROUTES:
            raise ValueError(f"route must be 'pooling' or 'classify', got {route!r}")
        if aggregate not in AGGREGATES:
            raise ValueError(f"aggregate {aggregate!r} is not known; known are {', '.join(AGGREGATES)}")
        if batch < 1:
            raise ValueError(f"batch must be at least 1 text a request, got {batch}")
        self.model, self.route, self.aggregate, self.label, self.logits = model, route, aggregate, label, logits
        self.render, self.end_of_text, self.batch = render, end_of_text, batch
        self._client = Client(
            url.rstrip("/").removesuffix("/v1"),
            api_key_env=api_key_env, concurrency=concurrency, timeout=timeout, retries=retries, backoff=backoff,
            journal=journal,
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"RewardEndpoint({self._client.url!r}, {self.model!r}, route={self.route!r})"

    def __enter__(self) -> "RewardEndpoint":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; the next call opens others."""
        self._client.close()

    @property
    def name(self) -> str:
        return self.model

    def fingerprint(self) -> str:
        """What is known of the model from here: its name, and how its answers are read."""
        return f"endpoint-{self.model}-{self.route}-{self.aggregate}-{self.label}-{self.logits}-{self.end_of_text}"

    def score(self, prompts: Sequence[str], prefixes: Sequence[str]) -> Float[np.ndarray, " batch"]:
        """P(right) of each prefix of a solution, in [0, 1].

        **Raises:** `ValueError` if the two lists differ in length; `EndpointError` for a request that failed, or an
        answer that holds no probability.
        """
        return self.judge(prompts, prefixes).values

    def judge(self, prompts: Sequence[str], prefixes: Sequence[str]) -> Judged:
        """`score`, with the tokens that the server read. Equal texts are asked for once, since they score the same."""
        if len(prompts) != len(prefixes):
            raise ValueError(f"prompts and prefixes must pair up, got {len(prompts)} and {len(prefixes)}")
        texts = [self.render(prompt, prefix) for prompt, prefix in zip(prompts, prefixes, strict=True)]
        distinct = list(dict.fromkeys(texts))
        requests = []
        for start in range(0, len(distinct), self.batch):
            part = distinct[start : start + self.batch]
            what = f"model {self.model!r}, texts {start} to {start + len(part) - 1} of {len(distinct)}"
            requests.append(Request(f"/{self.route}", {"model": self.model, "input": part}, what))
        answers = self._client.ask(requests, self._read)
        found = dict(zip(distinct, (value for answer in answers for value in answer.values), strict=True))
        values = np.asarray([found[text] for text in texts], np.float64)
        return Judged(values, sum(answer.tokens for answer in answers))

    def _read(self, request: Request, answer: Mapping[str, Any]) -> Judged:
        data, num = answer.get("data"), len(request.body["input"])
        if not isinstance(data, Sequence) or len(data) != num:
            raise ValueError(f"data: {num} entries are wanted, got {len(data) if isinstance(data, Sequence) else data}")
        rows = sorted(data, key=lambda row: row.get("index", 0))
        values = [self._value(row, i) for i, row in enumerate(rows)]
        usage = answer.get("usage")
        tokens = usage.get("prompt_tokens", 0) if isinstance(usage, Mapping) else 0
        return Judged(np.asarray(values, np.float64), int(tokens))

    def _value(self, row: Mapping[str, Any], i: int) -> float:
        field = "data" if self.route == "pooling" else "probs"
        try:
            array = np.asarray(row.get(field), np.float64)
        except (TypeError, ValueError):
            raise ValueError(f"text {i}: numbers are wanted in {field!r}, got {row.get(field)!r:.80}") from None
        # vLLM's `/pooling` gives rows for a model that pools steps, and one bare row for one that pools the whole text.
        rows = array[None] if array.ndim == 1 else array
        if rows.ndim != 2 or 0 in rows.shape or (self.route == "classify" and len(rows) > 1):
            raise ValueError(
                f"text {i}: rows of class probabilities are wanted in {field!r}, got shape {list(array.shape)}; does "
                "the text that `render` makes end its steps as the model knows them?"
            )
        if not -rows.shape[1] <= self.label < rows.shape[1]:
            raise ValueError(f"text {i}: label={self.label} is not one of {rows.shape[1]} classes")
        steps = rows[:, self.label]
        if self.logits:
            steps = np.exp(-np.logaddexp(0.0, -steps))
        value = float(AGGREGATES[self.aggregate](steps))
        if not (np.all((steps >= 0) & (steps <= 1)) and math.isfinite(value)):
            raise ValueError(
                f"text {i}: probabilities in [0, 1] are wanted, got {steps.tolist()!r:.80}; if they are log odds, use "
                "logits=True"
            )
        return value
