"""What is done of an evaluation, in a folder: one that is killed goes on, and several at once share what they do.

A file for each choice of a simple policy, and one for each day of a draw, which grows by a line with every framework
that is scored. Names of files are digests of all that a result depends on, data and code aside, of which the version
alone counts. What a line that was cut off by a kill would have said is done again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Generic, TypeVar

from marlin.api.errors import MarlinError

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Kept(Generic[Row]):
    """Rows by name in one file."""

    file: Path
    kind: type[Row]
    """A dataclass of plain values."""

    @classmethod
    def of(cls, folder: Path, kind: type[Row], *identity: object) -> Kept[Row]:
        """The file for what is so described.

        Args:
            folder: made where it is not there.
            kind: a dataclass of plain values.
            identity: all that its rows depend on; what differs in JSON differs.

        Raises:
            MarlinError: the folder cannot be made.
        """
        whole = json.dumps([version("marlin"), *identity], default=str, sort_keys=True)
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise MarlinError(f"--keep: {folder}: cannot be made: {error.strerror or error}") from error
        return cls(folder / f"{hashlib.sha256(whole.encode()).hexdigest()[:32]}.jsonl", kind)

    def rows(self) -> Mapping[str, Row]:
        """All that was added, by name.

        Raises:
            MarlinError: the file cannot be read.
        """
        try:
            text = self.file.read_text(encoding="utf-8") if self.file.exists() else ""
        except OSError as error:
            raise MarlinError(f"--keep: {self.file}: cannot be read: {error.strerror or error}") from error
        found: dict[str, Row] = {}
        for line in text.splitlines():
            try:
                name, values = json.loads(line)
                found[name] = self.kind(**values)
            except (ValueError, TypeError):
                continue  # cut off
        return found

    def add(self, name: str, row: Any) -> None:
        """Adds a row; what a kill left of another before it does no harm.

        Raises:
            MarlinError: it cannot be written.
        """
        line = "\n" + json.dumps([name, asdict(row)]) + "\n"
        try:
            # In one write, so that two processes do not mix their lines.
            descriptor = os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                os.write(descriptor, line.encode())
            finally:
                os.close(descriptor)
        except OSError as error:
            raise MarlinError(f"--keep: {self.file}: cannot be written: {error.strerror or error}") from error
