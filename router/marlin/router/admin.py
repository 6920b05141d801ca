"""What operators of the router look at: /metrics, /healthz, /readyz, /debug/table and /debug/decision.

On a port of their own, bound to this machine by default. Nothing here shows a secret.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from marlin.router.control import ControlStatus
from marlin.router.crew import Workers
from marlin.router.explain import decision
from marlin.router.messages import BackendReport, Report
from marlin.router.metrics import Metrics
from marlin.router.store import BudgetStore
from marlin.router.tenant_file import TenantFile
from marlin.router.view import Backend, Ordered, Pool, Table

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Admin:
    """The pages.

    Args:
        table: the table in force.
        status: how reading it went.
        workers: know what is up.
        metrics: what is counted.
        clock: Unix time, s.
        tenant_file: the list of tenants; None: there is none.
        store: where budgets are added up; None: nowhere.
    """

    def __init__(
        self,
        table: Callable[[], Table],
        status: Callable[[], ControlStatus],
        workers: Workers,
        metrics: Metrics,
        clock: Callable[[], float],
        tenant_file: TenantFile | None = None,
        store: BudgetStore | None = None,
    ) -> None:
        self._table = table
        self._status = status
        self._workers = workers
        self._metrics = metrics
        self._clock = clock
        self._tenant_file = tenant_file
        self._store = store
        self.is_draining = False
        """Set on SIGTERM: /readyz says no."""

    def pages(self) -> dict[str, Handler]:
        """Path to handler."""
        return {
            "/metrics": self._show_metrics,
            "/healthz": self._show_health,
            "/readyz": self._show_readiness,
            "/debug/table": self._show_table,
            "/debug/decision": self._show_decision,
        }

    async def _show_metrics(self, _: web.Request) -> web.StreamResponse:
        exposition = self._metrics.exposition(await self._workers.reports())
        return web.Response(body=exposition, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _show_health(self, _: web.Request) -> web.StreamResponse:
        return web.Response(text="ok\n")

    async def _show_readiness(self, _: web.Request) -> web.StreamResponse:
        seen = merged(await self._workers.reports())
        body = readiness(self._table(), self._status(), seen, self._clock(), is_draining=self.is_draining)
        if self._tenant_file is not None:
            body["tenants"] = {
                "count": len(self._tenant_file.tenants),
                "lastReloadError": self._tenant_file.last_error,
                "routers": self._workers.ledger.pods,
                "budgets": "Exact" if self._store is not None and self._store.is_reached else "Approximate",
            }
        return _json(body, 200 if body["ready"] else 503)

    async def _show_table(self, _: web.Request) -> web.StreamResponse:
        return _json(table_shown(self._table(), merged(await self._workers.reports())))

    async def _show_decision(self, request: web.Request) -> web.StreamResponse:
        table, model = self._table(), request.query.get("model", "")
        pool = table.by_model.get(model)
        if pool is None:
            known = ", ".join(table.by_model)
            return _json({"error": f"/debug/decision?model=NAME: no model {model!r}; known are {known}"}, 404)
        return _json(decision(pool, merged(await self._workers.reports())))


Seen = dict[tuple[str, str, str], BackendReport]
"""What is known of each backend, by its key."""


def merged(reports: Sequence[Report]) -> Seen:
    """What all workers together know of each backend: requests add up, and it is up where one worker uses it."""
    seen: Seen = {}
    for backend in (backend for report in reports for backend in report.backends):
        key = (backend.pool, backend.name, backend.url)
        before = seen.get(key)
        if before is not None:
            backend = msgspec.structs.replace(  # noqa: PLW2901 the sum stands for the summand
                backend,
                in_flight=backend.in_flight + before.in_flight,
                is_usable=backend.is_usable or before.is_usable,
            )
        seen[key] = backend
    return seen


def readiness(table: Table, status: ControlStatus, seen: Seen, now_s: float, *, is_draining: bool) -> dict[str, Any]:
    """The body of /readyz. Ready means: has a table, and is not draining.

    Backends that are down do not make the router unready: it would vanish for all its models because of one, and its
    503 says more than a refused connection.
    """
    return {
        "ready": not is_draining,
        "draining": is_draining,
        "generation": table.generation,
        "plan": _plan_shown(table, status, now_s),
        "lastReload": status.last_result,
        "lastReloadError": status.last_error,
        **({} if status.is_watched is None else {"watched": status.is_watched, "watchError": status.watch_error}),
        "pools": [
            {
                "name": pool.name,
                "model": pool.model_name,
                "dispatch": _dispatch(pool),
                "backends": (backends := [b for site in pool.sites for b in site.backends]) and len(backends),
                "backendsUp": sum(b.key in seen and seen[b.key].is_usable for b in backends),
            }
            for pool in table.pools
        ],
    }


def table_shown(table: Table, seen: Seen) -> dict[str, Any]:
    """The body of /debug/table: all of the table but secrets, and the state of each backend."""
    return {
        "generation": table.generation,
        "plan": None if table.plan is None else {"epoch": table.plan.epoch, "hash": table.plan.content_hash},
        "datacenters": [
            {
                "name": d.name,
                "region": d.region,
                "serviceState": d.service_state,
                "carbonGco2PerKwh": d.intensity.carbon_gco2_per_kwh,
                "waterLPerKwh": d.intensity.water_l_per_kwh,
                "priceUsdPerKwh": d.intensity.price_usd_per_kwh,
            }
            for d in table.datacenters
        ],
        "pools": [_pool_shown(pool, seen) for pool in table.pools],
    }


def _plan_shown(table: Table, status: ControlStatus, now_s: float) -> dict[str, Any]:
    plan = table.plan
    shown: dict[str, Any] = {"state": "None"}
    if plan is not None:
        shown = {
            "state": "Overdue" if plan.is_overdue(now_s) else "InForce",
            "epoch": plan.epoch,
            "planner": plan.planner,
            "validUntil": _time(plan.valid_until_s),
            "ageSeconds": round(now_s - plan.decided_s, 1),
        }
    if status.upcoming_epoch is not None and status.upcoming_from_s is not None:
        shown["next"] = {"epoch": status.upcoming_epoch, "validFrom": _time(status.upcoming_from_s)}
    return shown


def _pool_shown(pool: Pool, seen: Seen) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "name": pool.name,
        "model": pool.model_name,
        "dispatch": _dispatch(pool),
        "planned": pool.is_planned,
        "sites": [
            {
                "datacenter": site.name,
                "share": share,
                "backends": [_backend_shown(backend, seen.get(backend.key)) for backend in site.backends],
            }
            for site, share in zip(pool.sites, pool.shares, strict=True)
        ],
    }
    if isinstance(pool.rule, Ordered):
        shown["order"] = [pool.sites[i].name for i in pool.rule.order]
        shown["caps"] = {site.name: cap for site, cap in zip(pool.sites, pool.rule.caps, strict=True)}
    return shown


def _backend_shown(backend: Backend, seen: BackendReport | None) -> dict[str, Any]:
    return {
        "name": backend.name,
        "url": backend.url,
        "isMemberRouter": backend.is_member_router,
        "hasCredentials": backend.authorization is not None,
        "capacityRps": backend.capacity_rps,
        "capacityRequests": None if seen is None else seen.concurrency,
        "maxConcurrentRequests": backend.max_concurrent_requests,
        "inFlight": 0 if seen is None else seen.in_flight,
        "up": seen is not None and seen.is_usable,
        "serviceTimeSeconds": None if seen is None else seen.service_time_s,
    }


def _dispatch(pool: Pool) -> str:
    if not pool.is_planned:
        return "ByCapacity"
    return "Ordered" if isinstance(pool.rule, Ordered) else "Shares"


def _time(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).isoformat().replace("+00:00", "Z")


def _json(body: dict[str, Any], status: int = 200) -> web.Response:
    return web.Response(status=status, body=json.dumps(body, indent=1).encode(), content_type="application/json")
