"""Endpoints against a server with injected faults: what is repeated, what is kept, and what is never shown."""

import asyncio
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from email.utils import formatdate
from pathlib import Path

import jax
import pytest

from ppl.lm import Endpoint, EndpointError
from ppl.lm.endpoint import retrying
from tests.lm import faulty
from tests.lm.faulty import cut, echo, hang, malformed, reset, serving, status

ROOT = Path(__file__).resolve().parents[2]
SECRET = "sk-do-not-show-8f3a"


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)


def endpoint(server, **options):
    return Endpoint(server.url, "m", **{"timeout": 5.0, "backoff": 0.01, "retries": 3} | options)


def test_a_request_says_what_was_asked_for():
    with serving() as server, endpoint(server) as asked:
        (pair, other) = asked.complete(
            ["p", [1, 2]],
            0,
            num_samples=2,
            max_tokens=5,
            temperature=0.5,
            top_k=3,
            top_p=0.9,
            min_p=0.1,
            stop=["\n", "x"],
        )
    path, body, headers = min(server.asked, key=lambda one: isinstance(one[1]["prompt"], list))
    assert path == "/v1/completions"
    assert headers["Authorization"] == f"Bearer {SECRET}"
    seed = body.pop("seed")
    assert 0 <= seed < 2**31
    assert body == {
        "model": "m", "prompt": "p", "n": 2, "max_tokens": 5, "temperature": 0.5, "top_k": 3, "top_p": 0.9,
        "min_p": 0.1, "stop": ["\n", "x"], "logprobs": 1, "repetition_penalty": 1.0, "return_token_ids": True,
    }  # fmt: skip
    assert [one.text for one in pair] == [f"p|0|{seed}", f"p|1|{seed}"]
    assert other[0].text.startswith("[1, 2]|0|")
    assert pair[0].log_probs == [-0.5, -0.25]
    assert pair[0].log_proposals is None  # of a law that the server does not tell
    assert pair[0].tokens == []
    assert pair[0].finish == "stop"


