"""What a result cost: the ledger that every method fills."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Ledger(eqx.Module):
    """Counts of what was spent. A pytree: its entries may be Python numbers or arrays, also under `jit` and `vmap`.

    Entries of one ledger share a shape when they are arrays (one entry a problem, say); `sum` takes the total.

    - `generated_tokens`: tokens that the language model drew, those of particles later dropped included;
    - `prompt_tokens`: tokens that it only read, counted once for each prefill;
    - `reward_calls`: prefixes scored by a reward model or verifier;
    - `reward_tokens`: tokens that the reward model read for them;
    - `device_seconds`: wall time of the computation, the compilation of a first call included.
    """

    generated_tokens: int | Int[Array, "..."] = 0
    prompt_tokens: int | Int[Array, "..."] = 0
    reward_calls: int | Int[Array, "..."] = 0
    reward_tokens: int | Int[Array, "..."] = 0
    device_seconds: float | Float[Array, "..."] = 0.0

    def __add__(self, other: "Ledger") -> "Ledger":
        return jax.tree.map(lambda a, b: a + b, self, other)

    def __radd__(self, other: int) -> "Ledger":
        if other != 0:  # `sum(ledgers)` starts from the integer 0, the one number that a ledger adds to
            raise TypeError(f"a Ledger adds to a Ledger, got {other!r}")
        return self

    def sum(self) -> "Ledger":
        """The total over all axes; Python numbers stay as they are."""
        return jax.tree.map(lambda a: jnp.sum(a) if isinstance(a, jax.Array) else a, self)

    def as_dict(self) -> dict[str, int | float]:
        """The entries by name as Python numbers. **Raises:** `ValueError` if one is not a scalar (take `sum` first)."""
        out: dict[str, int | float] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if jnp.ndim(value):
                raise ValueError(
                    f"{field.name}: a scalar is wanted, got shape {jnp.shape(value)}; take ledger.sum() first"
                )
            out[field.name] = float(value) if field.name == "device_seconds" else int(value)
        return out
