"""Test-time scaling and data selection as Bayesian inference, on one particle engine in JAX.

Packages, from the bottom layer up:

- `ppl.smc`: Feynman-Kac models, the particle driver, resampling, tempering, conditional SMC;
- `ppl.tasks`: generated problems with exact verifiers; `ppl.lm`: language and reward models;
- `ppl.inference`: any NumPyro program, every inference, one posterior; its calls are `ppl.infer`, `ppl.sbc` and,
  inside a model, `ppl.markov`;
- `ppl.risk`: repeated sampling with calibrated uncertainty, from tables of attempts;
- `ppl.decode`: test-time scaling methods over one weighted set of samples;
- shared types in modules of their own: `ppl.records`, `ppl.cost`, `ppl.intervals`, `ppl.keys`, `ppl.arviz_adapter`,
  `ppl.plots`.

Nothing is imported here: `import ppl` costs nothing. A part is imported when it is first named, as in
`ppl.decode.particle_filter`, and brings only what it needs. One thing is set: see `_compile_loops_whole`.
"""

import os
import pkgutil
from importlib import import_module
from typing import Any

_PARTS = frozenset(module.name for module in pkgutil.iter_modules(__path__))
_CALLS = ("infer", "markov", "sbc")


def _compile_loops_whole() -> None:
    """XLA on a CPU makes one function of a loop whose body handles up to 192 kilobytes, in place of one.

    Longer ones it carries out operation by operation, each handed to a thread: for a sampler's step of small arrays the
    handing over takes longer than the work. It is a setting of the process, read when JAX runs its first program; one
    of the user's own is kept, and an XLA that does not know the name passes over it.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_backend_extra_options" not in flags:
        whole = "--xla_backend_extra_options=xla_cpu_small_while_loop_byte_threshold=196608"
        os.environ["XLA_FLAGS"] = f"{flags} {whole}".strip()


_compile_loops_whole()


def __getattr__(name: str) -> Any:
    """The part of that name, imported (PEP 562); the calls of `_CALLS` need no part's name."""
    if name in _CALLS:
        return getattr(import_module("ppl.inference"), name)
    if name not in _PARTS:
        parts = ", ".join(sorted(_PARTS))
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; its parts are {parts}")
    return import_module(f"{__name__}.{name}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_PARTS, *_CALLS])
