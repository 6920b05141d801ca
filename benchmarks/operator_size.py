"""``operator.*``: what deciding costs for a large fleet: 200 Datacenters, 1,000 pools, 16 policies.

A process of its own reads the objects as an API server lists them, decides a first round in which every policy is
planned, writes the statuses and tables back into them, and decides again and again with nothing to plan. Reading and
writing over the network are not in the figures.
"""

from __future__ import annotations

import copy
import json
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml
from figures import Figure, Group

ROOT: Final = Path(__file__).resolve().parent.parent
SITES: Final = 200
POOLS: Final = 1000
POLICIES: Final = 16
SITES_OF_A_POLICY: Final = 12
ROUNDS: Final = 10
NOON: Final = datetime(2026, 5, 4, 12, 3, 7, tzinfo=UTC)


def measure() -> Mapping[str, float]:
    """In another process, so that its memory is its own."""
    done = subprocess.run([sys.executable, __file__], capture_output=True, text=True, timeout=600, check=True)
    return {name: float(value) for name, value in json.loads(done.stdout).items()}


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
        body["metadata"] |= {"name": name, "uid": name, "generation": 1, "creationTimestamp": "2026-01-01T00:00:00Z"}
        body["spec"] |= spec
        made.append(body)

    for i in range(SITES):
        add("Datacenter", f"site-{i}", router={"url": f"https://marlin.site-{i}.example"})
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


def main() -> None:
    """What ``measure`` starts."""
    from marlin.api.table import CONFIG_MAP_KEY, RoutingTable  # noqa: PLC0415 after the clock of a process began
    from marlin.operator.core.observed import read_policy, read_pool, read_site  # noqa: PLC0415
    from marlin.operator.core.reconcile import World, reconcile  # noqa: PLC0415

    raw = {(o["kind"], o["metadata"]["name"]): o for o in objects()}
    tables: dict[tuple[str, str], RoutingTable] = {}

    def world(now: datetime) -> World:
        kinds: dict[str, list[dict[str, Any]]] = {}
        for (kind, _), body in raw.items():
            kinds.setdefault(kind, []).append(body)
        return World(
            now=now,
            sites=tuple(map(read_site, kinds["Datacenter"])),
            pools=tuple(map(read_pool, kinds["InferencePool"])),
            policies=tuple(map(read_policy, kinds["MarlinPolicy"])),
            tables=dict(tables),
        )

    def decide(now: datetime) -> float:
        began_s = time.perf_counter()
        actions = reconcile(replace(world(now)))
        took_s = time.perf_counter() - began_s
        for apply in actions.applies:
            name = apply.body["metadata"]["name"]
            if apply.body["kind"] == "ConfigMap":
                text = apply.body["data"][CONFIG_MAP_KEY]
                assert len(text) < 2**20
                tables["default", name] = RoutingTable.model_validate_json(text)
            else:
                raw[apply.body["kind"], name]["status"] = json.loads(json.dumps(apply.body["status"]))
        return took_s

    plan_s = decide(NOON)
    planned = [body["status"].get("plan") for (kind, _), body in raw.items() if kind == "MarlinPolicy"]
    assert all(planned), "a policy has no plan"
    quiet_s = [decide(NOON + timedelta(seconds=i)) for i in range(1, ROUNDS + 1)]
    assert not {"torch", "numba"} & sys.modules.keys()
    figures = {
        "operator.plan_seconds": plan_s,
        "operator.reconcile_ms_p50": 1000 * float(np.median(quiet_s)),
        "operator.reconcile_ms_p99": 1000 * float(np.quantile(quiet_s, 0.99)),  # of few: next to the slowest
        "operator.rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    print(json.dumps(figures))


GROUP: Final = Group(
    name="operator",
    figures=(
        Figure("operator.plan_seconds", "s", "200 sites, 1,000 pools, 16 policies: a round in which all are planned"),
        Figure("operator.reconcile_ms_p50", "ms", "the same with nothing to plan, reading the objects included"),
        Figure("operator.reconcile_ms_p99", "ms", "the slowest of ten of them"),
        Figure("operator.rss_mb", "MB", "most memory of the process that decides"),
    ),
    measure=measure,
)

if __name__ == "__main__":
    main()
