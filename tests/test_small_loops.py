"""What `import ppl` asks of XLA, in processes of their own: it is read once, by the first program that runs."""

import os
import subprocess
import sys

import pytest

# A loop whose body handles forty kilobytes: by itself XLA makes one function of those up to one.
_LOOP = """
import ppl, jax, jax.numpy as jnp
step = lambda i, x: jnp.sin(x) * x.sum()
loop = jax.jit(lambda x: jax.lax.fori_loop(0, x.shape[0], step, x))
print("xla_cpu_small_call" in loop.lower(jnp.ones(1250)).compile().as_text())
"""


def printed(script, flags):
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    run = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    return run.stdout.strip()


@pytest.mark.parametrize(
    ("flags", "whole"),
    [
        ("--xla_backend_optimization_level=1", "True"),
        ("--xla_backend_extra_options=xla_cpu_small_while_loop_byte_threshold=1024", "False"),
    ],
    ids=["other_flags", "a_threshold_of_the_user"],
)
def test_small_loops_become_one_function_unless_the_user_says_otherwise(flags, whole):
    assert printed(_LOOP, flags) == whole


def test_flags_are_added_once():
    twice = "import importlib, os, ppl; importlib.reload(ppl); print(os.environ['XLA_FLAGS'])"
    assert printed(twice, "").count("xla_backend_extra_options") == 1
