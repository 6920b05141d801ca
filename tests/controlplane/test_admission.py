"""What the API server accepts and refuses of our kinds: the CRDs as people meet them."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from control_plane import ROOT, Cluster, RefusedError, path_of
from documents import GOOD, MISTAKES, changed

from marlin.operator.core.observed import read_site

SAMPLES = sorted((ROOT / "manifests" / "samples").rglob("*.yaml"))

NOT_FOR_A_SERVER = {"metadata.name", "apiVersion", "kind", "spec.signals.energyPrice.schedule.timeZone"}
"""Mistakes about the address of the object, which cannot even be asked for; and names of time zones, which the operator
checks: CEL cannot, without an error that explains nothing."""


def apply(hub: Cluster, document: dict[str, Any]) -> str:
    """What the server says to it, as kubectl apply --server-side --dry-run=server would show it; empty: it takes it."""
    try:
        hub.call("PATCH", f"{path_of(document)}?fieldManager=test&dryRun=All", document, "application/apply-patch+yaml")
    except RefusedError as refused:
        return str(yaml.safe_load(str(refused).split(" ", 1)[1])["message"])
    return ""


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_every_sample_is_accepted_as_it_is_shipped(hub: Cluster, path: Any) -> None:
    documents = [document for document in yaml.safe_load_all(path.read_text()) if document]
    assert documents
    assert [apply(hub, document) for document in documents] == [""] * len(documents)


@pytest.mark.parametrize("kind", GOOD)
def test_a_document_that_uses_every_part_is_accepted(hub: Cluster, kind: str) -> None:
    assert apply(hub, yaml.safe_load(GOOD[kind])) == ""


ASKED = [mistake for mistake in MISTAKES if mistake[1] not in NOT_FOR_A_SERVER]


def test_there_are_enough_mistakes() -> None:
    assert len(ASKED) >= 40


@pytest.mark.parametrize(("kind", "path", "value", "ours"), ASKED)
def test_a_mistake_is_refused_by_the_server_with_a_message_that_names_the_field(
    hub: Cluster, kind: str, path: str, value: Any, ours: str
) -> None:
    said = apply(hub, yaml.safe_load(changed(GOOD[kind], path, value)))
    assert said
    field = [part for part in path.split(".") if not part.isdigit()][-1]
    assert field in said or ours in said


def test_what_a_server_cannot_check_the_operator_says_in_the_same_words() -> None:
    document = yaml.safe_load(changed(GOOD["Datacenter"], "spec.signals.energyPrice.schedule.timeZone", "Mars/Phobos"))
    site = read_site(document)
    assert site.model is None
    assert "is not an IANA time zone" in site.problem
