from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ppl.lm import generation, load, speculation
from ppl.lm.ngrams import empty_table
from ppl.lm.proposals import Proposal, log_density
from tests.lm.test_generation import PROMPTS, Alternating, agree, logits, same
from tests.lm.toys import toy_decoder, write_toy_folder

GAMES = ["Numbers: 4 5 6 10 Target: 24 \n", "Numbers: 3 3 8 8 Target: 24 \n", "Numbers: 1 5 7 12 Target: 24 \n"]


@pytest.fixture(scope="module")
def countdown():
    return load("countdown")


def both(model, prompts, key, speculate, **options):
    """Completions with speculation and without, as flat lists."""
    found = [model.complete(prompts, key, speculate=k, **options) for k in (speculate, 0)]
    return [[one for of_prompt in side for one in of_prompt] for side in found]


@pytest.mark.parametrize(
    ("speculate", "setting"),
    [
        (1, {}), (3, {}), (16, {}), (3, {"temperature": 0.0}), (3, {"temperature": [0.0, 0.6, 1.7]}),
        (1, {"top_k": 3, "temperature": 0.7}), (3, {"top_p": 0.7}), (3, {"min_p": 0.2}),
        (3, {"stop": [" + ", "\n"]}), (3, {"must_end": True, "temperature": 1.7}),
    ],
    ids=str,
)  # fmt: skip
def test_texts_are_the_very_same(lm, speculate, setting):
    """A token could differ only if its uniform lay within rounding (about 1e-6) of a boundary of its law."""
    ours, plain = both(lm, PROMPTS, 3, speculate, num_samples=8, max_tokens=20, **setting)
    same([one._replace(passes=None) for one in ours], [one._replace(passes=None) for one in plain])
    assert "stop" in {one.finish for one in ours} or "temperature" in setting
    for one in plain:
        assert one.passes == len(one.tokens)
    for one in ours:
        assert -(-len(one.tokens) // (speculate + 1)) <= one.passes <= len(one.tokens)
        assert "\n" not in setting.get("stop", []) or "\n" not in one.text


@pytest.mark.parametrize(
    ("setting", "least"),
    [
        pytest.param({}, 1.1, marks=pytest.mark.calibration),
        ({"temperature": 0.6, "top_p": 0.95}, 1.1),
        ({"stop": [" left:"]}, 0.99),
    ],
    ids=str,
)
def test_texts_of_the_bundled_model_are_the_same_in_fewer_passes(countdown, setting, least):
    ours, plain = both(countdown, GAMES, 0, 3, num_samples=16, max_tokens=48, **setting)
    same([one._replace(passes=None) for one in ours], [one._replace(passes=None) for one in plain])
    assert sum(len(one.tokens) for one in ours) / sum(one.passes for one in ours) > least


def test_log_probabilities_are_those_of_a_full_pass(lm):
    (ours,) = lm.complete(PROMPTS[:1], 5, speculate=3, num_samples=6, max_tokens=20, temperature=0.8, top_k=9)
    proposal, prompt = Proposal(jnp.float32(0.8), 9), lm.encode(PROMPTS[0])
    for one in ours:
        ids = prompt + one.tokens
        row = jnp.asarray([ids + [0] * (32 - len(ids))], jnp.int32)
        law = jax.nn.log_softmax(logits(nnx.merge(lm.graph, lm.params), row)[0, len(prompt) - 1 : len(ids) - 1])
        at = np.arange(len(one.tokens)), np.array(one.tokens)
        assert np.abs(np.asarray(law)[at] - one.log_probs).max() < 1e-4
        assert np.abs(np.asarray(log_density(proposal, law))[at] - one.log_proposals).max() < 1e-4


def test_later_tokens_have_the_exact_law(lm):
    """Second and third tokens, which guesses are made of, given the commonest tokens before them."""
    found = lm.complete(PROMPTS[:1], 5, num_samples=6000, max_tokens=3, batch_size=6000, speculate=2)[0]
    assert sum(one.passes for one in found) < sum(len(one.tokens) for one in found)
    texts = [one.tokens for one in found]
    for size in (1, 2):
        start = Counter(tuple(text[:size]) for text in texts if len(text) > size).most_common(1)[0][0]
        ids = jnp.asarray([lm.encode(PROMPTS[0]) + list(start)], jnp.int32)
        law = jax.nn.softmax(logits(nnx.merge(lm.graph, lm.params), ids)[0, -1])
        then = [text[size] for text in texts if tuple(text[:size]) == start and len(text) > size]
        agree(then, np.asarray(law, np.float64))


def test_a_text_that_was_written_before_takes_all_guesses(lm):
    """Greedy texts of one prompt, a call each: all but the first know what comes."""
    texts = [one for (one,) in lm.complete(["left: 3"] * 4, 0, max_tokens=40, temperature=0, speculate=3, batch_size=1)]
    assert len({tuple(one.tokens) for one in texts}) == 1
    size = len(texts[0].tokens)
    assert size > 12
    assert [one.passes for one in texts[1:]] == [-(-size // 4)] * 3


# Each number of slots is compiled anew.
@pytest.mark.parametrize("first", [pytest.param(1, marks=pytest.mark.calibration), 5])
def test_slots_grow_without_changing_the_texts(lm, monkeypatch, first):
    whole = [one for texts in lm.complete(PROMPTS, 3, speculate=3, num_samples=2, max_tokens=12) for one in texts]
    monkeypatch.setattr(generation, "_FIRST_SLOTS", first)
    grown, plain = both(lm, PROMPTS, 3, 3, num_samples=2, max_tokens=12)
    same(grown, whole)
    same([one._replace(passes=None) for one in grown], [one._replace(passes=None) for one in plain])


def test_wrong_guesses_cost_passes_and_nothing_else(lm, monkeypatch):
    """Guesses that are always wrong, and tables that are full of nonsense."""
    options = {"num_samples": 4, "max_tokens": 12}
    plain = lm.complete(PROMPTS, 3, **options)
    jax.clear_caches()
    monkeypatch.setattr(speculation, "guess", lambda table, contexts, uniform: jnp.full_like(contexts[:, 0], 3))
    wrong = lm.complete(PROMPTS, 3, speculate=2, **options)
    jax.clear_caches()
    for a, b in zip(plain, wrong, strict=True):
        same([one._replace(passes=None) for one in a], [one._replace(passes=None) for one in b])
    monkeypatch.undo()
    monkeypatch.setattr(generation, "empty_table", lambda: empty_table(1))
    for a, b in zip(plain, lm.complete(PROMPTS, 3, speculate=2, **options), strict=True):
        same([one._replace(passes=None) for one in a], [one._replace(passes=None) for one in b])


def test_a_constraint_goes_with_what_is_kept(lm):
    ours, plain = both(lm, PROMPTS, 3, 3, num_samples=4, max_tokens=9, constraint=Alternating())
    same([one._replace(passes=None) for one in ours], [one._replace(passes=None) for one in plain])
    assert sum(one.passes for one in ours) < sum(one.passes for one in plain)


@pytest.mark.parametrize("changes", [{"learned_positions": True, "norm": "layer"}, {"windows": (5, None)}], ids=str)
def test_positions_and_windows_of_other_families(changes):
    """Guesses may stand beyond the last position that a model has."""
    decoder = toy_decoder(**changes)
    graph, params = nnx.split(decoder)
    ids = np.array([[1, 11, 12, 13], [1, 14, 5, 6]], np.int32)
    keys = jax.random.split(jax.random.key(0), 2)
    plain, ours = (
        generation.generate(
            generation.Weights(graph, params), ids, ids > 0, keys, Proposal(jnp.float32(0.8)), None, None,
            num_samples=2, max_tokens=60, eos=(), speculate=speculate,
        )[0]
        for speculate in (0, 3)
    )  # fmt: skip
    np.testing.assert_array_equal(plain.tokens, ours.tokens)
    np.testing.assert_allclose(plain.log_probs, ours.log_probs, atol=1e-4)


def test_rows_over_devices_are_the_same_rows(tmp_path):
    write_toy_folder(tmp_path / "toy")
    spread = load(tmp_path / "toy", sharding=jax.make_mesh((2,), ("particles",)))
    ours, plain = both(spread, PROMPTS, 3, 3, num_samples=2, max_tokens=12)
    same([one._replace(passes=None) for one in ours], [one._replace(passes=None) for one in plain])


def test_a_second_request_does_not_compile(lm):
    lm.complete(PROMPTS, 3, num_samples=2, max_tokens=12, speculate=2)
    size = speculation.write_ahead._cache_size()
    lm.complete(PROMPTS, 4, num_samples=2, max_tokens=12, speculate=2, temperature=0.3)
    assert speculation.write_ahead._cache_size() == size


@pytest.mark.parametrize("bad", [-1, 17, 1.0, True, "3", None])
def test_bad_requests_are_named(lm, bad):
    with pytest.raises(ValueError, match=r"speculate must be a whole number in 0\.\.16, got"):
        generation.request(lm.tokenizer, 21, 0, 1, 4, 1.0, None, None, None, (), bad)
    if type(bad) is int:
        with pytest.raises(ValueError, match=f"got {bad}"):
            lm.complete(PROMPTS, 0, max_tokens=4, speculate=bad)
