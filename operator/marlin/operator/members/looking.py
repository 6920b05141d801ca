"""One look at a site: its API server, its nodes, what is behind the backends that name things in it, its router."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from marlin.api.datacenter import Datacenter, MemberRouter
from marlin.api.pool import Backend, ServiceRef, UpstreamKind, UpstreamPoolRef
from marlin.operator.kube.client import ApiError, Client
from marlin.operator.kube.inventory import InventoryError
from marlin.operator.members import discovery
from marlin.operator.members.reaching import Inventory, Secrets
from marlin.operator.members.sighting import (
    MOST_ADDRESSES,
    NOT_CONFIGURED,
    BackendKey,
    BackendSight,
    Finding,
    Group,
    Sighting,
)
from marlin.operator.sending import destination, tls_context
from marlin.operator.signals.http import Http, RefusedError, Request, SignalError, TlsRefusedError, WithheldError

_PAGE: Final = "500"
_POOL_GROUP: Final = "inference.networking.k8s.io"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be looked at."""

    site: Datacenter
    backends: Mapping[BackendKey, Backend]
    """The backends in it that name a Service or a pool."""


async def look_at_cluster(client: Client, wanted: Wanted, before: Sighting, inventory: Inventory) -> Sighting:
    """What the API server says; with an error what was seen before stays, and the condition says that it is old."""
    try:
        version = await client.get("/version")
        system = await client.get("/api/v1/namespaces/kube-system")
        nodes = await _all_of(client, "/api/v1/nodes")
        groups = discovery.node_groups(nodes, wanted.site.spec.node_groups)
        profile = None if (access := wanted.site.spec.cluster) is None else access.cluster_profile_ref
        cluster_name = wanted.site.metadata.name if profile is None else profile.name
        by_name = {node["metadata"]["name"]: node for node in nodes}
        eyes = _Eyes(client, by_name, groups, inventory, cluster_name)
        backends = {key: await eyes.behind(backend) for key, backend in wanted.backends.items()}
    except ApiError as error:
        credentials, cluster = _trouble(error, before.credentials)
        return replace(before, credentials=credentials, cluster=cluster)
    return replace(
        before,
        credentials=Finding(True, "Valid"),
        cluster=Finding(True, "Reachable"),
        cluster_id=str(system["metadata"].get("uid", "")),
        version=str(version.get("gitVersion", ""))[:64],
        groups=groups,
        backends=backends,
    )


async def look_at_router(http: Http, secrets: Secrets, router: MemberRouter | None) -> Finding:
    """Whether a site's member router answers."""
    if router is None:
        return NOT_CONFIGURED
    try:
        headers = {}
        if (ref := router.token_secret_ref) is not None:
            to = destination(router.url, router.tls)
            headers["Authorization"] = f"Bearer {await secrets.credential(ref.name, ref.key, to)}"
        context = await tls_context(router.tls, secrets)
        request = Request(f"{router.url.rstrip('/')}/readyz", {}, headers, context, router.tls.server_name)
        await http.get(request)
    except TlsRefusedError as error:
        return Finding(False, "TLSError", str(error))
    except WithheldError as error:
        return Finding(False, "Withheld", str(error))
    except RefusedError as error:
        return Finding(False, "Unauthorized", str(error))
    except SignalError as error:
        return Finding(False, "Timeout", str(error))
    return Finding(True, "Reachable")


