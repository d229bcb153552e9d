"""Rotary positions: frequencies as the families scale them, and the rotation itself."""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ppl.lm.config import DecoderConfig


def frequencies(config: DecoderConfig, *, local: bool) -> Float[np.ndarray, " half"]:
    """Radians a position for each pair of coordinates, float32; `local`: of a layer with a sliding window.

    **Source:** Su et al. (2021), eq. 15; Llama 3.1's scaling as its reference implementation has it.
    """
    half = config.head_dim // 2
    # A layer with a window reaches no further than training did, so families that tell the two apart stretch one.
    apart = local and config.rope_local_theta is not None
    theta = config.rope_local_theta if apart else config.rope_theta
    assert theta is not None
    plain = theta ** (-np.arange(half) / half)
    scaling = config.rope_scaling
    if scaling is None or apart:
        return plain.astype(np.float32)
    if scaling.kind == "linear":
        return (plain / scaling.factor).astype(np.float32)
    turns = scaling.original_length * plain / (2 * math.pi)  # in the length that the model was trained on first
    keep = np.clip((turns - scaling.low) / (scaling.high - scaling.low), 0, 1)
    return ((1 - keep) * plain / scaling.factor + keep * plain).astype(np.float32)


def rotate(
    x: Float[Array, "*batch query dim"],
    cos: Float[Array, "*#batch query half"],
    sin: Float[Array, "*#batch query half"],
) -> Float[Array, "*batch query dim"]:
    """Turn pairs of coordinates, halves paired as in Hugging Face's Llama (not interleaved as in the paper)."""
    half = x.shape[-1] // 2
    a, b = x[..., :half].astype(jnp.float32), x[..., half:].astype(jnp.float32)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)
