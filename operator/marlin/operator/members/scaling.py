"""Carries out an order to a workload of a site's cluster, through its scale subresource: the only thing written there.

The write carries the version that was read, so that somebody else's change in between is not undone but looked at.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from marlin.api.pool import ScaleTargetRef
from marlin.operator.core.scaling import ScaleOrder
from marlin.operator.kube.client import ApiError, Client

_ADVICE: Final = "; kubectl apply -f manifests/rbac/member-scaling.yaml in that cluster"


async def carry_out(client: Client, order: ScaleOrder, now: datetime) -> str:
    """Makes the workload as large as ordered; what went wrong, in one line, or nothing."""
    path = scale_path(order.target)
    try:
        scale = await client.get(path)
        current = int((scale.get("spec") or {}).get("replicas") or 0)
        may_shrink = order.shrink_from is not None and now >= order.shrink_from
        if current == order.replicas or (current > order.replicas and not may_shrink):
            return ""
        await client.replace(path, scale | {"spec": {**scale["spec"], "replicas": order.replicas}})
    except ApiError as error:
        if error.status == 409:
            return ""  # somebody changed it meanwhile: the next look sees to what
        return f"{order.target.kind} {order.target.name}: {str(error)[:300]}{_ADVICE if error.status == 403 else ''}"
    return ""


def scale_path(target: ScaleTargetRef) -> str:
    """Path of the scale subresource; the plural is the kind's, in small letters, with an s."""
    root = f"/apis/{target.api_version}" if "/" in target.api_version else f"/api/{target.api_version}"
    return f"{root}/namespaces/{target.namespace}/{target.kind.lower()}s/{target.name}/scale"
