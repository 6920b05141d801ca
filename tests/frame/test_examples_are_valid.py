from __future__ import annotations

from pathlib import Path

import pytest

from marlin.api.documents import Documents, load_documents
from marlin.api.policy import Mode
from marlin.api.references import dangling_references
from marlin.api.signals import CarbonProvider, PriceProvider, WaterProvider

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


def _samples(folder: str) -> dict[str, Documents]:
    files = (ROOT / "manifests" / "samples" / folder).glob("*.yaml")
    return {file.stem: load_documents(file.read_text(encoding="utf-8"), file.name) for file in files}


def _spelt(name: str) -> str:
    """A value of the API as a file's name: letters of any case, without dashes."""
    return name.replace("-", "").lower()


def test_each_provider_of_a_signal_has_a_sample_that_uses_it() -> None:
    wanted = {_spelt(one) for kind in (CarbonProvider, WaterProvider, PriceProvider) for one in kind}
    samples = {_spelt(name): documents for name, documents in _samples("signals").items()}
    assert samples.keys() == wanted
    for name, documents in samples.items():
        (site,) = documents.datacenters
        signals = site.spec.signals
        used = (signals.carbon_intensity, signals.water_intensity, signals.energy_price)
        assert name in {_spelt(one.provider) for one in used if one is not None}


def test_each_mode_of_a_policy_has_a_sample_that_is_in_it() -> None:
    samples = _samples("modes")
    assert {_spelt(name): documents.policies[0].spec.mode for name, documents in samples.items()} == {
        _spelt(mode): mode for mode in Mode
    }
