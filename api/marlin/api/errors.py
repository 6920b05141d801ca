"""The errors a person may see, as a tree.

MarlinError            anything that stops a command with one clear line (exit code 1)
└── InputError         what the person gave is wrong: a field, a file, a line (exit code 2)

Each message says what is wrong and what to do. A component adds leaves where it raises them; the command line prints
the line and nothing else, so a traceback on the terminal is always a defect of ours.
"""

from __future__ import annotations


class MarlinError(Exception):
    """Something stops the command; ``str()`` is one line a person can act upon."""


class InputError(MarlinError, ValueError):
    """What was given is wrong; nothing was changed."""
