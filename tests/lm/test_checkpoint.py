import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.flax import load_file, save_file

from ppl.lm import bundled_models, load, load_reward
from ppl.lm.checkpoint import INDEX, save_folder
from ppl.lm.likelihood import next_log_probs
from ppl.lm.tokenizer import number_tokenizer
from tests.lm.toys import TOKENIZER, full_logits, toy_config, toy_decoder, write_toy_folder

TOKENS = np.random.default_rng(0).integers(0, toy_config().vocab_size, (2, 7))


def leaves(decoder):
    return jax.tree.leaves(nnx.state(decoder))


def test_float32_comes_back_bit_for_bit(tmp_path):
    decoder = write_toy_folder(tmp_path / "toy")
    model = load(tmp_path / "toy")
    assert model.name == "toy"
    assert model.config == decoder.config
    assert model.tokenizer.get_vocab() == TOKENIZER.get_vocab()
    for loaded, saved in zip(jax.tree.leaves(model.params), leaves(decoder), strict=True):
        assert loaded.dtype == jnp.float32
        assert (loaded == saved).all()
    assert (full_logits(nnx.merge(model.graph, model.params), TOKENS) == full_logits(decoder, TOKENS)).all()


def test_bfloat16_comes_back_rounded_once_and_is_half_the_size(tmp_path):
    decoder = write_toy_folder(tmp_path / "half", dtype=jnp.bfloat16)
    write_toy_folder(tmp_path / "whole")
    for loaded, saved in zip(jax.tree.leaves(load(tmp_path / "half").params), leaves(decoder), strict=True):
        assert loaded.dtype == jnp.float32
        assert (loaded == saved.astype(jnp.bfloat16).astype(jnp.float32)).all()
    half, whole = ((tmp_path / name / "model.safetensors").stat().st_size for name in ("half", "whole"))
    assert half < 0.6 * whole
    assert json.loads((tmp_path / "half" / "config.json").read_text())["torch_dtype"] == "bfloat16"
    assert json.loads((tmp_path / "whole" / "config.json").read_text())["torch_dtype"] == "float32"


def test_a_reward_model_comes_back(tmp_path):
    decoder = write_toy_folder(tmp_path, num_labels=1)
    reward = load_reward(tmp_path)
    ids = [reward.config.bos_token_id, *(TOKENIZER.token_to_id(word) for word in ("4", "+", "5"))]

    @nnx.jit
    def whole(decoder):
        return decoder.scores(decoder.hidden(jnp.array([ids]), jnp.ones((1, 4), bool))[0][0, -1])[0]

    expected = jax.nn.sigmoid(whole(decoder))
    assert abs(reward.score(["4 +"], [" 5"])[0] - expected) < 1e-6
    scores = reward.score(["4 +", "4 + 5 = 9 \n", "1"], [" 5", "", " - 1 = 0 \n 2 - 2"])
    assert abs(scores[0] - expected) < 1e-6  # padding to the longest changes nothing
    assert ((scores >= 0) & (scores <= 1)).all()
    assert len(set(scores.tolist())) == 3
    assert reward.score([], []).shape == (0,)


def test_tensors_have_the_names_and_the_orientation_of_llama(tmp_path):
    write_toy_folder(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert {name for name in tensors if ".1." not in name} == {
        "model.embed_tokens.weight", "model.norm.weight",
        "model.layers.0.input_layernorm.weight", "model.layers.0.post_attention_layernorm.weight",
        *(f"model.layers.0.self_attn.{part}_proj.weight" for part in "qkvo"),
        *(f"model.layers.0.mlp.{part}_proj.weight" for part in ("gate", "up", "down")),
    }  # fmt: skip
    assert tensors["model.layers.0.mlp.gate_proj.weight"].shape == (24, 16)  # [out, in]
    assert tensors["model.layers.0.self_attn.k_proj.weight"].shape == (8, 16)


def test_a_path_wins_over_a_name_and_an_unknown_name_lists_the_known():
    with pytest.raises(ValueError, match="'no-such-model' is neither a folder nor a bundled model; known: ") as error:
        load("no-such-model")
    assert str(error.value).endswith(", ".join(bundled_models()) or "none")


def test_the_two_kinds_are_not_mixed_up(tmp_path):
    write_toy_folder(tmp_path / "reward", num_labels=1)
    write_toy_folder(tmp_path / "two", num_labels=2)
    write_toy_folder(tmp_path / "lm")
    with pytest.raises(ValueError, match="reward is a reward model; ppl.lm.load_reward loads it"):
        load(tmp_path / "reward")
    with pytest.raises(ValueError, match="lm is a language model and has no score head"):
        load_reward(tmp_path / "lm")
    with pytest.raises(ValueError, match="two is not a reward model: its score head has 2 labels"):
        load_reward(tmp_path / "two")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_named(tmp_path, name):
    write_toy_folder(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ValueError, match=f"{name}: no such file; a model folder holds config.json"):
        load(tmp_path)


def broken(folder, name, change):
    """Rewrite a JSON file of `folder` after `change`."""
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))


