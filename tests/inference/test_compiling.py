import concurrent.futures

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppl.inference.compiling import InOrder, _known_options, in_one_piece


@InOrder
def scaled(x, by, *, power=1):
    return {"out": by * x**power}


class Scale:
    def __init__(self, by):
        self.by = by

    @InOrder
    def of(self, x):
        return self.by * x


def test_this_version_of_xla_knows_the_options():
    assert _known_options()


def test_arrays_are_traced_and_all_else_is_static():
    for x in (jnp.arange(3.0), np.arange(3.0, dtype=np.float32)):
        assert scaled(x, 2, power=2)["out"].tolist() == [0, 2, 8]
    assert scaled.trace(jnp.ones(2), 3).out_info["out"].shape == (2,)
    assert scaled.trace(jnp.ones(2), 3).lower().compile().memory_analysis() is not None


def test_what_is_compiled_ahead_is_kept_for_its_shapes_and_settings():
    program = scaled.ahead(jax.ShapeDtypeStruct((3,), jnp.float32), 2)
    assert program.results["out"].shape == (3,)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        assert pool.submit(program, jnp.arange(3.0), 2).result()["out"].tolist() == [0, 2, 4]
    assert scaled.ahead(np.ones(3, np.float32), 2) is program
    assert scaled.ahead(np.ones(4, np.float32), 2) is not program
    assert scaled.ahead(np.ones(3, np.float32), 3) is not program
    with jax.default_matmul_precision("float32"):
        assert scaled.ahead(np.ones(3, np.float32), 2) is not program


def test_methods_are_bound():
    assert Scale(3).of(jnp.ones(2)).tolist() == [3, 3]


def test_inside_other_transformations_it_is_the_function():
    assert jax.jit(lambda x: scaled(x, 2)["out"])(jnp.ones(2)).tolist() == [2, 2]
    assert float(jax.grad(lambda x: scaled(x, 2, power=3)["out"])(1.0)) == 6


@pytest.mark.runs_long
def test_a_piece_stays_a_loop_of_its_own():
    """Which XLA does not see to have one pass."""
    piece = jax.jit(lambda x: in_one_piece(lambda pair: {"a": pair["b"] + 1, "b": 2 * pair["a"]}, {"a": x, "b": -x}))
    x = jnp.arange(2000.0)
    assert jnp.array_equal(piece(x)["a"], 1 - x)
    assert jnp.array_equal(piece(x)["b"], 2 * x)
    assert " while(" in piece.lower(x).compile().as_text()
