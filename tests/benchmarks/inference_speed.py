"""`ppl.infer` beside NumPyro and blackjax in one process: NUTS and adaptive tempered SMC.

    python tests/benchmarks/inference_speed.py [--parts schools cold posteriors sonar] [--models ...] [--out FILE]

Rounds are interleaved, so that whatever else loads the machine loads all alike: what counts are ratios, each the median
over rounds of a peer's figure over ours in the same round. All in float32, 4 chains of 1000 + 1000 steps. What
`import ppl` sets of XLA (small loops are made one function) holds for peers, too, and where models are small NumPyro
under `jax.jit` gains more by it than ours; with the threshold of 1024 (`XLA_FLAGS`, as in `ppl/__init__.py`)
XLA is as it comes. Prints JSON.

- `schools`: eight schools, warm, with a new key each time. NumPyro as users run it: an `MCMC` made anew for each run,
  and `run` again on one that has run; chains vectorised and one after another. `jitted` is what its users can do by
  hand, the whole run under a `jax.jit` of their own (no warm-up apart, no progress bar, no `print_summary`).
- `cold`: the same run as the first thing in a fresh process, imports and compilation included.
- `posteriors`: the smallest bulk ESS of the parameters of each posteriordb model over seconds of a warm run. NumPyro's
  is the run under `jax.jit`, which is its fastest by far, so that samplers are compared and not compilations. Of
  lotka_volterra one chain in eight, of either, starts where it takes trees of full depth through much of warm-up, and
  the run with it: a few rounds say little, and `seconds` shows which.
- `sonar`: log evidence of a logistic regression (d = 61) by 1000 particles. blackjax's adaptive tempered SMC, all of it
  under one `jax.jit`, with HMC of 15 steps, 5 moves a temperature, target ESS .9; its step size .3 on the unit metric
  was chosen of .3 and .5 (at .5 nearly nothing is accepted at the end). Ours by the public call: with its defaults
  (target ESS .5, which is faster and spreads more), and with common step sizes, 4 moves of 4 leapfrog steps and a
  target ESS of .95, chosen of about twenty settings on other keys. `evidence_sd` is the spread of log Z over keys; of
  10 runs it is known to a quarter of itself. The data are read from `--sonar`.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
import ppl  # noqa: E402, F401  what it sets of XLA then holds for peers, too

CHAINS, STEPS, PARTICLES = 4, 1000, 1000
METHODS = ("vectorized", "sequential")
GOALS = {"schools": 10, "cold": 1, "posteriors": 1, "sonar": 1.5}


def timed(work, seed):
    """Seconds of one run, and what it gave."""
    start = time.perf_counter()
    value = work(seed)
    return time.perf_counter() - start, value


def rounds(contenders, number, seed=1):
    """`[(seconds, value), ...]` by contender, each run once before to compile."""
    for work in contenders.values():
        work(0)
    results = {name: [] for name in contenders}
    for i in range(number):
        for name, work in contenders.items():
            results[name].append(timed(work, seed + i))
    return results


def ratio(theirs, ours):
    """Median over rounds."""
    return statistics.median(a / b for a, b in zip(theirs, ours, strict=True))


def seconds_of(results):
    return {name: [seconds for seconds, _ in runs] for name, runs in results.items()}


def ppl_nuts(name):
    from ppl.inference import NUTS, infer
    from tests.inference.posteriors import MODELS, data

    model, arguments = MODELS[name], data(name)
    return lambda seed: infer(model, **arguments, method=NUTS(warmup=STEPS), key=seed, chains=CHAINS, draws=STEPS).draws


def numpyro_mcmc(name, chain_method):
    from numpyro.infer import MCMC, NUTS

    from tests.inference.posteriors import MODELS

    return MCMC(
        NUTS(MODELS[name]),
        num_warmup=STEPS,
        num_samples=STEPS,
        num_chains=CHAINS,
        chain_method=chain_method,
        progress_bar=False,
    )


def numpyro_nuts(name, chain_method, how):
    """NumPyro's run by seed: `anew` makes the sampler each time, `again` keeps it, `jitted` compiles all of it once."""
    import jax

    from tests.inference.posteriors import data

    arguments, kept = data(name), numpyro_mcmc(name, chain_method)

    def draw(mcmc, key, arguments):
        mcmc.run(key, **arguments)
        return mcmc.get_samples(group_by_chain=True)

    whole = jax.jit(lambda key, arguments: draw(kept, key, arguments))

    def run(seed):
        key = jax.random.key(seed)
        if how == "jitted":
            return jax.device_get(whole(key, arguments))
        mcmc = kept if how == "again" else numpyro_mcmc(name, chain_method)
        return jax.device_get(draw(mcmc, key, arguments))

    return run


