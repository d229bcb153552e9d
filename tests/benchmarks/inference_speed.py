"""`ppl.infer` beside NumPyro and blackjax in one run: NUTS and adaptive tempered SMC.

    python tests/benchmarks/inference_speed.py [--parts schools cold posteriors sonar] [--models ...] [--out FILE]

What counts are ratios, each the median over rounds of a peer's figure over ours in the same round. All in float32,
4 chains of 1000 + 1000 steps. Peers have a process of their own, where XLA is as it comes: what `import ppl` sets
(small loops are made one function) is not theirs. In another one the host has a device for each chain, which NumPyro
wants for chains that run in parallel. `--set-peers` adds peers in a process that has our setting, as a user of NumPyro
may have who knows of it. Prints JSON.

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

from workers import ROOT, Worker, answer, ratio

CHAINS, STEPS, PARTICLES = 4, 1000, 1000
METHODS = ("vectorized", "sequential")
GOALS = {"schools": 10, "cold": 1, "posteriors": 1, "sonar": 1.5}
# Of peers, with the ways in which they run chains there.
PROCESSES = {"ppl": (), "peers": METHODS, "peers on devices": ("parallel",), "set peers": METHODS}


def work(name):
    """A worker: answers with the seconds of a run and what is told of its value; asked nothing, with its flags."""
    if name in ("ppl", "set peers"):
        import ppl  # noqa: F401  before JAX runs anything, as XLA is set by it
    if name == "peers on devices":
        os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={CHAINS}"
    kept = {}

    def run(contender=None, arguments=None, seed=None):
        if contender is None:
            return os.environ.get("XLA_FLAGS", "")
        which = json.dumps([contender, arguments])
        if which not in kept:
            kept[which] = CONTENDERS[contender](**arguments)
        once, told = kept[which]
        seconds, value = timed(once, seed)
        return {"seconds": seconds, **told(value)}

    answer(run)


def timed(once, seed):
    """Seconds of one run, and what it gave."""
    start = time.perf_counter()
    value = once(seed)
    return time.perf_counter() - start, value


def rounds(processes, contenders, number):
    """`[answer, ...]` by contender, each run once before to compile.

    **Arguments:** `contenders`: process, contender and its arguments by name.
    """

    def run(name, seed):
        process, contender, arguments = contenders[name]
        return processes[process].ask(contender=contender, arguments=arguments, seed=seed)

    for name in contenders:
        run(name, 0)
    results = {name: [] for name in contenders}
    for seed in range(1, number + 1):
        for name in contenders:
            results[name].append(run(name, seed))
    return results


def seconds_of(results):
    return {name: [run["seconds"] for run in runs] for name, runs in results.items()}


def numpyros(processes, model, hows):
    """NumPyro's contenders, in each process that peers have."""
    return {
        f"{process}: numpyro {method} {how}": (
            process,
            "numpyro nuts",
            {"model": model, "chain_method": method, "how": how},
        )
        for process in processes
        for method in PROCESSES[process]
        for how in hows
    }


def ppl_nuts(model):
    from ppl.inference import NUTS, infer
    from tests.inference.posteriors import MODELS, data

    arguments, method = data(model), NUTS(warmup=STEPS)

    def once(seed):
        return infer(MODELS[model], **arguments, method=method, key=seed, chains=CHAINS, draws=STEPS).draws

    return once, lambda draws: {"ess": smallest_ess(draws, model)}


def numpyro_mcmc(model, chain_method):
    from numpyro.infer import MCMC, NUTS

    from tests.inference.posteriors import MODELS

    return MCMC(
        NUTS(MODELS[model]),
        num_warmup=STEPS,
        num_samples=STEPS,
        num_chains=CHAINS,
        chain_method=chain_method,
        progress_bar=False,
    )


