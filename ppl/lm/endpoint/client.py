"""Requests to an OpenAI-compatible server: many at a time, repeated where that can help, answered once and for all."""

import asyncio
import ipaddress
import json
import math
import os
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable
from urllib.parse import urlsplit

import httpx2

from ppl.lm.endpoint.background import Background
from ppl.lm.endpoint.journal import RequestJournal, request_keys
from ppl.lm.endpoint.retrying import Failed, delay, retry_after, words, worth_repeating

_CONNECT = 10.0  # seconds to reach a server, whatever an answer may take
_T = TypeVar("_T")
_Read = TypeVar("_Read", covariant=True)


class Request(NamedTuple):
    """`path` below the server's address, the JSON `body`, and in words `what` it asks for, for an error."""

    path: str
    body: Mapping[str, Any]
    what: str


@runtime_checkable
class Reader(Protocol[_Read]):
    """Reads an answer."""

    def __call__(self, request: Request, answer: Mapping[str, Any], /) -> _Read:
        """What the answer says. **Raises:** `ValueError` saying what is not as the request asked."""
        ...


class EndpointError(OSError):
    """A request that an endpoint did not answer, or not as asked.

    The message names the address, the request, the last status and each attempt; `status` is None where there was no
    answer, and `attempts` holds what came of each.
    """

    def __init__(self, message: str, *, url: str, status: int | None, attempts: Sequence[str]):
        super().__init__(message)
        self.url, self.status, self.attempts = url, status, list(attempts)


