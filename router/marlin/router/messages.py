"""What the control process and its workers tell each other, over one socket pair for each worker.

Messages are msgspec structs in MessagePack, each behind its length in four bytes: nothing is ever unpickled. The other
end is our own process, so a message that cannot be read is a defect, and ends the channel.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, cast

import msgspec

from marlin.api.tracing import Span
from marlin.router.limits import Tenant
from marlin.router.settings import Settings
from marlin.router.tally import Cell, Spending
from marlin.router.view import Datacenter, PlanInfo, Pool, Table


class Begin(msgspec.Struct, frozen=True, tag=True):
    """To a worker, first: what it is started with."""

    settings: Settings


class Adopt(msgspec.Struct, frozen=True, tag=True):
    """To a worker: a table takes over."""

    generation: int
    pools: tuple[Pool, ...]
    datacenters: tuple[Datacenter, ...]
    plan: PlanInfo | None
    slots: tuple[int, ...]
    """A cell of the load page for each backend of the table."""

    @classmethod
    def of(cls, table: Table, slots: tuple[int, ...]) -> Adopt:
        """The message that carries ``table``."""
        return cls(table.generation, table.pools, table.datacenters, table.plan, slots)

    def table(self) -> Table:
        """The table."""
        return Table.of(self.generation, self.pools, self.datacenters, self.plan)


class AdoptTenants(msgspec.Struct, frozen=True, tag=True):
    """To a worker: a list of tenants takes over."""

    tenants: tuple[Tenant, ...]


class Verdict(msgspec.Struct, frozen=True, tag=True):
    """To a worker: what a probe found."""

    url: str
    is_well: bool


class Unanswered(msgspec.Struct, frozen=True, tag=True):
    """To a worker: a backend left two probes in a row unanswered."""

    url: str


class Ask(msgspec.Struct, frozen=True, tag=True):
    """To a worker: send a report."""

    number: int


class Drain(msgspec.Struct, frozen=True, tag=True):
    """To a worker: close connections as their requests end; with ``is_final``, accept no more."""

    is_final: bool


class Stop(msgspec.Struct, frozen=True, tag=True):
    """To a worker: end now."""


class Ready(msgspec.Struct, frozen=True, tag=True):
    """From a worker: it accepts connections."""


class Suspect(msgspec.Struct, frozen=True, tag=True):
    """From a worker: a backend that holds requests has been silent; is it well?"""

    url: str


class Idle(msgspec.Struct, frozen=True, tag=True):
    """From a worker that accepts no more: its last request has ended."""


class Spans(msgspec.Struct, frozen=True, tag=True):
    """From a worker: requests that have ended, for whoever collects traces."""

    spans: list[Span]


class BackendReport(msgspec.Struct, frozen=True):
    """What a worker knows of a backend."""

    pool: str
    name: str
    url: str
    in_flight: int
    """Of this worker."""
    is_usable: bool
    concurrency: float
    service_time_s: float | None
    outside: int = 0
    """Of others, where they count towards a cap: at member routers."""
    waiting: int = 0
    """At it, whoever sent them, not worked on yet."""
    energy_factor: float = 1.0
    """What a token takes at it now, over what the table says."""


class Report(msgspec.Struct, frozen=True, tag=True):
    """From a worker: everything it has counted since it began."""

    number: int
    active: int
    """Requests being served."""
    cells: list[Cell]
    backends: list[BackendReport]
    spendings: list[Spending] = []


ToWorker = Begin | Adopt | AdoptTenants | Verdict | Unanswered | Ask | Drain | Stop
FromWorker = Ready | Idle | Suspect | Spans | Report

_LENGTH_BYTES: Final = 4


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    raise NotImplementedError(type(value))


def _object(wanted: type, value: Any) -> Any:
    if issubclass(wanted, Path):
        return Path(value)
    raise NotImplementedError(wanted)


_ENCODER = msgspec.msgpack.Encoder(enc_hook=_plain)


class Channel(asyncio.Protocol):
    """One end of a socket pair.

    Args:
        wanted: the union of messages that arrive here.
        on_message: called with each.
        on_lost: called once when the other end is gone.
    """

    def __init__(self, wanted: Any, on_message: Callable[[Any], None], on_lost: Callable[[], None]) -> None:
        self._decoder = msgspec.msgpack.Decoder(wanted, dec_hook=_object)
        self._on_message = on_message
        self._on_lost = on_lost
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None

    async def open(self, end: socket.socket) -> None:
        """Begins to talk over an end of a socket pair. Messages may arrive before this returns."""
        end.setblocking(False)
        await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=end)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The channel is open."""
        self._transport = cast("asyncio.Transport", transport)

    def send(self, message: ToWorker | FromWorker) -> None:
        """Sends a message; one to an end that is gone is dropped."""
        if self._transport is None or self._transport.is_closing():
            return
        content = _ENCODER.encode(message)
        self._transport.write(len(content).to_bytes(_LENGTH_BYTES, "big") + content)

    def data_received(self, data: bytes) -> None:
        """Reads messages."""
        buffer = self._buffer
        buffer += data
        while len(buffer) >= _LENGTH_BYTES:
            end = _LENGTH_BYTES + int.from_bytes(buffer[:_LENGTH_BYTES], "big")
            if len(buffer) < end:
                return
            message = self._decoder.decode(bytes(buffer[_LENGTH_BYTES:end]))
            del buffer[:end]
            self._on_message(message)

    def connection_lost(self, exc: Exception | None) -> None:
        """The other end is gone."""
        self._transport = None
        self._on_lost()

    def close(self) -> None:
        """Closes this end."""
        if self._transport is not None:
            self._transport.close()
