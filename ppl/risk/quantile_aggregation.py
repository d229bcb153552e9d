r"""Several models' quantile forecasts combined into one: weights over models, levels and features, fitted by the WIS.

$\hat q(\tau_l) = \sum_{m} w_{m, l} \, q_m(\tau_l)$, with weights that are positive and sum to 1 (a softmax), so that
the combination stays within what the models say, and is free of crossings where they are and weights are shared by
levels.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PyTree, Shaped
from matplotlib.figure import Figure

from ppl.keys import as_key
from ppl.plots import legend_beside, new_figure
from ppl.risk.bootstrap import problem_weights
from ppl.risk.quantiles import check_draws, checked, cluster_index, isotonic_quantiles, sort_quantiles
from ppl.risk.results import DrawsResult, estimate

Vary = Literal["model", "level", "cross"]
Monotone = Literal["isotonic", "sort"]
Forecasts = Shaped[np.ndarray | Array, "rows models levels"]
_HELD = 2**22  # errors held at once by bootstrap fits that run together: bounds memory
_DECAY = (0.9, 0.95)  # Adam's; a longer second memory keeps the large slopes of the start and stalls small weights


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Aggregation(DrawsResult):
    """Fitted weights, as draws: `weights` [models] or [levels, models], the mean over training rows where local.

    A draw is a fit with Dirichlet weights on the training rows (or clusters), so that the spread says how well the data
    determine the weights. `predict` uses the fit to the rows as they are. `losses` is its training loss by step.
    """

    vary: Vary
    parameters: PyTree[Float[np.ndarray, "..."]]
    levels: Float[np.ndarray, " levels"]
    models: tuple[str, ...]
    scaling: Float[np.ndarray, "2 features"] | None
    losses: Float[np.ndarray, " steps"]

    def weights(self, features: Shaped[np.ndarray | Array, "*features"] | None = None) -> Float[np.ndarray, "..."]:
        """Weights [models], [levels, models] or, for `cross`, [levels, models, levels that it is taken from].

        With features there is an axis of rows before these. **Raises:** `ValueError` if features are due or too many.
        """
        weights = np.asarray(_weights(self.parameters, self._scaled(features)), dtype=np.float64)
        if self.vary == "cross":
            weights = weights.reshape(*weights.shape[:2], len(self.models), len(self.levels))
        weights = weights[:, 0] if self.vary == "model" else weights
        return weights[0] if features is None else weights

    def predict(
        self,
        predicted: Forecasts,
        features: Shaped[np.ndarray | Array, "*features"] | None = None,
        *,
        monotone: Monotone | None = "isotonic",
    ) -> Float[np.ndarray, "rows levels"]:
        """Combined quantiles. `monotone`: how crossings are repaired, or None to keep them.

        **Raises:** `ValueError` naming a shape or row that does not fit, missing features, or an unknown repair.
        """
        q = np.asarray(predicted, dtype=np.float64)
        if q.ndim != 3 or q.shape[1:] != (len(self.models), len(self.levels)) or not np.isfinite(q).all():
            raise ValueError(
                f"predicted: finite numbers [rows, {len(self.models)} models, {len(self.levels)} levels] are wanted, "
                f"got shape {q.shape} with {np.sum(~np.isfinite(q))} not finite"
            )
        if monotone not in (*get_args(Monotone), None):
            raise ValueError(f"monotone: {', '.join(get_args(Monotone))} or None is wanted, got {monotone!r}")
        weights = np.asarray(_weights(self.parameters, self._scaled(features)), dtype=np.float64)
        if len(weights) not in (1, len(q)):
            raise ValueError(f"features: one row for each of {len(q)} forecasts is wanted, got {len(weights)}")
        weights /= weights.sum(axis=2, keepdims=True)  # to 1 in float64, not in float32
        combined = (weights * _laid_out(q, self.vary)).sum(axis=2)
        repair = {"isotonic": isotonic_quantiles, "sort": sort_quantiles, None: np.asarray}[monotone]
        return repair(combined)

    def plot_weights(self, level: float = 0.9) -> Figure:
        """Weight of each model with its interval: a bar, or a line over the levels."""
        figure, axes = new_figure()
        middle, (lower, upper) = estimate(self.draws["weights"], level)
        middle, lower, upper = (np.atleast_2d(values) for values in (middle, lower, upper))
        for number, name in enumerate(self.models):
            ends, colour = (lower[:, number], upper[:, number]), f"C{number}"
            if self.vary == "model":
                axes.hlines(number, *ends, color=colour, alpha=0.5, linewidth=3)
                axes.plot(middle[:, number], [number], "o", color=colour, markersize=5)
            else:
                axes.plot(self.levels, middle[:, number], "o-", color=colour, label=name, markersize=3)
                axes.fill_between(self.levels, *ends, color=colour, alpha=0.18, linewidth=0)
        if self.vary == "model":
            axes.set_yticks(range(len(self.models)), self.models)
            axes.set(xlabel=f"weight, {level:.0%} interval", xlim=(-0.02, 1.02), ylim=(len(self.models) - 0.5, -0.5))
        else:
            axes.set(xlabel="quantile level", ylabel=f"weight, {level:.0%} interval", ylim=(-0.02, 1.02))
            legend_beside(axes)
        return figure

    def plot_loss(self) -> Figure:
        """Training loss by step, 1 being that of equal weights: it should have flattened."""
        figure, axes = new_figure()
        axes.plot(self.losses, color="C0")
        axes.set(xlabel="step", ylabel="loss / loss of equal weights")
        return figure

    def _scaled(self, features: Any) -> Float[np.ndarray, "rows features"] | None:
        if (features is None) != (self.scaling is None):
            raise ValueError(f"features: {'none' if self.scaling is None else 'some'} were given to the fit")
        if features is None or self.scaling is None:
            return None
        values = np.asarray(features, dtype=np.float64)
        if values.ndim != 2 or values.shape[1] != self.scaling.shape[1] or not np.isfinite(values).all():
            raise ValueError(
                f"features: finite numbers [rows, {self.scaling.shape[1]}] are wanted, got shape {values.shape}"
            )
        return ((values - self.scaling[0]) / self.scaling[1]).astype(np.float32)


def fit_aggregation(
    predicted: Forecasts,
    observed: Shaped[np.ndarray | Array, "*observations"],
    levels: Float[np.ndarray | Array, " levels"] | Sequence[float],
    *,
    vary: Vary = "model",
    features: Shaped[np.ndarray | Array, "*features"] | None = None,
    hidden: int = 0,
    crossing: float = 1.0,
    margin: float = 0.0,
    shrinkage: float = 0.0,
    models: Sequence[str] | None = None,
    clusters: Shaped[np.ndarray | Array, "..."] | Sequence[Any] | None = None,
    steps: int = 800,
    learning_rate: float = 0.2,
    draws: int = 64,
    key: int | Key[Array, ""] = 0,
) -> Aggregation:
    r"""Weights that minimise the mean WIS (twice the mean pinball loss) of the combination.

    **Arguments:**

    - `predicted` [rows, models, levels], `observed` [rows], `levels` rising in (0, 1), all finite: leave out the rows
      (or models) with forecasts missing.
    - `vary`: one weight for each `model`; one for each model and `level`; or, `cross`, every level of the combination
      from every level of every model.
    - `features` [rows, features]: weights that depend on them through a linear map, or a layer of `hidden` units
      (tanh), before the softmax. Features are standardised here.
    - `crossing`: penalty on $\sum_l (\hat q_l - \hat q_{l + 1} + \mathrm{margin})_+$, in units of the WIS; `margin` in
      units of the equally weighted combination's mean WIS. `predict` repairs what crosses all the same.
    - `shrinkage`: penalty on the squared distance of the parameters from those of equal weights, averaged over levels,
      in units of the same mean WIS. Flexible weights overfit small data without it.
    - `models`: their names. `clusters`: a label for each row; rows of one label are drawn together.
    - `steps`, `learning_rate`: of Adam, decaying to 0 by a cosine; look at `Aggregation.plot_loss`.
    - `draws`: bootstrap fits. `key`: seed or key of their weights and of the hidden layer.

    **Raises:** `ValueError` naming the argument, row or value that does not fit.

    **Source:** Fakoor, Kim, Mueller, Smola & Tibshirani (2023), JMLR 24, arXiv 2103.00083: weights, penalty and repair;
    Lyddon, Holmes & Walker (2019), Biometrika 106(2), for the loss-likelihood bootstrap.
    """
    q, y, tau = checked(predicted, observed, levels)
    _check_options(q, vary, hidden, features, crossing, margin, shrinkage, steps, learning_rate)
    names = tuple(models) if models is not None else tuple(str(i) for i in range(q.shape[1]))
    if len(names) != q.shape[1]:
        raise ValueError(f"models: one name for each of {q.shape[1]} models is wanted, got {len(names)}")
    scaling = _scaling(features, len(y))
    weight_key, layer_key = jax.random.split(as_key(key))
    index = cluster_index(clusters, len(y))
    check_draws(draws)
    weights = problem_weights(weight_key, int(index.max()) + 1, draws, with_ends=False)[:, index]
    rows = np.concatenate([np.full((1, len(y)), 1 / len(y)), weights / weights.sum(axis=1, keepdims=True)])
    # Weights sum to 1, so the error of the combination is the combination of errors: small numbers, fit for float32.
    error = _laid_out(q - y[:, None, None], vary)
    mean_error = np.mean(q - y[:, None, None], axis=1)
    unit = 2 * np.mean(np.maximum(-tau * mean_error, (1 - tau) * mean_error))
    unit = unit if unit > 0 else 1.0  # equal weights are perfect: nothing to scale
    scaled = (
        None if scaling is None else ((np.asarray(features, np.float64) - scaling[0]) / scaling[1]).astype(np.float32)
    )
    start = _start(error.shape, vary, q.shape[1], scaled, hidden, layer_key)
    fitted, losses = _fit(
        start,
        jnp.asarray(error / unit, jnp.float32),
        jnp.asarray(tau, jnp.float32),
        scaled,
        jnp.asarray(rows, jnp.float32),
        jnp.array([crossing, margin, shrinkage, learning_rate], jnp.float32),
        steps,
        min(len(rows), max(1, _HELD // error.size)),
    )
    return Aggregation(
        draws={"weights": _mean_weights(fitted, scaled, vary, q.shape[1])[1:]},
        dims={"weights": ["model"] if vary == "model" else ["level", "model"]},
        coords={"model": list(names), "level": tau},
        attrs={"method": "loss-likelihood bootstrap", "vary": vary, "crossing": crossing, "shrinkage": shrinkage},
        vary=vary,
        parameters=jax.tree.map(lambda leaf: np.asarray(leaf[0]), fitted),
        levels=tau,
        models=names,
        scaling=scaling,
        losses=np.asarray(losses[0]),
    )


def _laid_out(q: Float[np.ndarray, "rows models levels"], vary: Vary) -> Float[np.ndarray, "rows out terms"]:
    """For each row and output level what is summed with weights: the models, or all models' levels."""
    return q.reshape(len(q), 1, -1) if vary == "cross" else q.transpose(0, 2, 1)


