"""Keeps the table up to date: reads the file, watches it, and takes plans over at their time.

A table that is watched on an API server (``table_watch``) is offered to it, and takes the file's place from then on.
The one module that reads files. A new table is read and checked completely before the old one is let go; one that is
bad is reported in one line and changes nothing. What is published is a ``view.Table``, replaced as a whole.
``server`` starts it, ``proxy`` and ``admin`` read ``table``.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from marlin.api.documents import DocumentError
from marlin.api.plan import RoutingPlan
from marlin.api.sending import SEND_TO
from marlin.api.table import RoutingTable
from marlin.router.schedule import Schedule
from marlin.router.settings import Settings
from marlin.router.tables import read_table, secret_paths, view_of
from marlin.router.view import Table

_LOG = logging.getLogger("marlin.router")

Fingerprint = tuple[tuple[int, int, int] | None, ...]

RESULTS: Final = ("ok", "unchanged", "older", "invalid")
"""What may become of a reading of the file, as metrics name it."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A table that came over the network instead of from a file."""

    content: bytes
    source: str
    """Its name, for messages."""
    history: str
    """Of two with the same history the one with the higher generation is newer: the object's uid."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What one reading of the file, and of the secrets it names, gave."""

    document: RoutingTable
    secrets: dict[str, str] = field(repr=False)
    digest: str
    offer: Offer | None = None
    """What it was read from; None: a file."""

    @property
    def history(self) -> str:
        """Generations of different histories are not compared."""
        return "" if self.offer is None else self.offer.history


@dataclass(frozen=True, slots=True)
class ControlStatus:
    """How the last readings went, for /readyz."""

    last_result: str = "ok"
    last_error: str | None = None
    upcoming_epoch: int | None = None
    upcoming_from_s: float | None = None
    is_watched: bool | None = None
    """Whether the API server that has the table is listened to; None: it comes from a file."""
    watch_error: str | None = None


