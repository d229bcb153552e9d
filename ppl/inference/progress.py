"""A progress bar that the host moves between compiled blocks: nothing inside `jit` calls back."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


@contextmanager
def progress(name: str, total: int | None, *, enabled: bool) -> Iterator[Callable[..., None]]:
    """A bar on standard error of `total` ticks (or of unknown length); the context gives `tick(note="", advance=1)`."""
    if not enabled:
        yield lambda note="", advance=1: None
        return
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=total, note="")
        yield lambda note="", advance=1: bar.update(task, advance=advance, note=note)