def test_defaults_of_a_models_generation_config_are_overridden():
    with serving() as server, endpoint(server) as asked:
        asked.complete(["p"], 0)
    body = server.asked[0][1]
    law = {"temperature": 1.0, "top_k": -1, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
    assert {name: body[name] for name in law} == law


def test_a_server_of_few_fields_gets_few():
    with serving(answer=echo(logprobs=None)) as server, endpoint(server, extensions=False, logprobs=None) as asked:
        ((one,),) = asked.complete(["p"], 0)
        with pytest.raises(ValueError, match="top_k and min_p are fields beyond OpenAI's"):
            asked.complete(["p"], 0, top_k=3)
    assert set(server.asked[0][1]) == {"model", "prompt", "n", "max_tokens", "temperature", "top_p", "seed"}
    assert one.log_probs is one.log_proposals is None


def test_generate_makes_records():
    with serving() as server, endpoint(server) as asked:
        frame = asked.generate(["p", "q"], 3, num_samples=2).frame
    assert frame.problem.tolist() == ["0", "0", "1", "1"]
    assert frame["sample"].tolist() == [0, 1, 0, 1]
    assert frame.text.str.slice(0, 3).tolist() == ["p|0", "p|1", "q|0", "q|1"]
    assert (frame.log_prob == -0.75).all()
    assert (frame.log_proposal == -0.75).all()
    assert (frame.prompt_tokens == 7).all()
    assert (frame.generated_tokens == 2).all()
    assert (frame.seed == 3).all()


def test_chat_sends_conversations():
    messages = [{"role": "user", "content": "hello"}]
    with serving() as server, endpoint(server) as asked:
        ((one, two),) = asked.chat(messages, 0, num_samples=2)
        several = asked.chat([messages, messages], 0)
    path, body, _ = server.asked[0]
    assert path == "/v1/chat/completions"
    assert body["messages"] == messages
    assert body["logprobs"] is True
    assert one.log_probs == [-0.5, -0.25]
    assert one.text != two.text
    assert len(several) == 2


def test_laws_of_the_log_probabilities():
    cases = [  # options of the endpoint, of the call; is the model's law told, the proposal's
        ({}, {}, True, True),
        ({}, {"temperature": 0.7}, True, False),
        ({}, {"top_k": 3}, True, False),
        ({"logprobs": "proposal"}, {}, True, True),
        ({"logprobs": "proposal"}, {"top_p": 0.9}, False, True),
    ]
    with serving() as server:
        for options, call, model, proposal in cases:
            with endpoint(server, **options) as asked:
                ((one,),) = asked.complete(["p"], 0, **call)
            assert (one.log_probs is not None, one.log_proposals is not None) == (model, proposal)
        with endpoint(server) as asked:
            ((one,),) = asked.complete(["p"], 0, temperature=0.0)
        assert one.log_proposals == [0.0, 0.0]


def test_seeds_follow_the_key_and_the_place():
    with serving() as server, endpoint(server) as asked:
        texts = lambda prompts, key: [one[0].text for one in asked.complete(prompts, key)]  # noqa: E731
        three = texts(["p", "p", "p"], 0)
        assert len(set(three)) == 3
        assert texts(["p", "p"], jax.random.key(0)) == three[:2]
        assert texts(["p", "p"], 1) != three[:2]


def test_samples_can_come_in_requests_of_their_own():
    with serving() as server, endpoint(server, max_n=2) as asked:
        (five,) = asked.complete(["p"], 0, num_samples=5)
        frame = asked.generate(["p"], 0, num_samples=5).frame
    assert sorted(body["n"] for _, body, _ in server.asked[:3]) == [1, 2, 2]
    assert len({one.text for one in five}) == 5
    assert (frame.prompt_tokens == 21).all()  # it was read three times


@pytest.mark.parametrize(
    "fault",
    [status(429), status(500), status(503), status(408), cut, malformed, reset],
    ids=["429", "500", "503", "408", "cut", "malformed", "reset"],
)
def test_what_may_pass_is_asked_again(fault):
    with serving(fault, fault) as server, endpoint(server) as asked:
        ((one,),) = asked.complete(["p"], 0)
    assert one.text.startswith("p|0|")
    assert len(server.asked) == 3
    assert server.asked[0][1] == server.asked[2][1]


@pytest.mark.parametrize("date", [False, True])
def test_retry_after_is_waited_for(date):
    when = formatdate(time.time() + 2, usegmt=True) if date else "0.6"
    with serving(status(429, Retry_After=when)) as server, endpoint(server) as asked:
        started = time.monotonic()
        asked.complete(["p"], 0)
        assert time.monotonic() - started > 0.5
    assert len(server.asked) == 2


def test_a_wait_beyond_the_timeout_is_refused():
    with (
        serving(status(429, "slow down", Retry_After="3600")) as server,
        endpoint(server) as asked,
        pytest.raises(EndpointError, match=r"it asks to wait 3600 s, timeout=5: 1. HTTP 429: slow down") as found,
    ):
        asked.complete(["p"], 0)
    assert found.value.status == 429
    assert len(server.asked) == 1


def test_a_server_that_hangs_is_given_up():
    with serving(hang) as server, endpoint(server, timeout=0.3) as asked:
        asked.complete(["p"], 0)
    assert len(server.asked) == 2


def test_a_server_that_drips_is_given_up():
    def drip(handler, _):
        handler.send(b"{", length=1000)
        while not handler.server.ended.wait(0.05):
            handler.wfile.write(b" ")
            handler.wfile.flush()

    with (
        serving(answer=drip) as server,
        endpoint(server, timeout=0.3, retries=0) as asked,
        pytest.raises(EndpointError, match=r"no answer within 0.3 s"),
    ):
        asked.complete(["p"], 0)


def test_the_last_error_says_what_was_tried():
    script = [status(500, "out of\nmemory"), cut, status(503, "busy")]
    with (
        serving(*script) as server,
        endpoint(server, retries=2) as asked,
        pytest.raises(EndpointError) as found,
    ):
        asked.complete(["p"], 0, num_samples=4)
    message = str(found.value)
    assert message.startswith(
        f"POST {server.url}/v1/completions (model 'm', prompt 0 of 1, n=4): failed after 3 attempts: "
        "1. HTTP 500: out of memory; 2. RemoteProtocolError: "
    )
    assert message.endswith("; 3. HTTP 503: busy")
    assert found.value.status == 503
    assert found.value.url == f"{server.url}/v1/completions"
    assert len(found.value.attempts) == 3


def test_nobody_there():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (
        Endpoint(f"http://127.0.0.1:{port}", "m", retries=1, backoff=0.01) as asked,
        pytest.raises(EndpointError, match=r"failed after 2 attempts: 1. ConnectError: .*; 2. ConnectError") as found,
    ):
        asked.complete(["p"], 0)
    assert found.value.status is None


@pytest.mark.parametrize("code", [400, 401, 404, 422])
def test_a_refusal_is_not_asked_again(code):
    with (
        serving(answer=status(code, "max_tokens is too large")) as server,
        endpoint(server) as asked,
        pytest.raises(EndpointError, match=rf"after 1 attempt: 1. HTTP {code}: max_tokens is too large"),
    ):
        asked.complete(["p"], 0)
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logprobs": None}, "choice 0: no logprobs, which were asked for"),
        ({"logprobs": {"token_logprobs": [-1.0, None]}}, "choice 0: logprobs must be natural logs"),
        ({"logprobs": {"token_logprobs": [0.5]}}, "choice 0: logprobs must be natural logs of probabilities, got 0.5"),
        ({"finish_reason": "abort"}, "finish_reason must be 'stop' or 'length' for a whole sample, got 'abort'"),
        ({"text": None}, "choice 0: no text"),
    ],
)
def test_an_answer_that_is_not_as_asked_is_an_error(changes, message):
    with (
        serving(answer=echo(**changes)) as server,
        endpoint(server) as asked,
        pytest.raises(EndpointError, match=message),
    ):
        asked.complete(["p"], 0)
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"usage": {}}, "1 choices are wanted"),
        ({"choices": []}, r"1 choices are wanted \(n=1\), got 0"),
        ({"choices": [faulty.choice({"prompt": "p", "seed": 1}, 0)]}, "usage: prompt_tokens must be a count of tokens"),
        ([], "a JSON object is wanted, got list"),
    ],
)
def test_an_answer_of_another_kind_is_an_error(answer, message):
    content = json.dumps(answer).encode()
    with (
        serving(answer=lambda handler, _: handler.send(content)) as server,
        endpoint(server) as asked,
        pytest.raises(EndpointError, match=message),
    ):
        asked.complete(["p"], 0)