def numpyro_nuts(model, chain_method, how):
    """NumPyro's run by seed: `anew` makes the sampler each time, `again` keeps it, `jitted` compiles all of it once."""
    import jax

    from tests.inference.posteriors import data

    arguments, kept = data(model), numpyro_mcmc(model, chain_method)

    def draw(mcmc, key, arguments):
        mcmc.run(key, **arguments)
        return mcmc.get_samples(group_by_chain=True)

    whole = jax.jit(lambda key, arguments: draw(kept, key, arguments))

    def once(seed):
        key = jax.random.key(seed)
        if how == "jitted":
            return jax.device_get(whole(key, arguments))
        mcmc = kept if how == "again" else numpyro_mcmc(model, chain_method)
        return jax.device_get(draw(mcmc, key, arguments))

    return once, lambda draws: {"ess": smallest_ess(draws, model)}


def smallest_ess(draws, model):
    """Over the parameters that the reference has."""
    from blackjax.diagnostics import ess_bulk

    from tests.inference.posteriors import reference, scalar

    return min(float(ess_bulk(scalar(draws, parameter))) for parameter in reference(model))


def regression(path):
    """The design matrix, with a column of ones, the outcomes, and the prior scales."""
    import jax.numpy as jnp
    import numpy as np

    stored = json.loads(Path(path).read_text())
    raw = np.array(stored["X_raw"])
    columns = (raw - raw.mean(axis=0)) / raw.std(axis=0) * 0.5
    design = np.concatenate([np.ones((len(raw), 1)), columns], axis=1)
    scale = jnp.full(design.shape[1], 5.0).at[0].set(20.0)
    return jnp.asarray(design, jnp.float32), jnp.asarray(stored["y"], jnp.float32), scale


def ppl_smc(path, tuned):
    import numpyro
    import numpyro.distributions as dist

    from ppl.inference import HMCMove, TemperedSMC, infer

    problem = regression(path)

    def model(design, outcome, scale):
        beta = numpyro.sample("beta", dist.Normal(0, scale).to_event(1))
        numpyro.sample("y", dist.Bernoulli(logits=design @ beta), obs=outcome)

    method = TemperedSMC()
    if tuned:
        method = TemperedSMC(kernel=HMCMove(num_steps=4, small_steps=0.0), target_ess=0.95, num_moves=4)

    def once(seed):
        post = infer(model, *problem, method=method, key=seed, chains=1, draws=PARTICLES)
        return float(post.log_evidence), int(post.attrs["temperatures"])

    return once, told_of_smc


def blackjax_smc(path, step_size=0.3, num_steps=15, num_moves=5, target_ess=0.9):
    import blackjax
    import jax
    import jax.numpy as jnp
    import numpyro.distributions as dist
    from blackjax.smc import extend_params, resampling

    design, outcome, scale = regression(path)
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

    def once(seed):
        count, _, evidence = jax.device_get(whole(jax.random.key(seed)))
        return float(evidence), int(count)

    return once, told_of_smc


def told_of_smc(value):
    evidence, temperatures = value
    return {"evidence": evidence, "temperatures": temperatures}


CONTENDERS = {"ppl nuts": ppl_nuts, "numpyro nuts": numpyro_nuts, "ppl smc": ppl_smc, "blackjax smc": blackjax_smc}


def schools(processes, options):
    contenders = {"ppl": ("ppl", "ppl nuts", {"model": "eight_schools"})}
    contenders |= numpyros(processes, "eight_schools", ("anew", "again", "jitted"))
    seconds = seconds_of(rounds(processes, contenders, options.rounds))
    ratios = {name: ratio(seconds[name], seconds["ppl"]) for name in seconds if name != "ppl"}
    as_users = {name: value for name, value in ratios.items() if not name.endswith("jitted")}
    return {
        "seconds_median": {name: statistics.median(values) for name, values in seconds.items()},
        "over_ppl": ratios,
        "best_of_numpyro_over_ppl": min(as_users.values()),
        "goal": GOALS["schools"],
    }


def cold(_, options):
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
    once, _ = ppl_nuts("eight_schools") if name == "ppl" else numpyro_nuts("eight_schools", name.split()[1], "anew")
    print(timed(once, 1)[0])


