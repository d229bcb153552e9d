"""Logs of evaluation programs, as these write them.

The fixtures have the fields that the programs' own writers put there: lm-evaluation-harness 4e7e0d4 (evaluator.py and
evaluation_tracker.py), inspect_ai 499e615 (log/_log.py, log/_recorders), human-eval (evaluation.py), EvalPlus 26d6d00
(evaluate.py).
"""

import json
import struct
import zipfile
import zlib

import pyarrow
import pytest

from ppl.risk.readers import read
from tests.risk.test_readers import counts, refused


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


# lm-evaluation-harness


def document(doc_id, metrics, *, filter="none", resps=(("The answer is 18.",),), filtered=("18",)):
    """A line as `save_results_samples` writes it."""
    return {
        "doc_id": doc_id,
        "doc": {"question": f"Question {doc_id}?\u2028", "answer": "#### 18"},
        "target": "#### 18",
        "arguments": {"gen_args_0": {"arg_0": "Question: ...\nAnswer:", "arg_1": {"until": ["Question:"]}}},
        "resps": [list(request) for request in resps],
        "filtered_resps": list(filtered),
        "filter": filter,
        "metrics": list(metrics),
        "doc_hash": "d0" * 32,
        "prompt_hash": "b0" * 32,
        "target_hash": "a0" * 32,
        **metrics,
    }  # fmt: skip


def test_lm_eval_generation(tmp_path):
    rows = [document(i, {"exact_match": float(i % 3 == 0)}) for i in range(7)]
    reading = read(write_lines(tmp_path / "samples_gsm8k_2026-08-21T19-56-54.jsonl", rows))
    assert (reading.format, reading.rows) == ("lm_eval", 7)
    assert counts(reading) == {str(i): (int(i % 3 == 0), 1) for i in range(7)}
    assert reading.columns == {"problem": ("doc_id",), "correct": ("exact_match",)}


def test_lm_eval_filters_and_metrics_are_chosen(tmp_path):
    rows = [
        document(i, {"exact_match": float(right)}, filter=name)
        for name, right in (("strict-match", False), ("flexible-extract", True))
        for i in range(3)
    ]
    path = write_lines(tmp_path / "a.jsonl", rows)
    refused(path, "column 'filter' has 2 values", "select={'filter': 'strict-match'}")
    assert counts(read(path, select={"filter": "flexible-extract"})) == {"0": (1, 1), "1": (1, 1), "2": (1, 1)}

    choices = [[["-11.2", "False"]], [["-3.5", "True"]]]
    rows = [
        document(i, {"acc": 1.0, "acc_norm": 0.0}, resps=choices, filtered=[choice[0] for choice in choices])
        for i in range(2)
    ]
    path = write_lines(tmp_path / "hellaswag.jsonl", rows)
    refused(path, "several metrics, 'acc', 'acc_norm'", "metric='acc'")
    reading = read(path, metric="acc_norm")
    assert counts(reading) == {"0": (0, 1), "1": (0, 1)}
    assert not any("responses" in note for note in reading.notes)  # choices of a question are no repeats
    refused(path, "no metric 'f1'; the log has 'acc', 'acc_norm'", metric="f1")
    refused(write_lines(tmp_path / "p.jsonl", [document(0, {})]), "no metric in the log")


def test_lm_eval_repeats(tmp_path):
    responses = [["a", "b", "c", "d"]]
    rows = [document(i, {"exact_match": float(i)}, filter="maj@4", resps=responses, filtered=["a"]) for i in range(2)]
    reading = read(write_lines(tmp_path / "maj.jsonl", rows))
    assert counts(reading) == {"0": (0, 1), "1": (1, 1)}
    assert any("up to 4 responses, and exact_match judges the one" in note for note in reading.notes)
    # pass@1 of a document is the share of its responses that pass.
    rows = [document(i, {"pass@1": i / 4}, filter="create_test", resps=responses, filtered=responses) for i in range(5)]
    reading = read(write_lines(tmp_path / "humaneval.jsonl", rows))
    assert counts(reading) == {str(i): (i, 4) for i in range(5)}
    assert any("share of right responses" in note for note in reading.notes)
    rows[3]["pass@1"] = 0.3
    refused(write_lines(tmp_path / "humaneval.jsonl", rows), "line 4, column 'pass@1': 0.3 is no share of 4 responses")
    # pass@2 does not say how many of 4 were right.
    rows = [document(0, {"pass@2": 5 / 6}, resps=responses, filtered=responses)]
    refused(write_lines(tmp_path / "pass2.jsonl", rows), "column 'pass@2'", "threshold")
    # A task's own metric may list a value for each response.
    rows = [document(i, {"exact_match": [1, 0, i, 1]}, resps=responses, filtered=["a"]) for i in range(2)]
    assert counts(read(write_lines(tmp_path / "list.jsonl", rows))) == {"0": (2, 4), "1": (3, 4)}


