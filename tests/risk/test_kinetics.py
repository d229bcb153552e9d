import dataclasses

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from ppl.risk.kinetics import (
    QWEN3,
    BlockTopK,
    Dense,
    ModelShape,
    TopK,
    affordable_trials,
    attended_keys,
    generation_cost,
)

TINY = ModelShape("tiny", 1000, layers=3, heads=4, kv_heads=2, head_dim=8)


def walked(shape, prompt, generated, trials, attention):
    """FLOPs of attention and bytes read, position by position, head by head, as a decoder would spend them."""
    flops = reads = 0
    for t in range(1, generated + 1):
        context = prompt + t
        seen = context if isinstance(attention, Dense) else min(attention.budget, context)
        flops += trials * shape.layers * shape.heads * (2 * shape.head_dim + 2 * shape.head_dim) * seen
        per_key = shape.layers * shape.kv_heads * shape.head_dim * 2 * 2  # key and value, two bytes a number
        reads += per_key * (prompt + trials * t if isinstance(attention, Dense) else trials * seen)
        if isinstance(attention, BlockTopK):
            blocks = -(-context // attention.block_size)
            shared = -(-prompt // attention.block_size)
            flops += trials * shape.layers * shape.heads * 2 * shape.head_dim * blocks
            reads += shape.layers * shape.kv_heads * shape.head_dim * 2 * (shared + trials * (blocks - shared))
    return flops, reads


attentions = st.one_of(
    st.just(Dense()),
    st.builds(TopK, st.integers(1, 60)),
    st.builds(BlockTopK, st.integers(0, 20), st.integers(1, 9), st.integers(1, 6)),
)


@given(prompt=st.integers(0, 50), generated=st.integers(0, 40), trials=st.integers(0, 5), attention=attentions)
def test_cost_is_the_sum_over_positions(prompt, generated, trials, attention):
    cost = generation_cost(TINY, prompt, generated, trials, attention=attention)
    if trials == 0:
        assert cost.flops == 0
        return
    assert (cost.attention_flops, cost.bytes_read) == pytest.approx(walked(TINY, prompt, generated, trials, attention))
    assert cost.weight_flops == 2 * 1000 * generated * trials
    assert cost.eflops == cost.flops + 562.5 * cost.bytes_read


@pytest.mark.parametrize(("prompt", "budget", "generated"), [(100, 600, 4000), (100, 600, 300), (900, 600, 4000)])
def test_the_window_correction_is_subtracted(prompt, budget, generated):
    exact = sum(min(budget, prompt + t) for t in range(1, generated + 1))
    correction = 0.5 * max(0, budget - prompt) ** 2
    assert attended_keys(prompt, generated, TopK(budget)) == exact
    assert exact <= budget * generated
    if generated >= budget - prompt:
        # What the authors' block cost does; their top-k cost adds the correction and misses by twice its size.
        assert exact == pytest.approx(budget * generated - correction, rel=2e-3)
        if correction:
            assert budget * generated + correction - exact == pytest.approx(2 * correction, rel=2e-2)
    else:
        # An answer that ends before the window is full: both published forms fail.
        assert abs(budget * generated - correction - exact) > 0.1 * exact


def test_dense_cost_is_the_published_formula_but_for_half_a_token():
    shape, c, length, n = QWEN3["Qwen3-8B"], 256, 16384, 8
    d = shape.layers * shape.head_dim
    compute = (2 * shape.parameters * length + 2 * (2 * c + length) * length * shape.heads * d) * n
    memory = 2 * (2 * c + length * n) * length * shape.kv_heads * d * 562.5
    cost = generation_cost(shape, c, length, n)
    assert cost.flops == pytest.approx(compute, rel=1e-4)
    assert cost.eflops == pytest.approx(compute + memory, rel=1e-4)
    # Eq. 4 of the paper, in the numbers of KV heads: r = h / h_kv, D = 2 h_kv d numbers a token.
    r, kv = shape.heads / shape.kv_heads, 2 * shape.kv_heads * d
    paper = n * (2 * shape.parameters * length + 2 * r * c * length * kv + r * length**2 * kv)
    paper += 562.5 * (2 * c * length * kv + n * length**2 * kv)
    assert cost.eflops == pytest.approx(paper, rel=1e-4)


def test_attention_dominates_long_answers_as_published():
    # "10 to 1000 times" the cost of the weights, over the Qwen3 series at long answers.
    costs = [generation_cost(shape, 256, 32768) for shape in QWEN3.values()]
    ratios = [(cost.eflops - cost.weight_flops) / cost.weight_flops for cost in costs]
    assert all(10 < ratio < 1000 for ratio in ratios)
    assert ratios == sorted(ratios, reverse=True)


def test_grouped_queries_save_reads_and_not_flops():
    grouped = generation_cost(TINY, 10, 20, 3)
    full = generation_cost(dataclasses.replace(TINY, kv_heads=4), 10, 20, 3)
    assert full.bytes_read == 2 * grouped.bytes_read
    assert full.flops == grouped.flops
    assert TINY.kv_bytes() == 2 * 3 * 2 * 8 * 2


def test_arrays_broadcast():
    cost = generation_cost(TINY, 10, np.array([5, 50]), np.array([[1], [2], [3]]))
    assert np.shape(cost.eflops) == (3, 2)
    assert cost.eflops[1, 1] == generation_cost(TINY, 10, 50, 2).eflops


@pytest.mark.parametrize("attention", [Dense(), TopK(30), BlockTopK(8, 4, 3)])
@pytest.mark.parametrize("cost", ["flops", "eflops"])
def test_affordable_trials_spend_the_budget(attention, cost):
    for trials in (1, 7):
        budget = getattr(generation_cost(TINY, 40, 25, trials, attention=attention), cost)
        assert affordable_trials(TINY, 40, 25, budget, cost=cost, attention=attention) == pytest.approx(trials)
    assert affordable_trials(TINY, 40, np.array([25, 1000]), 0.0, cost=cost, attention=attention).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: generation_cost(TINY, -1, 5), "prompt: whole numbers from 0 up are wanted, got -1"),
        (lambda: generation_cost(TINY, 1, 5, np.array([2, -3])), "trials: whole numbers from 0 up are wanted, got -3"),
        (lambda: attended_keys(1, 5, TopK(0)), "budget: a window of at least 1 key"),
        (lambda: affordable_trials(TINY, 1, 0, 5.0), "generated: at least 1 token"),
        (lambda: affordable_trials(TINY, 1, 1, 5.0, cost="watts"), "cost: flops or eflops"),
        (lambda: ModelShape("x", 1e9, 0, 1, 1, 1), "layers: a positive number is wanted, got 0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
