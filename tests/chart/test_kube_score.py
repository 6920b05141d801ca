"""The renderings, looked at by kube-score: no error, but for the checks that do not apply, each with its reason."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from chart_values import KUSTOMIZE_OPERATOR, KUSTOMIZE_ROUTER, RENDERED, objects_of, profile_name

IGNORED = {
    # A digest or a version's tag is the same image each time; Always would stop new pods while the registry is away.
    "container-image-pull-policy",
}
NO_CPU_LIMIT = "--ignore-container-cpu-limit"
"""A limit on CPU would stall all streams of a pod at once."""

ALLOWED = {
    # A NetworkPolicy is the cluster's business until it is asked for: the production profile has them, on both.
    "pod-networkpolicy": {"default", "minimal", "member", "everything", "router", "operator", "production"},
    # These profiles leave the numbers to the platform (OpenShift), run one operator without a budget, or are exposed on
    # nodes: on purpose, to have every value used once.
    "container-security-context-user-group-id": {"everything"},
    "deployment-has-poddisruptionbudget": {"everything"},
}
TEST_PODS_ONLY = {("production", "pod-networkpolicy")}
"""Nobody connects to the pods of `helm test`, which live for seconds."""


def _errors(kube_score: Path, rendering: Path) -> set[tuple[str, str]]:
    """(check, object) of each finding that kube-score calls critical."""
    options = [f"--ignore-test={name}" for name in IGNORED] + [NO_CPU_LIMIT, "--kubernetes-version=v1.31"]
    run = subprocess.run(
        [kube_score, "score", *options, "--output-format=json", rendering], capture_output=True, text=True, check=False
    )
    objects: list[dict[str, Any]] = json.loads(run.stdout)
    assert objects, run.stderr
    return {
        (check["check"]["id"], one["object_meta"]["name"])
        for one in objects
        for check in one["checks"]
        if not check["skipped"] and check["grade"] == 1
    }


@pytest.mark.parametrize(
    "rendering",
    [path for path in (*RENDERED, KUSTOMIZE_ROUTER, KUSTOMIZE_OPERATOR) if path.stem != "kinds"],
    ids=profile_name,
)
def test_kube_score_finds_no_error(kube_score: Path, rendering: Path) -> None:
    profile = rendering.stem
    found = {
        (check, name)
        for check, name in _errors(kube_score, rendering)
        if profile not in ALLOWED.get(check, ()) or ((profile, check) in TEST_PODS_ONLY and not name.endswith("-test"))
    }
    assert found == set()


def test_no_exception_is_made_that_is_not_needed(kube_score: Path) -> None:
    renderings = {path.stem: path for path in (*RENDERED, KUSTOMIZE_ROUTER, KUSTOMIZE_OPERATOR)}
    for check, profiles in ALLOWED.items():
        for profile in profiles:
            assert check in {found for found, _ in _errors(kube_score, renderings[profile])}, profile


def test_kube_score_sees_an_error_where_there_is_one(kube_score: Path, tmp_path: Path) -> None:
    objects = objects_of(RENDERED[0])
    for one in objects:
        if one["kind"] == "Deployment":
            one["spec"]["template"]["spec"]["containers"][0]["securityContext"]["readOnlyRootFilesystem"] = False
    file = tmp_path / "weak.yaml"
    file.write_text("\n---\n".join(json.dumps(one) for one in objects))
    assert "container-security-context-readonlyrootfilesystem" in {check for check, _ in _errors(kube_score, file)}
