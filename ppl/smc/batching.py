"""Kernels over a bounded number of particles at a time."""

import equinox as eqx
import jax
from jaxtyping import Array, Float, Key

from ppl.smc.feynman_kac import FeynmanKac, InitKernel, Input, State, StepKernel


class _Init(eqx.Module):
    kernel: InitKernel
    batch_size: int = eqx.field(static=True)

    def __call__(self, key: Key[Array, ""], n: int, u: Input, /) -> tuple[State, Float[Array, " n"]]:
        batches = _batches(n, self.batch_size)
        keys = jax.random.split(key, batches)
        return _merge(jax.lax.map(lambda k: self.kernel(k, n // batches, u), keys))


class _Step(eqx.Module):
    kernel: StepKernel
    batch_size: int = eqx.field(static=True)

    def __call__(self, key: Key[Array, ""], state: State, u: Input, /) -> tuple[State, Float[Array, " n"]]:
        n = jax.tree.leaves(state)[0].shape[0]
        batches = _batches(n, self.batch_size)
        keys = jax.random.split(key, batches)
        split = jax.tree.map(lambda x: x.reshape(batches, -1, *x.shape[1:]), state)
        return _merge(jax.lax.map(lambda part: self.kernel(part[0], part[1], u), (keys, split)))


def in_batches(model: FeynmanKac, batch_size: int) -> FeynmanKac:
    """A model whose kernels see at most `batch_size` particles at a time, which bounds their working memory.

    Right only for kernels that treat particles independently of each other, as plain `vmap`ped ones do: a kernel that
    looks at the whole generation (its mean, its ranks) would see a part of it. Resampling still sees all. The random
    numbers are others than those of the plain model.

    **Arguments:** `model`; `batch_size`: a divisor of the number of particles, unless that is smaller.

    **Raises:** `ValueError` if `batch_size < 1`; when run, if it does not divide the number of particles.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size: at least one particle at a time is wanted, got {batch_size}")
    return FeynmanKac(
        _Init(model.init, batch_size), _Step(model.step, batch_size), model.resampling_weights, model.arrange
    )


def _batches(n: int, batch_size: int) -> int:
    size = min(batch_size, n)
    if n % size:
        raise ValueError(f"batch_size: must divide the number of particles, {n}, got {batch_size}")
    return n // size


def _merge(result: tuple[State, Float[Array, "batches size"]]) -> tuple[State, Float[Array, " n"]]:
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), result)
