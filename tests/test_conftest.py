"""The settings of conftest.py are in force: tests that rely on them would otherwise pass for nothing."""

import warnings

import jax
import jax.numpy as jnp
import jaxtyping
import matplotlib
import pytest

from ppl.intervals import mean_interval
from ppl.keys import as_key


def test_there_are_two_devices():
    assert len(jax.devices("cpu")) == 2


def test_annotations_are_checked():
    with pytest.raises(jaxtyping.TypeCheckError):
        as_key("seed")
    with pytest.raises(jaxtyping.TypeCheckError):  # an array of another rank than the annotation's
        mean_interval(jnp.ones((2, 2)))


def test_a_warning_is_an_error():
    with pytest.raises(UserWarning, match="on purpose"):
        warnings.warn("on purpose", UserWarning, stacklevel=1)


@pytest.mark.strict_promotion
def test_promotion_is_strict_where_marked():
    with pytest.raises(ValueError, match="no available implicit dtype promotion"):
        jnp.ones(2, jnp.int32) + jnp.ones(2, jnp.float32)


def test_promotion_is_usual_elsewhere():
    assert (jnp.ones(2, jnp.int32) + jnp.ones(2, jnp.float32)).dtype == jnp.float32


def test_no_display_is_looked_for():
    assert matplotlib.get_backend().lower() == "agg"