def _start(
    shape: tuple[int, ...], vary: Vary, num_models: int, features: Any, hidden: int, key: Key[Array, ""]
) -> dict[str, Float[Array, "..."]]:
    """Parameters of equal weights over models. For `cross` a level starts with 95% of its weight on itself."""
    num_levels = shape[2] // num_models if vary == "cross" else shape[1]
    own = jnp.tile(np.log(20.0 * num_levels) * jnp.eye(num_levels), (1, num_models))
    bias = {"model": jnp.zeros((1, num_models)), "level": jnp.zeros((num_levels, num_models)), "cross": own}[vary]
    if features is None:
        return {"bias": bias}
    width = features.shape[1]
    if not hidden:
        return {"bias": bias, "out": jnp.zeros((width, *bias.shape))}
    layer = jax.random.normal(key, (width, hidden)) / np.sqrt(width)
    return {"bias": bias, "in": layer, "in_bias": jnp.zeros(hidden), "out": jnp.zeros((hidden, *bias.shape))}


def _weights(parameters: PyTree, features: Shaped[Any, "rows features"] | None) -> Float[Array, "rows out terms"]:
    logits = jnp.asarray(parameters["bias"])[None]
    if features is not None:
        inner = jnp.tanh(features @ parameters["in"] + parameters["in_bias"]) if "in" in parameters else features
        logits = logits + jnp.tensordot(inner, parameters["out"], axes=1)
    return jax.nn.softmax(logits, axis=-1)


