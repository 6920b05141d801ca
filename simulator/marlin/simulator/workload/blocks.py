"""Files as blocks of whole lines: the only module of the workload that opens a file.

A block is a few megabytes of whole lines and the number of its first one, so that a file of any size is read in memory
that does not grow with it, and a bad row still has its line. Plain or gzip-compressed, known by its first bytes.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, cast

from marlin.api.errors import InputError

BLOCK_BYTES: Final = 4 << 20
MAX_LINE_BYTES: Final = 1 << 20
"""No row of a trace is longer; a file without line ends must not be gathered in memory."""

_GZIP_MAGIC: Final = b"\x1f\x8b"
_BOM: Final = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Block:
    """Some whole lines of a file."""

    first_line: int
    """Number of the first of them; the file's first is 1."""
    data: bytes
    """Ends with a line end, but for the last line of a file that has none."""


def read_blocks(path: Path, block_bytes: int = BLOCK_BYTES) -> Iterator[Block]:
    """The file in order: its first line alone (the header, without a byte order mark), then blocks.

    Raises:
        InputError: the file cannot be opened, is empty, is not a whole gzip file, or has a line of more than a
            megabyte.
    """
    line, rest = 1, b""
    try:
        with _open(path) as file:
            while piece := file.read(block_bytes):
                rest += piece
                if line == 1:
                    rest = rest.removeprefix(_BOM)
                    header, found, after = rest.partition(b"\n")
                    if found:
                        yield Block(1, header + found)
                        line, rest = 2, after
                end = rest.rfind(b"\n") + 1
                if end and line > 1:
                    yield Block(line, rest[:end])
                    line, rest = line + rest.count(b"\n", 0, end), rest[end:]
                if len(rest) > MAX_LINE_BYTES:
                    raise InputError(f"{path}:{line}: a line of more than a megabyte is not a row of a trace")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(
            f"{path}: the compressed file is damaged after line {line - 1}: {error}; copy it anew"
        ) from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; name a file that can be read") from None
    if rest:
        yield Block(line, rest)
    elif line == 1:
        raise InputError(f"{path}: is empty; a trace begins with a line of column names")


def first_line(path: Path) -> str:
    """The header of a file, decoded as far as it can be.

    Raises:
        InputError: as ``read_blocks``.
    """
    return next(read_blocks(path, 1 << 16)).data.decode("utf-8", "replace").strip()


def _open(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        is_compressed = file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
    return cast("IO[bytes]", gzip.open(path, "rb")) if is_compressed else path.open("rb")
