"""A server on 127.0.0.1 that answers as it is told to, faults among them, and remembers what it was asked."""

import json
import threading
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# A reply is what to do with a request: a handler and the JSON body are given.
Reply = Callable[["Handler", dict[str, Any]], None]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "Faulty"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            place = len(self.server.asked)
            self.server.asked.append((self.path, body, dict(self.headers)))
            script = self.server.script
            reply = script[place] if place < len(script) else self.server.answer
            self.server.busy += 1
            self.server.busiest = max(self.server.busiest, self.server.busy)
        try:
            reply(self, body)
        finally:
            with self.server.lock:
                self.server.busy -= 1

    def send(self, content: bytes, *, status: int = 200, length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


class Faulty(ThreadingHTTPServer):
    """`script`: the replies to the first requests; `answer`: that to all others; `asked`: path, body and headers."""

    daemon_threads = True

    def __init__(self, answer: Reply, script: Sequence[Reply]):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer, self.script = answer, list(script)
        self.asked: list[tuple[str, dict[str, Any], dict[str, str]]] = []
        self.drawn: list[int] = []  # tokens of each answer, where a reply counts them
        self.lock, self.ended = threading.Lock(), threading.Event()
        self.busy = self.busiest = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: object) -> None:
        pass  # a client that gave up


@contextmanager
def serving(*script: Reply, answer: Reply | None = None):
    """A server for a block: `script`, then `answer` (`echo` unless told) for ever."""
    server = Faulty(answer or echo(), script)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()


def choice(body: dict[str, Any], i: int, **changes: Any) -> dict[str, Any]:
    """A choice whose text names the prompt, the sample and the seed."""
    prompt = body.get("prompt", body.get("messages"))
    made: dict[str, Any] = {"index": i, "finish_reason": "stop"}
    text = f"{prompt}|{i}|{body['seed']}"
    if "messages" in body:
        logprobs = {"content": [{"token": "a", "logprob": -0.5}, {"token": "b", "logprob": -0.25}]}
        made |= {"message": {"role": "assistant", "content": text}, "logprobs": logprobs}
    else:
        made |= {"text": text, "logprobs": {"tokens": ["a", "b"], "token_logprobs": [-0.5, -0.25]}}
    return made | changes


def echo(**changes: Any) -> Reply:
    """An answer as asked; `changes` replace fields of every choice."""

    def reply(handler: Handler, body: dict[str, Any]) -> None:
        choices = [choice(body, i, **changes) for i in range(body["n"])]
        usage = {"prompt_tokens": 7, "completion_tokens": 2 * body["n"]}
        handler.send(json.dumps({"id": "x", "choices": choices, "usage": usage}).encode())

    return reply


def status(code: int, message: str = "no", **headers: str) -> Reply:
    """An error in OpenAI's form."""
    content = json.dumps({"error": {"message": message, "type": "error"}}).encode()
    return lambda handler, _: handler.send(content, status=code, **headers)


def hang(handler: Handler, _: dict[str, Any]) -> None:
    """No answer until the server ends."""
    handler.server.ended.wait(20)
    handler.close_connection = True


def cut(handler: Handler, _: dict[str, Any]) -> None:
    """Half of an answer."""
    handler.send(b'{"choices": [', length=500)
    handler.close_connection = True


def reset(handler: Handler, _: dict[str, Any]) -> None:
    """A connection closed without a word."""
    handler.close_connection = True


def malformed(handler: Handler, _: dict[str, Any]) -> None:
    """An answer that is not JSON."""
    handler.send(b'{"choices": [{"text": oops')