def test_concurrency_is_bounded_over_all_calls():
    def slow(handler, body):
        time.sleep(0.03)
        echo()(handler, body)

    with serving(answer=slow) as server, endpoint(server, concurrency=3) as asked:
        threads = [threading.Thread(target=asked.complete, args=(["p"] * 8, i)) for i in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(server.asked) == 16
    assert server.busiest == 3


def test_it_works_inside_of_a_running_loop():
    async def notebook():
        return asked.complete(["p"], 0)

    with serving() as server, endpoint(server) as asked:
        ((one,),) = asyncio.run(notebook())
        asked.close()
        ((again,),) = asked.complete(["p"], 0)  # a closed endpoint opens anew
    assert one == again


def test_the_journal_asks_only_for_what_is_missing(tmp_path):
    path = tmp_path / "kept" / "paid.jsonl"
    fails = lambda handler, body: (status(400) if body["prompt"] == "p3" else echo())(handler, body)  # noqa: E731
    prompts = [f"p{i}" for i in range(6)] + ["p0"]
    with serving(answer=fails) as server, endpoint(server, journal=path, concurrency=2) as asked:
        with pytest.raises(EndpointError, match="prompt 3 of 7"):
            asked.complete(prompts, 0)
        paid = {body["prompt"] for _, body, _ in server.asked} - {"p3"}
    with serving() as server:
        with endpoint(server, journal=path) as asked:
            everything = asked.complete(prompts, 0)
        assert {body["prompt"] for _, body, _ in server.asked}.isdisjoint(paid - {"p0"})
        assert len(server.asked) == len(prompts) - len(paid)
        with endpoint(server, journal=path) as asked:
            assert asked.complete(prompts, 0) == everything
            assert len(server.asked) == len(prompts) - len(paid)
            asked.complete(prompts[:1], 1)
        assert len(server.asked) == len(prompts) - len(paid) + 1


def test_what_is_under_way_when_another_fails_is_kept(tmp_path):
    def slow(handler, body):
        if body["prompt"] == "bad":
            status(400)(handler, body)
        else:
            time.sleep(0.2)
            echo()(handler, body)

    with serving(answer=slow) as server, endpoint(server, journal=tmp_path / "j", concurrency=3) as asked:
        with pytest.raises(EndpointError, match="prompt 1 of 7"):
            asked.complete(["a", "bad", "b", "c", "d", "e", "f"], 0)
        begun = [body["prompt"] for _, body, _ in server.asked if body["prompt"] != "bad"]
        with endpoint(server, journal=tmp_path / "j") as again:
            assert len(again._client.journal) == len(begun) >= 2
    assert len(begun) < 6  # no other was begun


@pytest.mark.parametrize("torn", [b'{"request": "ab', '{"request": "ä'.encode()[:-1]])
def test_a_torn_line_is_dropped(tmp_path, torn):
    path = tmp_path / "paid.jsonl"
    with serving() as server, endpoint(server, journal=path) as asked:
        first = asked.complete(["p", "q"], 0)
        whole = path.read_bytes()
        path.write_bytes(whole + torn)
        with endpoint(server, journal=path) as again:
            assert again.complete(["p", "q"], 0) == first
            assert len(server.asked) == 2
            again.complete(["r"], 0)
        assert path.read_bytes().startswith(whole)
        with endpoint(server, journal=path) as again:
            assert len(again._client.journal) == 3
        for length in (0, 5):  # a kill in the middle of the first line
            path.write_bytes(whole[:length])
            with endpoint(server, journal=path) as again:
                assert len(again._client.journal) == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"hello\n", "first line is 'hello'"), (b"hello", "not a journal of requests"), (b"\xff\n", "not a journal")],
)
def test_another_file_is_not_taken_for_a_journal(tmp_path, content, message):
    path = tmp_path / "paid.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        Endpoint("http://127.0.0.1:1", "m", journal=path)
    assert path.read_bytes() == content


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "paid.jsonl"
    path.write_text('{"ppl_requests": 1}\n{"request": 3\n')
    with pytest.raises(ValueError, match=r"paid.jsonl, line 2: damaged"):
        Endpoint("http://127.0.0.1:1", "m", journal=path)


