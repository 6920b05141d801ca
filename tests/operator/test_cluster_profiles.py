"""A cluster is reached through its ClusterProfile's access provider, and an unsafe one is refused in words."""

from __future__ import annotations

import base64
from typing import Any

import pytest
import yaml
from own_secrets import OwnSecrets

from marlin.api.datacenter import ClusterAccess, ClusterProfileRef
from marlin.api.sending import SEND_TO
from marlin.operator.kube.access import Access
from marlin.operator.kube.inventory import InventoryError
from marlin.operator.members.reaching import CredentialsError, access_of

SERVER = "https://spoke.example:6443"
REF = ClusterAccess(cluster_profile_ref=ClusterProfileRef(namespace="fleet", name="spoke"))
HUB = Access("https://hub", "")


def profile(
    provider: str = "secretreader", cluster: dict[str, Any] | None = None, field: str = "accessProviders"
) -> dict[str, Any]:
    """In the shape of multicluster.x-k8s.io/v1alpha1."""
    return {
        "apiVersion": "multicluster.x-k8s.io/v1alpha1",
        "kind": "ClusterProfile",
        "metadata": {"namespace": "fleet", "name": "spoke"},
        "spec": {"clusterManager": {"name": "manager"}, "displayName": "spoke"},
        "status": {field: [{"name": "gcp"}, {"name": provider, "cluster": {"server": SERVER, **(cluster or {})}}]},
    }


class Known(OwnSecrets):
    """The hub: a profile, and Secrets of the operator's namespace."""

    def __init__(self, found: dict[str, Any] | None, **secrets: dict[str, str]) -> None:
        super().__init__(**secrets)
        self.found = found

    async def profile(self, namespace: str, name: str) -> dict[str, Any]:
        if self.found is None:
            raise InventoryError(f"ClusterProfile {namespace}/{name} does not exist (404)")
        return self.found

    async def pool_import(self, namespace: str, name: str) -> dict[str, Any]:
        raise InventoryError("none")


def kubeconfig(**user: str) -> str:
    contexts = [{"name": name, "context": {"cluster": "k", "user": name}} for name in ("one", "two")]
    users = [{"name": "one", "user": {"token": "first"}}, {"name": "two", "user": {"token": "second"} | user}]
    clusters = [{"name": "k", "cluster": {"server": "https://elsewhere.example"}}]
    return yaml.safe_dump({"current-context": "one", "contexts": contexts, "clusters": clusters, "users": users})


def reading(**extension: str) -> dict[str, Any]:
    named = {"name": "spoke-kubeconfig", "key": "value"} | extension
    extensions = [{"name": "client.authentication.k8s.io/exec", "extension": named}]
    return profile("kubeconfig-secretreader", cluster={"extensions": extensions})


@pytest.mark.parametrize("field", ["accessProviders", "credentialProviders"])
async def test_a_token_comes_out_of_the_secret_of_the_profiles_name(field: str) -> None:
    known = Known(profile(field=field), spoke={"token": "t0k3n\n", SEND_TO: SERVER})
    access = await access_of(REF, known, HUB, known)
    assert (access.server, access.token) == (SERVER, "t0k3n")


async def test_a_kubeconfig_gives_the_credentials_and_the_profile_the_address() -> None:
    known = Known(reading(), **{"spoke-kubeconfig": {"value": kubeconfig(), SEND_TO: SERVER}})
    access = await access_of(REF, known, HUB, known)
    assert (access.server, access.token) == (SERVER, "first")
    known.found = reading(context="two", namespace="marlin-system")
    assert (await access_of(REF, known, HUB, known)).token == "second"


