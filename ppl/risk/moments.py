r"""A beta law of success probabilities from published moments, pass^1 and pass^2, where counts are not to be had.

pass^k is $E[p^k]$ over problems, the k-th moment of their success probabilities. Two moments fix a beta law, which
then says what pass^3, pass^4 and pass@k are; whether more moments can belong to any law at all is checked exactly.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int, Shaped
from scipy import special

Moments = float | Shaped[np.ndarray | Array, "..."]


class BetaMoments(NamedTuple):
    """A beta law: `alpha`, `beta`, and `rho`, the correlation of two attempts at one problem; floats or arrays."""

    alpha: float | Float[np.ndarray, "..."]
    beta: float | Float[np.ndarray, "..."]
    rho: float | Float[np.ndarray, "..."]

    def pass_hat(self, k: int | Int[np.ndarray, "..."]) -> Any:
        r"""$E[p^k] = B(\alpha + k, \beta) / B(\alpha, \beta)$."""
        return np.exp(special.betaln(self.alpha + np.asarray(k), self.beta) - special.betaln(self.alpha, self.beta))

    def pass_at(self, k: int | Int[np.ndarray, "..."]) -> Any:
        r"""$1 - E[(1 - p)^k]$."""
        return -np.expm1(special.betaln(self.alpha, self.beta + np.asarray(k)) - special.betaln(self.alpha, self.beta))


def beta_from_moments(pass_1: Moments, pass_2: Moments) -> BetaMoments:
    r"""The beta law with $E[p] = $ pass^1 and $E[p^2] = $ pass^2.

    $\rho = (m_2/m_1 - m_1)/(1 - m_1)$, $\alpha = m_1 (1/\rho - 1)$, $\beta = (1 - m_1)(1/\rho - 1)$. For pass^k
    estimated without bias from n attempts these are method-of-moments estimates, also at n = 2.

    **Arguments:** `pass_1`, `pass_2`: shares (not per cent) with $m_1^2 < m_2 < m_1$; one or an array of each.

    **Raises:** `ValueError` naming the row where no beta law has these moments: $m_2 \le m_1^2$ is no spread or less
    than none, $m_2 \ge m_1$ is all or nothing or more.
    """
    m1, m2 = np.broadcast_arrays(np.asarray(pass_1, dtype=np.float64), np.asarray(pass_2, dtype=np.float64))
    bad = ~((0 < m1) & (m1 < 1) & (m1**2 < m2) & (m2 < m1))
    if np.any(bad):
        at = tuple(np.argwhere(bad)[0])
        where = f" in row {at[0]}" if at else ""
        raise ValueError(
            f"pass_2: strictly between pass_1 squared and pass_1 is wanted, got {m2[at]:g} for pass_1 = {m1[at]:g}"
            + where
        )
    rho = (m2 / m1 - m1) / (1 - m1)
    size = 1 / rho - 1
    return BetaMoments((m1 * size)[()], ((1 - m1) * size)[()], rho[()])


def moment_gap(moments: Shaped[np.ndarray | Array, "..."]) -> Any:
    r"""How far $m_1, \dots, m_K$ are from being moments of a law on [0, 1]: 0 or more if and only if they are.

    The least eigenvalue of the two Hankel matrices of the truncated Hausdorff problem. For even $K = 2m$ they are
    $(m_{i+j})_{i,j \le m}$ and $(m_{i+j+1} - m_{i+j+2})_{i,j < m}$, for odd $K = 2m + 1$ they are $(m_{i+j+1})$ and
    $(m_{i+j} - m_{i+j+1})$ with $i, j \le m$, where $m_0 = 1$.

    **Arguments:** `moments`: along the last axis, from the first on; leading axes are separate cases.

    **Returns:** a float, or an array [rows].

    **Raises:** `ValueError` if there is none, or one is not finite.

    **Source:** Karlin & Shapley (1953), Geometry of moment spaces; Shohat & Tamarkin (1943), chapter 3.
    """
    values = np.asarray(moments, dtype=np.float64)
    if values.ndim == 0 or values.shape[-1] == 0 or not np.all(np.isfinite(values)):
        raise ValueError(f"moments: finite numbers m_1, m_2, ... along the last axis are wanted, got {moments!r}")
    m = np.concatenate([np.ones((*values.shape[:-1], 1)), values], axis=-1)
    order = values.shape[-1]
    half = order // 2
    if order % 2:
        i = np.add.outer(np.arange(half + 1), np.arange(half + 1))
        matrices = (m[..., i + 1], m[..., i] - m[..., i + 1])
    else:
        i, j = (np.add.outer(np.arange(size), np.arange(size)) for size in (half + 1, half))
        matrices = (m[..., i], m[..., j + 1] - m[..., j + 2])
    return np.minimum(*(np.linalg.eigvalsh(matrix)[..., 0] for matrix in matrices))[()]


def are_moments(moments: Shaped[np.ndarray | Array, "..."], *, rounding: float = 0.0) -> Any:
    r"""Whether these can be pass^1, ..., pass^K of any set of problems, each number known up to `rounding`.

    A bool, or an array [rows], for `moments` as of `moment_gap`.

    Rounding by at most r moves no eigenvalue of `moment_gap` by more than $2 r (K/2 + 1)$, so that a set refused is
    refused for certain. Unbiased pass^k of one data set always pass; numbers from different runs, or a k-th power
    taken for pass^k of one problem set, may not.

    **Raises:** `ValueError` as `moment_gap`, or for a negative `rounding`.
    """
    if rounding < 0:
        raise ValueError(f"rounding: at least 0 is wanted, got {rounding}")
    order = np.shape(moments)[-1] if np.ndim(moments) else 0
    slack = 2 * rounding * (order // 2 + 1) + 1e-12
    return (moment_gap(moments) >= -slack)[()]
