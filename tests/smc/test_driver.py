import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ppl.smc
from ppl.smc import FeynmanKac, Policy
from ppl.smc.driver import filter
from ppl.smc.host import host_filter
from tests.smc import enumeration as toy
from tests.smc import state_space

KEY = jax.random.key(7)


def path(state):
    return state.path


@pytest.mark.parametrize(
    ("when", "how"),
    [
        ("never", "systematic"),
        ("ess", "systematic"),
        ("always", "systematic"),
        ("always", "stratified"),
        ("ess", "residual"),
        ("always", "multinomial"),
        ("always", "killing"),
        ("ess", "ssp"),
        (ppl.smc.at(np.array([False, True, False])), "systematic"),
    ],
    ids=lambda x: x if isinstance(x, str) else "mask",
)
def test_evidence_and_marginals_of_an_enumerated_chain(when, how):
    """E[Z f] = gamma(f) for every path f, whether or not the step before resampled, with six particles."""
    samples = toy.estimates(KEY, toy.MODEL, toy.inputs(), path, Policy(when, how))
    toy.assert_proper(samples, toy.gamma())


def test_log_evidence_of_a_tree():
    """A toy language model: binary strings that may stop at any step, a reward at the end, no state but the string."""
    go, right, steps = 0.7, np.array([0.25, 0.75]), 3
    reward = {
        s: 0.1 + 0.2 * sum(s) + 0.3 * (len(s) == 2)
        for n in range(steps + 1)
        for s in itertools.product((0, 1), repeat=n)
    }

    def init(key, n, t):
        return {
            "bits": jnp.zeros((n, steps), jnp.int32),
            "length": jnp.zeros(n, jnp.int32),
            "open": jnp.ones(n, bool),
        }, jnp.zeros(n)

    table = np.zeros((steps + 1, 2**steps))
    for s, r in reward.items():
        table[len(s), sum(b << i for i, b in enumerate(s))] = r

    def step(key, state, t):
        key_go, key_bit = jax.random.split(key)
        goes = state["open"] & (jax.random.uniform(key_go, state["open"].shape) < go)
        bit = jax.random.bernoulli(key_bit, right[1], goes.shape).astype(jnp.int32)
        bits = state["bits"].at[:, t - 1].set(jnp.where(goes, bit, 0))
        length = state["length"] + goes
        value = jnp.asarray(table)[length, bits @ (2 ** jnp.arange(steps))]
        before = jnp.asarray(table)[state["length"], state["bits"] @ (2 ** jnp.arange(steps))]
        log_potential = jnp.log(value) - jnp.where(t == 1, 0.0, jnp.log(before))
        return {"bits": bits, "length": length, "open": goes}, log_potential

    exact = 0.0
    for s, r in reward.items():
        stops = 1.0 if len(s) == steps else 1 - go
        exact += go ** len(s) * np.prod([right[b] for b in s]) * stops * r
    run = jax.jit(jax.vmap(lambda key: filter(key, FeynmanKac(init, step), None, 8, num_steps=steps).log_evidence))
    ratio = np.exp(np.asarray(run(jax.random.split(KEY, 4000)), np.float64)) / exact
    assert ratio.std() < 0.5
    assert abs(ratio.mean() - 1) < 5 * ratio.std() / np.sqrt(len(ratio))  # false alarm 6e-7


@pytest.mark.parametrize("setting", [0, 4])
def test_kalman_evidence(setting):
    data = state_space.series("lgssm_T100_univariate")
    exact = data["exact"][setting]
    y = np.array(data["y"])
    parameters = (exact["rho"], exact["var_x"], exact["var_y"])
    assert np.isclose(state_space.kalman(y, *parameters).sum(), exact["log_likelihood"], atol=1e-8)
    run = ppl.smc.run(KEY, state_space.bootstrap(*parameters), y.astype(np.float32), num_particles=4000, replicates=16)
    # The estimate of Z is unbiased; the log of its mean over 16 runs is off by half its variance. 5 standard errors.
    assert run.log_evidence_se < 0.5
    assert abs(run.log_evidence - exact["log_likelihood"]) < 5 * run.log_evidence_se + run.log_evidence_se**2 / 2


