"""Watches one ConfigMap on an API server and hands its table on as soon as it changes.

A mounted ConfigMap comes with the kubelet, up to a minute late; plans are published seconds ahead. So the control
process asks the API server itself, with an account that may get and watch this one object. The watch begins with the
object as it is, goes on from the last version it heard of (bookmarks keep that fresh), and begins anew where that
version is forgotten (410). While the API server is away the table in force stays, and it is asked again after pauses
that double up to half a minute, each drawn so that routers do not come back in step. The token is read anew for each
request, because Kubernetes rotates it, and so is the authority; redirects, which could carry the token elsewhere, are
not followed.

Runs in the control process, which has aiohttp anyway; workers know nothing of it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final

import aiohttp

from marlin.router.control import Offer
from marlin.router.settings import Settings
from marlin.router.table_place import Place, place_of

_LOG = logging.getLogger("marlin.router")

MOST_BYTES: Final = 8 * 2**20
"""Longest line of a watch: an object has at most 1 MiB, and JSON may write a character as six."""
FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 30.0
CONNECT_TIMEOUT_S: Final = 10.0
SILENCE_S: Final = 150.0
"""A watch that says nothing for so long is dead: bookmarks come every minute."""
WATCH_S: Final = 300
"""After so long the server ends a watch, and the next one has the newest token."""


def watch_of(settings: Settings, on_offer: Callable[[Offer], None]) -> TableWatch:
    """The watch that a router's settings ask for.

    Raises:
        InputError: something is missing.
    """
    assert settings.table_config_map is not None
    where = (settings.table_server, settings.table_ca_file, settings.table_token_file)
    return TableWatch(place_of(settings.table_config_map, *where, os.environ), on_offer)


class _WatchError(Exception):
    """One attempt failed; ``str()`` says how, without a token."""

    def __init__(self, message: str, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.wait_s = wait_s


class TableWatch:
    """One object, watched.

    Args:
        place: where it is.
        on_offer: called with each table it holds.
        sleep: waits.
        draw: a number in [0, 1), for pauses.

    Attributes:
        is_up: whether the API server is listened to now.
        last_error: why not, last time; None: it never failed since it was up.
    """

    def __init__(
        self,
        place: Place,
        on_offer: Callable[[Offer], None],
        sleep: Callable[[float], Any] = asyncio.sleep,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._place = place
        self._on_offer = on_offer
        self._sleep = sleep
        self._draw = draw
        self._version = ""
        self._failures = 0
        self.is_up = False
        self.last_error: str | None = None

    async def run(self) -> None:
        """Watches until cancelled."""
        while True:
            trouble = None
            try:
                await self._watch()
            except _WatchError as error:
                trouble = error
            except Exception as error:  # noqa: BLE001 whatever one connection brings, it is watched again
                trouble = _WatchError(f"{self._place.said} cannot be watched ({_named(error)})")
            finally:
                self.is_up = False
            # Servers end a watch now and then: that is no trouble, but nobody is to be asked without a pause.
            await (self._sleep(FIRST_PAUSE_S * self._draw()) if trouble is None else self._rest(trouble))

    async def first(self) -> Offer:
        """The table as it is, waited for while the API server is away or has none."""
        while True:
            try:
                return await self._get()
            except _WatchError as trouble:
                await self._rest(trouble)
            except Exception as error:  # noqa: BLE001 as above
                await self._rest(_WatchError(f"{self._place.said} cannot be read ({_named(error)})"))

    async def _rest(self, trouble: _WatchError) -> None:
        pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(self._failures, 16)) * (0.5 + 0.5 * self._draw())
        self._failures += 1
        said = str(trouble)
        # The same trouble again is the same line again: it is said once.
        _LOG.log(logging.DEBUG if said == self.last_error else logging.WARNING, "%s; the table in force stays", said)
        self.last_error = said
        await self._sleep(max(pause_s, min(trouble.wait_s, LONGEST_PAUSE_S)))

    async def _get(self) -> Offer:
        path = f"/api/v1/namespaces/{self._place.namespace}/configmaps/{self._place.name}"
        async with self._session() as session, session.get(self._place.server + path, **self._request()) as answer:
            await self._check(answer)
            offer = self._offer(json.loads(await answer.read()))
        if offer is None:
            raise _WatchError(f"{self._place.said} has no key {self._place.key}")
        return offer

    async def _watch(self) -> None:
        """One connection, for as long as it lasts."""
        params = {
            "watch": "true",
            "fieldSelector": f"metadata.name={self._place.name}",
            "allowWatchBookmarks": "true",
            # Drawn, so that routers that were started together do not come again together.
            "timeoutSeconds": str(int(WATCH_S * (0.8 + 0.4 * self._draw()))),
        }
        if self._version:
            params["resourceVersion"] = self._version
        url = f"{self._place.server}/api/v1/namespaces/{self._place.namespace}/configmaps"
        async with self._session() as session, session.get(url, params=params, **self._request()) as answer:
            if answer.status == 410:
                self._version = ""
                return
            await self._check(answer)
            self.is_up = True
            async for line in _lines(answer.content):
                if not self._take(json.loads(line)):
                    return

    def _take(self, event: Mapping[str, Any]) -> bool:
        """One event of a watch; False: the watch is to begin anew."""
        kind, found = str(event["type"]), event["object"]
        if kind == "ERROR":
            code = found.get("code")
            if code == 410:
                self._version = ""
                return False
            raise _WatchError(f"{self._place.said}: the watch ended with {code} {found.get('message', '')}"[:300])
        self._failures, self.last_error = 0, None
        self._version = str(found["metadata"]["resourceVersion"])
        if kind == "DELETED":
            _LOG.warning("%s was deleted; the table in force stays", self._place.said)
        elif kind != "BOOKMARK" and found["metadata"]["name"] == self._place.name:
            offer = self._offer(found)
            if offer is None:
                _LOG.error("%s has no key %s; the table in force stays", self._place.said, self._place.key)
            else:
                self._on_offer(offer)
        return True

    def _offer(self, found: Mapping[str, Any]) -> Offer | None:
        text = (found.get("data") or {}).get(self._place.key)
        metadata = found["metadata"]
        if text is None:
            return None
        return Offer(str(text).encode(), f"{metadata['namespace']}/{metadata['name']}", str(metadata.get("uid", "")))

    def _session(self) -> aiohttp.ClientSession:
        file = self._place.ca_file
        context = ssl.create_default_context(cafile=None if file is None else str(file))
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=SILENCE_S),
            trust_env=False,
        )

    def _request(self) -> dict[str, Any]:
        token = self._place.token_file.read_text("utf-8").strip()
        return {"headers": {"Authorization": f"Bearer {token}", "Accept": "application/json"}, "allow_redirects": False}

    async def _check(self, answer: aiohttp.ClientResponse) -> None:
        if answer.status == 200:
            return
        advice = {
            401: "; its token is not accepted",
            403: "; the account may not get and watch it: see router.table.watch of the chart",
            404: "; it does not exist yet: does the policy of its name exist?",
        }.get(answer.status, "")
        wait = answer.headers.get("Retry-After", "")
        raise _WatchError(
            f"{self._place.said}: answered {answer.status}{advice}", float(wait) if wait.isdigit() else 0.0
        )


def _named(error: Exception) -> str:
    """What went wrong, with the file where it was one: a missing token or authority is for somebody to mount."""
    file = getattr(error, "filename", None)
    return type(error).__name__ if file is None else f"{type(error).__name__}: {file}"


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Whole lines of a stream whose lines are longer than a reader's own limit."""
    rest = bytearray()
    async for chunk in content.iter_any():
        rest += chunk
        if b"\n" in chunk:
            *whole, last = bytes(rest).split(b"\n")
            rest = bytearray(last)
            for line in whole:
                if line.strip():
                    yield line
        if len(rest) > MOST_BYTES:
            raise ValueError("a line of the watch is too long")
