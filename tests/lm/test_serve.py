"""The server: its protocol by hand, with our own endpoint, and with the public client."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.client import HTTPConnection
from itertools import chain

import numpy as np
import openai
import pytest
from flax import nnx

from ppl.cli import main
from ppl.lm import Endpoint, EndpointError, LanguageModel, RewardEndpoint, RewardModel
from ppl.lm.serve import Server
from ppl.lm.serve.batching import Batcher
from tests.lm.toys import TOKENIZER, toy_config, toy_decoder
from tests.lm.writers import Fake

PROMPT = "Numbers: 1 2"


@pytest.fixture(scope="module")
def models():
    lm = LanguageModel("toy", *nnx.split(toy_decoder()), TOKENIZER, toy_config())
    reward = RewardModel("toy-prm", *nnx.split(toy_decoder(1, num_labels=1)), TOKENIZER, toy_config(num_labels=1))
    return lm, reward


@pytest.fixture(scope="module")
def pair(models):
    with Server(models[0], models[1], port=0) as server:
        yield server


@pytest.fixture
def fake():
    with Server(Fake(), port=0) as server:
        yield server


def ask(server, method, path, body=None, **headers):
    host, port = server.url.removeprefix("http://").removesuffix("/v1").split(":")
    connection = HTTPConnection(host, int(port), timeout=10)
    content = body if isinstance(body, bytes | None) else json.dumps(body)
    connection.request(method, path, content, {"Content-Type": "application/json"} | headers)
    response = connection.getresponse()
    answer = response.read().decode()
    connection.close()
    return response.status, answer if "event-stream" in response.headers["Content-Type"] else json.loads(answer)


def post(server, body, path="/v1/completions"):
    return ask(server, "POST", path, body)


def test_models_are_listed(pair):
    status, answer = ask(pair, "GET", "/v1/models")
    assert status == 200
    assert [(one["id"], one["max_model_len"]) for one in answer["data"]] == [("toy", 64), ("toy-prm", None)]
    assert ask(pair, "GET", "/v1/models/toy")[1]["id"] == "toy"
    assert ask(pair, "GET", "/health") == (200, {})


def test_an_endpoint_reads_what_the_model_wrote(pair, models):
    lm, prompts = models[0], [PROMPT, "Target: 3"]
    with Endpoint(pair.url, "toy") as endpoint:
        ask = partial(endpoint.complete, num_samples=3, max_tokens=6, temperature=0.8)
        found, again, alone, other = ask(prompts, 0), ask(prompts, 0), ask(prompts[:1], 0), ask(prompts[:1], 1)
    for one, same in zip([*chain(*found), *found[0]], [*chain(*again), *alone[0]], strict=True):
        assert one._replace(log_probs=None) == same._replace(log_probs=None)
        # Which requests become one batch hangs on when they arrive, and the last digit on the batch.
        np.testing.assert_allclose(one.log_probs, same.log_probs, atol=1e-5)
    assert [one.tokens for one in other[0]] != [one.tokens for one in found[0]]
    assert len({tuple(one.tokens) for one in found[0]}) > 1
    for prompt, completions in zip(prompts, found, strict=True):
        for one in completions:
            ids, rows = lm.encode(prompt), np.zeros((1, 16), int)
            rows[0, : len(ids) + len(one.tokens)] = ids + one.tokens  # what comes later changes nothing before
            exact = np.asarray(lm.log_probs(rows))[0, len(ids) - 1 :][: len(one.tokens)]
            np.testing.assert_allclose(one.log_probs, exact, atol=1e-4)
            assert prompt + one.text == lm.decode(lm.encode(prompt) + one.tokens)
            assert one.log_proposals is None


def test_records_of_an_endpoint(fake):
    with Endpoint(fake.url, "fake") as endpoint:
        frame = endpoint.generate([PROMPT], 0, num_samples=4, max_tokens=5).frame
    assert (frame.prompt_tokens == 4).all()
    assert (frame.generated_tokens == 5).all()
    assert (frame.log_prob == -2.5).all()
    assert (frame.log_proposal == -2.5).all()  # temperature 1, no cut


def test_token_ids_go_in_and_come_out(fake):
    with Endpoint(fake.url, "fake") as endpoint:
        (answer,) = endpoint.ask([PROMPT], 0, num_samples=1, max_tokens=4, temperature=1.0)
        (by_ids,) = endpoint.ask([answer.prompt_ids], 0, num_samples=1, max_tokens=4, temperature=1.0)
    assert answer.prompt_ids == fake.lm.encode(PROMPT)
    assert by_ids == answer


def test_a_reward_endpoint_scores_as_the_model(pair, models):
    _, reward = models
    prompts, prefixes = [PROMPT + " \n"] * 3, ["1 + 2 = 3 \n", "1 - 2 \n", "1 + 2 = 3 </s>"]
    with RewardEndpoint(pair.url, "toy-prm") as endpoint:
        judged = endpoint.judge(prompts, prefixes)
    np.testing.assert_allclose(judged.values, reward.score(prompts, prefixes), atol=1e-6)
    assert judged.tokens == sum(len(reward.encode(a + b)) for a, b in zip(prompts, prefixes, strict=True))


def test_the_public_client_completes(fake):
    with openai.OpenAI(base_url=fake.url, api_key="none", max_retries=0) as client:
        answer = client.completions.create(model="fake", prompt=[PROMPT, PROMPT], n=2, max_tokens=4, logprobs=1, seed=7)
        assert [one.id for one in client.models.list()] == ["fake"]
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert answer.usage.prompt_tokens == 8
    counts = [len(choice.logprobs.token_logprobs) for choice in answer.choices]
    assert answer.usage.completion_tokens == sum(counts)
    assert all(len(choice.logprobs.tokens) == num for choice, num in zip(answer.choices, counts, strict=True))
    assert {choice.finish_reason for choice in answer.choices} <= {"stop", "length"}


def test_the_public_client_chats_and_streams(fake):
    messages = [{"role": "user", "content": "Numbers:"}]
    with openai.OpenAI(base_url=fake.url, api_key="none", max_retries=0) as client:
        asked = {"model": "fake", "messages": messages, "max_completion_tokens": 5, "seed": 3, "n": 2}
        answer = client.chat.completions.create(**asked, logprobs=True)
        stream = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
        plain = client.completions.create(model="fake", prompt=PROMPT, max_tokens=5, seed=3)
        pieces = list(client.completions.create(model="fake", prompt=PROMPT, max_tokens=5, seed=3, stream=True))
    assert [one.logprob for one in answer.choices[0].logprobs.content] == [-0.5] * 5
    texts = [choice.message.content for choice in answer.choices]
    assert [chunk.choices[0].delta.content for chunk in stream[:-1]] == texts
    assert stream[-1].usage == answer.usage
    assert "".join(piece.choices[0].text for piece in pieces) == plain.choices[0].text
    # The template wrote the start token; it is not put there twice.
    assert fake.lm.calls[0]["prompts"][0] == [1, TOKENIZER.token_to_id("Numbers:")]


@pytest.mark.parametrize("keep", [False, True])
def test_stop_strings_end_texts(fake, keep):
    body = {"model": "fake", "prompt": PROMPT, "max_tokens": 20, "seed": 1, "stop": ["=", "left:"], "n": 8}
    choices = post(fake, body | {"include_stop_str_in_output": keep, "return_token_ids": True})[1]["choices"]
    for choice in choices:
        whole = fake.lm.decode(choice["token_ids"])
        assert choice["finish_reason"] == "stop"
        assert choice["stop_reason"] in ("=", "left:")
        assert whole.endswith(choice["stop_reason"])
        # What follows a prompt begins with the blank between them.
        assert choice["text"] == " " + (whole if keep else whole.removesuffix(choice["stop_reason"]))
    assert fake.lm.calls[0]["stop"] == ("=", "left:")


def test_sampling_fields_reach_the_model(fake):
    body = {"model": "fake", "prompt": [[1, 5], [1, 6]], "n": 3, "max_tokens": 4, "temperature": 0.5, "top_k": 2}
    post(fake, body | {"top_p": 0.9, "min_p": 0.1})
    post(fake, body | {"top_k": -1, "top_p": 1.0, "min_p": 0.0, "user": "me"})
    first, second = fake.lm.calls
    # Each sample is a row, and the last ones fill up a power of two.
    rows = [[1, 5]] * 3 + [[1, 6]] * 3 + [[1, 5]] * 2
    wanted = {"prompts": rows, "n": 1, "max_tokens": 4, "temperature": [0.5] * 8, "stop": ()}
    assert first == wanted | {"top_k": 2, "top_p": 0.9, "min_p": 0.1}
    assert second == wanted | {"top_k": None, "top_p": None, "min_p": None}


def test_a_long_prompt_is_read_once_for_all_samples(fake, monkeypatch):
    body = {"model": "fake", "prompt": PROMPT, "n": 3, "max_tokens": 4, "seed": 1}
    apart = post(fake, body)[1]
    monkeypatch.setattr("ppl.lm.serve.server._REREAD", 10)
    once = post(fake, body)[1]
    assert [(len(call["prompts"]), call["n"]) for call in fake.lm.calls] == [(4, 1), (1, 3)]
    assert len(once["choices"]) == len(apart["choices"]) == 3
    assert once["usage"] == apart["usage"]


def test_max_tokens_have_openais_defaults(fake):
    post(fake, {"model": "fake", "prompt": PROMPT})
    chat = {"model": "fake", "messages": [{"role": "user", "content": PROMPT}]}
    post(fake, chat, "/v1/chat/completions")
    assert [call["max_tokens"] for call in fake.lm.calls] == [16, 64 - 4]


def test_a_result_hangs_on_its_seed_and_not_on_its_batch(fake):
    bodies = [{"model": "fake", "prompt": PROMPT, "max_tokens": 6, "seed": 2**40 + i, "n": 2} for i in range(9)]
    texts = lambda answer: [choice["text"] for choice in answer[1]["choices"]]  # noqa: E731
    alone = [texts(post(fake, body)) for body in bodies]
    fake.lm.calls.clear()
    with ThreadPoolExecutor(9) as pool:
        together = [texts(answer) for answer in pool.map(lambda body: post(fake, body), bodies)]
    assert together == alone
    assert len({tuple(one) for one in alone}) == 9
    unseeded = {k: v for k, v in bodies[0].items() if k != "seed"}
    assert texts(post(fake, unseeded)) != texts(post(fake, unseeded))
    assert texts(post(fake, bodies[0] | {"seed": 0})) != texts(post(fake, bodies[0] | {"seed": 2**32}))


def test_what_arrives_together_is_one_batch():
    started, release = threading.Event(), threading.Event()

    def hold():
        started.set()
        release.wait(5)

    lm = Fake(hold)
    body = {"model": "fake", "prompt": PROMPT, "max_tokens": 3}
    with Server(lm, port=0, wait=0.2) as server, ThreadPoolExecutor(8) as pool:
        first = pool.submit(post, server, body)
        started.wait(5)  # while the model is busy, these come
        others = [pool.submit(post, server, body | {"temperature": i / 5}) for i in range(5)]
        odd = pool.submit(post, server, body | {"max_tokens": 4})
        bad = pool.submit(post, server, body | {"prompt": [1, 4]})  # ends with a newline, and fails alone
        threading.Timer(0.1, release.set).start()
        assert all(one.result()[0] == 200 for one in [first, *others, odd])
        assert bad.result()[0] == 400
    sizes = [(len(call["prompts"]), call["max_tokens"]) for call in lm.calls]
    assert sizes[0] == (1, 3)
    assert (8, 3) in sizes  # six, filled up to a power of two
    assert (1, 4) in sizes


@pytest.mark.parametrize(
    ("changes", "status", "param", "message"),
    [
        ({"model": "gpt"}, 404, "model", "model 'gpt' is not the language model served here; known are 'fake'"),
        ({"prompt": 3}, 400, "prompt", "prompt must be a text"),
        ({"prompt": [[]]}, 400, "prompt", "prompt must be a text"),
        ({"prompt": "bad"}, 400, None, "'bad' is not in the model's vocabulary"),
        ({"n": 0}, 400, "n", "n must be a whole number in 1..4096, got 0"),
        ({"n": True}, 400, "n", "n must be a whole number"),
        ({"max_tokens": 0}, 400, "max_tokens", "max_tokens must be a whole number of at least 1, got 0"),
        ({"max_tokens": 100}, 400, "max_tokens", "max_tokens=100 and 4 tokens of the prompt are more than the 64"),
        ({"temperature": -1}, 400, "temperature", "temperature must be a number of at least 0, got -1"),
        ({"top_p": 0}, 400, "top_p", r"top_p must be in (0, 1], got 0"),
        ({"min_p": 2}, 400, "min_p", "min_p must be a number in 0..1, got 2"),
        ({"stop": ""}, 400, "stop", "stop must be a text or a list of texts, none empty"),
        ({"stop": [""]}, 400, "stop", "stop must be a text or a list of texts, none empty"),
        ({"seed": 1.5}, 400, "seed", "seed must be a whole number"),
        ({"logprobs": 5}, 400, "logprobs", "logprobs must be 0 or 1"),
        ({"stream": "yes"}, 400, "stream", "stream must be true or false"),
        ({"presence_penalty": 0.5}, 400, "presence_penalty", "presence_penalty is not supported, got 0.5"),
        ({"echo": True}, 400, "echo", "echo is not supported"),
    ],
)
def test_bad_requests_are_refused_in_openais_form(fake, changes, status, param, message):
    got, answer = post(fake, {"model": "fake", "prompt": PROMPT} | changes)
    assert got == status
    assert answer["error"]["param"] == param
    assert message in answer["error"]["message"]
    assert answer["error"]["type"] == "invalid_request_error"


def test_bad_messages_and_routes_are_refused(fake, pair):
    for server, method, path, body, status, message in [
        (fake, "POST", "/v1/chat/completions", {"model": "fake", "messages": []}, 400, "messages must be a list"),
        (
            pair,
            "POST",
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "1"}]},
            400,
            "no chat template",
        ),
        (fake, "POST", "/pooling", {"model": "fake", "input": "1"}, 404, "no reward model is served here"),
        (pair, "POST", "/pooling", {"model": "toy", "input": "1"}, 404, "'toy' is not the reward model served here"),
        (pair, "POST", "/pooling", {"model": "toy-prm", "input": [1]}, 400, "input must be a text"),
        (fake, "POST", "/v1/embeddings", {}, 404, "no such route: POST /v1/embeddings"),
        (fake, "GET", "/v1/models/x", None, 404, "no such route"),
        (fake, "POST", "/v1/completions", b"{", 400, "the body is not JSON"),
        (fake, "POST", "/v1/completions", b"[]", 400, "a JSON object is wanted, got list"),
    ]:
        got, answer = ask(server, method, path, body)
        assert got == status
        assert message in answer["error"]["message"]
    assert ask(fake, "POST", "/v1/completions", {}, **{"Content-Type": "text/plain"})[0] == 415
    with (
        openai.OpenAI(base_url=fake.url, api_key="none", max_retries=0) as client,
        pytest.raises(openai.NotFoundError, match="known are 'fake'"),
    ):
        client.completions.create(model="gpt", prompt=PROMPT)
    with (
        Endpoint(fake.url, "fake") as endpoint,
        pytest.raises(EndpointError, match="after 1 attempt.*HTTP 400: .*'bad'"),
    ):
        endpoint.complete(["bad"], 0)


def test_a_failure_of_the_model_is_a_500():
    def broken():
        raise RuntimeError("out of memory")

    with Server(Fake(broken), port=0) as server:
        status, answer = post(server, {"model": "fake", "prompt": PROMPT})
    assert status == 500
    assert answer["error"]["type"] == "server_error"
    assert "out of memory" in answer["error"]["message"]


def test_a_server_needs_a_model():
    with pytest.raises(ValueError, match="a server needs a language model or a reward model, got neither"):
        Server(None, port=0)


def test_a_closed_batcher_refuses_who_waits():
    busy, go = threading.Event(), threading.Event()

    def run(group, items):
        busy.set()
        go.wait(5)
        return items

    batcher = Batcher(run, wait=0.0, most=4)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(batcher.submit, "a", [1, 2])
        busy.wait(5)
        second = pool.submit(batcher.submit, "a", [3])
        closing = threading.Timer(0.05, batcher.close)
        closing.start()
        threading.Timer(0.1, go.set).start()
        assert first.result(5) == [1, 2]
        with pytest.raises(RuntimeError, match="the server is closing"):
            second.result(5)
        closing.join()


def test_the_command_serves_a_model_and_says_where(monkeypatch, capsys):
    answers = []

    def run(server):
        with server:
            answers.append(post(server, {"model": "fake", "prompt": PROMPT, "max_tokens": 2}))

    monkeypatch.setattr("ppl.lm.load", lambda name: {"one": Fake()}[name])
    monkeypatch.setattr(Server, "run", run)
    monkeypatch.setattr("sys.argv", ["ppl", "serve", "one", "--port", "0", "--reward", "countdown-prm"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    assert answers[0][0] == 200
    assert capsys.readouterr().out.startswith("serving fake, countdown-prm at http://127.0.0.1:")


def test_a_taken_port_is_one_line(fake, monkeypatch, capsys):
    monkeypatch.setattr("ppl.lm.load", lambda name: Fake())
    monkeypatch.setattr("sys.argv", ["ppl", "serve", "one", "--port", fake.url.split(":")[-1].removesuffix("/v1")])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert "Address already in use" in capsys.readouterr().err
