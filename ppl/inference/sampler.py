"""What a Markov chain Monte Carlo method is: its warm-up, and its steps."""

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, Float, Int, Key, PyTree, Shaped

from ppl.inference.densities import LogDensity

# What a sampler is given to sample from: the log density, or what its own `target(program)` makes of the program.
Target = Any


@runtime_checkable
class Warming(Protocol):
    """What samplers have in common: frozen settings, and functions of all chains at once.

    A sampler that moves by something else than the log density has a method `target(program)` too, and is given what
    that returns in place of `log_density`. One that draws minibatches of the data says so by `minibatches = True`; one
    whose chains learn from each other by `ensemble = True`; of all others, a chain depends on its own keys alone. One
    whose chains do unequal work in a step, such as trees, says so by `uneven = True`.
    """

    @property
    def warmup(self) -> int:
        """Steps of warm-up, whose draws are not kept."""
        ...

    def warm(
        self, keys: Key[Array, " chains"], log_density: LogDensity, positions: Float[Array, "chains d"]
    ) -> tuple[PyTree, PyTree]:
        """Adapt. **Returns:** the state of the chains, and the parameters found.

        Every leaf is `[chains, ...]`, but for parameters that an ensemble shares.
        """
        ...


@runtime_checkable
class Stepping(Warming, Protocol):
    """A sampler whose chains make their steps together."""

    def step(
        self, keys: Key[Array, " chains"], log_density: LogDensity, states: PyTree, parameters: PyTree
    ) -> tuple[PyTree, Float[Array, "chains d"], dict[str, Shaped[Array, " chains"]]]:
        """One step of all chains. **Returns:** states, positions, and statistics by ArviZ's names."""
        ...


@runtime_checkable
class Pacing(Warming, Protocol):
    """A sampler whose chains each go at their own pace, so that none waits in a step for one that has more to do."""

    def advance(
        self,
        keys: Key[Array, " chains"],
        log_density: LogDensity,
        states: PyTree,
        parameters: PyTree,
        start: Int[Array, ""],
        count: Int[Array, ""],
        length: int,
        thin: int,
    ) -> tuple[PyTree, Float[Array, "chains length d"], dict[str, Shaped[Array, "chains length"]]]:
        """`count` draws of every chain, of which it makes `thin` for one, the first being draw `start` of its key.

        **Returns:** states, positions, and statistics by ArviZ's names, of `length` draws, of which `count` count.
        """
        ...


# A Markov chain Monte Carlo method.
Sampler = Stepping | Pacing
