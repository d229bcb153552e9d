import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from ppl.risk.log_beta import log_beta_binomial, log_beta_ratio, log_failure, log_saturated

SIZE = 4_000
TRIALS = [1, 10, 100, 10_000, 1_000_000]
COUNTS = {
    "uniform": lambda rng, n: np.floor(rng.uniform(0, n + 1, SIZE)),
    "log-uniform": lambda rng, n: np.minimum(np.floor(np.exp(rng.uniform(-1, np.log(n + 1), SIZE))), n),
    "all fail": lambda rng, n: np.zeros(SIZE),
    "all succeed": lambda rng, n: np.full(SIZE, float(n)),
    "one fails": lambda rng, n: np.full(SIZE, n - 1.0),
}


def single(*values):
    """float32, and the same numbers in float64: what float32 cannot hold is no error of the function."""
    held = [np.asarray(value, np.float32) for value in values]
    return [jnp.asarray(value) for value in held], [value.astype(np.float64) for value in held]


def parameters(rng):
    return np.exp(rng.uniform(np.log(1e-3), np.log(20), SIZE)), np.exp(rng.uniform(np.log(7e-3), np.log(2e4), SIZE))


def saturated(s, f):
    n = np.maximum(s + f, 1)
    return special.xlogy(s, s / n) + special.xlogy(f, f / n)


def ratio(a, b, s, f):
    """The definition in float64, whose terms of up to 10^7 leave it right to 1e-8."""
    return special.betaln(a + s, b + f) - special.betaln(a, b)


@pytest.mark.parametrize("kind", COUNTS)
@pytest.mark.parametrize("num", TRIALS)
def test_values_are_those_of_float64(num, kind):
    rng = np.random.default_rng(num)
    s = COUNTS[kind](rng, num)
    inputs, exact = single(*parameters(rng), s, num - s)
    want = ratio(*exact)
    # Relative to the whole, as the issue asks; the part that a posterior needs is small and held to 1e-4 of itself.
    np.testing.assert_allclose(log_beta_ratio(*inputs), want, rtol=1e-6, atol=1e-4)
    part = want - saturated(*exact[2:])
    got = np.asarray(log_beta_binomial(*inputs))
    np.testing.assert_allclose(got, part, rtol=1e-6, atol=1e-4)
    assert got.max() <= 1e-5  # never above the best that any probability does
    np.testing.assert_allclose(log_saturated(*inputs[2:]), saturated(*exact[2:]), rtol=1e-6, atol=1e-6)


def test_small_values_keep_their_relative_precision():
    # One attempt fails with probability b / (a + b): where a is 1e-3 its logarithm is -5e-8 to -0.1.
    rng = np.random.default_rng(0)
    (a, b), (exact_a, exact_b) = single(np.full(SIZE, 1e-3), parameters(rng)[1])
    got = np.asarray(log_failure(a, b, jnp.ones(SIZE, jnp.float32)))
    np.testing.assert_allclose(got, -np.log1p(exact_a / exact_b), rtol=1e-3, atol=3e-6)


@pytest.mark.parametrize("num", [1, 20, 10_000, 1_000_000])
def test_the_chance_of_no_success(num):
    rng = np.random.default_rng(num + 1)
    inputs, (a, b, n) = single(*parameters(rng), np.full(SIZE, num))
    np.testing.assert_allclose(log_failure(*inputs), ratio(a, b, 0, n), rtol=1e-6, atol=1e-4)


def test_no_attempt_says_nothing():
    a, b = (jnp.asarray(value, jnp.float32) for value in parameters(np.random.default_rng(2)))
    zero = jnp.zeros(SIZE)
    for got in (log_beta_ratio(a, b, zero, zero), log_beta_binomial(a, b, zero, zero), log_failure(a, b, zero)):
        assert np.abs(got).max() < 1e-6


@given(
    alpha=st.floats(1e-3, 20), beta=st.floats(7e-3, 2e4), trials=st.integers(0, 10**6), share=st.floats(0, 1)
)  # fmt: skip
def test_any_parameters_and_counts(alpha, beta, trials, share):
    s = round(share * trials)
    inputs, exact = single(alpha, beta, s, trials - s)
    assert float(log_beta_ratio(*inputs)) == pytest.approx(float(ratio(*exact)), rel=1e-6, abs=1e-4)


def test_fractional_counts_and_broadcasting():
    # Fractional counts arise where a budget is searched for.
    inputs, exact = single([[0.3], [7.0]], [[40.0], [0.2]], [0.5, 2.25, 1e3], [2.5, 0.0, 1e5])
    got = log_beta_ratio(*inputs)
    assert got.shape == (2, 3)
    np.testing.assert_allclose(got, ratio(*exact), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("kind", COUNTS)
@pytest.mark.parametrize("num", [10, 10_000, 1_000_000])
def test_gradients_in_the_logarithms_of_the_parameters(num, kind):
    rng = np.random.default_rng(num + 2)
    s = COUNTS[kind](rng, num)
    (x, y, successes, failures), (x64, y64, s, f) = single(*map(np.log, parameters(rng)), s, num - s)

    def density(x, y, s, f):
        return log_beta_binomial(jnp.exp(x), jnp.exp(y), s, f)

    got = np.stack(jax.jit(jax.vmap(jax.grad(density, (0, 1))))(x, y, successes, failures))
    a, b = np.exp(x64), np.exp(y64)
    common = special.digamma(a + b) - special.digamma(a + b + s + f)
    want = np.stack([
        a * (special.digamma(a + s) - special.digamma(a) + common),
        b * (special.digamma(b + f) - special.digamma(b) + common),
    ])  # fmt: skip
    assert np.isfinite(got).all()
    # Terms of up to a + b = 2e4 cancel: float32 leaves 6e-8 of them. A sampler needs no more than a hundredth.
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=5e-3)
