"""Gaussian approximations in unconstrained space: Laplace, Pathfinder and automatic variational inference.

Each is a proposal: its draws carry Pareto-smoothed importance weights, and k-hat says whether to believe them.
"""

import dataclasses
import time
from typing import Any

import blackjax
import jax
import jax.numpy as jnp
import optax
from blackjax.vi import pathfinder
from jaxtyping import Array, Float, Key
from numpyro.distributions import MultivariateNormal

from ppl.inference.compiling import InOrder
from ppl.inference.densities import guarded, never_nan
from ppl.inference.importance import weighted
from ppl.inference.modes import curvature, mode_near
from ppl.inference.posterior import Posterior
from ppl.inference.program import Program, check_continuous
from ppl.inference.progress import progress
from ppl.inference.starts import starting_points


@dataclasses.dataclass(frozen=True)
class Laplace:
    """A Gaussian at the posterior mode, of the inverse Hessian there; each chain finds its mode from its own start.

    **Arguments:** `max_iterations`: of L-BFGS.

    **Source:** Tierney & Kadane (1986).
    """

    max_iterations: int = 500

    def run(self, key: Key[Array, ""], program: Program, *, chains: int, draws: int, show_progress: bool) -> Posterior:
        """`draws` draws from the best mode that `chains` starts found; see `ppl.infer`."""
        check_continuous(program, "Laplace")
        begun = time.perf_counter()
        key_start, key_draw = jax.random.split(key)
        starts = starting_points(key_start, program, chains)
        points, log_proposal, definite = _laplace(key_draw, program, starts, draws, self.max_iterations)
        if not bool(definite):
            raise ValueError(
                "method: minus the Hessian at the point that Laplace found is not positive definite; it is no mode (a "
                "density that rises to the boundary, or a direction that the data do not identify). Use NUTS"
            )
        return weighted(program, points, log_proposal, method="laplace", begun=begun)


