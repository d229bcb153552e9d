"""Nested sampling: the evidence as an integral over prior volume, with weighted posterior draws on the way."""

import dataclasses
import time
from collections.abc import Mapping
from os import PathLike
from typing import Any

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, PyTree
from numpyro.distributions import Distribution
from scipy.special import kolmogorov, logsumexp

from ppl.inference.checkpoint import Checkpoint, numbered, rebuilt, storable
from ppl.inference.compiling import InOrder
from ppl.inference.densities import never_nan
from ppl.inference.posterior import Posterior, posterior_of
from ppl.inference.program import Program, check_continuous
from ppl.inference.progress import progress
from ppl.inference.runs import combined_evidence
from ppl.inference.starts import Start, check_start
from ppl.keys import numpy_generator

# Deaths a block: the live points, this many times a tenth of them, die before the host looks whether enough has.
_STEPS = 20
# How often a slice runs along one coordinate. Coordinates make headway in heavy tails, whose differences point at the
# farthest ones; differences follow correlations.
_ALONG_AXIS = 0.5
_PATHS = 200  # simulated sequences of prior volumes, for the error of the evidence


@dataclasses.dataclass(frozen=True)
class NestedSampling:
    """Nested slice sampling; `infer(..., draws=N)` takes N live points, and gives every dead and live one, weighted.

    **Arguments:**

    - `num_moves`: slices for each new live point; left out, 5 d. Half of them run along the difference of two
      live points, half along one coordinate.
    - `delete`: the fraction of live points that is replaced at a time, which is what runs in parallel.
    - `tolerance`: stop when the live points can add this much to log evidence.
    - `start`: distributions by latent site instead of an improper prior; the evidence is then relative to them.
    - `max_blocks`: blocks of 20 replacements at most.

    The standard error is the spread of log evidence over simulated volumes. It takes new live points for independent
    draws above the bound. Then their ranks among the live points are uniform; `stats["insertion_p_value"]` is the
    p-value of that by run, and `diagnose()` tells if it is small. It need not be: with a single slice a point, on two
    modes in ten dimensions, log evidence had five times its stated error, and five of twelve p-values were above 0.01.
    Where much hangs on it compare runs of more and more `num_moves`, or with `TemperedSMC`.

    **Source:** Skilling (2006); Yallup, Kroupa & Handley (2026) for nested slice sampling, as blackjax has it; ter
    Braak (2006) for directions from differences of points, Buchner (2022) for mixing them with others; Walter (2017)
    for volumes that leave the evidence unbiased; Fowlie, Handley & Su (2020) for insertion ranks.
    """

    num_moves: int | None = None
    delete: float = 0.1
    tolerance: float = 1e-3
    start: Mapping[str, Distribution] | None = dataclasses.field(default=None, hash=False)
    max_blocks: int = 200

    def __post_init__(self) -> None:
        if self.num_moves is not None and self.num_moves < 1:
            raise ValueError(f"num_moves: at least one slice is wanted, got {self.num_moves}")
        if not 0 < self.delete <= 0.5:
            raise ValueError(f"delete: a fraction in (0, 0.5] is wanted, got {self.delete!r}")
        if not self.tolerance > 0:
            raise ValueError(f"tolerance: a positive number is wanted, got {self.tolerance!r}")

    def run(
        self,
        key: Key[Array, ""],
        program: Program,
        *,
        chains: int,
        draws: int,
        show_progress: bool,
        checkpoint: str | PathLike[str] | None = None,
    ) -> Posterior:
        """`chains` runs of `draws` live points; see `ppl.infer`."""
        check_continuous(program, "NestedSampling")
        check_start(program, self.start, "NestedSampling")
        if draws < 2 * program.structure.size + 2:
            raise ValueError(
                f"draws: differences of live points are to span {program.structure.size} dimensions, which wants "
                f"{2 * program.structure.size + 2} of them at least, got {draws}"
            )
        begun = time.perf_counter()
        settings = dataclasses.replace(self, start=None)
        given = dict(sorted((self.start or {}).items()))
        key_init, key_run, key_weigh = jax.random.split(key, 3)
        states = _begun(jax.random.split(key_init, chains), program, given, settings, draws)
        dead: list[Any] = []
        done, insertions = 0, np.zeros((chains, draws))
        left, enough = np.full(chains, np.inf), np.log(self.tolerance)
        store = Checkpoint.of(checkpoint, program, self, key, {"chains": chains, "draws": draws})
        resumed = None if store is None else store.restore(states)
        if resumed is not None:
            done, states, more = resumed
            dead, insertions, left = [rebuilt(more["dead"], states.particles)], more["insertions"], more["left"]
        with progress("nested_sampling", None, enabled=show_progress) as tick:
            for block in range(done, self.max_blocks):
                keys = jax.random.split(jax.random.fold_in(key_run, block), chains)
                states, died, inserted, remaining = _block(keys, program, given, settings, states)
                dead.append(jax.device_get(died))
                # A run that is done, and waits for others, comes to where float32 tells its points apart no more.
                insertions += np.asarray(inserted) * (left >= enough)[:, None]
                left = np.asarray(remaining)
                tick(f"log evidence in live points {left.max():.2f}")
                if left.max() < enough:
                    break
                if store is not None and store.due:
                    dead = [jax.tree.map(lambda *xs: np.concatenate(xs, axis=1), *dead)]
                    store.save(block + 1, states, dead=numbered(dead[0]), insertions=insertions, left=left)
            else:
                raise ValueError(
                    f"max_blocks: after {self.max_blocks} blocks the live points still hold exp({left.max():.2f}) of "
                    "the evidence; raise max_blocks or tolerance"
                )
        live = jax.device_get(states.particles)
        points: Any = jax.tree.map(lambda *xs: np.concatenate(xs, axis=1), *dead, live)
        deleted = _num_deleted(settings, draws)
        evidence, variance, log_weights = weighed(
            numpy_generator(key_weigh), points.loglikelihood.astype(np.float64), draws, deleted
        )
        pooled, error = combined_evidence(evidence, variance)
        # A run's weights sum to its evidence; on the common scale their log mean exp is 0.
        scaled = log_weights - pooled + np.log(log_weights.shape[1])
        return posterior_of(
            program,
            jnp.asarray(points.position),
            method="nested_sampling",
            log_weights=jnp.asarray(scaled, points.position.dtype),
            stats={
                "log_likelihood": points.loglikelihood,
                "run_log_evidence": evidence,
                "run_log_evidence_se": np.sqrt(variance),
                "insertion_p_value": insertion_p_values(insertions),
            },
            log_evidence=pooled,
            log_evidence_se=error,
            attrs={"seconds": time.perf_counter() - begun, "live_points": draws},
        )


