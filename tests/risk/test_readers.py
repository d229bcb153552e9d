"""Tables of counts and of attempts, in every container; what is refused, and where the error says it is."""

import gzip
import json
import time
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings

from ppl.intervals import beta_interval
from ppl.records import Records
from ppl.risk.attempts import StoppingRule, stop_at_success
from ppl.risk.pass_at import coverage
from ppl.risk.readers import FORMATS, read
from ppl.risk.readers.columns import ROLES, normal

ROOT = Path(__file__).parents[2]
COUNTS = "problem,successes,trials\na,2,4\nb,0,4\nc,4,4\n"
ATTEMPTS = "task_id,trial,reward\n0,0,0\n0,1,1\n1,0,1\n1,1,1\n"


@pytest.fixture
def write(tmp_path):
    """Write text or bytes under a name and give the path."""

    def writer(content, name="table.csv"):
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return writer


def counts(reading):
    attempts = reading.attempts
    return dict(
        zip(attempts.problems, zip(attempts.successes.tolist(), attempts.trials.tolist(), strict=True), strict=True)
    )


def refused(path, *parts, **options):
    """The file is refused, and each of these is in the message, the file's own name first."""
    with pytest.raises(ValueError) as error:
        read(path, **options)
    message = str(error.value)
    for part in (str(path), *parts):
        assert part in message
    assert "\n" not in message.replace(str(path), "")


def test_a_row_a_problem(write):
    reading = read(write(COUNTS))
    assert counts(reading) == {"a": (2, 4), "b": (0, 4), "c": (4, 4)}
    assert (reading.format, reading.layout, reading.rows) == ("csv", "problems", 3)
    assert reading.columns == {"problem": ("problem",), "successes": ("successes",), "trials": ("trials",)}
    assert reading.attempts.rule == StoppingRule("fixed")
    assert "3 problems, 4 trials each, 12 in all, 6 successes; rule fixed" in str(reading)
    assert reading.summary().loc["a"].tolist() == [2, 4]
    assert any("taken to be fixed" in note for note in reading.notes)


def test_a_row_an_attempt(write):
    reading = read(write(ATTEMPTS))
    assert counts(reading) == {"0": (1, 2), "1": (2, 2)}
    assert reading.layout == "attempts"
    assert reading.columns == {"problem": ("task_id",), "correct": ("reward",), "attempt": ("trial",)}
    assert "reward: '1' as correct and '0' as incorrect" in reading.notes


@pytest.mark.parametrize(
    ("problem", "successes", "trials"),
    [
        ("task_id", "correct", "n"),
        ("question", "n_correct", "n_samples"),
        ("Problem ID", "Num-Correct", "Num Samples"),
        ("problem_idx", "c", "attempts"),
        ("behavior_idx", "n_success", "n_samples"),
        ("id", "k", "total"),
    ],
)
def test_usual_names_of_columns(write, problem, successes, trials):
    reading = read(write(f"{problem},{successes},{trials},level\nx,1,3,2\ny,2,3,2\n"))
    assert counts(reading) == {"x": (1, 3), "y": (2, 3)}
    assert "columns that are not read: 'level'" in reading.notes


def test_names_of_columns_are_in_normal_form_and_mean_one_thing():
    for role in ROLES.values():
        assert all(name == normal(name) for name in role.names)
    # `correct` and `passed` are counts beside trials, and verdicts without; nothing else has two meanings.
    names = [name for role in ROLES.values() for name in role.names]
    assert {name for name in names if names.count(name) > 1} == {"correct", "passed"}


