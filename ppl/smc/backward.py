r"""Backward sampling: trajectories from the smoothing law, over a stored history.

The paths of a particle filter coalesce. Backward sampling draws a final particle by its weight and then, going back,
a particle of each generation anew:
$$P(b_t = i \mid b_{t+1}) \propto w_t^i \; m_{t+1}(x_{t+1}^{b_{t+1}} \mid x_t^i),$$
where $w_t$ are the weights after weighting (what steps without resampling have carried is in them) and $m$ is the
density of the move. Given the filter the trajectories are independent; each costs `T * N` evaluations exactly, or
`T * moves` by MCMC.

`log_transition(previous, next, u)` is the logarithm of $m_{t+1}$: `previous` are the particles of generation `t`
(leaves `[N, ...]`), `next` is one particle of generation `t + 1` (leaves without the particle axis), `u` is slice
`t + 1` of the inputs; it returns `[N]`. Factors that do not depend on `previous` may be left out. If the potential
depends on the previous state too (a guided proposal, a twist), its factor belongs in it: what is meant is the ratio of
targets, $G_{t+1} M_{t+1}$ as a function of $x_t$. For twisted models see `ppl.smc.twisting.twisted_transition`.

**Source:** Godsill, Doucet & West (2004), Monte Carlo smoothing for nonlinear time series (exact); Bunch & Godsill
(2013), Improved particle approximations to the joint smoothing distribution using MCMC; Dau & Chopin (2023), On
backward smoothing algorithms (start of the chain at the ancestor).
"""

from typing import Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from ppl.keys import as_key
from ppl.smc.feynman_kac import Input, State
from ppl.smc.genealogy import Trajectory, follow, kept
from ppl.smc.resampling import multinomial
from ppl.smc.results import History, Run
from ppl.smc.wrapping import num_particles


@runtime_checkable
class LogTransition(Protocol):
    """The density of a move as a function of where it came from."""

    def __call__(self, previous: State, following: State, u: Input, /) -> Float[Array, " n"]:
        """Log density `[n]` from each of `n` states (leaves `[n, ...]`) to one state, by step `t` with slice `t`."""
        ...


def backward_sample(
    key: int | Key[Array, ""],
    run: Run,
    log_transition: LogTransition,
    inputs: PyTree = None,
    *,
    num: int,
    moves: int | None = None,
    batch_size: int | None = None,
) -> Trajectory:
    """Trajectories from the smoothing law of the path, which count alike.

    **Arguments:**

    - `run`: one run (no replicates) with `history=True`.
    - `log_transition`: see above.
    - `inputs`: those of the run, leaves `[T + 1, ...]`; `None` if it had none (the step index is passed then).
    - `num`: how many trajectories, 1 or more.
    - `moves`: `None` for exact backward sampling. Else the number of Metropolis moves for each trajectory and step: an
      independent proposal by the weights of the generation, starting from the ancestor in the genealogy. 0 moves
      give the ancestral paths; a few are close to exact unless the move's density is very peaked.
    - `batch_size`: trajectories to work on at once; all by default. Exact sampling holds `batch_size * N` densities.

    **Returns:** `Trajectory` with a leading axis `num`. Its `log_potentials` are those the particles had in the filter:
    they are the potentials along the new path only if potentials do not depend on the previous state.

    **Raises:** `ValueError` for a run without history or with replicates, `num < 1` or `moves < 0`. Under jit: an
    extinct run, and a `log_transition` that is NaN or zero from every particle to a particle of the next generation.
    """
    if num < 1:
        raise ValueError(f"num: 1 or more is wanted, got {num}")
    if moves is not None and moves < 0:
        raise ValueError(f"moves: 0 or more, or None for exact sampling, is wanted, got {moves}")
    history, ancestors = kept(run)
    if inputs is None:
        inputs = jnp.arange(ancestors.shape[0] + 1, dtype=jnp.int32)
    return _sample(as_key(key), history, ancestors, log_transition, inputs, num, moves, batch_size)


