"""Writing a file whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path


@contextmanager
def replacing(path: str | PathLike[str]) -> Iterator[Path]:
    """A path to write to; what was written takes the place of `path` when the block ends.

    A job that is killed, or a block that raises, leaves `path` as it was. The path lent is `<name>.partial` in the same
    folder, since a file moves in one step only within a file system; after an error it is removed.
    """
    path = Path(path)
    partial = path.with_name(f"{path.name}.partial")
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
