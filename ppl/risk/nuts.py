"""Posterior draws by the No-U-Turn sampler: slower than `ppl.risk.importance`, and its check."""

from collections.abc import Callable

import jax
from jaxtyping import Array, Float, Key


def nuts_draws(
    key: Key[Array, ""],
    log_density: Callable[[Float[Array, " parameters"]], Float[Array, ""]],
    start: Float[Array, " parameters"],
    num: int,
    chains: int = 4,
    warmup: int = 500,
) -> Float[Array, "chains per_chain parameters"]:
    """`num` draws in all from `chains` chains, each adapted by itself; arguments as of `importance_draws`.

    **Source:** Hoffman & Gelman (2014), with Stan's window adaptation, both as blackjax has them.
    """

    import blackjax  # takes a second to import, which only this route should pay

    def chain(key):
        key_start, key_warmup, key_run = jax.random.split(key, 3)
        position = start + 0.5 * jax.random.normal(key_start, start.shape, start.dtype)
        adaptation = blackjax.window_adaptation(blackjax.nuts, log_density)
        (state, parameters), _ = adaptation.run(key_warmup, position, warmup)  # pyright: ignore[reportCallIssue]
        kernel = blackjax.nuts(log_density, **parameters)

        def step(state, key):
            state, _ = kernel.step(key, state)
            return state, state.position  # pyright: ignore[reportAttributeAccessIssue]

        return jax.lax.scan(step, state, jax.random.split(key_run, -(-num // chains)))[1]

    return jax.jit(jax.vmap(chain))(jax.random.split(key, chains))
