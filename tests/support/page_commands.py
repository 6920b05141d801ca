"""The commands of a documentation page, as a reader would paste them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
_BLOCK: Final = re.compile(r"^```(console|sh)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INLINE: Final = re.compile(r"`((?:kubectl|helm|marlin|make|curl) [^`]*)`")


def commands_of(page: str) -> list[str]:
    """Those in blocks: each line after a ``$`` of a console, each line of a shell; continued lines are joined.

    Args:
        page: below docs/, without its ending.
    """
    found = []
    for language, block in _BLOCK.findall(_text(page)):
        lines = re.sub(r" *\\\n\s*", " ", block).splitlines()
        if language == "console":
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        found += [re.sub(r"\s{2,}# .*$", "", line).strip() for line in lines if line.strip()]
    return found


def inline_commands_of(page: str) -> list[str]:
    """Those inside of sentences."""
    return [" ".join(one.split()) for one in _INLINE.findall(_text(page))]


def pages() -> list[str]:
    """Every tutorial and how-to."""
    docs = ROOT / "docs"
    return sorted(
        str(path.relative_to(docs).with_suffix(""))
        for folder in ("tutorials", "how-to")
        for path in (docs / folder).glob("*.md")
    )


def _text(page: str) -> str:
    return (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
