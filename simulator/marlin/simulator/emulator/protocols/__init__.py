"""The four protocols vLLM speaks: each reads a body and writes replies, whole or streamed.

``base`` says what a protocol is; ``PROTOCOLS`` maps paths to them. The keys of each reply, and their order, are those
of vLLM 0.32.0: the contract tests compare.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from marlin.simulator.emulator.protocols.base import Protocol
from marlin.simulator.emulator.protocols.chat import Chat
from marlin.simulator.emulator.protocols.completions import Completions
from marlin.simulator.emulator.protocols.messages import Messages
from marlin.simulator.emulator.protocols.responses import Responses

PROTOCOLS: Final[Mapping[str, Protocol]] = {
    "/v1/completions": Completions(),
    "/v1/chat/completions": Chat(),
    "/v1/responses": Responses(),
    "/v1/messages": Messages(),
}

__all__ = ["PROTOCOLS", "Protocol"]
