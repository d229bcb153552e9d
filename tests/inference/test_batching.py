"""Chains and particles a few at a time, or over devices: the same draws in less memory."""

import signal
import threading

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from ppl.inference import HMC, IBIS, MEADS, NUTS, SMC2, Importance, PersistentSMC, RandomWalk, TemperedSMC, infer
from ppl.inference.batching import Layout, side_by_side
from ppl.inference.chains import _advance, _warm
from ppl.inference.program import Program
from ppl.inference.work import numbers_an_operation

Y = jnp.linspace(-1.0, 2.0, 8)


def normal(y):
    mu = numpyro.sample("mu", dist.Normal(0, 2))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1))
    with numpyro.plate("n", y.shape[0]):
        numpyro.sample("y", dist.Normal(mu, sigma), obs=y)


@pytest.mark.parametrize(
    "options",
    [
        {"chain_method": "vectorized"},
        {"batch_size": 2},
        {"chain_method": "sequential"},
        {"chain_method": "parallel"},
        {"batch_size": 3},
    ],
    ids=str,
)
def test_chains_are_the_same_however_they_are_run(monkeypatch, options):
    monkeypatch.setattr("ppl.inference.batching._cores", lambda: 2)
    method = RandomWalk(warmup=100)
    whole = infer(normal, Y, method=method, key=1, draws=50, thin=2)
    other = infer(normal, Y, method=method, key=1, draws=50, thin=2, **options)
    np.testing.assert_allclose(other.unconstrained, whole.unconstrained, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(other.stats["acceptance_rate"], whole.stats["acceptance_rate"], atol=1e-3)


def test_data_may_be_on_another_device_or_on_several():
    method = RandomWalk(warmup=20)
    here = infer(normal, Y, method=method, key=1, draws=20)
    there, both = jax.devices()[1], jax.make_mesh((2,), ("n",), (jax.sharding.AxisType.Auto,))
    for placed in (there, jax.NamedSharding(both, jax.P("n"))):
        other = infer(normal, jax.device_put(Y, placed), method=method, key=1, draws=20)
        np.testing.assert_allclose(other.unconstrained, here.unconstrained, rtol=1e-4, atol=1e-5)


def test_groups_are_even_and_no_larger_than_asked(monkeypatch):
    def layout(chains, **options):
        given = {"chain_method": "vectorized", "batch_size": None, "ensemble": False, "uneven": True, "label": "nuts"}
        return Layout.of(chains, **{**given, **options})

    assert jax.device_count() == 2
    assert layout(8) == Layout(1, 8)
    assert layout(8, batch_size=3) == Layout(1, 2)
    assert layout(7, batch_size=3) == Layout(1, 1)
    assert layout(8, chain_method="parallel") == Layout(2, 4)
    assert layout(8, chain_method="parallel", batch_size=2) == Layout(2, 2)
    assert layout(8, chain_method="sequential") == Layout(1, 1)
    monkeypatch.setattr("ppl.inference.batching._cores", lambda: 4)
    assert layout(8, chain_method="auto") == Layout(1, 2, by_work=True, groups=4)
    assert layout(6, chain_method="auto", uneven=False) == Layout(1, 2, groups=3)
    assert layout(7, chain_method="auto", uneven=False) == Layout(1, 7)
    assert layout(8, chain_method="auto", ensemble=True, uneven=False) == Layout(1, 8)
    assert layout(8, chain_method="auto", batch_size=4) == Layout(1, 4)


def test_groups_are_told_in_order_and_an_interrupt_is_heard_while_they_run():
    assert side_by_side(lambda a, b: a - b, [5, 7], [1, 2]) == [4, 5]
    with pytest.raises(ZeroDivisionError):
        side_by_side(lambda x: 1 // x, [1, 0])
    over = threading.Event()

    def runs_on(which):
        if which == 1:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        over.wait()

    with pytest.raises(KeyboardInterrupt):
        side_by_side(runs_on, [0, 1])
    over.set()


def test_chains_run_apart_where_arrays_are_large():
    auto, x = Layout(1, 4, by_work=True), jnp.linspace(-1, 1, 20_000)
    assert auto.settled(lambda beta: -jnp.sum((x - beta[0]) ** 2), 1) == Layout(1, 1)
    assert auto.settled(lambda beta: -jnp.sum((x[:10] - beta[0]) ** 2), 1) == Layout(1, 4)
    assert Layout(1, 4).settled(lambda beta: -jnp.sum((x - beta[0]) ** 2), 1) == Layout(1, 4)
    # What is chosen is what was asked for by name, bit for bit.
    given = {"method": NUTS(warmup=50), "key": 1, "draws": 20}
    chosen, named = infer(normal, x, **given), infer(normal, x, **given, chain_method="sequential")
    np.testing.assert_array_equal(chosen.unconstrained, named.unconstrained)


def test_work_counts_the_passes_of_loops():
    def looped(x):
        return jax.lax.scan(lambda total, y: (total + y, None), jnp.zeros(3), x)[0]

    assert numbers_an_operation(lambda x: jnp.exp(x), jnp.ones(50)) == 50
    assert numbers_an_operation(lambda x: jnp.sum(jnp.exp(x)), jnp.ones(50)) == 51 / 2
    # The broadcast zeros, and seven additions of three numbers.
    assert numbers_an_operation(looped, jnp.ones((7, 3))) == 3
    assert numbers_an_operation(jax.jit(jnp.exp), jnp.ones(50)) == 50


def test_batches_bound_the_memory_of_chains():
    # 8 chains, each of whose densities makes arrays of a megabyte.
    x = jnp.ones((1000, 256))

    def model(x):
        beta = numpyro.sample("beta", dist.Normal(0, 1).expand([256]).to_event(1))
        numpyro.factor("f", -jnp.sum(jnp.log1p(jnp.exp(x * beta))))

    program, method = Program(model, (x,), {}), HMC(warmup=1, num_steps=2)
    key, needed = jax.random.key(0), {}
    for layout in (Layout(1, 8), Layout(1, 1)):
        of_group = (program, method, layout, 8, jnp.arange(8))
        carry = _warm(key, *of_group, jnp.zeros((8, 256)))
        traced = _advance.trace(key, *of_group, carry, jnp.asarray(0), jnp.asarray(2), 2, 1)
        compiled = traced.lower().compile()
        needed[layout.batch] = compiled.memory_analysis().temp_size_in_bytes
    assert needed[8] > 8 * 1e6
    assert needed[1] < needed[8] / 4


@pytest.mark.parametrize(
    "method",
    [
        TemperedSMC(kernel="random_walk"),
        # The engine that makes the batches is the same.
        pytest.param(PersistentSMC(kernel="random_walk", num_moves=5), marks=pytest.mark.calibration),
        pytest.param(IBIS(kernel="random_walk", num_moves=5), marks=pytest.mark.calibration),
        Importance(),
    ],
    ids=lambda method: type(method).__name__,
)
def test_particles_are_the_same_however_many_at_a_time(method):
    whole = infer(normal, Y, method=method, key=2, chains=2, draws=60)
    some = infer(normal, Y, method=method, key=2, chains=2, draws=60, batch_size=7)
    assert some.log_evidence == pytest.approx(whole.log_evidence, abs=0.05)
    # One accept step that rounding turned changes what follows; most runs have none.
    assert np.mean(np.isclose(some.unconstrained, whole.unconstrained, rtol=1e-3, atol=1e-4)) > 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"chain_method": "pmap"},
            "chain_method: 'pmap' is not known; known are 'auto', 'vectorized', 'seq",
        ),
        ({"batch_size": 0}, "batch_size: a whole number from 1 up is wanted, got 0"),
        ({"chain_method": "sequential", "batch_size": 2}, "sequential chains run one at a time, got 2"),
        ({"chain_method": "parallel", "chains": 3}, r"3 chains cannot be spread evenly over 2 device\(s\)"),
        ({"method": MEADS(), "chains": 8, "batch_size": 4}, "batch_size: chains of meads learn from each other"),
        ({"method": MEADS(), "chains": 8, "chain_method": "parallel"}, "chain_method: chains of meads learn"),
        ({"method": "tempered_smc", "chain_method": "parallel"}, "chain_method: Markov chains alone are laid out"),
        ({"method": "tempered_smc", "chain_method": "sequential"}, "leave it out for tempered_smc"),
        ({"method": "laplace", "batch_size": 10}, "batch_size: laplace evaluates nothing by the batch"),
        ({"method": "tempered_smc", "batch_size": -1}, "batch_size: a whole number from 1 up is wanted, got -1"),
    ],
)
def test_bad_layouts_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        infer(normal, Y, **{"method": NUTS(), "draws": 10, **options})


def test_batches_are_settings_too():
    for method in (SMC2, TemperedSMC, PersistentSMC, IBIS, Importance):
        with pytest.raises(ValueError, match="batch_size: a whole number from 1 up is wanted, got 0"):
            method(batch_size=0)
