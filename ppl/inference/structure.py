"""What a NumPyro program is made of: its sites and plates, found by one abstract run for its arguments' shapes."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jaxtyping import Array, Float, Int, PyTree
from numpyro import handlers
from numpyro.distributions import biject_to

from ppl.inference.plates import Plates
from ppl.inference.sites import base_distribution, feasible, is_factor


class Site(NamedTuple):
    """One site of a program: name, shape, shape in unconstrained space (latent), names of axes, and what it is."""

    name: str
    shape: tuple[int, ...]
    unconstrained_shape: tuple[int, ...]
    dims: tuple[str, ...]
    kind: str  # latent, discrete, observed, deterministic
    improper: bool = False
    enumerable: bool = False


@dataclasses.dataclass(frozen=True)
class Structure:
    """What a program is made of, for one set of shapes of its arguments; hashable, as compilation is keyed by it."""

    sites: tuple[Site, ...]
    plates: tuple[tuple[str, int], ...]
    # Plates that take a minibatch of their elements: name, size, size of the minibatch.
    subsampled: tuple[tuple[str, int, int], ...] = ()
    factors: tuple[str, ...] = ()

    def of_kind(self, kind: str) -> tuple[Site, ...]:
        return tuple(site for site in self.sites if site.kind == kind)

    @property
    def latents(self) -> tuple[Site, ...]:
        """Continuous latent sites, in the program's order."""
        return self.of_kind("latent")

    @property
    def discrete(self) -> tuple[Site, ...]:
        """Discrete latent sites."""
        return self.of_kind("discrete")

    @property
    def size(self) -> int:
        """Length of the flat unconstrained vector."""
        return sum(math.prod(site.unconstrained_shape) for site in self.latents)

    @property
    def improper(self) -> tuple[str, ...]:
        """Names of latent sites without a normalised prior."""
        return tuple(site.name for site in self.latents if site.improper)

    @property
    def dims(self) -> dict[str, tuple[str, ...]]:
        """Names of the axes of each site, those of plates by the plate's name."""
        return {site.name: site.dims for site in self.sites}

    def index(self, names: Sequence[str]) -> Int[np.ndarray, " p"]:
        """Where the values of some sites stand in the flat vector, in its order."""
        start, places = 0, []
        for site in self.latents:
            stop = start + math.prod(site.unconstrained_shape)
            if site.name in names:
                places.extend(range(start, stop))
            start = stop
        return np.asarray(places, np.int32)

    def unravel(self, flat: Float[Array, " d"]) -> dict[str, Float[Array, "..."]]:
        """The flat vector as unconstrained values by site."""
        values, start = {}, 0
        for site in self.latents:
            stop = start + math.prod(site.unconstrained_shape)
            values[site.name] = flat[start:stop].reshape(site.unconstrained_shape)
            start = stop
        return values

    def ravel(self, values: Mapping[str, Float[Array, "..."]]) -> Float[Array, " d"]:
        """Unconstrained values by site as the flat vector."""
        return jnp.concatenate([jnp.ravel(values[site.name]) for site in self.latents])


def structure_of(model: Callable[..., Any], args: tuple[PyTree, ...], kwargs: dict[str, PyTree]) -> Structure:
    """The sites of a model, by one abstract run; known already for the same model and shapes."""
    arrays, static = eqx.partition((args, kwargs), eqx.is_array)
    leaves, treedef = jax.tree.flatten(arrays)
    shapes = tuple((leaf.shape, str(leaf.dtype)) for leaf in leaves)
    others, other_tree = jax.tree.flatten(static)
    x64 = jnp.zeros(()).dtype == jnp.float64
    return _cached_structure(model, treedef, shapes, tuple(others), other_tree, x64)


# Bounded: it holds on to models, among them lambdas made anew for each call.
@functools.lru_cache(maxsize=128)
def _cached_structure(
    model: Callable[..., Any],
    treedef: Any,
    shapes: tuple[tuple[tuple[int, ...], str], ...],
    others: tuple[Any, ...],
    other_tree: Any,
    x64: bool,
) -> Structure:
    found: dict[str, Any] = {}

    def look(arrays: PyTree) -> None:
        args, kwargs = eqx.combine(arrays, jax.tree.unflatten(other_tree, others))
        whole = Plates(feasible(model))
        trace = handlers.trace(handlers.seed(whole, jax.random.key(0))).get_trace(*args, **kwargs)
        plates: dict[str, int] = {}
        sites = [_site(site, plates) for site in trace.values() if site["type"] in ("sample", "deterministic")]
        factors = tuple(name for name, site in trace.items() if is_factor(site))
        found["structure"] = Structure(
            sites=tuple(site for site in sites if site is not None),
            plates=tuple(plates.items()),
            factors=factors,
            subsampled=tuple((name, *sizes) for name, sizes in whole.found.items()),
        )

    arrays = jax.tree.unflatten(treedef, [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in shapes])
    try:
        jax.eval_shape(look, arrays)
    except jax.errors.ConcretizationTypeError as error:
        raise TypeError(
            "model: it uses the value of an array argument in Python (an `if`, `int(...)`, a shape); pass that "
            "argument as a Python number, or make the model do it with jax.numpy"
        ) from error
    return found["structure"]


def _site(site: dict[str, Any], plates: dict[str, int]) -> Site | None:
    name = site["name"]
    if site["type"] == "deterministic":
        shape = jnp.shape(site["value"])
        return Site(name, shape, (), tuple(f"{name}_dim_{i}" for i in range(len(shape))), "deterministic")
    fn = site["fn"]
    shape = tuple(jnp.shape(site["value"]))
    dims = [f"{name}_dim_{i}" for i in range(len(shape))]
    for frame in site["cond_indep_stack"]:
        plates[frame.name] = frame.size
        axis = len(shape) - len(fn.event_shape) + frame.dim
        if 0 <= axis < len(shape) and shape[axis] == frame.size:
            dims[axis] = frame.name
    if is_factor(site):
        return None  # it has a density and no value
    if site["is_observed"]:
        return Site(name, shape, (), tuple(dims), "observed")
    if fn.support.is_discrete:
        return Site(name, shape, (), tuple(dims), "discrete", enumerable=fn.has_enumerate_support)
    unconstrained = tuple(biject_to(fn.support).inverse_shape(shape))
    improper = isinstance(base_distribution(fn), numpyro.distributions.ImproperUniform)
    return Site(name, shape, unconstrained, tuple(dims), "latent", improper=improper)
