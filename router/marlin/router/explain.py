"""Why the next request of a model would go where it goes: ``/debug/decision``, in words and numbers.

What workers report is put through the rules that they apply themselves (``choice``), so that the page cannot tell
another story than requests do. Pure: ``admin`` brings the table and what was reported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from marlin.router.choice import choose_by_order, in_time
from marlin.router.messages import BackendReport
from marlin.router.view import Ordered, Pool

Seen = Mapping[tuple[str, str, str], BackendReport]


@dataclass(frozen=True, slots=True)
class _Site:
    """A site as it was reported."""

    is_usable: bool
    has_room: bool
    in_flight: int
    concurrency: float
    is_late: bool


def decision(pool: Pool, seen: Seen) -> dict[str, Any]:
    """Where a request without a session would go now, and what keeps it from each other site.

    Args:
        pool: the model's pool.
        seen: what workers report of backends, added up.
    """
    sites = [_site(pool, position, seen) for position in range(len(pool.sites))]
    rule = pool.rule
    shown: dict[str, Any] = {"model": pool.model_name, "pool": pool.name, "planned": pool.is_planned}
    if isinstance(rule, Ordered):
        chosen = choose_by_order(rule, sites)
        if chosen is not None and sites[chosen].is_late:
            chosen = in_time(rule, sites, chosen)
        shown["dispatch"] = "Ordered"
        shown["datacenter"] = None if chosen is None else pool.sites[chosen].name
        positions = [*rule.order, *(i for i in range(len(sites)) if i not in rule.order)]
        reasons = [_why_ordered(rule, sites, i, chosen) for i in positions]
    else:
        total = sum(weight for weight, site in zip(rule.weights, sites, strict=True) if site.is_usable)
        shown["dispatch"] = "Shares"
        positions = list(range(len(sites)))
        reasons = [_why_drawn(rule.weights[i], total, sites[i]) for i in positions]
    shown["sites"] = [
        {
            "datacenter": pool.sites[i].name,
            "reason": reason,
            "inFlight": sites[i].in_flight,
            "capacityRequests": round(sites[i].concurrency, 3),
            "late": sites[i].is_late,
        }
        for i, reason in zip(positions, reasons, strict=True)
    ]
    return shown


def _site(pool: Pool, position: int, seen: Seen) -> _Site:
    usable = [
        (backend, report)
        for backend in pool.sites[position].backends
        if (report := seen.get(backend.key)) is not None and report.is_usable
    ]
    waiting = sum(report.waiting for _, report in usable)
    return _Site(
        is_usable=bool(usable),
        has_room=any(
            backend.max_concurrent_requests is None or report.in_flight < backend.max_concurrent_requests
            for backend, report in usable
        ),
        in_flight=sum(report.in_flight + report.outside for _, report in usable),
        concurrency=sum(report.concurrency for _, report in usable),
        is_late=bool(usable) and waiting > pool.ttft_slo_s * sum(backend.capacity_rps for backend, _ in usable),
    )


def _obstacle(site: _Site) -> str | None:
    if not site.is_usable:
        return "no backend is up"
    if not site.has_room:
        return "its backends are at their limit"
    return "a first token would come too late" if site.is_late else None


def _why_ordered(rule: Ordered, sites: list[_Site], position: int, chosen: int | None) -> str:
    site = sites[position]
    cap = rule.caps[position] * site.concurrency
    load = f"{site.in_flight} of {cap:.1f} in flight"
    if position == chosen:
        return (
            f"chosen: {load}"
            if site.in_flight < cap
            else f"chosen: all are at their cap, it is the least loaded, {load}"
        )
    obstacle = _obstacle(site)
    if obstacle is not None:
        return obstacle
    if position not in rule.order:
        return "not in the plan's order"
    return f"at its cap: {load}" if site.in_flight >= cap else f"after the chosen one: {load}"


def _why_drawn(weight: float, total: float, site: _Site) -> str:
    obstacle = _obstacle(site)
    if obstacle is not None:
        return obstacle
    if total <= 0:
        return "no usable site has a share: whichever has most free capacity steps in"
    return f"gets {100 * weight / total:.2f} % of requests" if weight > 0 else "the plan gives it no share"
