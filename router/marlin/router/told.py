"""What workers are told first: the table and the list of tenants, with what keeps both up to date.

``process`` makes it as soon as the workers are started, before it imports what watches backends and shows metrics:
workers serve while this process is still getting ready. ``launch`` runs it, and says who else wants to know of tables.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from marlin.router.control import Control, Offer
from marlin.router.crew import Workers
from marlin.router.settings import Settings
from marlin.router.tenant_file import TenantFile
from marlin.router.view import Table


class Told:
    """The table and the tenants of a router.

    Args:
        settings: where they are.
        workers: who is told.
        first: a table that was watched already; None: the file's is the first.

    Attributes:
        control: the table.
        tenant_file: the list of tenants; None: everybody may come.
        before_table: called before workers are told of another table.
        count_reload, count_tenant_reload: called with what became of a change of either file.

    Raises:
        DocumentError: one of the two is wrong.
    """

    def __init__(self, settings: Settings, workers: Workers, first: Offer | None = None) -> None:
        self._workers = workers
        self.before_table: list[Callable[[], None]] = []
        self.count_reload: Callable[[str], None] = lambda _: None
        self.count_tenant_reload: Callable[[str], None] = lambda _: None
        self.tenant_file: TenantFile | None = None
        if settings.tenants is not None:
            # Before the table, which is what makes workers listen.
            self.tenant_file = TenantFile(
                settings.tenants, workers.ledger, workers.adopt_tenants, self._count_tenant_reload
            )
        self.control = Control(settings, time.time, self._adopt, self._count_reload, first)

    def _count_reload(self, result: str) -> None:
        self.count_reload(result)

    def _count_tenant_reload(self, result: str) -> None:
        self.count_tenant_reload(result)

    def _adopt(self, table: Table) -> None:
        for prepare in self.before_table:
            prepare()
        self._workers.adopt(table)

    def table(self) -> Table:
        """The table in force."""
        return self.control.table

    def reload_now(self) -> None:
        """Reads both files again; for SIGHUP."""
        self.control.reload_now()
        if self.tenant_file is not None:
            self.tenant_file.reload_now()
