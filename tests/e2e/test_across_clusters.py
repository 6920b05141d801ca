"""A hub and two member clusters, real pods, HTTP by the official client: what users see when things change and break.

Run by ``make e2e-kind``. The clusters are made once; the scenarios build on one another and run in the file's order.
The hub runs operator, router and a datacenter of its own; members run a router that is fed by documents. vLLM is
emulated, everything else is what the chart installs.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import json
import os
import re
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
import pytest
import yaml
from agents import small_artifact
from clusters import ROOT, Cluster, ClusterProvider, MissingError, Stopwatch, provider, run
from page_commands import commands_of, inline_commands_of

SITES = ("hub", "north", "south")
NAMESPACE = "marlin"
NODE_PORT = 30080
EPOCH_S = 60
RECORDED = "/var/lib/marlin/recorded"
VERSION = str(yaml.safe_load((ROOT / "charts" / "marlin" / "Chart.yaml").read_text())["appVersion"])
TABLE_LAG_S = 200.0
"""An epoch, until a plan is made, and what a kubelet takes to bring a changed ConfigMap to its pods: about a minute."""

pytestmark = pytest.mark.timeout(900)


class Report:
    """What was seen, line by line; printed, and kept for the documentation."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")

    def say(self, line: str) -> None:
        print(line, flush=True)
        with self._path.open("a") as file:
            file.write(line + "\n")


@dataclass(slots=True)
class Reply:
    """One request as its sender saw it."""

    ended_s: float
    datacenter: str
    """Who answered; empty when nobody did."""
    error: str = ""


@dataclass(slots=True)
class Load:
    """Clients that ask without pause while the block lasts."""

    client: openai.OpenAI
    senders: int = 4
    replies: list[Reply] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _pool: ThreadPoolExecutor | None = None
    _asking: list[Future[None]] = field(default_factory=list)

    def __enter__(self) -> Load:
        self._pool = ThreadPoolExecutor(self.senders)
        self._asking = [self._pool.submit(self._send) for _ in range(self.senders)]
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stop.set()
        assert self._pool is not None
        self._pool.shutdown()
        if kind is None:
            for one in self._asking:
                one.result()  # a sender that ended by an error of its own asked no more
            assert self.replies, "nobody asked anything"

    def _send(self) -> None:
        while not self._stop.is_set():
            self.replies.append(ask(self.client))

    @property
    def failed(self) -> list[Reply]:
        return [reply for reply in self.replies if reply.error]


def ask(client: openai.OpenAI, session: str | None = None) -> Reply:
    """One chat completion."""
    try:
        raw = client.chat.completions.with_raw_response.create(
            model="chat",
            max_tokens=8,
            messages=[{"role": "user", "content": "Where are you?"}],
            extra_headers={} if session is None else {"x-session-id": session},
        )
        assert raw.parse().choices
    except openai.APIStatusError as error:
        return Reply(time.monotonic(), "", f"{error.status_code} {error.code}")
    except openai.APIConnectionError as error:
        return Reply(time.monotonic(), "", f"connection: {error.__cause__!r}")
    return Reply(time.monotonic(), raw.headers["x-marlin-datacenter"])


def shares(client: openai.OpenAI, requests: int = 120) -> dict[str, float]:
    """Who answers which share of some requests; all must be answered."""
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda _: ask(client), range(requests)))
    assert not [reply for reply in replies if reply.error], collections.Counter(reply.error for reply in replies)
    counts = collections.Counter(reply.datacenter for reply in replies)
    return {name: counts[name] / requests for name in SITES}


def homes(client: openai.OpenAI, sessions: int = 300) -> list[str]:
    """The datacenter that answers each session; all must be answered."""
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda number: ask(client, f"session-{number}"), range(sessions)))
    assert not [reply for reply in replies if reply.error], collections.Counter(reply.error for reply in replies)
    return [reply.datacenter for reply in replies]


def moved(before: list[str], after: list[str]) -> float:
    """Share of the sessions that another datacenter answers."""
    return sum(a != b for a, b in zip(before, after, strict=True)) / len(before)


def until(look: Callable[[], Any], timeout_s: float) -> tuple[Any, float]:
    """What ``look`` says once it says something true, and after how many seconds."""
    watch, last = Stopwatch(), None
    while watch.seconds() < timeout_s:
        try:
            if found := look():
                return found, watch.seconds()
        except (RuntimeError, KeyError, AssertionError) as error:
            last = error
        time.sleep(1.0)
    raise AssertionError(f"not within {timeout_s:.0f} s; last: {last}")


