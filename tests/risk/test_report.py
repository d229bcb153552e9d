"""`ppl risk` as a user runs it: what it prints and writes, and what it says of bad input."""

import contextlib
import importlib
import io
import json
import sys
from pathlib import Path

import jax
import matplotlib.image
import numpy as np
import pandas as pd
import pytest

from ppl.cli import main
from ppl.risk.report import FILES

REWARDS = Path(__file__).parents[2] / "examples" / "data" / "tau-bench-airline-gpt4o" / "rewards.csv"
AT = (1, 4, 40)


def run(arguments):
    """Exit code of the command line in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["ppl", "risk", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
    return stop.value.code or 0


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Output folder, JSON and printed text of one whole run: compilation makes it slow, so it is the only one."""
    folder = tmp_path_factory.mktemp("risk")
    out, json_file, cache = folder / "deep" / "out", folder / "figures.json", folder / "cache"
    at = ",".join(map(str, AT))
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        code = run([REWARDS, "--at", at, "--compare", REWARDS, "--out", out, "--json", json_file, "--seed", 1])
    # The command is a process of its own for a user; here, the tests that follow must not write to its cache.
    jax.config.update("jax_compilation_cache_dir", None)
    assert code == 0, printed.getvalue()
    return out, json.loads(json_file.read_text()), printed.getvalue(), cache


def test_json_has_the_figures_that_the_issue_names(written):
    _, said, _, _ = written
    assert said.keys() >= {"problems", "trials", "at", "budget", "experts", "warnings"}
    assert (said["problems"], said["trials"], said["successes"]) == (50, 200, 84)
    assert (said["rule"], said["level"], said["reach"]) == ("fixed", 0.9, 4)
    assert [row["n"] for row in said["at"]] == list(AT)
    assert [row["observed"] for row in said["at"]] == [True, True, False]
    for row in said["at"]:
        lower, upper = row["interval"]
        assert 0 < lower < row["mean"] < upper < 1
    means = [row["mean"] for row in said["at"]]
    assert means == sorted(means)
    assert means[0] == pytest.approx(84 / 200, abs=0.03)
    assert set(said["experts"]) == {"beta", "line"}
    assert sum(said["experts"].values()) == pytest.approx(1)
    assert said["budget"]["target"] == 0.95
    assert said["budget"].keys() == {"target", "attempts", "interval", "observed"}
    assert all(isinstance(warning, str) for warning in said["warnings"])
    assert any(warning.startswith("beyond 4 attempts") for warning in said["warnings"])
    assert said["tails"].keys() >= {"beta", "kumaraswamy", "scaled_beta", "logit_normal", "two_piece"}
    assert all(len(tail["mean"]) == len(AT) for tail in said["tails"].values())


def test_a_file_compared_with_itself_is_no_better(written):
    compared = written[1]["comparison"]
    assert compared["problems"] == 50
    lower, upper = compared["interval"]
    assert lower < 0 < upper
    assert 0.2 < compared["probability_better"] < 0.8


def test_files_are_written_and_readable(written):
    out = written[0]
    assert {path.name for path in out.iterdir()} == {*FILES, "comparison.png"}
    problems = pd.read_csv(out / "problems.csv")
    assert list(problems.columns) == ["problem", "successes", "trials", "mean", "lower", "upper"]
    assert (problems["successes"].sum(), problems["trials"].sum()) == (84, 200)
    for name in ("coverage.png", "problems.png", "tails.png", "comparison.png"):
        assert np.ptp(matplotlib.image.imread(out / name)) > 0.5  # something is drawn
    arviz = importlib.import_module("arviz")
    posterior = arviz.from_netcdf(out / "posterior.nc")
    assert posterior["log_likelihood"]["successes"].shape[-1] == 50
    assert posterior["posterior"]["pass_at"].dims == ("chain", "draw", "attempts")
    tails = arviz.from_netcdf(out / "tails.nc")
    assert tails["posterior"]["pass_at"].dims == ("chain", "draw", "family", "attempts")


