"""kopf in a thread of its own: it watches the three kinds, and rings when something a person changed is different.

What an object became is not passed on, only that there is another version of it (``kube.hearing``): whoever hears the
bell asks the API server (level-based), and looks at all of them once a minute, so an event that is lost, doubled or
late does no harm. kopf ends when its retries are used up; it is then started again, with longer and longer pauses, and
how often is counted. Handlers are registered by group, version and plural: the upstream inference extension has an
``inferencepools`` too.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, cast

import kopf

from marlin.api.values import GROUP, VERSION
from marlin.operator.core.observed import PLURALS
from marlin.operator.kube.access import Access
from marlin.operator.kube.hearing import Hearing

_log: Final = logging.getLogger(__name__)

FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 60.0
"""Pauses before it is started again grow between these."""
RETRIES_S: Final = (1, 1, 2, 3, 5, 8, 13, 21, *(30,) * 18)
"""kopf's pauses before it gives a resource up: ten minutes in all, longer than an upgrade of a control plane."""


@dataclass(slots=True)
class Watch:
    """Runs kopf until stopped.

    Args:
        access: the hub.
        ring: called from kopf's thread when something changed.
    """

    access: Access
    ring: Callable[[], None]
    restarts: int = 0
    hearing: Hearing = field(default_factory=Hearing)
    """What was heard."""
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Starts the thread."""
        self._thread = threading.Thread(target=self._supervise, name="kopf", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """Ends the thread."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout_s)

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def _supervise(self) -> None:
        pause_s = FIRST_PAUSE_S
        while not self._stop.is_set():
            began_s = time.monotonic()
            try:
                asyncio.run(self._run())
            except Exception as error:  # noqa: BLE001 whatever ends kopf, it is started again
                _log.warning(
                    "the watch ended (%s: %s); it starts again in %.0f s", type(error).__name__, error, pause_s
                )
            if self._stop.wait(pause_s):
                return
            self.restarts += 1
            pause_s = next_pause_s(pause_s, time.monotonic() - began_s)
            self.hearing.begins_anew()
            self.ring()

    async def _run(self) -> None:
        registry = kopf.OperatorRegistry()

        @kopf.on.login(registry=registry)
        def login(**_: Any) -> kopf.ConnectionInfo:
            return self._connection()

        for kind, plural in PLURALS.items():

            def heard(event: Any, kind: str = kind, **_: Any) -> None:
                if self.hearing.event(kind, event):
                    self.ring()

            kopf.on.event(GROUP, VERSION, plural, registry=registry, id=f"heard-{plural}")(heard)
        await kopf.operator(
            registry=registry,
            settings=_settings(),
            standalone=True,
            # It has no peers to be known to; but kopf would make a name out of the account's, and in a pod the account
            # is a number that has none.
            identity=cast("Any", "marlin"),
            clusterwide=True,
            stop_flag=self._stop,
        )

    def _connection(self) -> kopf.ConnectionInfo:
        access = self.access
        return kopf.ConnectionInfo(
            server=access.server,
            ca_data=access.ca.encode() or None,
            scheme="Bearer" if access.bearer() else None,
            token=access.bearer() or None,
            certificate_data=access.certificate.encode() or None,
            private_key_data=access.key.encode() or None,
        )


def next_pause_s(pause_s: float, ran_s: float) -> float:
    """The pause after the next end: twice as long, or the first one again where the watch ran for a good while.

    Args:
        pause_s: the pause of this time, s.
        ran_s: from its start to the end of this pause, s.
    """
    return FIRST_PAUSE_S if ran_s - pause_s > LONGEST_PAUSE_S else min(LONGEST_PAUSE_S, 2 * pause_s)


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False  # our Events are our own
    settings.scanning.disabled = True  # needs no right to list CRDs and namespaces
    settings.watching.server_timeout = 600
    settings.watching.client_timeout = 660
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 10
    settings.networking.error_backoffs = RETRIES_S
    settings.persistence.finalizer = f"{GROUP}/kopf"
    return settings
