import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from ppl.risk.moments import are_moments, beta_from_moments, moment_gap
from ppl.risk.pass_at import pass_at_k, pass_hat_k


@given(alpha=st.floats(0.05, 20), beta=st.floats(0.05, 20))
def test_two_moments_give_the_beta_back(alpha, beta):
    m1 = alpha / (alpha + beta)
    m2 = m1 * (alpha + 1) / (alpha + beta + 1)
    found = beta_from_moments(m1, m2)
    assert (found.alpha, found.beta) == pytest.approx((alpha, beta), rel=1e-9)
    assert found.rho == pytest.approx(1 / (alpha + beta + 1))
    assert found.pass_hat(3) == pytest.approx(m2 * (alpha + 2) / (alpha + beta + 2))
    assert found.pass_at(1) == pytest.approx(m1)


def test_tau_bench_from_two_moments():
    # gpt-4o on 50 airline tasks: .420, .273, .220, .200 published. pass^4 is 3.5 points from the beta's, and from
    # four trials of 50 tasks its standard error is 5.
    found = beta_from_moments(0.42, 0.273333)
    assert found.pass_hat(np.array([3, 4])) == pytest.approx([0.205, 0.165], abs=1e-3)


def test_arrays_name_the_row_that_no_beta_law_has():
    with pytest.raises(ValueError, match=r"pass_2: .* got 0.16 for pass_1 = 0.4 in row 1"):
        beta_from_moments(np.array([0.5, 0.4]), np.array([0.3, 0.16]))
    with pytest.raises(ValueError, match="pass_2"):
        beta_from_moments(0.4, 0.4)


@given(successes=st.lists(st.integers(0, 6), min_size=1, max_size=8))
def test_unbiased_pass_hat_of_counts_are_moments(successes):
    # Of six attempts the first two moments of s/n, and unbiased ones of any order: mixtures of moments of p.
    moments = [np.mean(pass_hat_k(np.full(len(successes), 6), np.array(successes), k)) for k in range(1, 7)]
    plain = [np.mean((np.array(successes) / 6) ** k) for k in range(1, 7)]
    assert are_moments(np.array(plain))
    assert moment_gap(np.array(plain)) > -1e-12
    assert 0 <= min(moments)
    assert pass_at_k(6, successes[0], 6) in (0.0, 1.0)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5), st.integers(1, 6))
def test_moments_of_any_law_are_consistent(points, order):
    moments = np.mean(np.array(points)[:, None] ** np.arange(1, order + 1), axis=0)
    assert are_moments(moments)


@pytest.mark.parametrize("moments", [[0.5, 0.2], [0.5, 0.6], [1.1], [-0.1], [0.5, 0.3, 0.1], [0.4, 0.3, 0.2, 0.19]])
def test_what_no_law_has_is_found(moments):
    assert not are_moments(np.array(moments))
    assert moment_gap(np.array(moments)) < 0


def test_rounding_is_allowed_for():
    # A point mass at .5 to two decimals: .25 becomes .25, .125 becomes .12, which is below what .5 and .25 allow.
    rounded = np.array([0.5, 0.25, 0.12])
    assert not are_moments(rounded)
    assert are_moments(rounded, rounding=0.005)
    assert are_moments(np.stack([rounded, [0.5, 0.3, 0.2]]), rounding=0.005).tolist() == [True, True]


@pytest.mark.parametrize("moments", [np.array([]), np.array([0.5, np.nan]), np.array(0.5)])
def test_bad_moments_are_refused(moments):
    with pytest.raises(ValueError, match="moments: finite numbers"):
        moment_gap(moments)
    with pytest.raises(ValueError, match="rounding"):
        are_moments(np.array([0.5]), rounding=-1)
