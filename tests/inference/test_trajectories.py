import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.random import threefry_2x32
from scipy.stats import chi2_contingency

from ppl.inference import batching, compiling, trajectories
from ppl.inference.nuts import NUTS
from ppl.inference.trajectories import Point, hashed

COVARIANCE = jnp.array([[1.0, 0.6, 0.0], [0.6, 2.0, -0.3], [0.0, -0.3, 0.5]])
PRECISION = jnp.linalg.inv(COVARIANCE)
DIAGONAL = jnp.diag(COVARIANCE)


def normal(x):
    return -0.5 * x @ PRECISION @ x


def crooked(x):
    """Neither normal nor of one scale."""
    return -0.5 * x[0] ** 2 - 0.5 * (x[1] - x[0] ** 2) ** 2 / 0.25 - jnp.cosh(x[2])


def points(log_density, positions):
    return Point(positions, *jax.vmap(jax.value_and_grad(log_density))(positions))


def advanced(log_density, positions, *, step_size, mass, length=1, seed=0, depth=10, thin=1):
    """The states, positions and statistics of all chains after `length` draws."""
    chains = positions.shape[0]
    parameters = {
        "step_size": jnp.full(chains, step_size),
        "inverse_mass_matrix": jnp.broadcast_to(mass, (chains, *mass.shape)),
    }
    run = jax.jit(
        lambda keys, states: NUTS(max_tree_depth=depth).advance(
            keys, log_density, states, parameters, jnp.zeros((), jnp.int32), jnp.asarray(length), length, thin
        )
    )
    return run(jax.random.split(jax.random.key(seed), chains), points(log_density, positions))


def test_random_words_are_those_of_threefry():
    key = jnp.array([0x13198A2E, 0x03707344], jnp.uint32)
    high, low = jnp.array([0, 7, 2**32 - 1], jnp.uint32), jnp.array([0, 2**31, 5], jnp.uint32)
    assert jnp.concatenate(hashed(key, high, low)).tolist() == threefry_2x32(key, jnp.concatenate([high, low])).tolist()


@pytest.mark.runs_long
@pytest.mark.parametrize(
    ("step_size", "mass"),
    [
        pytest.param(0.15, DIAGONAL, marks=pytest.mark.calibration, id="short-diagonal"),
        pytest.param(0.15, COVARIANCE, id="short-dense"),
        pytest.param(0.7, DIAGONAL, id="long-diagonal"),
        pytest.param(0.7, COVARIANCE, marks=pytest.mark.calibration, id="long-dense"),
    ],
)
def test_a_draw_has_the_law_of_blackjax(step_size, mass):
    """From one point, with many keys: positions, statistics and the number of steps, as samples of two samplers."""
    num, start = 8000, jnp.array([0.8, 1.2, -0.5])
    states, positions, stats = advanced(crooked, jnp.tile(start, (num, 1)), step_size=step_size, mass=mass)
    kernel = blackjax.nuts.build_kernel()

    @jax.jit
    @jax.vmap
    def theirs(key):
        return kernel(key, blackjax.nuts.init(start, crooked), crooked, step_size, mass)

    theirs_states, info = theirs(jax.random.split(jax.random.key(1), num))
    columns = [
        (positions[:, 0], theirs_states.position),
        (positions[:, 0] ** 2, theirs_states.position**2),
        (stats["acceptance_rate"], info.acceptance_rate[:, None]),
        (stats["energy"], info.energy[:, None]),
        (stats["n_steps"].astype(float), info.num_integration_steps[:, None].astype(float)),
    ]
    for ours, other in columns:
        ours, other = np.reshape(ours, (num, -1)), np.asarray(other)
        error = np.sqrt((ours.var(0) + other.var(0)) / num)
        assert np.all(np.abs(ours.mean(0) - other.mean(0)) < 4 * error + 1e-6)
    both = [np.asarray(stats["n_steps"])[:, 0], np.asarray(info.num_integration_steps)]
    values = np.unique(np.concatenate(both))
    counts = np.array([[np.sum(steps == value) for value in values] for steps in both])
    common = counts.sum(0) >= 20
    assert common.sum() > 1
    assert chi2_contingency(counts[:, common]).pvalue > 1e-3
    assert np.array_equal(states.position, positions[:, 0])


