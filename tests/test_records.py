import json

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
from hypothesis import given

from ppl.records import SCHEMA, Records

INTEGERS = st.integers(min_value=0, max_value=2**62)
FLOATS = st.none() | st.floats(allow_nan=False)
TEXT = st.text(max_size=20)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "problem": TEXT,
            "sample": INTEGERS,
            "method": TEXT,
            "prompt": TEXT,
            "text": TEXT,
            "answer": st.none() | TEXT,
            "correct": st.none() | st.booleans(),
            "reward": FLOATS,
            "log_weight": FLOATS,
            "log_prob": FLOATS,
            "log_proposal": FLOATS,
            "prompt_tokens": INTEGERS,
            "generated_tokens": INTEGERS,
            "seed": INTEGERS,
            "steps": INTEGERS,
            "token_ids": st.none() | st.lists(st.integers(min_value=0, max_value=2**31 - 1)),
            "finish": st.none() | TEXT,
        }
    ),
    max_size=4,
    unique_by=lambda row: (row["problem"], row["method"], row["seed"], row["sample"]),
)


def attempt(**changes):
    return {"problem": "a", "sample": 0, "method": "m"} | changes


@given(rows=ROWS)
def test_rows_survive_memory_parquet_and_jsonl(rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    records = Records.from_rows(rows)
    assert list(records.rows()) == rows
    for name in ("parquet", "jsonl"):
        path = getattr(records, f"to_{name}")(folder / f"records.{name}")
        again = getattr(Records, f"from_{name}")(path)
        assert list(again.rows()) == rows
        pd.testing.assert_frame_equal(again.frame, records.frame)
    assert sorted(file.name for file in folder.iterdir()) == ["records.jsonl", "records.parquet"]


def test_columns_not_given_have_defaults_and_the_schema_dtypes():
    records = Records.from_rows([attempt(), attempt(sample=1, reward=0.5)])
    assert next(records.rows()) == {
        "problem": "a", "sample": 0, "method": "m", "prompt": "", "text": "", "answer": None, "correct": None,
        "reward": None, "log_weight": None, "log_prob": None, "log_proposal": None, "prompt_tokens": 0,
        "generated_tokens": 0, "seed": 0, "steps": 0, "token_ids": None, "finish": None,
    }  # fmt: skip
    assert {name: str(dtype) for name, dtype in records.frame.dtypes.items()} == {
        name: column.dtype for name, column in SCHEMA.items()
    }
    assert dict(Records.from_rows([]).frame.dtypes) == dict(records.frame.dtypes)


def test_the_frame_given_is_neither_kept_nor_changed():
    given_frame = pd.DataFrame([attempt(correct=True)], index=[7])
    records = Records(given_frame)
    given_frame.loc[7, "problem"] = "changed"
    assert list(records.frame["problem"]) == ["a"]
    assert list(records.frame.index) == [0]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([attempt(colour="red")], "column 'colour': not one of problem, sample"),
        ([{"problem": "a", "sample": 0}], "column 'method': missing"),
        ([attempt(), attempt(sample=1, problem=None)], "column 'problem', row 1: missing"),
        ([attempt(sample="0")], "column 'sample', row 0: int64 is wanted, got '0'"),
        ([attempt(sample=1.5)], "column 'sample', row 0: int64 is wanted, got 1.5"),
        ([attempt(), attempt(sample=True)], "column 'sample', row 1: int64 is wanted, got True"),
        ([attempt(seed=2**70)], "column 'seed': int64 is wanted, got a larger number"),
        ([attempt(reward=[0.5])], "column 'reward', row 0: float64 is wanted, got [0.5]"),
        ([attempt(reward="0.5")], "column 'reward', row 0: float64 is wanted, got '0.5'"),
        ([attempt(correct=1)], "column 'correct', row 0: boolean is wanted, got 1"),
        ([attempt(answer=24)], "column 'answer', row 0: string is wanted, got 24"),
        ([attempt(), attempt(sample=1, generated_tokens=-3)], "'generated_tokens', row 1: a count is wanted, got -3"),
        (
            [attempt(), attempt(text="again")],
            "row 1: the attempt {'problem': 'a', 'method': 'm', 'seed': 0, 'sample': 0}",
        ),
    ],
)
def test_bad_rows_are_named(rows, message):
    with pytest.raises(ValueError) as error:
        Records.from_rows(rows)
    assert message in str(error.value)


def test_counts_keep_the_order_of_problems():
    right = [("b", True), ("a", False), ("b", False), ("a", False), ("b", True)]
    records = Records.from_rows(attempt(problem=p, correct=c, sample=i) for i, (p, c) in enumerate(right))
    counts = records.counts()
    assert counts.problems == ["b", "a"]
    np.testing.assert_array_equal(counts.successes, [2, 0])
    np.testing.assert_array_equal(counts.trials, [3, 2])
    parts = records.by_problem()
    assert list(parts) == ["b", "a"]
    assert list(parts["a"].frame["sample"]) == [1, 3]
    empty = Records.from_rows([]).counts()
    assert (empty.problems, len(empty.successes), len(empty.trials)) == ([], 0, 0)


def test_counts_need_every_verdict():
    records = Records.from_rows([attempt(correct=True), attempt(sample=1)])
    with pytest.raises(ValueError, match="column 'correct', row 1: missing"):
        records.counts()


def test_concat_joins_and_refuses_the_same_attempt_twice():
    one, two = Records.from_rows([attempt()]), Records.from_rows([attempt(sample=1, correct=True)])
    joined = Records.concat([one, two])
    assert list(joined.rows()) == [*one.rows(), *two.rows()]
    assert len(Records.concat([])) == 0
    with pytest.raises(ValueError, match="is in the table already"):
        Records.concat([joined, two])


def test_files_that_are_not_records_are_named(tmp_path):
    path = tmp_path / "foreign"
    path.write_text('{"problem": "a", "sample": 0, "method": "m"}\n[1]\n')
    with pytest.raises(ValueError, match="foreign, line 2: a JSON object is wanted"):
        Records.from_jsonl(path)
    path.write_text('{"problem": "a"\n')
    with pytest.raises(ValueError, match="foreign, line 1: not JSON"):
        Records.from_jsonl(path)
    path.write_bytes(b'{"problem": "\xff"}')
    with pytest.raises(ValueError, match="foreign, line 1: not JSON"):
        Records.from_jsonl(path)
    path.write_text('{"problem": "a", "sample": 0, "method": "m", "reward": [1]}')
    with pytest.raises(ValueError, match="foreign: column 'reward', row 0"):
        Records.from_jsonl(path)
    path.write_text(json.dumps({"colour": "red"}) + "\n")
    with pytest.raises(ValueError, match="foreign: column 'colour'"):
        Records.from_jsonl(path)
    with pytest.raises(ValueError, match="foreign: not a parquet file"):
        Records.from_parquet(path)
    pd.DataFrame({"colour": ["red"]}).to_parquet(path)
    with pytest.raises(ValueError, match="foreign: column 'colour'"):
        Records.from_parquet(path)
    for reader in (Records.from_jsonl, Records.from_parquet):
        with pytest.raises(FileNotFoundError):
            reader(tmp_path / "absent")
