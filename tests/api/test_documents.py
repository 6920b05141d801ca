from __future__ import annotations

import json
import time

import pytest
import yaml
from documents import DATACENTER, GOOD, POLICY, POOL, changed

from marlin.api.documents import MAX_DOCUMENT_BYTES, DocumentError, load_documents
from marlin.api.references import dangling_references, selected_pools
from marlin.api.table import RoutingTable

STREAM = "---\n".join(GOOD.values())

TABLE = {
    "apiVersion": "marlin.dev/v1alpha1",
    "kind": "RoutingTable",
    "datacenters": [{"name": "fra", "region": "eu"}],
    "pools": [
        {
            "name": "chat",
            "modelName": "m",
            "backends": [{"name": "a", "datacenter": "fra", "url": "https://a.example", "capacityRps": 2.5}],
        }
    ],
}


def test_a_stream_holds_documents_of_any_kind() -> None:
    documents = load_documents(STREAM, "x.yaml")
    assert [len(documents.datacenters), len(documents.pools), len(documents.policies)] == [1, 1, 1]


def test_what_kubectl_prints_as_a_list_is_taken_apart() -> None:
    items = [yaml.safe_load(text) for text in GOOD.values()]
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
    assert load_documents(text, "-") == load_documents(STREAM, "x.yaml")


def test_a_config_map_carries_a_table() -> None:
    table = RoutingTable.model_validate(TABLE)
    text = yaml.safe_dump(table.to_config_map("routing", "marlin"))
    assert load_documents(text, "cm.yaml").tables == (table,)


@pytest.mark.parametrize(
    ("data", "message"),
    [({}, "has no data.routing-table.json"), ({"routing-table.json": "{"}, "is not valid JSON")],
)
def test_a_config_map_without_a_table_is_refused(data: dict[str, str], message: str) -> None:
    text = yaml.safe_dump({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": data})
    with pytest.raises(DocumentError, match=message):
        load_documents(text, "cm.yaml")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("datacenter", "elsewhere"), "backend a is in unknown datacenter elsewhere"),
        (("capacityRps", -1), "capacityRps"),
        (("capacityRps", float("inf")), "capacityRps"),
        (("credentialsMount", "../../etc/passwd"), "credentialsMount"),
    ],
)
def test_a_table_that_leads_nowhere_is_refused(change: tuple[str, object], message: str) -> None:
    bad = json.loads(json.dumps(TABLE))
    bad["pools"][0]["backends"][0][change[0]] = change[1]
    with pytest.raises(DocumentError, match=message):
        load_documents(yaml.safe_dump(bad), "table.yaml")


def test_two_pools_for_one_model_are_refused() -> None:
    bad = json.loads(json.dumps(TABLE))
    bad["pools"].append(bad["pools"][0] | {"name": "other"})
    with pytest.raises(DocumentError, match="same modelName"):
        load_documents(json.dumps(bad), "table.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1, 2", "x.yaml:1: not valid YAML"),
        ("kind: Datacenter\nspec:\n\t- a", "x.yaml:3: not valid YAML"),
        ("- just\n- a list", "x.yaml:1: not an object"),
        ("kind: Deployment\napiVersion: apps/v1", "kind 'Deployment' is not known"),
        (f"{DATACENTER}---\n{DATACENTER}", "Datacenter frankfurt is defined twice"),
        ("x" * 10 + ": !!python/object/apply:os.system ['true']", "not valid YAML"),
        ("[" * 5000, "not valid YAML"),
        ("a: 2026-99-99", "not valid YAML"),
    ],
)
def test_text_that_is_no_configuration_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(DocumentError, match=message.replace("(", r"\(")) as refused:
        load_documents(text, "x.yaml")
    assert "\n" not in str(refused.value)


def test_the_line_is_that_of_the_document_that_is_wrong() -> None:
    text = f"{DATACENTER}---\n{changed(POOL, 'spec.modelName', '')}"
    line = DATACENTER.count("\n") + 2
    with pytest.raises(DocumentError, match=f"x.yaml:{line}: InferencePool llama-70b: spec.modelName"):
        load_documents(text, "x.yaml")


def test_an_expansion_bomb_is_refused_quickly() -> None:
    bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
    )
    started_s = time.monotonic()
    with pytest.raises(DocumentError):
        load_documents(bomb + "kind: Datacenter\napiVersion: marlin.dev/v1alpha1\nspec: *a11\n", "bomb.yaml")
    assert time.monotonic() - started_s < 5


def test_more_text_than_a_configuration_can_be_is_refused_unread() -> None:
    with pytest.raises(DocumentError, match="larger than 32 MiB"):
        load_documents("#" * (MAX_DOCUMENT_BYTES + 1), "big.yaml")


@pytest.mark.parametrize(
    ("kind", "path", "value", "message"),
    [
        ("InferencePool", "spec.backends.0.datacenterName", "paris", "there is no Datacenter paris"),
        (
            "InferencePool",
            "spec.backends.0.capacity.nodeGroup",
            "b200",
            "has no node group b200; it has a100x4, h100x8",
        ),
        ("MarlinPolicy", "spec.poolRefs", [{"name": "gpt"}], "there is no InferencePool gpt in its namespace"),
        ("MarlinPolicy", "metadata.namespace", "other", "there is no InferencePool llama-70b in its namespace"),
        ("MarlinPolicy", "spec.residency.0.allowedRegions", ["mars"], "no Datacenter is in region mars"),
    ],
)
def test_a_name_that_leads_nowhere_is_told(kind: str, path: str, value: object, message: str) -> None:
    texts = {k: changed(text, path, value) if k == kind else text for k, text in GOOD.items()}
    problems = dangling_references(load_documents("---\n".join(texts.values()), "x.yaml"))
    assert any(message in problem for problem in problems), problems


def test_documents_that_fit_together_have_no_problems() -> None:
    assert dangling_references(load_documents(STREAM, "x.yaml")) == []


def test_a_selector_chooses_pools_of_its_own_namespace_by_label() -> None:
    policy = changed(changed(POLICY, "spec.poolRefs", ...), "spec.poolSelector", {"matchLabels": {"tier": "gold"}})
    other = changed(changed(POOL, "metadata.name", "other"), "metadata.labels", {"tier": "silver"})
    documents = load_documents(f"{policy}---\n{POOL}---\n{other}", "x.yaml")
    assert [p.metadata.name for p in selected_pools(documents.policies[0], documents.pools)] == ["llama-70b"]
