"""``operator.*``: what a large fleet costs: 200 Datacenters, 1,000 pools, 16 policies, on a real API server.

``make control-plane`` has built etcd and kube-apiserver; they run on this machine beside the operator, a process under
its shipped roles. It finds all objects at its start, plans and writes everything; then a site's label is changed again
and again, and each change makes it look at everything with nothing to plan. Its debug log says how long each round
read, decided and wrote.
"""

from __future__ import annotations

import copy
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml
from figures import Figure, Group

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tests" / "support"))
SITES: Final = 200
POOLS: Final = 1000
POLICIES: Final = 16
SITES_OF_A_POLICY: Final = 12
ROUNDS: Final = 30
ROUND: Final = re.compile(r"round: read in (\S+) s, decided in (\S+) s, wrote (\d+) in (\S+) s")
LONGEST_S: Final = 240.0


def objects() -> list[dict[str, Any]]:
    """The three-regions sample, grown: each policy has 62 or 63 pools over twelve sites."""
    sample = {
        document["kind"]: document
        for document in yaml.safe_load_all((ROOT / "manifests/samples/three-regions.yaml").read_text())
        if document["metadata"]["name"] != "frankfurt"
    }
    made = []

    def add(kind: str, name: str, **spec: Any) -> None:
        body = copy.deepcopy(sample[kind])
        body["metadata"]["name"] = name
        body["spec"] |= spec
        made.append(body)

    for i in range(SITES):
        add("Datacenter", f"site-{i}")
        del made[-1]["spec"]["router"]  # nothing is looked at but the hub
    capacity = {"nodeGroup": "h100x8", "replicas": 1, "tensorParallel": 4}
    for i in range(POOLS):
        first = (i % POLICIES) * SITES_OF_A_POLICY
        backends = [
            {
                "name": f"b{j}",
                "datacenterName": f"site-{(first + j) % SITES}",
                "serviceRef": {"namespace": "models", "name": f"m{i}", "port": 8000},
                "capacity": capacity,
            }
            for j in range(SITES_OF_A_POLICY)
        ]
        add("InferencePool", f"pool-{i}", modelName=f"model-{i}", backends=backends)
    for i in range(POLICIES):
        refs = [{"name": f"pool-{j}"} for j in range(i, POOLS, POLICIES)]
        add("MarlinPolicy", f"policy-{i}", mode="Enforce", poolRefs=refs)
    return made


def measure() -> Mapping[str, float]:
    """Starts everything, and ends it."""
    from control_plane import Cluster, Etcd, Process, installed_binaries  # noqa: PLC0415 others have no use for it

    binaries = installed_binaries()
    if isinstance(binaries, str):
        raise SystemExit(binaries)
    with tempfile.TemporaryDirectory(prefix="marlin-bench-") as folder:
        etcd = Etcd(binaries, Path(folder))
        etcd.start()
        hub = Cluster("hub", etcd, Path(folder) / "hub")
        operator: Process | None = None
        try:
            hub.start()
            hub.apply_file(*sorted((ROOT / "manifests" / "crds").glob("*.yaml")))
            hub.apply_file(ROOT / "manifests" / "rbac" / "operator.yaml")
            _until(lambda: hub.call("GET", "/apis/marlin.dev/v1alpha1/marlinpolicies"), "the kinds are not served")
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(hub.apply, objects()))
            account = hub.token_of("marlin-system", "marlin-operator")
            operator = Process(hub, Path(folder), "one", account, log_level="debug")
            return _figures(hub, operator)
        finally:
            if operator is not None:
                operator.end()
            hub.stop()
            etcd.stop()


def _figures(hub: Any, operator: Any) -> Mapping[str, float]:
    path = "/apis/marlin.dev/v1alpha1/namespaces/default/marlinpolicies"
    _until(lambda: all((p.get("status") or {}).get("plan") for p in hub.call("GET", path)["items"]), "not all planned")
    _until(lambda: any(wrote for _, _, wrote, _ in _rounds(operator)), "its round does not end")
    planned = _rounds(operator)
    tables = hub.call("GET", "/api/v1/namespaces/default/configmaps")["items"]
    largest = max(len(json.dumps(table)) for table in tables)
    assert largest < 2**20, f"a ConfigMap has {largest} bytes"
    _until(lambda: _rounds(operator)[-1][2] == 0, "it does not come to rest")
    quiet, used_s = [], []
    for i in range(ROUNDS):
        rounds, began_s = len(_rounds(operator)), _cpu_s(operator.process.pid)
        label = {"metadata": {"labels": {"bench": str(i)}}}
        site = f"/apis/marlin.dev/v1alpha1/datacenters/site-{i}"
        hub.call("PATCH", site, label, "application/merge-patch+json")
        _until(lambda known=rounds: len(_rounds(operator)) > known, "a change made no round")
        time.sleep(1.0)  # what follows a round, and a second round where the change was noticed twice
        found = _rounds(operator)[rounds:]
        if all(wrote == 0 for _, _, wrote, _ in found):  # else an epoch was planned meanwhile
            quiet += [read_s + decide_s for read_s, decide_s, _, _ in found]
            used_s.append((_cpu_s(operator.process.pid) - began_s) / len(found))
    return {
        "operator.plan_seconds": max(decide_s for _, decide_s, _, _ in planned),
        "operator.publish_seconds": max(write_s for _, _, _, write_s in planned),
        "operator.reconcile_ms_p50": 1000 * float(np.median(quiet)),
        "operator.reconcile_ms_p99": 1000 * float(np.quantile(quiet, 0.99)),
        "operator.reconcile_cpu_ms": 1000 * float(np.median(used_s)),
        "operator.rss_mb": _most_memory_mb(operator.process.pid),
    }


def _rounds(operator: Any) -> list[tuple[float, float, int, float]]:
    """What its log says of each round: seconds of reading and deciding, objects written, seconds of writing."""
    found = ROUND.findall(operator.log.read_text())
    return [(float(read), float(decide), int(count), float(write)) for read, decide, count, write in found]


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _most_memory_mb(pid: int) -> float:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) / 1024


def _until(look: Any, otherwise: str) -> None:
    deadline_s = time.monotonic() + LONGEST_S
    while time.monotonic() < deadline_s:
        try:
            if look():
                return
        except Exception:  # noqa: BLE001, S110 not yet
            pass
        time.sleep(0.1)
    raise SystemExit(f"operator_size: {otherwise} within {LONGEST_S:.0f} s")


GROUP: Final = Group(
    name="operator",
    figures=(
        Figure("operator.plan_seconds", "s", "200 sites, 1,000 pools, 16 policies: all are planned, tables are made"),
        Figure("operator.publish_seconds", "s", "the same: everything is written to the API server"),
        Figure("operator.reconcile_ms_p50", "ms", "a round with nothing to plan: list everything, decide"),
        Figure("operator.reconcile_ms_p99", "ms", "the slowest of thirty of them"),
        Figure("operator.reconcile_cpu_ms", "ms", "CPU time of the process for one of them"),
        Figure("operator.rss_mb", "MB", "most memory of the process"),
    ),
    measure=measure,
)

if __name__ == "__main__":
    print(json.dumps(measure(), indent=1))
