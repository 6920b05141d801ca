from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from marlin.operator.kube.access import KubeconfigError, from_kubeconfig, in_cluster

SECRET = "s3cret-token"
GOOD: dict[str, Any] = {
    "current-context": "c",
    "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u", "namespace": "here"}}],
    "clusters": [{"name": "k", "cluster": {"server": "https://k.example:6443/", "certificate-authority-data": "UEVN"}}],
    "users": [{"name": "u", "user": {"token": SECRET}}],
}


def changed(part: str, **fields: Any) -> str:
    config = copy.deepcopy(GOOD)
    singular = part.removesuffix("s")
    config[part][0][singular] |= {name.replace("_", "-"): value for name, value in fields.items()}
    return yaml.safe_dump(config)


def test_the_current_context_is_read() -> None:
    access = from_kubeconfig(yaml.safe_dump(GOOD), where="Secret a", may_name_files=False)
    assert (access.server, access.ca, access.bearer(), access.namespace) == (
        "https://k.example:6443",
        "PEM",
        SECRET,
        "here",
    )
    assert SECRET not in repr(access)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (changed("users", exec={"command": "sh"}), "exec would run a command"),
        (changed("users", auth_provider={"name": "gcp"}), "auth-provider would run a command"),
        (changed("users", username="ann"), "username is not supported"),
        (changed("users", password="p"), "password is not supported"),
        (changed("users", client_certificate="/etc/passwd"), "client-certificate names a file"),
        (changed("users", client_key="/etc/shadow"), "client-key names a file"),
        (changed("users", tokenFile="/etc/shadow"), "tokenFile names a file"),
        (changed("clusters", certificate_authority="/ca"), "certificate-authority names a file"),
        (changed("clusters", insecure_skip_tls_verify=True), "insecure-skip-tls-verify is not accepted"),
        (changed("clusters", proxy_url="http://p"), "proxy-url is not supported"),
        (changed("clusters", server="http://k.example"), "must be an https:// address"),
        (changed("clusters", certificate_authority_data="%%%"), "is not base64"),
        (yaml.safe_dump(GOOD | {"current-context": "other"}), "no context 'other'"),
        ("[", "not valid YAML"),
        ("1", "not a kubeconfig"),
    ],
)
def test_what_is_not_safe_is_refused_in_one_line_without_secrets(text: str, said: str) -> None:
    with pytest.raises(KubeconfigError, match=said) as caught:
        from_kubeconfig(text, where="Secret fra", may_name_files=False)
    assert str(caught.value).startswith("Secret fra: ")
    assert SECRET not in str(caught.value)


def test_a_persons_own_file_may_name_files_but_no_commands(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    access = from_kubeconfig(changed("users", tokenFile=str(token)), where="config", may_name_files=True)
    token.write_text("second\n")
    assert access.bearer() == "second"
    with pytest.raises(KubeconfigError, match="exec"):
        from_kubeconfig(changed("users", exec={}), where="config", may_name_files=True)


def test_in_a_pod_the_service_account_is_used_and_its_token_read_anew(tmp_path: Path) -> None:
    for name, content in (("token", "t1"), ("ca.crt", "PEM"), ("namespace", "marlin-system")):
        (tmp_path / name).write_text(content)
    environment = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
    access = in_cluster(environment, tmp_path)
    assert access is not None
    assert (access.server, access.namespace, access.bearer()) == ("https://[fd00::1]:443", "marlin-system", "t1")
    (tmp_path / "token").write_text("t2")
    assert access.bearer() == "t2"
    assert in_cluster({}, tmp_path) is None
