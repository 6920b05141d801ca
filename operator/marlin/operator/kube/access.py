"""Where an API server is and how it is spoken to.

Two ways: the service account of the pod, or a kubeconfig. A kubeconfig of a person's own machine may name files; one
out of a Secret may not, nor may it name commands, plugins or passwords, or skip verification: it was written by
somebody who may create Secrets, and not by whoever runs the operator.
"""

from __future__ import annotations

import base64
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import yaml

from marlin.api.errors import InputError

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class KubeconfigError(InputError):
    """A kubeconfig cannot be used; the message holds none of its secrets."""


@dataclass(frozen=True, slots=True, repr=False)
class Access:
    """How to speak to one API server. It has no ``repr`` of its fields: it holds keys."""

    server: str
    ca: str
    """PEM of the authority; empty: the system's."""
    token: str = ""
    token_file: Path | None = None
    """Read anew for each connection: service-account tokens are rotated."""
    certificate: str = ""
    key: str = ""
    """PEM of a client certificate and its key; empty: none."""
    namespace: str = "default"

    def bearer(self) -> str:
        """The token as it is now; empty: none."""
        return self.token_file.read_text(encoding="utf-8").strip() if self.token_file is not None else self.token

    def context(self) -> ssl.SSLContext:
        """The TLS settings of connections; one object for all who have the same authority and certificate."""
        return _context(self.ca, self.certificate, self.key)


@lru_cache(maxsize=256)
def _context(ca: str, certificate: str, key: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=ca or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if certificate:
        # The standard library reads a certificate and its key from a file only; it is there for a moment.
        with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
            file.write(f"{certificate}\n{key}\n")
            file.flush()
            context.load_cert_chain(file.name)
    return context


def in_cluster(environment: Mapping[str, str], folder: Path = SERVICE_ACCOUNT) -> Access | None:
    """The pod's service account; None outside a cluster."""
    host, port = environment.get("KUBERNETES_SERVICE_HOST"), environment.get("KUBERNETES_SERVICE_PORT")
    if not host or not port or not (folder / "token").exists():
        return None
    return Access(
        server=f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
        ca=(folder / "ca.crt").read_text(encoding="utf-8"),
        token_file=folder / "token",
        namespace=(folder / "namespace").read_text(encoding="utf-8").strip(),
    )


def from_kubeconfig(text: str, *, where: str, may_name_files: bool, context_name: str | None = None) -> Access:
    """One context of a kubeconfig.

    Args:
        text: its content.
        where: what to call it in messages.
        may_name_files: whether it is the person's own, on the machine the operator runs on.
        context_name: which. Default: the current one.

    Raises:
        KubeconfigError: something is missing, or it names what it may not.
    """
    document = _document(text, where)
    wanted = str(document.get("current-context", "")) if context_name is None else context_name
    context = _entry(document, "contexts", "context", wanted, where)
    cluster = _entry(document, "clusters", "cluster", str(context.get("cluster", "")), where)
    user = _entry(document, "users", "user", str(context.get("user", "")), where)
    _refuse(cluster, user, where, may_name_files)
    server = str(cluster.get("server", ""))
    if not server.startswith("https://"):
        raise KubeconfigError(f"{where}: server must be an https:// address")
    return Access(
        server=server.rstrip("/"),
        ca=_pem(cluster, "certificate-authority", where),
        token=str(user.get("token", "")),
        token_file=Path(user["tokenFile"]) if "tokenFile" in user else None,
        certificate=_pem(user, "client-certificate", where),
        key=_pem(user, "client-key", where),
        namespace=str(context.get("namespace", "default")),
    )


def _refuse(cluster: Mapping[str, Any], user: Mapping[str, Any], where: str, may_name_files: bool) -> None:
    for field in ("exec", "auth-provider"):
        if field in user:
            raise KubeconfigError(f"{where}: {field} would run a command; give a token or a client certificate")
    for field in ("username", "password", "as", "as-groups"):
        if field in user:
            raise KubeconfigError(f"{where}: {field} is not supported; give a token or a client certificate")
    if cluster.get("insecure-skip-tls-verify"):
        raise KubeconfigError(f"{where}: insecure-skip-tls-verify is not accepted; give certificate-authority-data")
    for field in ("proxy-url", "tls-server-name"):
        if cluster.get(field):
            raise KubeconfigError(f"{where}: {field} is not supported")
    if not may_name_files:
        for part, field in ((cluster, "certificate-authority"), (user, "client-certificate"), (user, "client-key")):
            if field in part:
                raise KubeconfigError(f"{where}: {field} names a file; give {field}-data")
        if "tokenFile" in user:
            raise KubeconfigError(f"{where}: tokenFile names a file; give token")


def _document(text: str, where: str) -> dict[str, Any]:
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError:
        raise KubeconfigError(f"{where}: not valid YAML") from None
    if not isinstance(document, dict):
        raise KubeconfigError(f"{where}: not a kubeconfig")
    return document


def _entry(document: Mapping[str, Any], plural: str, singular: str, name: str, where: str) -> dict[str, Any]:
    for entry in document.get(plural) or ():
        if isinstance(entry, dict) and entry.get("name") == name and isinstance(entry.get(singular), dict):
            return dict(entry[singular])
    raise KubeconfigError(f"{where}: there is no {singular} {name!r}")


def _pem(part: Mapping[str, Any], field: str, where: str) -> str:
    if field in part:
        try:
            return Path(part[field]).read_text(encoding="utf-8")
        except OSError:
            raise KubeconfigError(f"{where}: the file of {field} cannot be read") from None
    try:
        return base64.b64decode(part.get(f"{field}-data", ""), validate=True).decode()
    except ValueError:
        raise KubeconfigError(f"{where}: {field}-data is not base64") from None