def test_kalman_increments_and_filtered_moments_of_the_nile():
    data = state_space.series("nile_local_level")
    exact = data["exact"][0]
    y = np.array(data["y"])
    model = state_space.bootstrap(1.0, exact["level_var"], exact["obs_var"], 1000.0, 1e5)
    run = ppl.smc.run(3, model, y.astype(np.float32), num_particles=20_000, history=True)
    truth = data["at_first_setting"]
    assert abs(run.log_evidence - exact["log_likelihood"]) < 5 * run.log_evidence_se
    assert run.log_evidence_se < 0.1
    np.testing.assert_allclose(run.log_evidence_increments.sum(), run.log_evidence, rtol=1e-6)
    # Increments: sd below .02 each with 20,000 particles (ESS above N/3, relative variance of a potential below 3).
    np.testing.assert_allclose(run.log_evidence_increments, truth["loglik_increments"], atol=0.1)
    weights = np.exp(np.asarray(run.history.log_weights, np.float64))
    mean = (weights * np.asarray(run.history.states)).mean(axis=1)
    # A filtered mean has standard error sd / sqrt(ESS) and what older steps leave: 6 of those, 100 times.
    error = np.sqrt(np.array(truth["filtered_var"]) / np.asarray(run.ess))
    assert np.max(np.abs(mean - np.array(truth["filtered_mean"])) / error) < 8


def test_relabelling_the_particles_changes_nothing_but_labels():
    """The first generation in another order, without resampling noise: the same evidence and the same weighted set."""
    order = jax.random.permutation(jax.random.key(1), 50)

    def permuted(key, n, u):
        state, log_potential = toy.init(key, n, u)
        return jax.tree.map(lambda x: x[order], state), log_potential[order]

    def move(key, state, u):  # noise that belongs to the particle's value, not to its slot
        x = (state.x + 1) % toy.K
        return toy.Walk(x, state.path), u["log_g"][state.x, x]

    for how in ("systematic", "ssp"):
        plain, other = (
            filter(KEY, FeynmanKac(init, move), toy.inputs(), 50, Policy("never", how)) for init in (toy.init, permuted)
        )
        np.testing.assert_allclose(plain.log_evidence, other.log_evidence, rtol=1e-6)
        np.testing.assert_allclose(plain.ess, other.ess, rtol=1e-5)
        np.testing.assert_allclose(plain.log_weights[order], other.log_weights, atol=1e-5)


@pytest.mark.parametrize("how", ["systematic", "killing"])
def test_the_law_of_the_estimate_is_that_of_permuted_particles(how):
    """Permuting the particles before every step leaves mean and spread of the evidence as they are."""

    def permuted_step(key, state, u):
        key, key_order = jax.random.split(key)
        order = jax.random.permutation(key_order, state.x.shape[0])
        return toy.step(key, jax.tree.map(lambda x: x[order], state), u)

    def estimate(step):
        def one(key):
            # Resampled at every step, where weights are equal: permuted particles are the same weighted set.
            return filter(
                key, FeynmanKac(toy.init, step), toy.inputs(toy.EMISSION), 20, Policy("always", how)
            ).log_evidence

        draw = jax.jit(jax.vmap(one), compiler_options={"xla_backend_optimization_level": 0})
        return np.exp(np.asarray(draw(jax.random.split(KEY, 3000)), np.float64))

    plain, permuted = estimate(toy.step), estimate(permuted_step)
    error = np.hypot(plain.std(), permuted.std()) / np.sqrt(3000)
    assert abs(plain.mean() - permuted.mean()) < 4.5 * error  # false alarm 7e-6 each
    # Standard deviations of 3,000 estimates: known to 2% or so each (kurtosis below 6).
    assert abs(np.log(plain.std() / permuted.std())) < 0.15


@given(num=st.sampled_from([1, 5]), steps=st.sampled_from([0, 3]), history=st.booleans())
def test_shapes(num, steps, history):
    inputs = jax.tree.map(lambda x: x[: steps + 1], toy.inputs())
    run = toy.run(KEY, toy.MODEL, inputs, num, Policy(), history)
    assert run.particles.path.shape == (num, toy.T + 1)
    assert run.log_weights.shape == (num,)
    assert run.log_evidence.shape == run.log_evidence_se.shape == ()
    assert run.log_evidence_increments.shape == run.ess.shape == (steps + 1,)
    assert run.ancestors.shape == (steps, num)
    assert run.resampled.shape == (steps,)
    assert (run.history is not None) == history
    if history:
        assert run.history.states.path.shape == (steps + 1, num, toy.T + 1)
        assert run.history.log_weights.shape == run.history.log_potentials.shape == (steps + 1, num)
        np.testing.assert_array_equal(run.history.log_weights[-1], run.log_weights)
    np.testing.assert_allclose(np.mean(np.exp(np.asarray(run.log_weights))), 1, rtol=1e-5)


def test_history_and_ancestors_tell_one_story():
    run = toy.run(KEY, toy.MODEL, toy.inputs(), 40, Policy("always"), True)
    for t in range(1, toy.T + 1):
        before = np.asarray(run.history.states.path)[t - 1][np.asarray(run.ancestors)[t - 1]]
        np.testing.assert_array_equal(before[:, :t], np.asarray(run.history.states.path)[t][:, :t])


