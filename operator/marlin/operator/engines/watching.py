"""What is known of one pool's engines, as a value: windows that are kept by load, the fit they give, the last gauges.

A window is closed once enough happened in it, and thrown away where that took too long: over a long one the load is no
longer one load. Windows are kept by mean batch, the newest few of each size, so that a quiet night does not push out
what was learnt of the busy day. A fit that says nearly the same as the one before does not replace it: a status should
not change every minute.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from marlin.operator.engines.counting import EngineCounts, Window, between
from marlin.operator.engines.fitting import Fit, NoFit, fit

ENOUGH_GAPS: Final = 200.0
ENOUGH_REQUESTS: Final = 10.0
LONGEST_WHILE_S: Final = 300.0
KEPT_PER_LOAD: Final = 12
SAME: Final = 0.03
"""Relative change of a fitted constant below which the one before stays."""

NOT_READ: Final = NoFit("Collecting", "its engines have not been read yet")

Place = tuple[str, str]
"""Site (empty: not known) and name of an engine there."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One engine at one time."""

    counts: EngineCounts
    at_s: float


@dataclass(frozen=True, slots=True)
class Engines:
    """A pool's engines."""

    first: Mapping[Place, Reading] = field(default_factory=dict)
    """Where each engine's open window began."""
    last: Mapping[Place, Reading] = field(default_factory=dict)
    """The newest reading of each that answered last time."""
    kept: Mapping[int, tuple[Window, ...]] = field(default_factory=dict)
    """Load to its windows, oldest first."""
    fitted: Fit | NoFit = NOT_READ
    most_running: float = 0.0

    def read(self, readings: Mapping[Place, Reading]) -> Engines:
        """The engines after all that answered were read."""
        first, kept = dict(self.first), dict(self.kept)
        changed = False
        for place, now in readings.items():
            before = first.get(place)
            if before is None or now.counts.gaps < before.counts.gaps:
                first[place] = now
                continue
            gaps = now.counts.gaps - before.counts.gaps
            requests = now.counts.requests - before.counts.requests
            length_s = now.at_s - before.at_s
            is_enough = gaps >= ENOUGH_GAPS and requests >= ENOUGH_REQUESTS
            if not is_enough and length_s <= LONGEST_WHILE_S:
                continue
            first[place] = now
            done = between(now.counts, before.counts, length_s) if is_enough else None
            if done is not None:
                load = math.floor(3.0 * math.log2(done.batch))
                kept[load] = (*kept.get(load, ()), done)[-KEPT_PER_LOAD:]
                changed = True
        running = max((r.counts.running for r in readings.values()), default=0.0)
        after = replace(
            self,
            first={place: reading for place, reading in first.items() if place in readings or place in self.last},
            last=dict(readings),
            kept=kept,
            most_running=max(self.most_running, running),
        )
        return replace(after, fitted=settled(_fit(after), self.fitted)) if changed else after

    def running(self) -> dict[str, float]:
        """Site to requests that its engines work on."""
        return self._by_site("running")

    def waiting(self) -> dict[str, float]:
        """Site to requests that wait in its engines."""
        return self._by_site("waiting")

    def _by_site(self, gauge: str) -> dict[str, float]:
        found: dict[str, float] = {}
        for (site, _), reading in self.last.items():
            found[site] = found.get(site, 0.0) + getattr(reading.counts, gauge)
        return found


def _fit(engines: Engines) -> Fit | NoFit:
    windows = [one for load in sorted(engines.kept) for one in engines.kept[load]]
    capacities = [r.counts.kv_capacity_tokens for r in engines.last.values() if r.counts.kv_capacity_tokens]
    return fit(windows, min(capacities, default=None), engines.most_running)


def settled(now: Fit | NoFit, before: Fit | NoFit) -> Fit | NoFit:
    """The newer fit, or the one before where they say nearly the same."""
    if not isinstance(now, Fit) or not isinstance(before, Fit):
        # Words that differ in a number only are not worth a write.
        return before if isinstance(now, NoFit) and isinstance(before, NoFit) and now.reason == before.reason else now
    pairs = (
        (now.prefill_tokens_per_s, before.prefill_tokens_per_s),
        (now.decode_tokens_per_s, before.decode_tokens_per_s),
        (now.single_stream_tokens_per_s, before.single_stream_tokens_per_s),
    )
    is_same = now.kv_capacity_tokens == before.kv_capacity_tokens and now.max_batch == before.max_batch
    return before if is_same and all(abs(a - b) <= SAME * b for a, b in pairs) else now
