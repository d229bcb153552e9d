"""Random checkpoints of every family, and what `transformers` computes with them.

    build/transformers/bin/python tests/lm/golden/make.py [--out tests/lm/golden/checkpoints]

Needs torch and transformers and nothing of ours. Each folder is what `save_pretrained` writes, with weights of bfloat16
values, and `expected.npz`: `tokens`, `valid` [rows, length], padded on the right; `logits` of their valid places, all
computed in float32; `prompt` and the 64 tokens of its `greedy` continuation. `tokenizer/` holds a byte-level BPE with a
chat template, and `texts.json` what they make of some texts and messages.
"""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

VOCAB, ROWS, GREEDY = 96, (24, 17, 5), 64
BASE = {
    "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, "bos_token_id": 1,
    "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
GEMMA3_ROPE = {
    "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
}
LM, SEQUENCE, TOKEN = (
    hf.AutoModelForCausalLM, hf.AutoModelForSequenceClassification, hf.AutoModelForTokenClassification,
)  # fmt: skip
# name: class of configuration, what it changes, class of model, largest file in bytes
CASES = {
    "llama3": (
        hf.LlamaConfig, {"rope_parameters": LLAMA3, "eos_token_id": [2, 3], "tie_word_embeddings": True}, LM, None,
    ),
    "llama2-sharded": (
        hf.LlamaConfig, {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 4}, LM, "20KB",
    ),
    "mistral": (hf.MistralConfig, {"sliding_window": 6, "head_dim": 16}, LM, None),
    "qwen2": (hf.Qwen2Config, {"tie_word_embeddings": True}, LM, None),
    "qwen2-window": (
        hf.Qwen2Config, {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}, LM, None,
    ),
    "qwen3": (hf.Qwen3Config, {"head_dim": 16}, LM, None),
    "gemma2": (hf.Gemma2Config, {"head_dim": 16, "query_pre_attn_scalar": 24, "sliding_window": 6}, LM, None),
    "gemma3": (
        hf.Gemma3TextConfig,
        {
            "head_dim": 16, "query_pre_attn_scalar": 24, "sliding_window": 6, "rope_parameters": GEMMA3_ROPE,
            "layer_types": ["sliding_attention", "full_attention"],
        },
        LM,
        None,
    ),
    "gpt2": (
        hf.GPT2Config,
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "n_inner": 40},
        LM,
        None,
    ),
    "llama-sequence": (hf.LlamaConfig, {"num_labels": 1}, SEQUENCE, None),
    "qwen2-token": (hf.Qwen2Config, {"num_labels": 2}, TOKEN, None),
    "qwen2-prm": (hf.Qwen2Config, {"num_labels": 2}, "prm", None),
}  # fmt: skip


class ProcessReward(torch.nn.Module):
    """The head of Qwen2.5-Math-PRM, whose class is not in transformers: a layer, a ReLU, and a score of two labels."""

    def __init__(self, config):
        super().__init__()
        self.config, self.model = config, hf.AutoModel.from_config(config)
        width = config.hidden_size
        self.score = torch.nn.Sequential(torch.nn.Linear(width, width), torch.nn.ReLU(), torch.nn.Linear(width, 2))

    def forward(self, input_ids, attention_mask):
        hidden = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return hf.modeling_outputs.TokenClassifierOutput(logits=self.score(hidden))


def randomise(model: torch.nn.Module, seed: int) -> None:
    """Weights well above the usual scale, of bfloat16 values, so that laws are far from uniform and norms matter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            if value.ndim == 1:
                start = value if "norm" in name or "ln_" in name else 0.0  # zero or one, by family
                new = start + 0.2 * noise
            else:
                new = noise * (1.2 if "embed" in name or "wte" in name else 1.3) * value.shape[-1] ** -0.5
            value.copy_(new.to(torch.bfloat16).float())


def make(name: str, folder: Path, seed: int) -> None:
    """One checkpoint and its expectations."""
    kind, changes, auto, shard = CASES[name]
    config = kind(**{**BASE, **changes})
    torch.manual_seed(seed)
    if auto == "prm":
        config.architectures = ["Qwen2ForProcessRewardModel"]
        model = ProcessReward(config)
    else:
        model = auto.from_config(config, attn_implementation="eager")
    randomise(model, seed)
    model.eval()
    rng = np.random.default_rng(seed)
    valid = np.arange(max(ROWS)) < np.array(ROWS)[:, None]
    tokens = np.where(valid, rng.integers(4, VOCAB, valid.shape), 0)
    with torch.no_grad():
        out = model(input_ids=torch.tensor(tokens), attention_mask=torch.tensor(valid).long()).logits.numpy()
    expected = {"tokens": tokens, "valid": valid, "logits": out}
    if auto is LM:
        prompt = rng.integers(4, VOCAB, 9)
        with torch.no_grad():
            ids = model.generate(
                torch.tensor(prompt)[None], attention_mask=torch.ones((1, 9), dtype=torch.long), do_sample=False,
                max_new_tokens=GREEDY, min_new_tokens=GREEDY, eos_token_id=None, pad_token_id=0,
            )  # fmt: skip
        expected |= {"prompt": prompt, "greedy": ids[0, 9:].numpy()}
    shutil.rmtree(folder, ignore_errors=True)
    if auto == "prm":
        from safetensors.torch import save_file

        config.save_pretrained(folder)
        save_file(
            {k: v.to(torch.bfloat16).contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors"
        )
    else:
        model.to(torch.bfloat16).save_pretrained(folder, **({"max_shard_size": shard} if shard else {}))
    np.savez_compressed(folder / "expected.npz", **expected)
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCAB)}, unk_token="w3"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.save(str(folder / "tokenizer.json"))


CHAT = (
    "{{- bos_token }}{%- for message in messages %}\n    {%- if message.role not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('unknown role ' + message.role) }}{%- endif %}\n<|{{ message.role }}|>\n"
    "{{ message['content'] | trim }}<|end|>\n{% endfor %}\n{%- if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
TEXTS = [
    "The quick brown fox.", " leading and  double  blanks\n\nnew paragraph", "naïve café, 数学 and 🙂",
    "1+2=3\t(tab)", "",
]  # fmt: skip
MESSAGES = [
    [{"role": "user", "content": "What is 2 + 2? "}],
    [
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi é"},
        {"role": "assistant", "content": "Hello."}, {"role": "user", "content": "Bye\nnow"},
    ],
]  # fmt: skip


def make_tokenizer(folder: Path) -> None:
    """A byte-level BPE learnt from this file, with a chat template."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<|start|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(Path(__file__).read_text().splitlines(), trainer)
    theirs = hf.PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<|start|>", eos_token="<|end|>")
    theirs.chat_template = CHAT
    shutil.rmtree(folder, ignore_errors=True)
    theirs.save_pretrained(folder)
    expected = {
        "texts": [{"text": text, "ids": theirs(text)["input_ids"]} for text in TEXTS],
        "chats": [
            {
                "messages": messages,
                "prompt": theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True),
                "whole": theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=False),
            }
            for messages in MESSAGES
        ],
    }
    (folder / "texts.json").write_text(json.dumps(expected, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "checkpoints")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    hf.logging.set_verbosity_error()
    for i, case in enumerate(CASES):
        make(case, arguments.out / case, arguments.seed + i)
        print(case, flush=True)
    make_tokenizer(arguments.out / "tokenizer")
