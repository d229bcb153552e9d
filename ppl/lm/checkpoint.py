"""Model folders in Hugging Face layout: config.json, safetensors in one file or several, tokenizer.json.

Weights are safetensors only (a pickle can run code when it is read). Files are mapped into memory and read one tensor
at a time, so that a model takes no more host memory than its largest tensor beside what its devices hold.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from tokenizers import Tokenizer

from ppl.lm.config import DecoderConfig
from ppl.lm.decoder import Decoder
from ppl.lm.families import read_config, read_json, write_config
from ppl.lm.placement import Placement, checked, place
from ppl.lm.tensors import Entry, entries, ignored
from ppl.lm.tokenizer import load_tokenizer

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_FLOATS = ("F64", "F32", "F16", "BF16")
SHARD_BYTES = 4 << 30  # of one file that `save_folder` writes


def load_folder(
    folder: Path, *, dtype: DTypeLike = jnp.float32, sharding: Placement = None
) -> tuple[Decoder, Tokenizer]:
    """The decoder and tokenizer in `folder`.

    **Arguments:** `dtype`: what weights are held and multiplied in; `sharding`: where they go, see `ppl.lm.load`.
    **Raises:** `ValueError` naming the file, and the tensor where one is missing, has the wrong shape or has no place.
    """
    config, tokenizer = read_config(folder / "config.json"), load_tokenizer(folder / "tokenizer.json")
    check_vocabulary(folder, config, tokenizer)
    if not jnp.issubdtype(jnp.dtype(dtype), jnp.floating):
        raise ValueError(f"dtype must be a floating type, got {jnp.dtype(dtype).name}")
    sharding = checked(sharding)
    graph, state = nnx.split(nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0))))
    layout = entries(config)
    with ExitStack() as stack:
        stored = _open_all(folder, stack)
        take = _taker(folder, stored, layout)
        loaded = []
        for keys, leaf in nnx.to_flat_state(state):
            array = take(layout[keys])
            loaded.append((keys, leaf.replace(place(array, dtype, keys, sharding))))
    return nnx.merge(graph, nnx.from_flat_state(loaded)), tokenizer


def save_folder(
    folder: Path,
    decoder: Decoder,
    tokenizer: Tokenizer,
    *,
    dtype: DTypeLike = jnp.bfloat16,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write `decoder` and `tokenizer` to `folder` so that `transformers` opens it; weights as `dtype`.

    Files hold at most `shard_bytes` each, or one tensor; more than one come with their index.
    **Raises:** `ValueError` if `transformers` has no class for such a model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_config(decoder.config, folder / "config.json", dtype=jnp.dtype(dtype).name)
    layout, tensors = entries(decoder.config), {}
    for keys, leaf in nnx.to_flat_state(nnx.state(decoder)):
        entry = layout[keys]
        pieces = entry.split(np.asarray(leaf.get_value().astype(dtype)))
        tensors |= {name: np.ascontiguousarray(piece) for name, piece in zip(entry.names, pieces, strict=True)}
    files: list[dict[str, np.ndarray]] = [{}]
    for name, tensor in tensors.items():
        if files[-1] and sum(t.nbytes for t in files[-1].values()) + tensor.nbytes > shard_bytes:
            files.append({})
        files[-1][name] = tensor
    for old in (*folder.glob("model*.safetensors"), folder / INDEX):
        old.unlink(missing_ok=True)
    if len(files) == 1:
        save_file(files[0], folder / WEIGHTS, metadata={"format": "pt"})
    else:
        index = {}
        for i, part in enumerate(files):
            name = f"model-{i + 1:05}-of-{len(files):05}.safetensors"
            save_file(part, folder / name, metadata={"format": "pt"})
            index |= dict.fromkeys(part, name)
        total = sum(tensor.nbytes for tensor in tensors.values())
        (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": index}, indent=2))
    tokenizer.save(str(folder / "tokenizer.json"))


def check_vocabulary(folder: Path, config: DecoderConfig, tokenizer: Tokenizer) -> None:
    """A vocabulary may be filled up beyond the tokenizer's last token (to a round number), never be smaller.

    **Raises:** `ValueError` if the tokenizer has a token that the model has not, or has none for over a tenth of ids.
    """
    largest = max(tokenizer.get_vocab().values(), default=-1)
    if largest >= config.vocab_size:
        raise ValueError(
            f"{folder}: tokenizer.json has token {tokenizer.id_to_token(largest)!r} with id {largest}, config.json "
            f"says vocab_size {config.vocab_size}: the two are not of one model"
        )
    if (count := tokenizer.get_vocab_size()) < 0.9 * config.vocab_size:
        raise ValueError(
            f"{folder}: tokenizer.json has {count} tokens, config.json says vocab_size {config.vocab_size}: the two "
            "are not of one model"
        )


def _open_all(folder: Path, stack: ExitStack) -> Mapping[str, tuple[Path, safe_open]]:
    """Every tensor's name, with the file that holds it, opened and mapped but not read."""
    found: dict[str, tuple[Path, safe_open]] = {}
    for path, names in _files(folder):
        try:
            file = stack.enter_context(safe_open(path, "np"))
        except (SafetensorError, OSError, ValueError) as error:
            raise ValueError(f"{path}: not a readable safetensors file ({error})") from None
        held = set(file.keys())
        if lacking := sorted((names or set()) - held):
            raise ValueError(f"{path}: tensor {lacking[0]!r} is missing, which {INDEX} says is here")
        found |= dict.fromkeys(names or held, (path, file))
    return found


