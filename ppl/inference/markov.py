"""`ppl.markov`: a state-space model in one line of a NumPyro program."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
from jaxtyping import Array, PyTree, Shaped
from numpyro.contrib.control_flow import scan
from numpyro.distributions import Distribution

# Of a state and the inputs of its step: the distribution of the next state, or of what is observed there.
Kernel = Callable[..., Distribution]


def markov(
    name: str,
    initial: Distribution,
    transition: Kernel,
    emission: Kernel,
    obs: Shaped[Array, "steps ..."] | None = None,
    *,
    inputs: PyTree = None,
    length: int | None = None,
    proposal: Kernel | None = None,
    obs_name: str = "y",
) -> Shaped[Array, "steps ..."]:
    """A hidden Markov process and its observations.

    $$x_0 \\sim p_0, \\quad x_t \\sim p(x_t \\mid x_{t-1}), \\quad y_t \\sim p(y_t \\mid x_t)$$

    For use inside a NumPyro model. Every method of `ppl.infer` then runs on it: NUTS moves the states with the
    parameters, and particle methods (`PMMH`, `ParticleGibbs`, `SMC2`, `ppl.inference.particle_filter`) run a filter.

    **Arguments:**

    - `name`: of the state. Sites are `{name}_0`, the first state, and `name`, states 1 to T - 1.
    - `initial`: the distribution of the first state.
    - `transition(x)`, `emission(x)`: distributions given a state; with `inputs` they are called as `transition(x, u)`,
      with slice t of the inputs, of the step that is moved to.
    - `obs`: observations `[T, ...]`, sites `{obs_name}_0` and `obs_name`. `None` draws them; `length` says how many.
    - `inputs`: leaves `[T, ...]`, covariates of each step.
    - `proposal(x, y)` (or `proposal(x, y, u)`): where guided filters draw the next state from.

    **Returns:** the states `[T, ...]`.

    **Raises:** `ValueError` without observations and without a length, and for lengths that differ.

    ```python
    def model(y):
        rho = numpyro.sample("rho", dist.Uniform(-1, 1))
        ppl.markov("x", dist.Normal(0, 1), lambda x: dist.Normal(rho * x, 1), lambda x: dist.Normal(x, 0.5), y)
    ```
    """
    lengths = {jnp.shape(leaf)[0] for leaf in jax.tree.leaves((obs, inputs))} | ({length} if length else set())
    if len(lengths) != 1:
        wanted = "obs, inputs or length say how many steps" if not lengths else "obs, inputs and length must agree"
        raise ValueError(f"length: {wanted}, got {sorted(lengths) or 'none'}")
    (steps,) = lengths

    def at(kernel: Kernel, *arguments: Any, u: PyTree) -> Distribution:
        return kernel(*arguments) if inputs is None else kernel(*arguments, u)

    def first(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: leaf[0], tree)

    x0 = jnp.asarray(numpyro.sample(f"{name}_0", initial))
    numpyro.sample(f"{obs_name}_0", at(emission, x0, u=first(inputs)), obs=first(obs))

    def step(x: Array, scanned: tuple[Any, PyTree]) -> tuple[Array, Array]:
        y, u = scanned
        infer = {}
        if proposal is not None and y is not None:
            infer["proposal"] = at(proposal, x, y, u=u)
        following = jnp.asarray(numpyro.sample(name, at(transition, x, u=u), infer=infer))
        numpyro.sample(obs_name, at(emission, following, u=u), obs=y)
        return following, following

    rest = jax.tree.map(lambda leaf: leaf[1:], (obs, inputs))
    _, states = scan(step, x0, rest, length=steps - 1)
    return jnp.concatenate([x0[None], states])
