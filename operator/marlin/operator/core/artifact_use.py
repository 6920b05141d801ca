"""Which trained policy a planner of kind Marlin is to use: a value that planning takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROLES: Final = ("planner", "shadow")
"""What a policy may need an artifact for."""


@dataclass(frozen=True, slots=True)
class ArtifactUse:
    """An artifact, or why there is none."""

    folder: Path | None = None
    """Where it lies; None: the one shipped with the package, or with a problem none at all."""
    problem: str = ""
    """What is wrong with the one that is wanted. With a folder, the one before it is still in use."""

    @property
    def is_usable(self) -> bool:
        """Whether there is something to plan with."""
        return self.folder is not None or not self.problem
