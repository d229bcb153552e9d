"""How samplers' programs are compiled."""

import concurrent.futures
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

# XLA on a CPU hands operations of one program to several threads where it can. Those of a sampler's step take less than
# the handing over: chains of posteriordb's arma took 0.15 s in place of 0.09. And jaxlib 0.10.2 can wait for ever where
# two of them are Cholesky factors of many matrices (draws of gp_pois: within 20 calls; in order not in 6000).
_IN_ORDER = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}

_ARRAYS = (jax.Array, np.ndarray, np.generic, jax.ShapeDtypeStruct)


class Ahead(NamedTuple):
    """A function of arrays of certain shapes, compiled or about to be; it may be called in any thread."""

    results: PyTree  # their shapes
    program: concurrent.futures.Future[jax.stages.Compiled]

    def __call__(self, *args: Any) -> Any:
        return self.program.result()(_split((args, {}))[0])


class InOrder:
    """A function, or method, compiled so that its operations are done one after the other.

    What is no array is held static. Under another transformation it is the function itself, as a part of a program has
    no order of its own.
    """

    def __init__(self, function: Callable[..., Any]):
        self.function = function
        functools.update_wrapper(self, function)

    def __get__(self, instance: Any, owner: type | None = None) -> Callable[..., Any]:
        return self if instance is None else functools.partial(self, instance)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        arrays, static = _split((args, kwargs))
        if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(arrays)):
            return self.function(*args, **kwargs)
        return self._compiled(arrays, static)

    def trace(self, *args: Any, **kwargs: Any) -> jax.stages.Traced:
        """As of `jax.jit`: of arrays or of their shapes."""
        return self._compiled.trace(*_split((args, kwargs)))

    def ahead(self, *args: Any) -> "Ahead":
        """The function for such arguments, being compiled in a thread of its own. It is kept, and given again.

        It is traced in this thread, because NumPyro's handlers are one stack for all threads.

        **Arguments:** `args`: as of a call, arrays or their shapes.
        """
        leaves, treedef = jax.tree.flatten(_shapes_of(args))
        return compiled_ahead(self, treedef, tuple(leaves), _settings())

    @functools.cached_property
    def _compiled(self) -> Any:
        def run(arrays: PyTree, static: tuple[Any, ...]) -> PyTree:
            treedef, *leaves = static
            args, kwargs = eqx.combine(arrays, jax.tree.unflatten(treedef, leaves))
            return self.function(*args, **kwargs)

        run.__name__ = self.function.__name__  # by which compiled programs are told apart
        return jax.jit(run, static_argnums=1, compiler_options=_known_options())


@functools.lru_cache(maxsize=256)
def compiled_ahead(function: InOrder, treedef: Any, leaves: tuple[Any, ...], settings: tuple[Any, ...]) -> Ahead:
    """What `InOrder.ahead` gives, by what it depends on."""
    traced = function.trace(*jax.tree.unflatten(treedef, leaves))
    pool = concurrent.futures.ThreadPoolExecutor(max_workers=1)
    program = pool.submit(traced.lower().compile)
    pool.shutdown(wait=False)
    return Ahead(_shapes_of(traced.out_info), program)


def _settings() -> tuple[Any, ...]:
    """JAX's settings in this thread. What was compiled under others is another program."""
    return tuple(getattr(jax.config, name, None) for name in jax.config.values)


def _shapes_of(tree: PyTree) -> PyTree:
    """The tree with shapes and dtypes in place of arrays, as the compiler tells them apart."""

    def shape(leaf: Any) -> Any:
        if not isinstance(leaf, _ARRAYS):
            return leaf
        kind: Any = leaf if isinstance(leaf, jax.ShapeDtypeStruct) else jax.typeof(leaf)
        return jax.ShapeDtypeStruct(kind.shape, kind.dtype, weak_type=kind.weak_type)

    return jax.tree.map(shape, tree)


@functools.cache
def loops_are_whole() -> bool:
    """Whether XLA makes one function of a small loop (see `ppl/__init__.py`), so that a loop costs next to nothing.

    It does not on a GPU, where JAX was at work before `import ppl`, and under `XLA_FLAGS` of the user's own.
    """
    if jax.default_backend() != "cpu":
        return False

    def loop(x: Float[Array, "8192"]) -> Float[Array, "8192"]:
        return jax.lax.while_loop(lambda x: x[0] < 9.0, lambda x: x + 1.0, x)

    program = jax.jit(loop).lower(jax.ShapeDtypeStruct((8192,), jnp.float32)).compile()
    return "xla_cpu_small_call" in (program.as_text() or "")


def in_one_piece(function: Callable[[PyTree], PyTree], argument: PyTree) -> PyTree:
    """`function(argument)`, of its argument's structure, which as part of a program becomes one piece of code.

    Where a loop's body holds a product of matrices, or much data, XLA carries out one by one the small operations that
    go with it, too, each handed over. A small loop of their own is one function: here of one pass. (A chain's step of
    posteriordb's sblrc took 0.92 us in place of 1.25.)
    """
    if not loops_are_whole():
        return function(argument)
    # XLA would do away with a loop that it knows to have one pass.
    once = (jax.lax.optimization_barrier(jnp.ones((), bool)), argument)
    return jax.lax.while_loop(lambda carry: carry[0], lambda carry: (jnp.zeros((), bool), function(carry[1])), once)[1]


def _split(arguments: PyTree) -> tuple[PyTree, tuple[Any, ...]]:
    """The arrays among the arguments, or their shapes, and the rest, which can be hashed."""
    arrays, rest = eqx.partition(arguments, lambda leaf: isinstance(leaf, _ARRAYS))
    leaves, treedef = jax.tree.flatten(rest)
    return arrays, (treedef, *leaves)


@functools.cache
def _known_options() -> dict[str, Any]:
    """The options, unless this version of XLA has other names for them: then programs run as it has them run."""
    try:
        jax.jit(lambda: 0, compiler_options=_IN_ORDER).lower().compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return _IN_ORDER
