"""Log lines: text for people, JSON for collectors; one line each, whatever a client wrote into its path.

Never holds a body, a query or an Authorization header: what is logged of a request is the ``Exchange``.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

from marlin.router.exchange import Exchange

ACCESS = logging.getLogger("marlin.router.access")


class JsonFormatter(logging.Formatter):
    """One JSON object per line; the fields of an access line are at its top level."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=True, separators=(",", ":"))


class TextFormatter(logging.Formatter):
    """Time, level, message, then fields as ``name=value``."""

    def format(self, record: logging.LogRecord) -> str:
        """The line; several lines when there is a traceback."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields = "".join(f" {name}={_plain(value)}" for name, value in getattr(record, "fields", {}).items())
        line = f"{time} {record.levelname.lower()} {_one_line(record.getMessage())}{fields}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def configure(log_format: str) -> None:
    """Sends the router's log to standard error.

    Args:
        log_format: ``text`` or ``json``.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    logger = logging.getLogger("marlin.router")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False


def log_access(exchange: Exchange) -> None:
    """Writes the line of a request that has ended."""
    ACCESS.info("request", extra={"fields": exchange.fields()})


def _plain(value: object) -> str:
    text = str(value)
    if text and text.isascii() and text.isprintable() and " " not in text and '"' not in text:
        return text
    return json.dumps(text)


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)