def _files(folder: Path) -> Iterator[tuple[Path, set[str] | None]]:
    """The weight files of `folder`, each with the tensors that the index promises in it (None: no index)."""
    if (folder / WEIGHTS).is_file():
        yield folder / WEIGHTS, None
        return
    if not (folder / INDEX).is_file():
        pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
        if pickles:
            raise ValueError(
                f"{folder / pickles[0]}: weights in a pickle are not read, because a pickle can run code; convert them "
                f"to {WEIGHTS}"
            )
        raise ValueError(
            f"{folder / WEIGHTS}: no such file; a model folder holds config.json, {WEIGHTS} (or {INDEX} and its "
            "files), tokenizer.json"
        )
    weight_map = read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{folder / INDEX}: key 'weight_map' must map tensors to files, got {weight_map!r:.60}")
    for name in sorted(set(map(str, weight_map.values()))):
        # Only a plain name stays inside of the folder.
        if Path(name).name != name or name in ("", ".", "..") or "\\" in name:
            raise ValueError(f"{folder / INDEX}: file {name!r} is outside of the folder; a plain file name is wanted")
        if not (folder / name).is_file():
            raise ValueError(f"{folder / name}: no such file; {INDEX} names it")
        yield folder / name, {tensor for tensor, place in weight_map.items() if place == name}


def _taker(
    folder: Path, stored: Mapping[str, tuple[Path, safe_open]], layout: Mapping[tuple, Entry]
) -> Callable[[Entry], np.ndarray]:
    """Reads an entry's pieces, once all names and shapes are known to fit."""
    wanted = {name: shape for entry in layout.values() for name, shape in zip(entry.names, entry.shapes, strict=True)}
    # A file of the body alone (GPT-2's first one) leaves out the body's name.
    bare = {name: name.split(".", 1)[1] for name in wanted if name.startswith(("model.", "transformer."))}
    called = bare if bare and not any(name in stored for name in bare) else {}
    here = next(iter(stored.values()))[0] if stored else folder / WEIGHTS
    for name, shape in wanted.items():
        place = stored.get(called.get(name, name))
        if place is None:
            raise ValueError(f"{here}: tensor {name!r} is missing")
        piece = place[1].get_slice(called.get(name, name))
        if tuple(piece.get_shape()) != shape:
            raise ValueError(
                f"{place[0]}: tensor {name!r} has shape {tuple(piece.get_shape())}, config.json asks for {shape}"
            )
        if piece.get_dtype() not in _FLOATS:
            raise ValueError(f"{place[0]}: tensor {name!r} is {piece.get_dtype()}, wanted one of {', '.join(_FLOATS)}")
    # A tied head may be stored once more. Anything else (a bias, another head) would change what the model computes.
    known = {called.get(name, name) for name in wanted} | {"lm_head.weight"}
    if unknown := sorted(name for name in stored.keys() - known if not ignored(f".{name}")):
        raise ValueError(f"{stored[unknown[0]][0]}: tensor {unknown[0]!r} has no place in the model of config.json")

    def take(entry: Entry) -> np.ndarray:
        names = [called.get(name, name) for name in entry.names]
        return entry.join([stored[name][1].get_tensor(name) for name in names])

    return take
