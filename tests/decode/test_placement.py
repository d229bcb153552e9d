"""Particles over devices: the same results, and each device holds its share."""

import dataclasses
import json
import socket
import subprocess
import sys
from itertools import chain
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ppl.decode.engine import Settings, decode
from ppl.decode.particles import Judge, Plan, solution_model
from ppl.decode.targets import TARGETS
from ppl.lm import Proposal, load, load_reward
from ppl.lm.placement import particle_mesh
from ppl.smc import Policy
from ppl.smc.driver import filter as particle_filter
from tests.decode import process, tiny, toys

SETTINGS = Settings(num_particles=8, max_steps=3, max_step_tokens=2, target="odds", policy=Policy("always"))
MESH = jax.make_mesh((2,), ("particles",))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return toys.write_models(tmp_path_factory.mktemp("models"), words=("Start:",), max_number=9)


def test_particles_over_devices_are_the_same_particles(folders):
    prompts = [problem.prompt for problem in toys.Primes().problems(2)]
    keys = jax.random.split(jax.random.key(1), 2)
    one, two = (
        decode(load(folders[0], sharding=mesh), load_reward(folders[1], sharding=mesh), prompts, keys, SETTINGS)
        for mesh in (None, MESH)
    )
    assert one.texts == two.texts
    assert one.resampled.all()
    for name in ("log_weights", "log_evidence", "log_evidence_se", "log_prob", "reward_trace"):
        np.testing.assert_allclose(getattr(one, name), getattr(two, name), rtol=1e-4, atol=1e-5)


def test_each_device_holds_its_share_of_particles(folders):
    lm, reward = (load(folders[0], sharding=MESH), load_reward(folders[1], sharding=MESH))
    prompt = jnp.asarray(tiny.PROMPT), jnp.asarray(tiny.KNOWN)
    plan = Plan(2, 2, lm.config.eos_token_ids, particle_mesh(lm.params))

    @jax.jit
    def go(lm_params, reward_params, key):
        judge = Judge(nnx.merge(reward.graph, reward_params), *prompt)
        model = solution_model(
            nnx.merge(lm.graph, lm_params), judge, TARGETS["product"], *prompt, Proposal(), plan, lm.token_id("\n")
        )
        return particle_filter(key, model, None, 8, Policy("always"), num_steps=1).particles

    end = go(lm.params, reward.params, jax.random.key(0))
    for cache in (end.writing.cache, end.scored.cache):
        for leaf in (*cache.keys, *cache.values):
            assert leaf.sharding.shard_shape(leaf.shape)[0] == 4


@pytest.mark.parametrize(("prompts", "num_samples"), [(3, 1), (2, 4)])
def test_rows_over_devices_are_the_same_rows(folders, prompts, num_samples):
    texts = [problem.prompt for problem in toys.Primes().problems(prompts)]
    one, two = (
        load(folders[0], sharding=mesh).complete(texts, 0, num_samples=num_samples, max_tokens=6)
        for mesh in (None, MESH)
    )
    for a, b in zip(chain(*one), chain(*two), strict=True):
        assert a.tokens == b.tokens
        np.testing.assert_allclose(a.log_probs, b.log_probs, atol=1e-5)


def test_what_cannot_be_spread_is_refused(folders):
    lm, reward = load(folders[0], sharding=MESH), load_reward(folders[1])
    keys = jax.random.split(jax.random.key(1), 1)
    with pytest.raises(ValueError, match=r"reward model 'prm' must be loaded on the mesh of language model 'lm'"):
        decode(lm, reward, ["Start:"], keys, SETTINGS)
    odd = dataclasses.replace(SETTINGS, num_particles=5, target=None)
    with pytest.raises(ValueError, match="num_particles must be a multiple of the 2 devices .* got 5"):
        decode(lm, None, ["Start:"], keys, odd)
    with pytest.raises(ValueError, match="axes of a mesh are 'particles' and 'tensors', got 'data'"):
        load(folders[0], sharding=jax.make_mesh((2,), ("data",)))


def test_processes_write_together_what_one_writes_alone(folders):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, str(Path(process.__file__)), address, "2"]
    running = [
        subprocess.Popen([*command, str(i), *map(str, folders)], stdout=subprocess.PIPE, text=True) for i in range(2)
    ]
    try:
        printed = [one.communicate(timeout=240)[0] for one in running]
    finally:
        for one in running:
            one.kill()
    assert [one.returncode for one in running] == [0, 0]
    ends = [json.loads(lines.splitlines()[-1]) for lines in printed]
    alone = process.texts(*map(str, folders), None)
    assert ends == [[4, alone]] * 2  # two devices of each