def posteriors(processes, options):
    found = {}
    for model in options.models:
        contenders = {"ppl": ("ppl", "ppl nuts", {"model": model})} | numpyros(processes, model, ("jitted",))
        results = rounds(processes, contenders, options.posterior_rounds)
        seconds = seconds_of(results)
        sizes = {name: [run["ess"] for run in runs] for name, runs in results.items()}
        rates = {name: [size / sec for size, sec in zip(sizes[name], seconds[name], strict=True)] for name in results}
        ratios = {name: ratio(rates["ppl"], rates[name]) for name in rates if name != "ppl"}
        found[model] = {
            "seconds": {name: [round(value, 3) for value in values] for name, values in seconds.items()},
            "seconds_median": {name: statistics.median(values) for name, values in seconds.items()},
            "ess_min_median": {name: statistics.median(values) for name, values in sizes.items()},
            "ess_per_second_median": {name: statistics.median(values) for name, values in rates.items()},
            "ppl_over": ratios,
            "ppl_over_best": best_by_process(ratios),
        }
        print(json.dumps({model: found[model]}), file=sys.stderr)
    best = {
        process: [result["ppl_over_best"][process] for result in found.values()]
        for process in processes
        if process != "ppl"
    }
    return {
        "models": found,
        "worst": {process: min(ratios) for process, ratios in best.items()},
        "median": {process: statistics.median(ratios) for process, ratios in best.items()},
        "goal": GOALS["posteriors"],
    }


def best_by_process(ratios):
    """Of each process of peers, ours over the best one."""
    best = {}
    for name, value in ratios.items():
        process = name.split(":")[0]
        best[process] = min(value, best.get(process, value))
    return best


def sonar(processes, options):
    if not options.sonar.exists():
        return {"skipped": f"no file {options.sonar}"}
    path = str(options.sonar.resolve())
    contenders = {
        "ppl": ("ppl", "ppl smc", {"path": path, "tuned": False}),
        "ppl tuned": ("ppl", "ppl smc", {"path": path, "tuned": True}),
    }
    contenders |= {
        f"{process}: blackjax": (process, "blackjax smc", {"path": path})
        for process in processes
        if PROCESSES[process] == METHODS
    }
    results = rounds(processes, contenders, options.sonar_rounds)
    seconds = seconds_of(results)
    evidence = {name: [run["evidence"] for run in runs] for name, runs in results.items()}
    return {
        "seconds_median": {name: statistics.median(values) for name, values in seconds.items()},
        "evidence_mean": {name: statistics.fmean(values) for name, values in evidence.items()},
        "evidence_sd": {name: statistics.stdev(values) for name, values in evidence.items()},
        "temperatures_median": {
            name: statistics.median(run["temperatures"] for run in runs) for name, runs in results.items()
        },
        "over": {
            peer: {name: ratio(seconds[peer], seconds[name]) for name in ("ppl", "ppl tuned")}
            for peer in seconds
            if peer.endswith("blackjax")
        },
        "goal": GOALS["sonar"],
    }


def main():
    sys.path.insert(0, str(ROOT))
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
    parser.add_argument("--set-peers", action="store_true", help="peers with what `import ppl` sets, too")
    parser.add_argument("--cold-run", help=argparse.SUPPRESS)
    parser.add_argument("--worker", choices=list(PROCESSES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return work(options.worker)
    if options.cold_run:
        return cold_run(options.cold_run)
    processes = {name: Worker(__file__, name) for name in PROCESSES if name != "set peers" or options.set_peers}
    report = {
        "benchmark": "ppl.infer beside NumPyro and blackjax",
        "machine": {"cpu_count": os.cpu_count(), "load_average": os.getloadavg(), "python": platform.python_version()},
        "xla_flags": {name: process.ask() for name, process in processes.items()},
    }
    for part in options.parts:
        report[part] = parts[part](processes, options)
        print(json.dumps({part: report[part]}), file=sys.stderr)  # what is measured is not lost with the rest
    for process in processes.values():
        process.stop()
    report["machine"]["load_average_after"] = os.getloadavg()
    text = json.dumps(report, indent=2)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text + "\n")
    print(text)
    return None


if __name__ == "__main__":
    main()
