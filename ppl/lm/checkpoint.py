"""Model folders in Hugging Face layout: config.json, model.safetensors, tokenizer.json, README.md.

Weights are safetensors only (a pickle can run code when it is read). Tensor names are Llama's, linear weights
are stored [out, in] as PyTorch does, and compute is float32 whatever the file holds.
"""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from safetensors import SafetensorError
from safetensors.flax import load_file, save_file
from tokenizers import Tokenizer

from ppl.lm.config import read_config, write_config
from ppl.lm.decoder import Decoder
from ppl.lm.tokenizer import load_tokenizer


def load_folder(folder: Path) -> tuple[Decoder, Tokenizer]:
    """The decoder and tokenizer in `folder`.

    **Raises:** `ValueError` naming the file, and the tensor where one is missing, has the wrong shape or has no place.
    """
    config, tokenizer = read_config(folder / "config.json"), load_tokenizer(folder / "tokenizer.json")
    if tokenizer.get_vocab_size() != config.vocab_size:
        raise ValueError(
            f"{folder}: tokenizer.json has {tokenizer.get_vocab_size()} tokens, config.json says {config.vocab_size}"
        )
    path = folder / "model.safetensors"
    if not path.is_file():
        raise ValueError(f"{path}: no such file; a model folder holds config.json, model.safetensors, tokenizer.json")
    try:
        tensors = load_file(path)
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error})") from None
    graph, state = nnx.split(nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0))))
    flat = {_tensor_name(keys): (keys, leaf) for keys, leaf in nnx.to_flat_state(state)}
    for name, (_, leaf) in flat.items():
        if name not in tensors:
            raise ValueError(f"{path}: tensor {name!r} is missing")
        expected = leaf.get_value().shape[::-1] if _is_linear(name) else leaf.get_value().shape
        if tensors[name].shape != expected:
            raise ValueError(
                f"{path}: tensor {name!r} has shape {tensors[name].shape}, config.json asks for {expected}"
            )
    # A tied head may be stored once more. Anything else (a bias, another head) would change what the model computes.
    if unknown := sorted(tensors.keys() - flat.keys() - {"lm_head.weight"}):
        raise ValueError(f"{path}: tensor {unknown[0]!r} has no place in the model that config.json describes")
    loaded = [
        (keys, leaf.replace(jnp.asarray(tensors[name].T if _is_linear(name) else tensors[name], jnp.float32)))
        for name, (keys, leaf) in flat.items()
    ]
    return nnx.merge(graph, nnx.from_flat_state(loaded)), tokenizer


def save_folder(folder: Path, decoder: Decoder, tokenizer: Tokenizer, *, dtype: DTypeLike = jnp.bfloat16) -> None:
    """Write `decoder` and `tokenizer` to `folder` so that `transformers` opens it; weights as `dtype`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_config(decoder.config, folder / "config.json", dtype=jnp.dtype(dtype).name)
    tensors = {}
    for keys, leaf in nnx.to_flat_state(nnx.state(decoder)):
        name = _tensor_name(keys)
        value = leaf.get_value().astype(dtype)
        tensors[name] = jnp.asarray(np.ascontiguousarray(value.T)) if _is_linear(name) else value
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save(str(folder / "tokenizer.json"))


def _tensor_name(keys: tuple) -> str:
    """Hugging Face's name of the parameter at path `keys`."""
    *path, kind = (str(key) for key in keys)
    name = ".".join(path)
    return (
        f"{name if name == 'score' else 'model.' + name}.weight" if kind in ("kernel", "embedding", "scale") else name
    )


def _is_linear(name: str) -> bool:
    return name.endswith("_proj.weight") or name == "score.weight"
