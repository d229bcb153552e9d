"""Log densities that samplers may call: of no density, never NaN, without what does not depend on the position, and
without products of matrices where these are small.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax.core import ShapedArray, eval_jaxpr
from jax.extend.core import JaxprEqn, Literal, Var
from jaxtyping import Array, Float

LogDensity = Callable[[Float[Array, " d"]], Float[Array, ""]]

# Numbers of a matrix, of one chain and of those that run together, up to which a product with a vector is better a sum.
_FEW, _FEW_TOGETHER = 512, 2048


@jax.custom_jvp
def never_nan(log_density: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """NaN as `-inf`: where a model has no density, which any sampler then refuses. Gradients are those of the model.

    By a rule of its own: that of `where` multiplies the gradient by a number that depends on the value, so that the
    compiler cannot make one loop over the data of the two (4.7 us a gradient of posteriordb's kidiq instead of 2.9).
    """
    return jnp.where(jnp.isnan(log_density), -jnp.inf, log_density)


@never_nan.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return never_nan(*primals), tangents[0]


def guarded(log_density: LogDensity) -> LogDensity:
    """NaN as `-inf`: a proposal of no density is refused, and does not poison the chain (blackjax issue 969)."""
    return lambda flat: never_nan(log_density(flat))


def apart_from_data(log_density: LogDensity, size: int) -> LogDensity:
    """The same function, of which everything that does not depend on the position is computed here and now.

    To be called outside a sampler's loop: on a CPU, XLA does not move constant work out of it. (Sampling posteriordb's
    arma took 24 us a step instead of 19, of which slicing the data was one; a log factorial of counts costs more.)
    """
    closed = jax.make_jaxpr(log_density)(jax.ShapeDtypeStruct((size,), jnp.result_type(float)))
    jaxpr = closed.jaxpr
    depends: set[Var] = set(jaxpr.invars)
    before, after = [], []
    for equation in jaxpr.eqns:
        if equation.effects or not depends.isdisjoint(_variables(equation.invars)):
            after.append(equation)
            depends.update(equation.outvars)
        else:
            before.append(equation)
    wanted = set(_variables(jaxpr.outvars)).union(*(_variables(equation.invars) for equation in after))
    made = [variable for equation in before for variable in equation.outvars if variable in wanted]
    unnamed = jaxpr.debug_info.with_unknown_names()
    first = jaxpr.replace(invars=[], outvars=made, eqns=before, debug_info=unnamed)
    known = [*closed.consts, *eval_jaxpr(first, closed.consts)]
    then = jaxpr.replace(constvars=[*jaxpr.constvars, *made], eqns=after, debug_info=unnamed)
    return lambda flat: eval_jaxpr(then, known, flat)[0]


def with_small_products_summed(log_density: LogDensity, size: int, chains: int) -> LogDensity:
    """The same function, with sums in place of products of small matrices and vectors.

    Of `chains` chains together these are products of matrices, which XLA on a CPU gives to a library: handing over four
    of 10 x 10 and calling it takes 0.8 us where the sums take 0.1, and the loop around can be no function of its own.
    From some thousands of numbers on the library is faster.
    """
    closed = jax.make_jaxpr(log_density)(jax.ShapeDtypeStruct((size,), jnp.result_type(float)))
    summed = closed.jaxpr.replace(eqns=[_summed(equation, chains) for equation in closed.jaxpr.eqns])
    return lambda flat: eval_jaxpr(summed, closed.consts, flat)[0]


def _summed(equation: JaxprEqn, chains: int) -> JaxprEqn:
    if equation.primitive.name != "dot_general":
        return equation
    (left, right), batched = equation.params["dimension_numbers"]
    *like, out = (cast(ShapedArray, atom.aval) for atom in (*equation.invars, *equation.outvars))
    numbers = max(math.prod(x.shape) for x in like)
    of_a_vector = min(len(x.shape) for x in like) == 1 and len(left) == 1 and not any(batched)
    if not of_a_vector or numbers > _FEW or numbers * chains > _FEW_TOGETHER:
        return equation

    @jax.jit
    def product(a: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, "..."]:
        return jnp.sum(jnp.moveaxis(a, left[0], -1) * jnp.moveaxis(b, right[0], -1), axis=-1, dtype=out.dtype)

    (call,) = jax.make_jaxpr(product)(*like).eqns
    return call.replace(invars=equation.invars, outvars=equation.outvars)


def _variables(atoms: Sequence[Any]) -> list[Var]:
    return [atom for atom in atoms if not isinstance(atom, Literal)]