def test_a_killed_job_pays_for_nothing_twice(tmp_path):
    code = (
        "import sys; from ppl.lm import Endpoint\n"
        "Endpoint(sys.argv[1], 'm', journal=sys.argv[2], concurrency=2).complete([f'p{i}' for i in range(30)], 0)"
    )
    path = tmp_path / "paid.jsonl"

    def slow(handler, body):
        time.sleep(0.05)
        echo()(handler, body)

    with serving(answer=slow) as server:
        job = subprocess.Popen(
            [sys.executable, "-c", code, server.url, str(path)], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}
        )
        while not path.exists() or path.read_bytes().count(b"\n") < 6:
            time.sleep(0.01)
            assert job.poll() is None
        job.send_signal(signal.SIGKILL)
        job.wait()
        kept = path.read_bytes().count(b"\n") - 1
        server.asked.clear()
        with endpoint(server, journal=path) as asked:
            assert len(asked.complete([f"p{i}" for i in range(30)], 0)) == 30
        assert len(server.asked) == 30 - kept


def test_the_key_is_nowhere_to_be_seen(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    tell = lambda handler, _: status(401, f"bad key {handler.headers['Authorization']}")(handler, _)  # noqa: E731
    path = tmp_path / "paid.jsonl"
    with serving(echo(), status(500, f"key {SECRET}"), answer=tell) as server, endpoint(server, journal=path) as asked:
        asked.complete(["p"], 0)
        with pytest.raises(EndpointError, match=r"1. HTTP 500: key \[API key\]; 2. HTTP 401: bad key") as found:
            asked.complete(["q"], 0)
    shown = [repr(asked), repr(vars(asked)), repr(vars(asked._client)), str(found.value), repr(found.value)]
    shown += [path.read_text(), caplog.text, repr(found.value.__cause__), repr(found.value.__context__)]
    assert SECRET not in " ".join(shown)
    assert "Authorization" in server.asked[0][2]


def test_an_unusable_key_is_named_by_its_variable(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "line\nbreak")
    with pytest.raises(ValueError, match="environment variable OPENAI_API_KEY: an API key of printable ASCII") as found:
        Endpoint("http://127.0.0.1:1", "m").complete(["p"], 0)
    assert "break" not in str(found.value)


def test_no_key_is_no_header(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    with serving() as server, endpoint(server) as asked, endpoint(server, api_key_env=None) as bare:
        asked.complete(["p"], 0)
        bare.complete(["p"], 0)
    assert all("Authorization" not in headers for _, _, headers in server.asked)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "ftp://a"}, r"url must be http\(s\)://host"),
        ({"url": "http://user:secret@a"}, "url must have no user"),
        ({"url": "http://a/v1?key=secret"}, "url must have no user"),
        ({"concurrency": 0}, "concurrency must be at least 1 request at a time, got 0"),
        ({"timeout": 0.0}, "timeout must be above 0 seconds and finite, got 0.0"),
        ({"retries": -1}, "retries must not be negative, got -1"),
        ({"backoff": -1.0}, "backoff must be at least 0"),
        ({"logprobs": "raw"}, "logprobs must be 'model', 'proposal' or None, got 'raw'"),
        ({"max_n": 0}, "max_n must be at least 1"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message) as found:
        Endpoint(**{"url": "http://a", "model": "m"} | options)
    assert "secret" not in str(found.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": 0}, "num_samples must be at least 1, got 0"),
        ({"max_tokens": 0}, "max_tokens must be at least 1, got 0"),
        ({"temperature": -0.1}, "temperature must be at least 0 and finite, got -0.1"),
        ({"top_k": 0}, "top_k must be at least 1, got 0"),
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\], got 0.0"),
        ({"min_p": 1.5}, r"min_p must be in \[0, 1\], got 1.5"),
    ],
)
def test_bad_sampling_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Endpoint("http://127.0.0.1:1", "m").complete(["p"], 0, **options)


def test_no_prompts_no_requests():
    with serving() as server, endpoint(server) as asked:
        assert asked.complete([], 0) == []
        assert len(asked.generate([], 0)) == 0
    assert server.asked == []


def test_delays_grow_with_jitter_and_follow_the_server():
    for attempt, longest in [(0, 0.5), (1, 1.0), (3, 4.0), (30, 60.0), (2000, 60.0)]:
        waits = [retrying.delay(attempt, 0.5, None) for _ in range(50)]
        assert longest / 2 <= min(waits) < max(waits) <= longest
    assert retrying.delay(0, 0.5, 7.0) == 7.0
    assert retrying.retry_after({"retry-after": "2.5"}) == 2.5
    assert retrying.retry_after({"retry-after": formatdate(time.time() - 9, usegmt=True)}) == 0.0
    assert retrying.retry_after({"retry-after": "soon"}) is None
    assert retrying.retry_after({}) is None
