"""`ppl solve` as a user runs it: what it writes, what it says of bad input, and that nothing is touched then."""

import importlib
import json
import os
import pty
import shutil
import subprocess
import sys
import warnings

import matplotlib.image
import numpy as np
import pandas as pd
import pytest

from ppl.cli import main
from ppl.decode import job
from ppl.decode.report import FILES
from ppl.lm import load, load_reward
from ppl.lm.serve import Server
from ppl.records import Records
from tests.decode.toys import write_models

WORDS = ("Evaluate:", "+", "-", "*", "=", "(", ")")
METHODS = ["sample", "majority", "best_of_n", "particle_filter"]
KEYS = {
    "name", "accuracy", "accuracy_interval", "brier", "log_evidence", "log_evidence_se", "ess", "generated_tokens",
    "reward_calls", "seconds",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Model folders `lm` and `prm` with the vocabulary of `arithmetic`."""
    folder = tmp_path_factory.mktemp("models")
    write_models(folder, words=WORDS, max_number=999)
    return folder


def command(folder, *extra, task="arithmetic-2"):
    models = ["--model", str(folder / "lm"), "--reward", str(folder / "prm")]
    return ["ppl", "solve", task, *models, "--problems", "3", "--budget", "4", *map(str, extra)]


def run(arguments):
    """Exit code of the command line in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", list(arguments))
        with pytest.raises(SystemExit) as stop:
            main()
    return stop.value.code or 0


@pytest.fixture(scope="module")
def solved(folder, tmp_path_factory):
    """The output folder of one whole run, and its command."""
    out = tmp_path_factory.mktemp("solved") / "deep" / "run"
    arguments = command(folder, "--methods", ",".join(METHODS), "--out", out, "--json", out / "summary.json")
    assert run(arguments) == 0
    return out, arguments


def test_a_run_writes_records_netcdf_plots_and_json(solved):
    out, _ = solved
    assert {path.name for path in out.iterdir()} == {*FILES, "journal.jsonl", "summary.json"}
    records = Records.from_parquet(out / "records.parquet")
    # The methods that select from plain samples share them; they stand under the first of these.
    assert records.frame.groupby("method").size().to_dict() == {"sample": 12, "particle_filter": 12}
    assert records.frame.correct.notna().all()
    answers = pd.read_parquet(out / "answers.parquet")
    assert answers.groupby("method", sort=False).problem.nunique().to_dict() == dict.fromkeys(METHODS, 3)
    for name in ("accuracy.png", "ess.png", "reliability.png"):
        assert np.ptp(matplotlib.image.imread(out / name)) > 0.5  # something is drawn


def test_arviz_opens_what_a_run_wrote(solved):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\s*ArviZ is undergoing", category=FutureWarning)
        arviz = importlib.import_module("arviz")
    data = arviz.from_netcdf(solved[0] / "run.nc")
    answers = pd.read_parquet(solved[0] / "answers.parquet")
    ours = answers[answers.method == "particle_filter"].set_index("problem").log_evidence
    np.testing.assert_array_equal(data["sample_stats"]["log_evidence_particle_filter"].to_numpy()[0], ours.to_numpy())
    assert data["posterior"]["correct_majority"].shape == (1, 3)


def test_json_has_the_figures_of_the_table(solved):
    said = json.loads((solved[0] / "summary.json").read_text())
    assert said["problems"] == 3
    assert [method["name"] for method in said["methods"]] == METHODS
    for method in said["methods"]:
        assert method.keys() >= KEYS
        lower, upper = method["accuracy_interval"]
        assert 0 <= lower <= method["accuracy"] + 0.1 <= upper + 0.1 <= 1.1
        filtered = method["name"] == "particle_filter"
        for name in ("log_evidence", "ess"):
            assert (method[name] is not None) == filtered
    sample, majority, best, _ = said["methods"]
    assert sample["generated_tokens"] == pytest.approx(majority["generated_tokens"] / 4)
    assert majority["generated_tokens"] == best["generated_tokens"]
    assert (majority["reward_calls"], best["reward_calls"]) == (0, 4)


def test_the_same_command_again_reads_the_journal(solved, capsys, monkeypatch):
    out, arguments = solved
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.suffix != ".nc"}
    monkeypatch.setattr(job, "decode_problems", lambda *_, **__: pytest.fail("decoded again"))
    assert run(arguments) == 0
    assert {name: (out / name).read_bytes() for name in before} == before
    printed = capsys.readouterr()
    assert printed.err == ""
    lines = printed.out.splitlines()
    assert lines[0] == "arithmetic-2: 3 problems, budget 4, seed 0"
    assert [line.split()[0] for line in lines[2:6]] == METHODS  # a row is one line, whatever the width
    assert lines[6:] == [f"wrote {out / name}" for name in (*FILES, "summary.json")]


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="no pseudo-terminals here")
def test_a_terminal_sees_a_progress_bar_and_a_pipe_clean_text(solved):
    # A new process, so this also says that the journal of one process is that of another.
    _, arguments = solved
    master, slave = pty.openpty()
    code = "from ppl.cli import main; main()"
    environment = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments[1:]], stdout=subprocess.PIPE, stderr=slave, text=True,
        env=environment | {"TERM": "xterm", "COLUMNS": "100"},
    )  # fmt: skip
    os.close(slave)
    shown = os.read(master, 1 << 16).decode()
    os.close(master)
    assert done.returncode == 0, shown
    assert "arithmetic-2: 4 methods, budget 4" in shown
    assert "3/3" in shown
    assert shown.rstrip("\r\n").endswith(("\x1b[2K", "\x1b[?25h"))  # the bar's line is erased, the cursor is back
    assert "\x1b" not in done.stdout
    assert done.stdout.splitlines()[0] == "arithmetic-2: 3 problems, budget 4, seed 0"


