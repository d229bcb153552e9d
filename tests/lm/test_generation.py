from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from ppl.lm import generation
from ppl.lm.decoder import Decoder
from ppl.lm.proposals import Proposal, log_density
from ppl.lm.stops import HIT, Stops, stop_table, token_bytes
from ppl.lm.tokenizer import load_tokenizer
from tests.lm.toys import NEWLINE, TOKENIZER, toy_config

GOLDEN = Path(__file__).parent / "golden" / "checkpoints"
PROMPTS = ["Numbers: 4 6", "Target: 9", "4 + 5 = 9 left: 9 \n"]


SETTINGS = [
    {}, {"temperature": 1.7}, {"temperature": 0}, {"temperature": 0.8, "top_k": 9, "top_p": 0.9, "min_p": 0.05},
    *(
        pytest.param(setting, marks=pytest.mark.calibration)
        for setting in ({"temperature": 0.6}, {"top_k": 3}, {"top_p": 0.7}, {"min_p": 0.2})
    ),
]  # fmt: skip


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_log_probabilities_are_those_of_a_full_pass(lm, setting):
    found = lm.complete(PROMPTS, 3, num_samples=2, max_tokens=12, **setting)
    proposal = Proposal(
        jnp.float32(setting.get("temperature", 1.0)), *(setting.get(k) for k in ("top_k", "top_p", "min_p"))
    )
    decoder = nnx.merge(lm.graph, lm.params)
    for prompt, completions in zip(PROMPTS, found, strict=True):
        for one in completions:
            ids = lm.encode(prompt) + one.tokens
            row = jnp.asarray([ids + [0] * (32 - len(ids))], jnp.int32)
            law = jax.nn.log_softmax(logits(decoder, row)[0, len(lm.encode(prompt)) - 1 : len(ids) - 1])
            at = np.arange(len(one.tokens)), np.array(one.tokens)
            assert np.abs(np.asarray(law)[at] - one.log_probs).max() < 1e-4
            assert np.abs(np.asarray(log_density(proposal, law))[at] - one.log_proposals).max() < 1e-4
            assert one.finish == ("stop" if one.tokens[-1] == lm.config.eos_token_id else "length")
            assert len(one.tokens) == 12 or one.finish == "stop"


@nnx.jit
def logits(decoder, row):
    return decoder.logits(decoder.hidden(row, jnp.ones(row.shape, bool))[0])


def test_next_tokens_have_the_exact_law(lm):
    for setting in ({}, {"temperature": 0.7, "top_p": 0.9}):
        found = lm.complete(PROMPTS[:1], 5, num_samples=4000, max_tokens=2, batch_size=8000, **setting)[0]
        ids = jnp.asarray([lm.encode(PROMPTS[0])], jnp.int32)
        proposal = Proposal(jnp.float32(setting.get("temperature", 1.0)), None, setting.get("top_p"))

        def law(ids, proposal=proposal):
            model = jax.nn.log_softmax(logits(nnx.merge(lm.graph, lm.params), ids)[:, -1])
            return np.exp(np.asarray(log_density(proposal, model)[0], np.float64))

        agree([one.tokens[0] for one in found], law(ids))
        # And the second token given the commonest first one that goes on.
        starts = [one.tokens[0] for one in found if len(one.tokens) > 1]
        common = max(set(starts), key=starts.count)
        agree([o.tokens[1] for o in found if o.tokens[0] == common], law(jnp.append(ids, common)[None]))


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_texts_that_must_end_have_proper_weights(lm, temperature):
    """Their mean weight is the probability that a text of the model ends in two tokens, by enumeration."""
    (found,) = lm.complete(
        PROMPTS[:1], 5, num_samples=4000, max_tokens=2, batch_size=8000, temperature=temperature, must_end=True
    )
    decoder, end = nnx.merge(lm.graph, lm.params), lm.config.eos_token_id
    ids, vocab = lm.encode(PROMPTS[0]), lm.config.vocab_size
    rows = jnp.asarray([[*ids, token] for token in range(vocab)], jnp.int32)
    law = np.exp(np.asarray(jax.nn.log_softmax(logits(decoder, rows)[:, -2:]), np.float64))
    first, then = law[0, 0], law[:, 1, end]
    inside = first[end] + sum(first[token] * then[token] for token in range(vocab) if token != end)
    weights = np.array([np.exp(sum(one.log_probs) - sum(one.log_proposals)) for one in found])
    assert abs(weights.mean() - inside) < 4.5 * weights.std() / len(found) ** 0.5
    assert {one.tokens[-1] for one in found} == {end}
    assert {one.finish for one in found} == {"stop"}
    # Weighted, the first token has its law given an end in time.
    exact = first * then / inside
    exact[end] = first[end] / inside
    mass = np.bincount([one.tokens[0] for one in found], weights=weights, minlength=vocab) / weights.sum()
    assert np.abs(mass - exact).sum() < 2 * np.sqrt(exact * (weights**2).sum()).sum() / weights.sum()


