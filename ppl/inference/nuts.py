"""The No-U-Turn sampler, each chain adapted by itself and going at its own pace."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from blackjax.adaptation.mass_matrix import mass_matrix_adaptation
from blackjax.adaptation.step_size import dual_averaging_adaptation
from blackjax.adaptation.window_adaptation import build_schedule
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

from ppl.inference.batching import each_chain, put
from ppl.inference.checkpoint import storable
from ppl.inference.densities import LogDensity
from ppl.inference.hmc import check_adaptation
from ppl.inference.trajectories import Motion, Point, Trajectory, chosen_by, journey, root_of


@dataclasses.dataclass(frozen=True)
class NUTS:
    """The No-U-Turn sampler.

    **Arguments:**

    - `warmup`: steps of adaptation of step size and mass matrix (Stan's windows).
    - `target_accept`: mean acceptance that the step size is tuned to; raise it when transitions diverge.
    - `max_tree_depth`: at most `2**max_tree_depth - 1` leapfrog steps a draw; from 1 to 30.
    - `dense_mass`: a full mass matrix, for strongly correlated posteriors of few dimensions.

    **Source:** Hoffman & Gelman (2014); Betancourt (2017), multinomial version; Dance et al. (2025) for chains that do
    not wait for each other.
    """

    warmup: int = 1000
    target_accept: float = 0.8
    max_tree_depth: int = 10
    dense_mass: bool = False

    uneven: ClassVar[bool] = True  # trees

    def __post_init__(self) -> None:
        check_adaptation(self.warmup, self.target_accept)
        if not 1 <= self.max_tree_depth <= 30:
            raise ValueError(f"max_tree_depth: a number of doublings from 1 to 30 is wanted, got {self.max_tree_depth}")

    def warm(
        self, keys: Key[Array, " chains"], log_density: LogDensity, positions: Float[Array, "chains d"]
    ) -> tuple[Point, dict[str, Array]]:
        d = positions.shape[1]
        first_mass, learn_mass, next_mass = mass_matrix_adaptation(not self.dense_mass)
        first_size, learn_size, average_size = dual_averaging_adaptation(self.target_accept)
        schedule = jnp.asarray(build_schedule(self.warmup))

        def point(position: Float[Array, " d"]) -> Point:
            return Point(position, *jax.value_and_grad(log_density)(position))

        def learn(trajectory: Trajectory, sizes: Any, masses: Any) -> Any:
            acceptance = _acceptance(trajectory)
            return learn_size(sizes, acceptance), learn_mass(masses, trajectory.state().position)

        def begin_window(sizes: Any, masses: Any) -> Any:
            masses = next_mass(masses)
            return first_size(average_size(sizes)), masses, root_of(masses.inverse_mass_matrix)

        def arrive(
            arrived: Bool[Array, " chains"],
            t: Int[Array, " chains"],
            trajectories: Trajectory,
            motion: Motion,
            kept: Any,
        ) -> tuple[Motion, Any]:
            stages = schedule[jnp.minimum(t, self.warmup - 1)]
            sizes, masses = each_chain(learn, trajectories, *kept)
            sizes = chosen_by(arrived, sizes, kept[0])
            masses = chosen_by(arrived & (stages[:, 0] == 1), masses, kept[1])
            ends = arrived & (stages[:, 1] == 1)

            def renewed() -> Any:
                return chosen_by(ends, each_chain(begin_window, sizes, masses), (sizes, masses, motion.root))

            sizes, masses, root = jax.lax.cond(jnp.any(ends), renewed, lambda: (sizes, masses, motion.root))
            return Motion(jnp.exp(sizes.log_step_size), masses.inverse_mass_matrix, root), (sizes, masses)

        sizes, masses = storable(each_chain(lambda _: (first_size(1.0), first_mass(d)), keys))
        motion = Motion(jnp.exp(sizes.log_step_size), masses.inverse_mass_matrix, masses.inverse_mass_matrix)
        starts = each_chain(point, positions)
        reached, motion, (sizes, _) = journey(
            keys,
            log_density,
            starts,
            motion,
            jnp.zeros((), jnp.int32),
            self.warmup,
            self.max_tree_depth,
            arrive,
            (sizes, masses),
        )
        return reached, {
            "step_size": jnp.exp(sizes.log_step_size_avg),
            "inverse_mass_matrix": motion.inverse_mass_matrix,
        }

    def advance(
        self,
        keys: Key[Array, " chains"],
        log_density: LogDensity,
        states: Point,
        parameters: dict[str, Array],
        start: Int[Array, ""],
        count: Int[Array, ""],
        length: int,
        thin: int,
    ) -> tuple[Point, Float[Array, "chains length d"], dict[str, Shaped[Array, "chains length"]]]:
        chains, d = states.position.shape
        mass = parameters["inverse_mass_matrix"]
        motion = Motion(parameters["step_size"], mass, each_chain(root_of, mass))

        def arrive(
            arrived: Bool[Array, " chains"],
            t: Int[Array, " chains"],
            trajectories: Trajectory,
            motion: Motion,
            rows: Any,
        ) -> tuple[Motion, Any]:
            position, logdensity, _ = trajectories.state()
            stats = (
                logdensity,
                _acceptance(trajectories),
                trajectories.diverging,
                trajectories.whole.energy,
                trajectories.steps,
                trajectories.doubling,
            )
            row = jnp.concatenate([position, jnp.stack(stats, axis=1).astype(position.dtype)], axis=1)
            place = jnp.where(arrived & (t % thin == thin - 1), t // thin, length)
            return motion, put(rows, place, row)

        rows = jnp.zeros((chains, length + 1, d + 6), states.position.dtype)  # the last for what is not kept
        reached, _, rows = journey(
            keys, log_density, states, motion, start, count * thin, self.max_tree_depth, arrive, rows
        )
        rows = rows[:, :length]
        lp, rate, diverging, energy, steps, depth = jnp.moveaxis(rows[..., d:], -1, 0)
        stats = {
            "lp": lp,
            "acceptance_rate": rate,
            "diverging": diverging > 0,
            "energy": energy,
            "step_size": jnp.broadcast_to(motion.step_size[:, None], lp.shape),
            "n_steps": steps.astype(jnp.int32),
            "tree_depth": depth.astype(jnp.int32),
        }
        return reached, rows[..., :d], stats


def _acceptance(trajectory: Trajectory) -> Float[Array, "*chains"]:
    """The mean over its steps."""
    return trajectory.acceptance / jnp.maximum(trajectory.steps, 1)
