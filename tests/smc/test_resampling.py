import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppl.smc import killing, multinomial, residual, ssp, stratified, systematic
from ppl.smc.counting import cumulative, fraction_bits, masses, uniform_below
from ppl.smc.weights import normalised

SCHEMES = {f.__name__: f for f in (systematic, stratified, residual, multinomial, killing, ssp)}
# Asymmetric, with a dead particle first, a dead one inside, and one of more than one offspring.
LOG_WEIGHTS = jnp.array([-jnp.inf, 0.1, -1.2, 1.9, -jnp.inf, 0.4, -3.0], jnp.float32)
WEIGHTS = np.asarray(normalised(LOG_WEIGHTS), np.float64)
KEYS = 10_000

pytestmark = pytest.mark.strict_promotion


# Compiled without optimisation: that is what most of the time would go to.
FAST = {"xla_backend_optimization_level": 0}


@functools.cache
def counts(name, num):
    """Offspring counts `[keys, n]` of independent draws; several tests look at one set."""
    return counts_of(SCHEMES[name], num, LOG_WEIGHTS, KEYS)


def counts_of(scheme, num, log_weights, num_keys):
    n = log_weights.shape[0]
    draw = jax.jit(jax.vmap(lambda key: jnp.bincount(scheme(key, log_weights, num), length=n)), compiler_options=FAST)
    return np.asarray(draw(jax.random.split(jax.random.key(0), num_keys)), np.float64)


@pytest.mark.parametrize("num", [3, 7])
@pytest.mark.parametrize("name", SCHEMES)
def test_counts_are_unbiased(name, num):
    drawn = counts(name, num)
    assert np.all(drawn.sum(axis=1) == num)
    assert np.all(drawn[:, WEIGHTS == 0] == 0)
    # 5 standard errors in each of 12 x 5 comparisons: chance of a false alarm 4e-5 in all. A count that never varies
    # has to be right to float32.
    error = np.maximum(drawn.std(axis=0) / np.sqrt(KEYS), 1e-6)
    assert np.max(np.abs(drawn.mean(axis=0) - num * WEIGHTS) / error) < 5


@pytest.mark.parametrize("name", ["systematic", "stratified", "residual", "ssp"])
def test_variance_is_no_larger_than_multinomial(name):
    num = 7
    variance = counts(name, num).var(axis=0)
    limit = num * WEIGHTS * (1 - WEIGHTS)
    # The variance of 10,000 counts is known to 1.4% (one standard error, counts are no heavier-tailed than normal).
    assert np.all(variance <= limit * 1.07)
    assert variance.sum() < 0.8 * limit.sum()


@pytest.mark.parametrize("name", ["systematic", "ssp"])
def test_counts_are_floor_or_ceiling(name):
    drawn = counts(name, 7)
    expected = 7 * WEIGHTS
    assert np.all((drawn >= np.floor(expected)) & (drawn <= np.ceil(expected)))


def test_residual_keeps_whole_copies():
    assert np.all(counts("residual", 7) >= np.floor(7 * WEIGHTS))


def test_survivors_of_killing_stay_in_their_slots():
    draw = jax.jit(jax.vmap(lambda key: killing(key, LOG_WEIGHTS, 7)), compiler_options=FAST)
    drawn = draw(jax.random.split(jax.random.key(1), 2000))
    heaviest = int(np.argmax(WEIGHTS))
    assert np.all(np.asarray(drawn)[:, heaviest] == heaviest)


def test_ssp_counts_are_negatively_associated():
    # Fractions .3 .5 .6 .2 .4: no covariance of two counts may be positive (4 standard errors, 10 pairs: 3e-4).
    fractions = jnp.array([0.3, 0.5, 0.6, 0.2, 0.4])
    drawn = counts_of(ssp, 2, jnp.log(fractions), KEYS)
    centred = drawn - drawn.mean(axis=0)
    for i in range(5):
        for j in range(i):
            products = centred[:, i] * centred[:, j]
            assert products.mean() < 4 * products.std() / np.sqrt(KEYS)


@pytest.mark.parametrize("name", SCHEMES)
def test_equal_weights_move_nothing_when_there_is_nothing_to_draw(name):
    drawn = counts_of(SCHEMES[name], 5, jnp.zeros(5), 50)
    if name != "multinomial" and name != "stratified":
        assert np.all(drawn == 1)
    assert np.all(drawn.sum(axis=1) == 5)


# Few shapes, each compiled once and without optimisation: what varies is the weights.
_drawn = {
    name: jax.jit(f, static_argnums=2, compiler_options={"xla_backend_optimization_level": 0})
    for name, f in SCHEMES.items()
}
_log_weight = st.one_of(st.just(-np.inf), st.floats(-30, 30, width=32))


@given(data=st.data(), size=st.sampled_from([(1, 1), (1, 4), (6, 6), (5, 8)]), seed=st.integers(0, 2**32 - 1))
@pytest.mark.parametrize("name", SCHEMES)
def test_any_weights(name, data, size, seed):
    n, num = size
    log_weights = np.array(data.draw(st.lists(_log_weight, min_size=n, max_size=n)), np.float32)
    ancestors = np.asarray(_drawn[name](jax.random.key(seed), log_weights, num))
    assert ancestors.shape == (num,)
    assert ancestors.dtype == np.int32
    assert np.all((ancestors >= 0) & (ancestors < n))
    if np.any(log_weights > -np.inf):
        assert np.all(log_weights[ancestors] > -np.inf)


