"""Where artifacts come from: the one shipped with the package, or a folder that somebody names.

Loading checks every byte, so that an artifact is read once for a folder and kept until its card changes.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files
from pathlib import Path

from marlin.api.errors import InputError
from marlin.policy import artifact
from marlin.policy.artifact import CARD_FILE, Artifact

_SHIPPED = "default_artifact"


def load(folder: Path | None = None) -> Artifact:
    """An artifact.

    Args:
        folder: where it lies. Default: the one shipped with the package.

    Raises:
        InputError: there is none, or it is not whole; one line says why.
    """
    chosen = _shipped() if folder is None else folder
    try:
        stat = (chosen / CARD_FILE).stat()
    except OSError:
        return artifact.load(chosen)  # says what is wrong with it
    return _kept(chosen, stat.st_mtime_ns, stat.st_size)


def has_shipped() -> bool:
    """Whether this installation brings an artifact."""
    return files("marlin.policy").joinpath(_SHIPPED, CARD_FILE).is_file()


def _shipped() -> Path:
    # A folder of a wheel that is installed is a folder; MARLIN is not run from within a zip file.
    folder = Path(str(files("marlin.policy").joinpath(_SHIPPED)))
    if not (folder / CARD_FILE).is_file():
        raise InputError(
            "planner marlin: this installation brings no trained policy; name one with --artifact, or make one with "
            "marlin train"
        )
    return folder


@lru_cache(maxsize=4)
def _kept(folder: Path, changed_ns: int, size: int) -> Artifact:
    return artifact.load(folder)
