import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.special import logsumexp
from scipy.stats import chisquare

from ppl.inference import infer
from ppl.lm import Text

PROMPTS = ("Numbers: 4 6 8", "Target: 9", "4 + 5 = 9 left: 9 \n")


def every_text(lm, length):
    """All values of at most `length` tokens."""
    eos, pad = lm.config.eos_token_id, lm.pad_id
    vocab = [token for token in range(lm.config.vocab_size) if token != eos]
    rows = [
        (*start, eos, *[pad] * (length - n - 1)) for n in range(length) for start in itertools.product(vocab, repeat=n)
    ]
    return np.array(rows + list(itertools.product(vocab, repeat=length)), np.int32)


def test_all_texts_have_probability_one_and_samples_follow_it(lm):
    values = every_text(lm, 2)
    for temperature in (1.0, 0.6):
        law = Text(lm, PROMPTS, 2, which=1, temperature=temperature)
        probs = np.exp(np.asarray(jax.jit(law.log_prob)(values), np.float64))
        assert probs.sum() == pytest.approx(1, abs=1e-5)
        drawn = np.asarray(jax.jit(lambda key, law=law: law.sample(key, (5000,)))(jax.random.key(0)))
        number = {tuple(row): i for i, row in enumerate(values.tolist())}
        seen = np.bincount([number[tuple(row)] for row in drawn.tolist()], minlength=len(values))
        big = 5000 * probs >= 5
        counts, expected = (np.append(x[big], x[~big].sum()) for x in (seen, 5000 * probs))
        assert chisquare(counts, expected * counts.sum() / expected.sum()).pvalue > 1e-3  # two tests at 1 in 1000


def test_log_probabilities_are_those_of_a_full_pass(lm):
    value = Text(lm, PROMPTS[0], 6).encode(["4 + 5", "= 9 left:"])
    found = Text(lm, PROMPTS, 6, which=jnp.array([[0], [2]])).log_prob(value)
    for i, prompt in ((0, PROMPTS[0]), (1, PROMPTS[2])):
        for j, row in enumerate(value):
            text = lm.encode(prompt) + [int(t) for t in row[: list(row).index(lm.config.eos_token_id) + 1]]
            expected = np.asarray(lm.log_probs(np.array([text])))[0, len(lm.encode(prompt)) - 1 :].sum()
            assert found[i, j] == pytest.approx(expected, abs=1e-4)
    assert np.isneginf(Text(lm, PROMPTS[0], 3).log_prob(np.array([2, 5, 0])))  # nothing comes after the end


def test_which_prompt_wrote_these_texts_is_bayes_rule(lm):
    truth = Text(lm, PROMPTS, 5, which=2)
    texts = np.asarray(truth.sample(jax.random.key(3), (6,)))

    def model(texts):
        which = numpyro.sample("which", dist.Categorical(probs=jnp.array([0.5, 0.3, 0.2])))
        with numpyro.plate("texts", len(texts)):
            numpyro.sample("text", Text(lm, PROMPTS, 5, which=which), obs=texts)

    post = infer(model, jnp.asarray(texts), method="enumeration", key=0)
    scores = np.array([np.asarray(Text(lm, PROMPTS, 5, which=i).log_prob(texts), np.float64).sum() for i in range(3)])
    joint = scores + np.log([0.5, 0.3, 0.2])
    assert post.log_evidence == pytest.approx(logsumexp(joint), abs=1e-3)
    exact = np.exp(joint - logsumexp(joint))
    share = np.exp(np.asarray(post.log_weights)[0]) / 3  # enumeration weights each value
    np.testing.assert_array_equal(post.draws["which"][0], [0, 1, 2])
    assert share == pytest.approx(exact, abs=1e-3)


def test_a_temperature_is_a_latent_number(lm):
    texts = np.asarray(Text(lm, PROMPTS[0], 12, temperature=0.5).sample(jax.random.key(1), (30,)))
    grid = np.linspace(0.2, 2, 400)
    scores = np.array(jax.jit(jax.vmap(lambda t: Text(lm, PROMPTS[0], 12, temperature=t).log_prob(texts).sum()))(grid))
    weight = np.exp(scores - scores.max())
    mean = (grid * weight).sum() / weight.sum()
    sd = np.sqrt(((grid - mean) ** 2 * weight).sum() / weight.sum())
    assert abs(mean - 0.5) < 4 * sd  # one draw of the posterior's distance: a false alarm in 1 of 16,000
    slope = jax.jit(jax.grad(lambda t: Text(lm, PROMPTS[0], 12, temperature=t).log_prob(texts).sum()))
    assert np.sign(slope(0.3)) == 1
    assert np.sign(slope(1.5)) == -1


def test_what_does_not_fit_is_named(lm):
    with pytest.raises(ValueError, match="prompts: at least one is needed"):
        Text(lm, (), 3)
    with pytest.raises(ValueError, match="max_tokens must be at least 1, got 0"):
        Text(lm, PROMPTS, 0)
    with pytest.raises(ValueError, match="are more than the 64 read"):
        Text(lm, PROMPTS, 60)
    with pytest.raises(ValueError, match="text '1 2 3' has 4 tokens, max_tokens is 3"):
        Text(lm, PROMPTS, 3).encode(["1 2 3"])
