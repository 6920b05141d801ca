"""What a router in another cluster is given to read its table with: the shipped account, and options that name it."""

from __future__ import annotations

from pathlib import Path

import yaml
from control_plane import ROOT, Cluster


def table_reader(hub: Cluster, namespace: str, name: str, folder: Path, server: str = "", ca: str = "") -> list[str]:
    """Installs the shipped account for one table; the options of a router that watches it.

    Args:
        hub: the operator's cluster.
        namespace: the policy's.
        name: of the ConfigMap.
        folder: for token and authority.
        server: address of something before the API server.
        ca: its authority.
    """
    text = (ROOT / "manifests" / "rbac" / "table-reader.yaml").read_text()
    text = text.replace("namespace: marlin}", f"namespace: {namespace}}}").replace("[marlin-balanced]", f"[{name}]")
    # No controller fills the account's Secret here: its token is asked for instead.
    hub.apply(*(document for document in yaml.safe_load_all(text) if document["kind"] != "Secret"))
    (folder / "token").write_text(hub.token_of(namespace, "marlin-table-reader"))
    (folder / "ca.crt").write_text(ca or hub.ca())
    return [
        *("--table-config-map", f"{namespace}/{name}", "--table-server", server or hub.server),
        *("--table-ca-file", str(folder / "ca.crt"), "--table-token-file", str(folder / "token")),
    ]
