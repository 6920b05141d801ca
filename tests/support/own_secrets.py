"""The operator's own namespace as a test fills it, behind the guard that the operator has."""

from __future__ import annotations

from collections.abc import Mapping

from marlin.operator.kube.namespace import OwnNamespace
from marlin.operator.signals.http import SignalError


class OwnSecrets(OwnNamespace):
    """Secrets by name, each with its keys."""

    def __init__(self, **secrets: Mapping[str, str]) -> None:
        self.namespace = "marlin-system"
        self.secrets = {name: dict(data) for name, data in secrets.items()}

    async def secret_data(self, name: str) -> dict[str, str]:
        if name not in self.secrets:
            raise SignalError(f"Secret {name} does not exist in the operator's namespace")
        return self.secrets[name]
