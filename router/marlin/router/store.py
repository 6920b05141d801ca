"""Budgets that several routers share: what each has spent goes to a Redis-protocol store, what others have comes back.

For each tenant and period there is a hash in the store, with one field for each router: what it has spent so far, in
all. A router only ever writes its own field, and writes totals rather than additions, so that a write that is sent
twice or whose answer is lost counts once: sums are exact without transactions. A router that starts anew takes a new
field; what it had spent before stays where it is. The store is asked four times a second, never on the way of a
request. While it is away, requests go on by what is known; when it is back, totals are set right.

Spoken are AUTH, SELECT, HSET, PEXPIREAT and HGETALL, in RESP2: a client library would be larger than this module and
its tests. The control process runs it (``launch``).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Callable, Sequence
from typing import Final
from urllib.parse import urlsplit

from marlin.api.errors import InputError
from marlin.router.ledger import (
    ELSEWHERE_MICRO_GCO2,
    ELSEWHERE_NANO_USD,
    ELSEWHERE_PERIOD,
    MICRO_GCO2,
    NANO_USD,
    PERIOD,
    Ledger,
)
from marlin.router.limits import Budget, Tenant, period_end_s, period_name, period_of

_LOG = logging.getLogger("marlin.router")

INTERVAL_S: Final = 0.25
"""How old may be what is known of the other routers."""

TIMEOUT_S: Final = 2.0
_KEPT_S: Final = 7 * 86_400.0
"""How long a period's sums stay in the store after its end, for whoever wants to look at them."""

_MAX_ANSWER_BYTES: Final = 16 * 2**20

Answer = bytes | int | list["Answer"] | None


class StoreError(Exception):
    """The store said no, or something that is not of its protocol."""