class Fleet:
    """The installed clusters, and what a person would do to them."""

    def __init__(self, clusters: dict[str, Cluster], made_by: ClusterProvider, report: Report) -> None:
        self.clusters, self.made_by, self.report = clusters, made_by, report
        self.addresses = {name: cluster.address for name, cluster in clusters.items()}
        self.carbon = {"hub": 500, "north": 100, "south": 300}

    @property
    def hub(self) -> Cluster:
        return self.clusters["hub"]

    def client(self, name: str = "hub", timeout_s: float = 20.0) -> openai.OpenAI:
        base = f"http://{self.addresses[name]}:{NODE_PORT}/v1"
        return openai.OpenAI(base_url=base, api_key="none", max_retries=0, timeout=timeout_s)

    def install(self) -> None:
        for name, cluster in self.clusters.items():
            until(functools.partial(_serves_vllm, cluster), 180.0)
            values = self._values(name)
            cluster.helm(
                *("upgrade", "--install", "marlin", ROOT / "charts" / "marlin", "--namespace", NAMESPACE),
                *("--values", _written(cluster, "values", values)),
            )
        for cluster in self.clusters.values():
            cluster.kubectl("-n", NAMESPACE, "rollout", "status", "deployment/vllm", "--timeout=240s")

    def _values(self, name: str) -> dict[str, Any]:
        router = {
            "resources": {"requests": {"cpu": "50m", "memory": "96Mi"}, "limits": {"memory": "512Mi"}},
            "service": {"type": "NodePort", "nodePort": NODE_PORT},
            "drain": {"graceSeconds": 5, "timeoutSeconds": 20},
            "accessLog": False,
        }
        operator: dict[str, Any] = {
            "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}}
        }
        if name == "hub":
            operator |= {
                "extraArgs": [f"--record={RECORDED}"],
                "extraVolumes": [{"name": "recorded", "emptyDir": {}}],
                "extraVolumeMounts": [{"name": "recorded", "mountPath": RECORDED}],
            }
            return {"router": router | {"table": {"configMap": "marlin-balanced"}}, "operator": operator}
        documents = yaml.safe_dump_all([_datacenter(name, 0, None), _pool([_own_backend(name)])])
        return {
            "router": router | {"table": {"documents": documents, "key": "fleet.yaml"}},
            "operator": {"enabled": False},
            "crds": {"enabled": False},
        }

    def describe(self, scaled: int | None = None, **policy: Any) -> None:
        """Applies the whole fleet to the hub.

        Args:
            scaled: replicas that the hub has room for; as many run as the plan wants. Default: those that are there.
            policy: what is different in the policy.
        """
        members = {name: f"http://{self.addresses[name]}:{NODE_PORT}" for name in SITES[1:]}
        sites = [_datacenter(name, self.carbon[name], members.get(name)) for name in SITES]
        backends = [_own_backend("hub"), *(_backend_of(name) for name in members)]
        pool = _pool(backends)
        if scaled is not None:
            sites[0]["spec"]["cluster"] = {"inCluster": {}}
            backends[0] = _backend_of("hub") | {"scaleTargetRef": {"namespace": NAMESPACE, "name": "vllm"}}
            backends[0]["capacity"]["replicas"] = scaled
            pool["spec"] |= {"powerDown": "Sleep", "scaling": {"mode": "Scale", "minReplicas": 1}}
        spec = {
            "mode": "Enforce",
            "poolRefs": [{"name": "chat"}],
            "epochSeconds": EPOCH_S,
            "planner": {"kind": "MeritOrder", "scheme": "MinCarbon"},
            "dispatch": "Shares",
        } | policy
        metadata = {"name": "balanced", "namespace": NAMESPACE}
        self.hub.apply(
            *sites,
            pool,
            {"apiVersion": "marlin.dev/v1alpha1", "kind": "MarlinPolicy", "metadata": metadata, "spec": spec},
        )

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.hub.get("mpol", "balanced", "-n", NAMESPACE)["status"]
        return found

    def condition(self, type_: str) -> tuple[str, str]:
        found = self._condition(type_)
        return found["status"], found["reason"]

    def message(self, type_: str) -> str:
        return str(self._condition(type_)["message"])

    def _condition(self, type_: str) -> dict[str, Any]:
        conditions: list[dict[str, Any]] = self.status()["conditions"]
        for one in conditions:
            if one["type"] == type_:
                return one
        raise KeyError(f"the policy has no condition {type_}")

    def planned(self) -> dict[str, float]:
        """Share of each site in the plan of the status."""
        plan = self.status()["plan"]
        (row,) = plan["pools"]
        return {name: weight / 10_000 for name, weight in zip(plan["datacenters"], row["weights"], strict=True)}

    def table(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(
            self.hub.get("configmap", "marlin-balanced", "-n", NAMESPACE)["data"]["routing-table.json"]
        )
        return found

    def carries_out(self, planned: dict[str, float]) -> dict[str, float] | None:
        seen = shares(self.client())
        return seen if all(abs(seen[name] - planned.get(name, 0.0)) < 0.12 for name in SITES) else None

    def adopted(self, planned: dict[str, float]) -> bool:
        """Whether every router of the hub goes by these shares; kubelets bring a table to each pod apart."""
        for pod in self.pods("hub", "router"):
            page = self.hub.kubectl("get", "--raw", f"/api/v1/namespaces/{NAMESPACE}/pods/{pod}:8081/proxy/metrics")
            held = dict(
                re.findall(r'^marlin_router_plan_share{datacenter="(\w+)",pool="chat"} (\S+)$', page, re.MULTILINE)
            )
            if any(abs(float(held[name]) - planned.get(name, 0.0)) > 0.001 for name in SITES):
                return False
        return True

    def pods(self, name: str, component: str) -> list[str]:
        label = "app=vllm" if component == "vllm" else f"app.kubernetes.io/component={component}"
        items = self.clusters[name].get("pods", "-n", NAMESPACE, "-l", label)["items"]
        return [one["metadata"]["name"] for one in items]


def _written(cluster: Cluster, name: str, values: dict[str, Any]) -> Path:
    path = cluster.kubeconfig.parent / f"{cluster.name}-{name}.json"
    path.write_text(json.dumps(values))
    return path


def _serves_vllm(cluster: Cluster) -> bool:
    """Applies it. A young cluster on a busy machine may not answer at once."""
    cluster.apply(*_emulated_vllm())
    return True


def _emulated_vllm() -> list[dict[str, Any]]:
    labels = {"app": "vllm"}
    container = {
        "name": "vllm",
        "image": f"marlin/operator:{VERSION}",
        "args": [
            *("emulate", "--model=chat", "--profile=Llama-2-7b", "--accelerator=H100-80GB", "--tensor-parallel=1"),
            *("--host=0.0.0.0", "--port=8000"),
        ],
        "readinessProbe": {"httpGet": {"path": "/health", "port": 8000}, "periodSeconds": 1},
        "resources": {"requests": {"cpu": "50m", "memory": "96Mi"}, "limits": {"memory": "512Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    pod = {
        "terminationGracePeriodSeconds": 5,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
    }
    metadata = {"name": "vllm", "namespace": NAMESPACE}
    enforced = {"pod-security.kubernetes.io/enforce": "restricted"}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": enforced}},
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": metadata,
            "spec": {
                "replicas": 2,
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pod},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata,
            "spec": {"selector": labels, "ports": [{"port": 8000}]},
        },
    ]


def _datacenter(name: str, carbon: int, router_url: str | None) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "location": {"region": "eu-central", "zone": "DE-LU"},
        "nodeGroups": [{"name": "h100", "accelerator": "H100-80GB", "acceleratorsPerNode": 8, "nodes": 1}],
        "signals": {"carbonIntensity": {"provider": "Static", "static": {"value": carbon}}},
    }
    if router_url is not None:
        spec["router"] = {"url": router_url, "tls": {"verification": "Disabled"}}
    return {"apiVersion": "marlin.dev/v1alpha1", "kind": "Datacenter", "metadata": {"name": name}, "spec": spec}