def _sampler(start: Start, settings: NestedSampling, num: int) -> Any:
    def log_likelihood(flat: Float[Array, " d"]) -> Float[Array, ""]:
        return never_nan(start.densities(flat)[1])

    moves = settings.num_moves or 5 * start.program.structure.size
    return blackjax.nss(
        lambda flat: start.densities(flat)[0],
        log_likelihood,
        num_inner_steps=moves,
        num_delete=_num_deleted(settings, num),
        proposal=_slices,
        inner_kernel_params=_live,
    )


def _live(key: Any, state: Any, info: Any, params: Any = None) -> dict[str, Array]:
    """What `_slices` is given: blackjax would give the covariance of all live points."""
    del key, info, params
    return {"live": state.particles.position}


def _slices(init_state: Any, bound: Float[Array, ""], *, live: Float[Array, "live d"]) -> Any:
    """Slices along the difference of two live points, or along one coordinate of that.

    Where the region above the bound has several parts, the covariance of all points is mostly that between the parts,
    and along it each part is a sliver. Two points are often of one part, and as far apart as it is wide.
    """
    num, d = live.shape

    def propose(key: Key[Array, ""], position: Float[Array, " d"], log_density: Any) -> Any:
        del log_density
        key_pair, key_axis, key_which = jax.random.split(key, 3)
        one, step = jax.random.randint(key_pair, (2,), jnp.array([0, 1]), num)
        difference = live[one] - live[(one + step) % num]
        axis = jnp.arange(d) == jax.random.randint(key_axis, (), 0, d)
        # Twice a standard deviation of the live points, either way.
        direction = jnp.sqrt(2.0) * jnp.where(
            jax.random.bernoulli(key_which, _ALONG_AXIS), difference * axis, difference / jnp.sqrt(d)
        )

        def at(t: Float[Array, ""]) -> tuple[Any, Array]:
            state = init_state(position + t * direction, loglikelihood_birth=bound)
            return state, state.loglikelihood > bound

        return at

    return propose


def _num_deleted(settings: NestedSampling, num: int) -> int:
    return max(1, int(settings.delete * num))


