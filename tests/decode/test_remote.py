"""Decoding over endpoints: the target of each filter by enumeration, and every method against a served model."""

import itertools
import json
import math
from collections import Counter

import jax
import numpy as np
import pandas as pd
import pytest

from ppl import decode
from ppl.decode import METHODS, Cut, Options, remote, run_methods
from ppl.decode.engine import Settings
from ppl.decode.targets import TARGETS
from ppl.lm import Endpoint, RewardEndpoint
from ppl.lm.serve import Server
from ppl.smc import Policy
from tests.decode.toys import Primes, models
from tests.lm.faulty import serving

# A language of two words, a step's end and the text's end: probabilities of the next, given the last.
WORDS, END = ("a", "b", "\n"), "."
LAW = {"": (0.4, 0.4, 0.1, 0.1), "a": (0.2, 0.3, 0.3, 0.2), "b": (0.5, 0.1, 0.3, 0.1), "\n": (0.3, 0.5, 0.0, 0.2)}
STEPS, TOKENS = 3, 2
SETTINGS = Settings(16, STEPS, TOKENS, policy=Policy("always", "multinomial"))


def next_words(prefix):
    return dict(zip([*WORDS, END], LAW[prefix[-1:]], strict=True))


def right(text):
    """P(right) of a text by the reward model; the end of the text is a word to it."""
    return 0.1 + 0.8 * ((3 * text.count("a") + 5 * text.count("b\n") + 7 * text.count(END)) % 8) / 8


def one_step(prefix, rng):
    """A step after a prefix: text with its end, log-probabilities, and why it ended."""
    text, logs = "", []
    for _ in range(TOKENS):
        law = next_words(prefix + text)
        word = rng.choice(list(law), p=list(law.values()))
        logs.append(math.log(law[word]))
        if word == END:
            return text, logs, "stop", None
        text += word
        if word == "\n":
            return text, logs, "stop", "\n"
    return text, logs, "length", None


def server_of_the_language(*, ids, keep):
    """`ids`: tell and take token ids (of letters); `keep`: know `include_stop_str_in_output`."""

    def reply(handler, body):
        if handler.path == "/pooling":
            data = [{"index": i, "data": [[right(text.removeprefix("p:"))]]} for i, text in enumerate(body["input"])]
            return handler.send(
                json.dumps({"data": data, "usage": {"prompt_tokens": len("".join(body["input"]))}}).encode()
            )
        prompt = body["prompt"] if isinstance(body["prompt"], str) else "".join(map(chr, body["prompt"]))
        assert isinstance(body["prompt"], str) or ids
        assert prompt.startswith("p:")
        rng, choices, total = np.random.default_rng(body["seed"]), [], 0
        for i in range(body["n"]):
            text, logs, finish, stopped_by = one_step(prompt.removeprefix("p:"), rng)
            total += len(logs)
            choice = {"index": i, "finish_reason": finish, "stop_reason": stopped_by}
            choice |= {"text": text if keep else text.removesuffix("\n"), "logprobs": {"token_logprobs": logs}}
            if ids:
                choice |= {"token_ids": [*map(ord, text)], "prompt_token_ids": [*map(ord, prompt)]}
            choices.append(choice)
        handler.server.drawn.append(total)
        usage = {"prompt_tokens": len(prompt), "completion_tokens": total}
        return handler.send(json.dumps({"choices": choices, "usage": usage}).encode())

    return serving(answer=reply)


def every_text():
    """Every text with its steps' rewards, its log-probability, and whether it ended by itself."""
    done, open_ = [], [("", [], 0.0)]
    for _ in range(STEPS):
        grown = []
        for prefix, rewards, log_prob in open_:
            for words in itertools.chain.from_iterable(
                itertools.product([*WORDS, END], repeat=size) for size in range(1, TOKENS + 1)
            ):
                if any(word in (END, "\n") for word in words[:-1]):
                    continue
                if len(words) < TOKENS and words[-1] not in (END, "\n"):
                    continue
                total = log_prob
                for i, word in enumerate(words):
                    p = next_words(prefix + "".join(words[:i]))[word]
                    total += math.log(p) if p else -math.inf
                if total == -math.inf:
                    continue
                ended, text = words[-1] == END, prefix + "".join(words).removesuffix(END)
                rewards_now = [*rewards, right(text + END * ended)]
                (done if ended else grown).append((text, rewards_now, total))
        open_ = grown
    return [(*one, True) for one in done] + [(*one, False) for one in open_]


def weight(target, rewards):
    """The unnormalised target over the language's own law."""
    return {
        "final_reward": rewards[-1], "product": math.prod(rewards), "odds": math.prod(r / (1 - r) for r in rewards)
    }[target]  # fmt: skip


