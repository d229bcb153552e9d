"""Every Markov chain against a conjugate posterior, compiled once, and resumed bit for bit."""

from unittest.mock import patch

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from blackjax.diagnostics import ess_bulk

from ppl.inference import HMC, MCLMC, MEADS, NUTS, ChEES, RandomWalk, Slice, chains, infer
from tests.inference.resuming import goes_on_alike

Y = jnp.array([0.4, 1.9, 3.1, 0.2, 1.1])


def normal_gamma(y, scale=1.0):
    """Conjugate and skewed: precision Gamma(3, 2), mean given it normal."""
    tau = numpyro.sample("tau", dist.Gamma(3.0, 2.0))
    mu = numpyro.sample("mu", dist.Normal(1.0, scale / jnp.sqrt(0.5 * tau)))
    with numpyro.plate("n", y.shape[0]):
        numpyro.sample("y", dist.Normal(mu, 1 / jnp.sqrt(tau)), obs=y)


def exact():
    y, n = np.asarray(Y, float), len(Y)
    kappa, shape = 0.5 + n, 3 + n / 2
    mean = (0.5 + y.sum()) / kappa
    rate = 2 + 0.5 * ((y - y.mean()) ** 2).sum() + 0.25 * n / kappa * (y.mean() - 1) ** 2
    return {
        "tau": (shape / rate, np.sqrt(shape) / rate),
        "mu": (mean, np.sqrt(rate / (kappa * (shape - 1)))),
    }


@pytest.mark.parametrize(
    ("method", "chains"),
    [
        (NUTS(), 4),
        pytest.param(NUTS(dense_mass=True), 4, marks=pytest.mark.calibration),
        (HMC(), 4),
        (ChEES(), 16),
        (MEADS(), 64),  # with 16 it depends on the key, and on rounding, whether chains move
        (MCLMC(), 4),
        (RandomWalk(), 4),
        (Slice(), 4),
    ],
    ids=lambda value: type(value).__name__ + ("_dense" if getattr(value, "dense_mass", False) else ""),
)
def test_means_and_sds_of_a_conjugate_posterior(method, chains):
    post = infer(normal_gamma, Y, method=method, key=1, chains=chains, draws=2000)
    # MCLMC is not exact: the bias that its energy error allows is a few hundredths of a standard deviation.
    slack = 0.05 if isinstance(method, MCLMC) else 0.0
    for site, (mean, sd) in exact().items():
        value = np.asarray(post.draws[site], np.float64)
        size = float(ess_bulk(value))
        assert size > 200
        assert abs(value.mean() - mean) < 4.5 * sd / np.sqrt(size) + slack * sd
        assert value.std() == pytest.approx(sd, rel=0.15)
    assert not any(advice.statistic == "r_hat" for advice in post.diagnose()) or chains == 16


@pytest.mark.parametrize("method", [NUTS(), Slice()], ids=lambda method: type(method).__name__)
def test_draws_are_of_double_precision_where_jax_is(method):
    with jax.enable_x64(True):
        post = infer(normal_gamma, jnp.asarray(np.asarray(Y, float)), method=method, key=1, draws=500)
    for site, (mean, sd) in exact().items():
        value = post.draws[site]
        assert value.dtype == np.float64
        assert abs(np.mean(value) - mean) < 4.5 * sd / np.sqrt(float(ess_bulk(np.asarray(value))))


def test_the_same_key_gives_the_same_draws_and_new_data_do_not_compile():
    method = NUTS(warmup=200)
    first = infer(normal_gamma, Y, method=method, key=3, draws=100)
    again = infer(normal_gamma, Y, method=method, key=3, draws=100)
    assert np.array_equal(first.unconstrained, again.unconstrained)
    traces = []

    def counted(y):
        traces.append(0)
        normal_gamma(y)

    infer(counted, Y, method=method, key=3, draws=100)
    before = len(traces)
    other = infer(counted, Y + 1, method=NUTS(warmup=200), key=4, draws=100)
    assert len(traces) == before
    assert not np.array_equal(first.unconstrained, other.unconstrained)


def test_what_was_compiled_side_by_side_is_what_runs(caplog):
    jax.config.update("jax_log_compiles", True)
    try:
        infer(normal_gamma, Y[:-1], method=NUTS(warmup=10), key=3, draws=20)
    finally:
        jax.config.update("jax_log_compiles", False)
    for name in ("_warm", "_advance"):
        assert caplog.text.count(f"Finished XLA compilation of jit({name})") == 1


def test_a_killed_run_goes_on_to_the_same_draws(tmp_path):
    options = {"method": NUTS(warmup=200), "key": 5, "chains": 2, "draws": 100, "checkpoint": tmp_path / "run"}
    goes_on_alike(normal_gamma, Y, **options)
    # Of another, stopped at the second save, the first was that of the state after warm-up.
    goes_on_alike(normal_gamma, Y, saves=1, **{**options, "checkpoint": tmp_path / "early"})
    with pytest.raises(ValueError, match="checkpoint: .* is of another run; data was"):
        infer(normal_gamma, Y + 1, **options)


def test_a_killed_run_goes_on_where_there_are_fewer_cores(tmp_path, monkeypatch):
    cores = [2]
    monkeypatch.setattr("ppl.inference.batching._cores", lambda: cores[0])
    options = {"method": NUTS(warmup=50), "key": 5, "chains": 2, "draws": 100, "checkpoint": tmp_path}
    goes_on_alike(normal_gamma, Y, between=lambda: cores.__setitem__(0, 1), **options)


@pytest.mark.parametrize("method", [NUTS(warmup=50), HMC(warmup=50)], ids=["own pace", "together"])
def test_draws_do_not_depend_on_the_pieces(monkeypatch, method):
    options = {"method": method, "key": 7, "chains": 2, "draws": 25, "thin": 2}
    whole = infer(normal_gamma, Y, **options)
    for name, value in (("_PIECE", 0.0), ("_SMALL", 0)):  # a draw a piece; then arrays of a tenth of the draws
        monkeypatch.setattr(f"ppl.inference.chains.{name}", value)
        again = infer(normal_gamma, Y, **options)
        assert np.array_equal(again.unconstrained, whole.unconstrained)
        assert all(np.array_equal(again.stats[name], whole.stats[name]) for name in whole.stats)


def test_a_short_run_is_one_piece_and_a_bar_counts_steps(capsys):
    with patch.object(chains._Run, "advance", autospec=True, side_effect=chains._Run.advance) as advance:
        infer(normal_gamma, Y, method=NUTS(warmup=50), key=7, draws=50, show_progress=True)
    assert advance.call_count == 1
    assert "100/100" in capsys.readouterr().err


def test_thinning_keeps_every_other_step():
    method = HMC(warmup=100)
    whole = infer(normal_gamma, Y, method=method, key=6, chains=2, draws=40)
    half = infer(normal_gamma, Y, method=method, key=6, chains=2, draws=20, thin=2)
    assert np.array_equal(half.unconstrained, whole.unconstrained[:, 1::2])


def test_settings_are_checked():
    for call, message in (
        (lambda: NUTS(target_accept=1.2), "target_accept: a probability"),
        (lambda: NUTS(warmup=0), "warmup: at least one step"),
        (lambda: NUTS(max_tree_depth=0), "max_tree_depth: a number of doublings from 1 to 30"),
        (lambda: HMC(num_steps=0), "num_steps: at least one"),
        (lambda: infer(normal_gamma, Y, method=MEADS(), chains=6), "chains: MEADS wants a multiple"),
        (lambda: infer(normal_gamma, Y, method=ChEES(), chains=1), "chains: ChEES learns"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