def test_lm_eval_scores_and_faults(tmp_path):
    rows = [document(i, {"bleu": 0.25 * i}) for i in range(4)]
    path = write_lines(tmp_path / "a.jsonl", rows)
    refused(path, "line 2, column 'bleu': 0.25 is neither 0 nor 1", "threshold")
    assert counts(read(path, threshold=0.5)) == {"0": (0, 1), "1": (0, 1), "2": (1, 1), "3": (1, 1)}
    rows = [document(0, {"acc": 1.0}), document(1, {"acc": 1.0}), document(0, {"acc": 0.0})]
    refused(write_lines(tmp_path / "b.jsonl", rows), "line 3: problem '0' is in line 1 already")
    rows = [document(0, {"f1": [1, 0, 0.5]})]
    refused(write_lines(tmp_path / "c.jsonl", rows), "line 1, column 'f1': 0.5 is neither 0 nor 1")


def test_lm_eval_logs_of_2023(tmp_path):
    # A JSON list, without filter, metrics and hashes.
    rows = [document(i, {"acc": float(i == 1)}) for i in range(3)]
    old = [
        {key: row[key] for key in ("doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "acc")}
        for row in rows
    ]
    path = tmp_path / "arc.jsonl"
    path.write_text(json.dumps(old, indent=2))
    reading = read(path)
    assert reading.format == "lm_eval"
    assert counts(reading) == {"0": (0, 1), "1": (1, 1), "2": (0, 1)}


# inspect_ai


def sample(id, epoch, value="C", scorer="match", **more):
    scores = None if value is None else {scorer: {"value": value, "answer": "No", "explanation": "No", "history": []}}
    return {
        "id": id, "epoch": epoch, "input": "Is the following statement ...?", "target": " No", "messages": [],
        "output": {"model": "openai/gpt-4o-mini", "choices": []}, "scores": scores, "metadata": {}, "store": {},
        "events": [], "model_usage": {}, "attachments": {}, **more,
    }  # fmt: skip


def header(status="success", **more):
    evaluation = {
        "run_id": "3RWm2YmdLiKCyQMzEcERin", "created": "2024-11-05T20:04:20+00:00", "task": "popularity",
        "task_id": "WckPjG7ovQZLAiZF2fZpog", "task_version": 0, "model": "openai/gpt-4o-mini",
        "dataset": {"name": "popularity", "samples": 100, "sample_ids": [1, 2], "shuffled": False},
        "config": {"limit": 2, "epochs": 2},
    }  # fmt: skip
    results = {"total_samples": 4, "completed_samples": 4, "scores": [{"name": "match", "scorer": "match"}]}
    plan = {"name": "plan", "steps": [{"solver": "generate", "params": {}}]}
    return {"version": 2, "status": status, "eval": evaluation, "plan": plan, "results": results, "stats": {}, **more}


def entries(samples, *, summaries=True, start=None, **more):
    """What an `.eval` archive holds, in the order in which it is written."""
    thin = [{key: one[key] for key in ("id", "epoch", "input", "target", "scores")} for one in samples]
    for short, one in zip(thin, samples, strict=True):
        short["error"] = one["error"]["message"] if one.get("error") else None
    return {
        "_journal/start.json": start or {"version": 2, "eval": header()["eval"], "plan": {}},
        **{f"samples/{one['id']}_epoch_{one['epoch']}.json": one for one in samples},
        "_journal/summaries/1.json": thin,
        **({"summaries.json": thin} if summaries else {}),
        "reductions.json": [],
        "header.json": header(**more),
    }


def write_archive(path, contents):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, value in contents.items():
            archive.writestr(name, json.dumps(value, indent=2))
    return path


def write_zstandard_archive(path, contents):
    """A zip archive of method 93, which inspect_ai writes and Python's zipfile does not before 3.14."""
    data, directory = b"", b""
    for name, value in contents.items():
        raw, label = json.dumps(value).encode(), name.encode()
        half = len(raw) // 2  # two frames, as of an entry that is larger than a frame may be
        packed = b"".join(pyarrow.compress(part, "zstd", asbytes=True) for part in (raw[:half], raw[half:]))
        fields = struct.pack("<5H3I2H", 63, 0, 93, 0, 33, zlib.crc32(raw), len(packed), len(raw), len(label), 0)
        directory += struct.pack("<4sH", b"PK\1\2", 63) + fields + struct.pack("<3H2I", 0, 0, 0, 0, len(data)) + label
        data += b"PK\3\4" + fields + label + packed
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, len(contents), len(contents), len(directory), len(data), 0)
    path.write_bytes(data + directory + end)
    return path


SAMPLES = [sample(2, 2, "C"), sample(2, 1, "C"), sample(1, 1, "I"), sample(1, 2, "N")]


@pytest.mark.parametrize("summaries", [True, False])
@pytest.mark.parametrize("writer", [write_archive, write_zstandard_archive])
def test_inspect_archives(tmp_path, writer, summaries):
    reading = read(writer(tmp_path / "log.eval", entries(SAMPLES, summaries=summaries)))
    assert (reading.format, reading.rows) == ("inspect_ai", 4)
    assert counts(reading) == {"2": (2, 2), "1": (0, 2)}
    assert reading.columns == {"problem": ("id",), "correct": ("match",), "attempt": ("epoch",)}
    assert "match: 'C' as correct and 'I', 'N' as incorrect" in reading.notes


def test_inspect_json(tmp_path):
    for indent in (None, 2):
        path = tmp_path / "log.json"
        path.write_text(json.dumps(header(samples=SAMPLES), indent=indent))
        assert counts(read(path)) == {"2": (2, 2), "1": (0, 2)}
    path.write_text(json.dumps(header()))
    refused(path, "holds no samples")


def test_inspect_interrupted_and_long_samples(tmp_path):
    contents = entries(SAMPLES, summaries=False)
    del contents["header.json"]
    contents["samples/7_epoch_1/sample.json"] = sample(7, 1, "C")
    contents["samples/7_epoch_1/events/0.json"] = []
    reading = read(write_archive(tmp_path / "log.eval", contents))
    assert counts(reading) == {"2": (2, 2), "1": (0, 2), "7": (1, 1)}
    assert any("no header" in note for note in reading.notes)
    reading = read(write_archive(tmp_path / "log.eval", entries(SAMPLES, status="cancelled")))
    assert any("status is cancelled" in note for note in reading.notes)
    stopped = header()["results"] | {"early_stopping": {"manager": "m", "early_stops": []}}
    reading = read(write_archive(tmp_path / "log.eval", entries(SAMPLES, results=stopped)))
    assert any("stopped early" in note for note in reading.notes)


def test_inspect_partial_credit(tmp_path):
    path = write_archive(tmp_path / "log.eval", entries([*SAMPLES, sample(3, 1, "P")]))
    refused(path, "sample 5 (id 3, epoch 1), column 'match': 'P' is partial credit", "partial='correct' or 'incorrect'")
    assert counts(read(path, partial="correct"))["3"] == (1, 1)
    reading = read(path, partial="incorrect")
    assert counts(reading)["3"] == (0, 1)
    assert "match: 1 attempts with partial credit are counted as incorrect" in reading.notes
    # A threshold on numbers says nothing about a letter.
    refused(path, "partial credit", threshold=0.5)


def test_inspect_numbers_and_truth_values(tmp_path):
    values = [1, 0.0, True, "no", 1.0, "C"]
    samples = [sample(i, 1, value) for i, value in enumerate(values)]
    assert list(counts(read(write_archive(tmp_path / "a.eval", entries(samples)))).values()) == [
        (1, 1), (0, 1), (1, 1), (0, 1), (1, 1), (1, 1)
    ]  # fmt: skip
    path = write_archive(tmp_path / "a.eval", entries([sample("x", 1, 0.7), sample("x", 2, 0.2)]))
    refused(path, "sample 1 (id x, epoch 1), column 'match': 0.7 is neither 0 nor 1")
    assert counts(read(path, threshold=0.5)) == {"x": (1, 2)}
    path = write_archive(tmp_path / "a.eval", entries([sample("x", 1, [1, 0])]))
    refused(path, "sample 1 (id x, epoch 1), column 'match': one value is wanted")


def test_inspect_samples_without_a_score(tmp_path):
    failed = sample(3, 1, None, error={"message": "out of memory", "traceback": ""})
    path = write_archive(tmp_path / "a.eval", entries([*SAMPLES, failed]))
    refused(path, "sample 5 (id 3, epoch 1, ended with an error), column 'match': no verdict", "missing=")
    assert counts(read(path, missing="incorrect"))["3"] == (0, 1)
    assert counts(read(path, missing="drop"))["3"] == (0, 0)
    # NaN says that the scorer could not tell.
    path = write_archive(tmp_path / "a.eval", entries([*SAMPLES, sample(3, 1, float("nan"))]))
    refused(path, "sample 5 (id 3, epoch 1), column 'match': no verdict")
    invalid = sample(3, 1, "C", invalidation={"timestamp": "2026-08-01T00:00:00Z", "reason": "leak"})
    path = write_archive(tmp_path / "a.eval", entries([*SAMPLES, invalid], invalidated=True))
    refused(path, "sample 5 (id 3, epoch 1, marked as invalid), column 'match': no verdict")
    refused(write_archive(tmp_path / "a.eval", entries([sample(1, 1, None)])), "no sample has a score")


def test_inspect_scorers_are_chosen(tmp_path):
    both = [one | {"scores": one["scores"] | {"judge": {"value": {"style": 0, "truth": 1}}}} for one in SAMPLES]
    path = write_archive(tmp_path / "a.eval", entries(both))
    refused(path, "several scores, 'match', 'judge/style', 'judge/truth'", "metric='match'")
    assert counts(read(path, metric="match")) == {"2": (2, 2), "1": (0, 2)}
    assert counts(read(path, metric="judge/truth")) == {"2": (2, 2), "1": (2, 2)}
    refused(path, "no scorer 'judge'; the log has 'match', 'judge/style', 'judge/truth'", metric="judge")


def test_inspect_faults(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(header(samples=[*SAMPLES, sample(2, 1, "I")])))
    refused(path, "sample 5 (id 2, epoch 1): epoch '1' of problem '2' is in sample 2 (id 2, epoch 1) already")
    path.write_text(json.dumps(header(samples=[{"id": 1}])))
    refused(path, "sample 1: an object with id, epoch and scores is wanted")
    path.write_text(json.dumps(header(samples=[sample(1, 1) | {"scores": [1]}])))
    refused(path, "sample 1: scores by scorer are wanted, got [1]")
    refused(write_archive(tmp_path / "b.eval", entries(SAMPLES) | {"header.json": []}), "header.json: a JSON object")
    path.write_text(json.dumps(header(samples=[sample(1, 1), sample("1", 1)])))
    refused(path, "'1' is written both as a number and as text")
    refused(write_archive(tmp_path / "b.eval", {"table.csv": "a"}), "no samples/*.json among 'table.csv'")
    refused(write_archive(tmp_path / "b.eval", {}), "no samples/*.json among none")
    path = write_archive(tmp_path / "c.eval", entries(SAMPLES))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    refused(path, "the zip archive is cut off or damaged")
    for writer in (write_archive, write_zstandard_archive):
        path = writer(tmp_path / "d.eval", entries(SAMPLES))
        data = bytearray(path.read_bytes())
        where = data.index(b"summaries.json") + 24  # inside the compressed bytes, which follow the name
        data[where : where + 8] = bytes(8)
        path.write_bytes(bytes(data))
        refused(path, "the entry cannot be read")
    contents = dict.fromkeys(["samples/1_epoch_1.json"], "x")
    refused(write_archive(tmp_path / "e.eval", contents), "samples/1_epoch_1.json: an object with id, epoch and scores")


# human-eval and EvalPlus


def test_human_eval(tmp_path):
    rows = [
        {
            "task_id": f"HumanEval/{task}",
            "completion": "    return 1\n",
            "result": "passed" if task > attempt else "failed: name 'x' is not defined",
            "passed": task > attempt,
        }
        for attempt in range(3)
        for task in range(3)
    ]
    path = write_lines(tmp_path / "samples.jsonl_results.jsonl", rows)
    reading = read(path)
    assert reading.format == "human_eval"
    assert counts(reading) == {"HumanEval/0": (0, 3), "HumanEval/1": (1, 3), "HumanEval/2": (2, 3)}
    rows[4]["passed"] = None
    refused(write_lines(path, rows), "line 5, column 'passed': no verdict")


def solution(task, base, plus):
    return {
        "task_id": task, "solution": "def f(): ...", "base_status": base, "plus_status": plus, "base_fail_tests": [],
        "plus_fail_tests": [],
    }  # fmt: skip


def test_evalplus(tmp_path):
    results = {
        "date": "2025-10-02 17:56",
        "hash": "fe585eb4df8c88d844eeb463ea4d0302",
        "eval": {
            "HumanEval/0": [solution("HumanEval/0", *status) for status in (("pass", "pass"), ("pass", "fail"))],
            # A pass of the added tests only does not count.
            "HumanEval/1": [solution("HumanEval/1", *status) for status in (("timeout", "timeout"), ("fail", "pass"))],
        },
        "pass_at_k": {"base": {"pass@1": 0.5}, "plus": {"pass@1": 0.25}},
    }
    path = tmp_path / "eval_results.json"
    path.write_text(json.dumps(results))
    refused(path, "choose metric='base' or 'plus'")
    reading = read(path, metric="base")
    assert (reading.format, reading.rows) == ("evalplus", 4)
    assert counts(reading) == {"HumanEval/0": (2, 2), "HumanEval/1": (0, 2)}
    assert counts(read(path, metric="plus")) == {"HumanEval/0": (1, 2), "HumanEval/1": (0, 2)}
    with pytest.raises(ValueError, match="metric: 'base' or 'plus' is wanted"):
        read(path, metric="extra")

    for solutions in results["eval"].values():
        for one in solutions:
            one["plus_status"] = None  # --base-only
    path.write_text(json.dumps(results))
    assert counts(read(path)) == {"HumanEval/0": (2, 2), "HumanEval/1": (0, 2)}
    refused(path, "no added tests were run", metric="plus")
    results["eval"]["HumanEval/1"][1]["base_status"] = "skipped"
    path.write_text(json.dumps(results))
    refused(path, "solution 2 of task 'HumanEval/1', column 'base_status': 'skipped' is neither right nor wrong")
    results["eval"]["HumanEval/1"][1] = {"passed": True}
    path.write_text(json.dumps(results))
    refused(path, "task 'HumanEval/1', solution 2: no 'base_status'")


def test_evalplus_of_2023(tmp_path):
    path = tmp_path / "eval_results.json"
    tasks = {
        "HumanEval/0": {"nfiles": 2, "base": [["pass", [True]], ["fail", []]], "plus": [["fail", []], ["fail", []]]}
    }
    path.write_text(json.dumps({"date": "2023-07-01 10:00", "hash": "f", "eval": tasks}))
    assert counts(read(path, metric="base")) == {"HumanEval/0": (1, 2)}
    assert counts(read(path, metric="plus")) == {"HumanEval/0": (0, 2)}
    tasks["HumanEval/0"]["plus"].pop()
    path.write_text(json.dumps({"eval": tasks}))
    refused(path, "task 'HumanEval/0': 'base' and 'plus' with [status, details] of each are wanted", metric="base")