@dataclasses.dataclass(frozen=True)
class Pathfinder:
    """The best of the Gaussians along an optimiser's path to the mode, from several starts, mixed.

    **Arguments:** `num_paths`: optimisations; `max_iterations`: of L-BFGS, each.

    **Source:** Zhang, Carpenter, Gelman & Vehtari (2022), multi-path, as in blackjax.
    """

    num_paths: int = 8
    max_iterations: int = 100

    def __post_init__(self) -> None:
        if self.num_paths < 1:
            raise ValueError(f"num_paths: at least one is wanted, got {self.num_paths}")

    def run(self, key: Key[Array, ""], program: Program, *, chains: int, draws: int, show_progress: bool) -> Posterior:
        """`chains` times `draws` draws, dealt over the paths; see `ppl.infer`."""
        check_continuous(program, "Pathfinder")
        begun = time.perf_counter()
        key_start, key_run = jax.random.split(key)
        starts = starting_points(key_start, program, self.num_paths)
        each = -(-chains * draws // self.num_paths)
        points, log_proposal = _pathfinder(key_run, program, starts, each, self.max_iterations)
        keep = chains * draws
        # Path by path in turn, so that each chain has draws of all of them.
        points = points.swapaxes(0, 1).reshape(-1, points.shape[-1])[:keep].reshape(chains, draws, -1)
        log_proposal = log_proposal.swapaxes(0, 1).reshape(-1)[:keep].reshape(chains, draws)
        return weighted(program, points, log_proposal, method="pathfinder", begun=begun)


@dataclasses.dataclass(frozen=True)
class ADVI:
    """Automatic differentiation variational inference: a Gaussian that minimises KL(q || posterior).

    **Arguments:** `full_rank`: with a full covariance instead of a diagonal one; `steps`: of Adam, at `learning_rate`
    falling to nothing by a cosine; `num_samples`: draws for one gradient.

    **Source:** Kucukelbir, Tran, Ranganath, Gelman & Blei (2017); the gradient that sticks to the landing of Roeder, Wu
    & Duvenaud (2017), as in blackjax.
    """

    full_rank: bool = False
    steps: int = 3000
    learning_rate: float = 0.02
    num_samples: int = 16

    def __post_init__(self) -> None:
        for name, value in (("steps", self.steps), ("num_samples", self.num_samples)):
            if value < 1:
                raise ValueError(f"{name}: at least one is wanted, got {value}")

    def run(self, key: Key[Array, ""], program: Program, *, chains: int, draws: int, show_progress: bool) -> Posterior:
        """`chains` times `draws` draws of one fit; see `ppl.infer`."""
        check_continuous(program, "ADVI")
        begun = time.perf_counter()
        key_start, key_fit = jax.random.split(key)
        start = starting_points(key_start, program, 1)[0]
        with progress("advi", 1, enabled=show_progress) as tick:
            points, log_proposal, objective = _advi(key_fit, program, self, start, chains * draws)
            tick()
        attrs = {"elbo": -float(objective)}
        shape = (chains, draws)
        return weighted(
            program, points.reshape(*shape, -1), log_proposal.reshape(shape), method="advi", begun=begun, attrs=attrs
        )


@InOrder
def _laplace(
    key: Key[Array, ""], program: Program, starts: Float[Array, "chains d"], draws: int, iterations: int
) -> tuple[Float[Array, "chains draws d"], Float[Array, "chains draws"], Array]:
    modes = jax.vmap(lambda start: mode_near(program.log_density, start, iterations))(starts)
    density = jax.vmap(program.log_density)(modes)
    best = modes[jnp.argmax(never_nan(density))]
    hessian, definite = curvature(program.log_density, best)
    proposal = MultivariateNormal(best, precision_matrix=hessian, validate_args=False)
    points = proposal.sample(key, (starts.shape[0], draws))
    return points, proposal.log_prob(points), definite


@InOrder
def _pathfinder(
    key: Key[Array, ""], program: Program, starts: Float[Array, "paths d"], each: int, iterations: int
) -> tuple[Float[Array, "paths each d"], Float[Array, "paths each"]]:
    log_density = guarded(program.log_density)

    def path(args: tuple[Key[Array, ""], Float[Array, " d"]]) -> tuple[Array, Array]:
        key_fit, key_draw = jax.random.split(args[0])
        state, _ = pathfinder.approximate(key_fit, log_density, args[1], maxiter=iterations)
        points, log_proposal = pathfinder.sample(key_draw, state, each)
        return jnp.asarray(points), jnp.asarray(log_proposal)

    # One path after another: under vmap all of them would take as many line searches as the slowest.
    return jax.lax.map(path, (jax.random.split(key, starts.shape[0]), starts))


@InOrder
def _advi(
    key: Key[Array, ""], program: Program, method: ADVI, start: Float[Array, " d"], num: int
) -> tuple[Float[Array, "num d"], Float[Array, " num"], Float[Array, ""]]:
    family = blackjax.fullrank_vi if method.full_rank else blackjax.meanfield_vi
    optimizer = optax.adam(optax.cosine_decay_schedule(method.learning_rate, method.steps))
    algorithm = family(guarded(program.log_density), optimizer, method.num_samples)
    key_fit, key_draw = jax.random.split(key)
    state: Any = algorithm.init(start)

    def step(state: Any, key: Key[Array, ""]) -> tuple[Any, Float[Array, ""]]:
        state, info = algorithm.step(key, state)
        return state, info.elbo

    state, objectives = jax.lax.scan(step, state, jax.random.split(key_fit, method.steps))
    points = algorithm.sample(key_draw, state, num)
    if method.full_rank:
        density = blackjax.vi.fullrank_vi.generate_fullrank_logdensity(state.mu, state.chol_params)
    else:
        density = blackjax.vi.meanfield_vi.generate_meanfield_logdensity(state.mu, state.rho)
    return points, jax.vmap(density)(points), jnp.mean(objectives[-max(1, method.steps // 10) :])
