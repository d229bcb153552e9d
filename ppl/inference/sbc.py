r"""Simulation-based calibration: does a method find the posteriors of a model, over the data that the model makes?

Draw $\theta \sim p(\theta)$ and $y \sim p(y \mid \theta)$; then $\theta$ is a draw from $p(\theta \mid y)$, and its
rank among draws of a method that is right is uniform, whatever the model. So is that of any function of $\theta$ and
$y$; the log likelihood is one that sees what parameters cannot, such as a method that returns the prior.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Key, Shaped
from numpyro import handlers

from ppl.inference.chains import traced_chains
from ppl.inference.compiling import InOrder
from ppl.inference.infer import Method, as_method
from ppl.inference.posterior import Posterior
from ppl.inference.program import Program, check_continuous
from ppl.inference.progress import progress
from ppl.inference.ranks import LOG_LIKELIHOOD, SBC, Values, mean_share, ranked, with_data
from ppl.inference.sampler import Sampler
from ppl.keys import as_key

_FEWEST_SIMULATIONS, _FEWEST_DRAWS = 20, 10


def sbc(
    model: Callable[..., Any],
    *args: Any,
    method: str | Sampler | Method = "nuts",
    key: int | np.integer | Key[Array, ""] = 0,
    num_simulations: int = 200,
    chains: int = 1,
    draws: int = 100,
    thin: int = 10,
    batch_size: int = 50,
    show_progress: bool = False,
    **data: Any,
) -> SBC:
    """Simulation-based calibration of a method on a NumPyro program.

    **Arguments:**

    - `model`, `args`, `data`: as of `ppl.infer`. Values of observed sites only say their shapes: each simulation draws
      its own. Discrete latent sites are ranked as well, as the method draws them.
    - `method`, `key`: as of `ppl.infer`. Methods of a user run too: any object with `warm` and `step`, or `run`.
    - `num_simulations`: data sets. 200 show posteriors that are a third too narrow, thousands a tenth.
    - `chains`, `draws`: each value is ranked among `chains * draws` draws.
    - `thin`: of a Markov chain each `thin`-th draw is kept, since ranks among autocorrelated draws are not uniform;
      `SBC.relative_ess` says whether that was enough (random walks want more). A method with `run` runs with
      `draws * thin` draws, particles or live points, of which `draws` a chain are drawn by their weights.
    - `batch_size`: simulations of a Markov chain that run at once (vmapped); on a GPU as many as memory allows.
      Methods with `run` take one simulation after another, by what was compiled for the first.
    - `show_progress`: a bar on standard error.

    **Returns:** `SBC`; `passes()`, `table()` and `plot()` judge it.

    **Raises:** as `ppl.infer`; `ValueError` for a model that has no observed site, or of which no data can be drawn (an
    improper prior, a factor), and for draws that are NaN. A likelihood that is scaled (`handlers.scale`) fails, as it
    should: its posteriors are not those of data that the model makes.

    **Source:** Talts, Betancourt, Simpson, Vehtari & Gelman (2018); Modrák et al. (2023) for the log likelihood;
    Säilynoja, Bürkner & Vehtari (2022) for the bands.

    ```python
    import jax.numpy as jnp, numpyro, numpyro.distributions as dist, ppl

    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0, 5))
        with numpyro.plate("n", y.shape[0]):
            numpyro.sample("y", dist.Normal(mu, 1), obs=y)

    check = ppl.sbc(model, jnp.zeros(3), method="nuts", num_simulations=100, draws=50)
    print(check.passes(), check.table())
    ```
    """
    for name, value, least in (
        ("num_simulations", num_simulations, _FEWEST_SIMULATIONS),
        ("chains", chains, 1),
        ("draws", draws, _FEWEST_DRAWS),
        ("thin", thin, 1),
        ("batch_size", batch_size, 1),
    ):
        if not isinstance(value, int) or value < least:
            raise ValueError(f"{name}: a whole number from {least} up is wanted, got {value!r}")
    chosen, label = as_method(method)
    original = Program(model, args, data)
    _check_generative(original)
    is_chain = isinstance(chosen, Sampler)
    if is_chain:
        check_continuous(original, label)
    begun = time.perf_counter()
    key_simulate, key_method, key_rank = jax.random.split(as_key(key), 3)
    truths, simulated = _simulated(jax.random.split(key_simulate, num_simulations), original)
    template = jax.tree.map(lambda x: x[0], simulated)
    program = Program(_OfData(model), (template, original.args, original.kwargs))
    keys, keys_rank = (jax.random.split(k, num_simulations) for k in (key_method, key_rank))
    size = min(batch_size, num_simulations) if is_chain else 1
    ranks, sizes = [], []
    with progress(f"sbc {label}", -(-num_simulations // size), enabled=show_progress) as tick:
        for start in range(0, num_simulations, size):
            # The last batch repeats its last simulation, so that all batches have one shape.
            batch = jnp.minimum(jnp.arange(start, start + size), num_simulations - 1)
            of_batch = jax.tree.map(lambda x, batch=batch: x[batch], simulated)
            if is_chain:
                found, started = _chain_draws(keys[batch], program, of_batch, chosen, chains, draws, thin)
                _check_started(np.asarray(started), start)
            else:
                found = _method_draws(keys[start], program, of_batch, chosen, chains, draws, thin, start)
            truth = jax.tree.map(lambda x, batch=batch: x[batch], truths)
            rank, share, bad = jax.device_get(ranked(keys_rank[batch], program, of_batch, truth, found, is_chain))
            _check_numbers(bad, start)
            ranks.append(rank)
            sizes.append(share)
            tick()
    whole = jax.tree.map(lambda *parts: np.concatenate(parts)[:num_simulations], *ranks)
    shares = jax.tree.map(lambda *parts: mean_share(np.concatenate(parts)[:num_simulations]), *sizes)
    attrs = {"seconds": time.perf_counter() - begun, "simulations": num_simulations, "thin": thin, "chains": chains}
    return SBC(ranks=whole, num_draws=chains * draws, relative_ess=shares or None, method=label, attrs=attrs)


@dataclasses.dataclass(frozen=True)
class _OfData:
    """A model whose data are an argument; equal for equal models, so that what was compiled serves again."""

    model: Callable[..., Any]

    def __call__(self, data: Values, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return handlers.condition(self.model, data=dict(data))(*args, **kwargs)


def _check_generative(program: Program) -> None:
    structure = program.structure
    if structure.improper:
        raise ValueError(
            f"model: the prior of {', '.join(structure.improper)} is improper and nothing can be drawn from it; "
            "calibration is that of a proper prior"
        )
    if structure.factors:
        raise ValueError(
            f"model: no data can be drawn for the factor {structure.factors[0]!r}; write it as an observed site"
        )
    if not structure.of_kind("observed"):
        raise ValueError("model: it has no observed site, so that nothing is learnt; pass data (of any values) to it")
    if not structure.latents and not structure.discrete:
        raise ValueError("model: it has no latent site; every `numpyro.sample` in it is observed")
    if any(site.name == LOG_LIKELIHOOD for site in structure.sites):
        raise ValueError(
            f"model: the site {LOG_LIKELIHOOD!r} has the name of what is ranked beside the sites; rename it"
        )


def _check_started(started: Bool[np.ndarray, " b"], first: int) -> None:
    if not started.all():
        raise ValueError(
            f"model: for the data of simulation {first + int(np.argmin(started))} no start of finite density and "
            "gradient was found near the origin of unconstrained space; take priors that give data of a likely scale, "
            "or TemperedSMC, which starts from the prior"
        )


def _check_numbers(bad: Mapping[str, Bool[np.ndarray, " b"]], first: int) -> None:
    for name, where in bad.items():
        if where.any():
            raise ValueError(f"model: {name} is NaN in a draw of simulation {first + int(np.argmax(where))}")


@InOrder
def _simulated(keys: Key[Array, " n"], program: Program) -> tuple[dict[str, Array], dict[str, Array]]:
    return jax.vmap(program.joint_draw)(keys)


@InOrder
def _chain_draws(
    keys: Key[Array, " b"], program: Program, data: Values, method: Sampler, chains: int, draws: int, thin: int
) -> tuple[dict[str, Shaped[Array, "b chains draws ..."]], Bool[Array, " b"]]:
    """Draws of latent sites by a Markov chain, for each of the data, and whether it found where to start."""

    def one(key: Key[Array, ""], data: Values) -> tuple[dict[str, Array], Bool[Array, ""]]:
        key_run, key_draw = jax.random.split(key)
        given = with_data(program, data)
        positions, started = traced_chains(key_run, given, method, chains=chains, draws=draws, thin=thin)
        values = jax.vmap(jax.vmap(given.constrained))(positions, jax.random.split(key_draw, (chains, draws)))
        return {name: values[name] for name in _ranked_sites(program)}, started

    return jax.vmap(one)(keys, data)


def _method_draws(
    key: Key[Array, ""],
    program: Program,
    data: Values,
    method: Method,
    chains: int,
    draws: int,
    thin: int,
    simulation: int,
) -> dict[str, Shaped[np.ndarray, "1 chains draws ..."]]:
    """Draws of equal weight of latent sites by a method that runs by itself, for one data set."""
    key_run, key_draw = jax.random.split(key)
    given = with_data(program, jax.tree.map(lambda x: x[0], data))
    try:
        post = method.run(key_run, given, chains=chains, draws=draws * thin, show_progress=False)
    except ValueError as error:
        error.add_note(f"in simulation {simulation} of simulation-based calibration")
        raise
    indices = _indices(key_draw, post, chains * draws)
    flat = {name: post.draws[name].reshape(-1, *post.draws[name].shape[2:]) for name in _ranked_sites(program)}
    return {name: value[indices].reshape(1, chains, draws, *value.shape[1:]) for name, value in flat.items()}


def _indices(key: Key[Array, ""], post: Posterior, num: int) -> Int[np.ndarray, " num"]:
    """Which draws, of all chains in a row, stand for the posterior with equal weight.

    Of equal ones, each so many-th: a part of independent draws is as good as these. Of weighted ones, independently:
    ranks of a right posterior are then uniform whatever the weights, which those of systematic resampling are not.
    """
    total = post.num_chains * post.num_draws
    if post.log_weights is None or np.ptp(post.log_weights) == 0:
        if total < num:
            raise ValueError(f"method: {num} draws at least are wanted of a run, got {total}")
        return np.arange(num) * total // num
    return np.asarray(jax.random.categorical(key, jnp.asarray(post.log_weights).ravel(), shape=(num,)))


def _ranked_sites(program: Program) -> list[str]:
    return [site.name for site in program.structure.sites if site.kind in ("latent", "discrete")]
