"""One table of mistakes: each is refused in one line that names the object and the field."""

from __future__ import annotations

from typing import Any

import pytest
from documents import GOOD, MISTAKES, changed

from marlin.api.documents import DocumentError, dump_documents, load_documents


@pytest.mark.parametrize(("kind", "path", "value", "message"), MISTAKES)
def test_a_mistake_is_refused_in_one_line_that_names_file_object_and_field(
    kind: str, path: str, value: Any, message: str
) -> None:
    with pytest.raises(DocumentError) as refused:
        load_documents(changed(GOOD[kind], path, value), "fleet.yaml")
    line = str(refused.value)
    assert line.startswith("fleet.yaml:1: ")
    assert message in line
    assert "\n" not in line
    assert len(line) < 500


@pytest.mark.parametrize("kind", GOOD)
def test_a_good_document_is_accepted_and_reads_back_as_it_was_written(kind: str) -> None:
    once = load_documents(GOOD[kind], "fleet.yaml")
    assert len(once.datacenters + once.pools + once.policies) == 1
    again = load_documents(dump_documents(once.datacenters + once.pools + once.policies), "again.yaml")
    assert (again.datacenters, again.pools, again.policies) == (once.datacenters, once.pools, once.policies)


def test_a_scenario_file_is_sent_to_the_command_that_takes_it() -> None:
    with pytest.raises(DocumentError, match=r"study.yaml:1: this is a scenario file, which marlin simulate --scenario"):
        load_documents("scenario: {base: demo-3}", "study.yaml")
