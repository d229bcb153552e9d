"""Steps read one by one, in their frame, against the same solutions read whole."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ppl.lm.chat import ChatTemplate
from ppl.lm.padding import padded
from ppl.lm.reward import AGGREGATIONS, StepRewardModel
from ppl.lm.scoring import read_prompt_scored, score_step, start_scoring, step_slots
from ppl.lm.tokenizer import number_tokenizer
from tests.decode import tiny

WORDS = number_tokenizer(("<mark>", "yes", "no", "user", "bot", "Start:"), max_number=9)
WORDS.add_special_tokens(["<mark>"])  # found without blanks around it
CHAT = ChatTemplate(
    "{% for m in messages %} {{ m.role[:4] | replace('assi', 'bot') }} {{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %} bot{% endif %}"
)
SLOTS = 5
STEPS = [["4 5 \n", "6 \n", "7 8 9 \n"], ["1 \n", "2 3"], ["5"]]


@cache
def model(kind, aggregation="last"):
    labels = 2 if kind.startswith("token") else 0
    made = tiny.decoder(5, labels=labels, sharpness=3.0, vocabulary=WORDS.get_vocab_size(), context=64)
    return StepRewardModel(
        kind, *nnx.split(made), WORDS, made.config, None if kind == "token" else CHAT,
        kind="judge" if kind == "judge" else "token", aggregation=aggregation, step_delimiter="\n",
        separator="<mark>", yes="yes", no="no",
    )  # fmt: skip


def ids(step, finished):
    row = WORDS.encode(step, add_special_tokens=False).ids
    return row + [2] * finished


def read_steps(reward, prompts, steps, *, ends):
    """Log odds [rows, steps] and tokens read, of step lists that are written one after another."""
    heads, frame = reward.frame(prompts)
    head_ids, known = padded(heads, 0)
    most, slots = max(map(len, steps)), step_slots(SLOTS, frame)

    @jax.jit
    def go(params, head, known, tokens, written):
        decoder = nnx.merge(reward.graph, params)
        prefix, log_odds = read_prompt_scored(decoder, head, known, frame)
        scored = start_scoring(decoder, prefix, log_odds, n=1, slots=most * slots)

        def one(scored, inputs):
            t, tokens, written = inputs
            scored, read = score_step(decoder, prefix, scored, tokens[None], written[None], t * slots, frame)
            return scored, (scored.log_odds[0], read[0])

        return jax.lax.scan(one, scored, (jnp.arange(most), tokens, written))[1]

    found, read = [], []
    for head, mask, row, end in zip(head_ids, known, steps, ends, strict=True):
        tokens = np.zeros((most, SLOTS), np.int32)
        written = np.zeros((most, SLOTS), bool)
        for t, step in enumerate(row):
            words = ids(step, end and t == len(row) - 1)
            tokens[t, : len(words)], written[t, : len(words)] = words, True
        log_odds, size = go(reward.params, head, mask, tokens, written)
        found.append(np.asarray(log_odds))
        read.append(np.asarray(size))
    return np.array(found), np.array(read), heads


@pytest.mark.parametrize("kind", ["token", "token in chat", "judge"])
def test_steps_read_one_by_one_score_as_the_whole_does(kind):
    reward = model(kind)
    prompts = ["Start: 1", "Start: 2 3", "Start: 4"]
    expected = reward.step_scores(prompts, ["".join(row) for row in STEPS])
    # The last step's end of the text is as silent as the delimiter; after the end nothing changes.
    found, read, heads = read_steps(reward, prompts, STEPS, ends=[True, True, False])
    for row, scores, size, head, steps, prompt in zip(found, expected, read, heads, STEPS, prompts, strict=True):
        assert jax.nn.sigmoid(row[: len(scores)]) == pytest.approx(scores, abs=1e-5)
        assert np.all(row[len(scores) :] == row[len(scores) - 1])
        assert len(head) + size.sum() == len(reward._read(prompt, [step.strip() for step in steps])[0])


@pytest.mark.parametrize("aggregation", ["last", "min", "product", "mean"])
def test_an_aggregation_goes_on_from_step_to_step(aggregation):
    scores = model("token").step_scores(["Start: 1"], ["".join(STEPS[0])])[0]
    found = read_steps(model("token", aggregation), ["Start: 1"], STEPS[:1], ends=[False])[0][0]
    join = AGGREGATIONS[aggregation]
    assert jax.nn.sigmoid(found) == pytest.approx([join(scores[: t + 1]) for t in range(3)], abs=1e-5)


def test_an_empty_step_is_none_unless_the_text_begins_with_it():
    found, read, _ = read_steps(model("token"), ["Start: 1"], [["4 \n", " \n", "5 \n"]], ends=[False])
    assert read[0].tolist() == [2, 0, 2]
    assert found[0, 0] == found[0, 1] != found[0, 2]
    found, read, _ = read_steps(model("token"), ["Start: 1"], [["", "4 \n"]], ends=[False])
    assert read[0].tolist() == [0, 2]
    found, read, _ = read_steps(model("token"), ["Start: 1"], [[""]], ends=[True])
    assert read[0].tolist() == [1]  # the mark alone
    assert found[0, 0] != 0


def test_what_has_no_steps_is_refused():
    with pytest.raises(ValueError, match='aggregation="model" reads a solution whole'):
        model("token", "model").frame(["Start:"])