def test_all_dead_counts_as_equal_weights():
    drawn = counts_of(systematic, 4, jnp.full(4, -jnp.inf), 10)
    assert np.all(drawn == 1)


@pytest.mark.parametrize("name", ["systematic", "stratified", "ssp"])
def test_a_million_particles_in_float32(name):
    num = 1_000_000
    log_weights = jax.random.normal(jax.random.key(4), (num,), jnp.float32)
    exact = np.exp(np.asarray(log_weights, np.float64))
    exact *= num / exact.sum()
    ancestors = np.asarray(
        jax.jit(SCHEMES[name], static_argnums=2, compiler_options=FAST)(jax.random.key(5), log_weights, num)
    )
    drawn = np.bincount(ancestors, minlength=num)
    # Stratified counts may be off by less than 2. float32 weights are off by a few 1e-7 of themselves, and the integer
    # masses by one unit, 2^-12: a count outside by more is an error of the scheme.
    slack = 2.0 if name == "stratified" else 1.0
    assert np.max(np.abs(drawn - exact) - 1e-6 * exact) < slack + 2.0**-11
    # Offspring of the first k particles, for any k, number k's share of the weight to within one (two for SSP's tree:
    # one for each level at most) plus what float32 lost of the total.
    if name != "ssp":
        assert np.max(np.abs(np.cumsum(drawn) - np.cumsum(exact))) < 1 + 0.5


def test_masses_are_exact_in_sum_and_unbiased():
    num, bits = 1000, fraction_bits(1000)
    log_weights = jax.random.normal(jax.random.key(1), (700,), jnp.float32) * 3
    draw = jax.jit(jax.vmap(lambda key: masses(key, log_weights, num)), compiler_options=FAST)
    drawn = draw(jax.random.split(jax.random.key(2), 2000))
    drawn = np.asarray(drawn, np.float64)
    assert np.all(drawn.sum(axis=1) == num * 2.0**bits)
    scaled = np.exp(np.asarray(log_weights, np.float64))
    scaled *= num * 2.0**bits / scaled.sum()
    light = scaled < 1  # of these a mean over draws shows whether rounding is fair
    assert light.sum() == 0 or np.all(drawn[:, light] <= 1)
    # Units are 2^-22 of a particle: what float32 weights are off by is the larger error from 2^24 units on.
    others = np.arange(700) != np.argmax(scaled)
    assert np.max((np.abs(drawn - scaled) - 1e-6 * scaled)[:, others]) < 1


def test_rounding_of_masses_is_fair():
    # 4 million particles leave 9 bits: nearly all mass sits on the last, and the others get .2 of a unit each.
    n, num = 50, 2**22
    log_weights = jnp.full(n, jnp.log(0.2 / (num * 2.0 ** fraction_bits(num))), jnp.float32).at[-1].set(0.0)
    draw = jax.jit(jax.vmap(lambda key: masses(key, log_weights, num)), compiler_options=FAST)
    drawn = draw(jax.random.split(jax.random.key(3), 4000))
    mean = np.asarray(drawn, np.float64)[:, :-1].mean(axis=0)
    # Standard error sqrt(.2 * .8 / 4000) = .0063; 5 of them in 49 comparisons: false alarm 3e-5.
    assert np.max(np.abs(mean - 0.2)) < 0.032


@pytest.mark.parametrize("n", [1, 5, 64, 65, 1000, 4097])
def test_cumulative_sum_of_integers(n):
    x = jax.random.bits(jax.random.key(n), (n,), jnp.uint32)
    np.testing.assert_array_equal(cumulative(x), np.cumsum(np.asarray(x), dtype=np.uint32))


def test_integers_of_a_large_range_are_uniform():
    """Ten equal parts of [0, 3 * 2**30), where a remainder of 32 bits would favour the first third by a half."""
    bound = 3 * 2**30
    drawn = np.asarray(uniform_below(jax.random.key(0), jnp.uint32(bound), (100_000,)))
    assert drawn.max() < bound
    shares = np.histogram(drawn, bins=10, range=(0, bound))[0] / 100_000
    # Standard error .00095 each; 5 of them in 10 comparisons: false alarm 6e-6.
    assert np.max(np.abs(shares - 0.1)) < 0.005
    # The same in Python's integers.
    bits = np.asarray(jax.random.bits(jax.random.key(3), (200,), jnp.uint32)).tolist()
    for bound in (1, 2, 65535, 65536, 65537, 3 * 2**30, 2**32 - 1):
        drawn = uniform_below(jax.random.key(3), jnp.uint32(bound), (200,))
        assert np.asarray(drawn).tolist() == [b * bound >> 32 for b in bits]


@pytest.mark.parametrize("num", [0, 2**28])
def test_numbers_out_of_range_are_named(num):
    with pytest.raises(ValueError, match=f"num: .*got {num}"):
        systematic(jax.random.key(0), jnp.zeros(3), num)
