"""Where samplers start: chains near the origin of unconstrained space, particles from the prior or what is given."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Key, Shaped
from numpyro.distributions import Distribution

from ppl.inference.compiling import InOrder
from ppl.inference.densities import LogDensity, guarded
from ppl.inference.program import Program

_RADIUS = 2.0
_TRIES = 100


def starting_points(key: Key[Array, ""], program: Program, num: int) -> Float[Array, "num d"]:
    """`num` points in (-2, 2)^d whose log density and gradient are finite.

    **Raises:** `ValueError` naming the sites whose log density is not finite, if no point in a hundred will do.
    """
    points, good = usable_points(key, program, num)
    if not bool(jnp.all(good)):
        raise ValueError(
            f"model: no start of finite density and gradient among {_TRIES} points in (-{_RADIUS}, {_RADIUS})^d of "
            f"unconstrained space; {_culprits(program, points[int(jnp.argmin(good))])}. Check the data against the "
            "support of these sites, scale them to order one, or use TemperedSMC, which starts from the prior"
        )
    return points


def given_starts(program: Program, values: Mapping[str, Shaped[ArrayLike, "..."]], num: int) -> Float[Array, "num d"]:
    """`num` points in unconstrained space, from values of all latent sites.

    **Arguments:** `values`: of a site's shape, for all points, or with an axis of `num` points before it. Sites that
    are not latent are passed over, so that the draws of a posterior can be given as they are.

    **Raises:** `ValueError` for a latent site that is missing, values of another shape, and points outside the support
    or without a finite density and gradient (naming the sites).
    """
    sites = program.structure.latents
    missing = [site.name for site in sites if site.name not in values]
    if missing:
        wanted = ", ".join(site.name for site in sites)
        raise ValueError(f"starts: values of all latent sites are wanted ({wanted}), without is {', '.join(missing)}")
    given = {}
    for site in sites:
        value = jnp.asarray(values[site.name], float)
        if value.shape not in (site.shape, (num, *site.shape)):
            raise ValueError(
                f"starts: {site.name!r} is of shape {site.shape}; values of that shape, or of {(num, *site.shape)} for "
                f"{num} chains, are wanted, got {value.shape}"
            )
        given[site.name] = jnp.broadcast_to(value, (num, *site.shape))
    points, good = _placed(program, given)
    if not bool(jnp.all(good)):
        which = int(jnp.argmin(good))
        raise ValueError(
            f"starts: the density or gradient at the start of chain {which} is not finite; "
            f"{_culprits(program, points[which])}. Values inside the support of all sites are wanted"
        )
    return points


@InOrder
def usable_points(key: Key[Array, ""], program: Program, num: int) -> tuple[Float[Array, "num d"], Bool[Array, " num"]]:
    """The points of `starting_points`, and which of them are of finite density and gradient."""
    size = program.structure.size

    def one(key: Key[Array, ""]) -> tuple[Float[Array, " d"], Bool[Array, ""]]:
        def draw(attempt: Array) -> Float[Array, " d"]:
            return jax.random.uniform(jax.random.fold_in(key, attempt), (size,), minval=-_RADIUS, maxval=_RADIUS)

        def again(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            attempt, _, _ = carry
            point = draw(attempt)
            return attempt + 1, point, _usable(program, point)

        # The first point is drawn inside the loop, too, so that the gradient is compiled once.
        start = (jnp.asarray(0), jnp.zeros(size), jnp.asarray(False))
        _, point, good = jax.lax.while_loop(lambda c: ~c[2] & (c[0] < _TRIES), again, start)
        return point, good

    return jax.vmap(one)(jax.random.split(key, num))


@InOrder
def _placed(
    program: Program, values: Mapping[str, Shaped[Array, "num ..."]]
) -> tuple[Float[Array, "num d"], Bool[Array, " num"]]:
    points = jax.vmap(program.unconstrained)(values)
    return points, jax.vmap(lambda point: _usable(program, point))(points)


def _usable(program: Program, point: Float[Array, " d"]) -> Bool[Array, ""]:
    value, slope = jax.value_and_grad(program.log_density)(point)
    return jnp.isfinite(value) & jnp.all(jnp.isfinite(slope))


def _culprits(program: Program, point: Float[Array, " d"]) -> str:
    terms = jax.device_get(_terms(program, point))
    bad = [f"{name} ({float(value)})" for name, value in terms.items() if not np.isfinite(value)]
    where = ", ".join(bad) if bad else "none alone: their sum or its gradient"
    return f"sites with a log density that is not finite: {where}"


@InOrder
def _terms(program: Program, point: Float[Array, " d"]) -> dict[str, Float[Array, ""]]:
    return program.log_terms(point)


class Start:
    """The distribution that particles start from, and the tempered densities between it and the posterior."""

    def __init__(self, program: Program, distributions: Mapping[str, Distribution]):
        self.program, self.distributions = program, distributions

    def draw(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        """One draw, as an unconstrained vector."""
        key_prior, key_given = jax.random.split(key)
        keys = dict(zip(self.distributions, jax.random.split(key_given, max(1, len(self.distributions))), strict=False))
        sites = {site.name: site for site in self.program.structure.latents}
        values = {
            name: distribution.sample(keys[name], _missing(distribution, sites[name].shape))
            for name, distribution in self.distributions.items()
        }
        return self.program.prior_draw(key_prior, {name: jnp.asarray(value) for name, value in values.items()})

    def densities(self, flat: Float[Array, " d"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """The log density of the start, and the log ratio of the joint to it, at an unconstrained vector.

        The ratio to the prior is the likelihood itself: as a difference, it would be lost beside a large prior density.
        """
        prior, likelihood = self.program.log_densities(flat)
        if not self.distributions:
            return prior, likelihood
        start = self.program.log_prior_with(flat, self.distributions)
        return start, prior + likelihood - start

    def log_correction(self, flat: Float[Array, " d"]) -> Float[Array, ""]:
        """The log density of the prior over that of the start, at an unconstrained vector."""
        prior, _ = self.program.log_densities(flat)
        return prior - self.program.log_prior_with(flat, self.distributions)

    def at(self, exponent: Float[Array, ""]) -> LogDensity:
        """The log density of the tempered target, NaN as `-inf`."""

        def value(flat: Float[Array, " d"]) -> Float[Array, ""]:
            start, log_ratio = self.densities(flat)
            return start + exponent * log_ratio

        return guarded(value)


def check_start(program: Program, given: Mapping[str, Distribution] | None, label: str) -> None:
    """**Raises:** `ValueError` for sites that the model has not, and for improper priors without a start."""
    known = {site.name for site in program.structure.latents}
    given = given or {}
    for name in given:
        if name not in known:
            raise ValueError(f"start: {name!r} is no latent site of the model; they are {', '.join(sorted(known))}")
    missing = [name for name in program.structure.improper if name not in given]
    if missing:
        raise ValueError(
            f"start: the prior of {', '.join(missing)} is improper and cannot be drawn from; give a distribution to "
            f"start from, {label}(start={{{missing[0]!r}: dist.Normal(...)}}), wider than the posterior"
        )


def _missing(distribution: Distribution, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The sample shape that gives a draw of `shape`."""
    own = distribution.batch_shape + distribution.event_shape
    if len(own) > len(shape) or own != shape[len(shape) - len(own) :]:
        raise ValueError(f"start: a distribution of shape {own} does not fit a site of shape {shape}")
    return shape[: len(shape) - len(own)]
