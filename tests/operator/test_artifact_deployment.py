"""A trained policy is deployed as a user would do it: fetched, checked, shown as a shadow, enforced, replaced."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from agents import small_artifact
from own_secrets import OwnSecrets
from worlds import Cluster, Raw, sample, the

from marlin.api.errors import InputError
from marlin.operator.artifacts import MOST_BYTES, Artifacts, unpack
from marlin.operator.core.artifact_use import ArtifactUse
from marlin.operator.core.observed import read_policy
from marlin.operator.signals.http import Request, SignalError

KEY = ("default", "balanced")


def archive(folder: Path, **members: bytes) -> bytes:
    """A small artifact as a tar file, with members added or replaced."""
    small_artifact(folder)
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        parts = {path.name: path.read_bytes() for path in folder.iterdir()} | members
        for name, content in parts.items():
            info = tarfile.TarInfo(f"best/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return data.getvalue()


class Shelf(OwnSecrets):
    """The operator's namespace and the network, as a test fills them."""

    def __init__(self) -> None:
        super().__init__()
        self.content: dict[str, bytes] = {}
        self.asked = 0

    async def config_map_bytes(self, name: str, key: str) -> bytes:
        self.asked += 1
        if name not in self.content:
            raise SignalError(f"ConfigMap {name} does not exist in the operator's namespace")
        return self.content[name]

    async def get(self, request: Request) -> bytes:
        self.asked += 1
        return self.content[request.url.rsplit("/", 1)[1]]


def with_planner(objects: list[Raw], **ref: Any) -> list[Raw]:
    the(objects, "MarlinPolicy")["spec"]["planner"] = {"kind": "Marlin", "scheme": "Balanced", "artifactRef": ref}
    return objects


def test_an_archive_gives_its_two_files_and_nothing_else(tmp_path: Path) -> None:
    data = archive(tmp_path / "a", **{"../../evil": b"x", "run.py": b"x"})
    folder = unpack(data, tmp_path / "cache")
    assert sorted(path.name for path in folder.iterdir()) == ["card.json", "weights.safetensors"]
    assert unpack(data, tmp_path / "cache") == folder
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("data", [b"", b"not a tar file", b"\x1f\x8b" + b"x" * 600])
def test_what_is_no_archive_is_refused_in_one_line(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"not a tar file|holds no card"):
        unpack(data, tmp_path)


def problem_of(data: bytes, into: Path) -> str:
    """Why an archive is refused; empty where it is not."""
    try:
        unpack(data, into)
    except InputError as error:
        return str(error)
    return ""