REFUSED: dict[str, tuple[dict[str, Any] | None, str, str]] = {
    "gone": (None, "ClusterProfileNotFound", "does not exist"),
    "another-provider": (profile("gcp"), "ProviderNotSupported", "(gcp, gcp)"),
    "no-status": ({"spec": {}}, "ProviderNotSupported", "(none)"),
    "unverified": (
        profile(cluster={"insecure-skip-tls-verify": True}),
        "KubeconfigRejected",
        "insecure-skip-tls-verify",
    ),
    "proxy": (profile(cluster={"proxy-url": "http://evil"}), "KubeconfigRejected", "proxy-url"),
    "another-name": (profile(cluster={"tls-server-name": "evil"}), "KubeconfigRejected", "tls-server-name"),
    "file": (profile(cluster={"certificate-authority": "/etc/passwd"}), "KubeconfigRejected", "names a file"),
    "plain": (profile(cluster={"server": "http://spoke"}), "KubeconfigRejected", "https://"),
    "no-authority": (
        profile(cluster={"certificate-authority-data": base64.b64encode(b"no certificate").decode()}),
        "KubeconfigRejected",
        "cannot be read",
    ),
    "another-namespace": (reading(namespace="kube-system"), "KubeconfigRejected", "operator's namespace"),
    "no-secret-named": (profile("kubeconfig-secretreader"), "KubeconfigRejected", "names no Secret"),
    "no-such-key": (reading(key="other"), "SecretNotFound", "no key other"),
    "no-such-context": (reading(context="three"), "KubeconfigRejected", "three"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_what_cannot_be_used_is_refused_and_named_and_nothing_secret_with_it(case: str) -> None:
    found, reason, words = REFUSED[case]
    known = Known(found, spoke={"token": "t0k3n", SEND_TO: SERVER}, **{"spoke-kubeconfig": {"value": kubeconfig()}})
    with pytest.raises(CredentialsError) as error:
        await access_of(REF, known, HUB, known)
    assert error.value.finding.reason == reason
    assert words in error.value.finding.message
    assert "t0k3n" not in error.value.finding.message


@pytest.mark.parametrize("field", ["exec", "username", "tokenFile", "client-key"])
async def test_an_unsafe_kubeconfig_is_refused_behind_a_profile_too(field: str) -> None:
    text = kubeconfig(**{field: "x"})
    known = Known(reading(context="two"), **{"spoke-kubeconfig": {"value": text}})
    with pytest.raises(CredentialsError) as error:
        await access_of(REF, known, HUB, known)
    assert (error.value.finding.reason, field in error.value.finding.message) == ("KubeconfigRejected", True)


async def test_a_kubeconfig_that_is_no_yaml_is_refused_behind_a_profile_too() -> None:
    known = Known(reading(context="two"), **{"spoke-kubeconfig": {"value": "a: [t0k3n"}})
    with pytest.raises(CredentialsError) as error:
        await access_of(REF, known, HUB, known)
    assert error.value.finding.reason == "KubeconfigRejected"
    assert "t0k3n" not in error.value.finding.message


@pytest.mark.parametrize(
    "listed", [None, "https://elsewhere.example", "https://spoke.example", "http://spoke.example:6443"]
)
@pytest.mark.parametrize("provider", ["secretreader", "kubeconfig-secretreader"])
async def test_a_profile_cannot_have_a_secret_sent_where_it_does_not_allow(provider: str, listed: str | None) -> None:
    allowed = {} if listed is None else {SEND_TO: listed}
    secrets = {"spoke": {"token": "t0k3n"} | allowed, "spoke-kubeconfig": {"value": kubeconfig()} | allowed}
    known = Known(profile() if provider == "secretreader" else reading(), **secrets)
    with pytest.raises(CredentialsError) as error:
        await access_of(REF, known, HUB, known)
    assert error.value.finding.reason == "Withheld"
    assert f"does not list {SERVER}" in error.value.finding.message
    assert "t0k3n" not in error.value.finding.message


async def test_a_kubeconfig_goes_where_it_says_itself_without_being_allowed_to() -> None:
    found = reading()
    found["status"]["accessProviders"][1]["cluster"]["server"] = "https://elsewhere.example"
    known = Known(found, **{"spoke-kubeconfig": {"value": kubeconfig()}})
    assert (await access_of(REF, known, HUB, known)).token == "first"


async def test_a_missing_secret_is_named() -> None:
    known = Known(profile())
    with pytest.raises(CredentialsError) as error:
        await access_of(REF, known, HUB, known)
    assert (error.value.finding.reason, "Secret spoke" in error.value.finding.message) == ("SecretNotFound", True)
