"""What an endpoint answered, written as it came: nothing paid for is lost, and a restart asks only for the rest.

The first line says what the file is; each other line is a request's hash and its answer. A line that a kill cut off is
the last one, and is dropped. Neither the request's text nor its headers are written, so that no key can be.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from ppl.files import append_lines, drop_torn_line, whole_lines

_HEADER = json.dumps({"ppl_requests": 1})
_KEPT = ("choices", "data", "usage")  # what an answer is read from; the rest says who served it and when


def request_keys(requests: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """A hash of each request's path and content, and of how many equal ones came before it in the same call.

    The server's address is no part of it: a restarted server may have another. The model's name and the seed are.
    """
    seen: Counter[str] = Counter()
    keys = []
    for path, body in requests:
        content = json.dumps([path, body], sort_keys=True)
        keys.append(hashlib.sha256(f"{seen[content]}:{content}".encode()).hexdigest())
        seen[content] += 1
    return keys


class RequestJournal:
    """The answers in the file `path`, which the first answer begins if it is not there.

    **Raises:** `ValueError` naming the file, and the line, if it is no such journal; it is left as it was.
    """

    def __init__(self, path: str | PathLike[str]):
        self.path = Path(path)
        self._answers: dict[str, Any] = {}
        lines, torn = self._lines()
        if not lines and not _HEADER.startswith(torn):
            raise ValueError(f"{self.path}: not a journal of requests; choose another file")
        if torn:
            drop_torn_line(self.path)

    def __len__(self) -> int:
        return len(self._answers)

    def find(self, key: str) -> Any | None:
        """The answer to the request with that key, or None."""
        return self._answers.get(key)

    def write(self, key: str, answer: Mapping[str, Any]) -> None:
        """Append an answer, and have it on disk before going on."""
        kept = {name: answer[name] for name in _KEPT if name in answer}
        # The file itself says whether it is begun: two endpoints may keep their answers in one.
        begun = self.path.exists() and self.path.stat().st_size > 0
        if not begun:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        append_lines(self.path, [*([] if begun else [_HEADER]), json.dumps({"request": key, "answer": kept})])
        self._answers[key] = kept

    def _lines(self) -> tuple[list[str], str]:
        if not self.path.exists():
            return [], ""
        try:
            lines, torn = whole_lines(self.path)
        except (UnicodeDecodeError, OSError) as error:
            raise ValueError(f"{self.path}: not a journal of requests ({error}); choose another file") from None
        if lines and lines[0] != _HEADER:
            raise ValueError(f"{self.path}: not a journal of requests, its first line is {lines[0]!r:.60}")
        for number, line in enumerate(lines[1:], start=2):
            try:
                entry = json.loads(line)
                self._answers[entry["request"]] = entry["answer"]
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{self.path}, line {number}: damaged ({error}); choose another file") from None
        return lines, torn