def test_every_container_gives_the_same_counts(write, tmp_path):
    frame = pd.DataFrame({"task_id": ["x", "x", "y", "y"], "trial": [0, 1, 0, 1], "passed": [True, False, True, True]})
    lines = frame.to_json(orient="records", lines=True)
    frame.to_parquet(tmp_path / "a.parquet")
    parquet = (tmp_path / "a.parquet").read_bytes()
    written = {
        "csv": [frame.to_csv(index=False), frame.to_csv(index=False, sep="\t"), frame.to_csv(index=False, sep=";")],
        "jsonl": [lines, lines.strip(), lines.replace("\n", "\r\n"), lines.replace("\n", "\n\n")],
        "json": [frame.to_json(orient="records"), frame.to_json(orient="records", indent=2)],
        "parquet": [parquet],
    }
    for format, contents in written.items():
        for content in contents:
            raw = content.encode() if isinstance(content, str) else content
            for data in (raw, gzip.compress(raw)):
                # The name says nothing: the content decides.
                reading = read(write(data, "file.txt"))
                assert reading.format == format
                assert counts(reading) == {"x": (1, 2), "y": (2, 2)}
                assert counts(read(write(data, "file.txt"), format=format)) == counts(reading)


def test_a_path_may_be_text(write):
    assert read(str(write(COUNTS))).path.endswith("table.csv")


@settings(max_examples=10)
@given(
    st.dictionaries(
        # A cell cannot say whether quotes or spaces around it were meant; a line break inside quotes is kept.
        st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), min_size=1).filter(
            lambda name: name == name.strip()
        ),
        st.tuples(st.integers(0, 2**40), st.integers(0, 2**40)),
        min_size=1,
        max_size=8,
    )
)
def test_what_is_written_is_read(tmp_path_factory, table):
    names = list(table)
    successes, trials = [min(pair) for pair in table.values()], [max(pair) for pair in table.values()]
    frame = pd.DataFrame({"problem": names, "successes": successes, "trials": trials})
    folder = tmp_path_factory.mktemp("table")
    frame.to_csv(folder / "csv", index=False)
    frame.to_json(folder / "jsonl", orient="records", lines=True)
    frame.to_parquet(folder / "parquet")
    for format in ("csv", "jsonl", "parquet"):
        attempts = read(folder / format, format=format).attempts
        assert attempts.problems == tuple(names)
        assert attempts.successes.tolist() == successes
        assert attempts.trials.tolist() == trials


def test_labels_stay_as_they_are_written(write):
    path = write("problem,successes,trials\n1,0,9\n1.0,1,9\n01,2,9\n1e0,3,9\nNA,4,9\nπ,5,9\n")
    assert counts(read(path)) == {"1": (0, 9), "1.0": (1, 9), "01": (2, 9), "1e0": (3, 9), "NA": (4, 9), "π": (5, 9)}
    path = write('{"id": 1, "c": 0, "n": 9}\n{"id": 1.0, "c": 1, "n": 9}\n{"id": "01", "c": 2, "n": 9}\n', "a.jsonl")
    assert list(counts(read(path))) == ["1", "1.0", "01"]


def test_a_number_and_the_same_text_are_not_taken_for_one_problem(write):
    path = write('{"id": 1, "correct": 0}\n{"id": "1", "correct": 1}\n', "a.jsonl")
    refused(path, "line 2, column 'id'", "'1' is written both as a number and as text")


def test_byte_order_mark_line_ends_and_spaces(write):
    path = write(b"\xef\xbb\xbfproblem, successes ,trials\r\na, 1, 2\r\n\r\nb, 0, 2\r\n")
    assert counts(read(path)) == {"a": (1, 2), "b": (0, 2)}
    assert counts(read(write(COUNTS.replace("\n", "\r")))) == {"a": (2, 4), "b": (0, 4), "c": (4, 4)}


def test_lines_are_those_an_editor_shows(write):
    path = write('problem,text,successes,trials\na,"one\ntwo, ""quoted""\n\nfour",1,2\n\nb,x,3,2\n')
    refused(path, "line 7, column 'successes': 3 successes, more than the 2 trials")
    # U+2028 ends a line for Python, and not in a file.
    refused(write('{"id": "a\u2028b", "correct": 1}\n{"id": "c", "correct": 2}\n'), "line 2, column 'correct': 2 is")


def test_long_cells_are_read(write):
    path = write(f'problem,text,correct\na,"{"x" * 200_000}",1\n')
    assert counts(read(path)) == {"a": (1, 1)}


