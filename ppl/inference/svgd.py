"""Stein variational gradient descent: particles that climb the density and push each other apart."""

import dataclasses
import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from blackjax.vi import svgd
from jaxtyping import Array, Float, Key

from ppl.inference.chains import guarded
from ppl.inference.posterior import Posterior, posterior_of
from ppl.inference.program import Program, check_continuous
from ppl.inference.progress import progress
from ppl.inference.starts import starting_points

# The median is of the distances between this many particles: all pairs of a thousand would take longer than the step.
_PAIRED = 256


@dataclasses.dataclass(frozen=True)
class SVGD:
    r"""Stein variational gradient descent: a deterministic flow of particles towards the posterior.

    Each particle moves along $\frac1n \sum_j k(x_j, x) \nabla \log p(x_j) + \nabla_{x_j} k(x_j, x)$ with the kernel
    $k(x, y) = \exp(-\lVert x - y \rVert^2 / h)$, whose bandwidth is $h = \operatorname{med}^2 / \log n$ of the median
    distance at each step.

    **Arguments:** `steps`: of Adam, at `learning_rate` falling to nothing by a cosine; the rate is in units of the
    unconstrained coordinates, a particle travels about `learning_rate * steps / 2` at most.

    `infer(..., chains=R, draws=N)` moves R ensembles of N particles, each for itself; a step costs N² kernels.

    **What it assumes:** few dimensions. Distances between particles grow with the dimension while the pushes between
    them do not, so that variances come out too small, from some ten dimensions on by far (Ba, Erdogdu, Ghassemi, Sun,
    Suzuki, Wu & Zhang 2022, The variance collapse of SVGD). Particles are not independent draws: no statistic here
    tells. Compare with NUTS.

    **Source:** Liu & Wang (2016), Alg. 1.
    """

    steps: int = 1000
    learning_rate: float = 0.05

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps: at least one is wanted, got {self.steps}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate: a positive number is wanted, got {self.learning_rate!r}")

    def run(self, key: Key[Array, ""], program: Program, *, chains: int, draws: int, show_progress: bool) -> Posterior:
        """`chains` ensembles of `draws` particles; see `ppl.infer`."""
        check_continuous(program, "SVGD")
        if draws < 2:
            raise ValueError(f"draws: SVGD wants two particles at least, which push each other apart, got {draws}")
        begun = time.perf_counter()
        starts = starting_points(key, program, chains * draws).reshape(chains, draws, -1)
        ensembles, bandwidths = [], []
        with progress("svgd", chains, enabled=show_progress) as tick:
            for start in starts:
                particles, bandwidth = jax.device_get(_flow(program, self, start))
                ensembles.append(particles)
                bandwidths.append(bandwidth)
                tick()
        return posterior_of(
            program,
            jnp.asarray(np.stack(ensembles)),
            method="svgd",
            stats={"bandwidth": np.stack(bandwidths)[:, None]},
            attrs={"seconds": time.perf_counter() - begun},
        )


@eqx.filter_jit
def _flow(program: Program, settings: SVGD, start: Float[Array, "n d"]) -> tuple[Float[Array, "n d"], Float[Array, ""]]:
    """The particles after all steps, and the last bandwidth."""
    optimizer = optax.adam(optax.cosine_decay_schedule(settings.learning_rate, settings.steps))
    kernel = svgd.build_kernel(optimizer)
    slope = jax.grad(guarded(program.log_density))

    def step(state: Any, _: None) -> tuple[Any, None]:
        state = state._replace(kernel_parameters={"length_scale": _bandwidth(state.particles)})
        return kernel(state, slope, svgd.rbf_kernel), None

    first = svgd.init(start, {"length_scale": _bandwidth(start)}, optimizer)
    last, _ = jax.lax.scan(step, first, length=settings.steps)
    return last.particles, last.kernel_parameters["length_scale"]


def _bandwidth(particles: Float[Array, "n d"]) -> Float[Array, ""]:
    num = min(particles.shape[0], _PAIRED)
    some = particles[:num]
    squares = jnp.sum((some[:, None] - some[None]) ** 2, axis=-1)[np.tril_indices(num, k=-1)]
    # Particles that have all met would divide by zero.
    return jnp.maximum(jnp.median(squares), jnp.finfo(squares.dtype).tiny) / jnp.log(particles.shape[0])
