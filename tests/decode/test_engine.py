"""The engine: costs counted directly, keys and batches that do not show in results, and settings that are refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ppl.decode import engine
from ppl.decode.engine import Settings, decode, even_batch
from ppl.decode.particles import Judge, solution_model
from ppl.decode.targets import TARGETS
from ppl.lm import Proposal, StepRewardModel
from ppl.smc import Policy
from ppl.smc.driver import filter as particle_filter
from tests.decode import tiny, toys

SETTINGS = Settings(num_particles=6, max_steps=3, max_step_tokens=2, target="odds", policy=Policy("always"))
PROMPTS = [problem.prompt for problem in toys.Primes().problems(5)]
KEYS = jax.random.split(jax.random.key(3), len(PROMPTS))


def same(one, other, place=slice(None), *, exact=True):
    """Do two `Decoded` say the same of the prompts in `place`?"""
    assert one.texts[place] == other.texts[place]
    for name in ("generated", "steps", "finished"):
        np.testing.assert_array_equal(getattr(one, name)[place], getattr(other, name)[place])
    for name in ("log_prob", "reward", "log_weights", "log_evidence", "ess"):
        check = np.testing.assert_array_equal if exact else np.testing.assert_allclose
        check(getattr(one, name)[place], getattr(other, name)[place], **({} if exact else {"rtol": 1e-4, "atol": 1e-4}))


def test_the_same_key_gives_the_same_result_and_another_key_another():
    lm, reward = toys.models()
    first = decode(lm, reward, PROMPTS, KEYS, SETTINGS)
    same(first, decode(lm, reward, PROMPTS, KEYS, SETTINGS))
    other = decode(lm, reward, PROMPTS, jax.random.split(jax.random.key(4), len(PROMPTS)), SETTINGS)
    assert first.texts != other.texts


def test_a_prompt_does_not_depend_on_its_neighbours_or_on_the_batch():
    lm, reward = toys.models()
    whole = decode(lm, reward, PROMPTS, KEYS, SETTINGS)
    in_twos = decode(lm, reward, PROMPTS, KEYS, SETTINGS, batch=2)  # 5 = 2 + 2 + 1, the last filled up
    same(whole, in_twos, exact=False)  # another shape may sum in another order
    backwards = decode(lm, reward, PROMPTS[::-1], KEYS[::-1], SETTINGS)
    assert backwards.texts[::-1] == whole.texts


def test_batches_are_even_and_bounded(monkeypatch):
    monkeypatch.setattr(engine, "ROWS_PER_BATCH", 32)
    assert [even_batch(num, 8) for num in (1, 4, 5, 8, 9, 100)] == [1, 4, 3, 4, 3, 4]
    assert even_batch(3, 1000) == 1  # one prompt at least, however many particles


def test_tokens_and_readings_are_counted_once_those_of_dropped_particles_included():
    lm, reward = (nnx.merge(model.graph, model.params) for model in toys.models())
    prompt, known = jnp.asarray(tiny.PROMPT), jnp.asarray(tiny.KNOWN)
    plan, newline = tiny.PLAN, 4  # of `toys.DIGITS`
    model = solution_model(lm, Judge(reward, prompt, known), TARGETS["odds"], prompt, known, Proposal(), plan, newline)
    run = jax.jit(
        lambda key: particle_filter(key, model, None, 64, Policy("always"), True, num_steps=plan.max_steps - 1)
    )(jax.random.key(0))
    assert len(np.unique(run.ancestors[0])) < 64  # some were dropped
    generations = run.history.states
    tokens = readings = 0
    for t in range(plan.max_steps):
        slots = slice(t * plan.max_step_tokens, (t + 1) * plan.max_step_tokens)
        new = np.asarray(generations.written[t][:, slots])  # before the resampling that drops some
        tokens += new.sum()
        readings += new.any(axis=1).sum()
    spent = run.particles.spent
    assert np.unique(spent.generated_tokens).tolist() == [tokens]
    assert np.unique(spent.reward_calls).tolist() == [readings]
    assert np.unique(spent.prompt_tokens).tolist() == [tiny.KNOWN.sum()]
    assert np.unique(spent.reward_tokens).tolist() == [tokens + tiny.KNOWN.sum()]
    assert tokens != np.asarray(run.particles.written).sum()  # what survives is not what was drawn


def test_the_ledger_of_plain_samples_is_what_is_in_them():
    lm, reward = toys.models()
    out = decode(lm, reward, PROMPTS, KEYS, dataclasses.replace(SETTINGS, target=None))
    np.testing.assert_array_equal(out.cost.generated_tokens, out.generated.sum(axis=1))
    np.testing.assert_array_equal(out.cost.reward_calls, SETTINGS.num_particles)
    lengths = np.asarray([len(lm.encode(prompt)) for prompt in PROMPTS])
    np.testing.assert_array_equal(out.cost.prompt_tokens, lengths)
    np.testing.assert_array_equal(out.cost.reward_tokens, out.generated.sum(axis=1) + SETTINGS.num_particles * lengths)
    alone = decode(lm, None, PROMPTS, KEYS, dataclasses.replace(SETTINGS, target=None))
    assert alone.texts == out.texts
    assert not np.any(alone.cost.reward_calls)
    assert np.isnan(alone.reward).all()


def test_plain_samples_are_never_resampled():
    # Whatever the policy says: equal weights drawn by multinomial resampling would repeat some texts and lose others.
    lm, _ = toys.models()
    plain = dataclasses.replace(SETTINGS, target=None, policy=Policy("always", "multinomial"))
    out = decode(lm, None, PROMPTS, KEYS, plain)
    assert not out.resampled.any()
    same(out, decode(lm, None, PROMPTS, KEYS, dataclasses.replace(plain, policy=Policy())))


def test_the_reward_is_the_models_word_on_the_whole_text():
    lm, reward = toys.models()
    step_by_step = decode(lm, reward, PROMPTS, KEYS, SETTINGS)
    at_once = decode(lm, reward, PROMPTS, KEYS, dataclasses.replace(SETTINGS, target=None))
    assert np.isnan(at_once.reward_trace).all()
    last = np.take_along_axis(step_by_step.reward_trace, step_by_step.steps[..., None] - 1, axis=2)[..., 0]
    np.testing.assert_allclose(step_by_step.reward, last, rtol=1e-6)
    read = 0
    for out in (step_by_step, at_once):
        whole = out.finished.nonzero()
        texts = [out.texts[i][j] for i, j in zip(*whole, strict=True)]
        # `score` reads what `decode` prints, which leaves special tokens out, the end of the text among them.
        prompts = [PROMPTS[i] for i in whole[0]]
        plain = [not _has_special(lm, out.generated[i, j], text) for i, j, text in zip(*whole, texts, strict=True)]
        rows = [lm.encode(p + t) + [lm.config.eos_token_id] for p, t in zip(prompts, texts, strict=True)]
        read += sum(plain)
        for row, reading, keep in zip(rows, out.reward[whole], plain, strict=True):
            if keep:
                assert reading == pytest.approx(_read(reward, row), abs=1e-5)
    assert read > 1


def _has_special(lm, generated, text):
    """Did the text hold special tokens besides its end? A random model writes them, and decoding leaves them out."""
    return len(lm.encode(text)) != generated  # encode adds the start, and the end is left out: equal if nothing else is


def _read(reward, row):
    decoder = nnx.merge(reward.graph, reward.params)
    hidden, _ = decoder.hidden(jnp.asarray([row]), jnp.ones((1, len(row)), bool))
    return float(jax.nn.sigmoid(decoder.scores(hidden[0, -1])[0]))


def test_the_second_call_compiles_nothing(monkeypatch):
    lm, reward = toys.models()
    decode(lm, reward, PROMPTS, KEYS, SETTINGS)

    def traced(*_):
        raise AssertionError("the model was traced again")

    monkeypatch.setattr(engine, "solution_model", traced)
    decode(lm, reward, PROMPTS, KEYS, dataclasses.replace(SETTINGS, temperature=0.7))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_particles": 0}, "num_particles must be at least 1, got 0"),
        ({"max_steps": 0}, "max_steps must be at least 1, got 0"),
        ({"temperature": 0.0}, "temperature must be above 0 and finite, got 0.0"),
        ({"temperature": float("nan")}, "temperature must be above 0 and finite, got nan"),
        ({"temperature": float("inf")}, "temperature must be above 0 and finite, got inf"),
        ({"target": "best"}, "target 'best' is not known; known are final_reward, product, odds"),
        ({"policy": Policy(how="optimal_transport")}, "policy must keep weights proper"),
    ],
)
def test_settings_out_of_range_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SETTINGS, **change)


def test_models_that_do_not_fit_are_refused():
    lm, reward = toys.models()
    with pytest.raises(ValueError, match="target 'odds' needs a reward model, got None"):
        decode(lm, None, PROMPTS, KEYS, SETTINGS)
    with pytest.raises(ValueError, match="prompts: at least one is needed, got none"):
        decode(lm, reward, [], KEYS[:0], SETTINGS)
    other = toys.number_tokenizer(("Begin:",), max_number=9)
    with pytest.raises(ValueError, match="reward model 'tiny-prm' and language model 'tiny' have different vocab"):
        decode(lm, dataclasses.replace(reward, tokenizer=other), PROMPTS, KEYS, SETTINGS)
    with pytest.raises(ValueError, match="take up to 72 tokens, model .tiny. reads 32"):
        decode(lm, reward, PROMPTS, KEYS, dataclasses.replace(SETTINGS, max_steps=32))


def test_damaged_weights_are_an_error_and_not_an_answer():
    lm, reward = toys.models()
    broken = dataclasses.replace(reward, params=jax.tree.map(lambda x: x * jnp.nan, reward.params))
    with pytest.raises(ValueError, match=r"a log potential is NaN for prompt 0 .*weights are damaged"):
        decode(lm, broken, PROMPTS, KEYS, SETTINGS)


def step_reward():
    """A token classifier on the words of `toys`, whose mark after a step is the word "Start:"."""
    lm, _ = toys.models()
    made = tiny.decoder(4, labels=2, sharpness=2.0, vocabulary=lm.config.vocab_size, context=64)
    return lm, StepRewardModel(
        "steps", *nnx.split(made), toys.DIGITS, made.config, step_delimiter="\n", separator="Start:", aggregation="min"
    )


def test_a_step_wise_reward_model_weighs_every_step():
    lm, reward = step_reward()
    never = dataclasses.replace(SETTINGS, target="product", policy=Policy("never"))
    out = decode(lm, reward, PROMPTS, KEYS, never)
    taken = np.arange(out.reward_trace.shape[2]) < out.steps[:, :, None]
    total = np.where(taken, np.log(out.reward_trace.astype(np.float64)), 0).sum(axis=2)
    each = total - np.log(np.mean(np.exp(total), axis=1, keepdims=True))
    assert out.log_weights == pytest.approx(each, abs=1e-4)
    assert np.all(np.diff(out.reward_trace, axis=2) <= 1e-6)  # the least so far
    assert out.cost.reward_tokens.sum() > out.generated.sum()  # a mark a step, too
    plain = decode(lm, reward, PROMPTS, KEYS, dataclasses.replace(never, target=None))
    # The texts of this key are the same without weights, and read when they are finished they score the same.
    assert plain.texts == out.texts
    assert plain.reward == pytest.approx(out.reward, abs=1e-5)
    np.testing.assert_array_equal(plain.cost.reward_tokens, out.cost.reward_tokens)
    assert decode(lm, reward, PROMPTS, KEYS, SETTINGS).resampled.all()


def test_a_step_wise_reward_model_must_have_room_for_its_marks():
    lm, reward = step_reward()
    small = dataclasses.replace(reward.config, max_position_embeddings=16)
    with pytest.raises(ValueError, match=r"take up to 17 tokens, model .steps. reads 16"):
        decode(lm, dataclasses.replace(reward, config=small), PROMPTS, KEYS, SETTINGS)