def _mean_weights(fitted: PyTree, features: Any, vary: Vary, num_models: int) -> Float[np.ndarray, "fits ..."]:
    weights = np.asarray(jax.lax.map(lambda one: _weights(one, features).mean(axis=0), fitted), dtype=np.float64)
    if vary == "cross":
        return weights.reshape(*weights.shape[:2], num_models, -1).sum(axis=-1)
    return weights[:, 0] if vary == "model" else weights


@partial(jax.jit, static_argnames=("steps", "together"))
def _fit(
    start: PyTree,
    error: Float[Array, "rows out terms"],
    tau: Float[Array, " levels"],
    features: Float[Any, "rows features"] | None,
    row_weights: Float[Array, "fits rows"],
    options: Float[Array, "4"],
    steps: int,
    together: int,
) -> tuple[PyTree, Float[Array, "fits steps"]]:
    """Adam from `start` for each row of weights. Plain steps: the loss has kinks, which line searches stumble over."""
    crossing, margin, shrinkage, rate = options

    def loss(parameters: PyTree, weights: Float[Array, " rows"]) -> Float[Array, ""]:
        w = _weights(parameters, features)
        # Without features one contraction for all rows, which is a matrix product: many times faster.
        e = jnp.einsum("lt,rlt->rl", w[0], error) if features is None else (w * error).sum(axis=2)
        pinball = 2 * jnp.maximum(-tau * e, (1 - tau) * e).mean(axis=1)
        crossed = jax.nn.relu(e[:, :-1] - e[:, 1:] + margin).sum(axis=1)
        distance = sum(jnp.sum((parameters[name] - start[name]) ** 2) for name in start) / start["bias"].shape[0]
        return weights @ (pinball + crossing * crossed) + shrinkage * distance

    def fit_one(weights: Float[Array, " rows"]) -> tuple[PyTree, Float[Array, " steps"]]:
        def step(state: tuple[PyTree, PyTree, PyTree], i: Int[Array, ""]) -> tuple[Any, Float[Array, ""]]:
            parameters, first, second = state
            value, slope = jax.value_and_grad(loss)(parameters, weights)
            first = jax.tree.map(lambda m, g: _DECAY[0] * m + (1 - _DECAY[0]) * g, first, slope)
            second = jax.tree.map(lambda v, g: _DECAY[1] * v + (1 - _DECAY[1]) * g**2, second, slope)
            size = rate * 0.5 * (1 + jnp.cos(jnp.pi * i / steps))
            unbiased = 1 - _DECAY[0] ** (i + 1.0), 1 - _DECAY[1] ** (i + 1.0)
            parameters = jax.tree.map(
                lambda p, m, v: p - size * (m / unbiased[0]) / (jnp.sqrt(v / unbiased[1]) + 1e-8),
                parameters,
                first,
                second,
            )
            return (parameters, first, second), value

        zeros = jax.tree.map(jnp.zeros_like, start)
        (parameters, _, _), losses = jax.lax.scan(step, (start, zeros, zeros), jnp.arange(steps))
        return parameters, losses

    return jax.lax.map(fit_one, row_weights, batch_size=together)