def test_ancestors_stand_still_without_resampling():
    mask = np.array([False, True, False])
    run = toy.run(KEY, toy.MODEL, toy.inputs(), 30, Policy(ppl.smc.at(mask)))
    np.testing.assert_array_equal(run.resampled, mask)
    np.testing.assert_array_equal(run.ancestors[0], np.arange(30))
    assert not np.array_equal(run.ancestors[1], np.arange(30))


def test_key_leaves_are_gathered_like_others():
    def init(key, n, t):
        return {"key": jax.random.split(key, n), "x": jnp.zeros(n)}, jnp.log(1.0 + jnp.arange(n))

    def step(key, state, t):
        both = jax.vmap(jax.random.split)(state["key"])
        return {"key": both[:, 0], "x": jax.vmap(jax.random.normal)(both[:, 1])}, jnp.zeros(state["x"].shape)

    run = filter(KEY, FeynmanKac(init, step), None, 20, Policy("always"), num_steps=1)
    first = jax.random.split(jax.random.split(KEY)[0], 20)
    expected = jax.vmap(jax.random.split)(first[run.ancestors[0]])[:, 0]
    np.testing.assert_array_equal(jax.random.key_data(run.particles["key"]), jax.random.key_data(expected))


@pytest.mark.parametrize(("when", "how"), [("always", "systematic"), ("ess", "killing"), ("never", "ssp")])
def test_the_host_driver_is_the_scan_driver(when, how):
    scan = toy.run(KEY, toy.MODEL, toy.inputs(), 30, Policy(when, how), True)
    host = host_filter(KEY, toy.MODEL, toy.inputs(), 30, Policy(when, how), True)
    assert jax.tree.structure(scan) == jax.tree.structure(host)
    # Fusions differ, so floats agree to rounding and everything discrete exactly.
    for (name, a), (_, b) in zip(*(jax.tree_util.tree_leaves_with_path(r) for r in (scan, host)), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6, err_msg=jax.tree_util.keystr(name))


def test_the_host_driver_changes_the_number_of_particles():
    sizes = [6, 12, 4, 9]
    runs = [host_filter(key, toy.MODEL, toy.inputs(), sizes) for key in jax.random.split(KEY, 2)]
    assert [len(row) for row in runs[0].ancestors] == sizes[1:]
    assert np.all(runs[0].resampled)
    assert runs[0].particles.x.shape == (9,)
    # Unbiased whatever the sizes: 2 runs cannot show it, but compiled as a loop over keys 4,000 can.
    many = jax.jit(jax.vmap(lambda key: _sized(key, sizes)), compiler_options={"xla_backend_optimization_level": 0})(
        jax.random.split(KEY, 4000)
    )
    estimates = np.exp(np.asarray(many, np.float64))
    exact = toy.gamma().sum()
    assert abs(estimates.mean() - exact) < 5 * estimates.std() / np.sqrt(4000)  # false alarm 6e-7


def _sized(key, sizes):
    """What the host driver does, with its checks (which need concrete values) left out."""
    from ppl.smc.driver import step_keys
    from ppl.smc.steps import Weighted, resample, reweigh
    from ppl.smc.variance import found

    key_init, keys = step_keys(key, toy.T)
    u = toy.inputs()
    state, log_potential = toy.init(key_init, sizes[0], jax.tree.map(lambda x: x[0], u))
    log_weights, total, _ = reweigh(jnp.zeros(sizes[0]), log_potential)
    weighted = Weighted(state, log_weights, found(log_weights))
    for t in range(1, toy.T + 1):
        u_t = jax.tree.map(lambda x, t=t: x[t], u)
        weighted, _ = resample(keys[t - 1, 0], ppl.smc.systematic, None, weighted, u_t, sizes[t])
        state, log_potential = toy.step(keys[t - 1, 1], weighted.state, u_t)
        log_weights, increment, _ = reweigh(weighted.log_weights, log_potential)
        weighted, total = Weighted(state, log_weights, weighted.genealogy), total + increment
    return total


def weighing(log_potentials):
    """Particles that stay at their slot numbers, with given log potentials `[T + 1, n]`."""

    def init(key, n, g):
        return jnp.arange(n) + jax.random.normal(key, (n,)), g

    def step(key, x, g):
        return x + jax.random.normal(key, x.shape), g

    return FeynmanKac(init, step), jnp.asarray(log_potentials)


def test_dead_particles_leave_no_offspring():
    model, g = weighing([[0.0, -np.inf, 1.0, -np.inf], [0.0, 0.0, 0.0, 0.0]])
    run = filter(KEY, model, g, 4, Policy("always"))
    assert set(np.asarray(run.ancestors[0]).tolist()) == {0, 2}
    np.testing.assert_allclose(run.log_evidence, np.log((1 + np.e) / 4), rtol=1e-6)
    assert run.extinct_at == -1


