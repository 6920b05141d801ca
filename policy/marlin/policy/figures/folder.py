"""The folder that ``--plot`` names: every figure as SVG, for papers, and as PNG, to look at.

The library and the folder are asked for before anything is simulated, and files appear under their names when all of
them are whole. The same experiment gives the same bytes.
"""

from __future__ import annotations

import importlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from marlin.api.errors import MarlinError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI: Final = 200


class FigureFolder:
    """Where figures go."""

    def __init__(self, folder: Path) -> None:
        """Makes the folder.

        Raises:
            MarlinError: it cannot be written to, or matplotlib is not installed.
        """
        try:
            importlib.import_module("matplotlib")
        except ModuleNotFoundError as error:
            raise MarlinError("figures need matplotlib: pip install 'marlin[sim]'") from error
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            Path(tempfile.mkdtemp(prefix=".figures.", dir=folder)).rmdir()
        except OSError as error:
            raise _unwritable(folder, error) from error

    def write(self, figures: Mapping[str, Figure]) -> list[Path]:
        """Writes each figure under its name; the paths of the PNGs.

        Raises:
            MarlinError: the disk is full, or the like; then the folder holds what it held before.
        """
        from marlin.policy.figures.drawing import style  # noqa: PLC0415

        work: Path | None = None
        try:
            work = Path(tempfile.mkdtemp(prefix=".figures.", dir=self._folder))
            with style():
                for name, figure in figures.items():
                    figure.savefig(work / f"{name}.svg", metadata={"Date": None, "Creator": "marlin"})
                    figure.savefig(work / f"{name}.png", dpi=DPI, metadata={"Software": "marlin"})
            for file in sorted(work.iterdir()):
                os.replace(file, self._folder / file.name)  # noqa: PTH105 says more plainly that the old file is replaced
        except OSError as error:
            raise _unwritable(self._folder, error) from error
        finally:
            if work is not None:
                shutil.rmtree(work, ignore_errors=True)
        return [self._folder / f"{name}.png" for name in figures]


def _unwritable(folder: Path, error: OSError) -> MarlinError:
    return MarlinError(f"{folder}: figures cannot be written: {error.strerror or error}")
