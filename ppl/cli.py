"""The command line: `ppl solve TASK`, `ppl risk FILE`, `ppl serve MODEL`."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

app = typer.Typer(add_completion=False)
DEFAULT_METHODS = "sample,best_of_n,weighted_best_of_n,particle_filter"


@app.callback()
def _root() -> None:
    """Probabilistic inference for test-time scaling, on real problems."""


@app.command()
def solve(
    task: Annotated[str, typer.Argument(help="game24, countdown[-SIZE] or arithmetic[-DEPTH]")],
    methods: Annotated[
        str, typer.Option(help="comma-separated; an unknown name lists the known ones")
    ] = DEFAULT_METHODS,
    budget: Annotated[int, typer.Option(help="solutions a problem, the same for each method")] = 32,
    problems: Annotated[int, typer.Option(help="how many problems")] = 100,
    seed: Annotated[int, typer.Option(help="the same seed gives the same result")] = 0,
    temperature: Annotated[float, typer.Option(help="of the language model's proposals")] = 1.0,
    top_k: Annotated[int | None, typer.Option(help="draw only from so many likeliest tokens")] = None,
    top_p: Annotated[float | None, typer.Option(help="draw only from the likeliest tokens of this mass")] = None,
    min_p: Annotated[
        float | None, typer.Option(help="draw only what is at least this likely beside the likeliest")
    ] = None,
    power: Annotated[float, typer.Option(help="of the language model, that power_sampling targets")] = 4.0,
    model: Annotated[
        str, typer.Option(help="language model: folder, bundled name, or a server's URL#NAME")
    ] = "countdown",
    reward: Annotated[
        str, typer.Option(help="reward model: folder, bundled name, or a server's URL#NAME")
    ] = "countdown-prm",
    judge: Annotated[
        bool, typer.Option("--judge", help="the reward model is a language model that says + or -")
    ] = False,
    aggregation: Annotated[str, typer.Option(help="of the steps of a step-wise reward model")] = "last",
    out: Annotated[
        Path | None, typer.Option(help="folder for records, netCDF, plots and the journal to resume from")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the table's figures to this file")] = None,
) -> None:
    """Solve a task's problems by several methods at one budget, and say how sure each is."""
    # Imported here: `ppl --help` need not wait for JAX.
    from ppl import decode
    from ppl.decode import report
    from ppl.decode.job import solve as run
    from ppl.decode.methods import methods_named
    from ppl.lm import Endpoint, RewardEndpoint, load, load_reward
    from ppl.tasks import task_named

    chosen = task_named(task)
    settings = decode.Options(budget, temperature, top_k=top_k, top_p=top_p, min_p=min_p, power=power)
    names = [name.strip() for name in methods.split(",") if name.strip()]
    if json_file is not None:
        _check_json(json_file, out)
    paid = None if out is None else out / "requests.jsonl"
    lm = Endpoint(*_address("--model", model), journal=paid) if "://" in model else load(model)
    if not any(method.reads_reward for method in methods_named(names).values()):
        prm = None
    elif "://" in reward:
        prm = RewardEndpoint(*_address("--reward", reward), aggregate=aggregation, journal=paid)
    else:
        kind = "judge" if judge else None
        prm = load_reward(reward, kind=kind, aggregation=aggregation, step_delimiter=chosen.step_delimiter)
    screen = Console(stderr=True)
    bar = Progress(
        TextColumn("[progress.description]{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        console=screen, transient=True, disable=not screen.is_terminal,  # a log would get a blank line of it
    )  # fmt: skip
    with bar:
        row = bar.add_task(f"{task}: {len(names)} methods, budget {budget}", total=problems)
        result = run(
            lm, prm, chosen, methods=names, options=settings, num_problems=problems, seed=seed, out=out,
            results=report.FILES, progress=lambda done: bar.update(row, completed=done),
        )  # fmt: skip
    console, view = Console(), report.table(result)
    # A row stays one line, whether it goes to a file or to a narrow terminal.
    wide = console.options.update(max_width=1000)
    console.width = max(console.width, console.measure(view, options=wide).maximum)
    console.print(f"{task}: {problems} problems, budget {budget}, seed {seed}", highlight=False)
    console.print(view)
    if out is not None:
        for path in report.write(result, out, budget=budget, single_answer=chosen.numeric_answers):
            console.print(f"wrote {path}", highlight=False, soft_wrap=True)
    if json_file is not None:
        report.write_json(result, json_file)
        console.print(f"wrote {json_file}", highlight=False, soft_wrap=True)


@app.command()
def risk(
    file: Annotated[Path, typer.Argument(help="attempts: CSV, JSONL, parquet, or an evaluation log")],
    at: Annotated[str | None, typer.Option(help="attempts to state pass@n for, such as 100,1000,10000")] = None,
    target: Annotated[float, typer.Option(help="coverage to find the budget for")] = 0.95,
    rule: Annotated[
        str | None, typer.Option(help="how trials came about: fixed, 'stop_at_success(batch=N)' or adaptive")
    ] = None,
    compare: Annotated[Path | None, typer.Option(help="another file of attempts at the same problems")] = None,
    level: Annotated[float, typer.Option(help="posterior mass in each interval")] = 0.9,
    select: Annotated[list[str] | None, typer.Option(help="rows to read, as COLUMN=VALUE; may be repeated")] = None,
    columns: Annotated[
        list[str] | None, typer.Option(help="a column by its role, as ROLE=COLUMN (problem, correct, ...); repeatable")
    ] = None,
    threshold: Annotated[float | None, typer.Option(help="scores from this number up are right")] = None,
    metric: Annotated[str | None, typer.Option(help="which metric or scorer of a log says what is right")] = None,
    seed: Annotated[int, typer.Option(help="the same seed gives the same result")] = 0,
    out: Annotated[Path | None, typer.Option(help="folder for netCDF, plots and a table of problems")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the figures to this file")] = None,
) -> None:
    """Attempts in, calibrated statements out: pass@n with intervals, the budget for a target, and what is not known."""
    from ppl.risk import report
    from ppl.risk.comparison import compare as compare_attempts
    from ppl.risk.fit import fit
    from ppl.risk.readers import read

    numbers = None if at is None else tuple(_whole("--at", part) for part in at.split(","))
    if not 0 < target < 1:
        raise ValueError(f"--target: must be in (0, 1), got {target}")
    if not 0 < level < 1:
        raise ValueError(f"--level: must be in (0, 1), got {level}")
    if json_file is not None:
        _check_json(json_file, out)
    options = {
        "rule": rule, "select": _pairs("--select", select), "columns": _pairs("--columns", columns),
        "threshold": threshold, "metric": metric,
    }  # fmt: skip
    reading = read(file, **options)
    other = None if compare is None else read(compare, **options)
    console, screen = Console(soft_wrap=True), Console(stderr=True)
    for line in report.understood(reading):
        console.print(line, highlight=False, markup=False)
    _keep_compiled()
    with screen.status("fitting; the first run compiles, which takes a minute"):
        found = fit(reading.attempts, key=seed)
        ns = numbers or report.default_at(found)
        compared = None if other is None else compare_attempts(reading.attempts, other.attempts, key=seed)
        result = report.Report(reading, found, ns, target, level, found.tails(ns), compared)
        tables = (report.coverage_table(result), report.tail_table(result))
    for view in tables:
        console.print()
        # A row stays one line, whether it goes to a file or to a narrow terminal.
        console.width = max(
            console.width, console.measure(view, options=console.options.update(max_width=1000)).maximum
        )
        console.print(view)
    console.print()
    for line in report.sentences(result):
        console.print(line, highlight=False, markup=False)
    for warning in result.warnings:
        console.print(f"warning: {warning}", highlight=False, markup=False)
    if out is not None:
        for path in report.write(result, out):
            console.print(f"wrote {path}", highlight=False)
    if json_file is not None:
        report.write_json(result, json_file)
        console.print(f"wrote {json_file}", highlight=False)


@app.command()
def serve(
    model: Annotated[str, typer.Argument(help="folder or bundled name of the language model")],
    host: Annotated[str, typer.Option(help="address to listen at; there is no authentication")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 for any that is free")] = 8000,
    reward: Annotated[str | None, typer.Option(help="folder or bundled name of a reward model")] = None,
) -> None:
    """Expose a model by the OpenAI-compatible protocol: completions, chat, and /pooling for a reward model."""
    from ppl.lm import load, load_reward
    from ppl.lm.serve import Server

    prm = None if reward is None else load_reward(reward)
    server = Server(load(model), prm, host=host, port=port)
    console = Console(soft_wrap=True)
    console.print(f"serving {', '.join(server.models())} at {server.url} (stop with Ctrl-C)", highlight=False)
    server.run()


def main() -> None:
    """Run the command line; bad input is one line on standard error and exit code 2."""
    try:
        # What it returns is 130 after an interrupt and None after a command.
        sys.exit(app(sys.argv[1:] or ["--help"], prog_name="ppl", standalone_mode=False))
    except (typer.TyperException, ValueError, OSError) as error:
        message = error.format_message() if isinstance(error, typer.TyperException) else str(error)
        print(f"ppl: {' '.join(message.splitlines())}", file=sys.stderr)
        sys.exit(2)


def _whole(option: str, text: str) -> int:
    if not text.strip().replace("_", "").isdecimal() or not 1 <= int(text) <= 10**7:
        wanted = "whole numbers from 1 to 10^7, separated by commas, are wanted"
        raise ValueError(f"{option}: {wanted}, got {text.strip()!r}")
    return int(text)


def _pairs(option: str, texts: list[str] | None) -> dict[str, str] | None:
    pairs = [text.partition("=") for text in texts or ()]
    for name, equals, value in pairs:
        if not (name and equals and value):
            raise ValueError(f"{option}: NAME=VALUE is wanted, got {name + equals + value!r}")
    return {name: value for name, _, value in pairs} or None


def _address(option: str, text: str) -> tuple[str, str]:
    """A server's address and the name of its model."""
    url, _, name = text.partition("#")
    if not name:
        raise ValueError(f"{option}: URL#NAME is wanted, NAME being the model's on the server, got {text!r}")
    return url, name


def _keep_compiled() -> None:
    """Keep compiled programs from one run to the next, unless the user has set a place for them."""
    import jax

    if jax.config.jax_compilation_cache_dir is None:  # pyright: ignore[reportAttributeAccessIssue]
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        jax.config.update("jax_compilation_cache_dir", str(Path(base) / "ppl" / "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _check_json(path: Path, out: Path | None) -> None:
    """Refuse a `--json` that could not be written once the work is done."""
    folder = path.resolve().parent
    if path.is_dir():
        raise ValueError(f"--json {path}: is a folder, and a file is wanted")
    if out is not None and folder == out.resolve():
        return  # the journal makes that folder, or says why it cannot
    if not folder.is_dir():
        raise ValueError(f"--json {path}: no such folder {folder}")
    if not os.access(folder, os.W_OK):
        raise ValueError(f"--json {path}: folder {folder} cannot be written to")
