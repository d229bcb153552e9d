"""Optimal-transport resampling: equal weights by moving particles, not by copying them."""

from abc import abstractmethod

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Key, PyTree

from ppl.smc.weights import normalised


class Transport(eqx.Module):
    """Turns a weighted set of particles into one of equal weights by mixing states; there are no ancestors.

    The mixture is a biased approximation at any finite number of particles, so weights are no longer proper: the run
    has no log evidence and is labelled a search.
    """

    proper = False

    @abstractmethod
    def __call__(self, key: Key[Array, ""], log_weights: Float[Array, " n"], state: PyTree, /) -> PyTree:
        """The new state, of the structure and shapes of `state`.

        **Arguments:** `key`: one key; `log_weights`: `[n]`; `state`: leaves `[n, ...]`.
        """


class OptimalTransport(Transport):
    """See `optimal_transport`."""

    epsilon: float = eqx.field(static=True)
    threshold: float = eqx.field(static=True)
    max_iterations: int = eqx.field(static=True)

    def __call__(self, key: Key[Array, ""], log_weights: Float[Array, " n"], state: PyTree, /) -> PyTree:
        """The barycentric projection of every particle; deterministic, so that `key` goes unused."""
        # Imported here, because ott takes as long to import as everything else that `ppl.smc` needs.
        from ott.geometry import pointcloud
        from ott.problems.linear import linear_problem
        from ott.solvers.linear import sinkhorn

        for path, leaf in jax.tree_util.tree_leaves_with_path(state):
            if not jnp.issubdtype(leaf.dtype, jnp.floating):
                raise TypeError(
                    f"how: optimal transport averages particles, so every leaf of the state must be of floats; "
                    f"state{jax.tree_util.keystr(path)} has dtype {leaf.dtype}"
                )
        points = jax.vmap(lambda x: ravel_pytree(x)[0])(state)
        unravel = ravel_pytree(jax.tree.map(lambda x: x[0], state))[1]
        num, dimension = points.shape
        # Scaled as in Corenflos et al.: by the spread of the particles and the root of the dimension, so that
        # `epsilon` means the same in every unit. Particles all equal have spread 0 and nothing to transport.
        spread = jnp.max(jnp.std(points, axis=0))
        scaled = jax.lax.stop_gradient(jnp.where(spread > 0, 1 / spread, 0) / jnp.sqrt(dimension)) * points
        geometry = pointcloud.PointCloud(scaled, epsilon=self.epsilon)
        target = jnp.full((num,), 1 / num, points.dtype)
        problem = linear_problem.LinearProblem(geometry, a=normalised(log_weights), b=target)
        solver = sinkhorn.Sinkhorn(threshold=self.threshold, max_iterations=self.max_iterations)
        # Rows are the weighted particles, columns the new ones, each of mass 1/num.
        moved = solver(problem).apply(points.T, axis=0).T * num
        return jax.vmap(unravel)(moved)


def optimal_transport(epsilon: float = 0.1, *, threshold: float = 1e-3, max_iterations: int = 1000) -> OptimalTransport:
    r"""Ensemble transform: new particle $j$ is $N \sum_i P_{ij} x_i$ under the entropic optimal plan $P$.

    Deterministic and differentiable, quadratic in the number of particles. The mean of the new particles is the
    weighted mean of the old; their spread is shrunk by `epsilon`.

    **Arguments:**

    - `epsilon`: entropic regularisation, on particles scaled to unit spread.
    - `threshold`, `max_iterations`: when Sinkhorn stops.

    **Raises:** `ValueError` unless `epsilon > 0`; when run, `TypeError` if a leaf of the state is not of floats.

    **Source:** Reich (2013); Corenflos, Thornton, Deligiannidis & Doucet (2021); Sinkhorn by ott-jax.
    """
    if not epsilon > 0:
        raise ValueError(f"epsilon: must be positive, got {epsilon!r}")
    return OptimalTransport(float(epsilon), float(threshold), int(max_iterations))
