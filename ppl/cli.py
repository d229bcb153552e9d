"""The command line: `ppl solve TASK`."""

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
    model: Annotated[str, typer.Option(help="folder or bundled name of the language model")] = "countdown",
    reward: Annotated[str, typer.Option(help="folder or bundled name of the reward model")] = "countdown-prm",
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
    from ppl.lm import load, load_reward
    from ppl.tasks import task_named

    chosen, settings = task_named(task), decode.Options(budget, temperature)
    names = [name.strip() for name in methods.split(",") if name.strip()]
    if json_file is not None:
        _check_json(json_file, out)
    lm, prm = load(model), load_reward(reward)
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


def main() -> None:
    """Run the command line; bad input is one line on standard error and exit code 2."""
    try:
        # What it returns is 130 after an interrupt and None after a command.
        sys.exit(app(sys.argv[1:] or ["--help"], prog_name="ppl", standalone_mode=False))
    except (typer.TyperException, ValueError, OSError) as error:
        message = error.format_message() if isinstance(error, typer.TyperException) else str(error)
        print(f"ppl: {' '.join(message.splitlines())}", file=sys.stderr)
        sys.exit(2)


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
