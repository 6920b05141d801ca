"""Which backend keeps which response of ``/v1/responses``: follow-ups have to return to it, for no other one knows it.

A response's id is in the first bytes of its reply, and in the path or in ``previous_response_id`` of what follows.
``flow`` notes the one and looks up the other. What this worker has not seen (another one served it, or the router is a
new one) is looked for: a backend that does not know the id says 404 before it does any work, and the next one is asked.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

PATH: Final = "/v1/responses"
MAX_KNOWN: Final = 16_384
"""Responses remembered; beyond that the oldest are forgotten, and looked for when they are asked for."""

MAX_ASKED: Final = 16
"""Backends asked for a response that nobody is known to have."""

_FIRST_BYTES: Final = 1024
_ID = re.compile(rb'"id"\s*:\s*"(resp_[^"\\]{1,200})"')
_IN_PATH = re.compile(r"/v1/responses/([^/]{1,256})(?:/.*)?")


class _Previous(msgspec.Struct, gc=False):
    previous_response_id: Any = None


_DECODER = msgspec.json.Decoder(_Previous)

BackendKey = tuple[str, str, str]


class Responses:
    """The responses that a worker has passed on."""

    def __init__(self) -> None:
        self._keepers: dict[str, BackendKey] = {}

    def note(self, beginning: bytes, keeper: BackendKey) -> None:
        """Remembers whose response begins like this."""
        found = _ID.search(beginning[:_FIRST_BYTES])
        if found is not None:
            self._keepers[found[1].decode("latin-1")] = keeper
            if len(self._keepers) > MAX_KNOWN:
                del self._keepers[next(iter(self._keepers))]

    def keeper(self, response_id: str) -> BackendKey | None:
        """Who has it; None: unknown."""
        return self._keepers.get(response_id)


def asked_for(path: str, body: bytes) -> str | None:
    """The response that a request below ``/v1/responses`` follows up; None: it begins anew."""
    if (found := _IN_PATH.fullmatch(path)) is not None:
        return found[1]
    try:
        previous = _DECODER.decode(body).previous_response_id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return previous if isinstance(previous, str) and previous else None