@pytest.mark.parametrize(
    ("target", "ids", "keep"),
    [
        ("final_reward", True, True),
        ("product", False, True),
        pytest.param("odds", False, False, marks=pytest.mark.calibration),
    ],
)
def test_the_filter_hits_its_target(target, ids, keep):
    runs = 24
    settings = SETTINGS.__class__(**{**vars(SETTINGS), "target": target})
    with (
        server_of_the_language(ids=ids, keep=keep) as server,
        Endpoint(server.url, "m") as lm,
        RewardEndpoint(server.url, "r", end_of_text=END) as reward,
    ):
        keys = jax.random.split(jax.random.key(3), runs)
        out = remote.decode(lm, reward, ["p:"] * runs, keys, settings)
    texts = every_text()
    assert sum(math.exp(log_prob) for _, _, log_prob, _ in texts) == pytest.approx(1)
    exact = Counter()
    for text, rewards, log_prob, ended in texts:
        exact[text, ended] += math.exp(log_prob) * weight(target, rewards)
    total = sum(exact.values())
    evidence = np.exp(out.log_evidence.astype(float))
    # Unbiased on the scale of Z. 4 standard errors of the mean of 24 runs; the keys are fixed, and so are the seeds.
    assert abs(evidence.mean() - total) < 4 * evidence.std() / math.sqrt(runs)
    assert evidence.std() / evidence.mean() < 0.5
    # And so is the sum of weights that a set of texts gets in a run, with the run's evidence.
    weights = np.exp(out.log_weights.astype(float)) / SETTINGS.num_particles * evidence[:, None]
    for ended in (True, False):
        for last in ("a", "b", "\n"):
            hit = [[t[-1:] == last and e == ended for t, e in zip(*row, strict=True)]
                   for row in zip(out.texts, out.finished, strict=True)]  # fmt: skip
            found = (weights * np.asarray(hit)).sum(axis=1)
            wanted = sum(mass for (text, end), mass in exact.items() if text[-1:] == last and end == ended)
            assert abs(found.mean() - wanted) < 4.5 * found.std() / math.sqrt(runs) + 1e-6
    by_text = {text: (log_prob, rewards) for text, rewards, log_prob, ended in texts if not ended}
    for row, ends, logs, rewards in zip(out.texts, out.finished, out.log_prob, out.reward_trace, strict=True):
        for text, ended, log_prob, trace in zip(row, ends, logs, rewards, strict=True):
            if not ended and text.count("\n") == STEPS:  # cut in one way
                assert log_prob == pytest.approx(by_text[text][0], abs=1e-5)
                np.testing.assert_allclose(trace, by_text[text][1], rtol=1e-4)


def test_costs_are_what_the_server_counted():
    settings = SETTINGS.__class__(**{**vars(SETTINGS), "target": "product"})
    with (
        server_of_the_language(ids=True, keep=True) as server,
        Endpoint(server.url, "m") as lm,
        RewardEndpoint(server.url, "r", end_of_text=END) as reward,
    ):
        out = remote.decode(lm, reward, ["p:"], jax.random.split(jax.random.key(0), 1), settings)
        bodies = [body for path, body, _ in server.asked if path != "/pooling"]
        judged = [body["input"] for path, body, _ in server.asked if path == "/pooling"]
    assert out.cost.prompt_tokens.tolist() == [sum(len(body["prompt"]) for body in bodies)]
    assert out.cost.reward_tokens.tolist() == [len("".join(itertools.chain.from_iterable(judged)))]
    assert out.cost.generated_tokens.tolist() == [sum(server.drawn)]  # what resampling dropped was drawn, too
    # The first step is one request for all; texts that agree later are one request, too.
    assert bodies[0]["n"] == settings.num_particles
    prompts = [tuple(body["prompt"]) for body in bodies[1:]]
    assert len(prompts) < 2 * settings.num_particles
    assert out.cost.reward_calls[0] == sum(body["n"] for body in bodies)


@pytest.mark.parametrize(("values", "outcome"), [([0.0], "dead"), ([1.0], "sure")])
def test_certain_rewards(values, outcome):
    def judge(handler, body):
        data = [{"index": i, "data": [values]} for i in range(len(body["input"]))]
        handler.send(json.dumps({"data": data, "usage": {"prompt_tokens": 1}}).encode())

    with (
        server_of_the_language(ids=True, keep=True) as server,
        serving(answer=judge) as judging,
        Endpoint(server.url, "m") as lm,
        RewardEndpoint(judging.url, "r") as reward,
    ):
        for target in TARGETS:
            server.asked.clear()
            settings = SETTINGS.__class__(**{**vars(SETTINGS), "target": target})
            out = remote.decode(lm, reward, ["p:"], jax.random.split(jax.random.key(0), 1), settings)
            if outcome == "dead":
                assert np.isneginf(out.log_evidence[0])
                assert len(server.asked) == 1  # the dead are not continued
            elif target == "odds":
                assert out.log_evidence[0] > 16
            else:
                assert out.log_evidence[0] == pytest.approx(0, abs=1e-5)


@pytest.fixture(scope="module")
def served():
    lm, reward = models()
    with (
        Server(lm, reward, port=0) as server,
        Endpoint(server.url, "tiny") as endpoint,
        RewardEndpoint(server.url, "tiny-prm", end_of_text=" </s>") as judge,
    ):
        yield endpoint, judge


