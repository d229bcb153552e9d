"""The loop of a NumPyro program: `scan` caught before it runs, and one pass of it at a time."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree, Shaped
from numpyro import distributions, handlers
from numpyro.contrib.control_flow.scan import _subs_wrapper, scan_wrapper
from numpyro.primitives import Messenger

from ppl.inference.program import Program
from ppl.inference.sites import JACOBIAN, base_distribution, feasible, site_log_prob


class Loop(NamedTuple):
    """The loop as the program has built it: its function, first carry, inputs, and what handlers substitute in it."""

    function: Callable[..., Any]
    carry: PyTree
    inputs: PyTree
    length: int
    given: Sequence[tuple[str, Any]]


class Parts(NamedTuple):
    """Names of the static parameters, of initial states, and of the latent sites of the loop."""

    parameters: tuple[str, ...]
    initial: tuple[str, ...]
    path: tuple[str, ...]
    length: int
    tied: bool  # whether the loop uses the initial state other than by its carry


class _Reached(Exception):
    def __init__(self, loop: Loop):
        self.loop = loop


class _AtLoop(Messenger):
    """Leaves the program where its loop begins; outermost, so that every other handler has had its say."""

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "control_flow" and msg["fn"] is scan_wrapper:
            function, carry, inputs, length, reverse = msg["args"]
            if reverse:
                raise ValueError("model: its scan runs in reverse; turn the inputs around and scan forward")
            if length is None:
                length = jax.tree.leaves(inputs)[0].shape[0]
            raise _Reached(Loop(function, carry, inputs, length, msg["kwargs"]["substitute_stack"]))


def up_to_loop(model: Callable[..., Any], program: Program) -> tuple[dict[str, Any], Loop]:
    """The trace of what stands before the loop, and the loop. **Raises:** `ValueError` if there is none."""
    with _AtLoop(), handlers.trace() as trace:
        try:
            model(*program.args, **program.kwargs)
        except _Reached as reached:
            return dict(trace), reached.loop
    raise ValueError(
        "model: it has no numpyro.contrib.control_flow.scan, so that there is no state space; write its recursion with "
        "scan or ppl.markov"
    )


def one_pass(
    loop: Loop,
    t: Int[Array, ""],
    carry: PyTree,
    x: PyTree,
    key: Key[Array, ""],
    choose: Callable[[dict[str, Any]], Any],
) -> tuple[PyTree, dict[str, Any]]:
    """One pass of the loop: the carry after it and its trace. `choose` gives values of latent sites (None: drawn)."""
    function = handlers.seed(loop.function, key)
    for kind, substitute in loop.given:
        at_step = functools.partial(_subs_wrapper, substitute, t, loop.length)
        if kind == "condition":
            function = handlers.condition(function, condition_fn=at_step)
        elif kind == "substitute":
            function = handlers.substitute(function, substitute_fn=at_step)
        else:
            raise ValueError(f"model: a handler of kind {kind!r} around scan is not supported; condition or substitute")
    function = handlers.substitute(function, substitute_fn=choose)
    with handlers.trace() as trace:
        called: Any = function  # the handlers are typed as what they return as context managers
        carry, _ = called(carry, x)
    return carry, dict(trace)


def drawn_values(guided: bool) -> Callable[[dict[str, Any]], Any]:
    """Latent sites drawn by the program or, where they have one and it is asked for, from their proposal."""

    def choose(site: dict[str, Any]) -> Any:
        if site["type"] != "sample" or site["is_observed"]:
            return None
        proposal = site["infer"].get("proposal") if guided else None
        if proposal is not None:
            return proposal.sample(site["kwargs"]["rng_key"], site["kwargs"]["sample_shape"])
        if isinstance(base_distribution(site["fn"]), distributions.ImproperUniform):
            raise ValueError(
                f"model: the latent site {site['name']!r} of its loop is improper and cannot be drawn from; give it "
                "infer={'proposal': distribution} and filter='guided'"
            )
        return None

    return choose


def given_values(values: Mapping[str, Shaped[Array, "..."]]) -> Callable[[dict[str, Any]], Any]:
    """Latent sites at given values."""
    return lambda site: values.get(site["name"]) if site["type"] == "sample" else None


def mean_values(site: dict[str, Any]) -> Any:
    """The mean of the move, or what `infer={"lookahead": value}` says."""
    if site["type"] != "sample" or site["is_observed"]:
        return None
    if "lookahead" in site["infer"]:
        return site["infer"]["lookahead"]
    move = site["infer"].get("proposal", site["fn"])
    if move.support.is_discrete:
        raise ValueError(
            f"filter: 'auxiliary' looks at the mean of {site['name']!r}, which is discrete; say where to look by "
            "infer={'lookahead': value}"
        )
    return jnp.broadcast_to(move.mean, site["fn"].shape())


def is_observed(site: dict[str, Any]) -> bool:
    """Whether a site weighs a particle: observations and factors, not the Jacobians of moved parameters."""
    return site["type"] == "sample" and site["is_observed"] and not site["name"].startswith(JACOBIAN)


def log_potential_of(trace: Mapping[str, Any], latent: Sequence[str], guided: bool) -> Float[Array, ""]:
    """Log likelihood of the observed sites, and the log ratio of prior to proposal of guided latent ones."""
    total = sum((site_log_prob(site) for site in trace.values() if is_observed(site)), start=jnp.zeros(()))
    for name in latent:
        if guided and "proposal" in trace[name]["infer"]:
            drawn = jnp.sum(trace[name]["infer"]["proposal"].log_prob(trace[name]["value"]))
            total += site_log_prob(trace[name]) - drawn
    return total


def numbered(loop: Loop) -> PyTree:
    """Numbers of passes and slices of inputs, entry 0 (before the loop) being a copy of the first."""
    inputs = jax.tree.map(lambda x: jnp.concatenate([jnp.asarray(x)[:1], jnp.asarray(x)]), loop.inputs)
    return jnp.arange(-1, loop.length, dtype=jnp.int32), inputs


def parts_of(program: Program, state: Sequence[str] | None) -> Parts:
    """What the program is made of. **Raises:** `ValueError` as `StateSpace` says."""
    found: dict[str, Any] = {}

    def look() -> None:
        model = handlers.seed(feasible(program.model), jax.random.key(0))
        trace, loop = up_to_loop(model, program)
        t, x = jax.tree.map(lambda leaf: leaf[0], numbered(loop))
        _, body = one_pass(loop, t, loop.carry, x, jax.random.key(0), drawn_values(guided=True))
        whole = handlers.trace(handlers.seed(feasible(program.model), jax.random.key(0))).get_trace(
            *program.args, **program.kwargs
        )
        before = [name for name, site in trace.items() if site["type"] == "sample" and not site["is_observed"]]
        leaves = jax.tree.leaves(loop.carry)
        found.update(
            before=before,
            handed=[name for name in before if any(trace[name]["value"] is leaf for leaf in leaves)],
            path=[name for name, site in body.items() if site["type"] == "sample" and not site["is_observed"]],
            observed=[name for name, site in (trace | body).items() if is_observed(site)],
            after=[
                name
                for name, site in whole.items()
                if site["type"] == "sample" and name not in trace and name not in body
            ],
            length=loop.length,
        )

    jax.eval_shape(look)
    if found["after"]:
        raise ValueError(
            f"model: the site {found['after'][0]!r} comes after its scan, so that the likelihood is not a product over "
            "steps; observe inside the scanned function"
        )
    if not found["path"] or not found["observed"]:
        missing = "observed" if found["path"] else "latent"
        raise ValueError(f"model: its scan has no {missing} site; a state-space model has latent and observed ones")
    chosen = found["handed"] if state is None else list(state)
    unknown = [name for name in chosen if name not in found["before"]]
    if unknown:
        raise ValueError(f"state: {unknown[0]!r} is no latent site before the loop; they are {found['before']}")
    parameters = tuple(name for name in found["before"] if name not in chosen)
    tied = _is_tied(program, chosen)
    return Parts(parameters, tuple(chosen), tuple(found["path"]), found["length"], tied)


def _is_tied(program: Program, initial: Sequence[str]) -> bool:
    """Whether one pass depends on the initial states when its carry is held fixed."""
    if not initial:
        return False
    model = handlers.seed(feasible(program.model), jax.random.key(0))

    def one(values: dict[str, Array]) -> PyTree:
        _, loop = up_to_loop(handlers.substitute(model, data=values), program)
        t, x = jax.tree.map(lambda leaf: leaf[0], numbered(loop))
        held = jax.tree.map(lambda leaf: jnp.zeros(jnp.shape(leaf), jnp.result_type(leaf)), loop.carry)
        carry, body = one_pass(loop, t, held, x, jax.random.key(0), drawn_values(guided=True))
        return carry, [site_log_prob(site) for site in body.values() if site["type"] == "sample"]

    shapes: Any = jax.eval_shape(
        lambda: {name: site["value"] for name, site in up_to_loop(model, program)[0].items() if name in initial}
    )
    jaxpr = jax.make_jaxpr(one)(shapes).jaxpr
    depends = {id(variable) for variable in jaxpr.invars}
    for equation in jaxpr.eqns:
        if any(id(variable) in depends for variable in equation.invars):
            depends.update(id(variable) for variable in equation.outvars)
    return any(id(variable) in depends for variable in jaxpr.outvars)