def _own_backend(name: str) -> dict[str, Any]:
    url = f"http://vllm.{NAMESPACE}.svc:8000"
    return _capacity({"name": name, "datacenterName": name, "url": url, "tls": {"verification": "Disabled"}})


def _backend_of(name: str) -> dict[str, Any]:
    service = {"namespace": NAMESPACE, "name": "vllm", "port": 8000}
    return _capacity({"name": name, "datacenterName": name, "serviceRef": service})


def _capacity(backend: dict[str, Any]) -> dict[str, Any]:
    return backend | {"capacity": {"nodeGroup": "h100", "replicas": 2, "tensorParallel": 1}}


def _pool(backends: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "apiVersion": "marlin.dev/v1alpha1",
        "kind": "InferencePool",
        "metadata": {"name": "chat", "namespace": NAMESPACE},
        "spec": {"modelName": "chat", "profile": {"builtIn": "Llama-2-7b"}, "backends": backends},
    }


@pytest.fixture(scope="module")
def report() -> Report:
    return Report(ROOT / "build" / "e2e-clusters" / "transcript.txt")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, report: Report) -> Iterator[Fleet]:
    try:
        made_by = provider(tmp_path_factory.mktemp("clusters"))
    except MissingError as error:
        pytest.exit(str(error), returncode=2)
    try:
        watch = Stopwatch()
        try:
            clusters = made_by.start(SITES, [f"marlin/operator:{VERSION}", f"marlin/router:{VERSION}"])
        except MissingError as error:
            pytest.exit(str(error), returncode=2)
        version = json.loads(clusters["hub"].kubectl("get", "--raw", "/version"))
        report.say(f"three clusters of Kubernetes {version['gitVersion']}: {watch.seconds():.0f} s")
        watch = Stopwatch()
        fleet = Fleet(clusters, made_by, report)
        fleet.install()
        report.say(f"charts installed and emulated vLLM ready: {watch.seconds():.0f} s")
        yield fleet
        for name in SITES:
            if (memory := made_by.memory_mib(name)) is not None:
                report.say(f"memory of cluster {name} at the end: {memory:.0f} MiB")
    finally:
        if "MARLIN_E2E_KEEP" not in os.environ:
            made_by.delete()


