r"""How many documents, examples and steps? The computation allocation model of long-context RAG, with its uncertainty.

A run with $k$ documents, $m$ in-context examples (shots, each with $k$ documents of its own) and $n$ steps of retrieval
and generation scores

$$\sigma^{-1}(P) = a_1 \ln k + a_2 \ln m + a_3 \ln n + b_1 i_{doc} \ln k + b_2 i_{shot} \ln m + c + \text{noise},$$

where $i_{doc}$ and $i_{shot}$ say how much the first document and the first example help on this task:
$i_{doc} = P(1, 0, 1) - P(0, 0, 1)$ and $i_{shot} = P(0, 1, 1) - P(0, 0, 1)$. Numbers are shifted by 0.01 before the
logarithm, since 0 documents are allowed.

**Source:** Yue et al. (2024), "Inference scaling for long-context retrieval augmented generation", arXiv 2410.04343,
Eq. 2, appendices F and H. They fit by least squares, on scores standardised within each task, with a sigmoid fitted by
hand (`GEMINI_SIGMOID`). Here the fit is the same least squares read as a posterior, which adds the intervals: with
noise normal and equal on the link's scale, and runs independent, they are exact. Runs on the same questions are not
independent, so they are then too narrow about a new set of questions.
"""

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, Shaped
from matplotlib.figure import Figure
from scipy import special

from ppl.intervals import Interval, check_level
from ppl.keys import as_key
from ppl.plots import new_figure
from ppl.risk.draws import log_gamma_variates
from ppl.risk.results import DrawsResult, Estimate

SHIFT = 0.01  # added to documents, shots and steps before the logarithm, as published
COEFFICIENTS = ("a_documents", "a_shots", "a_steps", "b_documents", "b_shots", "c")
# Gemini 1.5 Flash on four multi-hop QA sets, appendix F, table 8; on standardised scores, under `GEMINI_SIGMOID`.
GEMINI_FLASH = dict(zip(COEFFICIENTS, (0.325, 0.101, 0.177, -0.067, -0.008, -0.730), strict=True))


