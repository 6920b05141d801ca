"""Kinds of other projects as these publish them, where they have been fetched (``make gateway-kinds``)."""

from __future__ import annotations

import subprocess
from pathlib import Path

from control_plane import ROOT


def published(file: str) -> Path:
    """The published CustomResourceDefinition of this file name.

    Raises:
        FileNotFoundError: it has not been fetched; the message says how.
    """
    found = subprocess.run(
        ["scripts/gateway_kinds.sh", "--find"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    if found.returncode != 0:
        raise FileNotFoundError(found.stderr.strip())
    for folder in found.stdout.splitlines():
        if (path := Path(folder) / file).is_file():
            return path
    raise FileNotFoundError(f"{file}: in none of {found.stdout.split()}")