def test_a_plan_is_published_and_carried_out_and_replies_name_their_datacenter(fleet: Fleet) -> None:
    watch = Stopwatch()
    fleet.describe()
    until(lambda: fleet.status().get("plan"), 60.0)
    fleet.report.say(f"plan published after the objects were applied: {watch.seconds():.0f} s")
    for name, cluster in fleet.clusters.items():
        cluster.kubectl("-n", NAMESPACE, "rollout", "status", "deployment/marlin-router", "--timeout=240s")
        assert len(fleet.pods(name, "router")) == 2
    assert fleet.condition("Ready") == ("True", "Ready")
    fleet.hub.helm("test", "marlin", "--namespace", NAMESPACE)
    for pod in fleet.pods("hub", "operator"):
        assert "the watch ended" not in fleet.hub.kubectl("-n", NAMESPACE, "logs", pod)
    planned = fleet.planned()
    seen, _ = until(lambda: fleet.carries_out(planned), TABLE_LAG_S)
    fleet.report.say(f"first routed by the plan: {watch.seconds():.0f} s; planned {planned}, seen {seen}")
    assert planned["north"] > 0.5 > planned["hub"]


def test_when_a_members_carbon_rises_weights_shift_and_every_request_is_answered(fleet: Fleet) -> None:
    before = fleet.planned()
    with Load(fleet.client()) as load:
        watch = Stopwatch()
        fleet.carbon["north"] = 900
        fleet.describe()
        planned, planned_s = until(
            lambda: p if (p := fleet.planned())["north"] < before["north"] - 0.2 else None, 150.0
        )
        seen, _ = until(lambda: fleet.carries_out(planned), TABLE_LAG_S)
        total_s = watch.seconds()
    fleet.report.say(
        f"north's carbon 100 -> 900 g/kWh: new plan after {planned_s:.0f} s, carried out after {total_s:.0f} s; "
        f"planned {planned}, seen {seen}; {len(load.replies)} requests meanwhile, {len(load.failed)} failed"
    )
    assert planned_s <= EPOCH_S + 15
    assert not load.failed


def test_when_a_plan_changes_sessions_move_no_more_than_they_must(fleet: Fleet) -> None:
    """Plans d apart (L1) move d / (1 + d / 2) at most, the law of the routers' hashing, and the two points of slack.

    Half of d has to move; a router that does not remember the plan before cannot move less than its hashing does.
    """
    at_once = {"maxWeightChangePercent": 100}  # so that the plan stays the same from one epoch to the next

    def planned_and_adopted(is_wanted: Callable[[float], bool]) -> dict[str, float]:
        planned, _ = until(lambda: p if is_wanted((p := fleet.planned())["north"]) else None, 150.0)
        until(lambda: fleet.adopted(planned), TABLE_LAG_S)
        return dict(planned)

    fleet.carbon["north"] = 900
    fleet.describe(guardrails=at_once)
    old = planned_and_adopted(lambda north: north < 0.05)
    before, again = homes(fleet.client()), homes(fleet.client())
    fleet.carbon["north"] = 100
    fleet.describe(guardrails=at_once)
    new = planned_and_adopted(lambda north: north > 0.5)
    after = homes(fleet.client())
    must = sum(abs(before.count(site) - after.count(site)) for site in SITES) / 2 / len(before)
    apart = sum(abs(new.get(site, 0.0) - old.get(site, 0.0)) for site in SITES)
    most = apart / (1 + apart / 2) + 0.02
    unasked, seen = moved(before, again), moved(before, after)
    fleet.report.say(
        f"sessions: {len(before)} asked twice under one plan, {unasked:.1%} moved; then {old} became {new}: "
        f"{seen:.1%} moved, of which {must:.1%} had to and {most:.1%} may"
    )
    assert must > 0.4
    # Each worker keeps a site to its share of the sessions that it saw itself, so that it may place a few differently
    # than another worker, or than it did before.
    assert unasked <= 0.05
    assert seen <= most


