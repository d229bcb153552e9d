"""A program evaluated at many draws at once, compiled once for each program and number of draws."""

from collections.abc import Mapping

import jax
import numpy as np
from jaxtyping import Array, Float, Key, Shaped

from ppl.inference.batching import BATCH
from ppl.inference.compiling import InOrder
from ppl.inference.program import Program


def constrained_draws(
    program: Program, unconstrained: Float[Array, "chains draws d"], key: Key[Array, ""]
) -> dict[str, np.ndarray]:
    """Values of latent and deterministic sites, [chains, draws, ...]; `key` draws discrete ones."""
    flat = unconstrained.reshape(-1, unconstrained.shape[-1])
    return _apart(_constrained(jax.random.split(key, flat.shape[0]), program, flat), unconstrained.shape[:2])


def log_likelihoods(
    program: Program, values: Mapping[str, Shaped[np.ndarray, "chains draws ..."]]
) -> dict[str, np.ndarray]:
    """Pointwise log likelihood by observed site, [chains, draws, ...], at values of the latent sites."""
    return _apart(_log_likelihood(program, _flat(values)), _leading(values))


def simulated_draws(
    key: Key[Array, ""], program: Program, values: Mapping[str, Shaped[np.ndarray, "chains draws ..."]]
) -> dict[str, np.ndarray]:
    """Observed sites drawn anew, one draw for each of `values`."""
    shape = _leading(values)
    keys = jax.random.split(key, shape[0] * shape[1])
    return _apart(_simulated(keys, program, _flat(values)), shape)


def prior_draws(key: Key[Array, ""], program: Program, num: int) -> dict[str, np.ndarray]:
    """Draws of the prior, [1, num, ...]."""
    return _apart(_prior(jax.random.split(key, num), program), (1, num))


def scalars(values: Mapping[str, Shaped[np.ndarray, "..."]], leading: int = 2) -> dict[str, Shaped[np.ndarray, "..."]]:
    """Each scalar component by a label such as `theta[0, 1]`, with the `leading` axes that are none of the site's."""
    before = (slice(None),) * leading
    return {
        name + (f"[{', '.join(map(str, index))}]" if index else ""): np.asarray(value[(*before, *index)])
        for name, value in values.items()
        for index in np.ndindex(value.shape[leading:])
    }


@InOrder
def observed_data(program: Program) -> dict[str, Shaped[Array, "..."]]:
    """The data by observed site."""
    return program.observed()


@InOrder
def _constrained(
    keys: Key[Array, " n"], program: Program, flat: Float[Array, "n d"]
) -> dict[str, Shaped[Array, "n ..."]]:
    return jax.lax.map(lambda pair: program.constrained(pair[1], pair[0]), (keys, flat), batch_size=BATCH)


@InOrder
def _log_likelihood(
    program: Program, values: Mapping[str, Shaped[Array | np.ndarray, "n ..."]]
) -> dict[str, Float[Array, "n ..."]]:
    return jax.lax.map(program.log_likelihood, values, batch_size=BATCH)


@InOrder
def _simulated(
    keys: Key[Array, " n"], program: Program, values: Mapping[str, Shaped[Array | np.ndarray, "n ..."]]
) -> dict[str, Shaped[Array, "n ..."]]:
    return jax.lax.map(lambda pair: program.simulated(*pair), (keys, values), batch_size=BATCH)


@InOrder
def _prior(keys: Key[Array, " n"], program: Program) -> dict[str, Shaped[Array, "n ..."]]:
    return jax.vmap(program.prior_values)(keys)


def _leading(values: Mapping[str, Shaped[np.ndarray, "chains draws ..."]]) -> tuple[int, int]:
    first = next(iter(values.values()))
    return first.shape[0], first.shape[1]


def _flat(values: Mapping[str, Shaped[np.ndarray, "chains draws ..."]]) -> dict[str, Shaped[np.ndarray, "n ..."]]:
    return {name: value.reshape(-1, *value.shape[2:]) for name, value in values.items()}


def _apart(values: Mapping[str, Array], shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    return {name: np.asarray(value).reshape(*shape, *value.shape[1:]) for name, value in values.items()}
