"""A NumPyro program as a density: its sites found by one abstract run, its log prior and log likelihood as functions.

Latent sites are moved to unconstrained space by their supports' bijections (`numpyro.distributions.biject_to`) and laid
out as one flat vector, which is what samplers move. The log prior there includes the bijections' log Jacobians, so that
it is the density of the vector.

A plate that subsamples its data (`numpyro.plate(name, size, subsample_size)`) has all of them everywhere here, but in
`log_density_with`, which estimates the density from one minibatch.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jaxtyping import Array, Float, Key, PyTree, Shaped
from numpyro import handlers
from numpyro.distributions import biject_to
from numpyro.distributions.util import is_identically_one, sum_rightmost

from ppl.inference.plates import Plates

# Factor sites that carry the log Jacobian of a site's bijection; a program has no reason to use this name.
_JACOBIAN = "_ppl_log_jacobian_"


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


class Program(eqx.Module):
    """A NumPyro model with its arguments.

    Arrays among the arguments are traced, so that new data of the same shapes reuse what was compiled; everything else
    (Python numbers, strings, `None`) is part of the program and a new value compiles anew.

    **Arguments:** the model, a Python function of NumPyro primitives; its positional and keyword arguments.

    **Raises:** `TypeError` if the model is not callable, or uses the *values* of array arguments in Python control
    flow; `ValueError` for an array of objects or strings among the arguments.
    """

    model: Callable[..., Any] = eqx.field(static=True)
    args: tuple[PyTree, ...]
    kwargs: dict[str, PyTree]
    structure: Structure = eqx.field(static=True)

    def __init__(self, model: Callable[..., Any], args: tuple[PyTree, ...] = (), kwargs: Mapping[str, PyTree] = {}):
        if not callable(model):
            raise TypeError(f"model: a function of NumPyro primitives is wanted, got {model!r}")
        self.model = model
        self.args, self.kwargs = _as_arrays((tuple(args), dict(kwargs)))
        self.structure = _structure(model, self.args, self.kwargs)

    @property
    def whole(self) -> Callable[..., Any]:
        """The model with all elements of the plates that it subsamples."""
        return Plates(self.model)

    def log_densities(self, flat: Float[Array, " d"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Log prior (of the unconstrained vector) and log likelihood (observed sites and factors) at one point."""
        if self.structure.discrete:
            prior, joint = self._enumerated(flat)
            return prior, joint - prior
        prior, likelihood = jnp.zeros(()), jnp.zeros(())
        for site in self._sites(flat).values():
            if site["type"] != "sample":
                continue
            term = _log_prob(site)
            if site["is_observed"] and not site["name"].startswith(_JACOBIAN):
                likelihood += term
            else:
                prior += term
        return prior, likelihood

    def log_density(self, flat: Float[Array, " d"]) -> Float[Array, ""]:
        """Log of the joint density at an unconstrained vector, discrete sites summed out."""
        if self.structure.discrete:
            return self._enumerated(flat)[1]
        return sum(self.log_densities(flat), start=jnp.zeros(()))

    def log_density_with(self, key: Key[Array, ""], flat: Float[Array, " d"]) -> Float[Array, ""]:
        """An unbiased estimate of the log density from one minibatch, drawn with `key`, of each plate that subsamples.

        Without such plates it is the log density. Discrete sites are not summed out here.
        """
        model = self._at(flat, handlers.seed(Plates(self.model, key), key))
        trace = handlers.trace(model).get_trace(*self.args, **self.kwargs)
        return sum((_log_prob(site) for site in trace.values() if site["type"] == "sample"), start=jnp.zeros(()))

    def log_densities_along(self, flat: Float[Array, " d"], plate: str) -> tuple[Float[Array, ""], Float[Array, " n"]]:
        """Log prior, and the log likelihood of each element of a plate, at one point.

        **Raises:** `ValueError` naming an observed site or factor outside of the plate.
        """
        prior, along = jnp.zeros(()), jnp.zeros(dict(self.structure.plates)[plate])
        for name, site in self._sites(flat).items():
            if site["type"] != "sample":
                continue
            if not site["is_observed"] or name.startswith(_JACOBIAN):
                prior += _log_prob(site)
                continue
            axes = [frame.dim for frame in site["cond_indep_stack"] if frame.name == plate]
            if not axes:
                raise ValueError(f"plate: the observed site {name!r} is not in {plate!r}; its data have no order there")
            terms = jnp.broadcast_to(_log_probs(site), site["fn"].batch_shape)
            along += jnp.sum(jnp.moveaxis(terms, axes[0], 0).reshape(along.shape[0], -1), axis=1)
        return prior, along

    def log_prior_with(self, flat: Float[Array, " d"], instead: Mapping[str, Any]) -> Float[Array, ""]:
        """The log prior of the unconstrained vector, with other distributions at some latent sites."""
        prior, latent = jnp.zeros(()), {site.name for site in self.structure.latents}
        for name, site in self._sites(flat).items():
            if site["type"] != "sample":
                continue
            if name in instead:
                prior += jnp.sum(instead[name].log_prob(site["value"]))
            elif name in latent or name.startswith(_JACOBIAN):
                prior += _log_prob(site)
        return prior

    def log_terms(self, flat: Float[Array, " d"]) -> dict[str, Float[Array, ""]]:
        """The log density of each sample site at one point, discrete ones as drawn: to find where it is not finite."""
        return {
            name: _log_prob(site)
            for name, site in self._sites(flat).items()
            if site["type"] == "sample" and not name.startswith(_JACOBIAN)
        }

    def constrained(self, flat: Float[Array, " d"], key: Key[Array, ""]) -> dict[str, Shaped[Array, "..."]]:
        """Values of latent and deterministic sites at an unconstrained vector.

        Discrete sites that the density sums out are drawn, with `key`, from their posterior given the others.
        """
        kinds = ("latent", "discrete", "deterministic")
        wanted = {site.name for site in self.structure.sites if site.kind in kinds}
        model = self._moved(flat)
        if self.structure.discrete:
            from numpyro.contrib.funsor import config_enumerate, infer_discrete

            model = infer_discrete(
                config_enumerate(model), first_available_dim=self._first_free_dim, temperature=1, rng_key=key
            )
        trace = handlers.trace(model).get_trace(*self.args, **self.kwargs)
        return {name: site["value"] for name, site in trace.items() if name in wanted}

    def log_likelihood(self, values: Mapping[str, Shaped[Array, "..."]]) -> dict[str, Float[Array, "..."]]:
        """Log likelihood of each observation at values of the latent sites; factors are of no observation."""
        model = handlers.substitute(handlers.seed(self.whole, jax.random.key(0)), data=dict(values))
        trace = handlers.trace(model).get_trace(*self.args, **self.kwargs)
        wanted = {site.name for site in self.structure.of_kind("observed")}
        return {
            name: jnp.broadcast_to(site["fn"].log_prob(site["value"]), site["fn"].batch_shape)
            for name, site in trace.items()
            if name in wanted
        }

    def prior_draw(self, key: Key[Array, ""], given: Mapping[str, Shaped[Array, "..."]] = {}) -> Float[Array, " d"]:
        """One draw of the latent sites from the prior, but of those `given`, as an unconstrained vector."""
        model = handlers.substitute(handlers.seed(self.whole, key), data=dict(given))
        trace = handlers.trace(model).get_trace(*self.args, **self.kwargs)
        return self._flat(trace)

    def prior_values(self, key: Key[Array, ""]) -> dict[str, Shaped[Array, "..."]]:
        """One draw of latent and deterministic sites from the prior."""
        trace = handlers.trace(handlers.seed(self.whole, key)).get_trace(*self.args, **self.kwargs)
        wanted = {site.name for site in self.structure.sites if site.kind != "observed"}
        return {name: site["value"] for name, site in trace.items() if name in wanted}

    def unconstrained(self, values: Mapping[str, Shaped[Array, "..."]]) -> Float[Array, " d"]:
        """The flat vector of given values of all latent sites."""
        model = handlers.substitute(handlers.seed(self.whole, jax.random.key(0)), data=dict(values))
        trace = handlers.trace(model).get_trace(*self.args, **self.kwargs)
        return self._flat(trace)

    def simulated(self, key: Key[Array, ""], values: Mapping[str, Shaped[Array, "..."]]) -> dict[str, Array]:
        """Observed sites drawn anew given latent values, and deterministic ones: posterior or prior predictive."""
        model = handlers.substitute(handlers.uncondition(handlers.seed(self.whole, key)), data=dict(values))
        trace = handlers.trace(model).get_trace(*self.args, **self.kwargs)
        wanted = {site.name for site in self.structure.sites if site.kind in ("observed", "deterministic")}
        return {name: site["value"] for name, site in trace.items() if name in wanted}

    def observed(self) -> dict[str, Shaped[Array, "..."]]:
        """The data, by observed site."""
        model = handlers.seed(_feasible(self.whole), jax.random.key(0))
        trace = handlers.trace(model).get_trace(*self.args, **self.kwargs)
        return {site.name: trace[site.name]["value"] for site in self.structure.of_kind("observed")}

    def _flat(self, trace: dict[str, dict[str, Any]]) -> Float[Array, " d"]:
        """The latent values of a trace, as an unconstrained vector."""
        values = {
            site.name: biject_to(trace[site.name]["fn"].support).inv(trace[site.name]["value"])
            for site in self.structure.latents
        }
        return self.structure.ravel(values)

    def _moved(self, flat: Float[Array, " d"]) -> Callable[..., Any]:
        """The model with its latents at `flat`; a factor site beside each holds the log Jacobian."""
        return self._at(flat, handlers.seed(self.whole, jax.random.key(0)))

    def _at(self, flat: Float[Array, " d"], model: Callable[..., Any]) -> Callable[..., Any]:
        values = self.structure.unravel(flat)
        return handlers.substitute(model, substitute_fn=functools.partial(_from_unconstrained, values))

    @property
    def _first_free_dim(self) -> int:
        """The first axis, counted from the right, that no site of the program uses."""
        return -1 - max((len(site.shape) for site in self.structure.sites), default=0)

    def _sites(self, flat: Float[Array, " d"]) -> dict[str, dict[str, Any]]:
        return handlers.trace(self._moved(flat)).get_trace(*self.args, **self.kwargs)

    def _enumerated(self, flat: Float[Array, " d"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Log prior of the continuous sites, and the log joint with discrete sites summed out."""
        from numpyro.contrib.funsor import config_enumerate, enum, log_density  # takes seconds; only these need it

        model = enum(config_enumerate(self._moved(flat)), first_available_dim=self._first_free_dim)
        log_joint, trace = log_density(model, self.args, self.kwargs, {})
        joint = jnp.asarray(log_joint)
        continuous = {site.name for site in self.structure.latents}
        prior = jnp.zeros(())
        for name, site in trace.items():
            if site["type"] == "sample" and (name in continuous or name.startswith(_JACOBIAN)):
                prior += _log_prob(site)
        return prior, joint


def check_continuous(program: Program, label: str, *, minibatches: bool = False) -> None:
    """**Raises:** `ValueError` if there is nothing continuous to move, a discrete site cannot be summed out, or the
    program subsamples its data and the method does not draw `minibatches`.
    """
    if not minibatches:
        check_whole(program, label)
    structure = program.structure
    if not structure.latents:
        names = ", ".join(site.name for site in structure.discrete)
        if names:
            raise ValueError(
                f"model: its latent sites ({names}) are all discrete, and {label} moves continuous ones; use "
                "method='enumeration'"
            )
        raise ValueError("model: it has no latent site; every `numpyro.sample` in it is observed")
    for site in structure.discrete:
        if not site.enumerable:
            raise ValueError(
                f"model: the discrete latent site {site.name!r} has no finite support to sum over, and {label} moves "
                "continuous sites only; marginalise it by hand or bound its support"
            )


def check_whole(program: Program, label: str) -> None:
    """**Raises:** `ValueError` if the program subsamples its data, which only stochastic-gradient samplers do."""
    for name, size, minibatch in program.structure.subsampled:
        raise ValueError(
            f"model: the plate {name!r} takes {minibatch} of its {size} elements at a time, and {label} wants all of "
            "them; leave subsample_size out, or use a method that draws minibatches: SGLD, SGHMC, CyclicalSGLD"
        )


def _from_unconstrained(values: Mapping[str, Float[Array, "..."]], site: dict[str, Any]) -> Array | None:
    """The value of a site from its unconstrained one; the log Jacobian becomes a factor of the trace.

    A factor, not a list beside the trace: inside `numpyro.contrib.control_flow.scan` the trace alone leaves the loop.
    """
    if site["type"] != "sample" or site["name"] not in values:
        return None
    value = values[site["name"]]
    transform = biject_to(site["fn"].support)
    step = site["infer"].get("_scan_current_index")
    if step is not None:
        # All steps' values come in; each step takes its own.
        rank = len(site["fn"].shape()) - (transform.codomain.event_dim - transform.domain.event_dim)
        value = value[step] if jnp.ndim(value) > rank else value
    moved = transform(value)
    jacobian = transform.log_abs_det_jacobian(value, moved)
    jacobian = sum_rightmost(jacobian, jnp.ndim(jacobian) - jnp.ndim(moved) + len(site["fn"].event_shape))
    numpyro.factor(_JACOBIAN + site["name"], jacobian)
    return moved


def _feasible(model: Callable[..., Any]) -> Callable[..., Any]:
    """The model with some value in the support where a prior is improper and cannot be drawn from."""

    def value(site: dict[str, Any]) -> Array | None:
        if site["type"] != "sample" or site["is_observed"]:
            return None
        if not isinstance(_base(site["fn"]), numpyro.distributions.ImproperUniform):
            return None
        transform = biject_to(site["fn"].support)
        return transform(jnp.zeros(transform.inverse_shape(site["fn"].shape())))

    return handlers.substitute(model, substitute_fn=value)


def _log_prob(site: dict[str, Any]) -> Float[Array, ""]:
    """The log density of a site, summed."""
    return jnp.sum(_log_probs(site))


def _log_probs(site: dict[str, Any]) -> Float[Array, "..."]:
    """The log density of a site by element, scaled where the program scales it."""
    if site["intermediates"]:
        term = site["fn"].log_prob(site["value"], site["intermediates"])
    else:
        term = site["fn"].log_prob(site["value"])
    scale = site["scale"]
    # A scaled density (subsampled data) changes the weight of a term, not the volume element of its coordinates.
    if scale is not None and not is_identically_one(scale) and not site["name"].startswith(_JACOBIAN):
        term = scale * term
    return term


def _as_arrays(arguments: PyTree) -> PyTree:
    """Arrays of any library as JAX arrays; other leaves as they are."""

    def convert(path: tuple[Any, ...], leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) or not hasattr(leaf, "__array__"):
            return leaf
        array = np.asarray(leaf)
        if array.dtype.kind not in "biufc":
            where = jax.tree_util.keystr(path[1:])
            raise ValueError(f"model arguments{where}: an array of numbers is wanted, got dtype {array.dtype}")
        return jnp.asarray(array)

    return jax.tree_util.tree_map_with_path(convert, arguments)


def _structure(model: Callable[..., Any], args: tuple[PyTree, ...], kwargs: dict[str, PyTree]) -> Structure:
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
        whole = Plates(_feasible(model))
        trace = handlers.trace(handlers.seed(whole, jax.random.key(0))).get_trace(*args, **kwargs)
        plates: dict[str, int] = {}
        sites = [_site(site, plates) for site in trace.values() if site["type"] in ("sample", "deterministic")]
        found["structure"] = Structure(
            sites=tuple(site for site in sites if site is not None),
            plates=tuple(plates.items()),
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
    if isinstance(_base(fn), numpyro.distributions.Unit):
        return None  # a factor: it has a density and no value
    if site["is_observed"]:
        return Site(name, shape, (), tuple(dims), "observed")
    if fn.support.is_discrete:
        return Site(name, shape, (), tuple(dims), "discrete", enumerable=fn.has_enumerate_support)
    unconstrained = tuple(biject_to(fn.support).inverse_shape(shape))
    improper = isinstance(_base(fn), numpyro.distributions.ImproperUniform)
    return Site(name, shape, unconstrained, tuple(dims), "latent", improper=improper)


def _base(fn: Any) -> Any:
    """The distribution inside masks, expansions and reinterpreted batches."""
    while hasattr(fn, "base_dist") and not isinstance(fn, numpyro.distributions.TransformedDistribution):
        fn = fn.base_dist
    return fn
