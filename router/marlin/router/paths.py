"""What is passed on: an allow-list, so that a backend's control endpoints are never reachable through the router.

``heads`` asks once for each first line it has not seen before.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import unquote

_PREFIXES: Final = ("/v1/", "/v2/")
_EXACT: Final = frozenset({"/tokenize", "/detokenize", "/score", "/rerank", "/pooling"})
_CONTROL: Final = frozenset({"/v1/load_lora_adapter", "/v1/unload_lora_adapter"})
"""Below /v1/, but they change what a backend serves."""


REALTIME: Final = "/v1/realtime"
"""Where a request may become a WebSocket."""

_OWN: Final = frozenset({b"/v1/models", b"/healthz", b"/readyz", b"/marlin/load"})

NOWHERE: Final = 0
PASSED_ON: Final = 1
OWN: Final = 2
"""What is done with a request: refused, sent to a backend, answered here."""


def route_of(method: bytes, target: bytes) -> int:
    """What is done with a request.

    Args:
        method: its method.
        target: path and query as they stand in the request line.
    """
    path = target.partition(b"?")[0]
    if method == b"GET" and (path in _OWN or path.startswith(b"/v1/models/")):
        return OWN
    return PASSED_ON if is_passed_on(target) else NOWHERE


def is_passed_on(target: bytes) -> bool:
    """Whether a request target, as it stands in the request line, goes to a backend.

    A path that another server may read differently (dot segments, encoded slashes, doubled slashes, backslashes) is
    refused: what was checked here must be what the backend sees.
    """
    raw = target.partition(b"?")[0].lower()
    path = unquote(raw.decode("latin-1")) if b"%" in raw else raw.decode("latin-1")
    if b"%2f" in raw or b"%5c" in raw or "\\" in path or "//" in path or "%" in path:
        return False
    if any(segment in {".", ".."} for segment in path.split("/")) or any(ord(c) < 0x20 or ord(c) == 0x7F for c in path):
        return False
    if path.rstrip("/") in _CONTROL:
        return False
    return path in _EXACT or (path.startswith(_PREFIXES) and path not in _PREFIXES)
