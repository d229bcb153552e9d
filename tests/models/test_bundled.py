"""The models that ship with the project are there, small, and do their job on problems they were not trained on."""

from functools import cache

import jax
import numpy as np
import pytest

from ppl.decode.engine import Settings, decode
from ppl.lm import bundled_models, load, load_reward
from ppl.tasks import Arithmetic, Countdown, Game24, Problem

NAMES = ("countdown", "countdown-prm")
PROMPT = "Numbers: 4 5 6 10 Target: 24 \n"
RIGHT = ("10 - 4 = 6 left: 5 6 6 \n", "5 * 6 = 30 left: 6 30 \n", "30 - 6 = 24 </s>")


@cache
def solutions(kind, size, temperature=1.0):
    """Texts, rewards and verdicts of 8 solutions to each of 32 held-out problems."""
    task = Arithmetic(size) if kind == "arithmetic" else Countdown(size)
    problems = task.problems(32, seed=4)
    settings = Settings(8, task.max_steps, task.max_step_tokens, temperature=temperature)
    keys = jax.random.split(jax.random.key(0), 32)
    out = decode(load("countdown"), load_reward("countdown-prm"), [p.prompt for p in problems], keys, settings)
    right = [[task.verify(p, text) for text in texts] for p, texts in zip(problems, out.texts, strict=True)]
    return out, np.array(right)


def test_both_are_bundled_and_complete():
    assert set(NAMES) <= set(bundled_models())
    for folder in bundled_models().values():
        names = {file.name for file in folder.iterdir()}
        assert {"config.json", "model.safetensors", "tokenizer.json", "README.md", "train.py"} <= names


def test_they_are_small():
    assert sum((folder / "model.safetensors").stat().st_size for folder in bundled_models().values()) < 10e6
    for model in (load("countdown"), load_reward("countdown-prm")):
        assert sum(leaf.size for leaf in jax.tree.leaves(model.params)) < 4e6


def test_they_share_the_vocabulary_of_the_corpus():
    from models.countdown.corpus import tokenizer

    for model in (load("countdown"), load_reward("countdown-prm")):
        assert model.tokenizer.get_vocab() == tokenizer().get_vocab()


# Pass@1 of 256 solutions to 32 problems; measured: .63, .24 and .99. The floors are four standard errors below, between
# problems included (at most .06): they tell a broken model or sampler, not a slightly weaker training run.
@pytest.mark.parametrize(
    ("kind", "size", "floor"),
    [
        pytest.param("countdown", 3, 0.4, marks=pytest.mark.calibration),
        ("countdown", 4, 0.1),
        ("arithmetic", 2, 0.8),
    ],
)
def test_the_language_model_solves_held_out_problems(kind, size, floor):
    out, right = solutions(kind, size)
    assert right.mean() > floor
    assert out.finished.mean() > 0.9


def test_sampling_at_a_low_temperature_is_nearly_greedy():
    out, right = solutions("countdown", 3, 0.01)
    assert np.mean([len(set(texts)) for texts in out.texts]) < 1.5  # eight solutions to a problem are mostly one
    assert right.mean() > 0.4


@pytest.mark.parametrize(
    ("kind", "size"), [pytest.param("countdown", 3, marks=pytest.mark.calibration), ("countdown", 4)]
)
def test_the_reward_tells_right_from_wrong(kind, size):
    out, right = solutions(kind, size)
    assert np.isfinite(out.reward).all()
    assert ((out.reward >= 0) & (out.reward <= 1)).all()
    good, bad = out.reward[right], out.reward[~right]
    assert good.size
    assert bad.size
    auroc = np.mean(good[:, None] > bad) + np.mean(good[:, None] == bad) / 2
    assert auroc > 0.8


def test_the_reward_of_prefixes():
    reward = load_reward("countdown-prm")
    prefixes = ["", RIGHT[0], RIGHT[0] + RIGHT[1], "".join(RIGHT), "".join(RIGHT).replace("24", "25")]
    scores = reward.score([PROMPT] * 5, prefixes)
    assert scores.shape == (5,)
    assert ((scores >= 0) & (scores <= 1)).all()
    assert scores[3] > scores[4]  # the last step is wrong


def test_known_solutions_are_likelier_than_their_permutation():
    model = load("countdown")
    written = PROMPT + "".join(RIGHT)
    tokens = np.array([model.encode(text) for text in (written, written.replace("30 - 6", "6 - 30"))])
    assert model.log_probs(tokens).shape == (2, tokens.shape[1] - 1)
    first, second = model.log_probs(tokens).sum(axis=1)
    assert first > second  # the corpus writes the larger operand first


def test_a_prompt_outside_the_vocabulary_is_refused_by_its_word():
    with pytest.raises(ValueError, match="'1000' is not in the model's vocabulary"):
        load("countdown").encode("Numbers: 4 5 6 10 Target: 1000 \n")


def test_the_hundred_puzzles_fit_the_model():
    model = load("countdown")
    ids, known = model.pad([problem.prompt for problem in Game24().problems(100)])
    assert ids.shape == known.shape == (100, 16)
    assert (known.sum(axis=1) == 9).all()  # start, four numbers, target, two words, newline
    assert Problem("game24-900", PROMPT) == Game24().problems(1)[0]
