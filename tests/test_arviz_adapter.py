"""On the ArviZ that is installed: 0.23 on Python 3.11, 1.x from 3.12 on; CI runs each."""

import sys

import arviz
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray

from ppl import arviz_adapter


def variable(data, group, name):
    """A variable of either container."""
    return (data[group] if isinstance(data, xarray.DataTree) else getattr(data, group))[name]


def test_the_container_is_the_one_of_the_installed_arviz():
    data = arviz_adapter.from_dict({"posterior": {"x": np.zeros((1, 2))}})
    wanted = "InferenceData" if sys.version_info < (3, 12) else "DataTree"
    assert type(data).__name__ == wanted


def test_groups_axes_and_labels(tmp_path):
    groups = {
        "posterior": {"theta": np.arange(12.0).reshape(2, 3, 2), "mu": jnp.ones((2, 3))},
        "observed_data": {"y": np.array([1, 0, 1, 1])},
    }
    data = arviz_adapter.from_dict(
        groups, dims={"theta": ["school"]}, coords={"school": ["a", "b"]}, attrs={"method": "nuts", "seed": 3}
    )
    path = arviz_adapter.save_netcdf(data, tmp_path / "run.nc")
    for read in (data, arviz_adapter.load_netcdf(path), arviz.from_netcdf(path)):
        theta = variable(read, "posterior", "theta")
        assert theta.dims == ("chain", "draw", "school")
        np.testing.assert_array_equal(theta, groups["posterior"]["theta"])
        assert theta.sel(school="b", chain=1, draw=0) == 7.0
        assert variable(read, "observed_data", "y").dims == ("y_dim_0",)
        assert (read.attrs["method"], int(read.attrs["seed"])) == ("nuts", 3)
    assert [file.name for file in tmp_path.iterdir()] == ["run.nc"]


def test_arviz_computes_with_the_result():
    rng = np.random.default_rng(0)
    data = arviz_adapter.from_dict({"posterior": {"x": rng.normal(2.0, 1.0, size=(4, 500))}})
    table = arviz.summary(data, round_to="none")
    # Mean of 2,000 draws: 5 standard errors.
    assert float(table["mean"].iloc[0]) == pytest.approx(2.0, abs=5 / np.sqrt(2000))
    assert float(arviz.ess(data)["x"]) > 1000


def test_weighted_particles_become_equal_draws(tmp_path):
    weights = np.array([[0.1, 0.2, 0.7], [1.0, 0.0, 0.0]])
    with np.errstate(divide="ignore"):  # a dead particle
        log_weights = np.log(weights)
    indices = np.array([[0, 1, 1, 2, 2, 2, 2, 2, 2, 2], [0] * 10])
    data = arviz_adapter.weighted_posterior(
        {"x": np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])},
        log_weights,
        indices,
        sample_stats={"ess": np.ones((2, 4)), "log_evidence": np.zeros(2)},
        dims={"ess": ["step"]},
    )
    again = arviz_adapter.load_netcdf(arviz_adapter.save_netcdf(data, tmp_path / "run.nc"))
    for read in (data, again):
        draws = variable(read, "posterior", "x")
        assert draws.dims == ("chain", "draw")
        np.testing.assert_allclose(draws.mean("draw"), [0.1 * 1 + 0.2 * 2 + 0.7 * 3, 4.0])
        particles = variable(read, "weighted_posterior", "x")
        assert particles.dims == ("chain", "particle")
        np.testing.assert_array_equal(particles, [[1, 2, 3], [4, 5, 6]])
        np.testing.assert_array_equal(variable(read, "sample_stats", "log_weight"), log_weights)
        np.testing.assert_array_equal(variable(read, "sample_stats", "particle_index"), indices)
        assert variable(read, "sample_stats", "ess").dims == ("chain", "step")
        assert variable(read, "sample_stats", "log_evidence").dims == ("chain",)


def test_bad_groups_are_named():
    with pytest.raises(
        ValueError, match=r"posterior/x: the leading axes must be \('chain', 'draw'\), got shape \(3,\)"
    ):
        arviz_adapter.from_dict({"posterior": {"x": np.zeros(3)}})
    with pytest.raises(ValueError, match="posterior/x: dims names 2 axes"):
        arviz_adapter.from_dict({"posterior": {"x": np.zeros((1, 3, 2))}}, dims={"x": ["a", "b"]})
    x, log_weights = {"x": np.zeros((1, 2))}, np.zeros((1, 2))
    with pytest.raises(ValueError, match=r"indices: must lie in \[0, 2\), the particles; got 0 to 2"):
        arviz_adapter.weighted_posterior(x, log_weights, np.array([[0, 2]]))
    with pytest.raises(ValueError, match="sample_stats: the name 'log_weight' is written"):
        arviz_adapter.weighted_posterior(x, log_weights, np.array([[0]]), sample_stats={"log_weight": log_weights})


def test_leaves_of_a_state_are_named_by_their_path():
    state = {"x": jnp.zeros((3, 2)), "inner": (jnp.ones(3), jax.random.split(jax.random.key(0), 3))}
    named = arviz_adapter.named_leaves(state)
    assert {name: value.shape for name, value in named.items()} == {"x": (3, 2), "inner.0": (3,), "inner.1": (3, 2)}
    assert list(arviz_adapter.named_leaves(jnp.zeros(3))) == ["value"]


def test_files_that_are_not_netcdf_are_named(tmp_path):
    path = tmp_path / "foreign.nc"
    path.write_text("not netCDF")
    with pytest.raises(ValueError, match=r"foreign\.nc: not a netCDF file"):
        arviz_adapter.load_netcdf(path)
    with pytest.raises(FileNotFoundError, match=r"absent\.nc: no such file"):
        arviz_adapter.load_netcdf(tmp_path / "absent.nc")
