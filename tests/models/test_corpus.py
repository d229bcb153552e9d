"""No problem that an evaluation can draw is in the corpus of the bundled models, nor is a state of a solution there."""

import re
from functools import cache

import numpy as np
import pytest

from models.countdown import corpus
from ppl.tasks import Arithmetic, Countdown, Game24, Problem
from ppl.tasks.arithmetic import true_steps
from ppl.tasks.countdown import parse_prompt
from ppl.tasks.holdout import in_bucket, puzzle_hash, text_held_out

SETS, SIZE = range(5), 100  # evaluation sets by seed, and what we draw of each (of three numbers there are 169 in all)
KINDS = sorted({(kind, size) for parts in corpus.MIXTURE.values() for kind, size, _ in parts})
PUZZLES = [(kind, size) for kind, size in KINDS if kind != "arithmetic"]
EXPRESSIONS = [size for kind, size in KINDS if kind == "arithmetic"]


@cache
def examples(kind, size, num=3000):
    return corpus.examples(7, kind, size, num)


@cache
def evaluated_puzzles():
    """(sorted numbers, target) of the public hundred and of every Countdown evaluation set that we draw."""
    problems = list(Game24().problems(100))
    for count in (3, 4, 5, 6):
        for seed in SETS:
            problems += Countdown(count).problems(SIZE, seed=seed)
    return {as_state(*parse_prompt(problem.prompt)) for problem in problems}


def as_state(numbers, target):
    return tuple(sorted(map(int, numbers))), int(target)


def states_of(prompt, solution):
    """The puzzle, and every puzzle that its solution leaves on the way: read off the text, not off our generator."""
    numbers, target = parse_prompt(prompt)
    yield as_state(numbers, target)
    for left in re.findall(r"left: ([0-9 ]+)", solution):
        yield as_state(left.split(), target)


@pytest.mark.parametrize(("kind", "size"), PUZZLES)
def test_no_evaluated_puzzle_is_trained_on_nor_passed_through(kind, size):
    pairs = examples(kind, size)
    states = [list(states_of(*pair)) for pair in pairs]
    assert all([len(numbers) for numbers, _ in row] == list(range(size, 1, -1)) for row in states)
    seen = {state for row in states for state in row}
    assert seen & evaluated_puzzles() == set()
    for count in range(3, size + 1):  # a puzzle has three numbers at least
        rows = [(numbers, target) for numbers, target in seen if len(numbers) == count]
        hashes = puzzle_hash(np.array([numbers for numbers, _ in rows]), np.array([target for _, target in rows]))
        assert not in_bucket(hashes).any()  # so not for any other evaluation set either


def test_the_test_above_would_see_a_held_out_puzzle():
    """The same generator without the mask does yield held-out puzzles, at the rate of the bucket."""
    from ppl.tasks.countdown_corpus import derive, solution_texts

    pairs = solution_texts(derive(np.random.default_rng(7), batch=3000, count=4, max_number=15))
    states = [state for pair in pairs for state in states_of(*pair) if len(state[0]) == 4]
    hashes = puzzle_hash(np.array([numbers for numbers, _ in states]), np.array([target for _, target in states]))
    assert 20 < in_bucket(hashes).sum() < 110  # 60 expected
    assert ((4, 5, 6, 10), 24) in evaluated_puzzles()  # the first of the hundred


@pytest.mark.parametrize(
    "size", [pytest.param(size, marks=[pytest.mark.calibration] * (size < max(EXPRESSIONS))) for size in EXPRESSIONS]
)
def test_no_held_out_expression_is_trained_on(size):
    texts = [prompt.removeprefix("Evaluate: ").removesuffix(" \n") for prompt, _ in examples("arithmetic", size)]
    assert not any(text_held_out(text) for text in texts)
    num = SIZE if size > 1 else 15  # of one operation 17 are held out in all
    evaluated = {p.prompt for seed in SETS for p in Arithmetic(size).problems(num, seed=seed)}
    assert not evaluated & {prompt for prompt, _ in examples("arithmetic", size)}


@pytest.mark.calibration
def test_no_evaluated_expression_of_six_operations_is_part_of_a_trained_one():
    """Six operations is what we measure and the most that is trained on, so parts are smaller and cannot repeat it."""
    assert max(EXPRESSIONS) == Arithmetic().depth == 6
    trained = " | ".join(prompt for size in EXPRESSIONS for prompt, _ in examples("arithmetic", size))
    for seed in SETS:
        for problem in Arithmetic().problems(SIZE, seed=seed):
            assert problem.prompt.removeprefix("Evaluate: ").removesuffix(" \n") not in trained


@pytest.mark.parametrize(("kind", "size"), KINDS)
def test_every_solution_is_right(kind, size):
    task = Arithmetic(size) if kind == "arithmetic" else Countdown(size)
    for prompt, solution in examples(kind, size)[:300]:
        problem = Problem("any", prompt)
        assert task.verify(problem, solution)
        if kind == "arithmetic":
            assert solution.split(" \n ") == true_steps(problem)
        elif kind == "game24":
            assert parse_prompt(prompt)[1] == 24
            assert max(parse_prompt(prompt)[0]) <= 13


@pytest.mark.parametrize("length", sorted(corpus.MIXTURE))
def test_token_rows_decode_back_to_the_text(length):
    words = corpus.tokenizer()
    for kind, size, _ in corpus.MIXTURE[length]:
        pairs = examples(kind, size)[:100]
        rows, prompts = corpus.token_rows(words, pairs, length)
        assert rows.shape == (100, length)
        for (prompt, solution), row, read in zip(pairs, rows, prompts, strict=True):
            ids = row[row != 0].tolist()
            assert (row[: len(ids)] == ids).all()  # padding is at the end
            assert (ids[0], ids[-1]) == (words.token_to_id("<s>"), words.token_to_id("</s>"))
            assert words.decode(ids) == f"{prompt} {solution}"
            assert words.decode(ids[:read]) == prompt


def test_batches_are_reproducible_full_and_fresh():
    first, again = (corpus.batches(3, 48, 16, chunk=200) for _ in range(2))
    other = corpus.batches(4, 48, 16, chunk=200)
    seen = []
    for _ in range(20):  # past the end of one chunk
        (rows, prompts), (same, _), (different, _) = next(first), next(again), next(other)
        assert rows.shape == (16, 48)
        assert (rows == same).all()
        assert (rows != different).any()
        assert ((prompts > 2) & (prompts < (rows != 0).sum(axis=1))).all()
        seen += [tuple(row) for row in rows]
    assert len(set(seen)) > 0.95 * len(seen)
