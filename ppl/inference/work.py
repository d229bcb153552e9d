"""How a function's work is spread: over many small operations, or over few that handle large arrays."""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import Jaxpr, jaxprs_in_params
from jaxtyping import PyTree


def numbers_an_operation(function: Callable[..., Any], *like: PyTree) -> float:
    """How many numbers an operation of `function` makes on average; passes of a loop count one by one.

    **Arguments:** `like`: arrays, or their shapes and dtypes. The function is traced, not run.
    """
    numbers, operations = _counted(jax.make_jaxpr(function)(*like).jaxpr)
    return numbers / max(operations, 1)


def _counted(jaxpr: Jaxpr) -> tuple[int, int]:
    numbers = operations = 0
    for equation in jaxpr.eqns:
        inner = [_counted(sub) for sub in jaxprs_in_params(equation.params)]
        # What has a body does the work of that alone. Passes of a `while` are not known: it counts once.
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        own = sum(math.prod(getattr(out.aval, "shape", ())) for out in equation.outvars)
        for n, ops in inner or [(own, 1)]:
            numbers, operations = numbers + times * n, operations + times * ops
    return numbers, operations
