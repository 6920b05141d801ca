"""Every command of tutorials and how-tos is run somewhere, or it is said here why not."""

from __future__ import annotations

import re
import tomllib

import pytest
from page_commands import ROOT, commands_of, pages

ROOMS = {
    "how-to/add-a-datacenter": "tests/e2e/test_across_clusters.py",
    "how-to/answer-an-alert": "tests/e2e/test_across_clusters.py",
    "how-to/bring-your-own": "tests/frame/test_docs_run.py",
    "how-to/check-a-configuration": "tests/e2e/test_across_clusters.py",
    "how-to/install-crds": "tests/e2e/test_across_clusters.py",
    "how-to/rotate-credentials": "tests/e2e/test_across_clusters.py",
    "how-to/shadow-then-enforce": "tests/e2e/test_across_clusters.py",
    "how-to/train-a-policy": "tests/frame/test_docs_run.py",
    "how-to/write-a-planner": "tests/frame/test_docs_run.py",
    "tutorials/on-kind": "tests/e2e/test_quickstart_on_kind.py",
}
"""Pages whose commands (or code) are read out of the page and run as they stand, and by which test."""

NOT_AS_THEY_STAND = {
    "how-to/build-the-images": "need docker and a registry; the tests of the images run what is built from",
    "how-to/develop": "are what runs the tests",
    "how-to/evaluate": "take hours; tests/policy/test_evaluation.py runs smaller ones",
    "how-to/learn-on-in-service": "need an image with torch; tests/controlplane/test_learning_on.py does the same",
    "how-to/report-an-interval": "need a Prometheus of a month; tests/operator/test_report.py asks a small one",
    "how-to/run-the-router-alone": "take fixed ports; tests/router/test_process.py starts the same on free ones",
    "how-to/simulate-a-study": "take files that the reader writes; tests/policy/test_simulate_command.py",
    "tutorials/first-routed-request": "take minutes and fixed ports; tests/operator/test_demo_end_to_end.py",
}
"""Pages whose commands nothing runs word for word, why, and what comes nearest."""


def test_every_page_with_commands_is_accounted_for() -> None:
    assert {page for page in pages() if commands_of(page)} <= ROOMS.keys() | NOT_AS_THEY_STAND.keys()
    assert not ROOMS.keys() & NOT_AS_THEY_STAND.keys()
    assert ROOMS.keys() | NOT_AS_THEY_STAND.keys() <= set(pages())


@pytest.mark.parametrize("page", ROOMS)
def test_the_test_that_runs_a_page_names_it(page: str) -> None:
    assert f'"{page.rpartition("/")[2]}' in (text := (ROOT / ROOMS[page]).read_text()) or page in text


@pytest.mark.parametrize("page", NOT_AS_THEY_STAND)
def test_the_test_that_comes_nearest_is_there(page: str) -> None:
    files = [word.strip(";,") for word in NOT_AS_THEY_STAND[page].split() if word.startswith("tests/")]
    assert [file for file in files if not (ROOT / file).exists()] == []


def test_the_tutorial_on_kind_names_the_images_that_are_built() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for file in ("docs/tutorials/on-kind.md", "manifests/emulated/vllm.yaml"):
        named = re.findall(r"marlin/(?:operator|router):(\S+)", (ROOT / file).read_text())
        assert set(named) == {version}, file


def test_a_command_is_read_whole_with_its_continued_lines_and_without_its_comment() -> None:
    assert (
        "helm install marlin charts/marlin --namespace marlin --create-namespace --set crds.enabled=false,"
        in " ".join(commands_of("how-to/add-a-datacenter"))
    )
    assert "make check" in commands_of("how-to/develop")