def test_an_end_must_be_possible(lm):
    with pytest.raises(ValueError, match="must_end=True with a constraint"):
        lm.complete(PROMPTS, 0, max_tokens=4, must_end=True, constraint=Alternating())
    endless = replace(lm, config=replace(lm.config, eos_token_id=()))
    with pytest.raises(ValueError, match="must_end=True: model 'toy' has no token that ends a text"):
        endless.complete(PROMPTS, 0, max_tokens=4, must_end=True)


def agree(tokens, law):
    """Chi-square of tokens against their law, at one in a thousand; cells that expect fewer than 5 are one."""
    assert len(tokens) > 300
    seen = np.bincount(tokens, minlength=len(law))
    assert (seen[law == 0] == 0).all()
    big = law * len(tokens) >= 5
    assert big.sum() > 1
    seen, expected = (np.append(x[big], x[~big].sum()) for x in (seen, law * len(tokens)))
    used = expected > 1e-3
    assert chisquare(seen[used], expected[used] * seen[used].sum() / expected[used].sum()).pvalue > 1e-3


def test_a_prompt_does_not_hang_on_its_neighbours(lm):
    together = lm.complete(PROMPTS, 3, num_samples=2, max_tokens=12)
    alone = lm.complete(PROMPTS[:1], 3, num_samples=2, max_tokens=12)
    split = lm.complete(PROMPTS, 3, num_samples=2, max_tokens=12, batch_size=2)
    for a, b in zip(together, split, strict=True):
        same(a, b)
    same(alone[0], together[0])
    assert lm.complete(PROMPTS, 4, num_samples=2, max_tokens=12) != together
    ids = [lm.encode(prompt) for prompt in PROMPTS]
    assert lm.complete(ids, 3, num_samples=2, max_tokens=12) == together
    heat = lm.complete(PROMPTS, 3, num_samples=2, max_tokens=12, temperature=[0.0, 1.0, 1.0])
    same(heat[1], together[1])
    assert heat[0][0] == heat[0][1]  # greedy: both the same


def test_slots_grow_without_changing_the_texts(lm, monkeypatch):
    whole = lm.complete(PROMPTS, 3, num_samples=2, max_tokens=21)
    monkeypatch.setattr(generation, "_FIRST_SLOTS", 3)
    assert generation._grow._cache_size() >= 1
    grown = lm.complete(PROMPTS, 3, num_samples=2, max_tokens=21)
    for a, b in zip(whole, grown, strict=True):
        same(a, b)


def same(a, b):
    """The same texts; log-probabilities within rounding, which goes another way in another shape."""
    for one, other in zip(a, b, strict=True):
        assert one._replace(log_probs=None, log_proposals=None) == other._replace(log_probs=None, log_proposals=None)
        assert np.allclose(one.log_probs, other.log_probs, atol=1e-4)
        assert np.allclose(one.log_proposals, other.log_proposals, atol=1e-4)


def test_stop_strings_end_texts_also_across_tokens(lm):
    free = lm.complete(PROMPTS, 3, num_samples=8, max_tokens=20)
    stop = [" + ", "\n"]
    stopped = lm.complete(PROMPTS, 3, num_samples=8, max_tokens=20, stop=stop)
    ended = 0
    for a, b in zip(free, stopped, strict=True):
        for one, cut in zip(a, b, strict=True):
            assert one.tokens[: len(cut.tokens)] == cut.tokens  # the same draws, ended earlier
            assert not any(end in cut.text for end in stop)
            whole = lm.decode(cut.tokens)
            if any(end in whole for end in stop):
                ended += 1
                assert cut.finish == "stop"
                assert not any(end in lm.decode(cut.tokens[:-1]) + " " for end in stop if end != " + ")
            else:
                assert cut.tokens == one.tokens
    assert ended > 3


TEXT = st.text(alphabet="ab \né数🙂", max_size=12)


@settings(max_examples=60)
@given(TEXT, st.lists(st.text(alphabet="ab \né数", min_size=1, max_size=4), min_size=1, max_size=3))
def test_the_table_finds_what_a_search_finds_however_tokens_are_cut(text, stops):
    tokenizer = load_tokenizer(GOLDEN / "tokenizer" / "tokenizer.json")
    pieces = token_bytes(tokenizer, tokenizer.get_vocab_size())
    single = {piece: i for i, piece in enumerate(pieces) if len(piece) == 1}
    # The tokenizer's own cut, and one byte a token.
    for ids in (tokenizer.encode(text).ids, [single[bytes([byte])] for byte in text.encode()]):
        table, state, hit = np.asarray(stop_table(tokenizer, len(pieces), stops).table), Stops.START, None
        for place, token in enumerate(ids):
            state = table[state, token]
            if state == HIT and hit is None:
                hit = place
        so_far = [b"".join(pieces[i] for i in ids[: n + 1]) for n in range(len(ids))]
        first = next((n for n, seen in enumerate(so_far) if any(stop.encode() in seen for stop in stops)), None)
        assert hit == first


