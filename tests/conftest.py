"""Settings every test runs under; they must be made before JAX, and before anything of `ppl`, is imported."""

import os

# Two CPU devices, so that code that shards or `pmap`s is exercised on any machine.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2".strip()
# Plots are drawn to memory; no display is looked for.
os.environ["MPLBACKEND"] = "Agg"

from jaxtyping import install_import_hook

# Every annotation of `ppl`, array shapes and dtypes included, is checked on every call.
install_import_hook("ppl", "typechecker.check")

import hypothesis
import jax
import pytest

# Compilation makes the first example slow: a deadline would only measure that. Derandomised: a failure repeats.
hypothesis.settings.register_profile("ppl", deadline=None, derandomize=True, max_examples=25)
hypothesis.settings.load_profile("ppl")


@pytest.fixture(autouse=True)
def _strict_promotion(request: pytest.FixtureRequest):
    """Strict dtype promotion where the test, class or module is marked `strict_promotion`."""
    if request.node.get_closest_marker("strict_promotion") is None:
        yield
    else:
        with jax.numpy_dtype_promotion("strict"):
            yield
