"""Step-wise reward models and verifiers, against full passes over checkpoints that transformers made."""

import json
import shutil
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ppl.lm import GenerativeVerifier, load, load_reward
from ppl.lm.reward import AGGREGATIONS
from tests.lm.toys import write_toy_folder

CHECKPOINTS = Path(__file__).parent / "golden" / "checkpoints"
STEPS = {"separator": "w50", "step_delimiter": " ; "}
PROMPTS, PREFIXES = ["w4 w5", "w6"], ["w7 w8 ; w9", "w10 ; w11 w12 ; w13"]


@cache
def scores(name, ids):
    """Every place's score by one pass over one row."""
    model = load_reward(CHECKPOINTS / name, **STEPS)

    @nnx.jit
    def whole(decoder, row):
        return decoder.scores(decoder.hidden(row, jnp.ones(row.shape, bool))[0])[0]

    return np.asarray(jax.nn.softmax(whole(nnx.merge(model.graph, model.params), jnp.array([ids]))))


@pytest.mark.parametrize("name", ["qwen2-token", "qwen2-prm"])
def test_each_step_is_scored_at_its_separator(name):
    model = load_reward(CHECKPOINTS / name, **STEPS)
    found = model.step_scores(PROMPTS, PREFIXES)
    first = scores(name, (4, 5, 7, 8, 50, 9, 50))
    assert found[0] == pytest.approx(first[[4, 6], 1], abs=1e-5)
    second = scores(name, (6, 10, 50, 11, 12, 50, 13, 50))
    assert found[1] == pytest.approx(second[[2, 5, 7], 1], abs=1e-5)
    for aggregation, join in AGGREGATIONS.items():
        if aggregation != "model":
            got = load_reward(CHECKPOINTS / name, aggregation=aggregation, **STEPS).score(PROMPTS, PREFIXES)
            assert got == pytest.approx([join(steps) for steps in found], abs=1e-6)
    one = load_reward(CHECKPOINTS / name, aggregation="model", separator="w50", step_delimiter="w60")
    assert one.score(["w4 w5"], ["w7 w8 w60 w9"]) == pytest.approx(
        scores(name, (4, 5, 7, 8, 60, 9, 50))[-1:, 1], abs=1e-5
    )


def test_aggregations_by_hand():
    steps = np.array([0.5, 0.25, 0.8])
    assert {name: join(steps) for name, join in AGGREGATIONS.items()} == pytest.approx(
        {"last": 0.8, "min": 0.25, "product": 0.1, "mean": 1.55 / 3, "model": 0.8}
    )
    assert AGGREGATIONS["product"](np.array([0.0, 1.0])) == 0


def judge_folder(folder):
    """A language model with a chat template of user and assistant turns."""
    shutil.copytree(CHECKPOINTS / "qwen2", folder)
    template = (
        "{% for m in messages %}{{ ' w20 ' if m.role == 'user' else ' w21 ' }}{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}{{ ' w21' }}{% endif %}"
    )
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    return folder


def test_a_judge_says_yes_or_no_after_each_step(tmp_path):
    folder = judge_folder(tmp_path / "judge")
    model = load_reward(folder, kind="judge", yes="w30", no="w31", step_delimiter=" ; ")
    found = model.step_scores(["w4 w5"], ["w7 w8 ; w9"])[0]
    lm = load(folder)

    @nnx.jit
    def logits(decoder, row):
        return decoder.logits(decoder.hidden(row, jnp.ones(row.shape, bool))[0])[0, -1]

    decoder = nnx.merge(lm.graph, lm.params)
    asked = [20, 4, 5, 7, 8, 21], [20, 4, 5, 7, 8, 21, 30, 20, 9, 21]  # an earlier step stands as right
    expected = [jax.nn.softmax(logits(decoder, jnp.array([ids]))[jnp.array([31, 30])])[1] for ids in asked]
    assert found == pytest.approx(np.array(expected), abs=1e-5)


def test_what_cannot_score_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match='is a language model and has no score head; kind="judge" takes it for a judge'
    ):
        load_reward(CHECKPOINTS / "qwen2")
    with pytest.raises(ValueError, match="has a score head, got kind='judge'"):
        load_reward(CHECKPOINTS / "qwen2-prm", kind="judge")
    with pytest.raises(ValueError, match="'<extra_0>' is not one token of model 'qwen2-prm'"):
        load_reward(CHECKPOINTS / "qwen2-prm")
    with pytest.raises(ValueError, match="aggregation must be one of last, min, product, mean, model, got 'median'"):
        load_reward(CHECKPOINTS / "qwen2-prm", aggregation="median", **STEPS)
    write_toy_folder(tmp_path, num_labels=3)
    with pytest.raises(ValueError, match="is not a reward model: its score head has 3 labels"):
        load_reward(tmp_path)
    model = load_reward(CHECKPOINTS / "qwen2-prm", **STEPS)
    with pytest.raises(ValueError, match=r"prefixes\[1\] has no step to score, got ' ; '"):
        model.score(["w4", "w4"], ["w5", " ; "])
    with pytest.raises(ValueError, match="separator 'w50' must not be in a text itself: 2 in a solution of 1 steps"):
        model.score(["w4"], ["w5 w50 w6"])
    with pytest.raises(ValueError, match="prompts and prefixes must pair up, got 1 and 2"):
        model.score(["w4"], ["w5", "w6"])
    assert model.step_scores([], []) == []


def test_a_verifier_counts_verdicts_and_what_they_cost(tmp_path):
    lm = load(CHECKPOINTS / "qwen2")
    judge = GenerativeVerifier(lm, "w10 {prompt} w11 {solution} w12", 6, 5, yes="w4", no="w7")
    found = judge.verdicts(["w20", "w21 {solution}".replace("{solution}", "w22")], ["w30", "w31"], 3)
    texts = lm.complete(["w10 w20 w11 w30 w12", "w10 w21 w22 w11 w31 w12"], 3, num_samples=6, max_tokens=5)
    for i, votes in enumerate(texts):
        last = [max((one.text.rfind(word), word) for word in ("w4", "w7")) for one in votes]
        assert found.yes[i] == sum(place >= 0 and word == "w4" for place, word in last)
        assert found.no[i] == sum(place >= 0 and word == "w7" for place, word in last)
    assert found.probability == pytest.approx(0.5 + (found.yes - found.no) / 12)
    spent = found.cost.as_dict()
    assert spent["generated_tokens"] == sum(len(one.tokens) for votes in texts for one in votes)
    assert spent["prompt_tokens"] == 5 + 6
    assert spent["reward_calls"] == 12
    assert judge.score(["w20"], ["w30"]).shape == (1,)
    with pytest.raises(ValueError, match=r"template must hold {solution}, got"):
        GenerativeVerifier(lm, "{prompt}")
    with pytest.raises(ValueError, match="num_votes must be at least 1, got 0"):
        GenerativeVerifier(lm, num_votes=0)