class Control:
    """The table in force, and what keeps it so.

    Args:
        settings: which file, which origin, where secrets are.
        clock: Unix time, s.
        on_table: called with every table that takes over.
        on_reload: called with one of ``RESULTS`` for each reading after the first.
        first: a table to begin with; None: the file's, or the one that was kept.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Callable[[], float],
        on_table: Callable[[Table], None],
        on_reload: Callable[[str], None],
        first: Offer | None = None,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._on_table = on_table
        self._on_reload = on_reload
        self._schedule: Schedule[RoutingPlan] = Schedule()
        self._wake = asyncio.Event()
        self._is_forced = False
        self._named: tuple[str, ...] = ()
        self._offer = self._looked_at = first
        self._kept: Offer | None = None
        # Taken before the file is read: a change in between is then seen at the next look.
        self._fingerprint: Fingerprint = self._look(())
        self._reading = self._read_first()
        self._last_result = "ok"
        self._last_error: str | None = None
        self._adopt(self._reading)

    @property
    def table(self) -> Table:
        """The table in force."""
        return self._table

    @property
    def status(self) -> ControlStatus:
        """How the last reading went, and what waits for its time."""
        upcoming = self._schedule.upcoming
        return ControlStatus(
            self._last_result,
            self._last_error,
            None if upcoming is None else upcoming.epoch,
            self._schedule.next_change_s(),
        )

    def reload_now(self) -> None:
        """Asks for a reading even if the file looks the same; for SIGHUP."""
        self._is_forced = True
        self._wake.set()

    def offer(self, offer: Offer) -> None:
        """Takes a table that was watched; from then on the file is not looked at."""
        self._offer = offer
        self._wake.set()

    async def run(self) -> None:
        """Looks at the file and the clock until cancelled."""
        while True:
            await self._pause()
            try:
                await self.step()
            except Exception:  # noqa: BLE001 - watching must go on whatever one reading does
                _LOG.exception("reading the table failed")

    async def step(self) -> None:
        """One look: a changed file is read, a plan whose time has come takes over."""
        fingerprint = self._look(self._named)
        is_forced, self._is_forced = self._is_forced, False
        offer, self._looked_at = self._looked_at, self._offer
        if is_forced or fingerprint != self._fingerprint or offer is not self._offer:
            self._fingerprint = fingerprint
            await self._reload(is_forced=is_forced)
        self._advance()

    async def _pause(self) -> None:
        interval_s = self._settings.reload_interval_s
        if (change_s := self._schedule.next_change_s()) is not None:
            interval_s = min(interval_s, max(0.0, change_s - self._clock()))
        try:
            await asyncio.wait_for(self._wake.wait(), interval_s)
        except TimeoutError:
            return
        self._wake.clear()

    async def _reload(self, *, is_forced: bool) -> None:
        try:
            # In a thread, because parsing a large table takes longer than a stream should stand still.
            reading = await asyncio.to_thread(self._read)
            self._last_result, self._last_error = self._take(reading), None
            if reading is self._reading and (offer := reading.offer) is not None and offer is not self._kept:
                self._kept = offer
                # Whoever is stopped now writes it down all the same: a thread not yet begun would be cancelled with us.
                await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, self._keep, offer))
        except DocumentError as error:
            self._last_result, self._last_error = "invalid", str(error)
            _LOG.error("table not taken, the one before stays: %s", error)
        if self._last_result != "unchanged" or is_forced:
            self._on_reload(self._last_result)

    def _take(self, reading: Reading) -> str:
        if reading.digest == self._reading.digest:
            self._reading = reading  # from the API server what the file said already
            return "unchanged"
        new, old = reading.document.generation, self._reading.document.generation
        # Generation 0 stands for a table without a history: one written by hand, or made from documents.
        if 0 < new < old and reading.history == self._reading.history:
            _LOG.warning("table of generation %d ignored: generation %d is in force", new, old)
            return "older"
        self._adopt(reading)
        return "ok"

    def _adopt(self, reading: Reading) -> None:
        schedule = self._schedule.offer(reading.document.plan, self._clock())
        self._table = self._view(reading, schedule)
        self._reading, self._schedule = reading, schedule
        self._publish("table taken")

    def _advance(self) -> None:
        schedule = self._schedule.at(self._clock())
        if schedule is not self._schedule:
            self._table = self._view(self._reading, schedule)
            self._schedule = schedule
            self._publish("plan taken over")

    def _publish(self, what: str) -> None:
        table = self._table
        _LOG.info(
            "%s: generation %d, %d pools, %d backends, plan %s",
            what,
            table.generation,
            len(table.pools),
            len(table.backends()),
            "none" if table.plan is None else f"of epoch {table.plan.epoch} by {table.plan.planner}",
        )
        self._on_table(table)

    def _view(self, reading: Reading, schedule: Schedule[RoutingPlan]) -> Table:
        return view_of(reading.document, schedule.current, self._settings.origin, reading.secrets.__getitem__)

    def _read_first(self) -> Reading:
        """The first table: what is kept is taken where the file is missing, wrong or older."""
        path, kept = self._settings.table_cache, None
        if path is not None and path.exists() and self._offer is None:
            try:
                kept = self._parse(path.read_bytes(), str(path))
            except (DocumentError, OSError) as error:
                _LOG.warning("the table that was kept is not taken: %s", error)
        try:
            reading = self._read()
        except DocumentError as error:
            if kept is None:
                raise
            if self._settings.config is not None:
                _LOG.warning("%s; the table that was kept is taken", error)
            return kept
        return kept if kept is not None and kept.document.generation > reading.document.generation else reading

    def _read(self) -> Reading:
        if (offer := self._offer) is not None:
            return self._parse(offer.content, offer.source, offer)
        path = self._settings.config
        if path is None:
            raise DocumentError("there is no table: give --config, or a --table-cache that holds one")
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DocumentError(f"{path}: {error.strerror or error}") from None
        return self._parse(content, str(path))

    def _parse(self, content: bytes, source: str, offer: Offer | None = None) -> Reading:
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError:
            raise DocumentError(f"{source}: is not UTF-8 text") from None
        document = read_table(text, source, self._settings.origin, self._settings.namespace)
        # Those of a table that is not taken too: what is wrong with it may be mended in them.
        self._named = tuple(sorted(secret_paths(document)))
        secrets = {name: self._read_secret(name) for name in self._named}
        digest = hashlib.sha256(content)
        for name, secret in secrets.items():
            digest.update(f"\0{name}\0{secret}".encode())
        reading = Reading(document, secrets, digest.hexdigest(), offer)
        self._view(reading, Schedule(document.plan))  # whatever is wrong shows now, not when the plan begins
        return reading

    def _keep(self, offer: Offer) -> None:
        """Writes a watched table down, whole or not at all."""
        if (path := self._settings.table_cache) is None:
            return
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            draft.write_bytes(offer.content)
            draft.replace(path)
        except OSError as error:
            _LOG.warning("%s: the table cannot be kept: %s", path, error.strerror or error)

    def _read_secret(self, name: str) -> str:
        if self._settings.secrets_dir is None:
            raise DocumentError(f"the table names secret {name}; say where it is with --secrets-dir")
        path = self._settings.secrets_dir / name
        if path.name == SEND_TO and not path.exists():
            return ""  # it may be sent nowhere
        try:
            return path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DocumentError(f"{path}: secret cannot be read: {error}") from None

    def _look(self, secrets: tuple[str, ...]) -> Fingerprint:
        folder = self._settings.secrets_dir
        file = [self._settings.config] if self._settings.config is not None and self._offer is None else []
        paths = [*file, *(folder / name for name in secrets if folder is not None)]
        return tuple(identity_of(path) for path in paths)


def identity_of(path: Path) -> tuple[int, int, int] | None:
    """What changes when a file is written, replaced, or a link to it is turned."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return (stat.st_mtime_ns, stat.st_size, stat.st_ino)
