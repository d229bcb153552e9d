"""Decoders so small that every text they can write is enumerated by full forward passes."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ppl.decode.particles import Plan
from ppl.lm.config import DecoderConfig
from ppl.lm.decoder import Decoder

PAD, BOS, EOS, NEWLINE = range(4)
VOCABULARY = 4  # the special tokens are words like any other to a decoder: two that go on, one that ends a step, EOS
PROMPT = np.asarray([BOS, NEWLINE, PAD, PAD], np.int32)
KNOWN = np.asarray([True, True, False, False])
PLAN = Plan(max_steps=3, max_step_tokens=2, eos=(EOS,))


def decoder(seed, *, labels=0, sharpness=1.0, vocabulary=VOCABULARY, context=32):
    """A random decoder; `sharpness` scales its logits or scores, so that laws are far from uniform."""
    config = DecoderConfig(
        vocab_size=vocabulary, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=context, num_labels=labels,
    )  # fmt: skip
    made = Decoder(config, rngs=nnx.Rngs(seed))
    made.norm.scale[...] = sharpness * made.norm.scale[...]
    return made


class Texts(NamedTuple):
    """Every text: `tokens` and `written` [texts, slots], `steps` [texts], log probability [texts] under the model,
    `log_odds` [texts, max_steps] by the reward after each step (0 after the last one)."""

    tokens: np.ndarray
    written: np.ndarray
    steps: np.ndarray
    log_prob: np.ndarray
    log_odds: np.ndarray

    def log_weight(self, target, *, absorb=True):
        """Log of the unnormalised target. `absorb=False`: what it would be if finished texts were weighed again."""
        log_r = -np.logaddexp(0, -self.log_odds)
        last = np.take_along_axis(log_r, self.steps[:, None] - 1, axis=1)[:, 0]
        if target == "final_reward":  # weighed again, a finished text has ratio 1
            return self.log_prob + last
        each = log_r if target == "product" else self.log_odds
        final = np.take_along_axis(each, self.steps[:, None] - 1, axis=1)[:, 0]
        taken = np.arange(each.shape[1]) < self.steps[:, None]
        total = np.where(taken, each, 0).sum(axis=1)
        return self.log_prob + total + (0 if absorb else (each.shape[1] - self.steps) * final)

    def law(self, target, **options):
        """The normalised target [texts]."""
        log_weight = self.log_weight(target, **options)
        weight = np.exp(log_weight - log_weight.max())
        return weight / weight.sum()

    def index(self, tokens, written):
        """Which text each particle is; a text is what is written, wherever its slots are."""
        number = {text: i for i, text in enumerate(_words(self.tokens, self.written))}
        return np.asarray([number[text] for text in _words(tokens, written)])


def enumerated(lm, reward, *, plan=PLAN, prompt=PROMPT, known=KNOWN, temperature=1.0):
    """All texts of at most `plan.max_steps` steps, scored by full forward passes without a cache."""
    texts = _continue([], plan, lm.config.vocab_size)
    length, slots = int(known.sum()), plan.max_steps * plan.max_step_tokens
    rows = np.full((len(texts), length + slots), PAD, np.int32)
    rows[:, :length] = prompt[known]
    ends = np.zeros((len(texts), plan.max_steps), np.int32)
    for i, steps in enumerate(texts):
        flat = [token for step in steps for token in step]
        rows[i, length : length + len(flat)] = flat
        ends[i, : len(steps)] = length - 1 + np.cumsum([len(step) for step in steps])
    counts = np.asarray([len(steps) for steps in texts])
    sizes = ends.max(axis=1) - (length - 1)
    written = np.arange(slots) < sizes[:, None]
    log_prob, log_odds = _score(
        lm, reward, rows, np.arange(rows.shape[1]) < (length + sizes)[:, None], ends, temperature
    )
    kept = np.where(np.arange(rows.shape[1]) >= length, log_prob, 0)
    total = np.where(np.arange(rows.shape[1]) < (length + sizes)[:, None], kept, 0).sum(axis=1)
    log_odds = np.where(np.arange(plan.max_steps) < counts[:, None], log_odds, 0.0)
    return Texts(rows[:, length:], written, counts, total, log_odds)


def _continue(steps, plan, vocabulary):
    """Every completion of the whole steps written so far."""
    if len(steps) == plan.max_steps or (steps and steps[-1][-1] == EOS):
        return [steps]
    return [text for step in _steps([], plan, vocabulary) for text in _continue([*steps, step], plan, vocabulary)]


def _steps(tokens, plan, vocabulary):
    if len(tokens) == plan.max_step_tokens or (tokens and tokens[-1] in (EOS, NEWLINE)):
        return [tokens]
    return [step for token in range(vocabulary) for step in _steps([*tokens, token], plan, vocabulary)]


def _score(lm, reward, rows, valid, ends, temperature):
    """Log probability of each token given those before it, and the reward's log odds at `ends`."""
    lm_graph, lm_params = nnx.split(lm)
    reward_graph, reward_params = nnx.split(reward)

    @jax.jit
    def both(lm_params, reward_params):
        hidden, _ = nnx.merge(lm_graph, lm_params).hidden(jnp.asarray(rows), jnp.asarray(valid))
        logits = lm.logits(hidden) / temperature
        next_ = jnp.take_along_axis(jax.nn.log_softmax(logits)[:, :-1], jnp.asarray(rows)[:, 1:, None], axis=2)[..., 0]
        read, _ = nnx.merge(reward_graph, reward_params).hidden(jnp.asarray(rows), jnp.asarray(valid))
        at_ends = jnp.take_along_axis(read, jnp.asarray(ends)[:, :, None], axis=1)
        return jnp.pad(next_, ((0, 0), (1, 0))), reward.scores(at_ends)[..., 0]

    return jax.tree.map(lambda x: np.asarray(x, np.float64), both(lm_params, reward_params))


def _words(tokens, written):
    return [tuple(row[mask].tolist()) for row, mask in zip(np.asarray(tokens), np.asarray(written), strict=True)]
