"""The process that learns: ``python -m marlin.operator.learning.child PARENT LIMIT... OPTION...``.

It holds itself to its limits before it imports anything large, then is ``marlin adapt`` with the options.
"""

from __future__ import annotations

import signal
import sys

from marlin.operator.learning.limits import Limits, OrphanedError, hold_to


def main(arguments: list[str]) -> None:
    """Learns; see ``marlin adapt`` for how it ends."""
    parent, limits, options = arguments[0], arguments[1:5], arguments[5:]
    try:
        hold_to(Limits.of(limits), int(parent))
    except OrphanedError:
        return
    from marlin.api.cli import main as marlin  # noqa: PLC0415 under the limits

    sys.argv = ["marlin", "adapt", *options]
    try:
        marlin()
    finally:
        # While Python ends, nobody handles the signal any more, and it would end the process with another code.
        signal.setitimer(signal.ITIMER_PROF, 0.0)


if __name__ == "__main__":
    main(sys.argv[1:])
