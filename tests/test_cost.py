import jax
import jax.numpy as jnp
import pytest

from ppl.cost import Ledger


def test_ledgers_add_and_sum():
    one = Ledger(generated_tokens=3, reward_calls=1, device_seconds=0.5)
    two = Ledger(generated_tokens=4, prompt_tokens=2, reward_tokens=7, device_seconds=0.25)
    wanted = {
        "generated_tokens": 7, "prompt_tokens": 2, "reward_calls": 1, "reward_tokens": 7, "device_seconds": 0.75,
    }  # fmt: skip
    assert (one + two).as_dict() == wanted
    assert sum([one, two]).as_dict() == wanted
    assert sum([]) == 0
    with pytest.raises(TypeError, match="a Ledger adds to a Ledger, got 1"):
        1 + one


def test_a_ledger_passes_through_jit_and_vmap():
    @jax.jit
    def spend(count):
        return jax.vmap(lambda n: Ledger(generated_tokens=n, reward_calls=2 * n))(count) + Ledger(prompt_tokens=1)

    ledger = spend(jnp.array([1, 2, 3]))
    with pytest.raises(ValueError, match=r"generated_tokens: a scalar is wanted, got shape \(3,\)"):
        ledger.as_dict()
    total = ledger.sum().as_dict()
    assert (total["generated_tokens"], total["reward_calls"]) == (6, 12)
    assert all(type(value) is int for name, value in total.items() if name != "device_seconds")