BAD_INPUT = {
    "unknown task": (
        ["--seed", 1],
        "sudoku",
        "ppl: task 'sudoku' is not known; known are arithmetic, countdown, game24",
    ),
    "unknown method": (["--methods", "sample,tree"], None, "method 'tree' is not known; known are sample, majority"),
    "a method twice": (["--methods", "sample,sample"], None, "each once, got ['sample', 'sample']"),
    "no method": (["--methods", ","], None, "methods must be one or more names"),
    "budget 0": (["--budget", 0], None, "budget must be at least 1 solution a problem, got 0"),
    "problems 0": (["--problems", 0], None, "problems must be at least 1, got 0"),
    "too many problems": (["--problems", 101], "game24", "num must be 0 to 100 for game24, got 101"),
    "temperature 0": (["--temperature", 0], None, "temperature must be above 0 and finite, got 0.0"),
    "seed below 0": (["--seed", -1], None, "seed must be in 0..4294967295, got -1"),
    "budget of a word": (["--budget", "many"], None, "Invalid value for '--budget'"),
    "unknown option": (["--bugdet", 3], None, "No such option: --bugdet"),
    "missing model": (["--model", "{folder}/none"], None, "none' is neither a folder nor a bundled model; known:"),
    "model without weights": (["--model", "{folder}/empty"], None, "config.json: no such file"),
    "corrupt weights": (["--model", "{folder}/corrupt"], None, "model.safetensors: not a readable safetensors file"),
    "reward model as model": (["--model", "{folder}/prm"], None, "is a reward model"),
    "model as reward model": (["--reward", "{folder}/lm"], None, "has no score head"),
    "a task of other words": (["--out", "{new}"], "countdown-3", "'Numbers:' is not in the model's vocabulary"),
    "out is a file": (["--out", "{file}"], None, "is a file, and a folder is wanted"),
    "out below a file": (["--out", "{file}/run"], None, "Not a directory"),
    "json is a folder": (["--json", "{folder}"], None, "is a folder, and a file is wanted"),
    "json in no folder": (["--json", "{folder}/none/a.json"], None, "no such folder"),
    "an address without a name": (["--model", "http://127.0.0.1:9/v1"], None, "--model: URL#NAME is wanted"),
    "power 0": (["--methods", "power_sampling", "--power", 0], None, "power must be above 0 and finite, got 0.0"),
    "top-p above 1": (["--top-p", 2], None, "top_p must be"),
    "another job's journal": (["--out", "{solved}"], None, "belongs to another job: its methods is"),
}


@pytest.mark.parametrize("kind", BAD_INPUT)
def test_bad_input_is_one_line_and_exit_code_2(kind, folder, solved, tmp_path, capsys):
    extra, task, message = BAD_INPUT[kind]
    models = tmp_path / "models"
    shutil.copytree(folder, models)
    (models / "empty").mkdir()
    shutil.copytree(folder / "lm", models / "corrupt")
    weights = (models / "corrupt" / "model.safetensors").read_bytes()
    (models / "corrupt" / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    (tmp_path / "file").write_text("mine")
    names = {"folder": models, "file": tmp_path / "file", "solved": solved[0], "new": tmp_path / "new"}
    before = _state(tmp_path, solved[0])
    arguments = command(models, task=task or "arithmetic-2")
    assert run([*arguments, *(str(word).format(**names) for word in extra)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("ppl: ")
    assert said.err.count("\n") == 1
    assert said.err.endswith("\n")
    assert message in said.err
    assert _state(tmp_path, solved[0]) == before


def test_servers_solve_too_and_are_not_asked_twice(folder, tmp_path, capsys):
    with Server(load(folder / "lm"), load_reward(folder / "prm"), port=0) as server:
        models = ["--model", f"{server.url}#lm", "--reward", f"{server.url}#prm"]
        arguments = [*command(folder), *models, "--methods", "best_of_n", "--out", str(tmp_path / "run")]
        assert run(arguments) == 0
    first = capsys.readouterr().out
    (tmp_path / "run" / "journal.jsonl").unlink()
    for name in FILES:
        (tmp_path / "run" / name).unlink(missing_ok=True)
    assert run(arguments) == 0  # the server is gone: all answers are in requests.jsonl
    assert [line.split()[:4] for line in capsys.readouterr().out.splitlines()[2:3]] == [
        line.split()[:4] for line in first.splitlines()[2:3]
    ]


def _state(*folders):
    """Every file below the folders, with its content."""
    return {path: path.read_bytes() if path.is_file() else None for folder in folders for path in folder.rglob("*")}


@pytest.mark.parametrize("arguments", [["ppl"], ["ppl", "--help"], ["ppl", "solve", "--help"]])
def test_help_is_printed_without_loading_jax_or_models(arguments, capsys):
    code = run(arguments)
    said = capsys.readouterr()
    assert code == 0
    assert "Usage: ppl" in said.out
    assert "solve" in said.out
    assert "Traceback" not in said.err


def test_an_interrupt_is_exit_code_130(folder, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "decode_problems", interrupted)
    assert run(command(folder)) == 130
    assert "Traceback" not in capsys.readouterr().err
