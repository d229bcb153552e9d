"""The loop of all Markov chain samplers: warm up, then advance in pieces from the host.

Between two pieces the progress bar moves, and a state can be saved. One compiled program makes any number of draws, up
to the length of its arrays, so that a piece takes about a second and a short run is one call. The key of step t is
`fold_in(key, t)`: neither pieces nor a resumed run change a draw. On a CPU chains go in groups, each on a processor of
its own. Both programs are compiled once for each (model, shapes, method, number of chains), side by side, and kept.
"""

import concurrent.futures
import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Key, PyTree, Shaped

from ppl.inference.batching import Layout, over_chains, side_by_side, where_new_arrays_are
from ppl.inference.checkpoint import Checkpoint, storable
from ppl.inference.compiling import Ahead, InOrder
from ppl.inference.densities import apart_from_data, guarded, with_small_products_summed
from ppl.inference.posterior import Posterior, posterior_of
from ppl.inference.program import Program
from ppl.inference.progress import progress
from ppl.inference.sampler import Pacing, Sampler, Target
from ppl.inference.starts import given_starts, starting_points, usable_points

# Seconds that a piece is to take.
_PIECE = 1.0
# Numbers up to which a run's draws have an array in every piece; beyond it a tenth of them do.
_SMALL = 2**20


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
    at_home = layout.devices == 1 and where_new_arrays_are((key, program))
    if not at_home:
        layout = dataclasses.replace(layout, batch=layout.batch * layout.groups, groups=1)
    begun = time.perf_counter()
    key_start, key_warm, key_run = jax.random.split(key, 3)
    given = None
    if starts is not None:
        values = starts.sample(chains, key_start) if isinstance(starts, Posterior) else starts
        given = given_starts(program, values, chains)
    sizes = {"chains": chains, "draws": draws, "thin": thin, **dataclasses.asdict(layout)}
    # What goes by the number of cores stays as it was begun, perhaps on another machine.
    free = ("batch", "groups") if chain_method == "auto" and batch_size is None else ()
    store = Checkpoint.of(checkpoint, program, method, key, sizes, given, free)
    if store is not None:
        layout = dataclasses.replace(layout, **{name: store.identity[name] for name in free})
    tenth = max(1, -(-draws // 10))
    run = _Run((key_warm, key_run), program, method, layout, chains, draws, thin, at_home)
    with progress(name, method.warmup + draws * thin, enabled=show_progress) as tick:
        resumed = None if store is None else store.restore(run.carry_shapes())
        if resumed is None:
            run.warm_up(lambda: starting_points(key_start, program, chains) if given is None else given)
            if store is not None and store.due:
                store.save(0, run.carry())
        else:
            run.resume(*resumed)
        tick(advance=method.warmup + run.done * thin)
        while run.done < draws:
            before = run.done
            run.advance(draws if store is None else tenth - before % tenth)
            if store is not None and (store.due or run.done % tenth == 0 or run.done == draws):
                store.save(run.done, run.carry(), **run.kept())
            tick(advance=(run.done - before) * thin)
    kept = run.kept()
    attrs = {"seconds": time.perf_counter() - begun, "warmup": method.warmup, "thin": thin}
    return posterior_of(program, jnp.asarray(kept["positions"]), method=name, stats=kept["stats"], attrs=attrs)


def traced_chains(
    key: Key[Array, ""], program: Program, method: Sampler, *, chains: int, draws: int, thin: int
) -> tuple[Float[Array, "chains draws d"], Bool[Array, ""]]:
    """The unconstrained draws of a whole run inside `jit` or `vmap`, and whether all chains found a start."""
    key_start, key_warm, key_run = jax.random.split(key, 3)
    starts, good = usable_points(key_start, program, chains)
    of_all, which = (program, method, Layout(1, chains), chains), jnp.arange(chains)
    carry = _warm(key_warm, *of_all, which, starts)
    _, made = _advance(key_run, *of_all, which, carry, jnp.asarray(0), jnp.asarray(draws), draws, thin)
    return made["positions"], jnp.all(good)


class _Run:
    """The chains of a run, in groups that go on side by side, and on the host their draws so far."""

    def __init__(
        self,
        keys: tuple[Key[Array, ""], Key[Array, ""]],
        program: Program,
        method: Sampler,
        layout: Layout,
        chains: int,
        draws: int,
        thin: int,
        at_home: bool,
    ):
        self.keys, self.of_all = keys, (program, method, layout, chains)
        self.groups = np.split(np.arange(chains, dtype=np.int32), layout.groups)
        at = jax.ShapeDtypeStruct((len(self.groups[0]), program.structure.size), jnp.result_type(float))
        self.warming = (keys[0], *self.of_all, self.groups[0], at)  # arguments of `_warm`
        self.at_home, self.warmup, self.draws, self.thin, self.done = at_home, method.warmup, draws, thin, 0
        self.length = draws if chains * draws * program.structure.size <= _SMALL else -(-draws // 10)
        self.pace = 0.0  # draws a second, as far as is known
        self.carries: list[PyTree] = []
        self.rows: dict[str, Any] = {}

    def carry_shapes(self) -> PyTree:
        """Those of one group."""
        return _warm.trace(*self.warming).out_info

    def warm_up(self, starts: Callable[[], Float[Array, "chains d"]]) -> None:
        """Warm all chains up, and compile what advances them, too."""
        programs = warm, _ = self._ahead(_warm, self.warming), self._move
        positions = jnp.split(starts(), len(self.groups))
        concurrent.futures.wait([program.program for program in programs if isinstance(program, Ahead)])

        def warmed(which: Int[np.ndarray, " group"], positions: Float[Array, "group d"]) -> PyTree:
            return jax.block_until_ready(warm(self.keys[0], *self.of_all, which, positions))

        since = time.perf_counter()
        self.carries = side_by_side(warmed, self.groups, positions)
        self.pace = self.warmup / self.thin / (time.perf_counter() - since)

    def resume(self, done: int, carry: PyTree, kept: Mapping[str, Any]) -> None:
        """Go on from what `carry()` and `kept()` were."""
        self.carries = [carry]
        if len(self.groups) > 1:
            self.carries = [_taken(carry, which) for which in self.groups]
        self._keep(slice(None), kept)
        self.done = done

    def advance(self, most: int) -> None:
        """As many draws as take about a second, or `most`, if that is less."""
        count = min(max(1, round(self.pace * _PIECE)), most, self.length, self.draws - self.done)
        start, number = np.int32(self.done * self.thin), np.int32(count)

        def moved(which: Int[np.ndarray, " group"], carry: PyTree) -> tuple[PyTree, Any]:
            made = self._move(self.keys[1], *self.of_all, which, carry, start, number, self.length, self.thin)
            return made[0], jax.device_get(made[1])

        since = time.perf_counter()
        results = side_by_side(moved, self.groups, self.carries)
        self.pace = count / (time.perf_counter() - since)
        self.carries = [carry for carry, _ in results]
        for which, (_, made) in zip(self.groups, results, strict=True):
            self._keep(which, jax.tree.map(lambda rows: rows[:, :count], made))
        self.done += count

    def carry(self) -> PyTree:
        """That of all chains."""
        if len(self.carries) == 1:
            return self.carries[0]
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *self.carries)

    def kept(self) -> dict[str, Any]:
        """Positions and statistics, `[chains, done, ...]`."""
        return jax.tree.map(lambda rows: rows[:, : self.done], self.rows)

    def _keep(self, which: Any, made: Mapping[str, Any]) -> None:
        """Rows of some chains, made after those that are done."""
        if not self.rows:
            chains = self.of_all[-1]
            self.rows = jax.tree.map(lambda x: np.empty((chains, self.draws, *x.shape[2:]), x.dtype), dict(made))
        for whole, part in zip(jax.tree.leaves(self.rows), jax.tree.leaves(made), strict=True):
            whole[which, self.done : self.done + part.shape[1]] = part

    @functools.cached_property
    def _move(self) -> Callable[..., Any]:
        """`_advance`, as `_ahead` has it."""
        which, carry, none = self.groups[0], self.carry_shapes(), np.int32(0)
        return self._ahead(_advance, (self.keys[1], *self.of_all, which, carry, none, none, self.length, self.thin))

    def _ahead(self, function: InOrder, arguments: tuple[Any, ...]) -> Callable[..., Any]:
        """The function, being compiled; where arrays are on other devices, as JAX compiles it once it has them."""
        return function.ahead(*arguments) if self.at_home else function


def _taken(carry: PyTree, which: Int[np.ndarray, " group"]) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[which], carry)


@InOrder
def _warm(
    key: Key[Array, ""],
    program: Program,
    method: Sampler,
    layout: Layout,
    chains: int,
    which: Int[Array, " group"],
    positions: Float[Array, "group d"],
) -> tuple[PyTree, PyTree]:
    target, layout = _settled(method, program, layout)

    def run(keys: Key[Array, " chains"], positions: Float[Array, "chains d"]) -> tuple[PyTree, PyTree]:
        return method.warm(keys, target, positions)

    carry = over_chains(layout, run, jax.random.split(key, chains)[which], positions)
    return storable(carry)


@InOrder
def _advance(
    key: Key[Array, ""],
    program: Program,
    method: Sampler,
    layout: Layout,
    chains: int,
    which: Int[Array, " group"],
    carry: tuple[PyTree, PyTree],
    start: Int[Array, ""],
    count: Int[Array, ""],
    length: int,
    thin: int,
) -> tuple[tuple[PyTree, PyTree], dict[str, Any]]:
    """States after `count` draws of chains `which`; `positions` and `stats` of the draws, `[group, length, ...]`."""
    states, parameters = carry
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

    states, (positions, stats) = over_chains(layout, run, which, states, parameters)
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