class BudgetStore:
    """Keeps a ledger's budgets and the store's in step.

    Args:
        url: ``redis://HOST[:PORT][/DATABASE]``, or ``rediss://`` for an encrypted connection.
        password: gives that of the store, asked at each connection, for it may be exchanged; None: there is none.
        ledger: what this router has spent, and where goes what others have.
        tenants: the list in force.
        clock: Unix time, s.
        instance: name of this router, and of no other one.

    Raises:
        InputError: the address is none.
    """

    def __init__(
        self,
        url: str,
        password: Callable[[], str] | None,
        ledger: Ledger,
        tenants: Callable[[], Sequence[Tenant]],
        clock: Callable[[], float],
        instance: str,
    ) -> None:
        usage = "give redis://HOST[:PORT][/DATABASE], or rediss:// for TLS"
        try:
            parts = urlsplit(url)
            port = parts.port or 6379
        except ValueError:
            raise InputError(f"--budget-store: its host or port is none; {usage}") from None
        database = parts.path.strip("/") or "0"
        if parts.scheme not in {"redis", "rediss"} or not parts.hostname or not database.isdigit():
            raise InputError(f"--budget-store {parts.scheme}: {usage}")
        if parts.password or parts.username:
            raise InputError("--budget-store: holds credentials; use --budget-store-password-file instead")
        self._host, self._port = parts.hostname, port
        self._ssl = ssl.create_default_context() if parts.scheme == "rediss" else None
        self._password = password
        self._select = (b"SELECT", database.encode())
        self._ledger = ledger
        self._tenants = tenants
        self._clock = clock
        self._instance = instance.encode()
        self._stopping = asyncio.Event()
        self._written: dict[bytes, bytes] = {}
        self.is_reached = False
        """Whether the last exchange succeeded: then budgets are exact."""

    async def run(self, interval_s: float = INTERVAL_S) -> None:
        """Exchanges sums until ``stop``, and a last time then; connects again when the store comes back."""
        is_told = False
        while not self._stopping.is_set():
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    reader, writer = await asyncio.open_connection(
                        self._host, self._port, ssl=self._ssl, limit=_MAX_ANSWER_BYTES
                    )
                try:
                    await self._exchange(reader, writer, interval_s)
                finally:
                    writer.close()
            except (OSError, TimeoutError, StoreError, asyncio.IncompleteReadError, ValueError) as error:
                if self.is_reached or not is_told:
                    _LOG.error("budget store is away, budgets are approximate: %s", error or type(error).__name__)
                self.is_reached, is_told = False, True
                await self._pause(interval_s)

    def stop(self) -> None:
        """Ends ``run``: when all requests have ended, so that the other routers know what they cost."""
        self._stopping.set()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, interval_s: float) -> None:
        greeting = [] if self._password is None else [(b"AUTH", self._password().encode())]
        await _ask(reader, writer, [*greeting, self._select])
        # What was written on another connection may not have arrived.
        self._written.clear()
        while True:
            is_last = self._stopping.is_set()
            await self.exchange_once(reader, writer)
            if not self.is_reached:
                _LOG.info("budget store reached: budgets are exact")
            self.is_reached = True
            if is_last:
                return
            await self._pause(interval_s)

    async def _pause(self, interval_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), interval_s)

    async def exchange_once(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Writes what this router has spent, reads what the others have.

        Raises:
            StoreError: the store said no.
            OSError: the connection broke.
        """
        now_s = self._clock()
        budgeted = [(tenant, tenant.budget) for tenant in self._tenants() if tenant.budget is not None]
        writes: list[tuple[bytes, ...]] = []
        reads: list[tuple[bytes, ...]] = []
        fresh: dict[bytes, bytes] = {}
        for tenant, budget in budgeted:
            key, own = _key(tenant, budget, now_s), self._own(tenant, budget, now_s)
            reads.append((b"HGETALL", key))
            if own != b"0 0" and self._written.get(key) != own:
                ends_ms = int(1000 * (period_end_s(now_s, is_monthly=budget.is_monthly) + _KEPT_S))
                writes += [(b"HSET", key, self._instance, own), (b"PEXPIREAT", key, b"%d" % ends_ms)]
                fresh[key] = own
        if reads:
            answers = await _ask(reader, writer, [*writes, *reads])
            self._written |= fresh
            for (tenant, budget), answer in zip(budgeted, answers[len(writes) :], strict=True):
                self._take(tenant, budget, answer, now_s)

    def _own(self, tenant: Tenant, budget: Budget, now_s: float) -> bytes:
        cells, row = self._ledger.cells, self._ledger.row_at(tenant.slot)
        if cells[row + PERIOD] != period_of(now_s, is_monthly=budget.is_monthly):
            return b"0 0"
        return b"%d %d" % (cells[row + NANO_USD], cells[row + MICRO_GCO2])

    def _take(self, tenant: Tenant, budget: Budget, answer: Answer, now_s: float) -> None:
        if not isinstance(answer, list):
            raise StoreError("HGETALL was not answered with fields")
        nano_usd = micro_gco2 = 0
        for name, value in zip(answer[::2], answer[1::2], strict=True):
            if name != self._instance and isinstance(value, bytes):
                usd, _, carbon = value.partition(b" ")
                nano_usd += int(usd)
                micro_gco2 += int(carbon)
        cells, row = self._ledger.cells, self._ledger.row_at(tenant.slot)
        cells[row + ELSEWHERE_NANO_USD] = nano_usd
        cells[row + ELSEWHERE_MICRO_GCO2] = micro_gco2
        cells[row + ELSEWHERE_PERIOD] = period_of(now_s, is_monthly=budget.is_monthly)


def _key(tenant: Tenant, budget: Budget, now_s: float) -> bytes:
    return f"marlin:budget:{tenant.name}:{period_name(now_s, is_monthly=budget.is_monthly)}".encode()


async def _ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, commands: Sequence[tuple[bytes, ...]]
) -> list[Answer]:
    """Sends commands together and reads an answer to each."""
    request = bytearray()
    for command in commands:
        request += b"*%d\r\n" % len(command)
        for word in command:
            request += b"$%d\r\n%b\r\n" % (len(word), word)
    async with asyncio.timeout(TIMEOUT_S):
        writer.write(request)
        await writer.drain()
        return [await _answer(reader) for _ in commands]


async def _answer(reader: asyncio.StreamReader) -> Answer:
    line = (await reader.readuntil(b"\r\n"))[:-2]
    kind, rest = line[:1], line[1:]
    if kind == b"+":
        return rest
    if kind == b":":
        return int(rest)
    if kind == b"$":
        length = int(rest)
        return None if length < 0 else (await reader.readexactly(length + 2))[:-2]
    if kind == b"*":
        return [await _answer(reader) for _ in range(int(rest))]
    raise StoreError(rest.decode("utf-8", "replace")[:200] if kind == b"-" else "it does not speak RESP2")
