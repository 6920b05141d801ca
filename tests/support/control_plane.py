"""A real control plane for tests: etcd, and one kube-apiserver per cluster, each with its own prefix, port and keys.

The binaries are built by ``scripts/control_plane.sh`` (``make control-plane``). Nothing else of Kubernetes runs: no
controllers, no kubelet; RBAC, CEL, defaulting, server-side apply, watches and tokens are the real ones.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]


def installed_binaries() -> Path | str:
    """The folder with the binaries; else what is missing, in one line."""
    found = subprocess.run(
        ["scripts/control_plane.sh", "--find"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return Path(found.stdout.strip()) if found.returncode == 0 else found.stderr.strip()


def install(cluster: Cluster) -> None:
    """Our kinds and the shipped roles; waits until the kinds are served."""
    cluster.apply_file(*sorted((ROOT / "manifests" / "crds").glob("*.yaml")))
    cluster.apply_file(ROOT / "manifests" / "rbac" / "operator.yaml")
    eventually(lambda: cluster.call("GET", "/apis/marlin.dev/v1alpha1/marlinpolicies"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class RefusedError(Exception):
    """An API server said no."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status} {message}")
        self.status = status


@dataclass(slots=True)
class Etcd:
    """One etcd for all clusters."""

    binaries: Path
    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        peer = f"http://127.0.0.1:{free_port()}"
        client = f"http://127.0.0.1:{self.port}"
        self.process = subprocess.Popen(
            [
                self.binaries / "etcd",
                f"--data-dir={self.folder / 'etcd'}",
                f"--listen-client-urls={client}",
                f"--advertise-client-urls={client}",
                f"--listen-peer-urls={peer}",
                f"--initial-advertise-peer-urls={peer}",
                f"--initial-cluster=default={peer}",
                "--unsafe-no-fsync",
                "--log-level=error",
            ],
            stdout=subprocess.DEVNULL,
            stderr=_log(self.folder / "etcd.log"),
        )

    def stop(self) -> None:
        _end(self.process)


