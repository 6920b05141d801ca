"""What other projects' objects of the hub say about clusters: ClusterProfiles and imports of pools, by name.

Both are read anew each time somebody looks, with the operator's own account, and written by nobody here.
"""

from __future__ import annotations

from typing import Any, Final

from marlin.operator.kube.client import ApiError, Client

PROFILES: Final = "/apis/multicluster.x-k8s.io/v1alpha1"
IMPORTS: Final = "/apis/inference.networking.x-k8s.io/v1alpha1"

_ADVICE: Final = "kubectl apply -f manifests/rbac/inventory.yaml"


class InventoryError(Exception):
    """Such an object is not there, or may not be read; ``str()`` is one line for a condition."""


class Inventory:
    """Reads them.

    Args:
        client: the hub.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    async def profile(self, namespace: str, name: str) -> dict[str, Any]:
        """A ClusterProfile.

        Raises:
            InventoryError: it cannot be read.
        """
        return await self._read("ClusterProfile", f"{PROFILES}/namespaces/{namespace}/clusterprofiles/{name}")

    async def pool_import(self, namespace: str, name: str) -> dict[str, Any]:
        """An InferencePoolImport.

        Raises:
            InventoryError: it cannot be read.
        """
        return await self._read("InferencePoolImport", f"{IMPORTS}/namespaces/{namespace}/inferencepoolimports/{name}")

    async def _read(self, kind: str, path: str) -> dict[str, Any]:
        *_, namespace, _, name = path.split("/")
        try:
            return await self._client.get(path)
        except ApiError as error:
            said = {404: "does not exist", 403: f"may not be read: {_ADVICE}"}.get(error.status, "cannot be read")
            raise InventoryError(f"{kind} {namespace}/{name} {said} ({error.status})") from None
