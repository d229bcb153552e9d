"""`run`: the public call. It checks, compiles once, repeats, and says what is wrong with a model."""

import time
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, PyTree

from ppl.cost import Ledger
from ppl.keys import as_key
from ppl.smc.driver import bad_potential, filter
from ppl.smc.feynman_kac import FeynmanKac
from ppl.smc.host import NumParticles, host_filter
from ppl.smc.policy import Policy
from ppl.smc.results import Run
from ppl.smc.weights import logmeanexp

# Fewer pairs of siblings than this say too little: in a discrete model a pair may agree by chance.
_ENOUGH_PAIRS = 8


def run(
    key: int | np.integer | Key[Array, ""],
    model: FeynmanKac,
    inputs: PyTree = None,
    *,
    num_particles: NumParticles,
    policy: Policy = Policy(),
    replicates: int = 1,
    history: bool = False,
    batch_size: int | None = None,
    num_steps: int | None = None,
    driver: str = "scan",
    ancestors: bool = True,
) -> Run:
    """Run a particle filter on a Feynman-Kac model.

    **Arguments:**

    - `key`: a typed key or an int. The same key gives the same result, on either driver.
    - `model`: kernels and potentials; see `FeynmanKac` for what makes a second call compile anew.
    - `inputs`: a pytree of arrays `[T + 1, ...]`, entry 0 for `init`, entry t for step t; or `None` with `num_steps`.
    - `num_particles`: N. For the host driver also one number a generation: a sequence, or a function of the step.
    - `policy`: when and how to resample; ESS below N/2 and systematic when left out.
    - `replicates`: R independent runs. Evidence is then their mean, with its standard error from their spread.
    - `history`: keep all generations, R (T + 1) N states.
    - `batch_size`: how many replicates to run at a time (one after another on the host driver); all when left out. To
      bound the memory of one kernel call over particles, wrap the model in `ppl.smc.in_batches`.
    - `num_steps`: T, for a run without inputs.
    - `driver`: `"scan"` compiles the whole run; `"host"` calls the kernels from Python, for kernels that call out.
    - `ancestors`: keep the ancestor indices, `4 R T N` bytes.

    **Returns:** a `Run`. Its `cost` holds the wall seconds of the call; compiling, at the first call with new shapes,
    is among them.

    **Raises:** `ValueError` for sizes below 1, unknown drivers, inputs of unequal lengths, kernels that return wrong
    shapes, and for a log potential that is NaN or `+inf`, naming its step.

    **Warns:** when offspring of one particle never moved apart: the kernel has no noise.

    ```python
    import jax, jax.numpy as jnp, ppl.smc

    def init(key, n, y):
        x = jax.random.normal(key, (n,))
        return x, -0.5 * (y - x) ** 2

    def step(key, x, y):
        x = 0.9 * x + jax.random.normal(key, x.shape)
        return x, -0.5 * (y - x) ** 2

    run = ppl.smc.run(0, ppl.smc.FeynmanKac(init, step), jnp.array([0.3, -1.0, 0.7]), num_particles=1000)
    print(run.log_evidence, run.log_evidence_se)
    ```
    """
    key = as_key(key)
    if replicates < 1:
        raise ValueError(f"replicates: at least one run is wanted, got {replicates}")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size: at least one run at a time is wanted, got {batch_size}")
    keys = jax.random.split(key, replicates) if replicates > 1 else key[None]
    if driver == "host":
        start = time.perf_counter()
        runs = [
            host_filter(k, model, inputs, num_particles, policy, history, num_steps=num_steps, ancestors=ancestors)
            for k in keys
        ]
        result = _stacked(runs)
        jax.block_until_ready(result)
    elif driver == "scan":
        if not isinstance(num_particles, int):
            raise ValueError(
                f"num_particles: the scan driver takes one number, got {num_particles!r}; see driver='host'"
            )
        start = time.perf_counter()
        result = _compiled(keys, model, inputs, num_particles, policy, history, num_steps, ancestors, batch_size)
        jax.block_until_ready(result)
    else:
        raise ValueError(f"driver: 'scan' or 'host' is wanted, got {driver!r}")
    seconds = time.perf_counter() - start
    _check(result)
    _warn_of_identical_siblings(result)
    summary = _single(result) if replicates == 1 else _pooled(result)
    return eqx.tree_at(lambda r: r.cost, summary, Ledger(device_seconds=seconds), is_leaf=lambda x: x is None)


@eqx.filter_jit
def _compiled(
    keys: Key[Array, " replicates"],
    model: FeynmanKac,
    inputs: PyTree,
    num_particles: int,
    policy: Policy,
    history: bool,
    num_steps: int | None,
    ancestors: bool,
    batch_size: int | None,
) -> Run:
    """All replicates, on a leading axis. NaN is looked for outside: a compiled check would call back to the host."""

    def one(key: Key[Array, ""]) -> Run:
        return filter(
            key, model, inputs, num_particles, policy, history, num_steps=num_steps, ancestors=ancestors, throw=False
        )

    if keys.shape[0] == 1:  # without vmap, a resampling that is not due costs nothing
        return jax.tree.map(lambda x: x[None], one(keys[0]))
    if batch_size is not None:
        return jax.lax.map(one, keys, batch_size=batch_size)
    return jax.vmap(one)(keys)


def _stacked(runs: list[Run]) -> Run:
    return jax.tree.map(lambda *xs: jnp.stack(xs), *runs)


@eqx.filter_jit  # an array at a time, each shape would be compiled
def _single(result: Run) -> Run:
    return jax.tree.map(lambda x: x[0], result)


def _pooled(result: Run) -> Run:
    r"""Evidence of all replicates: the mean of $\hat Z$ and the standard error of its logarithm."""
    if result.log_evidence is None:
        return result
    evidence, error = pooled_evidence(result.log_evidence)
    return eqx.tree_at(lambda r: (r.log_evidence, r.log_evidence_se), result, (evidence, error))


@jax.jit
def pooled_evidence(log_evidence: Float[Array, " replicates"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    r"""The log of the mean of $\hat Z$ over independent runs, and its standard error.

    The mean is taken on the scale of $Z$, where each estimate is unbiased; the error is the delta method's,
    the standard deviation of $\hat Z$ over its mean and the root of R. NaN when all are `-inf`.
    """
    num = log_evidence.shape[0]
    mean = logmeanexp(log_evidence)
    ratio = jnp.exp(log_evidence - mean)
    return mean, jnp.sqrt(jnp.sum((ratio - 1) ** 2) / (num * (num - 1)))


def _check(result: Run) -> None:
    """Raise for the first step with a NaN or `+inf` potential: both leave the ESS NaN from there on."""
    bad = np.isnan(np.asarray(result.ess)).any(axis=0)
    if bad.any():
        raise ValueError(bad_potential(int(bad.argmax())))


def _warn_of_identical_siblings(result: Run) -> None:
    pairs, differing = np.asarray(result.sibling_pairs).sum(axis=0)
    if pairs >= _ENOUGH_PAIRS and differing == 0:
        warnings.warn(
            f"none of {pairs} pairs of offspring that were looked at had moved apart after their step: the step kernel "
            "adds no noise of its own, so resampling only loses particles. Draw fresh noise for the batch from the key "
            "that `step` is given (keys kept inside particles are copied with them), add an MCMC move, or use "
            "Policy(when='never').",
            UserWarning,
            stacklevel=3,
        )
