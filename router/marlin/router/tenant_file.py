"""Keeps the list of tenants up to date: reads ``--tenants``, watches it, hands out rows of the ledger.

As with the table, a new list is checked completely before the old one is let go. A tenant keeps its row as long as it
is in the list, so that a change of the file, or of its key, forgives nobody what was used. ``launch`` runs it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from marlin.api.documents import DocumentError, load_documents
from marlin.api.tenants import Budget as TenantBudget
from marlin.api.tenants import BudgetPeriod, TenantList
from marlin.api.tenants import Tenant as ListedTenant
from marlin.router.control import Fingerprint, identity_of
from marlin.router.ledger import Ledger
from marlin.router.limits import MAX_TENANTS, MICRO_GCO2, NANO_USD, Budget, Rate, Tenant

_LOG = logging.getLogger("marlin.router")
_HASH: Final = "sha256:"


class TenantFile:
    """The list in force, and what keeps it so.

    Args:
        path: where it is.
        ledger: whose rows are handed out.
        on_tenants: called with every list that takes over, the first one included.
        on_reload: called with ``ok`` or ``invalid`` for each reading after the first.

    Raises:
        DocumentError: the file holds no list, or a bad one.
    """

    def __init__(
        self,
        path: Path,
        ledger: Ledger,
        on_tenants: Callable[[tuple[Tenant, ...]], None],
        on_reload: Callable[[str], None],
    ) -> None:
        self._path = path
        self._ledger = ledger
        self._on_tenants = on_tenants
        self._on_reload = on_reload
        self._slots: dict[str, int] = {}
        self._gone: dict[str, int] = {}
        """Rows of tenants that left the list, the one that left first at the front."""
        self._next_slot = 0
        self._wake = asyncio.Event()
        self.last_error: str | None = None
        """Why the newest file is not in force; None: it is."""
        self._fingerprint: Fingerprint = (identity_of(path),)
        self.tenants: tuple[Tenant, ...] = ()
        """The list in force."""
        self._adopt(self._read())

    def reload_now(self) -> None:
        """Asks for a reading even if the file looks the same; for SIGHUP."""
        self._fingerprint = ()
        self._wake.set()

    async def run(self, interval_s: float) -> None:
        """Looks at the file until cancelled."""
        while True:
            try:
                await asyncio.wait_for(self._wake.wait(), interval_s)
                self._wake.clear()
            except TimeoutError:
                pass
            await self.step()

    async def step(self) -> None:
        """One look: a changed file is read."""
        fingerprint = (identity_of(self._path),)
        if fingerprint == self._fingerprint:
            return
        self._fingerprint = fingerprint
        try:
            # In a thread, as the table is.
            self._adopt(await asyncio.to_thread(self._read))
            self.last_error = None
        except DocumentError as error:
            self.last_error = str(error)
            _LOG.error("tenants not taken, those before stay: %s", error)
        self._on_reload("ok" if self.last_error is None else "invalid")

    def _read(self) -> TenantList:
        try:
            text = self._path.read_text("utf-8")
        except OSError as error:
            raise DocumentError(f"{self._path}: {error.strerror or error}") from None
        except UnicodeDecodeError:
            raise DocumentError(f"{self._path}: is not UTF-8 text") from None
        lists = load_documents(text, str(self._path)).tenant_lists
        if len(lists) != 1:
            raise DocumentError(f"{self._path}: holds {len(lists)} TenantLists; one is expected")
        return lists[0]

    def _adopt(self, listed: TenantList) -> None:
        names = {tenant.name for tenant in listed.tenants}
        self._gone |= {name: slot for name, slot in self._slots.items() if name not in names}
        # Whoever comes back finds what it has used: a budget is not renewed by being taken off the list for a while.
        back = {name: slot for name, slot in self._gone.items() if name in names}
        self._gone = {name: slot for name, slot in self._gone.items() if name not in names}
        self._slots = {name: slot for name, slot in self._slots.items() if name in names} | back
        for tenant in listed.tenants:
            if tenant.name not in self._slots:
                self._slots[tenant.name] = self._free_slot()
        self.tenants = tuple(view_of(tenant, self._slots) for tenant in listed.tenants)
        _LOG.info("tenants taken: %d", len(self.tenants))
        self._on_tenants(self.tenants)

    def _free_slot(self) -> int:
        """A row that nobody had; where there is none, that of the tenant that left longest ago."""
        if self._next_slot < MAX_TENANTS:
            slot, self._next_slot = self._next_slot, self._next_slot + 1
        else:
            slot = self._gone.pop(next(iter(self._gone)))
        self._ledger.clear(slot)
        return slot


def view_of(tenant: ListedTenant, slots: Mapping[str, int]) -> Tenant:
    """A tenant as workers know it."""
    return Tenant(
        name=tenant.name,
        slot=slots[tenant.name],
        digests=tuple(bytes.fromhex(key_hash.removeprefix(_HASH)) for key_hash in tenant.key_hashes),
        priority=tenant.priority.value,
        requests=_rate(tenant.requests_per_minute, tenant.request_burst),
        tokens=_rate(tenant.tokens_per_minute, tenant.token_burst),
        budget=None if tenant.budget is None else _budget(tenant.budget),
    )


def _rate(per_minute: int | None, burst: int | None) -> Rate | None:
    return None if per_minute is None else Rate(per_minute, per_minute if burst is None else burst)


def _budget(budget: TenantBudget) -> Budget:
    return Budget(
        is_monthly=budget.period is BudgetPeriod.MONTH,
        nano_usd=None if budget.usd is None else round(budget.usd * NANO_USD),
        micro_gco2=None if budget.carbon_gco2 is None else round(budget.carbon_gco2 * MICRO_GCO2),
    )
