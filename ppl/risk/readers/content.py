"""What is in a file, told by its bytes rather than by its name: text, parquet or a zip, gzipped or not."""

import gzip
import io
import json
import struct
import zipfile
import zlib
from os import PathLike
from pathlib import Path
from typing import Any

import pyarrow

from ppl.risk.readers.table import json_fault

_ZSTANDARD = 93  # the zip method number that inspect_ai writes; Python's own zipfile reads it from 3.14 on
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")


def read_bytes(path: str | PathLike[str]) -> bytes:
    """A file's bytes, gunzipped if they are gzipped.

    **Raises:** `FileNotFoundError`; `ValueError` for a folder, or a gzip stream that is cut off.
    """
    if Path(path).is_dir():
        raise ValueError(f"{path}: is a folder, and a file is wanted")
    data = Path(path).read_bytes()
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{path}: the gzip stream is cut off or damaged: {error}") from error
    return data


def is_parquet(data: bytes) -> bool:
    """Whether these are the bytes of a parquet file."""
    return data[:4] == b"PAR1"


def is_zip(data: bytes) -> bool:
    """Whether these are the bytes of a zip archive, perhaps of an empty one."""
    return data[:4] in (b"PK\x03\x04", b"PK\x05\x06")


def decode(source: str, data: bytes) -> str:
    """UTF-8 text, without its byte order mark.

    **Raises:** `ValueError` if it is empty, or naming the line that is not UTF-8.
    """
    if b"\0" in data[:4096]:
        raise ValueError(f"{source}: neither UTF-8 text nor parquet, gzip or zip: it has zero bytes")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{source}, line {line}: not UTF-8 text: byte 0x{data[error.start]:02x}") from error
    if not text.strip():
        raise ValueError(f"{source}: the file is empty")
    return text


def parse_json(source: str, content: str) -> Any:
    """One JSON value. **Raises:** `ValueError` naming the line where it goes wrong."""
    try:
        return json.loads(content)
    except ValueError as error:
        line = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise ValueError(f"{source}{line}: not JSON: {json_fault(error)}") from error


def is_one_json_value(content: str) -> bool:
    """Whether text that begins like JSON is one value over all lines, rather than one value a line."""
    if content.lstrip().startswith("["):
        return True
    lines = content.strip().split("\n", 2)
    if _parses(lines[0]):
        return len(lines) == 1
    # A first line that is no JSON by itself opens a longer value, or is the faulty first line of JSONL.
    return len(lines) == 1 or not _parses(lines[1])


def _parses(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


class Archive:
    """Entries of a zip archive by name, those in Zstandard too.

    **Raises:** `ValueError` if the archive, or the entry that is read, is damaged.
    """

    def __init__(self, source: str, data: bytes):
        self.source, self._data = source, data
        try:
            self._archive = zipfile.ZipFile(io.BytesIO(data))
        except (zipfile.BadZipFile, ValueError) as error:
            raise ValueError(f"{source}: the zip archive is cut off or damaged: {error}") from error
        # A name written twice stands for its last entry, as for every reader of zip archives.
        self._entries = {entry.filename: entry for entry in self._archive.infolist()}
        self.names = list(self._entries)

    def json(self, name: str) -> Any:
        """The JSON value of an entry."""
        source = f"{self.source}, {name}"
        try:
            data = self._read(self._entries[name])
        except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, RuntimeError) as error:
            # RuntimeError: encrypted, or a compression method that Python does not know.
            raise ValueError(f"{source}: the entry cannot be read: {error}") from error
        return parse_json(source, decode(source, data))

    def _read(self, entry: zipfile.ZipInfo) -> bytes:
        if entry.compress_type != _ZSTANDARD:
            return self._archive.read(entry)
        # Arrow has a Zstandard decoder; where the entry's bytes begin only the local header says.
        header = _LOCAL_HEADER.unpack_from(self._data, entry.header_offset)
        start = entry.header_offset + _LOCAL_HEADER.size + header[-2] + header[-1]
        packed = pyarrow.py_buffer(self._data[start : start + entry.compress_size])
        with pyarrow.input_stream(packed, compression="zstd") as stream:
            data = stream.read()
        if zlib.crc32(data) != entry.CRC:
            raise zipfile.BadZipFile(f"Bad CRC-32 for file {entry.filename!r}")
        return data
