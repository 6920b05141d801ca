from __future__ import annotations

from pathlib import Path

import pytest

from marlin.api.documents import Documents, load_documents
from marlin.api.references import dangling_references

ROOT = Path(__file__).resolve().parents[2]
SCENARIOS = ROOT / "examples" / "scenarios"
"""Another kind of file; tests/policy/test_scenario_files.py runs each."""
FILES = sorted(
    [
        *(file for file in (ROOT / "examples").rglob("*.yaml") if file.parent != SCENARIOS),
        *(ROOT / "manifests" / "samples").rglob("*.yaml"),
    ],
    key=str,
)


@pytest.mark.parametrize("file", FILES, ids=[str(file.relative_to(ROOT)) for file in FILES])
def test_an_example_is_valid_and_its_names_lead_somewhere(file: Path) -> None:
    documents = load_documents(file.read_text(encoding="utf-8"), file.name)
    assert documents != Documents()
    assert dangling_references(documents) == []


def test_there_are_examples() -> None:
    assert len(FILES) >= 3