def test_dry_run_takes_the_plan_away_paused_makes_none_and_the_shadow_is_seen(fleet: Fleet) -> None:
    fleet.describe(mode="DryRun", shadow={"kind": "CapacityProportional"})
    until(lambda: fleet.condition("Applied") == ("False", "DryRun"), 90.0)
    until(lambda: fleet.table().get("plan") is None, 90.0)
    shadow, _ = until(lambda: fleet.status().get("shadow"), 90.0)
    until(lambda: fleet.carries_out(dict.fromkeys(SITES, 1 / 3)), TABLE_LAG_S)
    carbon = {
        "plan": fleet.status()["estimate"]["carbonGrams"],
        "shadow": shadow["estimate"]["carbonGrams"],
    }
    fleet.report.say(
        f"DryRun: the table holds no plan, requests go by capacity; the shadow's plan is in the status, gCO2eq {carbon}"
    )
    assert shadow["plan"]["pools"][0]["weights"] != fleet.status()["plan"]["pools"][0]["weights"]
    assert float(carbon["plan"]) < float(carbon["shadow"])

    fleet.describe(mode="Paused")
    until(lambda: fleet.condition("Ready")[1] == "Paused" or fleet.condition("Planned")[1] == "Paused", 90.0)
    epoch = fleet.status()["plan"]["epoch"]
    time.sleep(EPOCH_S + 5)  # an epoch passes, on the clusters' own clocks
    assert fleet.status()["plan"]["epoch"] == epoch
    fleet.report.say("Paused: an epoch passed and no plan was made")

    fleet.describe(mode="Enforce")
    planned, _ = until(lambda: fleet.planned() if fleet.table().get("plan") else None, 90.0)
    until(lambda: fleet.carries_out(planned), TABLE_LAG_S)
    fleet.report.say("Enforce: the plan is in the table and carried out")


