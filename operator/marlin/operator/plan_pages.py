"""Plans and routing tables to look at, read-only: what was decided, and what routers are given.

``/plans`` lists the policies, ``/plans/NAMESPACE/NAME`` is a policy's status with the account of how its agents came to
the plan, which is too long for a status; ``/tables/NAMESPACE/NAME`` is a routing table as it was published when the
last round began. Only the leader knows; a standby answers 503. Nothing here is a secret: tables name Secrets, and
hold none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from aiohttp import web

from marlin.api.policy import MarlinPolicyStatus
from marlin.operator.core.observed import Key
from marlin.operator.core.report import PolicyReport
from marlin.operator.telemetry.ledger import Last

if TYPE_CHECKING:
    from marlin.operator.running import Operator


def plan_routes(operator: Operator) -> list[web.RouteDef]:
    """The routes."""

    def leading() -> Operator:
        if not operator.is_leader or not operator.rounds:
            raise _error(web.HTTPServiceUnavailable, "this operator does not lead, or has done no round yet")
        return operator

    async def index(_: web.Request) -> web.Response:
        return web.json_response({"policies": [_summary(policy) for policy in leading().levels.report.policies]})

    async def plan(request: web.Request) -> web.Response:
        key = _key(request)
        for policy in leading().levels.report.policies:
            if policy.key == key:
                return web.json_response(_document(policy, operator.ledger.last))
        raise _error(web.HTTPNotFound, f"there is no MarlinPolicy {key[0]}/{key[1]}")

    async def table(request: web.Request) -> web.Response:
        key = _key(request)
        found = leading().tables.get(key)
        if found is None:
            raise _error(web.HTTPNotFound, f"no routing table {key[0]}/{key[1]} is published")
        return web.Response(text=found.text, content_type="application/json")

    return [
        web.get("/plans", index),
        web.get("/plans/{namespace}/{name}", plan),
        web.get("/tables/{namespace}/{name}", table),
    ]


def _summary(policy: PolicyReport) -> dict[str, Any]:
    plan = policy.status.plan
    named = {"namespace": policy.key[0], "name": policy.key[1], "mode": policy.mode}
    if plan is None:
        return named
    document = plan.to_document()
    return named | {name: document.get(name) for name in ("epoch", "validFrom", "validUntil", "planner", "explanation")}


def _document(policy: PolicyReport, last: Mapping[Key, Last]) -> dict[str, Any]:
    status: MarlinPolicyStatus = policy.status
    known = last.get(policy.key)
    planned = known.planned if known is not None else None
    game = planned.negotiation if planned is not None else None
    return {
        "namespace": policy.key[0],
        "name": policy.key[1],
        "mode": policy.mode,
        "status": status.to_document(),
        "negotiation": None if game is None else asdict(game),
        "predicted": {} if planned is None else {pool: asdict(one) for pool, one in planned.predicted.items()},
    }


def _key(request: web.Request) -> Key:
    return request.match_info["namespace"], request.match_info["name"]


def _error(kind: type[web.HTTPException], text: str) -> web.HTTPException:
    return kind(text=text + "\n")
