"""Fixtures: one etcd and API servers on it, with our CRDs and roles; operators as processes under their own account."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cluster_fleet import Fleet
from control_plane import Cluster, Etcd, Process, install, installed_binaries


@pytest.fixture(scope="session")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    binaries = installed_binaries()
    if isinstance(binaries, str):
        if os.environ.get("MARLIN_REQUIRE_CONTROL_PLANE"):
            pytest.fail(binaries)
        pytest.skip(binaries)
    server = Etcd(binaries, tmp_path_factory.mktemp("etcd"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def hub(etcd: Etcd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster with our CRDs and the shipped roles."""
    cluster = Cluster("hub", etcd, tmp_path_factory.mktemp("hub"))
    cluster.start()
    install(cluster)
    yield cluster
    cluster.stop()


@pytest.fixture
def fleet(hub: Cluster) -> Fleet:
    """The three-regions sample, not applied yet."""
    return Fleet(hub)


@pytest.fixture
def operator(hub: Cluster, tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Starts operators; ends those that are left."""
    started: list[Process] = []

    def start(instance: str, *options: str) -> Process:
        token = hub.token_of("marlin-system", "marlin-operator")
        process = Process(hub, tmp_path, instance, token, options=options)
        started.append(process)
        return process

    yield start
    for process in started:
        process.end(signal.SIGKILL)
    # A Lease of a killed operator would make the next test wait until it has run out.
    path = "/apis/coordination.k8s.io/v1/namespaces/marlin-system/leases"
    for lease in hub.call("GET", path)["items"]:
        hub.call("DELETE", f"{path}/{lease['metadata']['name']}")
    hub.call("DELETE", "/apis/marlin.dev/v1alpha1/datacenters")
