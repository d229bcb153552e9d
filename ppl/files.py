"""Writing a file whole or not at all, and journals: files that grow by whole lines and outlive a kill."""

import os
from collections.abc import Iterable, Iterator
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


def append_lines(path: str | PathLike[str], lines: Iterable[str]) -> None:
    """Append lines to a journal, and have them on disk before going on; a file that is not there is begun."""
    with Path(path).open("a", encoding="utf-8", newline="\n") as file:
        file.write("".join(line + "\n" for line in lines))
        file.flush()
        os.fsync(file.fileno())


def whole_lines(path: str | PathLike[str]) -> tuple[list[str], str]:
    """The lines of a journal, and what comes after the last of them: a line that a kill cut off, or nothing.

    **Raises:** `UnicodeDecodeError` for bytes that are no text, a torn last line's among them left out.
    """
    whole, newline, torn = Path(path).read_bytes().rpartition(b"\n")
    return whole.decode().split("\n") if newline else [], torn.decode(errors="replace")


def drop_torn_line(path: str | PathLike[str]) -> None:
    """Cut off what comes after the last whole line, so that the next line appended begins a line."""
    with Path(path).open("r+b") as file:
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)
