"""Installs an extra of our wheel into /opt/marlin, inside an image that is being built.

    install_in_image.py EXTRA WHEELS      called by the Dockerfiles of router and operator, by the base's own Python

EXTRAS in the environment, e.g. operator,train, installs more than EXTRA.

Python and not shell, because a base without a shell is a good base. It reads nothing but the folder of wheels; pip runs
out of its own wheel, so that bases without pip and without ensurepip will do. pip compiles the byte code, which a
read-only root could not keep later. Then the commands that the image is for are started once: one that cannot start
is not built.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Final

TARGET: Final = Path("/opt/marlin")

ROWS: Final = ("--dispatch", "shares", "--origin-aware")
"""Of a plan: so that the solver is tried too."""

TRIALS: Final = {
    "router": [["router", "--help"]],
    "operator": [["operator", "--help"], ["plan", "--scenario", "demo-3", *ROWS], ["emulate", "--help"]],
}

UNUSED: Final = ("numpy/*/tests", "numpy/tests", "numpy/f2py", "numpy/*/include", "numpy/*/lib/*.a")
"""What nobody runs in an image: tests, and what is for those who compile against NumPy. A quarter of NumPy's size."""


def main(extra: str, wheels: Path) -> None:
    """Installs, tidies, tries."""
    venv.create(TARGET, with_pip=False, symlinks=True)
    python = TARGET / "bin" / "python"
    (pip,) = wheels.glob("pip-*.whl")
    options = ["--quiet", "--no-cache-dir", "--no-index", "--disable-pip-version-check", f"--find-links={wheels}"]
    wanted = f"marlin[{os.environ.get('EXTRAS') or extra}]"
    environment = {**os.environ, "PIP_ROOT_USER_ACTION": "ignore"}
    subprocess.run([python, f"{pip}/pip", "install", *options, wanted], check=True, env=environment)
    (packages,) = TARGET.glob("lib/python3*/site-packages")
    for pattern in UNUSED:
        for path in packages.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for arguments in TRIALS[extra]:
        subprocess.run([TARGET / "bin" / "marlin", *arguments], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