def test_a_compressed_archive_that_was_damaged_is_refused_in_one_line(tmp_path: Path) -> None:
    data = bytearray(gzip.compress(archive(tmp_path / "a"), mtime=0))
    said = []
    for place in range(20, len(data), len(data) // 60):
        damaged = data.copy()
        damaged[place] ^= 0xFF
        said.append(problem_of(bytes(damaged), tmp_path / "cache"))
    assert not any("\n" in text for text in said)
    assert any(said), "what the archive's own format lets pass the weights' digest finds"


def test_what_would_be_skipped_is_not_unpacked_without_end(tmp_path: Path) -> None:
    bomb = tarfile.TarInfo("bomb")
    bomb.size = 2 * MOST_BYTES + 1
    # The head, and a few bytes of what it promises: nobody is to read on.
    with pytest.raises(InputError, match="unpacks to more than"):
        unpack(bomb.tobuf() + bytes(1024), tmp_path)


async def test_a_bad_artifact_leaves_the_one_before_it_in_use(tmp_path: Path) -> None:
    shelf, clock_s = Shelf(), 0.0
    rings: list[int] = []
    artifacts = Artifacts(shelf, shelf, tmp_path / "cache", None, lambda: rings.append(1), lambda: clock_s)
    policy = read_policy(the(with_planner(sample(), configMapRef={"name": "policy"}), "MarlinPolicy"))
    first = (await artifacts.uses([policy]))[KEY, "planner"]
    assert first == ArtifactUse(None, "ConfigMap policy does not exist in the operator's namespace")
    shelf.content["policy"] = archive(tmp_path / "good")
    assert not (await artifacts.uses([policy]))[KEY, "planner"].is_usable  # not asked again at once
    clock_s = 31.0
    await artifacts.uses([policy])
    for task in list(artifacts._tasks.values()):
        await task
    good = (await artifacts.uses([policy]))[KEY, "planner"]
    assert good.folder is not None
    assert not good.problem
    card = json.loads((tmp_path / "good" / "card.json").read_text())
    changed = json.dumps(card | {"weightsSha256": "0" * 64}).encode()
    shelf.content["policy"] = archive(tmp_path / "bad", **{"card.json": changed})
    clock_s = 62.0
    await artifacts.uses([policy])
    for task in list(artifacts._tasks.values()):
        await task
    bad = (await artifacts.uses([policy]))[KEY, "planner"]
    assert bad.folder == good.folder
    assert "weights" in bad.problem
    assert len(rings) == 3
    await artifacts.close()


async def test_what_is_fetched_has_to_be_what_its_digest_says_and_is_fetched_once(tmp_path: Path) -> None:
    shelf, clock_s = Shelf(), 0.0
    artifacts = Artifacts(shelf, shelf, tmp_path / "cache", None, lambda: None, lambda: clock_s)
    data = shelf.content["p.tar"] = archive(tmp_path / "good")
    url = "https://models.example/p.tar"
    wrong = read_policy(the(with_planner(sample(), http={"url": url, "sha256": "0" * 64}), "MarlinPolicy"))
    assert "its sha256 is" in (await artifacts.uses([wrong]))[KEY, "planner"].problem
    digest = hashlib.sha256(data).hexdigest()
    right = read_policy(the(with_planner(sample(), http={"url": url, "sha256": digest}), "MarlinPolicy"))
    assert (await artifacts.uses([right]))[KEY, "planner"].folder is not None
    asked, clock_s = shelf.asked, 3600.0
    await artifacts.uses([right])
    assert shelf.asked == asked
    await artifacts.close()


async def test_a_volume_is_read_where_it_is_mounted_and_nowhere_else(tmp_path: Path) -> None:
    small_artifact(tmp_path / "good")
    volumes = tmp_path / "volumes"
    (volumes / "claim").mkdir(parents=True)
    (tmp_path / "good").rename(volumes / "claim" / "best")
    (volumes / "claim" / "out").symlink_to(tmp_path)
    artifacts = Artifacts(Shelf(), Shelf(), tmp_path / "cache", volumes, lambda: None)
    for path, said in (("best", ""), ("out", "leads out of the volume"), ("none", "none")):
        ref = {"claimName": "claim", "path": path}
        policy = read_policy(the(with_planner(sample(), persistentVolumeClaim=ref), "MarlinPolicy"))
        use = (await artifacts.uses([policy]))[KEY, "planner"]
        assert said in use.problem
        assert bool(use.problem) == bool(said)
    await artifacts.close()


def test_shadow_then_enforce_keeps_the_capital_that_was_earned(tmp_path: Path) -> None:
    small_artifact(tmp_path / "good")
    use = ArtifactUse(tmp_path / "good")
    objects = sample()
    ref = {"kind": "Marlin", "scheme": "Balanced", "artifactRef": {"configMapRef": {"name": "policy"}}}
    the(objects, "MarlinPolicy")["spec"] |= {"mode": "Enforce", "shadow": ref}
    cluster = Cluster(objects)
    cluster.known["artifacts"] = {(KEY, "shadow"): use}
    cluster.reconcile()
    status = cluster.status("MarlinPolicy")
    assert status["shadow"]["plan"]["planner"] == "Marlin"
    assert cluster.condition("MarlinPolicy", "ArtifactAccepted") == ("True", "Accepted")
    plan = cluster.tables["default", "marlin-balanced"].plan
    assert plan is not None
    assert plan.planner.value == "MeritOrder"
    agents = {agent["name"]: agent for agent in status["agents"]}
    assert agents.keys() == {"ttft", "carbon", "water", "cost"}
    assert {agent["capitalBefore"] for agent in agents.values()} == {"150.000"}

    cluster.change("MarlinPolicy", planner=ref, shadow=None)
    cluster.known["artifacts"] = {(KEY, "planner"): use}
    cluster.reconcile()
    again = cluster.status("MarlinPolicy")
    assert again["plan"]["planner"] == "Marlin"
    assert again["plan"]["artifactSha256"] == json.loads((tmp_path / "good" / "card.json").read_text())["weightsSha256"]
    # The same epoch is decided again: capital is earned in it once.
    assert {agent["capitalBefore"] for agent in again["agents"]} == {"150.000"}
    cluster.now = cluster.now.replace(minute=16)
    cluster.reconcile()
    after = {agent["name"]: agent["capitalBefore"] for agent in cluster.status("MarlinPolicy")["agents"]}
    assert after == {agent["name"]: agent["capital"] for agent in again["agents"]}


def test_without_an_artifact_the_last_plan_stays_and_the_condition_says_why() -> None:
    objects = sample()
    the(objects, "MarlinPolicy")["spec"]["mode"] = "Enforce"
    cluster = Cluster(objects)
    cluster.reconcile()
    before = cluster.tables["default", "marlin-balanced"].plan
    cluster.change("MarlinPolicy", planner={"kind": "Marlin", "scheme": "Balanced"})
    cluster.known["artifacts"] = {(KEY, "planner"): ArtifactUse(None, "its sha256 is another")}
    actions = cluster.reconcile()
    assert cluster.condition("MarlinPolicy", "ArtifactAccepted") == ("False", "ArtifactRejected")
    assert cluster.condition("MarlinPolicy", "Planned") == ("False", "PlannerError")
    assert cluster.tables["default", "marlin-balanced"].plan == before
    assert "ArtifactRejected" in {event.reason for event in actions.events}
