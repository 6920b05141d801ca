"""Secrets and ConfigMaps of the operator's own namespace, by name: the only place it reads them from."""

from __future__ import annotations

import base64

from marlin.operator.kube.client import ApiError, Client
from marlin.operator.signals.http import SignalError


class OwnNamespace:
    """Reads them anew each time, so that a rotated key is used at once and none is kept.

    Args:
        client: the hub.
        namespace: the operator's.
    """

    def __init__(self, client: Client, namespace: str) -> None:
        self._client = client
        self.namespace = namespace
        self._path = f"/api/v1/namespaces/{namespace}"

    async def secret(self, name: str, key: str) -> str:
        """See ``marlin.operator.signals.providers.Namespace``."""
        data = await self.secret_data(name)
        if key not in data:
            raise SignalError(f"Secret {name} has no key {key}")
        return data[key].strip()

    async def secret_data(self, name: str) -> dict[str, str]:
        """All keys of a Secret that hold text.

        Raises:
            SignalError: there is no such Secret, or it may not be read.
        """
        found = {}
        for key, value in (await self._data("secrets", name)).items():
            try:
                found[key] = base64.b64decode(value).decode()
            except ValueError:
                continue  # bytes, which nothing here can use
        return found

    async def config_map(self, name: str, key: str) -> str:
        """See ``marlin.operator.signals.providers.Namespace``."""
        data = await self._data("configmaps", name)
        if key not in data:
            raise SignalError(f"ConfigMap {name} has no key {key}")
        return data[key]

    async def config_map_bytes(self, name: str, key: str) -> bytes:
        """See ``marlin.operator.artifacts.Files``."""
        data = await self._data("configmaps", name, "binaryData")
        if key not in data:
            raise SignalError(f"ConfigMap {name} has no key {key} in binaryData")
        try:
            return base64.b64decode(data[key], validate=True)
        except ValueError:
            raise SignalError(f"ConfigMap {name}: {key} is not base64") from None

    async def _data(self, plural: str, name: str, field: str = "data") -> dict[str, str]:
        try:
            found = await self._client.get(f"{self._path}/{plural}/{name}")
        except ApiError as error:
            said = "does not exist" if error.status == 404 else f"cannot be read ({error.status})"
            kind = "Secret" if plural == "secrets" else "ConfigMap"
            raise SignalError(f"{kind} {name} {said} in the operator's namespace") from None
        return dict(found.get(field) or {})
