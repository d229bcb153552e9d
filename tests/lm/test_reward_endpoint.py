"""Reward endpoints: what answers of vLLM's routes mean, and which hold no probability."""

import json

import numpy as np
import pytest

from ppl.lm import EndpointError, RewardEndpoint
from tests.lm.faulty import serving, status


def pooled(*rows, field="data"):
    def reply(handler, body):
        data = [{"index": i, field: rows[i]} for i in reversed(range(len(body["input"])))]
        handler.send(json.dumps({"data": data, "usage": {"prompt_tokens": 9}}).encode())

    return reply


STEPS = [[0.1, 0.9], [0.5, 0.5], [0.2, 0.8]]


@pytest.mark.parametrize(
    ("aggregate", "expected"), [("last", 0.8), ("min", 0.5), ("product", 0.36), ("mean", (0.9 + 0.5 + 0.8) / 3)]
)
def test_steps_of_a_process_reward_are_aggregated(aggregate, expected):
    with serving(answer=pooled(STEPS)) as server, RewardEndpoint(server.url + "/v1", "r", aggregate=aggregate) as judge:
        np.testing.assert_allclose(judge.score(["p "], ["a\n"]), [expected])
    assert server.asked[0][:2] == ("/pooling", {"model": "r", "input": ["p a\n"]})


def test_reward_answers_of_every_shape():
    cases = [
        (pooled([[0.3]]), {}, 0.3),  # a scalar head, a row a step
        (pooled([0.3, 0.7]), {}, 0.7),  # one row for the whole text
        (pooled([0.3, 0.7]), {"label": 0}, 0.3),
        (pooled([[0.0], [2.0]]), {"logits": True}, 1 / (1 + np.exp(-2.0))),
        (pooled([0.25, 0.75], field="probs"), {"route": "classify"}, 0.75),
    ]
    for answer, options, expected in cases:
        with serving(answer=answer) as server, RewardEndpoint(server.url, "r", **options) as judge:
            np.testing.assert_allclose(judge.score(["p"], ["a"]), [expected])
            assert server.asked[0][0] == f"/{options.get('route', 'pooling')}"


def test_equal_texts_are_scored_once_and_in_their_order():
    def by_length(handler, body):
        pooled(*[[[len(text) / 10]] for text in body["input"]])(handler, body)

    with serving(answer=by_length) as server, RewardEndpoint(server.url, "r", batch=2) as judge:
        judged = judge.judge(["p"] * 5, ["a", "bb", "a", "ccc", "dddd"])
        assert judge.score([], []).shape == (0,)
    np.testing.assert_allclose(judged.values, [0.2, 0.3, 0.2, 0.4, 0.5])
    assert judged.tokens == 18
    assert sorted(len(body["input"]) for _, body, _ in server.asked) == [2, 2]


@pytest.mark.parametrize(
    ("answer", "options", "message"),
    [
        (
            pooled([[1.5]]),
            {},
            r"probabilities in \[0, 1\] are wanted, got \[1.5\]; if they are log odds, use logits=True",
        ),
        (pooled([]), {}, r"rows of class probabilities are wanted in 'data', got shape \[0\]; does the text"),
        (
            pooled([[0.1], [0.2]], field="probs"),
            {"route": "classify"},
            "rows of class probabilities are wanted in 'probs'",
        ),
        (pooled("x"), {}, "numbers are wanted in 'data', got 'x'"),
        (pooled([[0.1, 0.9]]), {"label": 2}, "label=2 is not one of 2 classes"),
        (status(404, "no pooling here"), {}, "HTTP 404: no pooling here"),
    ],
)
def test_reward_answers_that_hold_no_probability(answer, options, message):
    with (
        serving(answer=answer) as server,
        RewardEndpoint(server.url, "r", **options) as judge,
        pytest.raises(EndpointError, match=message),
    ):
        judge.score(["p"], ["a"])


def test_bad_reward_arguments_are_named():
    for options, message in [
        ({"route": "score"}, "route must be 'pooling' or 'classify', got 'score'"),
        ({"aggregate": "max"}, "aggregate 'max' is not known; known are last, min, product, mean"),
        ({"batch": 0}, "batch must be at least 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            RewardEndpoint("http://a", "r", **options)
    with pytest.raises(ValueError, match="prompts and prefixes must pair up, got 1 and 2"):
        RewardEndpoint("http://a", "r").score(["p"], ["a", "b"])
