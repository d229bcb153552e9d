"""A run that the operating system killed goes on, in another process, to the same draws bit for bit."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from ppl.inference import RandomWalk, TemperedSMC, infer

ROOT = Path(__file__).resolve().parents[2]
# Method and sizes, and the number of the last checkpoint: of draws, or of runs.
RUNS = {
    "chains": ({"method": RandomWalk(warmup=200), "chains": 2, "draws": 20_000}, 20_000),
    "particles": ({"method": TemperedSMC(kernel="random_walk", num_moves=2), "chains": 40, "draws": 60}, 40),
}


def model(y):
    mu = numpyro.sample("mu", dist.Normal(0, 2))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1))
    numpyro.sample("y", dist.Normal(mu, sigma).expand([3]).to_event(1), obs=y)


def run(name, folder=None):
    return infer(model, jnp.array([0.4, 1.9, 3.1]), key=1, checkpoint=folder, **RUNS[name][0])


def finished(folder):
    """Numbers of complete checkpoints; one that is being written has another name."""
    return sorted(int(step.name) for step in (folder / "state").glob("*") if step.name.isdigit())


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="the platform has no SIGKILL")
@pytest.mark.parametrize("name", RUNS)
def test_a_run_killed_by_the_system_goes_on_to_the_same_draws(name, tmp_path):
    folder = tmp_path / "run"
    command = f"from tests.inference.test_checkpoint_kill import run; run({name!r}, {str(folder)!r})"
    child = subprocess.Popen(
        [sys.executable, "-c", command], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE
    )
    try:
        deadline = time.monotonic() + 120
        while not finished(folder) and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
    finally:
        child.kill()  # SIGKILL: no handler runs, nothing is flushed
        _, errors = child.communicate()
    assert child.returncode == -signal.SIGKILL, errors.decode()
    assert 0 < max(finished(folder), default=0) < RUNS[name][1]
    resumed, whole = run(name, folder), run(name)
    assert np.array_equal(whole.unconstrained, resumed.unconstrained)
    for statistic, value in whole.stats.items():
        assert np.array_equal(value, resumed.stats[statistic], equal_nan=True), statistic
