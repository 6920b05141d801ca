"""Whether what Numba compiles can be kept.

Numba keeps compiled code beside the source or in the user's cache folder, and refuses to load a module that asks it to
where neither can be written to: a container with a read-only root. There it compiles anew in each process.
"""

from __future__ import annotations

from typing import Final

import numba as nb


def _can_be_kept() -> bool:
    try:
        nb.njit(cache=True)(_nothing)
    except RuntimeError:
        return False
    return True


def _nothing() -> None:
    """Decorated to see whether that works; never compiled."""


KEEP: Final = _can_be_kept()
"""What to give for ``cache``."""
