"""The command line: `ppl solve TASK`."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Probabilistic inference for test-time scaling, on real problems."
)
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

    console = Console()
    chosen, settings = task_named(task), decode.Options(budget, temperature)
    names = [name.strip() for name in methods.split(",") if name.strip()]
    if json_file is not None and not json_file.resolve().parent.is_dir():
        raise ValueError(f"--json {json_file}: no such folder {json_file.resolve().parent}")
    lm, prm = load(model), load_reward(reward)
    bar = Progress(
        TextColumn("[progress.description]{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        console=Console(stderr=True), transient=True,
    )  # fmt: skip
    with bar:
        # The bar starts when there is something to do: a refused setting should leave no bar behind.
        row = bar.add_task(f"{task}: {len(names)} methods, budget {budget}", total=problems)
        result = run(
            lm, prm, chosen, methods=names, options=settings, num_problems=problems, seed=seed, out=out,
            results=report.FILES, progress=lambda done: bar.update(row, completed=done),
        )  # fmt: skip
    console.print(f"{task}: {problems} problems, budget {budget}, seed {seed}", highlight=False)
    console.print(report.table(result))
    if out is not None:
        for path in report.write(result, out, budget=budget, single_answer=chosen.numeric_answers):
            console.print(f"wrote {path}", highlight=False, soft_wrap=True)
    if json_file is not None:
        report.write_json(result, json_file)
        console.print(f"wrote {json_file}", highlight=False, soft_wrap=True)


def main() -> None:
    """Run the command line; bad input is one line on standard error and exit code 2."""
    try:
        app(standalone_mode=False)
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except typer.Abort:
        sys.exit(130)
    except (ValueError, OSError) as error:
        print(f"ppl: {error}", file=sys.stderr)
        sys.exit(2)