@eqx.filter_jit
def _sample(
    key: Key[Array, ""],
    history: History,
    ancestors: Int[Array, "steps n"],
    log_transition: LogTransition,
    inputs: PyTree,
    num: int,
    moves: int | None,
    batch_size: int | None,
) -> Trajectory:
    if moves is not None:
        ancestors = eqx.error_if(
            ancestors, ancestors < 0, "moves: chains start at ancestors, and particles mixed by a transport have none"
        )
    first, rest = jax.random.split(key)
    last = multinomial(first, history.log_weights[-1], num)

    def back(indices: Int[Array, " m"], scanned: PyTree) -> tuple[Int[Array, " m"], tuple[Array, Array]]:
        key, states, log_weights, next_states, u, parents = scanned
        following = jax.tree.map(lambda leaf: leaf[indices], next_states)
        if moves is None:
            drawn, lost = _exact(key, states, log_weights, following, u, log_transition, batch_size)
        else:
            drawn, lost = _chains(key, states, log_weights, following, u, log_transition, parents[indices], moves)
        return drawn, (drawn, lost)

    generations = (
        jax.random.split(rest, ancestors.shape[0]),
        jax.tree.map(lambda leaf: leaf[:-1], history.states),
        history.log_weights[:-1],
        jax.tree.map(lambda leaf: leaf[1:], history.states),
        jax.tree.map(lambda leaf: leaf[1:], inputs),
        ancestors,
    )
    _, (paths, lost) = jax.lax.scan(back, last, generations, reverse=True)
    indices = jnp.concatenate([paths, last[None]]).T
    indices = eqx.error_if(
        indices, jnp.isneginf(jnp.max(history.log_weights[-1])), "backward_sample: the run is extinct, no path is left"
    )
    indices = eqx.error_if(
        indices,
        lost,
        "backward_sample: log_transition is NaN, or -inf from every particle of a generation (their ancestor among "
        "them) to a particle of the next; it does not describe the step of this model",
    )
    return follow(history, indices)


def _exact(
    key: Key[Array, ""],
    states: State,
    log_weights: Float[Array, " n"],
    following: State,
    u: Input,
    log_transition: LogTransition,
    batch_size: int | None,
) -> tuple[Int[Array, " m"], Bool[Array, " m"]]:
    """Indices by the backward weights, and for which there was none of positive weight."""
    # A dead particle may have any density, NaN included.
    alive = ~jnp.isneginf(log_weights)

    def draw(scanned: tuple[Key[Array, ""], State]) -> tuple[Int[Array, ""], Bool[Array, ""]]:
        key, following = scanned
        log_backward = jnp.where(alive, log_weights + log_transition(states, following, u), -jnp.inf)
        top = jnp.max(log_backward)  # NaN if any is
        return multinomial(key, log_backward, 1)[0], ~(top > -jnp.inf)

    num = num_particles(following)
    return jax.lax.map(draw, (jax.random.split(key, num), following), batch_size=batch_size or num)


def _chains(
    key: Key[Array, ""],
    states: State,
    log_weights: Float[Array, " n"],
    following: State,
    u: Input,
    log_transition: LogTransition,
    ancestors: Int[Array, " m"],
    moves: int,
) -> tuple[Int[Array, " m"], Bool[Array, " m"]]:
    """Indices after Metropolis moves that leave the backward weights invariant, and which of them have no density."""
    if moves == 0:
        return ancestors, jnp.zeros(ancestors.shape, bool)
    num = ancestors.shape[0]
    propose, accept = jax.random.split(key)
    # By the weights alone: they cancel in the ratio, and one sum over the generation serves all trajectories.
    proposed = multinomial(propose, log_weights, num * moves).reshape(num, moves)
    candidates = jnp.concatenate([ancestors[:, None], proposed], axis=1)

    def density(candidates: Int[Array, " k"], following: State) -> Float[Array, " k"]:
        return log_transition(jax.tree.map(lambda leaf: leaf[candidates], states), following, u)

    log_density = jax.vmap(density)(candidates, following)
    log_uniform = jnp.log(jax.random.uniform(accept, (moves, num), log_density.dtype))
    rows = jnp.arange(num)

    def move(current: Int[Array, " m"], scanned: tuple[Array, Array]) -> tuple[Int[Array, " m"], None]:
        column, log_u = scanned
        # log u < f_new - f_old, without the difference: that is NaN where both are -inf
        accepted = log_u + log_density[rows, current] < log_density[:, column]
        return jnp.where(accepted, column, current), None

    columns = jnp.arange(1, moves + 1, dtype=jnp.int32)
    final, _ = jax.lax.scan(move, jnp.zeros(num, jnp.int32), (columns, log_uniform))
    lost = jnp.any(jnp.isnan(log_density), axis=1) | jnp.isneginf(log_density[rows, final])
    return candidates[rows, final], lost
