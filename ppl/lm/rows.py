"""Rows of tokens that are being written: their state, and what one more drawn token makes of it."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from ppl.lm.proposals import Proposal, inverse_cdf_span, log_density
from ppl.lm.stops import HIT


@runtime_checkable
class Constraint(Protocol):
    """What a text may go on with, as a state machine over tokens that is jitted with the loop.

    `start(n)`: the state of `n` empty texts, a pytree whose leaves have the row axis first; `allowed(state)`
    [n, vocab]: tokens that may come next, at least one in each row (the end of the text where a text may end);
    `advance(state, tokens)`: the state after tokens [n]. One object compiles once: keep it for further calls.
    """

    def start(self, n: int) -> Any: ...
    def allowed(self, state: Any) -> Bool[Array, "n vocab"]: ...
    def advance(self, state: Any, tokens: Int[Array, " n"]) -> Any: ...


class Rows(NamedTuple):
    """Rows being written, those of the first prompt first; every leaf has the row axis first.

    `last` [n]: the newest token, not read yet; `ended` [n]: has the row ended; `stop` [n]: the state of
    `ppl.lm.stops`; `length` [n]: tokens written; `passes` [n]: passes of the decoder that wrote them; `tokens`,
    `log_probs`, `log_proposals` [n, max_tokens].
    """

    last: Int[Array, " n"]
    ended: Bool[Array, " n"]
    stop: Int[Array, " n"]
    constraint: Any
    length: Int[Array, " n"]
    passes: Int[Array, " n"]
    tokens: Int[Array, "n max_tokens"]
    log_probs: Float[Array, "n max_tokens"]
    log_proposals: Float[Array, "n max_tokens"]


class Weights(NamedTuple):
    """What the loop needs of a language model: `graph` and `params` of its decoder."""

    graph: nnx.GraphDef
    params: nnx.State


class Law(NamedTuple):
    """What tokens are drawn from, and where texts end; the same for every token of a call.

    `proposal`: with a temperature for all rows or one a row; `table`: of `ppl.lm.stops.Stops`; `eos`: ids that end a
    text; `last`: the place of a text's last token, which is then one of `eos`, or None.
    """

    proposal: Proposal
    table: Int[Array, "states vocab"] | None
    constraint: Constraint | None
    eos: tuple[int, ...]
    last: int | None


def law_of_rows(
    n: int,
    proposal: Proposal,
    table: Int[Array, "states vocab"] | None,
    constraint: Constraint | None,
    eos: tuple[int, ...],
    last: int | None,
) -> Law:
    """The law of `n` rows. A temperature a prompt is every sample's of it."""
    heat = jnp.asarray(proposal.temperature)
    proposal = proposal._replace(temperature=jnp.repeat(heat, n // heat.shape[0]) if heat.ndim else heat)
    return Law(proposal, table, constraint, eos, last)


def draw(
    law: Law,
    rows: Rows,
    log_p: Float[Array, "n vocab"],
    uniform: Float[Array, " n"],
    active: Bool[Array, " n"],
    put: Callable[[Array, Array], Array],
) -> tuple[Rows, tuple[Float[Array, " n"], Float[Array, " n"]]]:
    """Rows with one more token each where `active`, drawn by the rows' uniforms; and from which uniform to which it
    would have been the same.

    **Arguments:** `log_p`: the model's law of the token; `put(array, new)`: writes `new` [n] where the token belongs in
    an array [n, max_tokens], for the rows that are active.
    """
    before = rows.constraint
    allowed = None if law.constraint is None else law.constraint.allowed(before)
    if law.last is not None:
        ending = (rows.length < law.last)[:, None] | jnp.isin(jnp.arange(log_p.shape[1]), jnp.asarray(law.eos))
        allowed = ending if allowed is None else allowed & ending
    log_q = log_density(law.proposal, log_p, allowed)
    token, *span = inverse_cdf_span(uniform, log_q)
    at = lambda log_law: jnp.take_along_axis(log_law, token[:, None], axis=1)[:, 0]  # noqa: E731
    stop = rows.stop if law.table is None else law.table[rows.stop, token].astype(jnp.int32)
    ends = stop == HIT
    for end in law.eos:
        ends = ends | (token == end)
    state = before
    if law.constraint is not None:
        pick = lambda new, old: jnp.where(active.reshape(-1, *[1] * (new.ndim - 1)), new, old)  # noqa: E731
        state = jax.tree.map(pick, law.constraint.advance(before, token), before)
    drawn = Rows(
        jnp.where(active, token, rows.last), rows.ended | (active & ends), jnp.where(active, stop, rows.stop), state,
        rows.length + active, rows.passes, put(rows.tokens, token), put(rows.log_probs, at(log_p)),
        put(rows.log_proposals, at(log_q)),
    )  # fmt: skip
    return drawn, (span[0], span[1])