def test_sentencepiece_and_unknown_tokenizers(tmp_path):
    assert token_bytes(TOKENIZER, 6)[NEWLINE] == b" \n"
    with pytest.raises(ValueError, match=r"stop must be a list of texts, got the text 'x'; write \['x'\]"):
        stop_table(TOKENIZER, 21, "x")
    with pytest.raises(ValueError, match="stop must be texts of one character or more"):
        stop_table(TOKENIZER, 21, [""])
    assert stop_table(TOKENIZER, 21, []) is None


class Alternating:
    """Numbers and plus signs in turn, and an end after a number only."""

    numbers = jnp.arange(21) >= 11
    plus = jnp.arange(21) == TOKENIZER.token_to_id("+")
    end = jnp.arange(21) == 2

    def start(self, n):
        return {"number_next": jnp.ones(n, bool)}

    def allowed(self, state):
        return jnp.where(state["number_next"][:, None], self.numbers, self.plus | self.end)

    def advance(self, state, tokens):
        return {"number_next": ~state["number_next"]}


def test_a_constraint_is_kept_and_weighed(lm):
    found = lm.complete(PROMPTS, 3, num_samples=4, max_tokens=9, constraint=Alternating())
    for completions in found:
        for one in completions:
            body = [t for t in one.tokens if t != 2]
            assert all(t >= 11 for t in body[::2])
            assert all(t == TOKENIZER.token_to_id("+") for t in body[1::2])
            assert sum(one.log_proposals) > sum(one.log_probs)  # the model spreads its mass wider


def test_records_hold_ids_and_both_log_probabilities(lm, tmp_path):
    records = lm.generate(PROMPTS, 3, num_samples=2, max_tokens=6, temperature=0.5)
    frame, found = records.frame, lm.complete(PROMPTS, 3, num_samples=2, max_tokens=6, temperature=0.5)
    assert frame.problem.tolist() == ["0", "0", "1", "1", "2", "2"]
    assert frame.token_ids.tolist() == [one.tokens for row in found for one in row]
    assert frame.log_prob.tolist() == pytest.approx([sum(one.log_probs) for row in found for one in row])
    assert frame.log_proposal.tolist() == pytest.approx([sum(one.log_proposals) for row in found for one in row])
    assert frame.prompt_tokens.tolist() == [n for p in PROMPTS for n in [len(lm.encode(p))] * 2]
    again = type(records).from_parquet(records.to_parquet(tmp_path / "r.parquet"))
    assert again.frame.token_ids.tolist() == frame.token_ids.tolist()
    assert type(records).from_jsonl(records.to_jsonl(tmp_path / "r.jsonl")).frame.equals(frame)


def test_particles_share_their_prompt():
    """64 samples of one long prompt hold its keys and values once: by the compiled programs' own figures."""
    config = toy_config(max_position_embeddings=4096)
    graph, params = nnx.split(Decoder(config, rngs=nnx.Rngs(0)))
    weights, samples, length, tokens = generation.Weights(graph, params), 64, 2048, 16
    prompts = jnp.ones((1, length), jnp.int32)
    keys = jax.random.split(jax.random.key(0), 1)
    prefix, rows, uniforms = generation._begin(weights, prompts, prompts > 0, keys, None, samples, tokens)
    cache = generation._grow(weights, None, prefix, samples, tokens)
    a_token = 2 * 4 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    held = lambda tree: sum(x.nbytes for x in jax.tree.leaves(tree))  # noqa: E731
    assert held((prefix.keys, prefix.values)) == length * a_token
    assert held((cache.keys, cache.values)) == samples * tokens * a_token
    program = generation._write.lower(
        weights, prefix, rows, cache, uniforms, Proposal(jnp.float32(1.0)), None, None, 0, (2,)
    ).compile()
    used = program.memory_analysis()
    scores = samples * config.num_attention_heads * (length + tokens) * 4
    # Beside its arguments the loop needs a few arrays of attention scores, and no copy of the prompt a sample.
    assert used.temp_size_in_bytes < 6 * scores + 4 * held(cache) + 2 * held(prefix)
    assert used.temp_size_in_bytes < 0.5 * samples * length * a_token


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_samples": 0}, "num_samples must be a whole number of at least 1, got 0"),
        ({"max_tokens": 0}, "max_tokens must be a whole number of at least 1, got 0"),
        ({"max_tokens": 60}, "prompt 0 has 5 tokens, with max_tokens=60 more than the 64 that model 'toy' reads"),
        ({"batch_size": 0}, "batch_size must be at least 1 row, got 0"),
    ],
)
def test_bad_requests_are_named(lm, arguments, message):
    with pytest.raises(ValueError, match=message):
        lm.complete(["Numbers: 4 6 8"], 0, **{"max_tokens": 4, **arguments})


def test_bad_prompts_are_named(lm):
    with pytest.raises(ValueError, match="prompt 1 has no token"):
        lm.complete([[1], []], 0, max_tokens=4)
    with pytest.raises(ValueError, match=r"prompt 0: token ids must be in 0..20, got 1..99"):
        lm.complete([[1, 99]], 0, max_tokens=4)
    assert lm.complete([], 0, max_tokens=4) == []