class Spaced(Primes):
    """`Primes`, whose texts are what follows a prompt, the blank between them included."""

    def answer(self, problem, text):
        return super().answer(problem, text.lstrip(" "))


TASK, OPTIONS = Spaced(), Options(4, policy=Policy("always"))
NAMES = [name for name, method in METHODS.items() if not method.power]


@pytest.fixture(scope="module")
def everything(served):
    return run_methods(*served, TASK, 0, NAMES, options=OPTIONS, num_problems=3)


def test_every_method_runs_on_endpoints(everything):
    assert everything.answers.method.unique().tolist() == NAMES
    assert (everything.answers.groupby("method").problem.nunique() == 3).all()
    filtered = everything.answers[everything.answers.method.str.startswith("particle_filter")]
    assert np.isfinite(filtered.log_evidence).all()
    assert (filtered.ess <= OPTIONS.budget).all()
    frame = everything.records.frame
    assert frame.reward.between(0, 1).all()
    assert (frame.log_prob == frame.log_proposal).all()  # at temperature 1 without cuts they are one
    assert (frame.generated_tokens <= TASK.max_steps * TASK.max_step_tokens).all()
    assert everything.ledger.reward_tokens > everything.ledger.reward_calls > 0
    assert len(everything.summary()) == len(NAMES)


def test_one_call_does_it(served, everything):
    lm, reward = served
    of = lambda found, name: found.answers[found.answers.method == name].drop(columns="seconds").reset_index(drop=True)  # noqa: E731
    one = {"budget": 4, "num_problems": 3}
    for found, name in [
        (decode.sample(lm, TASK, 0, **one), "sample"),
        (decode.majority(lm, TASK, 0, **one), "majority"),
        (decode.best_of_n(lm, reward, TASK, 0, **one), "best_of_n"),
        (decode.particle_filter(lm, reward, TASK, 0, policy=OPTIONS.policy, **one), "particle_filter"),
    ]:
        pd.testing.assert_frame_equal(of(found, name), of(everything, name))


def test_texts_are_a_local_models(served, everything):
    """Log-probabilities of texts without special tokens, and rewards of finished ones, by the models themselves."""
    lm, reward = models()
    seen = 0
    for row in everything.records.frame.itertuples():
        start, whole = lm.encode(row.prompt), lm.encode(row.prompt + row.text)
        rows = np.zeros((1, 24), int)
        if len(whole) - len(start) == row.generated_tokens:  # as in the local tests: no special token was written
            rows[0, : len(whole)] = whole
            exact = np.asarray(lm.log_probs(rows))[0, len(start) - 1 : len(whole) - 1].sum()
            assert row.log_prob == pytest.approx(exact, abs=1e-4)
            assert row.reward == pytest.approx(reward.score([row.prompt], [row.text])[0], abs=1e-5)
            seen += 1
    assert seen > 5


def test_a_job_over_endpoints_resumes(served, tmp_path):
    lm, reward = served
    arguments = {"methods": ["particle_filter", "majority"], "options": OPTIONS, "num_problems": 3}
    whole = decode.solve(lm, reward, TASK, out=tmp_path, **arguments)
    again = decode.solve(lm, reward, TASK, out=tmp_path, **arguments)
    pd.testing.assert_frame_equal(whole.answers, again.answers)


def test_a_local_reward_model_reads_a_servers_texts(served):
    lm, reward = served
    names = ["best_of_n", "particle_filter"]
    theirs, ours = (
        run_methods(lm, judge, TASK, 0, names, options=OPTIONS, num_problems=3) for judge in (reward, models()[1])
    )
    assert theirs.records.frame.text.equals(ours.records.frame.text)
    np.testing.assert_allclose(theirs.records.frame.reward, ours.records.frame.reward, atol=1e-5)
    assert theirs.ledger.reward_calls == ours.ledger.reward_calls
    assert theirs.ledger.reward_tokens == ours.ledger.reward_tokens


def test_what_a_server_cannot_do_is_refused(served):
    lm, reward = served
    local, _ = models()
    with pytest.raises(ValueError, match="a reward endpoint wants a language model behind an endpoint, too"):
        decode.particle_filter(local, reward, TASK, 0, budget=2, num_problems=1)
    with pytest.raises(ValueError, match="power=4.0 needs both log-probabilities of every token"):
        decode.solve(lm, None, TASK, methods=["power_sampling"], num_problems=1)
    with pytest.raises(ValueError, match="target 'odds' needs a reward model, got None"):
        remote.check(lm, None, Settings(1, 1, 1, target="odds"))


def test_bare_prompts_are_cut_as_told(served):
    found = decode.particle_filter(*served, ["Start: 1 2 \n"], 0, budget=2, cut=Cut(2, 2, "\n"))
    assert found.records.frame.generated_tokens.max() <= 4
    assert (found.records.frame.steps <= 2).all()
