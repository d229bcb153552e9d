"""The HTTP side of `ppl serve`: routes, status codes and streams; the model itself runs in the batcher's thread."""

import json
import logging
import secrets
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from ppl.lm.completion import Completion
from ppl.lm.padding import filled
from ppl.lm.serve.answers import Written, chunks, completion_answer, model_answer, models_answer, pooling_answer
from ppl.lm.serve.batching import Batcher
from ppl.lm.serve.models import Judge, Writer
from ppl.lm.serve.requests import Asked, Refused, Sampling, asked, messages, prompts, texts

_LONGEST_BODY = 64 * 2**20  # bytes
_MOST_ROWS = 512  # prompts or texts in one batch
_REREAD = 4096  # tokens of a prompt that may be read again for its further samples
_SILENCE = 300.0  # seconds after which an idle connection is closed
_POOLING = "pooling"
_log = logging.getLogger(__name__)


class _Prompt(NamedTuple):
    ids: list[int]
    key: Key[Array, ""]
    temperature: float


class Server:
    """Serves a language model, a reward model, or both.

    ```text
    with Server(ppl.lm.load("countdown"), port=0) as server:
        ppl.lm.Endpoint(server.url, "countdown").complete(...)
    ```

    **Arguments:**

    - `lm`: a language model, or None; `reward`: a reward model, or None;
    - `host`: the address to listen at. There is no authentication: any but `127.0.0.1` opens the model to the network;
    - `port`: 0 for any that is free;
    - `wait`: seconds that a request waits for others to share a batch with.

    A batch is filled up to a power of two prompts, so that few shapes compile. A request's result hangs on its seed and
    its prompts alone, not on what it shared a batch with.

    **Raises:** `ValueError` without a model; `OSError` if the port is taken.
    """

    def __init__(
        self,
        lm: Writer | None,
        reward: Judge | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 8000,
        wait: float = 0.005,
    ):
        if lm is None and reward is None:
            raise ValueError("a server needs a language model or a reward model, got neither")
        if lm is not None and reward is not None and lm.name == reward.name:
            raise ValueError(f"both models are named {lm.name!r}; requests tell them apart by name")
        self.lm, self.reward = lm, reward
        self._http = _Http((host, port), self)
        self._batcher = Batcher(self._run, wait=wait, most=_MOST_ROWS)
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """The address that clients take, with `/v1`."""
        host, port = str(self._http.server_address[0]), self._http.server_port
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"

    def run(self) -> None:
        """Serve until interrupted."""
        try:
            self._http.serve_forever()
        finally:
            self._close()

    def start(self) -> None:
        """Serve in a thread, until `close`."""
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End what `start` began."""
        if self._thread is not None:
            self._http.shutdown()
            self._thread.join()
        self._close()

    def __enter__(self) -> "Server":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _close(self) -> None:
        self._http.server_close()
        self._batcher.close()

    # What the routes call, in the thread of a request.

    def models(self) -> dict[str, int | None]:
        """Names of the models, and the length of context where it is known."""
        found: dict[str, int | None] = {}
        if self.lm is not None:
            found[self.lm.name] = self.lm.config.max_position_embeddings
        if self.reward is not None:
            found[self.reward.name] = None
        return found

    def complete(self, body: Mapping[str, Any], *, chat: bool) -> tuple[Asked, dict[str, Any]]:
        """What a completion or chat completion asks for, and its answer. **Raises:** `Refused`."""
        lm = self._named(body, self.lm, "language model")
        request = asked(body, chat=chat)
        given = [lm.chat_prompt(messages(body))] if chat else prompts(body)
        # A chat template writes special tokens out, the start token among them.
        ids = [
            lm.tokenizer.encode(one, add_special_tokens=False).ids if chat
            else lm.encode(one) if isinstance(one, str) else one
            for one in given
        ]  # fmt: skip
        limit = lm.config.max_position_embeddings
        room = limit - max(len(one) for one in ids)
        tokens = room if request.max_tokens is None else request.max_tokens
        if tokens > room or tokens < 1:
            raise Refused(
                f"max_tokens={tokens} and {limit - room} tokens of the prompt are more than the {limit} that model "
                f"{lm.name!r} reads",
                param="max_tokens",
            )
        # Samples of short prompts are rows like any other: they share a batch with other requests' whatever their n,
        # and each n would compile anew. Long prompts are read once for all samples.
        n = request.num_samples
        apart = n if n * (limit - room) <= _REREAD else 1
        group = Sampling(n // apart, tokens, request.top_k, request.top_p, request.min_p, request.stop)
        key = _seed_key(secrets.randbits(63) if request.seed is None else request.seed)
        rows = [one for one in ids for _ in range(apart)]
        items = [_Prompt(one, jax.random.fold_in(key, i), request.temperature) for i, one in enumerate(rows)]
        found = self._batcher.submit(group, items)
        written = [
            Written(one, [completion for part in found[i * apart : (i + 1) * apart] for completion in part])
            for i, one in enumerate(ids)
        ]
        return request, completion_answer(lm, request, written, chat=chat)

    def pool(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a pooling request. **Raises:** `Refused`."""
        reward = self._named(body, self.reward, "reward model")
        read = texts(body)
        values = self._batcher.submit(_POOLING, read)
        return pooling_answer(reward.name, values, sum(len(reward.encode(text)) for text in read))

    def _named(self, body: Mapping[str, Any], model: Any, kind: str) -> Any:
        if model is None:
            raise Refused(f"no {kind} is served here", status=HTTPStatus.NOT_FOUND)
        name = body.get("model", model.name)
        if name != model.name:
            known = ", ".join(map(repr, self.models()))
            message = f"model {name!r} is not the {kind} served here; known are {known}"
            raise Refused(message, param="model", status=HTTPStatus.NOT_FOUND)
        return model

    # In the batcher's thread.

    def _run(self, group: Hashable, items: Sequence[Any]) -> Sequence[Any]:
        rows = filled(items)
        if group == _POOLING:
            assert self.reward is not None
            return self.reward.score(rows, [""] * len(rows)).tolist()[: len(items)]
        assert isinstance(group, Sampling)
        return self._write(group, rows)[: len(items)]

    def _write(self, group: Sampling, items: Sequence[_Prompt]) -> list[list[Completion]]:
        assert self.lm is not None
        return self.lm.complete(
            [item.ids for item in items], jnp.stack([item.key for item in items]),
            num_samples=group.num_samples, max_tokens=group.max_tokens,
            temperature=[item.temperature for item in items], top_k=group.top_k, top_p=group.top_p, min_p=group.min_p,
            stop=group.stop,
        )  # fmt: skip


