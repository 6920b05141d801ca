"""Where a watched table is: the ConfigMap, its API server, and what that is spoken to with.

Apart from ``table_watch``, because options are checked before workers are started, and what speaks HTTP takes a third
of a second to import: that happens while they start.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from marlin.api.errors import InputError

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
KEY: Final = "routing-table.json"
"""Key of a ConfigMap that holds the table, where none is named."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the table is, and how its API server is spoken to."""

    namespace: str
    name: str
    key: str
    server: str
    ca_file: Path | None
    """None: the system's authorities."""
    token_file: Path

    @property
    def said(self) -> str:
        """As messages call it."""
        return f"ConfigMap {self.namespace}/{self.name} at {self.server}"


def place_of(
    config_map: str,
    server: str | None,
    ca_file: Path | None,
    token_file: Path | None,
    environment: Mapping[str, str],
) -> Place:
    """The place that options stand for; what they leave open is the pod's service account.

    Args:
        config_map: ``NAMESPACE/NAME`` or ``NAMESPACE/NAME/KEY``; namespace ``.`` is the pod's own.
        server: address of the API server; None: the pod's cluster.
        ca_file: its authority; None: of the service account, or the system's where ``server`` is given.
        token_file: None: the service account's.
        environment: of the process.

    Raises:
        InputError: something is missing.
    """
    parts = config_map.split("/")
    if len(parts) not in {2, 3} or not all(parts):
        raise InputError(f"--table-config-map: {config_map!r} is not NAMESPACE/NAME or NAMESPACE/NAME/KEY")
    if server is None:
        host, port = environment.get("KUBERNETES_SERVICE_HOST"), environment.get("KUBERNETES_SERVICE_PORT")
        if not host or not port:
            raise InputError("--table-config-map: not in a pod; say where the API server is with --table-server")
        server = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
        ca_file = ca_file or SERVICE_ACCOUNT / "ca.crt"
    elif not server.startswith("https://"):
        raise InputError("--table-server: give an https:// address; a token is sent there")
    namespace, key = parts[0], parts[2] if len(parts) == 3 else KEY
    if namespace == ".":
        try:
            namespace = (SERVICE_ACCOUNT / "namespace").read_text("utf-8").strip()
        except OSError:
            raise InputError("--table-config-map: not in a pod; name the namespace instead of .") from None
    return Place(namespace, parts[1], key, server.rstrip("/"), ca_file, token_file or SERVICE_ACCOUNT / "token")