def test_what_is_printed_says_what_was_read_and_found(written):
    out, said, printed, _ = written
    lines = printed.splitlines()
    assert lines[0].startswith(str(REWARDS))
    assert "50 problems, 4 trials each, 200 in all, 84 successes; rule fixed" in lines[0]
    rows = {line.split()[0]: line for line in lines if line.strip()}
    assert "observed" in rows["4"]
    assert "predicted" in rows["40"]
    for row in said["at"]:  # a row stays one line, and has the figures of the JSON
        lower, upper = row["interval"]
        assert f"{100 * row['mean']:.1f} [{100 * lower:.1f}, {100 * upper:.1f}]" in rows[str(row["n"])]
    # As published for this model (Yao et al. 2024).
    assert "pass^k, all of k right (unbiased): 1: 0.420, 2: 0.273, 4: 0.200" in printed
    assert any(line.startswith("budget for 95%: ") for line in lines)
    assert sum(line.startswith("warning: ") for line in lines) == len(said["warnings"])
    assert f"wrote {out / 'coverage.png'}" in lines
    assert "\x1b" not in printed


def test_compiled_programs_are_kept_in_the_users_cache(written):
    assert any((written[3] / "ppl" / "xla").iterdir())


ABOVE = "problem,successes,trials\na,2,4\nb,5,4\n"
BAD_INPUT = {
    "at zero": (
        ["{good}", "--at", "0,5"],
        "--at: whole numbers from 1 to 10^7, separated by commas, are wanted, got '0'",
    ),
    "at too far": (["{good}", "--at", "20_000_000"], "--at: whole numbers from 1 to 10^7"),
    "at of a word": (["{good}", "--at", "1,many"], "--at: whole numbers from 1 to 10^7"),
    "at of a fraction": (["{good}", "--at", "1.5"], "--at: whole numbers from 1 to 10^7"),
    "no number": (["{good}", "--at", ""], "--at: whole numbers from 1 to 10^7"),
    "target 1": (["{good}", "--target", 1], "--target: must be in (0, 1), got 1.0"),
    "target of a word": (["{good}", "--target", "most"], "Invalid value for '--target'"),
    "level 0": (["{good}", "--level", 0], "--level: must be in (0, 1), got 0.0"),
    "unknown rule": (["{good}", "--rule", "often"], "rule: fixed, stop_at_success(batch=N) or adaptive is wanted"),
    "batch of a word": (["{good}", "--rule", "stop_at_success(batch=x)"], "stop_at_success(batch=N) wants a whole"),
    "missing file": (["{folder}/none.csv"], "none.csv"),
    "empty file": (["{empty}"], "the file is empty"),
    "missing file to compare": (["{good}", "--compare", "{folder}/none.csv"], "none.csv"),
    "more successes than trials": (["{above}"], "line 3, column 'successes': 5 successes, more than the 4 trials"),
    "select without value": (["{good}", "--select", "a"], "--select: NAME=VALUE is wanted, got 'a'"),
    "unknown column": (["{good}", "--columns", "correct=won"], "no column 'won'"),
    "json in no folder": (["{good}", "--json", "{folder}/none/a.json"], "no such folder"),
    "json is a folder": (["{good}", "--json", "{folder}"], "is a folder, and a file is wanted"),
    "unknown option": (["{good}", "--budget", 3], "No such option"),
}


@pytest.mark.parametrize("kind", BAD_INPUT)
def test_bad_input_is_one_line_and_exit_code_2(kind, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    files = {"above": ABOVE, "empty": ""}
    for name, text in files.items():
        (tmp_path / f"{name}.csv").write_text(text)
    names = {name: tmp_path / f"{name}.csv" for name in files} | {"folder": tmp_path, "good": REWARDS}
    arguments, message = BAD_INPUT[kind]
    assert run([str(word).format(**names) for word in arguments]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("ppl: ")
    assert said.err.count("\n") == 1
    assert message in said.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["above.csv", "empty.csv"]