def schools(options):
    contenders = {"ppl": ppl_nuts("eight_schools")}
    for method in METHODS:
        for how in ("anew", "again", "jitted"):
            contenders[f"numpyro {method} {how}"] = numpyro_nuts("eight_schools", method, how)
    seconds = seconds_of(rounds(contenders, options.rounds))
    ratios = {name: ratio(seconds[name], seconds["ppl"]) for name in seconds if name != "ppl"}
    as_users = {name: value for name, value in ratios.items() if not name.endswith("jitted")}
    return {
        "seconds_median": {name: statistics.median(values) for name, values in seconds.items()},
        "over_ppl": ratios,
        "best_of_numpyro_over_ppl": min(as_users.values()),
        "goal": GOALS["schools"],
    }


def cold(options):
    """Fresh processes in turn: whole wall time, and of the first run alone."""
    names = ["ppl", *(f"numpyro {method}" for method in METHODS)]
    wall, first = {name: [] for name in names}, {name: [] for name in names}
    for _ in range(options.cold_rounds):
        for name in names:
            start = time.perf_counter()
            child = [sys.executable, __file__, "--cold-run", name]
            out = subprocess.run(child, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
            wall[name].append(time.perf_counter() - start)
            first[name].append(float(out.splitlines()[-1]))
    ratios = {name: ratio(wall[name], wall["ppl"]) for name in names[1:]}
    return {
        "process_seconds_median": {name: statistics.median(values) for name, values in wall.items()},
        "first_run_seconds_median": {name: statistics.median(values) for name, values in first.items()},
        "over_ppl": ratios,
        "best_of_numpyro_over_ppl": min(ratios.values()),
        "goal": GOALS["cold"],
    }


def cold_run(name):
    work = ppl_nuts if name == "ppl" else lambda model: numpyro_nuts(model, name.split()[1], "anew")
    print(timed(work("eight_schools"), 1)[0])


def smallest_ess(draws, name):
    """Over the parameters that the reference has."""
    from blackjax.diagnostics import ess_bulk

    from tests.inference.posteriors import reference, scalar

    return min(float(ess_bulk(scalar(draws, parameter))) for parameter in reference(name))


def posteriors(options):
    found = {}
    for name in options.models:
        contenders = {"ppl": ppl_nuts(name)}
        contenders |= {f"numpyro {method} jitted": numpyro_nuts(name, method, "jitted") for method in METHODS}
        results = rounds(contenders, options.posterior_rounds)
        rates, sizes = {}, {}
        for contender, runs in results.items():
            sizes[contender] = [smallest_ess(draws, name) for _, draws in runs]
            rates[contender] = [size / runs[i][0] for i, size in enumerate(sizes[contender])]
        ratios = {contender: ratio(rates["ppl"], rates[contender]) for contender in rates if contender != "ppl"}
        found[name] = {
            "seconds": {who: [round(value, 3) for value in values] for who, values in seconds_of(results).items()},
            "seconds_median": {who: statistics.median(values) for who, values in seconds_of(results).items()},
            "ess_min_median": {who: statistics.median(values) for who, values in sizes.items()},
            "ess_per_second_median": {who: statistics.median(values) for who, values in rates.items()},
            "ppl_over": ratios,
            "ppl_over_best_of_numpyro": min(ratios.values()),
        }
        print(json.dumps({name: found[name]}), file=sys.stderr)  # what is measured is not lost with the rest
    worst = min(found.values(), key=lambda result: result["ppl_over_best_of_numpyro"])["ppl_over_best_of_numpyro"]
    middle = statistics.median(result["ppl_over_best_of_numpyro"] for result in found.values())
    return {"models": found, "worst": worst, "median": middle, "goal": GOALS["posteriors"]}


def regression(path):
    """The design matrix, with a column of ones, the outcomes, and the prior scales."""
    import jax.numpy as jnp
    import numpy as np

    stored = json.loads(path.read_text())
    raw = np.array(stored["X_raw"])
    columns = (raw - raw.mean(axis=0)) / raw.std(axis=0) * 0.5
    design = np.concatenate([np.ones((len(raw), 1)), columns], axis=1)
    scale = jnp.full(design.shape[1], 5.0).at[0].set(20.0)
    return jnp.asarray(design, jnp.float32), jnp.asarray(stored["y"], jnp.float32), scale


def ppl_smc(design, outcome, scale, **settings):
    import numpyro
    import numpyro.distributions as dist

    from ppl.inference import TemperedSMC, infer

    def model(design, outcome, scale):
        beta = numpyro.sample("beta", dist.Normal(0, scale).to_event(1))
        numpyro.sample("y", dist.Bernoulli(logits=design @ beta), obs=outcome)

    method = TemperedSMC(**settings)

    def run(seed):
        post = infer(model, design, outcome, scale, method=method, key=seed, chains=1, draws=PARTICLES)
        return post.log_evidence, post.attrs["temperatures"]

    return run


def blackjax_smc(design, outcome, scale, step_size=0.3, num_steps=15, num_moves=5, target_ess=0.9):
    import blackjax
    import jax
    import jax.numpy as jnp
    import numpyro.distributions as dist
    from blackjax.smc import extend_params, resampling

    parameters = {
        "step_size": step_size,
        "inverse_mass_matrix": jnp.ones(scale.shape),
        "num_integration_steps": num_steps,
    }
    algorithm = blackjax.adaptive_tempered_smc(
        lambda beta: dist.Normal(0, scale).log_prob(beta).sum(),
        lambda beta: dist.Bernoulli(logits=design @ beta).log_prob(outcome).sum(),
        blackjax.hmc.build_kernel(),
        blackjax.hmc.init,
        extend_params(parameters),
        resampling.systematic,
        target_ess,
        num_mcmc_steps=num_moves,
    )

    @jax.jit
    def whole(key):
        key_start, key = jax.random.split(key)
        first = algorithm.init(scale * jax.random.normal(key_start, (PARTICLES, len(scale))))

        def step(carry):
            count, state, evidence = carry
            state, info = algorithm.step(jax.random.fold_in(key, count), state)
            return count + 1, state, evidence + info.log_likelihood_increment

        start = (0, first, jnp.zeros(()))
        return jax.lax.while_loop(lambda carry: carry[1].tempering_param < 1, step, start)

    def run(seed):
        count, _, evidence = jax.device_get(whole(jax.random.key(seed)))
        return float(evidence), int(count)

    return run


def sonar(options):
    if not options.sonar.exists():
        return {"skipped": f"no file {options.sonar}"}
    from ppl.inference import HMCMove

    short = HMCMove(num_steps=4, small_steps=0.0)
    problem = regression(options.sonar)
    contenders = {
        "ppl": ppl_smc(*problem),
        "ppl tuned": ppl_smc(*problem, kernel=short, target_ess=0.95, num_moves=4),
        "blackjax": blackjax_smc(*problem),
    }
    results = rounds(contenders, options.sonar_rounds)
    seconds = seconds_of(results)
    evidence = {name: [value for _, (value, _) in runs] for name, runs in results.items()}
    return {
        "seconds_median": {name: statistics.median(values) for name, values in seconds.items()},
        "evidence_mean": {name: statistics.fmean(values) for name, values in evidence.items()},
        "evidence_sd": {name: statistics.stdev(values) for name, values in evidence.items()},
        "temperatures_median": {name: statistics.median(n for _, (_, n) in runs) for name, runs in results.items()},
        "blackjax_over": {name: ratio(seconds["blackjax"], seconds[name]) for name in seconds if name != "blackjax"},
        "goal": GOALS["sonar"],
    }


def main():
    from tests.inference.posteriors import MODELS

    parts = {"schools": schools, "cold": cold, "posteriors": posteriors, "sonar": sonar}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=list(parts), default=list(parts))
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--rounds", type=int, default=7, help="of eight schools")
    parser.add_argument("--cold-rounds", type=int, default=3)
    parser.add_argument("--posterior-rounds", type=int, default=3, help="of each posteriordb model")
    parser.add_argument("--sonar-rounds", type=int, default=10)
    parser.add_argument("--sonar", type=Path, default=ROOT.parent / "shared" / "data" / "evidence" / "sonar.json")
    parser.add_argument("--out", type=Path, help="also write the JSON here")
    parser.add_argument("--cold-run", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cold_run:
        return cold_run(options.cold_run)
    report = {
        "benchmark": "ppl.infer beside NumPyro and blackjax",
        "machine": {"cpu_count": os.cpu_count(), "load_average": os.getloadavg(), "python": platform.python_version()},
        "xla_flags": os.environ["XLA_FLAGS"],
    }
    for part in options.parts:
        report[part] = parts[part](options)
        print(f"{part} done", file=sys.stderr)
    report["machine"]["load_average_after"] = os.getloadavg()
    text = json.dumps(report, indent=2)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text + "\n")
    print(text)
    return None


if __name__ == "__main__":
    main()
