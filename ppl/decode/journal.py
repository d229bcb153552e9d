"""The journal of a decoding job: one line a problem, written as it is solved, so that a killed job can go on.

The first line says what the job is. A line cut off by a kill is the last one, and is dropped (if it is the first, too,
the job starts anew); anything else that does not read as a line of this job is an error, and nothing is overwritten.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ppl.decode.results import Decoding, answer_table
from ppl.files import append_lines, drop_torn_line, whole_lines
from ppl.records import Records

NAME, FORMAT = "journal.jsonl", 1


class Journal:
    """The journal in folder `out` of the job that `job` describes (a flat mapping of JSON values).

    **Raises:** `ValueError` naming the file, and what differs, if `out` holds another job's journal, an unreadable
    one, or results without a journal; the folder is left as it was.
    """

    def __init__(self, out: Path, job: dict[str, Any], *, results: tuple[str, ...] = ()):
        self.path = out / NAME
        self.done: dict[int, Decoding] = {}
        if out.exists() and not out.is_dir():
            raise ValueError(f"{out}: is a file, and a folder is wanted")
        header = json.dumps({"ppl_journal": FORMAT, "job": job})
        if self.path.exists() and self._read(job, header):
            drop_torn_line(self.path)
            return
        orphans = [name for name in results if (out / name).exists()]
        if orphans:
            raise ValueError(f"{out / orphans[0]}: a result without a {NAME}; choose another folder or move it away")
        out.mkdir(parents=True, exist_ok=True)
        self.path.write_bytes(b"")
        append_lines(self.path, [header])

    def write(self, results: dict[int, Decoding]) -> None:
        """Append problems by their place, and have them on disk before going on."""
        append_lines(self.path, [json.dumps({"index": index, **_dump(one)}) for index, one in results.items()])
        self.done |= results

    def _read(self, job: dict[str, Any], ours: str) -> bool:
        """Fill `done`; returns False if nothing is whole, our own header having been cut off."""
        try:
            whole, torn = whole_lines(self.path)
            if not whole and ours.startswith(torn):
                return False
            header = json.loads(whole[0]) if whole else {}
        except (UnicodeDecodeError, json.JSONDecodeError, OSError) as error:
            raise ValueError(f"{self.path}: not a journal of ppl ({error}); choose another folder") from None
        theirs = header.get("job") if isinstance(header, dict) and header.get("ppl_journal") == FORMAT else None
        if not isinstance(theirs, dict):
            raise ValueError(f"{self.path}: not a journal of ppl, format {FORMAT}; choose another folder")
        for name in dict.fromkeys([*job, *theirs]):
            if job.get(name) != theirs.get(name):
                raise ValueError(
                    f"{self.path}: belongs to another job: its {name} is {theirs.get(name)!r}, this one's "
                    f"{job.get(name)!r}; choose another folder"
                )
        for number, line in enumerate(whole[1:], start=2):
            try:
                entry = json.loads(line)
                self.done[entry["index"]] = _parse(entry)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise ValueError(f"{self.path}, line {number}: damaged ({error}); choose another folder") from None
        return True


def _dump(one: Decoding) -> dict[str, Any]:
    return {
        "records": list(one.records.rows()),
        "answers": [
            [None if pd.isna(value) else value for value in row] for row in one.answers.itertuples(index=False)
        ],
        "ess": {name: values.tolist() for name, values in one.ess.items()},
    }


def _parse(entry: dict[str, Any]) -> Decoding:
    return Decoding(
        Records.from_rows(entry["records"]),
        answer_table(entry["answers"]),
        {name: np.asarray(values) for name, values in entry["ess"].items()},
    )
