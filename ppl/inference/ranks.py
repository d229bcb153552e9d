"""Ranks of what made the data among draws of a method, and what they say; see `ppl.inference.sbc`."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import blackjax.diagnostics as diagnostics
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

from ppl.calibration import holm, rank_p_value
from ppl.inference.compiling import InOrder
from ppl.inference.evaluation import scalars
from ppl.inference.program import Program

# For tables and plots alone, and 0.3 to 0.4 s each to import.
if TYPE_CHECKING:
    import matplotlib.figure
    import pandas

LOG_LIKELIHOOD = "log_likelihood"
_SHOWN = 12

Values = Mapping[str, Shaped[Array, "..."]]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class SBC:
    """Ranks of what was drawn among what a method found; uniform if the method is right.

    - `ranks`: `{name: [simulations, ...]}` of each latent site and of the joint log likelihood (`"log_likelihood"`):
      how many of the `num_draws` draws lie below the value that made the data, ties broken at random.
    - `relative_ess`: for Markov chains, bulk ESS of the kept draws over their number, by name, the mean over
      simulations; well below 1, ranks of a right sampler are not uniform either (raise `thin`).
    - `method`: its name; `attrs`: facts for the record.
    """

    ranks: Mapping[str, Int[np.ndarray, "simulations ..."]]
    num_draws: int
    relative_ess: Mapping[str, Float[np.ndarray, "..."]] | None
    method: str
    attrs: Mapping[str, str | int | float] = dataclasses.field(default_factory=dict)

    def p_values(self) -> dict[str, float]:
        """By scalar, the exact p-value of its ranks' uniformity by simultaneous ECDF bands."""
        return {label: rank_p_value(ranks, self.num_draws + 1) for label, ranks in scalars(self.ranks, 1).items()}

    def passes(self, level: float = 0.01) -> bool:
        """Whether no scalar is rejected by Holm's procedure: of right methods a share of at most `level` fails."""
        if not 0 < level < 1:
            raise ValueError(f"level: a probability strictly between 0 and 1 is wanted, got {level!r}")
        return bool(self.table()["adjusted"].min() > level)

    def table(self) -> "pandas.DataFrame":
        """A row for each scalar, the worst first.

        Columns: `p_value`; `adjusted`, by Holm over all rows; `mean_rank`, 1/2 if right, above it if the method's draws
        are too low; `spread`, the sd of ranks over that of uniform ones: above 1 if the method's posteriors are too
        narrow, below if too wide; and `relative_ess` for Markov chains.
        """
        import pandas as pd

        ranks = scalars(self.ranks, 1)
        p_values = self.p_values()
        # Ranks are 0 ... L: mean L / 2, variance ((L + 1)^2 - 1) / 12.
        uniform = np.sqrt(self.num_draws * (self.num_draws + 2) / 12)
        table = pd.DataFrame(
            {
                "p_value": p_values,
                "adjusted": dict(zip(p_values, holm(np.array(list(p_values.values()))), strict=True)),
                "mean_rank": {label: float(rank.mean()) / self.num_draws for label, rank in ranks.items()},
                "spread": {
                    label: float(np.sqrt(((rank - self.num_draws / 2) ** 2).mean())) / uniform
                    for label, rank in ranks.items()
                },
            }
        )
        if self.relative_ess is not None:
            table["relative_ess"] = {label: float(share) for label, share in scalars(self.relative_ess, 0).items()}
        table.index.name = "quantity"
        return table.sort_values("p_value", kind="stable")

    def plot(self, level: float = 0.01) -> "matplotlib.figure.Figure":
        """ECDFs of ranks less the uniform one, of the dozen scalars of the smallest p-values, with the common band.

        **Arguments:** `level`: the chance that any scalar (shown or not) of a right method leaves the band.
        """
        from ppl.plots import rank_ecdfs

        ranks = scalars(self.ranks, 1)
        shown = {label: ranks[label] for label in list(self.table().index)[:_SHOWN]}
        figure = rank_ecdfs(shown, self.num_draws + 1, level=level / len(ranks))
        of = "" if len(shown) == len(ranks) else f" ({len(shown)} of {len(ranks)} shown)"
        figure.axes[0].set_title(
            f"{self.method}: all inside with chance {1 - level:.3g} if calibrated{of}", fontsize=10
        )
        return figure


@InOrder
def ranked(
    keys: Key[Array, " b"],
    program: Program,
    data: Values,
    truths: Values,
    draws: Mapping[str, Shaped[Array | np.ndarray, "b chains draws ..."]],
    is_chain: bool,
) -> tuple[dict[str, Int[Array, "b ..."]], dict[str, Float[Array, "b ..."]], dict[str, Bool[Array, " b"]]]:
    """Ranks of truths among draws, those of chains' bulk ESS over their number, and whether any is NaN, by name."""

    def log_likelihood(program: Program, values: Values) -> Float[Array, ""]:
        terms = program.log_likelihood(values).values()
        return sum((jnp.sum(term) for term in terms), start=jnp.zeros(()))

    def one(key: Key[Array, ""], data: Values, truth: Values, draws: Values) -> Any:
        given = with_data(program, data)
        pointwise = jax.vmap(jax.vmap(lambda values: log_likelihood(given, values)))(dict(draws))
        draws = {**draws, LOG_LIKELIHOOD: pointwise}
        truth = {**truth, LOG_LIKELIHOOD: log_likelihood(given, truth)}
        ranks, shares, bad = {}, {}, {}
        for name, key_ties in zip(draws, jax.random.split(key, len(draws)), strict=True):
            value, among = jnp.asarray(truth[name]), jnp.asarray(draws[name])
            below, ties = jnp.sum(among < value, axis=(0, 1)), jnp.sum(among == value, axis=(0, 1))
            ranks[name] = below + jax.random.randint(key_ties, below.shape, 0, ties + 1)
            if is_chain:
                flat = among.reshape(*among.shape[:2], -1)
                size = jax.vmap(diagnostics.ess_bulk, in_axes=2)(flat)
                shares[name] = (size / flat[..., 0].size).reshape(value.shape)
            bad[name] = jnp.any(jnp.isnan(among)) | jnp.any(jnp.isnan(value))
        return ranks, shares, bad

    return jax.vmap(one)(keys, data, truths, jax.tree.map(jnp.asarray, dict(draws)))


def mean_share(shares: Float[np.ndarray, "simulations ..."]) -> Float[np.ndarray, "..."]:
    """The mean over simulations; chains that never moved have no ESS (NaN), which is none."""
    return np.asarray(np.nan_to_num(shares, nan=0.0).mean(axis=0))


def with_data(program: Program, data: Values) -> Program:
    """The program of a conditioned model (its first argument the data), of other data."""
    return eqx.tree_at(lambda program: program.args[0], program, dict(data))
