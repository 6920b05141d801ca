from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from marlin.api.conditions import REASONS
from marlin.api.crds import crd_documents, crd_yaml
from marlin.api.signals import CarbonSignal
from marlin.api.values import ApiModel

MANIFESTS = Path(__file__).resolve().parents[2] / "manifests" / "crds"
SCHEMAS = {name: crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"] for name, crd in crd_documents().items()}


def nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        if f"{path}.{name}" != ".metadata":
            yield from nodes(child, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from nodes(schema[key], f"{path}[]")


ALL = [(f"{name}{path}", node) for name, schema in SCHEMAS.items() for path, node in nodes(schema)]


def test_the_manifests_are_what_the_models_say() -> None:
    assert {path.name: path.read_text() for path in MANIFESTS.glob("*.yaml")} == crd_yaml()


def test_every_field_has_a_description_and_the_options_say_their_default() -> None:
    fields = [(p, n) for p, n in ALL if not p.endswith("[]") and "." in p.removesuffix(".yaml").split(".yaml")[-1]]
    assert len(fields) > 300
    missing = [path for path, node in fields if len(node.get("description", "")) < 5]
    assert missing == []


def test_every_list_says_how_it_is_merged_and_how_long_it_may_be() -> None:
    lists = [(path, node) for path, node in ALL if node.get("type") == "array"]
    assert lists
    assert [path for path, node in lists if "x-kubernetes-list-type" not in node] == []
    assert [path for path, node in lists if "maxItems" not in node] == []


def test_every_string_is_bounded() -> None:
    strings = [(path, node) for path, node in ALL if node.get("type") == "string"]
    unbounded = [
        path
        for path, node in strings
        if not {"maxLength", "enum"} & set(node)
        and node.get("format") != "date-time"
        and not path.endswith((".yaml.apiVersion", ".yaml.kind"))
    ]
    assert unbounded == []


def test_only_coordinates_are_floats() -> None:
    floats = {path.rsplit(".", 1)[1] for path, node in ALL if node.get("type") == "number"}
    assert floats == {"latitude", "longitude"}


def test_integers_have_both_bounds_or_a_format() -> None:
    integers = [(path, node) for path, node in ALL if node.get("type") == "integer" and "enum" not in node]
    assert [path for path, node in integers if "minimum" not in node and not path.endswith("generation")] == []


def test_nothing_is_left_that_an_api_server_does_not_know() -> None:
    for path, node in ALL:
        assert not {"$ref", "$defs", "title", "const", "discriminator", "examples"} & set(node), path
        assert node.get("type") != "null", path
        assert node.get("default", "") is not None, path
        assert "type" in node or node.get("x-kubernetes-int-or-string"), path
        assert not isinstance(node.get("exclusiveMinimum", False), int | float) or isinstance(
            node.get("exclusiveMinimum", False), bool
        ), path


def subclasses(model: type[ApiModel]) -> Iterator[type[ApiModel]]:
    for child in model.__subclasses__():
        yield child
        yield from subclasses(child)


def test_every_rule_stands_as_cel_in_the_schema() -> None:
    rules = {rule.cel for model in subclasses(ApiModel) for rule in model.rules}
    shown = {rule["rule"] for _, node in ALL for rule in node.get("x-kubernetes-validations", [])}
    assert len(rules) > 30
    assert rules <= shown
    own = {rule for rule in shown - rules if "quantity(string(self))" not in rule}
    assert own == {"self == oldSelf"}, "immutability is the one rule that only a server can check"


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_kinds_are_named_as_the_documentation_says(name: str) -> None:
    crd = crd_documents()[name]
    assert crd["metadata"]["name"] == name.removesuffix(".yaml").split("_")[1] + ".marlin.dev"
    names = crd["spec"]["names"]
    assert names["categories"] == ["marlin"]
    assert names["shortNames"] == [
        {"Datacenter": "mdc", "InferencePool": "mpool", "MarlinPolicy": "mpol"}[names["kind"]]
    ]
    assert crd["spec"]["versions"][0]["subresources"] == {"status": {}}


def test_every_kind_has_a_summary_condition() -> None:
    assert all("Ready" in types for types in REASONS.values())


def test_the_discriminated_unions_name_every_provider_once() -> None:
    rules = [rule.cel for rule in CarbonSignal.rules]
    for provider in ("Static", "Schedule", "ConfigMap", "Prometheus", "BuiltIn", "ElectricityMaps", "WattTime"):
        assert sum(f"'{provider}'" in rule for rule in rules) == 1