@dataclass(slots=True)
class _Eyes:
    """Looks behind backends in one cluster, with what it has seen already."""

    client: Client
    nodes: Mapping[str, Mapping[str, Any]]
    groups: tuple[Group, ...]
    inventory: Inventory
    cluster_name: str
    """As other projects call the cluster: its ClusterProfile's name, else its Datacenter's."""

    async def behind(self, backend: Backend) -> BackendSight:
        if backend.service_ref is not None:
            return await self._behind_service(backend.service_ref)
        assert backend.pool_ref is not None
        return await self._behind_pool(backend.pool_ref)

    async def _behind_service(self, ref: ServiceRef) -> BackendSight:
        path = f"/apis/discovery.k8s.io/v1/namespaces/{ref.namespace}/endpointslices"
        slices = await _all_of(self.client, path, {"labelSelector": f"kubernetes.io/service-name={ref.name}"})
        if not slices:
            return BackendSight(0, problem=f"Service {ref.namespace}/{ref.name} has no EndpointSlice: does it exist?")
        ready = discovery.ready_endpoints(slices)
        if not ready:
            return BackendSight(0)
        target = ready[0].get("targetRef") or {}
        pod: Mapping[str, Any] = {}
        if target.get("kind") == "Pod":
            pod = await _found(self.client, f"/api/v1/namespaces/{ref.namespace}/pods/{target.get('name')}")
        addresses = [str(endpoint["addresses"][0]) for endpoint in ready]
        port = discovery.endpoint_port(slices, ref.port)
        return self._sight(ready_at(addresses, port), str(ready[0].get("nodeName") or ""), pod, len(ready))

    async def _behind_pool(self, ref: UpstreamPoolRef) -> BackendSight:
        if ref.kind is UpstreamKind.LLM_INFERENCE_SERVICE:
            return BackendSight(0, problem=f"kind {ref.kind} is not followed by this version; name a Service instead")
        group = ref.group
        if ref.kind is UpstreamKind.INFERENCE_POOL_IMPORT:
            if problem := await self._not_exported(ref):
                return BackendSight(0, problem=problem)
            group = _POOL_GROUP  # an export has the import's namespace and name
        where = f"/apis/{group}/v1/namespaces/{ref.namespace}/inferencepools/{ref.name}"
        pool = await _found(self.client, where)
        labels = (((pool.get("spec") or {}).get("selector") or {}).get("matchLabels")) or {}
        if not labels:
            return BackendSight(0, problem=f"{ref.kind} {ref.namespace}/{ref.name} does not exist")
        selector = ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
        pods = await _all_of(self.client, f"/api/v1/namespaces/{ref.namespace}/pods", {"labelSelector": selector})
        ready = discovery.ready_pods(pods)
        if not ready:
            return BackendSight(0)
        addresses = [str((one.get("status") or {}).get("podIP") or "") for one in ready]
        port = next((int(p["number"]) for p in pool["spec"].get("targetPorts") or () if "number" in p), 0)
        node_name = str((ready[0].get("spec") or {}).get("nodeName") or "")
        return self._sight(ready_at(addresses, port), node_name, ready[0], len(ready))

    async def _not_exported(self, ref: UpstreamPoolRef) -> str:
        """Why a pool that is imported into the operator's cluster does not come from this one; empty when it does."""
        try:
            found = await self.inventory.pool_import(ref.namespace, ref.name)
        except InventoryError as error:
            return str(error)
        exporting = sorted(
            str(cluster.get("name"))
            for controller in (found.get("status") or {}).get("controllers") or ()
            for cluster in controller.get("exportingClusters") or ()
        )
        if self.cluster_name in exporting:
            return ""
        said = ", ".join(exporting[:5]) or "none"
        return f"{ref.kind} {ref.namespace}/{ref.name} is not exported by cluster {self.cluster_name}, but by {said}"

    def _sight(self, addresses: tuple[str, ...], node_name: str, pod: Mapping[str, Any], ready: int) -> BackendSight:
        node = self.nodes.get(node_name)
        group = "" if node is None else discovery.group_of_node(node, self.groups)
        return BackendSight(ready, group, discovery.accelerators_of_pod(pod), addresses)


def ready_at(hosts: Iterable[str], port: int) -> tuple[str, ...]:
    """HOST:PORT of the first endpoints, in an order of their own; none where the port is not known."""
    known = sorted(host for host in hosts if host) if port else []
    return tuple(f"[{h}]:{port}" if ":" in h else f"{h}:{port}" for h in known[:MOST_ADDRESSES])


async def _all_of(client: Client, path: str, params: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    """A list, page by page."""
    found: list[dict[str, Any]] = []
    more: dict[str, str] = {}
    while True:
        page = await client.get(path, {**(params or {}), "limit": _PAGE, **more})
        found += page.get("items") or ()
        token = (page.get("metadata") or {}).get("continue")
        if not token:
            return found
        more = {"continue": token}


async def _found(client: Client, path: str) -> dict[str, Any]:
    """An object; empty where there is none."""
    try:
        return await client.get(path)
    except ApiError as error:
        if error.status == 404:
            return {}
        raise


def _trouble(error: ApiError, credentials: Finding) -> tuple[Finding, Finding]:
    """What an error says about credentials, which are what they were where it says nothing, and about reach."""
    said = str(error)[:500]
    if error.status == 401:
        return Finding(False, "Unauthorized", said), Finding(None, "NotChecked", "its credentials are not accepted")
    if error.status == 403:
        advice = f"{said}; kubectl apply -f manifests/rbac/member.yaml in that cluster"
        return Finding(True, "Valid"), Finding(False, "Forbidden", advice)
    if credentials == NOT_CONFIGURED:
        credentials = Finding(None, "NotChecked", "the cluster was never reached")
    return credentials, Finding(False, "TLSError" if error.is_tls else "Timeout", said)
