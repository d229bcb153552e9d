"""Conditional resampling against Bayes' rule on the exact joint law of all ancestors, derived here from the schemes."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppl.smc import conditional_killing, conditional_multinomial, conditional_stratified, conditional_systematic

# Asymmetric; one particle has more than one expected offspring.
WEIGHTS = np.array([0.15, 0.6, 0.25])
KEYS = 20_000


def law_multinomial(num):
    return {a: np.prod(WEIGHTS[list(a)]) for a in itertools.product(range(3), repeat=num)}


def law_systematic(num):
    ends = np.cumsum(WEIGHTS) * num
    cuts = np.unique(np.concatenate([[0.0, 1.0], ends % 1.0]))
    law = {}
    for low, high in itertools.pairwise(cuts):
        middle = (low + high) / 2
        ancestors = tuple(int(np.searchsorted(ends, s + middle)) for s in range(num))
        law[ancestors] = law.get(ancestors, 0.0) + high - low
    return law


def law_stratified(num):
    """With strata that begin at a particle drawn at random, as conditional SMC with its reference in slot 0 needs."""
    law = {}
    for turn in range(3):
        ends = np.concatenate([[0.0], np.cumsum(np.roll(WEIGHTS, turn)) * num])
        inside = [[max(0.0, min(ends[i + 1], s + 1) - max(ends[i], s)) for i in range(3)] for s in range(num)]
        for places in itertools.product(range(3), repeat=num):
            ancestors = tuple((place - turn) % 3 for place in places)
            law[ancestors] = law.get(ancestors, 0.0) + np.prod([inside[s][i] for s, i in enumerate(places)]) / 3
    return law


def law_killing(num):
    stay = WEIGHTS / WEIGHTS.max()
    slot = [[stay[s] * (i == s) + (1 - stay[s]) * WEIGHTS[i] for i in range(3)] for s in range(num)]
    return {a: np.prod([slot[s][i] for s, i in enumerate(a)]) for a in itertools.product(range(3), repeat=num)}


def rotated(law, num):
    """The law after the slots are rotated by a uniform random number."""
    out = {}
    for ancestors, probability in law.items():
        for shift in range(num):
            turned = ancestors[shift:] + ancestors[:shift]
            out[turned] = out.get(turned, 0.0) + probability / num
    return out


CASES = {
    "multinomial": (conditional_multinomial, law_multinomial, (4,)),
    "systematic": (conditional_systematic, law_systematic, (2, 4)),
    "stratified": (conditional_stratified, law_stratified, (2, 4)),
    "killing": (conditional_killing, law_killing, (3,)),
}


@pytest.mark.parametrize(("name", "num"), [(name, num) for name, case in CASES.items() for num in case[2]])
def test_joint_law_is_bayes_rule(name, num):
    scheme, law, _ = CASES[name]
    joint = rotated(law(num), num)
    assert np.isclose(sum(joint.values()), 1)
    for reference in range(3):
        # After the rotation every slot's ancestor has the law of the weights: the premise of conditional SMC.
        marginal = sum(p for a, p in joint.items() if a[0] == reference)
        assert np.isclose(marginal, WEIGHTS[reference])
    draw = jax.jit(
        jax.vmap(lambda key, reference: scheme(key, jnp.log(jnp.asarray(WEIGHTS)), num, reference), (0, None)),
        compiler_options={"xla_backend_optimization_level": 0},
    )
    for reference in range(3):
        drawn = np.asarray(draw(jax.random.split(jax.random.key(reference), KEYS), reference))
        assert np.all(drawn[:, 0] == reference)
        numbers, counts = np.unique(drawn @ 3 ** np.arange(num), return_counts=True)
        found = dict(zip(numbers.tolist(), counts.tolist(), strict=True))
        for ancestors, probability in joint.items():
            p = probability / WEIGHTS[reference] if ancestors[0] == reference else 0.0
            frequency = found.pop(int(np.dot(ancestors, 3 ** np.arange(num))), 0) / KEYS
            # 5 standard errors; some 400 comparisons in all: chance of a false alarm 2e-4. What is impossible may come
            # up through float32 weights at a boundary, in less than one draw of KEYS.
            assert abs(frequency - p) < 5 * np.sqrt(p * (1 - p) / KEYS) + 1e-9, (ancestors, frequency, p)
        assert sum(found.values()) == 0


def test_pinning_slot_zero_of_the_plain_scheme_is_not_enough():
    """What conditional systematic resampling is there to avoid: the reference's offspring counted once too often."""
    joint = rotated(law_systematic(4), 4)
    exact = {a[1:]: p / WEIGHTS[0] for a, p in joint.items() if a[0] == 0}
    pinned = {}
    for a, p in joint.items():
        pinned[a[1:]] = pinned.get(a[1:], 0.0) + p
    assert sum(abs(exact.get(a, 0.0) - pinned.get(a, 0.0)) for a in exact | pinned) / 2 > 0.2


def test_a_reference_of_vanishing_weight_is_kept():
    log_weights = jnp.array([-200.0, 0.0, 0.3])
    for scheme in (conditional_systematic, conditional_stratified, conditional_multinomial, conditional_killing):
        ancestors = scheme(jax.random.key(0), log_weights, 3)
        assert ancestors[0] == 0
        assert set(np.asarray(ancestors[1:]).tolist()) <= {1, 2}


def test_conditional_killing_keeps_the_number():
    with pytest.raises(ValueError, match="num: conditional killing keeps the number of particles, 3, got 5"):
        conditional_killing(jax.random.key(0), jnp.zeros(3), 5)
