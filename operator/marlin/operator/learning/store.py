"""What was learnt, in a folder beside the recorded epochs: it outlives the process, and a volume carries it on.

``FOLDER/adapted/NAMESPACE_POLICY/`` holds ``state.json`` and one folder for each artifact, named by the digest of its
weights. An artifact is there before the state names it and leaves after the state names another, so that whoever reads
finds a whole one; a state is replaced at once or not at all.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from marlin.api.errors import InputError, MarlinError
from marlin.api.policy import AdaptationStatus
from marlin.operator.core.observed import Key
from marlin.operator.recording import history_file
from marlin.policy.agents import shipped

_STATE: Final = "state.json"
_NEW: Final = "new"


@dataclass(frozen=True, slots=True)
class Learnt:
    """What became of one policy's learning on so far."""

    root: str = ""
    """Digest of the weights of the stated artifact, which all of it began with."""
    artifact: str = ""
    """Digest of the weights that took over; empty: the stated artifact serves."""
    attempted: datetime | None = None
    """When the last attempt began; None: there was none."""
    attempts: int = 0
    last: AdaptationStatus | None = None
    """The last decision."""

    def to_document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "root": self.root,
            "artifact": self.artifact,
            "attempted": None if self.attempted is None else self.attempted.isoformat(),
            "attempts": self.attempts,
            "last": None if self.last is None else self.last.to_document(),
        }


class Store:
    """One policy's.

    Args:
        folder: that of the recorded epochs.
        key: the policy.
    """

    def __init__(self, folder: Path, key: Key) -> None:
        self.history = history_file(folder, key)
        self._folder = folder / "adapted" / f"{key[0]}_{key[1]}"
        self.name = f"{key[0]}/{key[1]}"
        self.new = self._folder / _NEW
        """Where an attempt puts its artifact."""

    def load(self) -> tuple[Learnt, str]:
        """What was learnt so far, and what is wrong with it: an artifact that is damaged does not serve."""
        try:
            found = json.loads((self._folder / _STATE).read_text(encoding="utf-8"))
            attempted, last = found["attempted"], found["last"]
            learnt = Learnt(
                root=str(found["root"]),
                artifact=str(found["artifact"]),
                attempted=None if attempted is None else datetime.fromisoformat(attempted),
                attempts=int(found["attempts"]),
                last=None if last is None else AdaptationStatus.model_validate(last),
            )
        except FileNotFoundError:
            return Learnt(), ""
        except (OSError, ValueError, TypeError, KeyError, ValidationError) as error:
            return Learnt(), f"{self._folder / _STATE}: cannot be read: {error}".splitlines()[0]
        if not learnt.artifact:
            return learnt, ""
        try:
            digest = shipped.load(self.artifact(learnt)).card.weights_sha256
        except InputError as error:
            return replace(learnt, artifact="", last=None), f"{error}; the stated artifact serves"
        if digest != learnt.artifact:
            return replace(learnt, artifact="", last=None), f"{self.artifact(learnt)}: holds another artifact"
        return learnt, ""

    def artifact(self, learnt: Learnt) -> Path:
        """The folder of the artifact that took over."""
        return self._folder / learnt.artifact

    def begin(self, learnt: Learnt) -> None:
        """Before an attempt: what it learnt could not be kept where this cannot be.

        Raises:
            MarlinError: the folder cannot be written to.
        """
        with _said(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(self.new, ignore_errors=True)
        self.save(learnt)

    def save(self, learnt: Learnt) -> None:
        """Keeps it.

        Raises:
            MarlinError: it cannot be written.
        """
        beside = self._folder / f".{_STATE}"
        with _said(self._folder):
            with beside.open("w", encoding="utf-8") as file:
                json.dump(learnt.to_document(), file)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self._folder / _STATE)

    def take(self, before: Learnt, after: Learnt) -> None:
        """Lets the artifact of an attempt serve; the one before it stays, for who is reading it.

        Raises:
            InputError: the artifact is not whole, or not the one that ``after`` names.
            MarlinError: it cannot be kept.
        """
        if shipped.load(self.new).card.weights_sha256 != after.artifact:
            raise InputError(f"{self.new}: is not the artifact of the verdict")
        with _said(self._folder):
            shutil.rmtree(self.artifact(after), ignore_errors=True)
            self.new.replace(self.artifact(after))
        self.save(after)
        for other in self._folder.iterdir():
            if other.is_dir() and other.name not in {before.artifact, after.artifact}:
                shutil.rmtree(other, ignore_errors=True)


@contextmanager
def _said(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MarlinError(f"{folder}: cannot be written: {error.strerror or error}") from error
