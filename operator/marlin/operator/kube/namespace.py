"""Secrets and ConfigMaps of the operator's own namespace, by name: the only place it reads them from."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping

from marlin.api.sending import SEND_TO, Destination, why_withheld
from marlin.operator.kube.client import ApiError, Client
from marlin.operator.signals.http import SignalError, WithheldError


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

    async def credential(self, name: str, key: str, to: Destination) -> str:
        """See ``marlin.operator.sending.Credentials``."""
        data = await self.secret_data(name)
        check_sending(data, name, self.namespace, to)
        if not (value := data.get(key, "").strip()):
            raise SignalError(f"Secret {name} has no key {key}")
        return value

    async def authority(self, name: str) -> str | None:
        """See ``marlin.operator.sending.Credentials``."""
        return (await self.secret_data(name)).get("ca.crt")

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


def check_sending(data: Mapping[str, str], name: str, namespace: str, to: Destination) -> None:
    """Looks whether a Secret's content may be sent somewhere.

    Args:
        data: the Secret's keys.
        name: its name.
        namespace: its namespace.
        to: where.

    Raises:
        WithheldError: it does not say so; with what whoever owns the Secret does about it.
    """
    if problem := why_withheld(data.get(SEND_TO), to):
        remedy = ""
        if SEND_TO not in data:
            patch = json.dumps({"stringData": {SEND_TO: to.origin}}, separators=(",", ":"))
            remedy = f"; if it may be: kubectl -n {namespace} patch secret {name} -p '{patch}'"
        raise WithheldError(f"Secret {name} is not sent to {to.origin}: {problem}{remedy}")
