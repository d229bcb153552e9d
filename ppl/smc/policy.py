"""When and how to resample."""

from collections.abc import Callable
from typing import Protocol, TypeVar, runtime_checkable

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from ppl.smc.conditional_resampling import (
    conditional_killing,
    conditional_multinomial,
    conditional_stratified,
    conditional_systematic,
)
from ppl.smc.resampling import killing, multinomial, residual, ssp, stratified, systematic
from ppl.smc.transport import Transport, optimal_transport


@runtime_checkable
class When(Protocol):
    """Says whether to resample the weighted particles of step `t - 1` before step `t`."""

    def __call__(self, log_weights: Float[Array, " n"], t: int | Int[Array, ""], /) -> bool | Bool[Array, ""]:
        """The decision. A Python bool is a decision known before the run: the branch not taken is not compiled.

        **Arguments:** log weights `[n]` (log mean exp 0) of step `t - 1`; the index `t >= 1` of the step to come.
        """
        ...


@runtime_checkable
class Resampler(Protocol):
    """Draws ancestors in proportion to weights, without bias: offspring of `i` number `num * W_i` in expectation."""

    def __call__(self, key: Key[Array, ""], log_weights: Float[Array, " n"], num: int, /) -> Int[Array, " num"]:
        """Ancestor indices `[num]`, int32.

        A particle of weight zero is never drawn while one of positive weight exists.
        """
        ...


class _EssBelow(eqx.Module):
    threshold: float = eqx.field(static=True)

    def __call__(self, log_weights: Float[Array, " n"], t: int | Int[Array, ""], /) -> Bool[Array, ""]:
        # Weights come with mean 1, so that ESS / N is one over their mean square: one pass fewer than `weights.ess`.
        # All dead give infinity, and there is nothing to resample.
        return 1 / jnp.mean(jnp.exp(2 * log_weights)) < self.threshold


class _At(eqx.Module):
    mask: Bool[Array, " steps"] | Bool[np.ndarray, " steps"]

    def __call__(self, log_weights: Float[Array, " n"], t: int | Int[Array, ""], /) -> Bool[Array, ""]:
        return jnp.asarray(self.mask)[t - 1]


class _Constant(eqx.Module):
    value: bool = eqx.field(static=True)

    def __call__(self, log_weights: Float[Array, " n"], t: int | Int[Array, ""], /) -> bool:
        return self.value


def ess_below(threshold: float = 0.5) -> When:
    """Resample when the effective sample size is below `threshold` times the number of particles.

    **Raises:** `ValueError` unless `0 < threshold <= 1`.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold: a fraction of the particles in (0, 1] is wanted, got {threshold!r}")
    return _EssBelow(float(threshold))


def always() -> When:
    """Resample before every step."""
    return _Constant(True)


def never() -> When:
    """Never resample: sequential importance sampling."""
    return _Constant(False)


def at(mask: Bool[Array, " steps"] | Bool[np.ndarray, " steps"]) -> When:
    """Resample where the mask says so: entry `t - 1` of `T` decides before step `t = 1 .. T`."""
    return _At(mask)


WHEN: dict[str, Callable[[], When]] = {"ess": ess_below, "always": always, "never": never}
HOW: dict[str, Resampler | Transport] = {
    "systematic": systematic,
    "stratified": stratified,
    "residual": residual,
    "multinomial": multinomial,
    "killing": killing,
    "ssp": ssp,
    "optimal_transport": optimal_transport(),
    "conditional_systematic": conditional_systematic,
    "conditional_stratified": conditional_stratified,
    "conditional_multinomial": conditional_multinomial,
    "conditional_killing": conditional_killing,
}


class Policy(eqx.Module):
    """When to resample and how.

    **Arguments:**

    - `when`: a rule (`ess_below(0.5)`, `always()`, `never()`, `at(mask)`, or any `When`), or one of the names
      `"ess"`, `"always"`, `"never"`.
    - `how`: a `Resampler`, a `Transport`, or one of the names in `ppl.smc.policy.HOW`.
    - `threshold`: for `when="ess"` alone, the fraction of the particles; one half when left out.

    **Raises:** `ValueError` for an unknown name (listing those known) and for a threshold that would not be used.
    """

    when: When
    how: Resampler | Transport

    def __init__(
        self,
        when: str | When = "ess",
        how: str | Resampler | Transport = "systematic",
        *,
        threshold: float | None = None,
    ):
        if threshold is not None:
            if when != "ess":
                raise ValueError(
                    f"threshold: only when='ess' takes one, got threshold={threshold!r} with when={when!r}"
                )
            when = ess_below(threshold)
        self.when = _named("when", when, WHEN)() if isinstance(when, str) else when
        self.how = _named("how", how, HOW) if isinstance(how, str) else how

    def check(self, num_steps: int) -> None:
        """Raise `ValueError` if this policy cannot serve a run of `num_steps` steps: a mask must cover each."""
        if isinstance(self.when, _At) and self.when.mask.shape != (num_steps,):
            raise ValueError(
                f"when: the mask of `at` decides once a step, so its shape must be ({num_steps},), "
                f"got {self.when.mask.shape}"
            )

    @property
    def proper(self) -> bool:
        """Whether the weights stay proper, so that evidence can be estimated.

        A resampler that is none (a selector, a transport) says so by an attribute `proper = False`.
        """
        return bool(getattr(self.how, "proper", True))


_T = TypeVar("_T")


def _named(argument: str, name: str, table: dict[str, _T]) -> _T:
    if name not in table:
        raise ValueError(f"{argument}: {name!r} is not known; known are {', '.join(map(repr, table))}")
    return table[name]