def retensored(folder, change):
    """Rewrite the weights of `folder` after `change`."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


NORM, UP = "model.norm.weight", "model.layers.1.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "model.safetensors").write_bytes(b"not tensors"), "not a readable safetensors file"),
        (lambda f: (f / "model.safetensors").write_bytes(b""), "not a readable safetensors file"),
        (
            lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-100]),
            "not a readable safetensors file",
        ),
        (lambda f: retensored(f, lambda t: t.pop(UP)), f"tensor '{UP}' is missing"),
        (
            lambda f: retensored(f, lambda t: t.update({NORM: t[NORM][:-1]})),
            rf"tensor '{NORM}' has shape \(15,\), config.json asks for \(16,\)",
        ),
        (
            lambda f: retensored(f, lambda t: t.update({UP: t[UP].T})),
            rf"tensor '{UP}' has shape \(16, 24\), config.json asks for \(24, 16\)",
        ),
        (
            lambda f: retensored(f, lambda t: t.update({"model.layers.0.mlp.up_proj.bias": jnp.ones(24)})),
            "tensor 'model.layers.0.mlp.up_proj.bias' has no place in the model",
        ),
        (lambda f: (f / "config.json").write_text("{"), "config.json: not JSON"),
        (lambda f: (f / "config.json").write_bytes(b"\xff\xfe"), "config.json: not JSON"),
        (lambda f: (f / "config.json").write_text("[]"), "config.json: a JSON object is wanted, got list"),
        (lambda f: broken(f, "config.json", lambda c: c.pop("hidden_size")), "config.json: .*hidden_size"),
        (
            lambda f: broken(f, "config.json", lambda c: c.update(num_hidden_layers=0)),
            "config.json: num_hidden_layers must be a number above 0, got 0",
        ),
        (
            lambda f: broken(f, "config.json", lambda c: c.update(model_type="mamba")),
            "model_type 'mamba' is not supported; known: 'llama', 'mistral', 'qwen2', 'qwen3', 'gemma2'",
        ),
        (
            lambda f: broken(f, "config.json", lambda c: c.update(architectures=["LlamaForQuestionAnswering"])),
            "architecture 'LlamaForQuestionAnswering' is not supported; known",
        ),
        (
            lambda f: broken(f, "config.json", lambda c: c.update(tie_word_embeddings=False)),
            "tensor 'lm_head.weight' is missing",
        ),
        (
            lambda f: broken(f, "config.json", lambda c: c.update(hidden_act="relu")),
            "hidden_act 'relu' is not supported; known: silu, ",
        ),
        (
            lambda f: broken(f, "config.json", lambda c: c.update(rope_scaling={"rope_type": "llama3", "factor": 8})),
            "rope_scaling of type 'llama3' lacks 'low_freq_factor'",
        ),
        (
            lambda f: broken(f, "config.json", lambda c: c.update(rope_parameters={"rope_type": "yarn"})),
            "rope_scaling of type 'yarn' is not supported; known: 'default', 'linear', 'llama3'",
        ),
        (
            lambda f: broken(f, "config.json", lambda c: c.update(head_dim=8)),
            r"tensor 'model.layers.0.self_attn.q_proj.weight' has shape \(16, 16\), config.json asks for \(32, 16\)",
        ),
        (
            lambda f: broken(f, "config.json", lambda c: c.update(eos_token_id=21)),
            r"eos_token_id must be in 0..20 \(vocab_size\), got 21",
        ),
        (
            lambda f: retensored(f, lambda t: t.update({NORM: t[NORM].astype(jnp.int32)})),
            f"tensor '{NORM}' is I32, wanted one of F64, F32, F16, BF16",
        ),
        (
            lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
            "pytorch_model.bin: weights in a pickle are not read, because a pickle can run code",
        ),
        (
            lambda f: number_tokenizer(("a",), max_number=30).save(str(f / "tokenizer.json")),
            "tokenizer.json has token '30' with id 36, config.json says vocab_size 21: the two are not of one model",
        ),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "tokenizer.json: not a tokenizer file"),
        (
            lambda f: number_tokenizer(("a",), max_number=3).save(str(f / "tokenizer.json")),
            "tokenizer.json has 10 tokens, config.json says vocab_size 21",
        ),
    ],
)  # fmt: skip
def test_a_broken_folder_is_described(tmp_path, change, message):
    folder = tmp_path / "toy"
    write_toy_folder(folder)
    change(folder)
    with pytest.raises(ValueError, match=message) as error:
        load(folder)
    assert str(folder) in str(error.value)


def sharded(folder):
    """A model folder in three files or more, its index, and what it holds."""
    decoder = toy_decoder()
    save_folder(folder, decoder, TOKENIZER, dtype=jnp.float32, shard_bytes=6000)
    assert not (folder / "model.safetensors").exists()
    return decoder, json.loads((folder / INDEX).read_text())["weight_map"]


def test_several_files_hold_the_same_as_one(tmp_path):
    decoder, index = sharded(tmp_path)
    assert len(set(index.values())) > 2
    for loaded, saved in zip(jax.tree.leaves(load(tmp_path).params), leaves(decoder), strict=True):
        assert (loaded == saved).all()
    write_toy_folder(tmp_path)  # saved again in one: nothing of the old files stays
    assert not list(tmp_path.glob("model-*"))
    assert not (tmp_path / INDEX).exists()


def test_a_broken_index_is_described(tmp_path):
    _, index = sharded(tmp_path)
    first = min(index.values())

    def rewrite(change):
        (tmp_path / INDEX).write_text(json.dumps({"weight_map": {**index, **change}}))

    for outside in ("../secrets.safetensors", "/etc/passwd", "sub/model.safetensors", "..", "..\\x"):
        rewrite({NORM: outside})
        with pytest.raises(ValueError, match=r"is outside of the folder; a plain file name is wanted"):
            load(tmp_path)
    rewrite({NORM: "model-00009-of-00009.safetensors"})
    with pytest.raises(ValueError, match=r"model-00009-of-00009.safetensors: no such file; .*index.json names it"):
        load(tmp_path)
    rewrite({NORM: next(name for name in index.values() if name != index[NORM])})
    with pytest.raises(ValueError, match=f"tensor '{NORM}' is missing, which .*index.json says is here"):
        load(tmp_path)
    (tmp_path / INDEX).write_text("{}")
    with pytest.raises(ValueError, match="key 'weight_map' must map tensors to files, got None"):
        load(tmp_path)
    rewrite({})
    (tmp_path / first).unlink()
    with pytest.raises(ValueError, match=f"{first}: no such file"):
        load(tmp_path)


def test_weights_are_held_in_the_type_that_is_asked_for(tmp_path):
    write_toy_folder(tmp_path)
    half = load(tmp_path, dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(half.params)} == {jnp.dtype(jnp.bfloat16)}
    assert half.log_probs(TOKENS).dtype == jnp.float32
    assert jnp.abs(half.log_probs(TOKENS) - load(tmp_path).log_probs(TOKENS)).max() < 0.3
    with pytest.raises(ValueError, match="dtype must be a floating type, got int32"):
        load(tmp_path, dtype=jnp.int32)


def test_tensors_split_over_devices_compute_the_same(tmp_path):
    write_toy_folder(tmp_path)
    mesh = jax.make_mesh((2,), ("tensors",), axis_types=(jax.sharding.AxisType.Auto,))
    split, whole = load(tmp_path, sharding=mesh), load(tmp_path)
    parts = [leaf.sharding.shard_shape(leaf.shape) for leaf in jax.tree.leaves(split.params)]
    sizes = [leaf.size for leaf in jax.tree.leaves(whole.params)]
    assert sum(np.prod(part) for part in parts) < 0.6 * sum(sizes)
    assert jnp.abs(split.log_probs(TOKENS) - whole.log_probs(TOKENS)).max() < 1e-5
    replicated = load(tmp_path, sharding=jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))
    assert (replicated.log_probs(TOKENS) == whole.log_probs(TOKENS)).all()


def test_a_tied_head_stored_once_more_is_accepted(tmp_path):
    decoder = write_toy_folder(tmp_path)
    retensored(tmp_path, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"]}))
    model = load(tmp_path)
    assert (full_logits(nnx.merge(model.graph, model.params), TOKENS) == full_logits(decoder, TOKENS)).all()


def test_newer_configurations_with_their_nested_rotary_settings_are_read(tmp_path):
    write_toy_folder(tmp_path, rope_theta=5000.0)
    nested = {"rope_type": "default", "rope_theta": 5000.0}
    broken(tmp_path, "config.json", lambda c: (c.pop("rope_theta"), c.update(rope_parameters=nested)))
    assert load(tmp_path).config.rope_theta == 5000.0


def test_two_models_of_one_shape_share_their_compiled_code(tmp_path):
    for seed in (0, 1):
        write_toy_folder(tmp_path / str(seed), seed=seed)
    a, b = load(tmp_path / "0"), load(tmp_path / "1")
    first, compiled = a.log_probs(TOKENS), next_log_probs._cache_size()
    again, other = a.log_probs(TOKENS), b.log_probs(TOKENS)
    assert next_log_probs._cache_size() == compiled
    assert (first == again).all()
    assert (first != other).any()
    a.log_probs(TOKENS[:, :-1])
    assert next_log_probs._cache_size() == compiled + 1  # a new length is a new shape


def test_fingerprints_tell_weights_apart(tmp_path):
    for name, seed in (("a", 0), ("b", 1)):
        write_toy_folder(tmp_path / name, seed=seed)
    assert load(tmp_path / "a").fingerprint() == load(tmp_path / "a").fingerprint()
    assert load(tmp_path / "a").fingerprint().split("-")[1] != load(tmp_path / "b").fingerprint().split("-")[1]


def test_log_probs_are_the_full_pass_and_check_their_input(tmp_path):
    decoder = write_toy_folder(tmp_path / "toy")
    model = load(tmp_path / "toy")
    law = jax.nn.log_softmax(full_logits(decoder, TOKENS))
    expected = jnp.take_along_axis(law[:, :-1], jnp.asarray(TOKENS)[:, 1:, None], axis=2)[..., 0]
    assert jnp.abs(model.log_probs(TOKENS) - expected).max() < 1e-5
    assert model.log_probs(TOKENS[:, :1]).shape == (2, 0)
    assert model.log_probs(TOKENS[:0]).shape == (0, 6)
    for bad in (-1, model.config.vocab_size):
        with pytest.raises(ValueError, match=rf"tokens must be in 0..20, got .*{bad}"):
            model.log_probs(np.array([[1, bad]]))
    for length in (0, 65):
        with pytest.raises(ValueError, match=f"tokens: model 'toy' reads rows of 1 to 64, got {length}"):
            model.log_probs(np.zeros((1, length), int))


def test_prompts_are_padded_to_a_multiple_and_must_fit(tmp_path):
    write_toy_folder(tmp_path / "toy")
    model = load(tmp_path / "toy")
    ids, known = model.pad(["4 + 5", "1"])
    assert ids.shape == known.shape == (2, 8)
    assert known.sum(axis=1).tolist() == [4, 2]
    assert ids[0, :4].tolist() == model.encode("4 + 5")
    assert (ids[~known] == model.config.pad_token_id).all()
    assert model.pad(["1 " * 63])[0].shape == (1, 64)
    with pytest.raises(ValueError, match="a prompt has 65 tokens, model 'toy' reads 64"):
        model.pad(["1", "1 " * 64])


def test_scores_need_pairs(tmp_path):
    write_toy_folder(tmp_path, num_labels=1)
    with pytest.raises(ValueError, match="prompts and prefixes must pair up, got 2 and 1"):
        load_reward(tmp_path).score(["1", "2"], ["3"])


def test_texts_survive_and_unknown_words_are_named(tmp_path):
    write_toy_folder(tmp_path / "toy")
    model = load(tmp_path / "toy")
    text = "Numbers: 4 6 8 Target: 9 \n 4 + 5 = 9 left: 9"
    assert model.encode(text)[0] == model.config.bos_token_id
    assert model.decode(model.encode(text)) == text
    assert model.token_id("\n") == 4
    with pytest.raises(ValueError, match="'10' is not one token of model 'toy'"):
        model.token_id("10")
    for bad, word in (("4 + 55 = 9", "55"), ("solve 4 + 5", "solve"), ("4 + 5 = x9", "x9")):
        with pytest.raises(ValueError, match=f"'{word}' is not in the model's vocabulary"):
            model.encode(bad)


def test_saving_makes_the_folders_it_needs(tmp_path):
    write_toy_folder(tmp_path / "a" / "b")
    assert load(tmp_path / "a" / "b").name == "b"
    assert {file.name for file in (tmp_path / "a" / "b").iterdir()} == {
        "config.json", "model.safetensors", "tokenizer.json"
    }  # fmt: skip
