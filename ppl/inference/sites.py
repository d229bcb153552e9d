"""Sites of a traced NumPyro program: their values from unconstrained ones, and their log densities."""

import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
from jaxtyping import Array, Float, Key
from numpyro import handlers
from numpyro.distributions import biject_to
from numpyro.distributions.util import is_identically_one, sum_rightmost

# Factor sites that carry the log Jacobian of a site's bijection; a program has no reason to use this name.
JACOBIAN = "_ppl_log_jacobian_"


def from_unconstrained(values: Mapping[str, Float[Array, "..."]], site: dict[str, Any]) -> Array | None:
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
    numpyro.factor(JACOBIAN + site["name"], jacobian)
    return moved


def feasible(model: Callable[..., Any]) -> Callable[..., Any]:
    """The model with some value in the support where a prior is improper and cannot be drawn from."""

    def value(site: dict[str, Any]) -> Array | None:
        if site["type"] != "sample" or site["is_observed"]:
            return None
        if not isinstance(base_distribution(site["fn"]), numpyro.distributions.ImproperUniform):
            return None
        transform = biject_to(site["fn"].support)
        return transform(jnp.zeros(transform.inverse_shape(site["fn"].shape())))

    return handlers.substitute(model, substitute_fn=value)


def site_log_prob(site: dict[str, Any]) -> Float[Array, ""]:
    """The log density of a site, summed."""
    return jnp.sum(site_log_probs(site))


def site_log_probs(site: dict[str, Any]) -> Float[Array, "..."]:
    """The log density of a site by element, scaled where the program scales it."""
    if site["intermediates"]:
        term = site["fn"].log_prob(site["value"], site["intermediates"])
    else:
        term = site["fn"].log_prob(site["value"])
    scale = site["scale"]
    # A scaled density (subsampled data) changes the weight of a term, not the volume element of its coordinates.
    if scale is not None and not is_identically_one(scale) and not site["name"].startswith(JACOBIAN):
        term = scale * term
    return term


def observed_anew(key: Key[Array, ""], site: dict[str, Any]) -> Array | None:
    """A draw for an observed site.

    Not by `handlers.uncondition`: that does not reach into `numpyro.contrib.control_flow.scan`, whose carry would go on
    from what was observed instead of what was drawn.
    """
    if site["type"] != "sample" or not site["is_observed"] or is_factor(site):
        return None
    key = jax.random.fold_in(key, zlib.crc32(site["name"].encode()))
    step = site["infer"].get("_scan_current_index")
    key = key if step is None else jax.random.fold_in(key, step)
    return site["fn"](rng_key=key, sample_shape=site["kwargs"]["sample_shape"])


def is_factor(site: dict[str, Any]) -> bool:
    """Whether a site is a `numpyro.factor`, which has a density and no value."""
    return site["type"] == "sample" and isinstance(base_distribution(site["fn"]), numpyro.distributions.Unit)


def base_distribution(fn: Any) -> Any:
    """The distribution inside masks, expansions and reinterpreted batches."""
    while hasattr(fn, "base_dist") and not isinstance(fn, numpyro.distributions.TransformedDistribution):
        fn = fn.base_dist
    return fn
