"""What a tenant may do, as plain values, and the arithmetic of rates: no page, no clock, no lock here.

A rate is kept as one number, the time at which its bucket would be full again (the *theoretical arrival time* of the
generic cell rate algorithm, ITU-T I.371): in integers of nanoseconds, so that nothing is lost to rounding however many
workers add to it. Over any T minutes at most ``burst + T * per_minute`` are granted.

``gate`` applies this to the shared ledger, ``tenant_file`` makes the values.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

MAX_TENANTS: Final = 4096
"""As ``TenantList`` has it; workers cannot import that."""

MINUTE_NS: Final = 60_000_000_000
NANO_USD: Final = 1_000_000_000
MICRO_GCO2: Final = 1_000_000


class Rate(msgspec.Struct, frozen=True):
    """So many units per minute, and so many at once."""

    per_minute: int
    burst: int

    def cost_ns(self, units: int, pods: int) -> int:
        """How much later the bucket is full when ``units`` are taken, where ``pods`` routers divide the rate."""
        return units * MINUTE_NS * pods // self.per_minute

    def wait_ns(self, full_at_ns: int, now_ns: int, units: int, pods: int) -> int:
        """How long ``units`` have to wait; 0: not at all.

        What is more than the burst waits for a full bucket, and leaves a debt that those after it wait for.

        Args:
            full_at_ns: when the bucket is full again; in the past: it is.
            now_ns: the time, of the same clock.
            units: how many are wanted.
            pods: routers that divide the rate.
        """
        # A burst that is divided among more pods than it has units still lets one through.
        room_ns = max(self.burst * MINUTE_NS // self.per_minute, self.cost_ns(1, pods))
        missing_ns = max(full_at_ns, now_ns) + min(self.cost_ns(units, pods), room_ns) - now_ns - room_ns
        return max(0, missing_ns)


class Budget(msgspec.Struct, frozen=True):
    """What may be spent in a period. None: no limit."""

    is_monthly: bool = False
    nano_usd: int | None = None
    micro_gco2: int | None = None


class Tenant(msgspec.Struct, frozen=True):
    """A tenant, as workers know it."""

    name: str
    slot: int
    """Its row in the ledger."""
    digests: tuple[bytes, ...]
    """SHA-256 of each of its keys."""
    priority: str
    requests: Rate | None = None
    tokens: Rate | None = None
    budget: Budget | None = None


def period_of(moment_s: float, *, is_monthly: bool) -> int:
    """The number of the day or month, in UTC, that a Unix time is in. Months and days never have the same number."""
    day = datetime.fromtimestamp(moment_s, UTC).date()
    return -(day.year * 12 + day.month) if is_monthly else day.toordinal()


def period_name(moment_s: float, *, is_monthly: bool) -> str:
    """The same for people and for keys of a store: ``2026-11`` or ``2026-11-28``."""
    return datetime.fromtimestamp(moment_s, UTC).strftime("%Y-%m" if is_monthly else "%Y-%m-%d")


def period_end_s(moment_s: float, *, is_monthly: bool) -> float:
    """Unix time at which the period ends that a Unix time is in."""
    midnight = datetime.fromtimestamp(moment_s, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if is_monthly:
        return (midnight.replace(day=1) + timedelta(days=32)).replace(day=1).timestamp()
    return (midnight + timedelta(days=1)).timestamp()