def _scaling(features: Any, num_rows: int) -> Float[np.ndarray, "2 features"] | None:
    if features is None:
        return None
    values = np.asarray(features, dtype=np.float64)
    if values.ndim != 2 or len(values) != num_rows or not np.isfinite(values).all():
        raise ValueError(f"features: finite numbers [{num_rows} rows, features] are wanted, got shape {values.shape}")
    spread = values.std(axis=0)
    if not np.all(spread > 0):
        raise ValueError(f"features: column {np.flatnonzero(~(spread > 0))[0]} is the same in every row")
    return np.stack([values.mean(axis=0), spread])


def _check_options(
    q: np.ndarray,
    vary: str,
    hidden: int,
    features: Any,
    crossing: float,
    margin: float,
    shrinkage: float,
    steps: int,
    learning_rate: float,
) -> None:
    if q.ndim != 3 or not q.shape[1]:
        raise ValueError(f"predicted: [rows, models, levels] with at least one model is wanted, got shape {q.shape}")
    if vary not in get_args(Vary):
        raise ValueError(f"vary: one of {', '.join(get_args(Vary))} is wanted, got {vary!r}")
    if hidden < 0 or (hidden and features is None):
        raise ValueError(f"hidden: a number of units from 0 up, with features, is wanted, got {hidden}")
    for name, value in (("crossing", crossing), ("margin", margin), ("shrinkage", shrinkage)):
        if not 0 <= value < np.inf:
            raise ValueError(f"{name}: a finite number from 0 up is wanted, got {value}")
    if steps < 1 or not 0 < learning_rate < np.inf:
        raise ValueError(f"steps, learning_rate: positive numbers are wanted, got {steps} and {learning_rate}")
