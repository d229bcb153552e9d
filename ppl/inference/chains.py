"""The loop of all Markov chain samplers: warm up, then advance in pieces from the host.

Between two pieces the progress bar moves, an interrupt is heard, and a state can be saved. One compiled program makes
any number of draws, up to the length of its arrays, so that a piece takes about a second and a short run is one call.
The key of step t is `fold_in(key, t)`: neither pieces nor a resumed run change a draw. Both programs are compiled once
for each (model, shapes, method, number of chains), side by side, and kept.
"""

import concurrent.futures
import dataclasses
import functools
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
from ppl.inference.compiling import InOrder, shapes_of
from ppl.inference.densities import LogDensity, apart_from_data, guarded, with_small_products_summed
from ppl.inference.posterior import Posterior, posterior_of
from ppl.inference.program import Program
from ppl.inference.progress import progress
from ppl.inference.starts import given_starts, starting_points, usable_points

# What a sampler is given to sample from: the log density, or what its own `target(program)` makes of the program.
Target = Any

# Seconds that a piece is to take.
_PIECE = 1.0
# Numbers up to which a run's draws have an array in every piece; beyond it a tenth of them do.
_SMALL = 2**20


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
        count: Int[Array, ""],
        length: int,
        thin: int,
    ) -> tuple[PyTree, Float[Array, "chains length d"], dict[str, Shaped[Array, "chains length"]]]:
        """`count` draws of every chain, of which it makes `thin` for one, the first being draw `start` of its key.

        **Returns:** states, positions, and statistics by ArviZ's names, of `length` draws, of which `count` count.
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
    tenth = max(1, -(-draws // 10))
    length = draws if chains * draws * program.structure.size <= _SMALL else tenth
    sizes = {"chains": chains, "draws": draws, "thin": thin, **dataclasses.asdict(layout)}
    given = None
    if starts is not None:
        values = starts.sample(chains, key_start) if isinstance(starts, Posterior) else starts
        given = given_starts(program, values, chains)
    store = Checkpoint.of(checkpoint, program, method, key, sizes, given)
    kept: dict[str, Any] = {}
    with progress(name, method.warmup + draws * thin, enabled=show_progress) as tick:
        at = jax.ShapeDtypeStruct((chains, program.structure.size), jnp.result_type(float))
        warming = (key_warm, program, method, layout, at)
        resumed = None if store is None else store.restore(_warm.trace(*warming).out_info)
        if resumed is None:
            leaves, treedef = jax.tree.flatten(shapes_of(warming))
            compiled = _compiled(treedef, tuple(leaves), length, thin)
            begin = starting_points(key_start, program, chains) if given is None else given
            concurrent.futures.wait(compiled)
            since = time.perf_counter()
            carry, done = jax.block_until_ready(_warm(key_warm, program, method, layout, begin)), 0
            pace = method.warmup / thin / (time.perf_counter() - since)
            if store is not None and store.due:
                store.save(done, carry)
        else:
            done, carry, stored = resumed
            kept = _into(kept, stored, 0, draws)
            pace = 0.0
        tick(advance=method.warmup + done * thin)
        while done < draws:
            room = min(length, draws - done) if store is None else min(length, draws - done, tenth - done % tenth)
            count = min(max(1, round(pace * _PIECE)), room)
            since = time.perf_counter()
            start = jnp.asarray(done * thin)
            carry, made = _advance(key_run, program, method, layout, carry, start, jnp.asarray(count), length, thin)
            made = _first(count, jax.device_get(made))
            pace = count / (time.perf_counter() - since)
            kept = _into(kept, made, done, draws)
            done += count
            if store is not None and (store.due or done % tenth == 0 or done == draws):
                store.save(done, carry, **_first(done, kept))
            tick(advance=count * thin)
    kept = jax.tree.map(lambda rows: rows.swapaxes(0, 1), kept)
    attrs = {"seconds": time.perf_counter() - begun, "warmup": method.warmup, "thin": thin}
    return posterior_of(program, jnp.asarray(kept["positions"]), method=name, stats=kept["stats"], attrs=attrs)


def traced_chains(
    key: Key[Array, ""], program: Program, method: Sampler, *, chains: int, draws: int, thin: int
) -> tuple[Float[Array, "chains draws d"], Bool[Array, ""]]:
    """The unconstrained draws of a whole run inside `jit` or `vmap`, and whether all chains found a start."""
    key_start, key_warm, key_run = jax.random.split(key, 3)
    starts, good = usable_points(key_start, program, chains)
    layout = Layout(1, chains)
    carry = _warm(key_warm, program, method, layout, starts)
    start, count = jnp.asarray(0), jnp.asarray(draws)
    _, made = _advance(key_run, program, method, layout, carry, start, count, draws, thin)
    return made["positions"].swapaxes(0, 1), jnp.all(good)


def _first(num: int, rows: PyTree) -> Any:
    return jax.tree.map(lambda leaf: leaf[:num], rows)


def _into(kept: dict[str, Any], made: dict[str, Any], done: int, draws: int) -> dict[str, Any]:
    """What is kept, on the host, of a run of `draws` draws, with those made after `done` of them."""
    if not kept:
        kept = jax.tree.map(lambda rows: np.empty((draws, *rows.shape[1:]), rows.dtype), made)

    def put(all_rows: np.ndarray, rows: np.ndarray) -> None:
        all_rows[done : done + rows.shape[0]] = rows

    jax.tree.map(put, kept, made)
    return kept


@functools.lru_cache(maxsize=256)
def _compiled(
    treedef: Any, leaves: tuple[Any, ...], length: int, thin: int
) -> tuple[concurrent.futures.Future[None], ...]:
    """`_warm` and `_advance`, compiled side by side: most of what a first run takes. Calls find them in JAX's cache.

    They are traced one after the other, because NumPyro's handlers are one stack for all threads.

    **Arguments:** `treedef`, `leaves`: arguments of `_warm`, of arrays the shapes.
    """
    key, program, method, layout, positions = jax.tree.unflatten(treedef, leaves)
    pool = concurrent.futures.ThreadPoolExecutor(max_workers=2)

    def compiled(traced: jax.stages.Traced) -> concurrent.futures.Future[None]:
        def compile_only(lowered: jax.stages.Lowered) -> None:
            lowered.compile()

        return pool.submit(compile_only, traced.lower())

    warming = _warm.trace(key, program, method, layout, positions)
    first = compiled(warming)
    carry = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), warming.out_info)
    number = shapes_of(jnp.asarray(0))
    second = compiled(_advance.trace(key, program, method, layout, carry, number, number, length, thin))
    pool.shutdown(wait=False)
    return first, second


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
    count: Int[Array, ""],
    length: int,
    thin: int,
) -> tuple[tuple[PyTree, PyTree], dict[str, Any]]:
    """States after `count` draws, and their `positions` and `stats`: leaves `[length, chains, ...]`."""
    states, parameters = carry
    chains = jax.tree.leaves(states)[0].shape[0]
    target, layout = _settled(method, program, layout)

    def run(which: Int[Array, " chains"], states: PyTree, parameters: PyTree) -> tuple[PyTree, PyTree]:
        if isinstance(method, Pacing):
            keys = jax.random.split(key, chains)[which]
            states, *made = method.advance(keys, target, states, parameters, start, count, length, thin)
            return states, tuple(made)
        move = method.step

        def step(states: PyTree, t: Int[Array, ""]) -> tuple[PyTree, tuple[Array, dict[str, Array]]]:
            keys = jax.random.split(jax.random.fold_in(key, t), chains)[which]
            states, positions, stats = move(keys, target, states, parameters)
            return states, (positions, stats)

        @functools.partial(jax.jit, inline=True)  # for one trace, of shapes and of the loop
        def draw(states: PyTree, t: Int[Array, ""]) -> tuple[PyTree, tuple[Array, dict[str, Array]]]:
            if thin == 1:
                return step(states, start + t)
            states, made = jax.lax.scan(step, states, start + t * thin + jnp.arange(thin))
            return states, jax.tree.map(lambda x: x[-1], made)

        def another(t: Int[Array, ""], so_far: tuple[PyTree, PyTree]) -> tuple[PyTree, PyTree]:
            states, made = draw(so_far[0], t)
            put = functools.partial(jax.lax.dynamic_update_index_in_dim, index=t, axis=0)
            return states, jax.tree.map(put, so_far[1], made)

        shapes = jax.eval_shape(draw, states, start)[1]
        rows = jax.tree.map(lambda row: jnp.zeros((length, *row.shape), row.dtype), shapes)
        states, made = jax.lax.fori_loop(0, count, another, (states, rows))
        return states, jax.tree.map(lambda x: x.swapaxes(0, 1), made)  # chains first

    states, made = over_chains(layout, run, jnp.arange(chains), states, parameters)
    positions, stats = jax.tree.map(lambda x: x.swapaxes(0, 1), made)
    return (states, parameters), {"positions": positions, "stats": stats}


def _settled(method: Sampler, program: Program, layout: Layout) -> tuple[Target, Layout]:
    """What a sampler samples from, and how: its own view of the program, or the log density with NaN as `-inf`."""
    own, size = getattr(method, "target", None), program.structure.size
    if own is not None:
        target = own(program)
        return target, layout.settled(target, size)
    target = apart_from_data(guarded(program.log_density), size)
    layout = layout.settled(target, size)
    return with_small_products_summed(target, size, layout.batch), layout
