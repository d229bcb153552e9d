"""`infer`: one call for any NumPyro program and every method."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, ArrayLike, Key, Shaped

from ppl.inference.batching import check_batch_size
from ppl.inference.chains import run_chains
from ppl.inference.posterior import Posterior
from ppl.inference.program import Program, check_continuous
from ppl.inference.sampler import Sampler
from ppl.keys import as_key


@runtime_checkable
class Method(Protocol):
    """A method that is not a Markov chain: it runs by itself. One whose `run` takes a `checkpoint` saves as it goes."""

    def run(self, key: Key[Array, ""], program: Program, *, chains: int, draws: int, show_progress: bool) -> Posterior:
        """`chains` independent runs of `draws` draws or particles each."""
        ...


def infer(
    model: Callable[..., Any],
    *args: Any,
    method: str | Sampler | Method = "nuts",
    key: int | np.integer | Key[Array, ""] = 0,
    chains: int = 4,
    draws: int = 1000,
    thin: int = 1,
    chain_method: str = "auto",
    batch_size: int | None = None,
    show_progress: bool = False,
    checkpoint: str | PathLike[str] | None = None,
    starts: Posterior | Mapping[str, Shaped[ArrayLike, "..."]] | None = None,
    **data: Any,
) -> Posterior:
    """The posterior of a NumPyro program.

    **Arguments:**

    - `model`: an unchanged NumPyro model function; `args` and `data` are its arguments. Arrays among them are traced:
      new data of the same shapes reuse what was compiled. Discrete latent sites are summed out by enumeration.
    - `method`: an object such as `ppl.inference.NUTS(target_accept=0.95)`, or its name, such as `"nuts"`.
    - `key`: a typed key or an int; the same key gives the same draws on the same platform, cores included.
    - `chains`: independent chains, or runs of a particle method. `draws`: draws a chain, or particles a run.
    - `thin`: keep each `thin`-th step of a Markov chain.
    - `chain_method`: how Markov chains run: `"vectorized"`, in one program; `"sequential"`, one after another, in the
      memory of one; `"parallel"`, spread over the devices that jax sees. The draws are those of the same chains.
      `"auto"`, on a CPU: in as many groups as there are cores (and chains allow groups of one size), each a program by
      itself; within it chains of NUTS and slice sampling run one after another if the model handles large arrays, which
      one chain keeps nearer to the processor than several. Elsewhere it is `"vectorized"`.
    - `batch_size`: memory: how many chains of a device, or particles of a particle method, are evaluated at a time.
    - `show_progress`: a bar on standard error.
    - `checkpoint`: a folder. The state is saved there every ten seconds (of Markov chains from the end of warm-up on,
      and after every tenth of the draws), and the same call after a kill goes on from it and gives the same draws.
      Importance sampling, enumeration and methods that fit an approximation have no such state.
    - `starts`: where Markov chains start, instead of near the origin of unconstrained space: a posterior that has all
      latent sites, of which each chain takes a draw, or values of all latent sites, of the site's shape or
      `[chains, ...]`. R-hat tells less of chains that start in one place.

    **Returns:** a `Posterior`.

    **Raises:** `TypeError` for what is no model, or one that uses array values in Python; `ValueError` for a model
    without latent sites, sites that no enumeration sums out, unknown methods, sizes below 1, a start of infinite
    density (naming the site), `starts` that lack a site or are of another shape, and a checkpoint of another run.

    ```python
    import jax.numpy as jnp, numpyro, numpyro.distributions as dist, ppl

    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0, 5))
        with numpyro.plate("n", y.shape[0]):
            numpyro.sample("y", dist.Normal(mu, 1), obs=y)

    post = ppl.infer(model, jnp.array([1.2, 0.7, 2.1]), method="nuts", key=0)
    print(post.summary())
    ```
    """
    for name, value in (("chains", chains), ("draws", draws), ("thin", thin)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}: a whole number from 1 up is wanted, got {value!r}")
    chosen, label = as_method(method)
    program = Program(model, args, data)
    key = as_key(key)
    if isinstance(chosen, Sampler):
        check_continuous(program, label, minibatches=getattr(chosen, "minibatches", False))
        return run_chains(
            key,
            program,
            chosen,
            chains=chains,
            draws=draws,
            thin=thin,
            name=label,
            chain_method=chain_method,
            batch_size=batch_size,
            show_progress=show_progress,
            checkpoint=checkpoint,
            starts=starts,
        )
    if starts is not None:
        raise ValueError(f"starts: Markov chains alone are started there; leave it out for {label}")
    saved = {}
    if checkpoint is not None:
        if "checkpoint" not in inspect.signature(chosen.run).parameters:
            raise ValueError(f"checkpoint: {label} has no state to go on from; leave it out")
        saved["checkpoint"] = checkpoint
    if thin != 1:
        raise ValueError(f"thin: Markov chains alone are thinned; {label} is not one")
    if chain_method != "auto":
        raise ValueError(f"chain_method: Markov chains alone are laid out by it; leave it out for {label}")
    if batch_size is not None:
        check_batch_size(batch_size)
        if not hasattr(chosen, "batch_size"):
            raise ValueError(f"batch_size: {label} evaluates nothing by the batch; leave it out")
        chosen = dataclasses.replace(chosen, batch_size=batch_size)
    return chosen.run(key, program, chains=chains, draws=draws, show_progress=show_progress, **saved)


def as_method(method: str | Sampler | Method) -> tuple[Any, str]:
    """The method and its name. **Raises:** `ValueError` for an unknown name or anything that is no method."""
    from ppl.inference import METHODS

    if isinstance(method, str):
        if method not in METHODS:
            raise ValueError(f"method: {method!r} is not known; known are {', '.join(map(repr, METHODS))}")
        return METHODS[method](), method
    if isinstance(method, type) or not isinstance(method, Sampler | Method):
        raise ValueError(f"method: a method such as ppl.inference.NUTS() or a name is wanted, got {method!r}")
    return method, type(method).__name__.lower()
