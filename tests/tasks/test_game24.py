from fractions import Fraction

import numpy as np
import pandas as pd
import pytest

from ppl.tasks import Game24, published_samples, puzzles
from ppl.tasks.countdown import parse_prompt, solvable
from ppl.tasks.game24 import public_hashes
from ppl.tasks.holdout import puzzle_hash


def test_the_hundred_puzzles():
    problems = Game24().problems(100)
    assert [problem.id for problem in problems] == [f"game24-{i}" for i in range(900, 1000)]
    assert problems[0].prompt == "Numbers: 4 5 6 10 Target: 24 \n"
    for problem in problems:
        numbers, target = parse_prompt(problem.prompt)
        assert target == 24
        assert len(numbers) == 4
        assert all(1 <= n <= 13 for n in numbers)
        assert solvable(numbers, Fraction(24))
    assert Game24().problems(7, seed=5) == problems[:7]
    assert Game24().problems(0) == []


@pytest.mark.parametrize("num", [-1, 101])
def test_there_are_no_more(num):
    with pytest.raises(ValueError, match=f"num must be 0 to 100 for game24, got {num}"):
        Game24().problems(num)


def test_a_known_solution_and_a_fraction():
    asked = Game24().problems(1)[0]
    assert Game24().verify(asked, "10 - 4 = 6 left: 5 6 6 \n 5 * 6 = 30 left: 6 30 \n 30 - 6 = 24")
    assert not Game24().verify(asked, "5 * 6 = 30 left: 4 10 30 \n 30 - 10 = 20 left: 4 20 \n 20 + 4 = 23")


def test_the_published_figures():
    table = puzzles()
    assert len(table) == 100
    assert (table.cot_trials == 100).all()
    assert (table.io_trials == 100).all()
    assert table.cot_successes.sum() / table.cot_trials.sum() == 0.0403
    assert (table.cot_successes > 0).sum() == 49
    assert table.io_successes.sum() / table.io_trials.sum() == 0.0734
    assert table.tot_top1.sum() == 62
    assert table.tot_any5.sum() == 69


def test_the_samples_add_up_to_the_table():
    samples = published_samples()
    assert samples.groupby("method").size().to_dict() == {"cot": 10_000, "io": 10_000, "tot": 500}
    assert not samples.duplicated(["problem", "method", "sample"]).any()
    for method, column in (("cot", "cot_successes"), ("io", "io_successes")):
        counted = samples[samples.method == method].groupby("problem").correct.sum()
        expected = puzzles().set_index("problem")[column]
        pd.testing.assert_series_equal(counted, expected, check_names=False)
    beams = samples[samples.method == "tot"]
    assert beams[beams["sample"] == 0].correct.sum() == 62
    assert beams.groupby("problem").correct.max().sum() == 69


def test_hashes_name_each_puzzle_once():
    assert len(np.unique(public_hashes())) == 100
    assert public_hashes()[0] == puzzle_hash(np.array([[10, 6, 5, 4]]), np.array([24]))[0]


def test_the_notice_lies_beside_the_data():
    import ppl.tasks.game24 as module

    text = (module._DATA / "LICENSE.txt").read_text()
    assert "MIT License" in text
    assert "2023 Shunyu Yao" in text
