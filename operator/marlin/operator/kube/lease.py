"""Who of several operators leads: a ``coordination.k8s.io`` Lease, as Kubernetes' own controllers hold one.

The rule is a pure function of the Lease as read, of when this process first saw it so, and of the clock; clocks of two
machines are never compared. A leader that cannot renew within ``RENEW_S`` has to stop, which is sooner than anybody
else may take over.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from marlin.operator.kube.client import ApiError, Client

LEASE_S: Final = 15.0
"""A Lease that did not change for this long may be taken over."""
RENEW_S: Final = 10.0
"""A leader that did not renew for this long stops."""
RETRY_S: Final = 2.0
"""How often leaders renew and standbys look."""
PATIENCE_S: Final = 60.0
"""How long a missing right is put up with, s: a role that is being replaced is back sooner."""

_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Seen:
    """A Lease's version, and when this process first saw it, in seconds of its own clock."""

    version: str
    since_s: float


def may_lead(lease: Mapping[str, Any], me: str, seen: Seen, now_s: float) -> bool:
    """Whether ``me`` holds the Lease or may take it."""
    spec = lease.get("spec") or {}
    holder = spec.get("holderIdentity") or ""
    duration_s = float(spec.get("leaseDurationSeconds") or LEASE_S)
    return holder in {"", me} or now_s - seen.since_s >= duration_s


def held(lease: Mapping[str, Any] | None, key: tuple[str, str], me: str, now: datetime) -> dict[str, Any]:
    """The Lease as ``me`` holds it."""
    spec = dict((lease or {}).get("spec") or {})
    if spec.get("holderIdentity") != me:
        spec |= {"acquireTime": _micro(now), "leaseTransitions": int(spec.get("leaseTransitions") or 0) + 1}
    spec |= {"holderIdentity": me, "leaseDurationSeconds": int(LEASE_S), "renewTime": _micro(now)}
    metadata = dict((lease or {}).get("metadata") or {"namespace": key[0], "name": key[1]})
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}


class Elector:
    """Holds the Lease or waits for it.

    Args:
        client: the hub.
        namespace: the operator's.
        name: of the Lease.
        me: this process, unique among all.
        clock_s: seconds that only grow.
        patience_s: how long a missing right is put up with.
    """

    def __init__(
        self,
        client: Client,
        namespace: str,
        name: str,
        me: str,
        clock_s: Callable[[], float],
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._client = client
        self._key = (namespace, name)
        self._me = me
        self._clock_s = clock_s
        self._patience_s = patience_s
        self.last_problem = ""
        """Why the last attempt failed; empty when it did not."""
        self._seen: Seen | None = None
        self._renewed_s = clock_s()
        """When the last attempt that succeeded began."""
        self.is_leader = False

    async def attempt(self) -> bool:
        """Reads the Lease and renews or takes it where it may; whether this process leads now.

        Raises:
            ApiError: the API server did not let it, or could not be asked.
        """
        path = f"/apis/coordination.k8s.io/v1/namespaces/{self._key[0]}/leases"
        began_s = self._clock_s()
        try:
            lease: dict[str, Any] | None = await self._client.get(f"{path}/{self._key[1]}")
        except ApiError as error:
            if error.status != 404:
                raise
            lease = None
        now_s = self._clock_s()
        if lease is not None:
            version = lease["metadata"]["resourceVersion"]
            if self._seen is None or self._seen.version != version:
                self._seen = Seen(version, now_s)
            if not may_lead(lease, self._me, self._seen, now_s):
                self.is_leader = False
                return False
        body = held(lease, self._key, self._me, datetime.now(UTC))
        try:
            if lease is None:
                await self._client.create(path, body)
            else:
                await self._client.replace(f"{path}/{self._key[1]}", body)
        except ApiError as error:
            if error.status != 409:
                raise
            return False  # somebody else was faster; the next attempt sees who
        self._renewed_s = began_s
        self.is_leader = True
        return True

    async def acquire(self, stop: asyncio.Event) -> bool:
        """Waits until this process leads; False when it was told to stop before.

        Raises:
            ApiError: the right to ask for it, or its namespace, stayed missing.
        """
        denied_since_s: float | None = None
        while not stop.is_set():
            try:
                if await self.attempt():
                    return True
                denied_since_s = None
            except ApiError as error:
                _log.warning("lease: %s%s", error, error.advice if error.status != 404 else "")
                if not error.is_denial:
                    denied_since_s = None
                elif denied_since_s is None:
                    denied_since_s = self._clock_s()
                elif self._clock_s() - denied_since_s >= self._patience_s:
                    raise
            await _pause(stop, RETRY_S)
        return False

    async def hold(self, stop: asyncio.Event) -> bool:
        """Renews until told to stop; False when leadership was lost: at the latest RENEW_S after a renewal began.

        Neither a pause nor an answer that does not come is waited for beyond that: who stands by counts from when it
        saw the last renewal, and begins LEASE_S later.
        """
        while not stop.is_set():
            await _pause(stop, min(RETRY_S, self._left_s()))
            if self._left_s() <= 0:
                self.is_leader = False
                return False
            try:
                async with asyncio.timeout(min(RENEW_S / 2, self._left_s())):
                    if await self.attempt():
                        self.last_problem = ""
                    elif not self.is_leader:
                        return False
            except ApiError as error:
                self.last_problem = str(error)
                _log.warning("lease: %s", error)
            except TimeoutError:
                # The last attempt is cut short by the end of leadership: a refusal before it says more.
                self.last_problem = self.last_problem or "the API server did not answer in time"
                _log.warning("lease: the API server did not answer in time")
        return True

    async def release(self) -> None:
        """Gives the Lease back, so that a standby need not wait for it to run out."""
        if not self.is_leader:
            return
        self.is_leader = False
        path = f"/apis/coordination.k8s.io/v1/namespaces/{self._key[0]}/leases/{self._key[1]}"
        try:
            lease = await self._client.get(path)
            if (lease.get("spec") or {}).get("holderIdentity") == self._me:
                lease["spec"]["holderIdentity"] = ""
                await self._client.replace(path, lease)
        except ApiError as error:
            _log.info("lease: %s", error)

    def _left_s(self) -> float:
        """Time until leadership ends unless it is renewed, s."""
        return max(0.0, self._renewed_s + RENEW_S - self._clock_s())


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(stop.wait(), timeout=seconds)
    except TimeoutError:
        return


def _micro(now: datetime) -> str:
    return now.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