@pytest.mark.parametrize("driver", ["scan", "host"])
@pytest.mark.parametrize("when", ["always", "never", "ess"])
def test_all_dead_is_an_outcome(driver, when):
    g = np.zeros((4, 5))
    g[2] = -np.inf
    model, inputs = weighing(g)
    run = ppl.smc.run(1, model, inputs, num_particles=5, policy=Policy(when), history=True, driver=driver)
    assert run.extinct_at == 2
    assert run.log_evidence == -np.inf
    assert np.isnan(run.log_evidence_se)
    np.testing.assert_allclose(run.log_evidence_increments, [0, 0, -np.inf, -np.inf])
    np.testing.assert_allclose(run.ess, [5, 5, 0, 0])
    assert np.all(run.log_weights == -np.inf)
    assert np.all(np.isfinite(run.history.states))
    with pytest.raises(ValueError, match="dead at step 2"):
        run.to_arviz()


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("step", [0, 2])
def test_a_bad_potential_names_its_step(value, step):
    g = np.zeros((4, 5))
    g[step, 3] = value
    model, inputs = weighing(g)
    for driver in ("scan", "host"):
        with pytest.raises(ValueError, match=f"log potential at step {step}: .* NaN or \\+inf"):
            ppl.smc.run(1, model, inputs, num_particles=5, driver=driver)
    with pytest.raises(eqx.EquinoxRuntimeError, match=f"log potential at step {step}"):
        toy.run(KEY, model, inputs, 5)


@pytest.mark.filterwarnings("ignore:none of .* pairs of offspring")
def test_problems_are_an_outer_vmap():
    """ESS, resampling and evidence belong to each problem."""
    potentials = jnp.log(jnp.stack([jnp.asarray(toy.POTENTIAL), 2.0 * jnp.asarray(toy.POTENTIAL[:, ::-1])]))
    keys = jax.random.split(KEY, 2)

    def one(key, log_g):
        return filter(key, toy.MODEL, toy.inputs() | {"log_g": log_g}, 25)

    together = eqx.filter_jit(jax.vmap(one))(keys, potentials)
    for i in range(2):
        alone = one(keys[i], potentials[i])
        np.testing.assert_allclose(together.log_evidence[i], alone.log_evidence, rtol=1e-5)
        np.testing.assert_array_equal(together.ancestors[i], alone.ancestors)
        np.testing.assert_allclose(together.ess[i], alone.ess, rtol=1e-4)


def test_half_precision_potentials_are_summed_in_float32():
    model, g = weighing(np.full((200, 4), 0.1))
    half = FeynmanKac(
        *(lambda *a, f=f: (lambda x, g: (x, g.astype(jnp.bfloat16)))(*f(*a)) for f in (model.init, model.step))
    )
    run = toy.run(KEY, half, g, 4, Policy("never"))
    assert run.log_weights.dtype == jnp.float32
    np.testing.assert_allclose(run.log_evidence, 200 * float(jnp.bfloat16(0.1)), rtol=1e-5)


def test_inputs_are_checked():
    model, g = weighing(np.zeros((3, 4)))
    with pytest.raises(ValueError, match="num_steps: a run without inputs"):
        filter(KEY, model, None, 4)
    with pytest.raises(ValueError, match=r"inputs: .*\['a'\]: \(3,\).*\['b'\]: \(2,\)"):
        filter(KEY, model, {"a": g, "b": g[:2]}, 4)
    with pytest.raises(ValueError, match="inputs: .*none"):
        filter(KEY, model, {"a": 1.0}, 4)
    with pytest.raises(ValueError, match="num_steps: inputs of length 3 make 2 steps, got num_steps=3"):
        filter(KEY, model, g, 4, num_steps=3)
    with pytest.raises(ValueError, match="num_particles: .*got 0"):
        filter(KEY, model, g, 0)
    with pytest.raises(ValueError, match="num_particles: one number for each of 3 generations, got 2"):
        host_filter(KEY, model, g, [4, 4])
    with pytest.raises(ValueError, match=r"when: the mask of `at` .* must be \(2,\), got \(3,\)"):
        filter(KEY, model, g, 4, Policy(ppl.smc.at(np.ones(3, bool))))
    with pytest.raises(ValueError, match="init: log potentials must be floats of shape"):
        filter(KEY, model, g, 3)


def test_kernels_are_checked():
    def flat(key, n, u):
        return {"x": jnp.zeros(n), "count": jnp.zeros(())}, jnp.zeros(n)

    def whole(key, n, u):
        return jnp.zeros(n), jnp.zeros(n, jnp.int32)

    with pytest.raises(ValueError, match=r"init: every leaf .* state\['count'\] has shape \(\)"):
        filter(KEY, FeynmanKac(flat, toy.step), None, 4, num_steps=1)
    with pytest.raises(ValueError, match="init: log potentials must be floats .*int32"):
        filter(KEY, FeynmanKac(whole, toy.step), None, 4, num_steps=1)