def test_problems_without_names_are_numbered(write):
    reading = read(write("successes,trials\n3,5\n0,5\n"))
    assert counts(reading) == {"0": (3, 5), "1": (0, 5)}
    assert any("no column names the problems" in note for note in reading.notes)
    # With a third column, that one may be the name.
    refused(write("item_code,successes,trials\nx,3,5\n"), "no column says which problem", "'item_code'")


def test_columns_named_by_the_user(write):
    path = write("item_code,right,asked\nx,3,5\ny,0,5\n")
    reading = read(path, columns={"problem": "item_code", "successes": "right", "trials": "asked"})
    assert counts(reading) == {"x": (3, 5), "y": (0, 5)}
    refused(path, "no column 'item' for problem", "'item_code', 'right', 'asked'", columns={"problem": "item"})
    with pytest.raises(ValueError, match="columns: only problem, successes, .* can be named, got 'wins'"):
        read(path, columns={"wins": "right"})
    with pytest.raises(ValueError, match="a row is an attempt .* not both"):
        read(path, columns={"correct": "right", "trials": "asked"})


def test_a_table_with_a_column_for_each_model(write):
    path = write("Question,gpt,claude (new)\nq1,1.00,0.00\nq2,0.00,0.00\n")
    assert counts(read(path, columns={"correct": "gpt"})) == {"q1": (1, 1), "q2": (0, 1)}
    assert counts(read(path, columns={"correct": "claude (new)"})) == {"q1": (0, 1), "q2": (0, 1)}
    refused(
        path, "no column says whether one attempt was right", "'Question', 'gpt', 'claude (new)'", "{'correct': 'NAME'}"
    )


def test_missing_and_ambiguous_columns(write):
    refused(write("a,b\n1,2\n"), "the columns are 'a', 'b'", "successes and trials", "{'correct': 'NAME'}")
    refused(write("problem,verdict_text\n1,2\n"), "no column says whether one attempt was right")
    path = write("task,question,correct\ngsm8k,q1,1\ngsm8k,q2,0\n")
    refused(path, "the columns 'task', 'question' could each say which problem", "columns={'problem': 'task'}")
    assert counts(read(path, columns={"problem": "question"})) == {"q1": (1, 1), "q2": (0, 1)}
    refused(write("id,score,reward\na,1,1\n"), "'score', 'reward' could each say whether one attempt was right")


def test_our_own_name_of_a_column_wins(write):
    reading = read(write("problem,id,correct,score\na,1,1,0.3\nb,2,0,0.9\n"))
    assert counts(reading) == {"a": (1, 1), "b": (0, 1)}
    assert "columns that are not read: 'id', 'score'" in reading.notes


def test_several_models_in_a_table_of_counts(write):
    path = write("model,problem,n_correct,n_samples\nP 12B,a,1,9\nP 12B,b,2,9\nP 70M,a,0,9\nP 70M,b,0,9\n")
    refused(
        path,
        "line 4: problem 'a' is in line 2 already",
        "several of 'model'",
        "choose one, as in select={'model': 'P 12B'}",
    )
    assert counts(read(path, select={"model": "P 12B"})) == {"a": (1, 9), "b": (2, 9)}
    small = read(path, select={"model": "P 70M"})
    assert counts(small) == {"a": (0, 9), "b": (0, 9)}
    assert not any("not read" in note for note in small.notes)
    refused(path, "no row has '12B' in column 'model'; it has 'P 12B', 'P 70M'", select={"model": "12B"})
    refused(path, "select: no column 'size'", "'model', 'problem'", select={"size": "12B"})


