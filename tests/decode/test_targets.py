"""Named targets on a language model small enough to enumerate: hit, told apart, and with unbiased evidence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppl.decode.particles import Judge, solution_model
from ppl.decode.targets import TARGETS, target_named
from ppl.lm import Proposal
from ppl.smc import Policy
from ppl.smc.driver import filter as particle_filter
from tests.decode import tiny

NAMES = list(TARGETS)


@pytest.fixture(scope="module")
def models():
    """A language model of which about a quarter of the texts end early, and a reward that tells them apart."""
    return tiny.decoder(27, sharpness=3.0), tiny.decoder(127, labels=1)


@pytest.fixture(scope="module")
def texts(models):
    return tiny.enumerated(*models)


def system(models, target, num_particles, policy):
    """(keys, temperature) -> runs of the particle filter for `target` (None: plain samples), what they say first axis.

    Log evidence, log weights, and of the particles tokens, written, steps, log probability, log odds.
    """
    lm, reward = models

    def once(key, temperature):
        prompt = jnp.asarray(tiny.PROMPT), jnp.asarray(tiny.KNOWN)
        model = solution_model(
            lm, Judge(reward, *prompt) if target else None, TARGETS[target] if target else None,
            *prompt, Proposal(temperature), tiny.PLAN, tiny.NEWLINE,
        )  # fmt: skip
        run = particle_filter(key, model, None, num_particles, policy, num_steps=tiny.PLAN.max_steps - 1, throw=False)
        end = run.particles
        return run.log_evidence, run.log_weights, end.tokens, end.written, end.steps, end.log_prob, end.log_odds

    compiled = jax.jit(jax.vmap(once, in_axes=(0, None)))
    return lambda keys, temperature=1.0: [np.asarray(x) for x in compiled(keys, temperature)]


@pytest.fixture(scope="module")
def twenty_thousand(models):
    """By target: one run of 20,000 particles."""
    return {name: [x[0] for x in system(models, name, 20_000, Policy())(jax.random.key(1)[None])] for name in NAMES}


def law_of(texts, log_weights, tokens, written):
    """The weighted particles as a law over the enumerated texts."""
    weight = np.exp(np.asarray(log_weights, np.float64))
    mass = np.bincount(texts.index(tokens, written), weights=weight, minlength=len(texts.steps))
    return mass / mass.sum()


def distance(p, q):
    """Total variation."""
    return 0.5 * np.abs(p - q).sum()


def test_the_toy_is_asymmetric_and_its_targets_differ(texts):
    assert np.exp(texts.log_prob).sum() == pytest.approx(1, abs=1e-5)  # every text is there, once
    assert 0.2 < np.exp(texts.log_prob[texts.steps < tiny.PLAN.max_steps]).sum() < 0.8
    laws = [np.exp(texts.log_prob), *(texts.law(name) for name in NAMES)]
    apart = [distance(p, q) for i, p in enumerate(laws) for q in laws[:i]]
    assert min(apart) > 0.05, apart


@pytest.mark.parametrize("name", NAMES)
def test_a_target_is_hit_and_the_others_are_missed(twenty_thousand, texts, name):
    # The expected distance of 20,000 particles is 0.4 sum_x sqrt(p_x / ESS), 0.014 to 0.019 here (the weights of `odds`
    # are the most uneven); missing the target by a wrong potential costs 0.19 or more.
    _, log_weights, tokens, written, steps, log_prob, log_odds = twenty_thousand[name]
    found = law_of(texts, log_weights, tokens, written)
    assert distance(found, texts.law(name)) < 0.03
    for other in NAMES:
        if other != name:
            assert distance(found, texts.law(other)) > 0.1
    # What travels with a particle through resampling belongs to its own text.
    which = texts.index(tokens, written)
    np.testing.assert_array_equal(steps, texts.steps[which])
    np.testing.assert_allclose(log_prob, texts.log_prob[which], atol=1e-4)
    taken = np.arange(tiny.PLAN.max_steps) < steps[:, None]
    np.testing.assert_allclose(np.where(taken, log_odds, 0), texts.log_odds[which], atol=1e-4)


@pytest.mark.parametrize("name", ["product", "odds"])
def test_a_finished_text_stops_gaining_weight(twenty_thousand, texts, name):
    # The target that weighs a finished text again at every later step is another one, and it is not hit. (The ratio of
    # `final_reward` is 1 for a finished text, so there the two agree.)
    wrong = texts.law(name, absorb=False)
    assert distance(wrong, texts.law(name)) > 0.05
    _, log_weights, tokens, written, *_ = twenty_thousand[name]
    assert distance(law_of(texts, log_weights, tokens, written), wrong) > 0.05


SYSTEMS = [
    ("final_reward", Policy()),
    ("final_reward", Policy("never")),
    ("product", Policy("always", "multinomial")),
    ("odds", Policy("ess", "ssp", threshold=0.9)),
    ("odds", Policy("always", "stratified")),
]


@pytest.mark.parametrize(("name", "policy"), SYSTEMS, ids=lambda value: value if isinstance(value, str) else "")
def test_evidence_is_unbiased_and_weights_are_proper(models, texts, name, policy):
    # 200 independent runs of 24 particles. Each of 5 cases tests the mean evidence at 3 standard errors (a chance of
    # 0.3% a case to fail if all is right; the keys are fixed) and three parts of it at 4 (0.02% for all of them).
    keys = jax.random.split(jax.random.key(7), 200)
    log_evidence, log_weights, tokens, written, *_ = system(models, name, 24, policy)(keys)
    evidence = np.exp(log_evidence.astype(np.float64))
    truth = np.exp(texts.log_weight(name))
    assert _z(evidence, truth.sum()) < 3
    which = np.stack([texts.index(t, w) for t, w in zip(tokens, written, strict=True)])
    share = np.exp(log_weights.astype(np.float64)) / log_weights.shape[1]
    parts = {
        "ends at once": texts.steps == 1,
        "ends in time": texts.steps == 2,
        "long first step": texts.tokens[:, 0] < tiny.EOS,
    }
    for part, inside in parts.items():
        assert _z(evidence * (share * inside[which]).sum(axis=1), truth[inside].sum()) < 4, part


def _z(values, truth):
    return abs(values.mean() - truth) / (values.std(ddof=1) / np.sqrt(len(values)))


@pytest.mark.parametrize(
    ("power", "proposal"), [(1.0, Proposal(0.6)), (2.0, Proposal(0.5)), (0.7, Proposal(jnp.array(1.0)))]
)
def test_a_power_of_the_model_is_hit_from_any_temperature(models, texts, power, proposal):
    lm, _ = models

    @jax.jit
    def go(key):
        prompt = jnp.asarray(tiny.PROMPT), jnp.asarray(tiny.KNOWN)
        model = solution_model(lm, None, None, *prompt, proposal, tiny.PLAN, tiny.NEWLINE, power)
        run = particle_filter(key, model, None, 20_000, Policy(), num_steps=tiny.PLAN.max_steps - 1, throw=False)
        return run.log_evidence, run.log_weights, run.particles.tokens, run.particles.written

    log_evidence, log_weights, tokens, written = map(np.asarray, go(jax.random.key(3)))
    unnormalised = np.exp(power * texts.log_prob)
    # Expected distances are 0.4 sum_x sqrt(p_x / ESS), below 0.02; the model itself is 0.1 or more away.
    assert distance(law_of(texts, log_weights, tokens, written), unnormalised / unnormalised.sum()) < 0.03
    assert log_evidence == pytest.approx(np.log(unnormalised.sum()), abs=0.05)
    if power != 1.0:
        assert distance(np.exp(texts.log_prob), unnormalised / unnormalised.sum()) > 0.1


def test_texts_that_must_end_are_those_that_do(models, texts):
    lm, reward = models
    prompt = jnp.asarray(tiny.PROMPT), jnp.asarray(tiny.KNOWN)
    model = solution_model(
        lm, Judge(reward, *prompt), TARGETS["product"], *prompt, Proposal(), tiny.PLAN._replace(must_end=True),
        tiny.NEWLINE,
    )  # fmt: skip
    run = particle_filter(jax.random.key(2), model, None, 20_000, Policy(), num_steps=tiny.PLAN.max_steps - 1)
    ended = (np.where(texts.written, texts.tokens, -1) == tiny.EOS).any(axis=1)
    unnormalised = np.where(ended, np.exp(texts.log_weight("product")), 0)
    assert 0.05 < unnormalised.sum() / np.exp(texts.log_weight("product")).sum() < 0.95
    law = law_of(texts, run.log_weights, run.particles.tokens, run.particles.written)
    assert distance(law, unnormalised / unnormalised.sum()) < 0.03
    assert run.log_evidence == pytest.approx(np.log(unnormalised.sum()), abs=0.05)


@pytest.fixture(scope="module")
def plain(models):
    return system(models, None, 20_000, Policy("never"))


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_plain_samples_follow_the_model_at_its_temperature(models, plain, temperature):
    texts = tiny.enumerated(*models, temperature=temperature)
    log_evidence, log_weights, tokens, written, *_ = plain(jax.random.key(3)[None], temperature)
    assert log_evidence[0] == 0
    assert np.ptp(log_weights) == 0
    found = np.bincount(texts.index(tokens[0], written[0]), minlength=len(texts.steps))
    # Pearson's statistic over the texts that are expected five times or more, the others as one: its mean is its number
    # of classes less one and its variance twice that; 5 standard deviations are passed by chance once in a million.
    expected = 20_000 * np.exp(texts.log_prob)
    often = expected >= 5
    observed = np.append(found[often], found[~often].sum())
    expected = np.append(expected[often], expected[~often].sum())
    statistic, freedom = ((observed - expected) ** 2 / expected).sum(), len(expected) - 1
    assert abs(statistic - freedom) < 5 * np.sqrt(2 * freedom)


def test_potentials_are_what_the_table_says():
    log_odds, previous = jnp.asarray([-2.0, 0.5, 30.0]), jnp.asarray([1.0, -1.0, -30.0])
    reward, before = jax.nn.sigmoid(log_odds), jax.nn.sigmoid(previous)
    np.testing.assert_allclose(TARGETS["product"](log_odds, previous), jnp.log(reward), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(TARGETS["final_reward"](log_odds, None), jnp.log(reward), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        TARGETS["final_reward"](log_odds, previous), jnp.log(reward) - jnp.log(before), rtol=1e-5, atol=1e-5
    )
    np.testing.assert_array_equal(TARGETS["odds"](log_odds, previous), log_odds)  # exact where 1 - r underflows


def test_an_unknown_target_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"target 'odd' is not known; known are final_reward, product, odds"):
        target_named("odd")
