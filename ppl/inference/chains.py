"""The loop of all Markov chain samplers: warm up, then advance in blocks from the host.

Blocks make three things one: the progress bar ticks between them, a checkpoint is a state between two of them, and the
key of step t is `fold_in(key, t)`, so that neither blocks nor a resumed run change a draw. Both programs are compiled
once for each (model, shapes, method, number of chains), side by side, and kept.
"""

import concurrent.futures
import dataclasses
import time
from collections.abc import Mapping
from os import PathLike
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Key, PyTree, Shaped

from ppl.inference.batching import Layout, over_chains
from ppl.inference.checkpoint import Checkpoint, storable
from ppl.inference.compiling import InOrder
from ppl.inference.densities import LogDensity, apart_from_data, guarded, with_small_products_summed
from ppl.inference.posterior import Posterior, posterior_of
from ppl.inference.program import Program
from ppl.inference.progress import progress
from ppl.inference.starts import given_starts, starting_points, usable_points

# What a sampler is given to sample from: the log density, or what its own `target(program)` makes of the program.
Target = Any

_BLOCKS = 10


@runtime_checkable
class Warming(Protocol):
    """What samplers have in common: frozen settings, and functions of all chains at once.

    A sampler that moves by something else than the log density has a method `target(program)` too, and is given what
    that returns in place of `log_density`. One that draws minibatches of the data says so by `minibatches = True`; one
    whose chains learn from each other by `ensemble = True`; of all others, a chain depends on its own keys alone. One
    whose chains do unequal work in a step, such as trees, says so by `uneven = True`.
    """

    @property
    def warmup(self) -> int:
        """Steps of warm-up, whose draws are not kept."""
        ...

    def warm(
        self, keys: Key[Array, " chains"], log_density: LogDensity, positions: Float[Array, "chains d"]
    ) -> tuple[PyTree, PyTree]:
        """Adapt. **Returns:** the state of the chains, and the parameters found.

        Every leaf is `[chains, ...]`, but for parameters that an ensemble shares.
        """
        ...


@runtime_checkable
class Stepping(Warming, Protocol):
    """A sampler whose chains make their steps together."""

    def step(
        self, keys: Key[Array, " chains"], log_density: LogDensity, states: PyTree, parameters: PyTree
    ) -> tuple[PyTree, Float[Array, "chains d"], dict[str, Shaped[Array, " chains"]]]:
        """One step of all chains. **Returns:** states, positions, and statistics by ArviZ's names."""
        ...


@runtime_checkable
class Pacing(Warming, Protocol):
    """A sampler whose chains each go at their own pace, so that none waits in a step for one that has more to do."""

    def advance(
        self,
        keys: Key[Array, " chains"],
        log_density: LogDensity,
        states: PyTree,
        parameters: PyTree,
        start: Int[Array, ""],
        length: int,
        thin: int,
    ) -> tuple[PyTree, Float[Array, "chains length d"], dict[str, Shaped[Array, "chains length"]]]:
        """`length` draws of every chain, of which it makes `thin` for one, the first being draw `start` of its key.

        **Returns:** states, positions, and statistics by ArviZ's names.
        """
        ...


# A Markov chain Monte Carlo method.
Sampler = Stepping | Pacing


