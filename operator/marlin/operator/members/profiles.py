"""A ClusterProfile as ``Access``: pure but for the Secrets that its access providers stand for.

Of the cluster inventory's access providers the two that read Secrets are followed, by what they are specified to do and
without running a program: ``secretreader`` (a token under key ``token`` of the Secret of the profile's name) and
``kubeconfig-secretreader`` (a kubeconfig in the Secret and under the key that the provider's extension names). Secrets
are the operator's namespace's; an extension that names another namespace is refused. So is a cluster that skips
verification, names a file, a proxy or another name for the certificate, as in a kubeconfig.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import yaml

from marlin.operator.kube.access import Access, KubeconfigError, from_kubeconfig

TOKEN_READER: Final = "secretreader"  # noqa: S105 a provider's name
KUBECONFIG_READER: Final = "kubeconfig-secretreader"
_EXTENSION: Final = "client.authentication.k8s.io/exec"


def provider_of(profile: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """Name and cluster of the first access provider that is followed; None where there is none."""
    status = profile.get("status") or {}
    stated = [*(status.get("accessProviders") or ()), *(status.get("credentialProviders") or ())]
    for entry in stated:
        if entry.get("name") in {TOKEN_READER, KUBECONFIG_READER}:
            return str(entry["name"]), dict(entry.get("cluster") or {})
    return None


def provider_names(profile: Mapping[str, Any]) -> list[str]:
    """Names of all access providers of a profile."""
    status = profile.get("status") or {}
    return [str(e.get("name")) for field in ("accessProviders", "credentialProviders") for e in status.get(field) or ()]


def kubeconfig_place(cluster: Mapping[str, Any], namespace: str, where: str) -> tuple[str, str, str | None]:
    """Secret, key and context that a kubeconfig reader's extension names.

    Args:
        cluster: of the access provider.
        namespace: the operator's.
        where: what to call it in messages.

    Raises:
        KubeconfigError: it names none, or one of another namespace.
    """
    stated = [e.get("extension") or {} for e in cluster.get("extensions") or () if e.get("name") == _EXTENSION]
    if not stated or not stated[0].get("name") or not stated[0].get("key"):
        raise KubeconfigError(f"{where}: its extension {_EXTENSION} names no Secret and key")
    if stated[0].get("namespace", namespace) != namespace:
        raise KubeconfigError(f"{where}: its Secret has to be in the operator's namespace {namespace}")
    return str(stated[0]["name"]), str(stated[0]["key"]), stated[0].get("context")


def with_token(cluster: Mapping[str, Any], token: str, where: str) -> Access:
    """Access to a profile's cluster with a token.

    Raises:
        KubeconfigError: the cluster is not one that is spoken to.
    """
    document = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "clusters": [{"name": "k", "cluster": dict(cluster)}],
        "users": [{"name": "u", "user": {"token": token}}],
    }
    return from_kubeconfig(yaml.safe_dump(document), where=where, may_name_files=False)


def with_kubeconfig(cluster: Mapping[str, Any], text: str, context: str | None, where: str) -> tuple[Access, str]:
    """Access to a profile's cluster with the credentials of a kubeconfig: address and authority are the profile's.

    Beside it the address that the kubeconfig itself names.

    Raises:
        KubeconfigError: one of them cannot be used.
    """
    user = from_kubeconfig(text, where=where, may_name_files=False, context_name=context)
    place = with_token(cluster, "", where)
    return replace(user, server=place.server, ca=place.ca), user.server
