"""What the watch's thread heard, for the loop that does rounds: which objects to ask for, or to look at all of them.

A watch tells of objects in whatever order and as often as it likes; here it comes down to the last version of each. All
are to be looked at when something may have been missed: before the first round, after the watch began anew or a round
failed, and once a minute in any case.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from typing import Any, Final

from marlin.operator.core.observed import Key

LOOK_AT_ALL_EVERY_S: Final = 60.0
"""Whatever a watch said or did not say, no change is missed for longer."""

Heard = Mapping[str, Mapping[Key, str]]
"""Kind to the objects that a watch heard of, each with the version it has now; empty where it was deleted."""


class Hearing:
    """Between two threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._heard: dict[str, dict[Key, str]] = {}
        self._seen: dict[str, tuple[Any, ...]] = {}
        self._is_gap = True
        self._all_at_s = -math.inf

    def event(self, kind: str, event: Mapping[str, Any]) -> bool:
        """Something was heard; whether it is more than an echo of what we wrote into a status."""
        metadata = (event.get("object") or {}).get("metadata") or {}
        is_gone = event.get("type") == "DELETED"
        key = (metadata.get("namespace") or "", metadata.get("name") or "")
        uid = f"{kind} {metadata.get('uid')}"
        labels = tuple(sorted((metadata.get("labels") or {}).items()))
        now = (metadata.get("generation"), labels, metadata.get("deletionTimestamp"))
        with self._lock:
            self._heard.setdefault(kind, {})[key] = "" if is_gone else metadata.get("resourceVersion") or ""
            if is_gone:
                self._seen.pop(uid, None)
                return True
            was, self._seen[uid] = self._seen.get(uid), now
        return was != now

    def begins_anew(self) -> None:
        """The watch ended, and will tell of everything again."""
        with self._lock:
            self._seen.clear()
            self._is_gap = True

    def missed(self) -> None:
        """What was taken last could not be made use of."""
        with self._lock:
            self._is_gap = True

    def take(self, now_s: float) -> Heard | None:
        """What was heard since the last time; None where all are to be looked at.

        Args:
            now_s: monotonic time.
        """
        with self._lock:
            heard, self._heard = self._heard, {}
            is_gap, self._is_gap = self._is_gap, False
            if is_gap or now_s - self._all_at_s >= LOOK_AT_ALL_EVERY_S:
                self._all_at_s = now_s
                return None
        return heard

    def all_due_in_s(self, now_s: float) -> float:
        """How long it is until all are to be looked at, s.

        Args:
            now_s: monotonic time.
        """
        return self._all_at_s + LOOK_AT_ALL_EVERY_S - now_s
