"""Where the clusters of end-to-end tests come from: what is missing or misspelt is said in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from clusters import Existing, MissingError, provider


def test_a_provider_that_there_is_not_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MARLIN_E2E_CLUSTERS", "knid")
    with pytest.raises(MissingError, match="MARLIN_E2E_CLUSTERS='knid' should be kind or existing"):
        provider(tmp_path)


@pytest.mark.parametrize("text", ["", "hub", "hub=/a,north", "=/a"])
def test_kubeconfigs_are_pairs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str) -> None:
    monkeypatch.setenv("MARLIN_E2E_CLUSTERS", "existing")
    monkeypatch.setenv("MARLIN_E2E_KUBECONFIGS", text)
    with pytest.raises(MissingError, match="should be hub=FILE,north=FILE,south=FILE"):
        provider(tmp_path)


def test_a_cluster_whose_name_is_misspelt_is_missed_by_name() -> None:
    there = Existing({"hub": Path("/a"), "nroth": Path("/b")})
    with pytest.raises(MissingError, match="has no north"):
        there.start(("hub", "north"), ())


def test_without_docker_one_line_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MARLIN_E2E_CLUSTERS", "kind")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingError, match="docker is not in PATH"):
        provider(tmp_path)