def _put_archive(fleet: Fleet, folder: Path, name: str, *, is_damaged: bool) -> dict[str, Any]:
    """A trained policy in a ConfigMap beside the operator; returns the planner that uses it."""
    small_artifact(folder / name, dispatch=["Shares"])
    file = folder / f"{name}.tar"
    with tarfile.open(file, "w") as archive:
        for path in sorted((folder / name).iterdir()):
            archive.add(path, path.name)
    content = bytearray(file.read_bytes())
    if is_damaged:
        content[len(content) * 3 // 4] ^= 1  # one bit of the weights
        file.write_bytes(content)
    fleet.hub.kubectl("-n", NAMESPACE, "create", "configmap", name, f"--from-file=policy.tar={file}")
    return {"kind": "Marlin", "artifactRef": {"configMapRef": {"name": name, "key": "policy.tar"}}}


def test_a_damaged_artifact_is_refused_and_the_one_before_goes_on_planning(fleet: Fleet, tmp_path: Path) -> None:
    with Load(fleet.client(), senders=2) as load:
        fleet.describe(planner=_put_archive(fleet, tmp_path, "trained", is_damaged=False))
        until(lambda: fleet.condition("ArtifactAccepted")[0] == "True", 90.0)
        good, _ = until(lambda: fleet.status()["plan"].get("artifactSha256"), 90.0)
        fleet.describe(planner=_put_archive(fleet, tmp_path, "damaged", is_damaged=True))
        until(lambda: fleet.condition("ArtifactAccepted") == ("False", "ArtifactRejected"), 90.0)
        said = fleet.message("ArtifactAccepted")
        epoch = fleet.status()["plan"]["epoch"]
        until(lambda: fleet.status()["plan"]["epoch"] > epoch, EPOCH_S + 60.0)
        assert fleet.status()["plan"]["artifactSha256"] == good
    fleet.report.say(
        f"artifact with one bit changed: {said!r}; {len(load.replies)} requests, {len(load.failed)} failed"
    )
    assert "the one before it stays in use" in said
    assert not load.failed
    fleet.describe()
    until(lambda: fleet.status()["plan"]["planner"] == "MeritOrder", EPOCH_S + 60.0)


def test_a_killed_backend_pod_costs_no_more_than_what_it_was_answering(fleet: Fleet) -> None:
    victim = fleet.pods("south", "vllm")[0]
    with Load(fleet.client()) as load:
        time.sleep(3)  # load is flowing
        fleet.clusters["south"].kubectl("-n", NAMESPACE, "delete", "pod", victim, "--grace-period=0", "--force")
        time.sleep(20)  # the replacement comes up meanwhile
    errors = collections.Counter(reply.error for reply in load.failed)
    fleet.report.say(f"backend pod killed: {len(load.replies)} requests, {len(load.failed)} failed {dict(errors)}")
    assert len(load.failed) <= load.senders
    assert all(reply.error.startswith("50") for reply in load.failed)


def test_a_killed_member_router_costs_no_more_than_what_it_was_passing_on(fleet: Fleet) -> None:
    victim = fleet.pods("south", "router")[0]
    with Load(fleet.client()) as load:
        time.sleep(3)
        fleet.clusters["south"].kubectl("-n", NAMESPACE, "delete", "pod", victim, "--grace-period=0", "--force")
        time.sleep(20)
    errors = collections.Counter(reply.error for reply in load.failed)
    fleet.report.say(f"member router killed: {len(load.replies)} requests, {len(load.failed)} failed {dict(errors)}")
    assert len(load.failed) <= load.senders
    assert all(reply.error.startswith("50") for reply in load.failed)


def _halt(fleet: Fleet, name: str) -> None:
    try:
        fleet.made_by.halt(name)
    except MissingError as error:
        pytest.skip(str(error))


def test_while_a_member_cluster_is_gone_the_others_answer_and_it_comes_back(fleet: Fleet) -> None:
    with Load(fleet.client()) as load:
        time.sleep(3)
        watch = Stopwatch()
        stopped = time.monotonic()
        _halt(fleet, "south")
        time.sleep(20)  # long enough for probes to see it
        gone = [reply for reply in load.replies if reply.error]
        fleet.made_by.resume("south")
        since = time.monotonic()
        until(lambda: any(r.datacenter == "south" and r.ended_s > since for r in list(load.replies)), 240.0)
        back_s = time.monotonic() - since
    errors = collections.Counter(reply.error for reply in load.failed)
    last = f", the last {max(r.ended_s for r in gone) - stopped:.1f} s after the stop" if gone else ""
    fleet.report.say(
        f"member cluster stopped for 20 s: {len(load.replies)} requests, {len(load.failed)} failed {dict(errors)}"
        f"{last}; it answers again {back_s:.0f} s after its start "
        f"({watch.seconds():.0f} s in all)"
    )
    assert len(load.failed) <= load.senders
    assert all(reply.error.startswith("50") for reply in load.failed)


def test_while_the_hub_is_gone_members_answer_by_themselves_and_it_comes_back(fleet: Fleet) -> None:
    with Load(fleet.client("north"), senders=2) as load:
        _halt(fleet, "hub")
        time.sleep(15)
        fleet.made_by.resume("hub")
        _, back_s = until(lambda: not ask(fleet.client(timeout_s=5.0)).error, 240.0)
        _, leads_s = until(lambda: fleet.hub.helm("test", "marlin", "--namespace", NAMESPACE), 240.0)
    fleet.report.say(
        f"hub stopped for 15 s: {len(load.replies)} requests through a member's router, {len(load.failed)} failed; "
        f"the hub's router answers {back_s:.0f} s after its start, `helm test` passes {leads_s:.0f} s later"
    )
    assert not load.failed
    planned, _ = until(fleet.planned, 120.0)
    until(lambda: fleet.carries_out(planned), TABLE_LAG_S)


def test_a_rolling_upgrade_of_router_and_operator_costs_no_request(fleet: Fleet) -> None:
    before = {*fleet.pods("hub", "router"), *fleet.pods("hub", "operator")}
    with Load(fleet.client()) as load:
        watch = Stopwatch()
        fleet.hub.helm(
            *("upgrade", "marlin", ROOT / "charts" / "marlin", "--namespace", NAMESPACE, "--reuse-values"),
            *("--set-string", "router.podAnnotations.revision=2,operator.podAnnotations.revision=2"),
            *("--wait", "--timeout", "280s"),
        )
        took_s = watch.seconds()
        until(lambda: not before & {*fleet.pods("hub", "router"), *fleet.pods("hub", "operator")}, 120.0)
    errors = collections.Counter(reply.error for reply in load.failed)
    fleet.report.say(
        f"rolling upgrade of router and operator under load: {took_s:.0f} s, {len(load.replies)} requests, "
        f"{len(load.failed)} failed {dict(errors)}"
    )
    assert not load.failed


def _hub_router() -> dict[str, Any]:
    """As a policy names it for observation."""
    url = f"http://marlin-router-metrics.{NAMESPACE}.svc:8081/metrics"
    return {"name": "hub", "metricsUrl": url, "tls": {"verification": "Disabled"}}


def test_engines_are_started_and_ended_as_plans_want_them_and_no_request_is_lost(fleet: Fleet) -> None:
    rights = []
    for name in ("member", "member-scaling"):
        text = (ROOT / "manifests" / "rbac" / f"{name}.yaml").read_text().replace("marlin-system", NAMESPACE)
        rights += [one for one in yaml.safe_load_all(text) if one["kind"].startswith("ClusterRole")]
    fleet.hub.apply(*rights)
    policy = {"guardrails": {"maxWeightChangePercent": 100}, "observation": {"routers": [_hub_router()]}}
    before = dict(fleet.carbon)

    def ready() -> int:
        found = fleet.hub.get("deployment", "vllm", "-n", NAMESPACE)
        as_ordered = found["status"].get("replicas", 0) == found["spec"]["replicas"]
        return int(found["status"].get("readyReplicas", 0)) if as_ordered else 0

    def desired() -> int:
        (pool,) = fleet.hub.get("mpool", "-n", NAMESPACE)["items"]
        return int(next(b["desiredReplicas"] for b in pool["status"]["backends"] if b["name"] == "hub"))

    with Load(fleet.client(), senders=2) as load:
        fleet.carbon |= {"hub": 900, "north": 100}
        fleet.describe(scaled=3, **policy)
        _, shrunk_s = until(lambda: ready() == desired() == 1, 4 * EPOCH_S)
        fleet.carbon |= {"hub": 10, "north": 900}
        fleet.describe(scaled=3, **policy)
        grown, grown_s = until(lambda: n if (n := ready()) == desired() > 1 else None, 4 * EPOCH_S)
    fleet.report.say(
        f"engines of the hub: from 2 to 1 within {shrunk_s:.0f} s of its carbon's rise, to {grown} within "
        f"{grown_s:.0f} s of its fall; {len(load.replies)} requests, {len(load.failed)} failed"
    )
    assert not load.failed
    fleet.carbon = before
    fleet.describe()
    fleet.hub.kubectl("-n", NAMESPACE, "scale", "deployment/vllm", "--replicas=2")
    for one in rights:
        fleet.hub.kubectl("delete", one["kind"], one["metadata"]["name"])


def test_what_the_operator_recorded_can_be_reported(fleet: Fleet) -> None:
    """By the image itself, in the pod that leads. The router's counters say what came."""
    source = _hub_router()
    file, interval = f"{RECORDED}/{NAMESPACE}_balanced.jsonl", ("--from", "2020-01-01", "--to", "2100-01-01")

    def reported() -> dict[str, Any] | None:
        found: dict[str, Any] | None = None
        for pod in fleet.pods("hub", "operator"):
            command = ("marlin", "report", "--history", file, *interval, "--format", "json")
            with contextlib.suppress(RuntimeError):  # the one that does not lead has no file
                found = json.loads(fleet.hub.kubectl("-n", NAMESPACE, "exec", pod, "--", *command))
        return found

    fleet.describe(observation={"routers": [source]})
    with Load(fleet.client(), senders=2):
        said, _ = until(reported, 4 * EPOCH_S)
    fleet.describe()
    total = said["total"]
    fleet.report.say(
        f"recorded by the operator: {total['requests']:.0f} requests, {total['energy_kwh']:.2f} kWh, "
        f"{total['carbon_gco2']:.0f} gCO2eq, saved {said['savedPercent']['carbon_gco2']:z.0f} % by the twin"
    )
    assert total["requests"] > 100
    assert set(said["datacenters"]) <= set(SITES)


def _with_contexts(hub: Cluster, member: Cluster, folder: Path) -> Cluster:
    """The hub, by a kubeconfig that knows both clusters by the names that pages give them."""
    shown = [yaml.safe_load(one.kubectl("config", "view", "--flatten", "--minify")) for one in (hub, member)]
    merged = shown[0] | {"current-context": "hub"}
    for kind in ("clusters", "users", "contexts"):
        merged[kind] = [*shown[0][kind], *shown[1][kind]]
    merged["contexts"] = [one | {"name": name} for one, name in zip(merged["contexts"], ("hub", "member"), strict=True)]
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(merged))
    return Cluster("hub", path)


