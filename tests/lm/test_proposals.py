import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from ppl.lm.proposals import Proposal, check_proposal, inverse_cdf, log_density

ROWS, VOCAB = 4, 40
density = jax.jit(log_density)


def laws(seed, vocab=VOCAB):
    logits = 3 * np.random.default_rng(seed).normal(size=(ROWS, vocab))
    return jax.nn.log_softmax(jnp.asarray(logits, jnp.float32))


def by_sorting(log_probs, temperature, top_k, top_p, min_p):
    """The same law by sorting, one row at a time, in float64."""
    out = []
    for row in np.asarray(log_probs, np.float64):
        p = np.exp(row / temperature - np.max(row / temperature))
        p /= p.sum()
        order = np.argsort(-p)
        if top_k is not None:
            p[order[top_k:]] = 0
            p /= p.sum()
        if top_p is not None:
            held = np.cumsum(p[order])
            p[order[np.searchsorted(held, top_p - 1e-7) + 1 :]] = 0
            p /= p.sum()
        if min_p is not None:
            p[p < min_p * p.max()] = 0
            p /= p.sum()
        out.append(p)
    return np.array(out)


@settings(max_examples=40)
@given(
    st.integers(0, 2**20), st.floats(0.2, 3), st.none() | st.integers(1, 50), st.none() | st.floats(0.05, 0.999),
    st.none() | st.floats(0.001, 1.0),
)  # fmt: skip
def test_the_law_is_what_sorting_gives(seed, temperature, top_k, top_p, min_p):
    log_probs = laws(seed)
    ours = np.exp(density(check_proposal(temperature, top_k, top_p, min_p), log_probs))
    expected = by_sorting(log_probs, np.float32(temperature), top_k, top_p, min_p)
    near = np.zeros(ROWS, bool)  # a float32 sum within rounding of the threshold may fall on either side
    if top_p is not None:
        near = abs((ours > 0).sum(axis=1) - (expected > 0).sum(axis=1)) == 1
    assert np.abs(ours - expected)[~near].max(initial=0) < 1e-5
    assert near.sum() <= 1
    assert np.abs(ours.sum(axis=1) - 1).max() < 1e-5


def test_the_parts_by_hand():
    law = jnp.log(jnp.array([[0.5, 0.25, 0.125, 0.125]]))
    cut = lambda **parts: np.exp(density(Proposal(**parts), law))[0].round(6).tolist()  # noqa: E731
    assert cut() == [0.5, 0.25, 0.125, 0.125]
    assert cut(temperature=0.0) == [1, 0, 0, 0]
    assert cut(top_k=1) == [1, 0, 0, 0]
    assert cut(top_k=3) == [0.5, 0.25, 0.125, 0.125]  # the third and the fourth are equal: both stay
    assert cut(top_p=0.5) == [1, 0, 0, 0]
    assert cut(top_p=0.6) == pytest.approx([2 / 3, 1 / 3, 0, 0], abs=1e-5)
    assert cut(min_p=0.3) == pytest.approx([2 / 3, 1 / 3, 0, 0], abs=1e-5)
    assert cut(temperature=0.5) == pytest.approx([16 / 22, 4 / 22, 1 / 22, 1 / 22], abs=1e-5)
    assert cut(top_k=9) == [0.5, 0.25, 0.125, 0.125]


def test_rows_have_temperatures_of_their_own_and_constraints_come_first():
    log_probs = laws(1)
    heat = jnp.array([0.0, 0.5, 1.0, 2.0])
    together = density(Proposal(heat), log_probs)
    for i in range(ROWS):
        alone = density(Proposal(heat[i]), log_probs)[i]
        assert jnp.abs(jnp.exp(together[i]) - jnp.exp(alone)).max() < 1e-6
    allowed = jnp.arange(VOCAB) % 3 == jnp.arange(ROWS)[:, None] % 3
    law = density(Proposal(1.0, top_k=2), log_probs, allowed)
    assert (jnp.isfinite(law).sum(axis=1) == 2).all()
    assert not jnp.isfinite(jnp.where(allowed, -jnp.inf, law)).any()


@pytest.mark.parametrize("vocab", [7, 3000])
def test_a_uniform_falls_where_the_running_sum_says(vocab):
    log_probs = laws(2, vocab).at[:, : vocab // 3].set(-jnp.inf).at[1, 4:].set(-jnp.inf).at[1, 3].set(0.0)
    draw = jax.jit(inverse_cdf)
    probs = np.exp(np.asarray(log_probs, np.float64))
    probs /= probs.sum(axis=1, keepdims=True)
    for uniform in (0.0, 0.1, 0.5, 0.9, np.nextafter(np.float32(1), np.float32(0))):
        tokens = np.asarray(draw(jnp.full(ROWS, uniform, jnp.float32), log_probs))
        at = probs[np.arange(ROWS), tokens]
        assert (at > 0).all()
        upper = np.array([probs[i, : t + 1].sum() for i, t in enumerate(tokens)])
        assert (upper > uniform - 1e-5).all()
        assert (upper - at <= uniform + 1e-5).all()
    rows = jnp.broadcast_to(log_probs[:1], (20_000, vocab))
    tokens = np.asarray(draw(jax.random.uniform(jax.random.key(0), (20_000,)), rows))
    cells = np.digitize(np.cumsum(probs[0]), np.linspace(0, 1, 21)[1:-1])  # about 20 cells of like mass
    seen = np.bincount(cells[tokens], minlength=cells.max() + 1)
    mass = np.bincount(cells, probs[0])
    used = mass > 1e-4
    # One test of two, at one in a thousand.
    assert chisquare(seen[used], 20_000 * mass[used] / mass[used].sum()).pvalue > 1e-3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-0.5, None, None, None), "temperature must be finite and at least 0, got -0.5"),
        ((1.0, 0, None, None), "top_k must be a whole number of at least 1, or None, got 0"),
        ((1.0, None, 1.5, None), r"top_p must be in \(0, 1\], or None, got 1.5"),
        ((1.0, None, None, 0), r"min_p must be in \(0, 1\], or None, got 0"),
    ],
)
def test_numbers_out_of_range_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        check_proposal(*arguments)
