"""How a site's cluster is reached: its spec, a ClusterProfile and Secrets, as ``Access``.

A kubeconfig says itself where it goes, and a token Secret verifies the server by its own ``ca.crt`` before anything is
sent. The address of a ClusterProfile is another's, so a Secret has to allow it.

Secrets are read anew for each look, so that rotated credentials are used at once. What is wrong with them is a
condition, in words that hold none of them.
"""

from __future__ import annotations

import ssl
from typing import Any, Protocol

from marlin.api.datacenter import ClusterAccess, ClusterProfileRef
from marlin.api.values import Tls
from marlin.operator.kube.access import Access, KubeconfigError, from_kubeconfig
from marlin.operator.kube.inventory import InventoryError
from marlin.operator.kube.namespace import check_sending
from marlin.operator.members.profiles import (
    KUBECONFIG_READER,
    TOKEN_READER,
    kubeconfig_place,
    provider_names,
    provider_of,
    with_kubeconfig,
    with_token,
)
from marlin.operator.members.sighting import Finding
from marlin.operator.sending import Credentials, destination
from marlin.operator.signals.http import SignalError, WithheldError


class Secrets(Credentials, Protocol):
    """The operator's own namespace."""

    @property
    def namespace(self) -> str:
        """Its name."""

    async def secret_data(self, name: str) -> dict[str, str]:
        """All keys of a Secret.

        Raises:
            SignalError: there is none.
        """


class Inventory(Protocol):
    """Other projects' objects in the hub."""

    async def profile(self, namespace: str, name: str) -> dict[str, Any]:
        """A ClusterProfile.

        Raises:
            InventoryError: it cannot be read.
        """

    async def pool_import(self, namespace: str, name: str) -> dict[str, Any]:
        """An InferencePoolImport.

        Raises:
            InventoryError: it cannot be read.
        """


class CredentialsError(Exception):
    """A site's credentials cannot be used; ``finding`` says why."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.message)
        self.finding = finding


async def access_of(cluster: ClusterAccess, secrets: Secrets, hub: Access, inventory: Inventory) -> Access:
    """How to speak to a site's API server.

    Args:
        cluster: as the Datacenter says.
        secrets: where Secrets are.
        hub: the access of provider inCluster.
        inventory: where ClusterProfiles are.

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
    assert cluster.cluster_profile_ref is not None, "a rule of the CRD asks for one of the four"
    return await _of_profile(cluster.cluster_profile_ref, secrets, inventory)


async def _of_profile(ref: ClusterProfileRef, secrets: Secrets, inventory: Inventory) -> Access:
    where = f"ClusterProfile {ref.namespace}/{ref.name}"
    try:
        profile = await inventory.profile(ref.namespace, ref.name)
    except InventoryError as error:
        raise CredentialsError(Finding(False, "ClusterProfileNotFound", str(error))) from None
    found = provider_of(profile)
    if found is None:
        names = ", ".join(provider_names(profile)[:5]) or "none"
        said = f"{where}: of its access providers ({names}) none is {TOKEN_READER} or {KUBECONFIG_READER}"
        raise CredentialsError(Finding(False, "ProviderNotSupported", said))
    provider, cluster = found
    try:
        if provider == TOKEN_READER:
            data = await _data(secrets, ref.name)
            token = data.get("token", "").strip()
            if not token:
                raise _missing(f"Secret {ref.name} has no key token")
            access = with_token(cluster, token, where)
            check_sending(data, ref.name, secrets.namespace, destination(access.server, Tls()))
            return _checked(access, ref.name)
        name, key, context = kubeconfig_place(cluster, secrets.namespace, where)
        data = await _data(secrets, name)
        if (text := data.get(key)) is None:
            raise _missing(f"Secret {name} has no key {key}")
        access, own_server = with_kubeconfig(cluster, text, context, where)
        to = destination(access.server, Tls())
        if to != destination(own_server, Tls()):  # otherwise the kubeconfig itself says where it goes
            check_sending(data, name, secrets.namespace, to)
        return _checked(access, name)
    except WithheldError as error:
        raise CredentialsError(Finding(False, "Withheld", str(error))) from None
    except KubeconfigError as error:
        raise CredentialsError(Finding(False, "KubeconfigRejected", str(error))) from None


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