class Client:
    """Sends requests to the server at `url`; see `ppl.lm.Endpoint` for the arguments."""

    def __init__(
        self,
        url: str,
        *,
        api_key_env: str | None,
        concurrency: int,
        timeout: float,
        retries: int,
        backoff: float,
        journal: str | PathLike[str] | None,
    ):
        self.url = _address(url)
        if concurrency < 1:
            raise ValueError(f"concurrency must be at least 1 request at a time, got {concurrency}")
        if not 0 < timeout < math.inf:
            raise ValueError(f"timeout must be above 0 seconds and finite, got {timeout}")
        if retries < 0:
            raise ValueError(f"retries must not be negative, got {retries}")
        if not 0 <= backoff < math.inf:
            raise ValueError(f"backoff must be at least 0 seconds and finite, got {backoff}")
        self.api_key_env, self.concurrency, self.timeout = api_key_env, concurrency, timeout
        self.retries, self.backoff = retries, backoff
        self.journal = None if journal is None else RequestJournal(journal)
        self._open: dict[asyncio.AbstractEventLoop, tuple[httpx2.AsyncClient, asyncio.Semaphore]] = {}
        self._background = Background(_closing(self._open))

    def ask(self, requests: Sequence[Request], read: Reader[_T]) -> list[_T]:
        """Each request's answer, as `read` reads it.

        What the journal holds is not asked for again. When a request fails for good, no other is begun; those that are
        under way come to their end first if there is a journal to keep them in.

        **Raises:** `EndpointError` for the first that failed; `ValueError` if the environment holds an unusable key.
        """
        secret = self._secret()  # in the caller's thread, so that it fails there
        return self._background.run(self._ask(requests, read, secret))

    def close(self) -> None:
        """Close the connections; the next request opens others."""
        self._background.close()

    async def _ask(self, requests: Sequence[Request], read: Reader[_T], secret: str | None) -> list[_T]:
        journal = self.journal
        keys = request_keys([(request.path, request.body) for request in requests]) if journal is not None else []
        results: dict[int, _T] = {}
        failures: list[BaseException] = []
        client, slots = self._opened()

        async def one(i: int) -> None:
            async with slots:
                if failures:
                    return
                try:
                    answer, results[i] = await self._answer(client, requests[i], read, secret, failures)
                except EndpointError as error:
                    failures.append(error)
                    if journal is None:
                        for task in tasks:
                            task.cancel()
                    return
                if journal is not None:
                    journal.write(keys[i], answer)

        for i, key in enumerate(keys):
            if journal is not None and (known := journal.find(key)) is not None:
                try:
                    results[i] = _read(read, requests[i], known)
                except Failed as failed:
                    raise self._error(requests[i], failed.status, [f"in the journal, {failed}"]) from None
        tasks = [asyncio.ensure_future(one(i)) for i in range(len(requests)) if i not in results]
        try:
            await asyncio.gather(*tasks)
        except BaseException:
            if not failures:  # an interrupt, or a journal that cannot be written
                for task in tasks:
                    task.cancel()
                raise
        if failures:
            await asyncio.gather(*tasks, return_exceptions=True)
            raise failures[0]
        return [results[i] for i in range(len(requests))]

    async def _answer(
        self,
        client: httpx2.AsyncClient,
        request: Request,
        read: Reader[_T],
        secret: str | None,
        failures: Sequence[BaseException],
    ) -> tuple[Mapping[str, Any], _T]:
        attempts: list[str] = []
        while True:
            try:
                answer = await self._attempt(client, request, secret)
                return answer, _read(read, request, answer)
            except Failed as failed:
                attempts.append(str(failed))
                wait = delay(len(attempts) - 1, self.backoff, failed.wait)
                if not failed.repeat or failures or len(attempts) > self.retries:
                    raise self._error(request, failed.status, attempts) from None
                if failed.wait is not None and failed.wait > self.timeout:
                    why = f"; it asks to wait {failed.wait:.0f} s, timeout={self.timeout:g}"
                    raise self._error(request, failed.status, attempts, why) from None
            await asyncio.sleep(wait)

    async def _attempt(self, client: httpx2.AsyncClient, request: Request, secret: str | None) -> Any:
        headers = {"Authorization": f"Bearer {secret}"} if secret else {}
        try:
            # The client's own timeouts are for each read: a server that drips would never hit them.
            async with asyncio.timeout(self.timeout):
                response = await client.post(f"{self.url}{request.path}", json=request.body, headers=headers)
        except (TimeoutError, httpx2.TimeoutException):
            raise Failed(f"no answer within {self.timeout:g} s", repeat=True) from None
        except httpx2.RequestError as error:  # refused, reset, cut off in the middle, not decodable
            raise Failed(words(f"{type(error).__name__}: {error}", secret), repeat=True) from None
        status = response.status_code
        if not response.is_success:
            said = f"HTTP {status}: {words(_message(response.text), secret)}"
            wait = retry_after(response.headers)
            raise Failed(said, repeat=worth_repeating(status), status=status, wait=wait)
        try:
            return json.loads(response.content)
        except ValueError as error:  # also bytes that are no text
            said = words(f"malformed JSON ({error}): {response.text!r}", secret)
            raise Failed(said, repeat=True, status=status) from None

    def _error(self, request: Request, status: int | None, attempts: Sequence[str], why: str = "") -> EndpointError:
        tried = "; ".join(f"{i}. {attempt}" for i, attempt in enumerate(attempts, start=1))
        times = "attempt" if len(attempts) == 1 else "attempts"
        url = f"{self.url}{request.path}"
        message = f"POST {url} ({request.what}): failed after {len(attempts)} {times}{why}: {tried}"
        return EndpointError(message, url=url, status=status, attempts=attempts)

    def _opened(self) -> tuple[httpx2.AsyncClient, asyncio.Semaphore]:
        """The connections and the bound on requests of the loop that runs this."""
        loop = asyncio.get_running_loop()
        if loop not in self._open:
            timeout = httpx2.Timeout(self.timeout, connect=min(_CONNECT, self.timeout), pool=None)
            limits = httpx2.Limits(max_connections=self.concurrency, max_keepalive_connections=self.concurrency)
            client = httpx2.AsyncClient(
                timeout=timeout, limits=limits,
                trust_env=not _is_local(self.url),  # a proxy for the world is none for this machine
                verify=self.url.startswith("https:"),  # reading the certificates takes longer than a local answer
            )  # fmt: skip
            self._open[loop] = (client, asyncio.Semaphore(self.concurrency))
        return self._open[loop]

    def _secret(self) -> str | None:
        """The API key, read anew for each call and kept nowhere."""
        secret = os.environ.get(self.api_key_env, "").strip() if self.api_key_env else ""
        if not (secret.isascii() and secret.isprintable()):
            raise ValueError(f"environment variable {self.api_key_env}: an API key of printable ASCII is wanted")
        return secret or None


def _read(read: Reader[_T], request: Request, answer: Any) -> _T:
    try:
        if not isinstance(answer, Mapping):
            raise ValueError(f"a JSON object is wanted, got {type(answer).__name__}")
        return read(request, answer)
    except ValueError as error:
        raise Failed(f"HTTP 200: {error}", repeat=False, status=200) from None


def _closing(opened: dict[asyncio.AbstractEventLoop, tuple[httpx2.AsyncClient, asyncio.Semaphore]]):
    """What ends a loop's connections; it holds no reference to the client, which may then be collected."""

    async def close() -> None:
        client, _ = opened.pop(asyncio.get_running_loop(), (None, None))
        if client is not None:
            await client.aclose()

    return close


def _address(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"url must be http(s)://host[:port][/path], got {url!r}")
    if parts.username or parts.password or parts.query or parts.fragment:
        # Not repeated: it may hold a key.
        raise ValueError("url must have no user, password, query or fragment; a key belongs into the environment")
    return url.rstrip("/")


def _is_local(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _message(text: str) -> str:
    """What an error's JSON says, in OpenAI's form or FastAPI's; the text itself if it is none."""
    try:
        content = json.loads(text)
    except ValueError:
        return text
    error = content.get("error", content) if isinstance(content, dict) else content
    if isinstance(error, dict):
        error = error.get("message") or error.get("detail") or error
    return error if isinstance(error, str) else json.dumps(error)