def test_selecting_by_several_columns_and_by_numbers(write):
    rows = [
        {"id": i, "size": size, "tokens": tokens, "c": i, "n": 9, "flop": 1.5 * i + size}
        for size in (1, 2) for tokens in ("20B", "300B") for i in (3, 5)
    ]  # fmt: skip
    path = write("".join(json.dumps(row) + "\n" for row in rows), "sweep.jsonl")
    refused(path, "line 3: problem '3' is in line 1 already", "select={'size': '1', 'tokens': '20B'}")
    reading = read(path, select={"size": 2, "tokens": "300B"})
    assert counts(reading) == {"3": (3, 9), "5": (5, 9)}
    # An error after selecting still names the line of the file.
    path = write("".join(json.dumps(row | {"c": 10 if row["size"] == 2 else 1}) + "\n" for row in rows), "sweep.jsonl")
    refused(path, "line 5, column 'c': 10 successes", select={"size": 2, "tokens": "20B"})


def test_attempts_of_several_models_are_not_pooled(write):
    path = write("model,task_id,correct\nA,x,1\nB,x,0\nA,y,1\nB,y,1\n")
    refused(path, "column 'model' has 2 values ('A', 'B')", "select={'model': 'A'}")
    assert counts(read(path, select={"model": "B"})) == {"x": (0, 1), "y": (1, 1)}


def test_a_problem_twice_in_a_table_of_counts(write):
    refused(write("problem,successes,trials\na,1,2\nb,1,2\na,1,2\n"), "line 4: problem 'a' is in line 2 already")
    # `n` is the number of shots here: the row is an attempt.
    path = write("id,correct,n\na,1,5\na,0,5\n")
    refused(path, "line 3: problem 'a' is in line 2 already", "columns={'correct': 'correct'}")
    assert counts(read(path, columns={"correct": "correct"})) == {"a": (1, 2)}
    assert any("no count is above 1" in note for note in read(write("id,correct,n\na,1,5\nb,0,5\n")).notes)


def test_an_attempt_twice(write):
    refused(
        write("task_id,trial,reward\nx,0,1\nx,1,0\ny,0,1\nx,1,1\n"),
        "line 5: trial '1' of problem 'x' is in line 3 already",
    )
    path = write("problem,seed,sample,correct\nx,0,0,1\nx,1,0,0\nx,0,0,1\n")
    refused(path, "line 4: seed '0', sample '0' of problem 'x' is in line 2 already")
    refused(write("setting,task_id,trial,reward\nu,x,0,1\nu,x,1,1\nv,x,0,1\nv,x,1,0\n"), "select={'setting': 'u'}")


def test_a_column_of_texts_does_not_number_attempts(write):
    path = write("problem,sample,correct\nx,print(1),1\nx,print(1),1\nx,print(2),0\n")
    reading = read(path)
    assert counts(reading) == {"x": (2, 3)}
    assert "attempt" not in reading.columns
    refused(path, "sample 'print(1)' of problem 'x'", columns={"attempt": "sample"})


@pytest.mark.parametrize("right", ["1", "1.0", "true", "True", "PASS", "passed", "yes", " 1 ", "correct"])
@pytest.mark.parametrize("wrong", ["0", "0.0", "FALSE", "fail", "no", "-0"])
def test_words_for_right_and_wrong(write, right, wrong):
    assert counts(read(write(f"id,correct\na,{right}\na,{wrong}\nb,{wrong}\n"))) == {"a": (1, 2), "b": (0, 1)}


@pytest.mark.parametrize("blank", ["", "nan", "NaN", "null", "None", "N/A"])
def test_a_blank_verdict_is_refused_unless_told(write, blank):
    path = write(f"id,correct,x\na,1,\na,{blank},\nb,{blank},\n")
    refused(path, "line 3, column 'correct': no verdict", "missing='incorrect' or 'drop'")
    assert counts(read(path, missing="incorrect")) == {"a": (1, 2), "b": (0, 1)}
    dropped = read(path, missing="drop")
    assert counts(dropped) == {"a": (1, 1), "b": (0, 0)}
    assert "correct: 2 attempts without a verdict are left out" in dropped.notes