@dataclass(slots=True)
class Cluster:
    """One API server."""

    name: str
    etcd: Etcd
    folder: Path
    port: int = field(default_factory=free_port)
    admin: str = field(default_factory=lambda: secrets.token_hex(16))
    process: subprocess.Popen[bytes] | None = None

    @property
    def server(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Starts it and waits until it is ready."""
        self.folder.mkdir(parents=True, exist_ok=True)
        key = self.folder / "sa.key"
        if not key.exists():
            subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
        tokens = self.folder / "tokens.csv"
        tokens.write_text(f'{self.admin},admin,admin,"system:masters"\n')
        self.process = subprocess.Popen(
            [
                self.etcd.binaries / "kube-apiserver",
                f"--etcd-servers=http://127.0.0.1:{self.etcd.port}",
                f"--etcd-prefix=/{self.name}",
                f"--cert-dir={self.folder}",
                f"--token-auth-file={tokens}",
                "--service-account-issuer=https://kubernetes.default.svc",
                f"--service-account-key-file={key}",
                f"--service-account-signing-key-file={key}",
                "--service-cluster-ip-range=10.0.0.0/24",
                "--authorization-mode=RBAC",
                # No controller makes the default service accounts that this plugin asks for.
                "--disable-admission-plugins=ServiceAccount",
                # Stricter than the default: what we own by reference has to work where this is on.
                "--enable-admission-plugins=OwnerReferencesPermissionEnforcement",
                "--endpoint-reconciler-type=none",
                "--bind-address=127.0.0.1",
                "--advertise-address=127.0.0.1",
                f"--secure-port={self.port}",
            ],
            stdout=subprocess.DEVNULL,
            stderr=_log(self.folder / "apiserver.log"),
        )
        self.wait_until_ready()

    def stop(self) -> None:
        _end(self.process)

    def wait_until_ready(self, timeout_s: float = 90.0) -> None:
        deadline = time.monotonic() + timeout_s
        while True:
            assert self.process is not None
            log = self.folder / "apiserver.log"
            assert self.process.poll() is None, f"kube-apiserver ended: {log.read_text()[-2000:]}"
            try:
                self.call("GET", "/readyz")
            except (RefusedError, OSError, urllib.error.URLError):
                assert time.monotonic() < deadline, f"kube-apiserver is not ready: {log.read_text()[-2000:]}"
                time.sleep(0.2)
            else:
                return

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
        token: str | None = None,
    ) -> Any:
        """One request, as administrator unless a token says otherwise."""
        request = urllib.request.Request(
            self.server + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {token or self.admin}", "Content-Type": content_type},
        )
        for attempt in range(10):
            try:
                with urllib.request.urlopen(request, context=self._context(), timeout=30) as answer:
                    text = answer.read()
                break
            except urllib.error.HTTPError as error:
                with error:
                    said = error.read().decode(errors="replace")
                # While a kind is being installed anew its storage is away for a moment, and the server says so.
                if error.code != 429 or attempt == 9:
                    raise RefusedError(error.code, said) from None
                time.sleep(0.5)
        return json.loads(text) if text[:1] in {b"{", b"["} else text

    def apply(self, *objects: Mapping[str, Any]) -> None:
        """What ``kubectl apply --server-side`` does."""
        for body in objects:
            self.call("PATCH", f"{path_of(body)}?fieldManager=test&force=true", body, "application/apply-patch+yaml")

    def apply_file(self, *files: Path) -> None:
        for file in files:
            self.apply(*(document for document in yaml.safe_load_all(file.read_text()) if document))

    def without(self, role: str, resource: str, verb: str) -> None:
        """Takes a verb away from a shipped role, wherever it is granted for the resource."""
        taken = False
        for path in (
            f"/apis/rbac.authorization.k8s.io/v1/clusterroles/{role}",
            f"/apis/rbac.authorization.k8s.io/v1/namespaces/marlin-system/roles/{role}",
        ):
            body = self.call("GET", path)
            for rule in body["rules"]:
                if resource in rule["resources"] and verb in rule["verbs"]:
                    others = [r for r in rule["resources"] if r != resource]
                    if others:
                        body["rules"].append(rule | {"resources": others})
                    rule["resources"] = [resource]
                    rule["verbs"] = [v for v in rule["verbs"] if v != verb]
                    taken = True
            body["rules"] = [rule for rule in body["rules"] if rule["verbs"]]
            self.call("PUT", path, body)
        assert taken, f"{role} grants no {verb} on {resource}"

    def ca(self) -> str:
        return (self.folder / "apiserver.crt").read_text()

    def token_of(self, namespace: str, account: str) -> str:
        """A token of a service account, as the kubelet would ask for one."""
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
        answer = self.call("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token", body)
        return str(answer["status"]["token"])

    def _context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cadata=self.ca())


_PLURALS = {
    "Datacenter": "datacenters",
    "InferencePool": "inferencepools",
    "MarlinPolicy": "marlinpolicies",
    "CustomResourceDefinition": "customresourcedefinitions",
}
_CLUSTER_SCOPED = {"Datacenter", "CustomResourceDefinition", "Namespace", "ClusterRole", "ClusterRoleBinding"}


def path_of(body: Mapping[str, Any]) -> str:
    """Path of an object on the API server."""
    version, kind, metadata = body["apiVersion"], body["kind"], body["metadata"]
    root = f"/api/{version}" if "/" not in version else f"/apis/{version}"
    place = "" if kind in _CLUSTER_SCOPED else f"/namespaces/{metadata.get('namespace', 'default')}"
    return f"{root}{place}/{_PLURALS.get(kind, kind.lower() + 's')}/{metadata['name']}"


def in_namespace(objects: Iterable[Mapping[str, Any]], namespace: str, prefix: str) -> list[dict[str, Any]]:
    """Copies of a sample's objects for one test: in a namespace of its own, datacenters with names of their own."""
    copied: list[dict[str, Any]] = json.loads(json.dumps(list(objects)))
    for body in copied:
        for field_ in ("uid", "generation", "creationTimestamp"):
            body["metadata"].pop(field_, None)
        if body["kind"] == "Datacenter":
            body["metadata"]["name"] = prefix + body["metadata"]["name"]
        else:
            body["metadata"]["namespace"] = namespace
        for backend in body["spec"].get("backends", ()):
            backend["datacenterName"] = prefix + backend["datacenterName"]
    return copied


def eventually(look: Callable[[], Any], timeout_s: float = 60.0) -> Any:
    """What ``look`` returns once it returns something true; an exception counts as not yet."""
    deadline, last = time.monotonic() + timeout_s, None
    while time.monotonic() < deadline:
        try:
            if found := look():
                return found
        except Exception as error:  # noqa: BLE001 told when time is up
            last = error
        time.sleep(0.2)
    raise AssertionError(f"not within {timeout_s:.0f} s; last: {last!r}")


class Process:
    """``marlin operator`` as its own service account."""

    def __init__(
        self,
        cluster: Cluster,
        folder: Path,
        instance: str,
        token: str,
        *,
        server: str = "",
        ca: str = "",
        log_level: str = "info",
        options: Sequence[str] = (),
    ) -> None:
        self.log = folder / f"{instance}.log"
        config = folder / f"{instance}.kubeconfig"
        config.write_text(json.dumps(kubeconfig(cluster, folder, token, server=server, authority=ca)))
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "marlin.api.cli", "operator"),
                *("--kubeconfig", str(config), "--namespace", "marlin-system", "--instance", instance),
                *("--health-address", "127.0.0.1:0", "--patience", "2", "--look-every", "2"),
                *("--log-level", log_level, *options),
            ],
            stdout=_log(self.log),
            stderr=subprocess.STDOUT,
        )

    def said(self, text: str) -> bool:
        return text in self.log.read_text()

    def page(self, path: str) -> tuple[int, str]:
        """A page of its health address: status and text."""
        found = re.search(r"health on \('127\.0\.0\.1', (\d+)\)", self.log.read_text())
        assert found, "it has not said yet where its health is"
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{found[1]}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def metric(self, name: str) -> float:
        """A metric without labels."""
        found = re.search(rf"^{name} (\S+)$", self.page("/metrics")[1], re.MULTILINE)
        assert found, f"{name} is not exposed"
        return float(found[1])

    def maps(self) -> str:
        """Paths of the files that it has mapped, a line each: libraries, among others."""
        lines = Path(f"/proc/{self.process.pid}/maps").read_text().splitlines()
        found = {line.split(maxsplit=5)[5] for line in lines if line.count("/")}
        return "\n".join(sorted(path for path in found if path.endswith(".so") or ".so." in path))

    def leads(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()[-3000:]
        return self.said("leading as")

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(30)


def kubeconfig(cluster: Cluster, folder: Path, token: str, *, server: str = "", authority: str = "") -> dict[str, Any]:
    """A kubeconfig with a token; with the address and authority of something before the API server, where given."""
    ca = folder / f"ca-{secrets.token_hex(4)}.crt"
    ca.write_text(authority or cluster.ca())
    return {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "clusters": [{"name": "k", "cluster": {"server": server or cluster.server, "certificate-authority": str(ca)}}],
        "users": [{"name": "u", "user": {"token": token}}],
    }


def _log(path: Path) -> int:
    """A file for a child's output. The number is the child's too; ours stays open until this process ends."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def _end(process: subprocess.Popen[bytes] | None) -> None:
    if process is None or process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
