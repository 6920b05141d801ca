"""Several whole clusters for end-to-end tests: made with kind, or there already.

A ``ClusterProvider`` hands out clusters by name; tests see only ``Cluster``: kubectl, Helm, and an address at which
NodePorts of that cluster answer, from the test and from pods of the other clusters. ``Kind`` makes and deletes them;
``Existing`` takes kubeconfigs and never deletes anything.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

ROOT: Final = Path(__file__).resolve().parents[2]
KIND_PREFIX: Final = "marlin-e2e-"
DEFAULT_NODE_IMAGE: Final = "kindest/node:v1.35.0"
COMMAND_TIMEOUT_S: Final = 300.0


class MissingError(Exception):
    """Something that these tests need is not there; the message is one line."""


def run(*command: str | Path, stdin: str | None = None, timeout_s: float = COMMAND_TIMEOUT_S) -> str:
    """A program's output; a failure is an error with what it said."""
    done = subprocess.run(
        [str(word) for word in command], input=stdin, capture_output=True, text=True, check=False, timeout=timeout_s
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr.strip()[-2000:]}")
    return done.stdout


@dataclass(frozen=True, slots=True)
class Cluster:
    """One cluster."""

    name: str
    kubeconfig: Path

    def kubectl(self, *arguments: str | Path, stdin: str | None = None) -> str:
        return run("kubectl", "--kubeconfig", self.kubeconfig, *arguments, stdin=stdin)

    def get(self, *arguments: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.kubectl("get", *arguments, "--output", "json"))
        return found

    def apply(self, *objects: Mapping[str, Any]) -> None:
        documents = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=json.dumps(documents))

    def helm(self, *arguments: str | Path) -> str:
        helm = run(ROOT / "scripts" / "helm.sh", "--find").strip()
        return run(helm, "--kubeconfig", self.kubeconfig, *arguments)

    @property
    def address(self) -> str:
        """The node's, at which NodePorts answer."""
        for node in self.get("nodes")["items"]:
            for one in node["status"]["addresses"]:
                if one["type"] == "InternalIP":
                    return str(one["address"])
        raise MissingError(f"e2e: no node of cluster {self.name} states an InternalIP")


class ClusterProvider(Protocol):
    """Where clusters come from."""

    def start(self, names: Sequence[str], images: Sequence[str]) -> dict[str, Cluster]:
        """Clusters of these names that hold these images."""

    def halt(self, name: str) -> None:
        """Stops a whole cluster, as a power cut would."""

    def resume(self, name: str) -> None:
        """Starts it again; returns at once."""

    def memory_mib(self, name: str) -> float | None:
        """What it takes now, MiB; None where that cannot be known."""

    def delete(self) -> None:
        """Removes what ``start`` made."""