@pytest.mark.runs_long
@pytest.mark.parametrize("mass", [DIAGONAL, COVARIANCE], ids=["diagonal", "dense"])
def test_draws_from_the_target_stay_its_draws(mass):
    num = 10_000
    exact = jax.random.multivariate_normal(jax.random.key(3), jnp.zeros(3), COVARIANCE, (num,))
    _, positions, stats = advanced(normal, exact, step_size=0.6, mass=mass, length=3, seed=2)
    assert np.mean(stats["acceptance_rate"]) > 0.8
    last = np.asarray(positions[:, -1], np.float64)
    root = np.linalg.cholesky(np.asarray(COVARIANCE, np.float64))
    whitened = np.linalg.solve(root, last.T).T
    assert np.all(np.abs(whitened.mean(0)) < 4 / np.sqrt(num))
    # Entries of the covariance of independent normal numbers: variances 2 on the diagonal, 1 off it.
    off = whitened.T @ whitened / num - np.eye(3)
    assert np.all(np.abs(off) < 4 * np.sqrt((1 + np.eye(3)) / num))
    assert abs((whitened**4).mean() - 3) < 4 * np.sqrt(96 / (3 * num))


def test_a_chain_does_not_depend_on_its_companions():
    """Nor on how long they take: those of the second run have steps a hundredth the size."""
    starts = jnp.array([[0.0, 0.0, 0.0], [1.0, 0.5, 0.2], [-1.0, 0.7, 0.1]])
    keys = jax.random.split(jax.random.key(5), 3)

    @jax.jit
    def run(sizes):
        parameters = {"step_size": sizes, "inverse_mass_matrix": jnp.broadcast_to(DIAGONAL, (3, 3))}
        return NUTS(max_tree_depth=6).advance(
            keys, normal, points(normal, starts), parameters, jnp.zeros((), jnp.int32), jnp.asarray(20), 20, 1
        )

    states, positions, stats = run(jnp.array([0.5, 0.5, 0.5]))
    others, slower, slow_stats = run(jnp.array([0.005, 0.5, 0.005]))
    assert np.all(slow_stats["n_steps"][0] == 63)
    assert np.array_equal(positions[1], slower[1])
    assert np.array_equal(states.position[1], others.position[1])
    assert all(np.array_equal(stats[name][1], slow_stats[name][1]) for name in stats)


@pytest.mark.runs_long
def test_a_run_knows_that_small_loops_cost_little():
    assert compiling.loops_are_whole()


@pytest.mark.parametrize("mass", [DIAGONAL, COVARIANCE], ids=["diagonal", "dense"])
def test_draws_are_the_same_where_loops_cost_more(monkeypatch, mass):
    """As on a GPU."""
    starts = jnp.array([[0.0, 0.0, 0.0], [1.0, 0.5, 0.2]])

    def run(loops_are_whole):
        for module in (batching, compiling, trajectories):
            monkeypatch.setattr(module, "loops_are_whole", lambda: loops_are_whole)
        return advanced(crooked, starts, step_size=0.3, mass=mass, length=30)

    for ours, other in zip(jax.tree.leaves(run(True)), jax.tree.leaves(run(False)), strict=True):
        assert np.allclose(ours, other, rtol=1e-4, atol=1e-4)


def test_the_depth_is_the_limit_and_thinning_keeps_the_last():
    starts = jnp.zeros((2, 3))
    _, positions, stats = advanced(normal, starts, step_size=1e-3, mass=DIAGONAL, length=6, depth=4)
    assert np.all(stats["n_steps"] == 15)
    assert np.all(stats["tree_depth"] == 4)
    _, thinned, _ = advanced(normal, starts, step_size=1e-3, mass=DIAGONAL, length=2, depth=4, thin=3)
    assert np.array_equal(thinned, positions[:, 2::3])


def test_a_step_that_leaves_the_support_is_a_divergence():
    def half(x):
        return jnp.where(jnp.all(x > 0), -jnp.sum(x), -jnp.inf)

    _, positions, stats = advanced(half, jnp.full((4, 3), 1.0), step_size=2.0, mass=jnp.ones(3), length=50)
    assert np.all(positions > 0)
    assert np.any(stats["diverging"])
    assert np.all(np.isfinite(stats["lp"]))
    assert np.all(stats["acceptance_rate"] <= 1)