def run_chains(
    key: Key[Array, ""],
    program: Program,
    method: Sampler,
    *,
    chains: int,
    draws: int,
    name: str,
    thin: int = 1,
    chain_method: str = "auto",
    batch_size: int | None = None,
    show_progress: bool = False,
    checkpoint: str | PathLike[str] | None = None,
    starts: Posterior | Mapping[str, Shaped[ArrayLike, "..."]] | None = None,
) -> Posterior:
    """Draws of all chains by a sampler; see `ppl.infer` for the arguments."""
    together = {attribute: getattr(method, attribute, False) for attribute in ("ensemble", "uneven")}
    layout = Layout.of(chains, chain_method, batch_size, **together, label=name)
    begun = time.perf_counter()
    key_start, key_warm, key_run = jax.random.split(key, 3)
    block = max(1, -(-draws // _BLOCKS))
    sizes = {"chains": chains, "draws": draws, "thin": thin, **dataclasses.asdict(layout)}
    given = None
    if starts is not None:
        values = starts.sample(chains, key_start) if isinstance(starts, Posterior) else starts
        given = given_starts(program, values, chains)
    store = Checkpoint.of(checkpoint, program, method, key, sizes, given)
    positions: list[np.ndarray] = []
    statistics: list[dict[str, np.ndarray]] = []
    with progress(name, 1 + -(-draws // block), enabled=show_progress) as tick:
        warming = (key_warm, program, method, layout, jnp.empty((chains, program.structure.size)))
        lowered = _warm.lower(*warming)
        resumed = None if store is None else store.restore(lowered.out_info)
        if resumed is None:
            compiled = _compiled(warming, lowered, block, thin)
            begin = starting_points(key_start, program, chains) if given is None else given
            concurrent.futures.wait(compiled)
            carry, done = _warm(key_warm, program, method, layout, begin), 0
        else:
            done, carry, kept = resumed
            positions, statistics = [kept["positions"]], [kept["stats"]]
        tick()
        while done < draws:
            carry, kept = _advance(key_run, program, method, layout, carry, jnp.asarray(done * thin), block, thin)
            moved, stats = jax.device_get(kept)
            positions.append(np.asarray(moved))
            statistics.append(stats)
            done += block
            if store is not None:
                statistics = [{name: np.concatenate([part[name] for part in statistics]) for name in stats}]
                positions = [np.concatenate(positions)]
                store.save(done, carry, positions=positions[0], stats=statistics[0])
            tick()
    moved = np.concatenate(positions)[:draws].swapaxes(0, 1)
    stats = {
        statistic: np.concatenate([part[statistic] for part in statistics])[:draws].swapaxes(0, 1)
        for statistic in statistics[0]
    }
    attrs = {"seconds": time.perf_counter() - begun, "warmup": method.warmup, "thin": thin}
    return posterior_of(program, jnp.asarray(moved), method=name, stats=stats, attrs=attrs)


def traced_chains(
    key: Key[Array, ""], program: Program, method: Sampler, *, chains: int, draws: int, thin: int
) -> tuple[Float[Array, "chains draws d"], Bool[Array, ""]]:
    """The unconstrained draws of a whole run inside `jit` or `vmap`, and whether all chains found a start."""
    key_start, key_warm, key_run = jax.random.split(key, 3)
    starts, good = usable_points(key_start, program, chains)
    layout = Layout(1, chains)
    carry = _warm(key_warm, program, method, layout, starts)
    _, (positions, _) = _advance(key_run, program, method, layout, carry, jnp.asarray(0), draws, thin)
    return positions.swapaxes(0, 1), jnp.all(good)


def _compiled(
    warming: tuple[Any, ...], lowered: jax.stages.Lowered, block: int, thin: int
) -> list[concurrent.futures.Future[Any]]:
    """`_warm` and `_advance`, compiled side by side: most of what a first run takes. Calls find them in JAX's cache.

    They are traced one after the other, because NumPyro's handlers are one stack for all threads.

    **Arguments:** `warming`: arguments of `_warm`. `lowered`: what it was lowered to.
    """
    pool = concurrent.futures.ThreadPoolExecutor(max_workers=2)
    compiled = [pool.submit(lowered.compile)]
    carry = jax.tree.map(lambda x: jnp.empty(x.shape, x.dtype), lowered.out_info)
    compiled.append(pool.submit(_advance.lower(*warming[:4], carry, jnp.asarray(0), block, thin).compile))
    pool.shutdown(wait=False)
    return compiled


@InOrder
def _warm(
    key: Key[Array, ""], program: Program, method: Sampler, layout: Layout, positions: Float[Array, "chains d"]
) -> tuple[PyTree, PyTree]:
    target, layout = _settled(method, program, layout)

    def run(keys: Key[Array, " chains"], positions: Float[Array, "chains d"]) -> tuple[PyTree, PyTree]:
        return method.warm(keys, target, positions)

    carry = over_chains(layout, run, jax.random.split(key, positions.shape[0]), positions)
    return storable(carry)


@InOrder
def _advance(
    key: Key[Array, ""],
    program: Program,
    method: Sampler,
    layout: Layout,
    carry: tuple[PyTree, PyTree],
    start: Int[Array, ""],
    length: int,
    thin: int,
) -> tuple[tuple[PyTree, PyTree], tuple[Float[Array, "length chains d"], dict[str, Shaped[Array, "length chains"]]]]:
    states, parameters = carry
    chains = jax.tree.leaves(states)[0].shape[0]
    target, layout = _settled(method, program, layout)

    def run(which: Int[Array, " chains"], states: PyTree, parameters: PyTree) -> tuple[PyTree, PyTree]:
        if isinstance(method, Pacing):
            keys = jax.random.split(key, chains)[which]
            states, *kept = method.advance(keys, target, states, parameters, start, length, thin)
            return states, tuple(kept)
        move = method.step

        def step(states: PyTree, t: Int[Array, ""]) -> tuple[PyTree, tuple[Array, dict[str, Array]]]:
            keys = jax.random.split(jax.random.fold_in(key, t), chains)[which]
            states, positions, stats = move(keys, target, states, parameters)
            return states, (positions, stats)

        def draw(states: PyTree, t: Int[Array, ""]) -> tuple[PyTree, tuple[Array, dict[str, Array]]]:
            if thin == 1:
                return step(states, start + t)
            states, kept = jax.lax.scan(step, states, start + t * thin + jnp.arange(thin))
            return states, jax.tree.map(lambda x: x[-1], kept)

        states, kept = jax.lax.scan(draw, states, jnp.arange(length))
        return states, jax.tree.map(lambda x: x.swapaxes(0, 1), kept)  # chains first

    states, kept = over_chains(layout, run, jnp.arange(chains), states, parameters)
    return (states, parameters), jax.tree.map(lambda x: x.swapaxes(0, 1), kept)


def _settled(method: Sampler, program: Program, layout: Layout) -> tuple[Target, Layout]:
    """What a sampler samples from, and how: its own view of the program, or the log density with NaN as `-inf`."""
    own, size = getattr(method, "target", None), program.structure.size
    if own is not None:
        target = own(program)
        return target, layout.settled(target, size)
    target = apart_from_data(guarded(program.log_density), size)
    layout = layout.settled(target, size)
    return with_small_products_summed(target, size, layout.batch), layout
