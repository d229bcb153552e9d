r"""A NumPyro program with a `scan` as a Feynman-Kac model, for given values of its static parameters.

What stands before the loop are static parameters $\theta$ and the initial state; each pass of the loop moves the state
by its latent sites and weighs it by its observed ones:
$$M_t(dx_t \mid x_{t-1}) = q_t(dx_t \mid x_{t-1}), \qquad
G_t(x_{t-1}, x_t) = \frac{p_\theta(x_t \mid x_{t-1})}{q_t(x_t \mid x_{t-1})} \, p_\theta(y_t \mid x_t),$$
with $q = p$ (the bootstrap filter) unless a site names a proposal, `infer={"proposal": distribution}` (a guided
filter). Generation 0 is what stands before the loop, so that a loop of length T makes T + 1 generations.

**Source:** Chopin & Papaspiliopoulos (2020), An Introduction to Sequential Monte Carlo, chapters 5 and 10.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PyTree, Shaped
from numpyro import handlers
from numpyro.distributions import biject_to

from ppl.inference.loop import (
    Loop,
    Parts,
    drawn_values,
    given_values,
    is_observed,
    log_potential_of,
    mean_values,
    numbered,
    one_pass,
    parts_of,
    up_to_loop,
)
from ppl.inference.program import Program
from ppl.inference.sites import JACOBIAN, from_unconstrained, site_log_prob
from ppl.smc.auxiliary import auxiliary
from ppl.smc.feynman_kac import FeynmanKac, Input, State
from ppl.smc.genealogy import Trajectory
from ppl.smc.policy import Policy

_FILTERS = ("bootstrap", "guided", "auxiliary")


class Particle(NamedTuple):
    """A generation of particles, every leaf `[n, ...]`.

    - `carry`: what the loop carries; `values`: its latent sites of this step (zero in generation 0), constrained;
    - `initial`: latent sites before the loop that belong to the state.
    """

    carry: PyTree
    values: dict[str, Shaped[Array, "..."]]
    initial: dict[str, Shaped[Array, "..."]]


class StateSpace(eqx.Module):
    """A program whose likelihood is that of a state-space model.

    **Arguments:** `program`: one with a single `numpyro.contrib.control_flow.scan`, as `ppl.markov` makes; `state`:
    names of latent sites before the loop that belong to the state. Left out, they are those that are handed to `scan`
    in its first carry.

    **Raises:** `ValueError` for a program without a loop, with sites after it, a reversed loop, a loop without latent
    or observed sites, improper transitions without a proposal, and names of `state` that are no sites before the loop.
    """

    program: Program
    parts: Parts = eqx.field(static=True)

    def __init__(self, program: Program, state: Sequence[str] | None = None):
        self.program = program
        self.parts = parts_of(program, state)

    @property
    def parameter_index(self) -> Int[np.ndarray, " p"]:
        """Where the static parameters stand in the program's flat vector."""
        return self.program.structure.index(self.parts.parameters)

    @property
    def path_index(self) -> Int[np.ndarray, " q"]:
        """Where the states stand in the program's flat vector."""
        return self.program.structure.index((*self.parts.initial, *self.parts.path))

    def parameters(self, flat: Float[Array, " d"]) -> Float[Array, " p"]:
        """The unconstrained static parameters of a flat vector."""
        return flat[self.parameter_index]

    def constrained(self, theta: Float[Array, " p"]) -> dict[str, Shaped[Array, "..."]]:
        """Values of the static parameters."""
        trace, _ = self._before(theta, jax.random.key(0))
        return {name: trace[name]["value"] for name in self.parts.parameters}

    def unconstrained(self, values: Mapping[str, Any]) -> Float[Array, " p"]:
        """The unconstrained static parameters at given values.

        **Raises:** `ValueError` for missing or foreign names.
        """
        if set(values) != set(self.parts.parameters):
            raise ValueError(
                f"parameters: values of {', '.join(self.parts.parameters) or 'none'} are wanted, got "
                f"{', '.join(values) or 'none'}"
            )
        model = handlers.seed(self.program.model, jax.random.key(0))
        given = {name: jnp.asarray(value) for name, value in values.items()}
        trace, _ = up_to_loop(handlers.substitute(model, data=given), self.program)
        inverse = [biject_to(trace[name]["fn"].support).inv(given[name]) for name in self.parts.parameters]
        flat = [jnp.ravel(value).astype(jnp.result_type(float)) for value in inverse]
        return jnp.concatenate([jnp.zeros(0), *flat])

    def log_prior(self, theta: Float[Array, " p"]) -> Float[Array, ""]:
        """Log prior density of the unconstrained static parameters."""
        trace, _ = self._before(theta, jax.random.key(0))
        prior = jnp.zeros(())
        for name, site in trace.items():
            if name in self.parts.parameters or name.startswith(JACOBIAN):
                prior += site_log_prob(site)
        return prior

    def model(self, theta: Float[Array, " p"], kind: str = "bootstrap") -> FeynmanKac:
        """The Feynman-Kac model at `theta`, for `ppl.smc`. `kind`: `"bootstrap"`, `"guided"` or `"auxiliary"`."""
        guided = kind != "bootstrap"
        kernels = FeynmanKac(_Init(self, theta, guided), _Step(self, theta, guided))
        return auxiliary(kernels, _Ahead(self, theta)) if kind == "auxiliary" else kernels

    def inputs(self) -> PyTree:
        """What the kernels are given: the number of the pass (-1 before the loop), and its slice of the inputs."""
        _, loop = self._before(jnp.zeros(len(self.parameter_index)), jax.random.key(0))
        return numbered(loop)

    def log_transition(self, theta: Float[Array, " p"]) -> "Transition":
        """The density of a pass, latent and observed sites, as `ppl.smc.backward_sample` wants it."""
        return Transition(self, theta)

    def flat(self, theta: Float[Array, " p"], path: Particle) -> Float[Array, " d"]:
        """The program's flat vector at `theta` and one path (leaves `[T + 1, ...]`)."""
        initial = {name: value[0] for name, value in path.initial.items()}
        steps = {name: value[1:] for name, value in path.values.items()}
        return self.program.unconstrained({**self.constrained(theta), **initial, **steps})

    def path(self, theta: Float[Array, " p"], flat: Float[Array, " d"], guided: bool) -> Trajectory:
        """The path of a flat vector with the log potentials of the filter: a reference for conditional SMC."""
        trace = handlers.trace(self.program.moved(flat)).get_trace(*self.program.args, **self.program.kwargs)
        length = self.parts.length
        initial = {name: trace[name]["value"] for name in self.parts.initial}
        steps = {name: trace[name]["value"].reshape(length, *shape.shape) for name, shape in self._values().items()}
        before, loop = self._before(theta, jax.random.key(0), initial)
        first_carry = self._carry(loop)

        def step(carry: PyTree, scanned: tuple[Input, dict[str, Array]]) -> tuple[PyTree, tuple[PyTree, Array]]:
            (t, x), values = scanned
            carry, body = one_pass(loop, t, carry, x, jax.random.key(0), given_values(values))
            return carry, (carry, log_potential_of(body, self.parts.path, guided))

        inputs = jax.tree.map(lambda leaf: leaf[1:], numbered(loop))
        _, (carries, log_potentials) = jax.lax.scan(step, first_carry, (inputs, steps))
        states = Particle(
            jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), first_carry, carries),
            {name: jnp.concatenate([jnp.zeros_like(value[:1]), value]) for name, value in steps.items()},
            {name: jnp.broadcast_to(value, (length + 1, *value.shape)) for name, value in initial.items()},
        )
        first = log_potential_of(before, self.parts.initial, guided)
        return Trajectory(states, jnp.concatenate([first[None], log_potentials]), jnp.zeros(length + 1, jnp.int32))

    def _before(
        self, theta: Float[Array, " p"], key: Key[Array, ""], initial: Mapping[str, Shaped[Array, "..."]] = {}
    ) -> tuple[dict[str, Any], Loop]:
        """What stands before the loop, and the loop."""
        values, start = {}, 0
        for site in self.program.structure.latents:
            if site.name in self.parts.parameters:
                stop = start + int(np.prod(site.unconstrained_shape))
                values[site.name] = theta[start:stop].reshape(site.unconstrained_shape)
                start = stop
        model = handlers.seed(self.program.model, key)
        model = handlers.substitute(model, substitute_fn=functools.partial(from_unconstrained, values))
        return up_to_loop(handlers.substitute(model, data=dict(initial)), self.program)

    def _values(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of the latent sites of one pass."""
        return self._shapes()[1]

    def _carry(self, loop: Loop) -> PyTree:
        """The first carry, in the dtypes that a pass gives it."""
        return jax.tree.map(lambda x, like: jnp.asarray(x, like.dtype), loop.carry, self._shapes()[0])

    def _shapes(self) -> tuple[PyTree, dict[str, jax.ShapeDtypeStruct]]:
        def one() -> tuple[PyTree, dict[str, Array]]:
            _, loop = self._before(jnp.zeros(len(self.parameter_index)), jax.random.key(0))
            t, x = jax.tree.map(lambda leaf: leaf[0], numbered(loop))
            carry, body = one_pass(loop, t, loop.carry, x, jax.random.key(0), drawn_values(guided=True))
            return carry, {name: body[name]["value"] for name in self.parts.path}

        return jax.eval_shape(one)


class _Init(eqx.Module):
    space: StateSpace
    theta: Float[Array, " p"]
    guided: bool = eqx.field(static=True)

    def __call__(self, key: Key[Array, ""], n: int, u: Input, /) -> tuple[Particle, Float[Array, " n"]]:
        space = self.space
        values = {name: jnp.zeros(shape.shape, shape.dtype) for name, shape in space._values().items()}

        def one(key: Key[Array, ""]) -> tuple[Particle, Float[Array, ""]]:
            drawn = self._proposed(key) if self.guided and space.parts.initial else {}
            trace, loop = space._before(self.theta, key, drawn)
            initial = {name: trace[name]["value"] for name in space.parts.initial}
            return Particle(space._carry(loop), values, initial), log_potential_of(
                trace, space.parts.initial, self.guided
            )

        return jax.vmap(one)(jax.random.split(key, n))

    def _proposed(self, key: Key[Array, ""]) -> dict[str, Shaped[Array, "..."]]:
        """Initial states that have a proposal, drawn from it; the program draws the others."""
        trace, _ = self.space._before(self.theta, key)
        drawn = {}
        for name in self.space.parts.initial:
            key, key_draw = jax.random.split(key)
            if "proposal" in trace[name]["infer"]:
                drawn[name] = trace[name]["infer"]["proposal"].sample(key_draw)
        return drawn


class _Step(eqx.Module):
    space: StateSpace
    theta: Float[Array, " p"]
    guided: bool = eqx.field(static=True)

    def __call__(self, key: Key[Array, ""], state: Particle, u: Input, /) -> tuple[Particle, Float[Array, " n"]]:
        n = jax.tree.leaves(state)[0].shape[0]
        return _each_pass(self.space, self.theta, self._one, u, state, jax.random.split(key, n))

    def _one(self, loop: Loop, u: Input, particle: Particle, key: Key[Array, ""]) -> tuple[Particle, Float[Array, ""]]:
        carry, trace = one_pass(loop, u[0], particle.carry, u[1], key, drawn_values(self.guided))
        values = {name: trace[name]["value"] for name in self.space.parts.path}
        return Particle(carry, values, particle.initial), log_potential_of(trace, self.space.parts.path, self.guided)


class _Ahead(eqx.Module):
    """First-stage weights: the likelihood of what is next at the mean of the move."""

    space: StateSpace
    theta: Float[Array, " p"]

    def __call__(self, state: Particle, u: Input, /) -> Float[Array, " n"]:
        def one(loop: Loop, u: Input, particle: Particle) -> Float[Array, ""]:
            _, trace = one_pass(loop, u[0], particle.carry, u[1], jax.random.key(0), mean_values)
            value = sum((site_log_prob(site) for site in trace.values() if is_observed(site)), start=jnp.zeros(()))
            # Any positive guess is proper; a particle must not be lost for a guess of zero.
            return jnp.nan_to_num(jnp.clip(value, -1e4, 1e4), nan=-1e4)

        return _each_pass(self.space, self.theta, one, u, state)


class Transition(eqx.Module):
    """`log p(x_t, y_t | x_{t-1})` from each of `n` states to one: `ppl.smc.backward.LogTransition`.

    A carry that does not follow from the sites (an AR(2) carries two states) can be reached from few particles only;
    it is compared, and `-inf` where it differs.
    """

    space: StateSpace
    theta: Float[Array, " p"]

    def __call__(self, previous: State, following: State, u: Input, /) -> Float[Array, " n"]:
        names = self.space.parts.path

        def one(loop: Loop, u: Input, particle: Particle) -> Float[Array, ""]:
            carry, trace = one_pass(loop, u[0], particle.carry, u[1], jax.random.key(0), given_values(following.values))
            density = sum((site_log_prob(trace[name]) for name in names), start=jnp.zeros(()))
            density += log_potential_of(trace, names, guided=False)
            same = [
                jnp.all(jnp.isclose(a, b, rtol=1e-4, atol=1e-6))
                for a, b in zip(jax.tree.leaves(carry), jax.tree.leaves(following.carry), strict=True)
            ]
            if self.space.parts.tied:
                same += [jnp.all(particle.initial[name] == following.initial[name]) for name in particle.initial]
            return jnp.where(functools.reduce(jnp.logical_and, same, jnp.asarray(True)), density, -jnp.inf)

        return _each_pass(self.space, self.theta, one, u, previous)


class Potential(eqx.Module):
    """`log G_t(x_{t-1}, x_t)` from each of `n` states to one, for a reference that is joined to another past."""

    space: StateSpace
    theta: Float[Array, " p"]
    guided: bool = eqx.field(static=True)

    def __call__(self, previous: State, following: State, u: Input, /) -> Float[Array, " n"]:
        def one(loop: Loop, u: Input, particle: Particle) -> Float[Array, ""]:
            _, trace = one_pass(loop, u[0], particle.carry, u[1], jax.random.key(0), given_values(following.values))
            return log_potential_of(trace, self.space.parts.path, self.guided)

        return _each_pass(self.space, self.theta, one, u, previous)


def check_filter(kind: str, policy: Policy) -> None:
    """**Raises:** `ValueError` for a filter that is not known, and a policy whose weights are not proper."""
    if kind not in _FILTERS:
        raise ValueError(f"filter: {kind!r} is not known; known are {', '.join(map(repr, _FILTERS))}")
    if not policy.proper:
        raise ValueError("policy: the likelihood wants a proper resampling scheme; a transport's weights are not")


def with_paths(program: Program, state: Sequence[str] | None, label: str) -> StateSpace:
    """The state space of a program, for a method whose draws have the path.

    **Raises:** `ValueError` as `StateSpace`, and for discrete states, which no flat vector holds.
    """
    space = StateSpace(program, state)
    for site in program.structure.discrete:
        raise ValueError(
            f"model: the state {site.name!r} is discrete, and {label} keeps paths of continuous ones; NUTS sums it "
            "out, and ppl.inference.particle_filter runs on it"
        )
    return space


def _each_pass(
    space: StateSpace, theta: Float[Array, " p"], one: Callable[..., Any], u: Input, state: Particle, *others: Array
) -> Any:
    """`one(loop, u, particle, *others)` for all particles; a loop tied to the initial state is built for each."""
    if not space.parts.tied:
        _, loop = space._before(theta, jax.random.key(0))
        return jax.vmap(lambda particle, *rest: one(loop, u, particle, *rest))(state, *others)

    def whole(particle: Particle, *rest: Array) -> Any:
        _, loop = space._before(theta, jax.random.key(0), particle.initial)
        return one(loop, u, particle, *rest)

    return jax.vmap(whole)(state, *others)