def _follow(cluster: Cluster, folder: Path, commands: list[str]) -> None:
    """Runs a page's commands as they stand, each until it succeeds; what goes to the background ends with the page."""
    for name in ("charts", "manifests", "examples"):
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name)
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    if not (programs / "helm").exists():
        (programs / "helm").symlink_to(run(ROOT / "scripts" / "helm.sh", "--find").strip())
    path = f"{programs}:{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}"
    shell: dict[str, Any] = {"cwd": folder, "env": os.environ | {"KUBECONFIG": str(cluster.kubeconfig), "PATH": path}}
    behind: list[subprocess.Popen[bytes]] = []

    def done(command: str) -> bool:
        bash = ["bash", "-o", "pipefail", "-c", command]
        ended = subprocess.run(bash, capture_output=True, text=True, check=False, timeout=280, **shell)
        is_quiet = re.search(r" > \S+$", command) is not None
        if ended.returncode != 0 or not (is_quiet or ended.stdout.strip()):
            raise RuntimeError(f"{command}: exit {ended.returncode}: {ended.stderr.strip()[-500:]}")
        return True

    try:
        for command in commands:
            if command.endswith("&"):
                behind.append(subprocess.Popen(["bash", "-c", f"exec {command[:-1]}"], **shell))
            else:
                until(functools.partial(done, command), 60.0)
        assert [one.args for one in behind if one.poll() is not None] == []
    finally:
        for one in behind:
            one.terminate()
            one.wait()


