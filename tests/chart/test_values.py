"""What the schema of the chart's values takes, and what it refuses. Needs no Helm."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart_values import CHART, PROFILES, ROOT, profile_name
from jsonschema import Draft7Validator

SCHEMA = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
VALIDATOR = Draft7Validator(SCHEMA)


def _nested(path: str, value: Any) -> dict[str, Any]:
    for key in reversed(path.split(".")):
        value = {key: value}
    assert isinstance(value, dict)
    return value


def test_readme_and_schema_say_what_values_yaml_says() -> None:
    subprocess.run([sys.executable, "scripts/generate_chart.py", "--check"], cwd=ROOT, check=True)


def test_the_schema_is_one() -> None:
    Draft7Validator.check_schema(SCHEMA)


def test_the_defaults_are_valid() -> None:
    VALIDATOR.validate(yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8")))


@pytest.mark.parametrize("profile", PROFILES, ids=profile_name)
def test_a_profile_is_valid(profile: Path) -> None:
    VALIDATOR.validate(yaml.safe_load(profile.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("rooter.replicas", 1),
        ("router.replica", 1),
        ("router.image.digset", ""),
        ("router.replicas", "two"),
        ("router.replicas", -1),
        ("router.image.digest", "sha256:abc"),
        ("router.image.tag", "with space"),
        ("router.image.pullPolicy", "Sometimes"),
        ("router.workers", 0),
        ("router.service.port", 0),
        ("router.service.type", "ExternalName"),
        ("router.table.configMap", "Upper"),
        ("router.existingSecrets", ["a", "a"]),
        ("router.existingSecrets", ["../etc"]),
        ("router.drain.graceSeconds", -1),
        ("router.drain.graceSeconds", "10s"),
        ("router.extraArgs", {"--seed": 7}),
        ("metrics.serviceMonitor.renderMode", "maybe"),
        ("metrics.serviceMonitor.interval", 15),
        ("commonLabels", {"a": 1}),
    ],
)
def test_a_wrong_value_is_refused(path: str, value: Any) -> None:
    assert not VALIDATOR.is_valid(_nested(path, value))


def test_every_value_is_set_by_a_profile() -> None:
    """So that no template's branch goes unrendered."""
    profiles = [yaml.safe_load(profile.read_text(encoding="utf-8")) for profile in PROFILES]
    unset = [path for path in _paths(SCHEMA) if not any(_has(profile, path) for profile in profiles)]
    assert unset == ["global"]


def _paths(node: dict[str, Any], prefix: str = "") -> list[str]:
    paths: list[str] = []
    for key, below in node["properties"].items():
        inner = _paths(below, f"{prefix}{key}.") if "properties" in below else [f"{prefix}{key}"]
        paths += inner
    return paths


def _has(tree: Any, path: str) -> bool:
    for key in path.split("."):
        if not isinstance(tree, dict) or key not in tree:
            return False
        tree = tree[key]
    return True
