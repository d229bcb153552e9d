"""Every family against what `transformers` computed; golden/make.py made the checkpoints and says how."""

import json
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ppl.lm.chat import load_chat_template
from ppl.lm.checkpoint import load_folder, save_folder
from ppl.lm.tokenizer import load_tokenizer

CHECKPOINTS = Path(__file__).parent / "golden" / "checkpoints"
NAMES = sorted(path.name for path in CHECKPOINTS.iterdir() if path.name != "tokenizer")
LANGUAGE_MODELS = [name for name in NAMES if "greedy" in np.load(CHECKPOINTS / name / "expected.npz")]
TOLERANCE = 1e-4


@cache
def loaded(name):
    return load_folder(CHECKPOINTS / name)


@partial(jax.jit, static_argnums=0)
def outputs(graph, params, tokens, valid):
    decoder = nnx.merge(graph, params)
    hidden, _ = decoder.hidden(tokens, valid)
    return decoder.scores(hidden) if decoder.config.num_labels else decoder.logits(hidden)


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_transformers(name):
    decoder, _ = loaded(name)
    expected = np.load(CHECKPOINTS / name / "expected.npz")
    tokens, valid, theirs = (expected[key] for key in ("tokens", "valid", "logits"))
    ours = outputs(*nnx.split(decoder), jnp.asarray(tokens, jnp.int32), jnp.asarray(valid))
    if theirs.ndim == 2:  # a sequence classifier tells of the last token only
        ours = ours[np.arange(len(tokens)), valid.sum(axis=1) - 1]
        valid = np.ones(len(tokens), bool)
    assert np.ptp(theirs[valid]) > 0.5  # far from flat, so that 1e-4 means something
    assert np.abs(ours - theirs)[valid].max() < TOLERANCE


def test_every_family_is_here():
    assert {json.loads((CHECKPOINTS / name / "config.json").read_text())["model_type"] for name in NAMES} == {
        "llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "gpt2",
    }  # fmt: skip


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_greedy_continuations_are_those_of_transformers(name):
    decoder, _ = loaded(name)
    expected = np.load(CHECKPOINTS / name / "expected.npz")
    text = np.concatenate([expected["prompt"], expected["greedy"]])[None]
    logits = outputs(*nnx.split(decoder), jnp.asarray(text, jnp.int32), jnp.ones(text.shape, bool))
    assert len(expected["greedy"]) == 64
    # A token is its predecessors' argmax at every place, so the greedy continuation is this one.
    assert jnp.argmax(logits[0, len(expected["prompt"]) - 1 : -1], axis=-1).tolist() == expected["greedy"].tolist()


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_folder_holds_the_same_and_names_it_the_same(name, tmp_path):
    decoder, tokenizer = loaded(name)
    save_folder(tmp_path, decoder, tokenizer, dtype=jnp.bfloat16)  # golden weights are bfloat16 values
    again, _ = load_folder(tmp_path)
    assert again.config == decoder.config
    for a, b in zip(jax.tree.leaves(nnx.state(again)), jax.tree.leaves(nnx.state(decoder)), strict=True):
        assert (a == b).all()


def test_a_prefix_and_a_cache_see_what_a_full_pass_sees():
    # Windows reach back over the seam between the shared prefix and a row's own slots.
    for name in ("gemma3", "mistral", "gpt2", "llama3"):
        decoder, _ = loaded(name)
        tokens = jnp.asarray(np.random.default_rng(1).integers(4, 96, (3, 20)), jnp.int32).at[:, :8].set(7)
        whole = outputs(*nnx.split(decoder), tokens, jnp.ones(tokens.shape, bool))

        @nnx.jit
        def split(decoder, tokens):
            from ppl.lm.decoder import empty_cache

            prompt = jnp.pad(tokens[0, :8], (0, 4))
            _, prefix = decoder.read_prefix(prompt[None], (jnp.arange(12) < 8)[None])
            cache = empty_cache(decoder.config, batch=3, slots=16, prefix=prefix)
            first, cache = decoder.hidden(tokens[:, 8:13], jnp.ones((3, 5), bool), cache, 0, prefix)
            # A pause of two slots, whose tokens must not matter.
            _, cache = decoder.hidden(tokens[:, :2], jnp.zeros((3, 2), bool), cache, 5, prefix)
            rest, _ = decoder.hidden(tokens[:, 13:], jnp.ones((3, 7), bool), cache, 7, prefix)
            return decoder.logits(jnp.concatenate([first, rest], axis=1))

        assert jnp.abs(split(decoder, tokens) - whole[:, 8:]).max() < TOLERANCE, name


def test_tokens_and_chats_are_those_of_transformers():
    folder = CHECKPOINTS / "tokenizer"
    tokenizer, template = load_tokenizer(folder / "tokenizer.json"), load_chat_template(folder)
    expected = json.loads((folder / "texts.json").read_text())
    for case in expected["texts"]:
        assert tokenizer.encode(case["text"]).ids == case["ids"]
        assert tokenizer.decode(case["ids"]) == case["text"]
    for case in expected["chats"]:
        assert template.render(case["messages"]) == case["prompt"]
        assert template.render(case["messages"], add_generation_prompt=False) == case["whole"]
    with pytest.raises(ValueError, match="unknown role tool"):
        template.render([{"role": "tool", "content": "x"}])
    with pytest.raises(ValueError, match=r"messages\[0\]: a mapping with 'role' and 'content' is wanted"):
        template.render([{"role": "user"}])
