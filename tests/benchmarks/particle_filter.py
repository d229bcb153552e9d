"""The particle filter beside cuthbert 0.1.1 and particles 0.4, in one run: univariate LGSSM, T = 100, float32 for JAX.

    python tests/benchmarks/particle_filter.py [--sizes 1000 10000 100000 1000000] [--repeats 20] [--out FILE]

Each peer lives in a virtual environment of its own under `build/bench` (made on the first run; particles wants
numpy < 2), in a process of its own. What counts are the ratios, each the median over repeats of a peer's time over ours
in the same round. Peers are asked for the log-likelihood alone (XLA may drop cuthbert's history); ours is the public
call with its defaults: evidence, standard error, ESS and ancestors. Every estimate is compared with the Kalman filter.
Prints JSON.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path

from workers import ROOT, Worker, answer, environment, ratio

SERIES = ROOT / "tests" / "smc" / "data" / "lgssm_T100_univariate.json"
SETTING = 2  # rho .9, variances .5 and .2: the ESS rule resamples at about every other step
PEERS = {"cuthbert": ("cuthbert==0.1.1", "jax=={jax}"), "particles": ("particles==0.4", "numpy<2", "setuptools<81")}
GOALS = {
    "cuthbert": {1_000: 2, 10_000: 2, 100_000: 1, 1_000_000: 1},
    "particles": {1_000: 5, 10_000: 5, 100_000: 1, 1_000_000: 1},
}


def problem():
    data = json.loads(SERIES.read_text())
    return data["y"], data["exact"][SETTING]


def ppl_filter(n):
    import jax
    import jax.numpy as jnp
    from jax.scipy.stats import norm

    import ppl.smc

    y, p = problem()
    rho, move, noise = p["rho"], p["var_x"] ** 0.5, p["var_y"] ** 0.5

    def init(key, n, y):
        x = move * jax.random.normal(key, (n,))
        return x, norm.logpdf(y, x, noise)

    def step(key, x, y):
        x = rho * x + move * jax.random.normal(key, x.shape)
        return x, norm.logpdf(y, x, noise)

    model, series = ppl.smc.FeynmanKac(init, step), jnp.asarray(y, jnp.float32)
    return lambda seed: float(ppl.smc.run(seed, model, series, num_particles=n).log_evidence)


def cuthbert_filter(n):
    import jax
    import jax.numpy as jnp
    from cuthbert import filter
    from cuthbert.smc import particle_filter
    from cuthbertlib.resampling import adaptive, systematic
    from jax.scipy.stats import norm

    y, p = problem()
    rho, move, noise = p["rho"], p["var_x"] ** 0.5, p["var_y"] ** 0.5
    pf = particle_filter.build_filter(
        # Its first generation sees no observation: one that stands at 0 makes its first step our first law.
        init_sample=lambda key: jnp.zeros(()),
        propagate_sample=lambda key, x, y: rho * x + move * jax.random.normal(key),
        log_potential=lambda before, x, y: norm.logpdf(y, x, noise),
        n_filter_particles=n,
        resampling_fn=adaptive.ess_decorator(systematic.resampling, 0.5),
    )
    series = jnp.asarray(y, jnp.float32)

    @jax.jit
    def run(key):
        key_init, key_steps = jax.random.split(key)
        return filter(pf, series, pf.init_prepare(key=key_init), key=key_steps).log_normalizing_constant[-1]

    return lambda seed: float(run(jax.random.key(seed)))


def particles_filter(n):
    import numpy as np
    import particles
    from particles import distributions as dists
    from particles import state_space_models as ssm

    y, p = problem()
    rho, move, noise = p["rho"], p["var_x"] ** 0.5, p["var_y"] ** 0.5

    class Model(ssm.StateSpaceModel):
        def PX0(self):
            return dists.Normal(scale=move)

        def PX(self, t, xp):
            return dists.Normal(loc=rho * xp, scale=move)

        def PY(self, t, xp, x):
            return dists.Normal(loc=x, scale=noise)

    def run(seed):
        np.random.seed(seed)  # noqa: NPY002  particles draws from numpy's global state
        bootstrap = ssm.Bootstrap(ssm=Model(), data=np.array(y))
        pf = particles.SMC(fk=bootstrap, N=n, resampling="systematic", ESSrmin=0.5, store_history=False)
        pf.run()
        return float(pf.logLt)

    return run


def work(name):
    """A worker: answers with the seconds of one run and its estimate."""
    make = {"ppl": ppl_filter, "cuthbert": cuthbert_filter, "particles": particles_filter}[name]
    filters = {}

    def run(n, seed):
        if n not in filters:
            filters[n] = make(n)
        start = time.perf_counter()
        value = filters[n](seed)
        return {"seconds": time.perf_counter() - start, "log_evidence": value}

    answer(run)


def worker(name):
    if name == "ppl":
        return Worker(__file__, name)
    import jax

    wanted = [requirement.format(jax=jax.__version__) for requirement in PEERS[name]]
    return Worker(__file__, name, environment(name, wanted))


def measure(workers, n, repeats):
    exact = problem()[1]["log_likelihood"]
    first = {name: worker.ask(n=n, seed=0)["seconds"] for name, worker in workers.items()}
    seconds, errors = {name: [] for name in workers}, {name: [] for name in workers}
    for seed in range(1, repeats + 1):
        for name, worker in workers.items():
            result = worker.ask(n=n, seed=seed)
            seconds[name].append(result["seconds"])
            errors[name].append(result["log_evidence"] - exact)
    ours = seconds["ppl"]
    return {
        "num_particles": n,
        "repeats": repeats,
        "contenders": {
            name: {
                "seconds_median": statistics.median(seconds[name]),
                "seconds_best": min(seconds[name]),
                "seconds_first_call": first[name],
                "particle_steps_per_second_best": 100 * n / min(seconds[name]),
                "log_evidence_error_mean": statistics.fmean(errors[name]),
                "log_evidence_error_sd": statistics.stdev(errors[name]) if repeats > 1 else None,
            }
            for name in workers
        },
        "speed_up": {
            name: {
                "median_of_rounds": ratio(seconds[name], ours),
                "of_best": min(seconds[name]) / min(ours),
                "goal": GOALS[name].get(n),
            }
            for name in workers
            if name != "ppl"
        },
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--repeats", type=int, default=20, help="rounds at up to 10,000 particles; fewer above")
    parser.add_argument("--peers", nargs="*", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--out", type=Path, help="also write the JSON here")
    parser.add_argument("--worker", choices=["ppl", *PEERS], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return work(options.worker)
    workers = {name: worker(name) for name in ["ppl", *options.peers]}
    report = {
        "benchmark": "bootstrap filter, univariate LGSSM, T=100, systematic, ESS < N/2",
        "machine": {"cpu_count": os.cpu_count(), "load_average": os.getloadavg(), "python": platform.python_version()},
        "results": [],
    }
    for n in options.sizes:
        repeats = options.repeats if n <= 10_000 else max(2, options.repeats // (3 if n <= 100_000 else 6))
        report["results"].append(measure(workers, n, repeats))
        print(f"N={n} done", file=sys.stderr)
    for process in workers.values():
        process.stop()
    text = json.dumps(report, indent=2)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text + "\n")
    print(text)
    return None


if __name__ == "__main__":
    main()
