import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ppl.tasks.holdout import BUCKETS, in_bucket, puzzle_hash, puzzles_held_out, text_held_out


@given(st.lists(st.integers(1, 100), min_size=3, max_size=6), st.integers(0, 999), st.randoms(use_true_random=False))
def test_the_hash_of_a_puzzle_does_not_hang_on_the_order_of_its_numbers(numbers, target, random):
    shuffled = random.sample(numbers, len(numbers))
    a, b = (puzzle_hash(np.array([order]), np.array([target])) for order in (numbers, shuffled))
    assert a == b
    assert puzzle_hash(np.array([numbers]), np.array([target + 1])) != a
    assert puzzle_hash(np.array([[*numbers, 1]]), np.array([target])) != a


def test_hashes_are_what_they_were():
    # The bundled models were trained outside this bucket: a change of the hash would void that.
    numbers = np.array([[4, 6, 8, 10], [1, 2, 4, 7], [15, 15, 15, 15]])
    assert puzzle_hash(numbers, np.array([24, 24, 999])).tolist() == [
        6240084301328129059,
        4246373622394274145,
        7586659976993280284,
    ]
    assert [n for n in range(300) if text_held_out(f"{n} + 1")] == [85, 158, 227, 295]


def test_buckets_take_one_in_fifty():
    numbers = np.stack(np.meshgrid(*[np.arange(1, 16)] * 3, np.arange(10, 40), indexing="ij"), -1).reshape(-1, 4)
    unique = numbers[(np.diff(numbers[:, :3], axis=1) >= 0).all(axis=1)]
    held = in_bucket(puzzle_hash(unique[:, :3], unique[:, 3]))
    # 20,400 puzzles: a binomial share has a standard error of .001; four of them are passed once in 16,000.
    assert abs(held.mean() - 1 / BUCKETS) < 0.004
    texts = np.array([text_held_out(f"{a} + {b}") for a in range(100) for b in range(50)])
    assert abs(texts.mean() - 1 / BUCKETS) < 0.008


def test_names_hold_out_more():
    numbers, target = np.array([[1, 2, 3], [3, 1, 2], [4, 4, 4]]), np.array([6, 6, 12])
    none = puzzles_held_out(numbers, target, named=np.zeros(0, np.uint64))
    named = puzzles_held_out(numbers, target, named=puzzle_hash(np.array([[2, 3, 1]]), np.array([6])))
    assert named.tolist() == [True, True, none[2]]
