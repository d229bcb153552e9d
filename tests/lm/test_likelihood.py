import jax
import numpy as np
import pytest
from flax import nnx

from ppl.lm import likelihood
from tests.lm.toys import full_logits

PROMPTS = ["Numbers: 4 6", "Target: 9", "", "4 + 5 = 9 left: 9 \n"]
TEXTS = [" 2 Target: 3", "", "4 5", " 4 = 4 \n left: 4 4 4"]


def test_a_texts_tokens_have_the_probabilities_of_a_full_pass(lm):
    found = lm.log_likelihood(PROMPTS, TEXTS, batch_size=2)
    decoder = nnx.merge(lm.graph, lm.params)
    for prompt, text, log_probs in zip(PROMPTS, TEXTS, found, strict=True):
        ids, start = lm.encode(prompt + text), len(lm.encode(prompt))
        law = jax.nn.log_softmax(full_logits(decoder, [ids])[0])
        np.testing.assert_allclose(log_probs, [law[i - 1, ids[i]] for i in range(start, len(ids))], atol=1e-4)


def test_perplexity_is_that_of_the_mean_token(lm):
    found = lm.perplexity(TEXTS, prompts=PROMPTS)
    expected = [np.exp(-row.mean()) if row.size else np.nan for row in lm.log_likelihood(PROMPTS, TEXTS)]
    np.testing.assert_allclose(found, expected)
    assert np.isnan(found[1])  # no token, no perplexity
    (alone,) = lm.perplexity(["4 5"])
    assert alone == pytest.approx(found[2], rel=1e-5)
    assert lm.perplexity([]).shape == (0,)


def test_parts_of_the_logits_add_up_to_the_whole(lm, monkeypatch):
    tokens = jax.random.randint(jax.random.key(0), (3, 12), 4, lm.config.vocab_size)
    whole = lm.log_probs(tokens)
    jax.clear_caches()
    monkeypatch.setattr(likelihood, "_LOGITS", 3 * lm.config.vocab_size * 4)  # 11 places in three parts
    np.testing.assert_allclose(lm.log_probs(tokens), whole, atol=1e-5)
    text = likelihood.next_log_probs.lower(lm.graph, lm.params, tokens).as_text()
    assert f"tensor<3x4x{lm.config.vocab_size}xf32>" in text
    assert f"tensor<3x11x{lm.config.vocab_size}xf32>" not in text
    jax.clear_caches()


def test_what_does_not_pair_up_is_refused(lm):
    with pytest.raises(ValueError, match="prompts and texts must pair up, got 1 and 2"):
        lm.log_likelihood(["Target: 9"], TEXTS[:2])
    with pytest.raises(ValueError, match="batch_size must be at least 1 text, got 0"):
        lm.perplexity(TEXTS, batch_size=0)
    with pytest.raises(ValueError, match="reads rows of 1 to 64"):
        lm.log_likelihood([""], ["4 " * 70])