@dataclasses.dataclass(frozen=True)
class Sigmoid:
    r"""The link $P = \mathrm{floor} + \mathrm{height} / (1 + e^{-\mathrm{slope} (x - \mathrm{centre})})$.

    The default is the logistic function, for scores in (0, 1).
    """

    height: float = 1.0
    slope: float = 1.0
    centre: float = 0.0
    floor: float = 0.0

    def __call__(self, x: float | Float[np.ndarray, "..."]) -> float | Float[np.ndarray, "..."]:
        """Score from the linear scale."""
        return self.floor + self.height * special.expit(self.slope * (np.asarray(x) - self.centre))

    def inverse(self, score: float | Float[np.ndarray, "..."]) -> float | Float[np.ndarray, "..."]:
        """The linear scale from a score strictly between floor and floor + height."""
        return self.centre + special.logit((score - self.floor) / self.height) / self.slope

    def log_slope(self, score: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """Logarithm of the derivative of `inverse`: what turns a density on the linear scale into one of scores."""
        share = (score - self.floor) / self.height
        return -np.log(share) - np.log1p(-share) - math.log(self.height * self.slope)


LOGISTIC = Sigmoid()
GEMINI_SIGMOID = Sigmoid(height=3.30, slope=1.81, centre=-0.46, floor=-2.18)


@dataclasses.dataclass(frozen=True, eq=False)
class Design:
    """Configurations: `documents`, `shots`, `steps` [runs], and the task's `i_doc`, `i_shot` (numbers or [runs]).

    **Raises:** `ValueError` naming the column for lengths that differ, or values that are negative or not finite.
    """

    documents: Shaped[np.ndarray | Array, " runs"]
    shots: Shaped[np.ndarray | Array, " runs"]
    steps: Shaped[np.ndarray | Array, " runs"]
    i_doc: float | Shaped[np.ndarray | Array, " runs"] = 0.0
    i_shot: float | Shaped[np.ndarray | Array, " runs"] = 0.0

    def __post_init__(self):
        for name in ("documents", "shots", "steps"):
            values = np.asarray(getattr(self, name), dtype=np.float64)
            if values.shape != np.shape(self.documents) or not np.all(np.isfinite(values) & (values >= 0)):
                raise ValueError(f"{name}: one number from 0 up for each of {len(self.documents)} runs is wanted")
        for name in ("i_doc", "i_shot"):
            values = np.asarray(getattr(self, name), dtype=np.float64)
            if values.shape not in ((), np.shape(self.documents)) or not np.all(np.isfinite(values)):
                raise ValueError(f"{name}: one finite number, or one for each of {len(self.documents)} runs, is wanted")

    def __len__(self) -> int:
        return len(self.documents)

    def matrix(self) -> Float[np.ndarray, "runs 6"]:
        """Columns in the order of `COEFFICIENTS`."""
        k, m, n = (np.log(np.asarray(x, dtype=np.float64) + SHIFT) for x in (self.documents, self.shots, self.steps))
        return np.stack([k, m, n, np.asarray(self.i_doc) * k, np.asarray(self.i_shot) * m, np.ones_like(k)], axis=1)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class RagLaw(DrawsResult):
    """Posterior draws of the coefficients that the runs identify (names of `COEFFICIENTS`) and of `noise`, on the
    link's scale.

    - `unidentified`: coefficients that the runs say nothing about, by name: their column is constant, or a sum of
      others (all runs at one number of steps; one task, so that `b` cannot be told from `a`). They are left out of the
      fit, and `predict` refuses configurations where they would matter.
    - `r_squared`, `mse`: of the fit, on the link's scale.
    """

    design: Design
    link: Sigmoid
    unidentified: tuple[str, ...]
    r_squared: float
    mse: float

    def predict(self, design: Design, level: float = 0.9) -> Estimate:
        """Expected score of each configuration (the link of the linear part) with its interval, not that of a single
        run.

        **Raises:** `ValueError` naming the coefficient that the runs do not identify and the first configuration that
        depends on it.
        """
        check_level(level)
        scores = np.asarray(self.link(self._linear(design)))
        lower, upper = np.quantile(scores, [(1 - level) / 2, (1 + level) / 2], axis=0)
        return Estimate(scores.mean(axis=0), Interval(lower, upper))

    def extrapolates(self, design: Design) -> Shaped[np.ndarray, " configurations"]:
        """Which configurations lie outside the range of the runs in some column: there the law is a guess.

        The authors' own extrapolation missed the best score by 2.8 points from 128k to 1M tokens and by 5.6 beyond.
        """
        new, seen = design.matrix(), self.design.matrix()
        return np.any((new < seen.min(axis=0) - 1e-9) | (new > seen.max(axis=0) + 1e-9), axis=1)

    def allocate(
        self, design: Design, lengths: Shaped[np.ndarray | Array, " configurations"], budget: float, level: float = 0.9
    ) -> "Allocation":
        """The best affordable configuration: highest expected score among those of at most `budget` tokens.

        **Arguments:** `design`: the grid to choose from. `lengths`: effective context length of each (see
        `effective_context`). **Raises:** as `predict`; `ValueError` if nothing is affordable, naming the shortest.
        """
        check_level(level)
        tokens = np.asarray(lengths, dtype=np.float64)
        affordable = np.flatnonzero(tokens <= budget)
        if not affordable.size:
            raise ValueError(
                f"budget: the shortest configuration takes {tokens.min():.0f} tokens, more than {budget:.0f}"
            )
        scores = np.asarray(self.link(self._linear(design)))[:, affordable]
        chosen = int(np.argmax(scores.mean(axis=0)))
        i = int(affordable[chosen])
        lower, upper = np.quantile(scores[:, chosen], [(1 - level) / 2, (1 + level) / 2])
        return Allocation(
            documents=int(np.asarray(design.documents)[i]),
            shots=int(np.asarray(design.shots)[i]),
            steps=int(np.asarray(design.steps)[i]),
            tokens=float(tokens[i]),
            score=Estimate(float(scores[:, chosen].mean()), Interval(float(lower), float(upper))),
            probability_best=float(np.mean(scores[:, chosen] >= scores.max(axis=1))),
            extrapolates=bool(self.extrapolates(design)[i]),
        )

    def plot_fit(self) -> Figure:
        """Scores of the runs over what the law expects, with the identity."""
        figure, axes = new_figure()
        expected, (lower, upper) = self.predict(self.design)
        score = self.observed["score"]
        axes.axline((float(np.mean(score)), float(np.mean(score))), slope=1, color="0.6", linestyle="--", linewidth=1)
        axes.hlines(score, lower, upper, color="C0", alpha=0.4)
        axes.plot(expected, score, "o", color="C0", markersize=4)
        axes.set(xlabel="expected score, 90% interval", ylabel="score of the run", title=f"R² {self.r_squared:.3f}")
        return figure

    def _linear(self, design: Design) -> Float[np.ndarray, "draws configurations"]:
        kept = [name for name in COEFFICIENTS if name not in self.unidentified]
        here, new = self.design.matrix(), design.matrix()
        columns = [COEFFICIENTS.index(name) for name in kept]
        for name in self.unidentified:
            # The left-out column was a fixed sum of kept ones; where it still is, leaving it out changes nothing.
            j = COEFFICIENTS.index(name)
            weights = np.linalg.lstsq(here[:, columns], here[:, j], rcond=None)[0]
            off = np.abs(new[:, columns] @ weights - new[:, j]) > 1e-6 * (1 + np.abs(new[:, j]))
            if off.any():
                raise ValueError(
                    f"design: configuration {np.flatnonzero(off)[0]} depends on {name}, which the runs do not show"
                )
        return np.stack([self.draws[name] for name in kept], axis=1) @ new[:, columns].T


@dataclasses.dataclass(frozen=True)
class Allocation:
    """The chosen configuration; `probability_best`: posterior probability that no other affordable one is better."""

    documents: int
    shots: int
    steps: int
    tokens: float
    score: Estimate
    probability_best: float
    extrapolates: bool


def fit_rag_law(
    score: Shaped[np.ndarray | Array, " runs"],
    design: Design,
    *,
    link: Sigmoid = LOGISTIC,
    draws: int = 4000,
    key: int | Key[Array, ""] = 0,
) -> RagLaw:
    r"""Fit the law: least squares on the link's scale, read as the posterior under the flat prior on
    $(\beta, \ln \sigma)$.

    $\sigma^2 \sim (n - p) s^2 / \chi^2_{n - p}$ and $\beta \mid \sigma \sim N(\hat\beta, \sigma^2 (X^T X)^{-1})$: its
    intervals are the t intervals of regression, so they cover at their level.

    **Arguments:** `score`: of each run, strictly inside the link's range. `design`: its configuration. `link`: the
    logistic function by default; for scores standardised within tasks a wider one, such as `GEMINI_SIGMOID`.

    **Raises:** `ValueError` naming the run whose score is out of the link's range, or if there are not more runs than
    coefficients that they identify.

    **Source:** Yue et al. (2024), arXiv 2410.04343, Eq. 2; the posterior: Gelman et al., Bayesian Data Analysis, 14.2.
    """
    p = np.asarray(score, dtype=np.float64)
    if len(p) != len(design):
        raise ValueError(f"score: one for each of {len(design)} runs is wanted, got {len(p)}")
    bad = np.flatnonzero(~((p > link.floor) & (p < link.floor + link.height)))
    if bad.size:
        raise ValueError(
            f"score: run {bad[0]} has {p[bad[0]]:g}; numbers inside ({link.floor:g}, {link.floor + link.height:g}) "
            "are wanted, where the link can be inverted"
        )
    x, y = design.matrix(), np.asarray(link.inverse(p))
    kept = _identified(x)
    freedom = len(y) - len(kept)
    if freedom < 1:
        raise ValueError(f"score: more than {len(kept)} runs are wanted for {len(kept)} coefficients, got {len(y)}")
    q, r = np.linalg.qr(x[:, kept])
    beta = np.linalg.solve(r, q.T @ y)
    residual = y - x[:, kept] @ beta
    noise, coefficients = _draw(as_key(key), beta, r, float(residual @ residual), freedom, draws)
    names = [COEFFICIENTS[j] for j in kept]
    fitted = coefficients @ x[:, kept].T
    standardised = (y - fitted) / noise[:, None]
    density = link.log_slope(p) - math.log(2 * math.pi) / 2
    log_likelihood = density - np.log(noise)[:, None] - standardised**2 / 2
    return RagLaw(
        draws={**dict(zip(names, coefficients.T, strict=True)), "noise": noise},
        log_likelihood={"score": log_likelihood},
        observed={"score": p},
        dims={"score": ["run"]},
        attrs={"prior": "flat in the coefficients and in the logarithm of the noise"},
        design=design,
        link=link,
        unidentified=tuple(name for name in COEFFICIENTS if name not in names),
        r_squared=float(1 - residual @ residual / np.sum((y - y.mean()) ** 2)) if np.ptp(y) > 0 else 0.0,
        mse=float(np.mean(residual**2)),
    )


def effective_context(
    design: Design, *, document_tokens: float = 1024, query_tokens: float = 64
) -> Float[np.ndarray, " configurations"]:
    r"""Input tokens of all steps together: $\sum_{s=1}^{n} [m (k d + q) + s k d + q]$.

    Each shot brings $k$ documents of $d$ tokens and its question with answer of $q$; each step adds $k$ documents to
    those of the question. Documents are cut at 1024 tokens in the paper, which says what is counted and not a formula:
    the sum is our reading, and measured lengths are better where there are any.
    """
    k, m, n = (np.asarray(x, dtype=np.float64) for x in (design.documents, design.shots, design.steps))
    documents = k * document_tokens
    return n * (m * (documents + query_tokens) + query_tokens) + documents * n * (n + 1) / 2


def _identified(x: Float[np.ndarray, "runs 6"]) -> list[int]:
    """Columns that are not sums of the others, the constant first, then in order: `a` is kept before `b`."""
    basis: list[np.ndarray] = []
    kept: list[int] = []
    for j in (5, 0, 1, 2, 3, 4):
        rest = x[:, j].copy()
        for _ in range(2):  # twice: once leaves rounding of the order of the column
            for direction in basis:
                rest -= (direction @ rest) * direction
        if np.linalg.norm(rest) > 1e-8 * max(np.linalg.norm(x[:, j]), 1e-300):
            basis.append(rest / np.linalg.norm(rest))
            kept.append(j)
    return sorted(kept)


def _draw(
    key: Key[Array, ""],
    beta: Float[np.ndarray, " p"],
    r: Float[np.ndarray, "p p"],
    rss: float,
    freedom: int,
    draws: int,
) -> tuple[Float[np.ndarray, " draws"], Float[np.ndarray, "draws p"]]:
    chi_squared, standard = (np.asarray(x, dtype=np.float64) for x in _standard(key, float(freedom), draws, len(beta)))
    noise = np.sqrt(rss / chi_squared)
    return noise, beta + noise[:, None] * np.linalg.solve(r, standard.T).T


@partial(jax.jit, static_argnames=("draws", "size"))
def _standard(
    key: Key[Array, ""], freedom: float | Float[Array, ""], draws: int, size: int
) -> tuple[Float[Array, " draws"], Float[Array, "draws size"]]:
    for_noise, for_beta = jax.random.split(key)
    half = jnp.full(draws, freedom / 2, dtype=jnp.float32)
    return 2 * jnp.exp(log_gamma_variates(for_noise, half)), jax.random.normal(for_beta, (draws, size))
