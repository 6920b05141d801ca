"""How a site's cluster is reached: its spec and its Secrets, as ``Access``.

Secrets are read anew for each look, so that rotated credentials are used at once. What is wrong with them is a
condition, in words that hold none of them.
"""

from __future__ import annotations

import ssl
from typing import Protocol

from marlin.api.datacenter import ClusterAccess
from marlin.operator.kube.access import Access, KubeconfigError, from_kubeconfig
from marlin.operator.members.sighting import Finding
from marlin.operator.signals.http import SignalError


class Secrets(Protocol):
    """The operator's own namespace."""

    async def secret_data(self, name: str) -> dict[str, str]:
        """All keys of a Secret.

        Raises:
            SignalError: there is none.
        """


class CredentialsError(Exception):
    """A site's credentials cannot be used; ``finding`` says why."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.message)
        self.finding = finding


async def access_of(cluster: ClusterAccess, secrets: Secrets, hub: Access) -> Access:
    """How to speak to a site's API server.

    Args:
        cluster: as the Datacenter says.
        secrets: where Secrets are.
        hub: the access of provider inCluster.

    Raises:
        CredentialsError: they are missing or refused.
    """
    if cluster.in_cluster is not None:
        return hub
    if (kubeconfig := cluster.kubeconfig_secret_ref) is not None:
        text = (await _data(secrets, kubeconfig.name)).get(kubeconfig.key)
        if text is None:
            raise _missing(f"Secret {kubeconfig.name} has no key {kubeconfig.key}")
        try:
            access = from_kubeconfig(text, where=f"Secret {kubeconfig.name}", may_name_files=False)
        except KubeconfigError as error:
            raise CredentialsError(Finding(False, "KubeconfigRejected", str(error))) from None
        return _checked(access, kubeconfig.name)
    if (token := cluster.token_secret_ref) is not None:
        data = await _data(secrets, token.name)
        for key in ("token", "ca.crt"):
            if not data.get(key, "").strip():
                raise _missing(f"Secret {token.name} has no key {key}")
        assert cluster.server is not None, "a rule of the CRD holds server and tokenSecretRef together"
        access = Access(cluster.server.rstrip("/"), data["ca.crt"], token=data["token"].strip())
        return _checked(access, token.name)
    raise CredentialsError(Finding(None, "NotChecked", "clusterProfileRef is not followed by this version"))


async def _data(secrets: Secrets, name: str) -> dict[str, str]:
    try:
        return await secrets.secret_data(name)
    except SignalError as error:
        raise _missing(str(error)) from None


def _checked(access: Access, name: str) -> Access:
    """The access, once its certificates were read: what is no certificate is found here and not in a connection."""
    try:
        access.context()
    except (ssl.SSLError, ValueError, OSError):
        said = f"Secret {name}: its certificates or its key cannot be read"
        raise CredentialsError(Finding(False, "KubeconfigRejected", said)) from None
    return access


def _missing(message: str) -> CredentialsError:
    return CredentialsError(Finding(False, "SecretNotFound", message))