def test_the_commands_of_how_tos_for_a_running_hub_work_as_they_stand(fleet: Fleet, tmp_path: Path) -> None:
    for name in ("token.txt", "new-key.txt", "ca.crt"):
        (tmp_path / name).write_text("not a real one\n")
    (tmp_path / "fleet.yaml").symlink_to(ROOT / "examples" / "fleet" / "fleet.yaml")
    fleet.hub.kubectl(
        "-n", NAMESPACE, "create", "secret", "generic", "prometheus", "--from-literal=token=not-a-real-one"
    )
    reader = ROOT / "manifests" / "rbac" / "table-reader.yaml"
    fleet.hub.kubectl("apply", "-f", reader)
    clusters = _with_contexts(fleet.hub, fleet.clusters["north"], tmp_path)
    count = 0
    for page in ("shadow-then-enforce", "answer-an-alert", "rotate-credentials", "check-a-configuration"):
        commands = commands_of(f"how-to/{page}")
        _follow(clusters, tmp_path, commands)
        count += len(commands)
    fleet.hub.kubectl("delete", "--ignore-not-found", "-f", reader)  # the token goes with its account
    fleet.hub.kubectl("delete", "-f", ROOT / "manifests" / "samples" / "three-regions.yaml")
    fleet.report.say(f"how-tos for a running hub: {count} commands, as they stand")


def test_after_uninstalling_only_the_kinds_and_their_objects_are_left(fleet: Fleet) -> None:
    for cluster in fleet.clusters.values():
        cluster.helm("uninstall", "marlin", "--namespace", NAMESPACE, "--wait")
    kept = fleet.hub.get("mdc,mpool,mpol", "-A")["items"]
    assert len(kept) == len(SITES) + 2
    for name, cluster in fleet.clusters.items():
        left = cluster.get("deployments,services,serviceaccounts,roles,rolebindings,pdb", "-n", NAMESPACE)["items"]
        names = {one["metadata"]["name"] for one in left}
        assert names <= {"vllm", "default"}, name
        roles = cluster.get("clusterroles,clusterrolebindings")["items"]
        assert not [one for one in roles if one["metadata"]["name"].startswith("marlin")]
        kinds = [one["metadata"]["name"] for one in cluster.get("crd")["items"]]
        assert len([one for one in kinds if one.endswith("marlin.dev")]) == (3 if name == "hub" else 0)
    fleet.report.say(f"uninstalled: on the hub three kinds and {len(kept)} objects are left, on members nothing")


def test_the_commands_of_how_tos_that_install_work_as_they_stand(fleet: Fleet, tmp_path: Path) -> None:
    """On a member that is empty again."""
    south = fleet.clusters["south"]
    (tmp_path / "site.yaml").write_text(
        yaml.safe_dump_all([_datacenter("south", 0, None), _pool([_own_backend("south")])])
    )
    page = (ROOT / "docs" / "how-to" / "add-a-datacenter.md").read_text()
    (oslo,) = re.findall(r"```yaml\n(apiVersion.*?)```", page, re.DOTALL)
    (tmp_path / "oslo.yaml").write_text(oslo)
    kinds, adding = commands_of("how-to/install-crds"), commands_of("how-to/add-a-datacenter")
    said = [one for one in inline_commands_of("how-to/add-a-datacenter") if re.match("helm|kubectl patch", one)]
    _follow(south, tmp_path, [*kinds, *adding])
    south.kubectl("-n", NAMESPACE, "rollout", "status", "deployment/marlin-router", "--timeout=240s")
    _follow(south, tmp_path, said)
    south.helm("uninstall", "marlin", "--namespace", NAMESPACE, "--wait")
    fleet.report.say(f"how-tos that install: {len(kinds) + len(adding) + len(said)} commands, as they stand")
