"""The resumable job: killed anywhere, it ends as it would have; a journal that is not its own is left alone."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ppl.decode import Decoding, Options, engine, job, run_methods
from ppl.decode.journal import NAME, Journal
from ppl.smc import Policy
from tests.decode.toys import Primes, models

ROOT = Path(__file__).resolve().parents[2]
METHODS = ["particle_filter_odds"]  # tests/test_cli.py resumes several
SETTINGS = {"methods": METHODS, "options": Options(6, policy=Policy("always")), "num_problems": 5, "seed": 3}
TWO_A_BATCH = 12  # rows: five problems of six particles are three batches


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch):
    monkeypatch.setattr(engine, "ROWS_PER_BATCH", TWO_A_BATCH)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(result, journal) of the job that nobody killed."""
    out = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "ROWS_PER_BATCH", TWO_A_BATCH)
        result = job.solve(*models(), Primes(), **SETTINGS, out=out)
    return result, (out / NAME).read_bytes()


def assert_same(one: Decoding, other: Decoding, *, seconds=False):
    """Number for number, but for the wall time (unless that is from the same journal)."""
    pd.testing.assert_frame_equal(one.records.frame, other.records.frame)
    drop = [] if seconds else ["seconds"]
    pd.testing.assert_frame_equal(one.answers.drop(columns=drop), other.answers.drop(columns=drop))
    assert one.ess.keys() == other.ess.keys()
    for name in one.ess:
        np.testing.assert_array_equal(one.ess[name], other.ess[name])


def test_the_job_is_what_its_methods_give(whole):
    direct = run_methods(*models(), Primes(), 3, METHODS, options=SETTINGS["options"], num_problems=5, seed=3)
    ours, theirs = (decoding.answers.drop(columns="seconds") for decoding in (whole[0], direct))
    pd.testing.assert_frame_equal(ours, theirs, rtol=1e-4)


def test_a_finished_job_is_read_and_not_run_again(whole, tmp_path, monkeypatch):
    result, journal = whole
    (tmp_path / NAME).write_bytes(journal)
    monkeypatch.setattr(job, "decode_problems", lambda *_, **__: pytest.fail("decoded again"))
    seen = []
    assert_same(job.solve(*models(), Primes(), **SETTINGS, out=tmp_path, progress=seen.append), result, seconds=True)
    assert seen == [5]
    assert (tmp_path / NAME).read_bytes() == journal


def places(journal: bytes) -> dict[str, int]:
    """Where a kill may cut the journal, in bytes."""
    lines = np.cumsum([len(line) for line in journal.splitlines(keepends=True)])
    return {
        "nothing": 0, "in the header": 40, "header without its end": lines[0] - 1, "header": lines[0],
        "start of a problem": lines[0] + 1, "in the first problem": (lines[0] + lines[1]) // 2,
        "within a batch": lines[1], "first batch": lines[2], "in the second batch": lines[2] + 500,
        "last line without its end": lines[-1] - 1, "whole": lines[-1],
    }  # fmt: skip


@pytest.mark.parametrize("place", places(b"{}\n" * 6))
def test_a_job_cut_off_anywhere_ends_the_same(whole, tmp_path, place):
    result, journal = whole
    (tmp_path / NAME).write_bytes(journal[: places(journal)[place]])
    assert_same(job.solve(*models(), Primes(), **SETTINGS, out=tmp_path), result)
    resumed = (tmp_path / NAME).read_bytes()
    assert len(resumed.splitlines()) == len(journal.splitlines())
    # And what is on disk now is a whole journal: reading it gives the same once more.
    assert_same(job.solve(*models(), Primes(), **SETTINGS, out=tmp_path), result)
    assert (tmp_path / NAME).read_bytes() == resumed


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no kill -9")
def test_a_process_killed_with_signal_9_goes_on_in_another(whole, tmp_path):
    code = f"""
import os, signal
from pathlib import Path
from ppl.decode import engine, job
from tests.decode import test_job
engine.ROWS_PER_BATCH = test_job.TWO_A_BATCH
def progress(done):
    if done >= 4:
        os.kill(os.getpid(), signal.SIGKILL)
job.solve(*test_job.models(), test_job.Primes(), **test_job.SETTINGS, out=Path({str(tmp_path)!r}), progress=progress)
"""
    killed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert killed.returncode == -signal.SIGKILL
    assert len((tmp_path / NAME).read_bytes().splitlines()) == 1 + 4  # the header and two batches
    assert_same(job.solve(*models(), Primes(), **SETTINGS, out=tmp_path), whole[0])