def test_blank_verdicts_of_json_and_parquet(write, tmp_path):
    for line in ('{"id": "a", "correct": null}', '{"id": "a", "correct": NaN}', '{"id": "a"}'):
        refused(write(f'{{"id": "a", "correct": 1}}\n{line}\n'), "line 2, column 'correct': no verdict")
    frame = pd.DataFrame({"id": ["a", "b"], "correct": pd.array([True, None], dtype="boolean")})
    frame.to_parquet(tmp_path / "a.parquet")
    refused(tmp_path / "a.parquet", "row 2, column 'correct': no verdict")


def test_scores_are_judged_by_a_threshold_only(write):
    path = write("id,score\na,0.9\na,0.5\nb,0.25\n")
    refused(path, "line 2, column 'score': '0.9' is neither 0 nor 1", "threshold=NUMBER")
    reading = read(path, threshold=0.5)
    assert counts(reading) == {"a": (2, 2), "b": (0, 1)}
    assert "score: scores from 0.5 up are counted as correct" in reading.notes
    # 1 is not right by itself once a threshold is given.
    assert counts(read(write("id,score\na,1\na,7\n"), threshold=5)) == {"a": (1, 2)}


@pytest.mark.parametrize(
    ("cell", "said"),
    [("maybe", "neither right nor wrong"), ("inf", "neither right nor wrong"), ("2", "neither 0 nor 1"),
     ("1_0", "neither right nor wrong")],
)  # fmt: skip
def test_an_unclear_verdict_names_its_line(write, cell, said):
    refused(write(f"id,correct\na,1\nb,0\nc,{cell}\n"), f"line 4, column 'correct': {cell!r} is {said}")


def test_a_nested_value_is_no_verdict(write):
    refused(write('{"id": 1, "correct": [1, 0]}\n'), "line 1, column 'correct': one value is wanted, got [1, 0]")
    refused(write('{"id": {"a": 1}, "correct": 1}\n'), "line 1, column 'id': a label is wanted")
    refused(write("id,correct\n,1\n"), "line 2, column 'id': a label is wanted, got nothing")


@pytest.mark.parametrize(
    ("successes", "trials", "said"),
    [
        ("5", "4", "column 'successes': 5 successes, more than the 4 trials"),
        ("-1", "4", "column 'successes': is '-1'; a whole number from 0 up is wanted"),
        ("1.5", "4", "column 'successes': is '1.5'"),
        ("1", "4.25", "column 'trials': is '4.25'"),
        ("", "4", "column 'successes': is blank"),
        ("1", "nan", "column 'trials': is blank"),
        ("inf", "4", "column 'successes': is 'inf'"),
        ("many", "4", "column 'successes': is 'many'"),
        ("1", "1_000", "column 'trials': is '1_000'"),
        ("1", '"1,000"', "column 'trials': is '1,000'"),
    ],
)
def test_a_faulty_count_names_its_line(write, successes, trials, said):
    refused(write(f"problem,successes,trials\na,1,2\nb,{successes},{trials}\n"), f"line 3, {said}")


def test_counts_may_be_written_as_floats(write):
    assert counts(read(write("problem,successes,trials\na,1.0,2.0\nb,0,1e4\n"))) == {"a": (1, 2), "b": (0, 10_000)}
    refused(write('{"problem": "a", "successes": true, "trials": 2}\n'), "line 1, column 'successes': is True")


def test_options_for_verdicts_do_not_apply_to_counts(write):
    refused(write(COUNTS), "threshold and missing apply to verdicts", threshold=0.5)


@pytest.mark.parametrize("header", ["rule", "stopping_rule"])
def test_the_rule_that_the_file_declares(write, header):
    rule = "stop_at_success(batch=60)"
    path = write(f"problem,successes,trials,{header}\na,1,60,{rule}\nb,0,120,{rule}\n")
    reading = read(path)
    assert reading.attempts.rule == stop_at_success(60)
    assert "the file says that the rule is stop_at_success(batch=60)" in reading.notes
    assert read(path, rule="stop_at_success(batch=60)").attempts.rule == stop_at_success(60)
    refused(path, "rule: fixed was given, and the file's own column says stop_at_success(batch=60)", rule="fixed")


