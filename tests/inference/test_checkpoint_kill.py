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

from ppl.inference import RandomWalk, infer

ROOT = Path(__file__).resolve().parents[2]
DRAWS = 20_000


def model(y):
    mu = numpyro.sample("mu", dist.Normal(0, 2))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1))
    numpyro.sample("y", dist.Normal(mu, sigma).expand([3]).to_event(1), obs=y)


def run(folder=None):
    y = jnp.array([0.4, 1.9, 3.1])
    return infer(model, y, method=RandomWalk(warmup=200), key=1, chains=2, draws=DRAWS, checkpoint=folder)


def finished(folder):
    """Numbers of draws of complete checkpoints; one that is being written has another name."""
    return sorted(int(step.name) for step in (folder / "state").glob("*") if step.name.isdigit())


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="the platform has no SIGKILL")
def test_a_run_killed_by_the_system_goes_on_to_the_same_draws(tmp_path):
    folder = tmp_path / "run"
    command = f"from tests.inference.test_checkpoint_kill import run; run({str(folder)!r})"
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
    assert 0 < max(finished(folder), default=0) < DRAWS
    resumed, whole = run(folder), run()
    assert np.array_equal(whole.unconstrained, resumed.unconstrained)
    for name, value in whole.stats.items():
        assert np.array_equal(value, resumed.stats[name]), name
