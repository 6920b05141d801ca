"""The three-regions sample on a real API server, in a namespace of its own, and what a user sees of it there."""

from __future__ import annotations

import itertools
from typing import Any

from control_plane import Cluster, in_namespace
from worlds import sample, the

from marlin.api.table import CONFIG_MAP_KEY, RoutingTable

_numbers = itertools.count()


class Fleet:
    """The sample's objects, and readings of what became of them."""

    def __init__(self, hub: Cluster) -> None:
        self.hub = hub
        number = next(_numbers)
        self.namespace = f"test-{number}"
        self.prefix = f"t{number}-"
        hub.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}})
        self.objects = in_namespace(sample(), self.namespace, self.prefix)

    @property
    def policy_path(self) -> str:
        return f"/apis/marlin.dev/v1alpha1/namespaces/{self.namespace}/marlinpolicies/balanced"

    def config_map_path(self, origin: str = "") -> str:
        return f"/api/v1/namespaces/{self.namespace}/configmaps/marlin-balanced{origin}"

    def apply(self, **spec: Any) -> None:
        """Applies everything, with some fields of the policy's spec set."""
        the(self.objects, "MarlinPolicy")["spec"] |= spec
        self.hub.apply(*self.objects)

    def status(self) -> dict[str, Any]:
        return dict(self.hub.call("GET", self.policy_path).get("status") or {})

    def condition(self, type_: str) -> tuple[str, str]:
        found = self._condition(type_)
        return found["status"], found["reason"]

    def message(self, type_: str) -> str:
        return str(self._condition(type_)["message"])

    def table(self, origin: str = "") -> RoutingTable:
        data = self.hub.call("GET", self.config_map_path(origin))["data"]
        return RoutingTable.model_validate_json(data[CONFIG_MAP_KEY])

    def events(self, reason: str, namespace: str = "") -> list[dict[str, Any]]:
        """Those of the fleet's namespace; Events about Datacenters are in ``default``."""
        path = f"/apis/events.k8s.io/v1/namespaces/{namespace or self.namespace}/events"
        return [event for event in self.hub.call("GET", path)["items"] if event["reason"] == reason]

    def site(self, name: str) -> dict[str, Any]:
        return dict(self.hub.call("GET", f"/apis/marlin.dev/v1alpha1/datacenters/{self.prefix}{name}"))

    def site_condition(self, name: str, type_: str) -> tuple[str, str]:
        found = next(c for c in self.site(name)["status"]["conditions"] if c["type"] == type_)
        return found["status"], found["reason"]

    def pool(self) -> dict[str, Any]:
        path = f"/apis/marlin.dev/v1alpha1/namespaces/{self.namespace}/inferencepools/llama-2-70b"
        return dict(self.hub.call("GET", path))

    def _condition(self, type_: str) -> dict[str, Any]:
        return dict(next(c for c in self.status()["conditions"] if c["type"] == type_))
