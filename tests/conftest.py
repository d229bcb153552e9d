"""Settings every test runs under; they must be made before JAX, and before anything of `ppl`, is imported."""

import os
from importlib.metadata import version

# Two CPU devices, so that code that shards or `pmap`s is exercised on any machine. Two thirds of the tests' time goes
# into LLVM, for programs that mostly run once: they are compiled without optimisation, and those of tests marked
# `runs_long` at level 1. (A level already named holds for all.)
flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
if "xla_backend_optimization_level" not in flags:
    flags += " --xla_backend_optimization_level=1"
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # for workers and child processes, too
    # A third less time in the compiler, and a tenth of what is left: by default a program is split into modules for
    # LLVM's threads, which find no idle core here. Later versions may not have such flags (0.12 lacks the first), and
    # end the process at one they do not know.
    if version("jaxlib").startswith("0.10."):
        flags += " --xla_cpu_use_fusion_emitters=false"
    if version("jaxlib").startswith(("0.10.", "0.12.")):
        flags += " --xla_cpu_parallel_codegen_split_count=1"
os.environ["XLA_FLAGS"] = flags.strip()
# Threads of LAPACK, between two calls, wait on the cores that the other worker's programs want.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Plots are drawn to memory; no display is looked for.
os.environ["MPLBACKEND"] = "Agg"

import functools
import gc
import itertools
import sys
from pathlib import Path

from jaxtyping import install_import_hook

# Every annotation of `ppl`, array shapes and dtypes included, is checked on every call.
install_import_hook("ppl", "typechecker.check")

import hypothesis
import jax
import pytest
from jax._src.interpreters import mlir

import ppl  # noqa: F401  what it sets of XLA comes too late once a module of tests has run something

# Compilation makes the first example slow: a deadline would only measure that. Derandomised: a failure repeats.
hypothesis.settings.register_profile("ppl", deadline=None, derandomize=True, max_examples=25)
hypothesis.settings.load_profile("ppl")


# Of the tests' time 6% went into MLIR contexts: JAX makes one for each program, of a dozen dialects. Fifty programs
# share one here; then a new one takes its place, as a context keeps what it has seen.
_programs, _make_context = itertools.count(), mlir.make_ir_context
_context_of_fifty = functools.lru_cache(maxsize=1)(lambda fifty: _make_context())
mlir.make_ir_context = lambda: _context_of_fifty(next(_programs) // 50)


@pytest.hookimpl(tryfirst=True)  # before fixtures of the module, which compile too
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Compile without optimisation, but for tests that spend their time in what was compiled."""
    if os.environ.get("JAX_DISABLE_MOST_OPTIMIZATIONS") == "1":
        runs_long = item.get_closest_marker("runs_long") is not None
        if jax.config.read("jax_disable_most_optimizations") == runs_long:
            jax.config.update("jax_disable_most_optimizations", not runs_long)
            # Where optimised, loops are what they are to a user, and NUTS is told so.
            if compiling := sys.modules.get("ppl.inference.compiling"):
                compiling.loops_are_whole.cache_clear()


def pytest_collection_finish() -> None:
    """Keep the garbage collector off what stays to the end, and let it look more seldom: jaxprs are many objects."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture(autouse=True)
def _strict_promotion(request: pytest.FixtureRequest):
    """Strict dtype promotion where the test, class or module is marked `strict_promotion`."""
    if request.node.get_closest_marker("strict_promotion") is None:
        yield
    else:
        with jax.numpy_dtype_promotion("strict"):
            yield


# Compiled programs are mapped into memory, tens of maps each, and Linux allows a process 65530 maps: past that, the
# next compilation ends the process. Half of it leaves room for the largest module.
_MAPS = Path("/proc/self/maps")
_MANY_MAPS = 25_000


@pytest.fixture(autouse=True, scope="module")
def _compiled_programs_make_room():
    """Forget compiled programs after a module, once there are many."""
    yield
    if _MAPS.exists() and _MAPS.read_bytes().count(b"\n") > _MANY_MAPS:
        jax.clear_caches()
        if compiling := sys.modules.get("ppl.inference.compiling"):
            compiling.compiled_ahead.cache_clear()
        gc.collect()