def _seed_key(seed: int) -> Key[Array, ""]:
    """A key for any 64-bit seed. JAX keeps 32 bits of one, so the others are folded in."""
    low, high = seed % 2**32, (seed >> 32) % 2**32
    key = jax.random.key(low)
    return jax.random.fold_in(key, high) if high else key


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256  # many clients may connect at once; the default is 5

    def __init__(self, address: tuple[str, int], owner: Server):
        super().__init__(address, _Handler)
        self.owner = owner

    def handle_error(self, request: Any, client_address: Any) -> None:
        _log.debug("connection of %s broken", client_address, exc_info=True)  # a client that left


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _SILENCE
    disable_nagle_algorithm = True  # header and body are two writes; delayed acknowledgements would cost 40 ms
    server: _Http  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def _get(self) -> None:
        models = self.server.owner.models()
        if self.path == "/health":
            self._send({})
        elif self.path == "/v1/models":
            self._send(models_answer(models))
        elif (name := self.path.removeprefix("/v1/models/")) in models:
            self._send(model_answer(name, models[name]))
        else:
            raise Refused(f"no such route: GET {self.path}", status=HTTPStatus.NOT_FOUND)

    def _post(self) -> None:
        body, owner = self._body(), self.server.owner
        if self.path == "/pooling":
            self._send(owner.pool(body))
        elif self.path in ("/v1/completions", "/v1/chat/completions"):
            chat = self.path == "/v1/chat/completions"
            request, answer = owner.complete(body, chat=chat)
            if request.stream:
                self._stream(chunks(answer, request, chat=chat))
            else:
                self._send(answer)
        else:
            raise Refused(f"no such route: POST {self.path}", status=HTTPStatus.NOT_FOUND)

    def _answer(self, route: Callable[[], None]) -> None:
        try:
            route()
        except Refused as refused:
            self._send(refused.as_json(), status=refused.status)
        except ValueError as error:  # the model's own word on what it was given
            self._send(Refused(str(error)).as_json(), status=HTTPStatus.BAD_REQUEST)
        except (ConnectionError, TimeoutError):
            raise  # nobody is there to be answered
        except Exception as error:
            _log.exception("%s %s failed", self.command, self.path)
            status = HTTPStatus.INTERNAL_SERVER_ERROR
            self._send(Refused(f"{type(error).__name__}: {error}", status=status).as_json(), status=status)

    def _body(self) -> Mapping[str, Any]:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            self.close_connection = True  # where the body ends is not known
            raise Refused("a Content-Length is wanted", status=HTTPStatus.LENGTH_REQUIRED)
        if int(length) > _LONGEST_BODY:
            self.close_connection = True
            raise Refused(f"a body of at most {_LONGEST_BODY} bytes", status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        content = self.rfile.read(int(length))
        # Also keeps web pages out, which may send only plain text to other sites unasked.
        if self.headers.get_content_type() != "application/json":
            raise Refused("Content-Type must be application/json", status=HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
        try:
            body = json.loads(content)
        except ValueError as error:
            raise Refused(f"the body is not JSON: {error}") from None
        if not isinstance(body, dict):
            raise Refused(f"a JSON object is wanted, got {type(body).__name__}")
        return body

    def _send(self, answer: Mapping[str, Any], *, status: int = HTTPStatus.OK) -> None:
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _stream(self, parts: Any) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")  # which ends the stream
        self.end_headers()
        self.close_connection = True
        for part in parts:
            self.wfile.write(f"data: {json.dumps(part)}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, format: str, *args: Any) -> None:
        _log.info("%s " + format, self.address_string(), *args)