class Kind:
    """Single-node clusters in docker containers.

    Args:
        folder: for kubeconfigs.
        node_image: of the nodes.
    """

    def __init__(self, folder: Path, node_image: str) -> None:
        self._folder, self._image = folder, node_image
        self._names: list[str] = []

    @classmethod
    def from_environment(cls, folder: Path) -> Kind:
        """With the image of ``MARLIN_KIND_NODE_IMAGE``.

        Raises:
            MissingError: docker or kind is not there.
        """
        for program in ("docker", "kind", "kubectl"):
            if shutil.which(program) is None:
                raise MissingError(f"e2e-kind: {program} is not in PATH")
        if subprocess.run(["docker", "version"], capture_output=True, check=False).returncode != 0:
            raise MissingError("e2e-kind: docker's daemon does not answer")
        return cls(folder, os.environ.get("MARLIN_KIND_NODE_IMAGE") or DEFAULT_NODE_IMAGE)

    def start(self, names: Sequence[str], images: Sequence[str]) -> dict[str, Cluster]:
        for image in images:
            if subprocess.run(["docker", "image", "inspect", image], capture_output=True, check=False).returncode != 0:
                raise MissingError(f"e2e-kind: image {image} is not there: make images")
        self._names = list(names)
        # One after the other: three at once take longer on two cores, and time out.
        return {name: self._create(name, images) for name in names}

    def _create(self, name: str, images: Sequence[str]) -> Cluster:
        cluster = Cluster(name, self._folder / f"{name}.kubeconfig")
        kind = ("kind", "--quiet", "create", "cluster", "--name", KIND_PREFIX + name, "--image", self._image)
        run(*kind, "--kubeconfig", cluster.kubeconfig, "--wait", "180s")
        run("kind", "--quiet", "load", "docker-image", *images, "--name", KIND_PREFIX + name)
        # Names resolve only from then on.
        cluster.kubectl("-n", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=180s")
        return cluster

    def halt(self, name: str) -> None:
        run("docker", "stop", "--time", "1", self._node(name))

    def resume(self, name: str) -> None:
        run("docker", "start", self._node(name))

    def memory_mib(self, name: str) -> float | None:
        said = (
            run("docker", "stats", "--no-stream", "--format", "{{.MemUsage}}", self._node(name)).split("/")[0].strip()
        )
        factor = {"MiB": 1.0, "GiB": 1024.0}.get(said[-3:])
        return None if factor is None else float(said[:-3]) * factor

    def delete(self) -> None:
        with ThreadPoolExecutor() as pool:
            for name in self._names:
                pool.submit(subprocess.run, ["kind", "delete", "cluster", "--name", KIND_PREFIX + name], check=False)

    @staticmethod
    def _node(name: str) -> str:
        return f"{KIND_PREFIX}{name}-control-plane"


class Existing:
    """Clusters that somebody else made, images included.

    Args:
        kubeconfigs: file of each cluster.
    """

    def __init__(self, kubeconfigs: Mapping[str, Path]) -> None:
        self._kubeconfigs = kubeconfigs

    @classmethod
    def from_environment(cls) -> Existing:
        """Out of ``MARLIN_E2E_KUBECONFIGS``, e.g. ``hub=/a,north=/b,south=/c``.

        Raises:
            MissingError: it is not set, or no such pairs.
        """
        pairs = [part.partition("=") for part in os.environ.get("MARLIN_E2E_KUBECONFIGS", "").split(",")]
        if not all(name and path for name, _, path in pairs):
            raise MissingError("e2e: MARLIN_E2E_KUBECONFIGS should be hub=FILE,north=FILE,south=FILE")
        return cls({name: Path(path) for name, _, path in pairs})

    def start(self, names: Sequence[str], images: Sequence[str]) -> dict[str, Cluster]:
        if missing := set(names) - set(self._kubeconfigs):
            raise MissingError(f"e2e: MARLIN_E2E_KUBECONFIGS has no {', '.join(sorted(missing))}")
        return {name: Cluster(name, self._kubeconfigs[name]) for name in names}

    def halt(self, name: str) -> None:
        raise MissingError(f"e2e: whoever made cluster {name} stops it, not these tests")

    def resume(self, name: str) -> None:
        raise MissingError(f"e2e: whoever made cluster {name} starts it, not these tests")

    def memory_mib(self, name: str) -> float | None:
        return None

    def delete(self) -> None:
        return


def provider(folder: Path) -> ClusterProvider:
    """The one that ``MARLIN_E2E_CLUSTERS`` names: kind or existing.

    Raises:
        MissingError: it names another, or what it needs is not there.
    """
    name = os.environ["MARLIN_E2E_CLUSTERS"]
    if name == "existing":
        return Existing.from_environment()
    if name == "kind":
        return Kind.from_environment(folder)
    raise MissingError(f"e2e: MARLIN_E2E_CLUSTERS={name!r} should be kind or existing")


class Stopwatch:
    """Seconds since it was made, and lines for the report."""

    def __init__(self) -> None:
        self._since_s = time.monotonic()

    def seconds(self) -> float:
        return time.monotonic() - self._since_s