def damaged(journal: bytes) -> dict[str, tuple[bytes, str]]:
    """Files that are no journal of this job, and what is said of each."""
    header, *lines = journal.splitlines(keepends=True)
    other = json.loads(header)
    other["job"]["seed"] = 4
    return {
        "another job": (json.dumps(other).encode() + b"\n" + lines[0], "another job: its seed is 4, this one's 3"),
        "binary": (b"\x89PNG\r\n\xff\xfe" * 9, "not a journal of ppl"),
        "text": (b"hello\n", "not a journal of ppl"),
        "torn text": (b"hello", "not a journal of ppl"),
        "JSON of another kind": (b"[1, 2]\n", "not a journal of ppl, format 1"),
        "another format": (b'{"ppl_journal": 2, "job": {}}\n', "not a journal of ppl, format 1"),
        "no job": (b'{"ppl_journal": 1}\n', "not a journal of ppl, format 1"),
        "a damaged line": (header + lines[0] + b"{}}\n" + lines[1], "line 3: damaged"),
        "a line that is a number": (header + b"5\n", "line 2: damaged"),
        "a line without answers": (header + b'{"index": 0, "records": [], "ess": {}}\n', "line 2: damaged"),
        "a line with an attempt twice": (header + _twice(lines[0]), "line 2: damaged .*in the table already"),
    }


def _twice(line: bytes) -> bytes:
    entry = json.loads(line)
    entry["records"][1] = entry["records"][0]
    return json.dumps(entry).encode() + b"\n"


@pytest.mark.parametrize("kind", damaged(b'{"job": {}}\n{"records": [1, 2]}\n3\n'))
def test_what_is_not_this_jobs_journal_is_left_alone(whole, tmp_path, kind):
    content, message = damaged(whole[1])[kind]
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        job.solve(*models(), Primes(), **SETTINGS, out=tmp_path)
    assert (tmp_path / NAME).read_bytes() == content


def test_results_without_a_journal_are_not_overwritten(tmp_path):
    (tmp_path / "records.parquet").write_text("mine")
    with pytest.raises(ValueError, match=r"records.parquet: a result without a journal.jsonl"):
        job.solve(*models(), Primes(), **SETTINGS, out=tmp_path, results=("records.parquet",))
    assert [path.name for path in tmp_path.iterdir()] == ["records.parquet"]


def test_out_must_be_a_folder(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="is a file, and a folder is wanted"):
        Journal(tmp_path / "file", {})
    with pytest.raises(OSError, match="Not a directory"):
        Journal(tmp_path / "file" / "below", {})
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"options": Options(0)}, "budget must be at least 1 solution a problem, got 0"),
        ({"options": Options(2, temperature=0.0)}, "temperature must be above 0"),
        ({"num_problems": 0}, "problems must be at least 1, got 0"),
        ({"seed": -1}, r"seed must be in 0\.\.4294967295, got -1"),
        ({"methods": ["tree"]}, "method 'tree' is not known"),
    ],
)
def test_settings_are_refused_before_anything_is_written(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        job.solve(*models(), Primes(), **(SETTINGS | change), out=tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_models_that_do_not_fit_the_task_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="model 'tiny' reads 32"):
        job.solve(*models(), Primes(max_steps=40), **SETTINGS, out=tmp_path / "new")
    assert not (tmp_path / "new").exists()