@InOrder
def _begun(
    keys: Key[Array, " chains"], program: Program, given: dict[str, Distribution], settings: NestedSampling, num: int
) -> PyTree:
    start = Start(program, given)

    def one(key: Key[Array, ""]) -> PyTree:
        positions = jax.vmap(start.draw)(jax.random.split(key, num))
        return _sampler(start, settings, num).init(positions)

    return storable(jax.lax.map(one, keys))


@InOrder
def _block(
    keys: Key[Array, " chains"],
    program: Program,
    given: dict[str, Distribution],
    settings: NestedSampling,
    states: PyTree,
) -> tuple[PyTree, PyTree, Float[Array, "chains live"], Float[Array, " chains"]]:
    """Live points after some replacements, the dead, how often new points had each rank, and what is left."""
    start = Start(program, given)
    num = states.particles.loglikelihood.shape[1]
    sampler = _sampler(start, settings, num)

    def one(args: tuple[Key[Array, ""], PyTree]) -> tuple[PyTree, PyTree, Array, Array]:
        key, state = args

        def step(state: PyTree, key: Key[Array, ""]) -> tuple[PyTree, tuple[PyTree, Array]]:
            state, info = sampler.step(key, state)
            live = state.particles
            new = live.loglikelihood_birth[jnp.argsort(live.loglikelihood)] >= jnp.max(info.particles.loglikelihood)
            return state, (info.particles, new)

        state, (died, new) = jax.lax.scan(step, state, jax.random.split(key, _STEPS))
        died = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), died)
        return state, died, jnp.sum(new, axis=0, dtype=jnp.float32), state.integrator.logZ_live - state.integrator.logZ

    # One run after another: under vmap every slice would wait for the longest of all runs.
    return jax.lax.map(one, (keys, states))


def insertion_p_values(counts: Float[np.ndarray, "chains live"]) -> Float[np.ndarray, " chains"]:
    """Of each run, the chance of ranks as uneven as these if new live points were independent draws above the bound.

    By the largest distance of their distribution function from a straight line (`ppl.calibration.rank_p_value`, which
    is exact, takes too long for tens of thousands). Ranks of points that are replaced together differ, so that the
    p-value is a little too large.

    **Arguments:** `counts`: how often a new point had each rank among the live points.

    **Source:** Fowlie, Handley & Su (2020), Nested sampling cross-checks using order statistics, § 2.
    """
    total = counts.sum(axis=1)
    reached = np.cumsum(counts, axis=1) / total[:, None]
    apart = np.abs(reached - np.arange(1, counts.shape[1] + 1) / counts.shape[1]).max(axis=1)
    return kolmogorov(apart * np.sqrt(total))


def weighed(
    generator: np.random.Generator, log_likelihood: Float[np.ndarray, "chains points"], live: int, delete: int
) -> tuple[Float[np.ndarray, " chains"], Float[np.ndarray, " chains"], Float[np.ndarray, "chains points"]]:
    r"""Log evidence, its variance over simulated volumes, and the log weights of all points, of each run.

    Of a batch of `delete` points that is replaced together, the first to die leaves N live points, the second N - 1,
    and so on; the last live points die one by one. Where n points are live, the worst of them leaves a volume that is
    smaller by a Beta(n, 1) factor. Volumes of $\prod (1 - 1/n)$ make the evidence itself unbiased, which lets runs
    be pooled by theirs; with the mean factor, $n / (n + 1)$, it is too large by its own relative variance.

    **Source:** Walter (2017), Point process-based Monte Carlo estimation, § 3 (the estimator); Skilling (2006), § 4.
    """
    chains, points = log_likelihood.shape
    batches = (points - live) // delete
    counts = np.concatenate([np.tile(np.arange(live, live - delete, -1), batches), np.arange(live, 0, -1)])
    with np.errstate(divide="ignore"):  # nothing is left behind the very last
        left = np.log1p(-1 / counts)
    volumes = np.concatenate([[0.0], np.cumsum(left)[:-1]]) - np.log(counts)
    variance, weights = np.empty(chains), np.empty((chains, points))
    for chain in range(chains):
        order = np.argsort(log_likelihood[chain], kind="stable")
        weights[chain, order] = log_likelihood[chain, order] + volumes
        shrinkage = generator.standard_exponential((_PATHS, points)) / counts  # -log of a Beta(n, 1)
        log_before = -(np.cumsum(shrinkage, axis=1) - shrinkage)
        paths = log_likelihood[chain, order] + log_before + np.log(-np.expm1(-shrinkage))
        variance[chain] = np.asarray(logsumexp(paths, axis=1)).var()
    return np.asarray(logsumexp(weights, axis=1)), variance, weights