def test_faulty_rules(write):
    path = write("problem,successes,trials,rule\na,1,4,fixed\nb,0,4,fixed\nc,0,9,adaptive\n")
    refused(path, "line 4, column 'rule': mixed rules: 'adaptive' here and 'fixed' in line 2")
    refused(
        write("problem,successes,trials,rule\na,1,4,sometimes\n"), "rule: fixed, stop_at_success(batch=N) or adaptive"
    )
    assert read(write("problem,successes,trials,rule\na,1,4,\n"), rule="adaptive").attempts.rule.name == "adaptive"
    with pytest.raises(ValueError, match="rule: fixed"):
        read(write(COUNTS), rule="often")


def test_files_that_cannot_be_read(write, tmp_path):
    with pytest.raises(FileNotFoundError, match="absent.csv"):
        read(tmp_path / "absent.csv")
    refused(tmp_path, "is a folder")
    for empty in (b"", b"\n \n", b"\xef\xbb\xbf", gzip.compress(b"")):
        refused(write(empty), "is empty")
    refused(write("problem,successes,trials\n"), "a header and no row below it")
    refused(write("task_id,correct\n\n"), "a header and no row below it")
    refused(write(bytes(range(256))), "zero bytes")
    refused(write("problem,successes,trials\nä,1,2\n".encode("utf-16")), "zero bytes")
    refused(write("problem,successes,trials\na,1,2\nä,1,2\n".encode("latin-1")), "line 3: not UTF-8 text: byte 0xe4")
    packed = gzip.compress(ATTEMPTS.encode())
    for cut in (packed[: len(packed) // 2], packed[:-3], packed[:12] + b"\xff\xff" + packed[14:]):
        refused(write(cut), "the gzip stream is cut off or damaged")


def test_damaged_parquet(write, tmp_path):
    pd.DataFrame({"id": ["a"], "correct": [1]}).to_parquet(tmp_path / "a.parquet")
    data = (tmp_path / "a.parquet").read_bytes()
    refused(write(data[: len(data) // 2]), "not a parquet file that can be read")
    pd.DataFrame({"id": pd.Series([], dtype=str), "correct": pd.Series([], dtype=bool)}).to_parquet(tmp_path / "e")
    refused(tmp_path / "e", "no row below it")


def test_damaged_csv(write):
    refused(write("problem,successes,trials\na,1,2\nb,1\n"), "line 3: 2 fields, and the header has 3")
    refused(write("problem,successes,trials\na,1,2,3\n"), "line 2: 4 fields, and the header has 3")
    refused(write('problem,successes,trials\na,1,2\n"b,1,2\nc,1,2\n'), "line 3: not CSV")
    refused(write("problem,successes,successes\na,1,2\n"), "line 1: the column 'successes' is in the header twice")


def test_damaged_json(write):
    good = '{"id": "a", "correct": 1}\n'
    refused(
        write(good * 2 + '{"id": "a" "correct": 1}\n' + good), "line 3: not JSON: Expecting ',' delimiter (column 12)"
    )
    refused(write('{"id": "a" "correct": 1}\n' + good), "line 1: not JSON")
    refused(write(good + '{"id": "a", "corr'), "line 2: not JSON")
    refused(write(good + "[1, 2]\n"), "line 2: a JSON object is wanted, got [1, 2]")
    refused(write(good + good.strip() + good), "line 2: one JSON object is wanted, and after it comes '{")
    refused(write('[\n{"id": "a", "correct": 1},\n{"id": "b"\n]\n'), "line 4: not JSON")
    refused(write('[{"id": "a", "correct": 1}, 7]'), "entry 2: a JSON object is wanted, got 7")
    refused(write('{\n"results": {"acc": 0.5}\n}'), "with the keys 'results'", "no inspect_ai log")
    assert counts(read(write(good.strip()))) == {"a": (1, 1)}


def test_the_format_may_be_given(write):
    with pytest.raises(ValueError, match="format: one of csv, jsonl, .* is wanted, got 'excel'"):
        read(write(COUNTS), format="excel")
    refused(write('{"id": 1, "correct": 1}\n'), "format='lm_eval'", "a JSON object, read as jsonl", format="lm_eval")
    refused(write(COUNTS), "format='parquet', and the file is text that is no JSON, read as csv", format="parquet")
    # A header that begins like JSON.
    assert counts(read(write("[id],correct\nx,1\n"), format="csv", columns={"problem": "[id]"})) == {"x": (1, 1)}


def test_an_option_of_another_format_is_refused(write):
    refused(write(COUNTS), "metric: does not apply", "columns, select, threshold, missing", metric="acc")
    refused(write(COUNTS), "partial: does not apply", partial="correct")
    for option, value in (("threshold", float("nan")), ("partial", "half"), ("missing", "ignore")):
        with pytest.raises(ValueError, match=f"{option}: "):
            read(write(COUNTS), **{option: value})
    assert {name for names in FORMATS.values() for name in names} == {
        "columns", "select", "metric", "threshold", "partial", "missing"
    }  # fmt: skip


def test_records(tmp_path):
    rows = [
        {"problem": problem, "sample": sample, "method": method, "seed": seed, "correct": sample == 0, "reward": 0.3}
        for problem in "ab" for method in ("sample", "particle_filter") for seed in (0, 1) for sample in range(3)
    ]  # fmt: skip
    records = Records.from_rows(rows)
    for path in (records.to_parquet(tmp_path / "r.parquet"), records.to_jsonl(tmp_path / "r.jsonl")):
        refused(path, "sample '0' of problem 'a'", "several of 'method'", "select={'method': 'sample'}")
        reading = read(path, select={"method": "particle_filter"})
        assert reading.format == "records"
        assert counts(reading) == {"a": (2, 6), "b": (2, 6)}
    unverified = Records.from_rows([row | {"correct": None} if row["seed"] else row for row in rows])
    path = unverified.to_jsonl(tmp_path / "u.jsonl")
    refused(path, "line 4, column 'correct': no verdict", select={"method": "sample"})


def test_the_shipped_rewards_are_read_as_they_are():
    # What a new user types first: `ppl risk examples/data/tau-bench-airline-gpt4o/rewards.csv`.
    reading = read(ROOT / "examples" / "data" / "tau-bench-airline-gpt4o" / "rewards.csv")
    assert reading.columns == {"problem": ("task_id",), "correct": ("reward",), "attempt": ("trial",)}
    assert reading.warnings == ()
    table = coverage(reading.attempts, metric="pass_hat", draws=10).summary()
    assert table["pass^k"].round(3).tolist() == [0.42, 0.273, 0.22, 0.2]  # as published


def test_all_right_and_all_wrong_columns_of_a_published_matrix():
    matrix = ROOT / "tests" / "risk" / "data" / "eval-matrices" / "langchain_tool_use.csv"
    for model, successes, interval in (
        ("claude-2.1", 20, (0.8389, 0.9988)),
        ("llama-v2-13b-chat", 0, (0.0012, 0.1611)),
        ("gpt-4-1106-preview (functions)", 18, (0.6962, 0.9695)),
    ):
        attempts = read(matrix, columns={"correct": model}).attempts
        assert (attempts.successes.sum(), len(attempts)) == (successes, 20)
        assert beta_interval(successes, 20, 0.95, prior=(1, 1)) == pytest.approx(interval, abs=5e-5)


def test_ten_thousand_problems_take_well_under_a_second_of_one_core(tmp_path):
    problems, attempts = 10_000, 10
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({
        "task_id": np.repeat([f"task {i}" for i in range(problems)], attempts),
        "trial": np.tile(np.arange(attempts), problems),
        "reward": rng.integers(0, 2, problems * attempts),
    })  # fmt: skip
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    for name in ("a.csv", "a.jsonl"):
        start = time.process_time()
        reading = read(tmp_path / name)
        seconds = time.process_time() - start
        assert reading.attempts.trials.sum() == len(frame)
        assert reading.attempts.successes.sum() == frame["reward"].sum()
        assert seconds < 2  # 0.3 measured; the rest is for slow machines
