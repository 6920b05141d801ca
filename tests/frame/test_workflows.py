"""The workflow that would publish a release: read by actionlint, and in step with the scripts that it calls."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from page_commands import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yaml"))


@pytest.fixture(scope="module")
def actionlint() -> str:
    """Skips, with the line that says how to get it, where it is missing."""
    run = subprocess.run([ROOT / "scripts" / "actionlint.sh", "--find"], capture_output=True, text=True, check=False)
    if run.returncode != 0:
        pytest.skip(run.stderr.strip())
    return run.stdout.strip()


def _findings(actionlint: str, *files: Path) -> str:
    return subprocess.run([actionlint, "-no-color", *files], capture_output=True, text=True, check=False).stdout


def test_actionlint_finds_nothing(actionlint: str) -> None:
    assert WORKFLOWS
    assert _findings(actionlint, *WORKFLOWS) == ""


def test_actionlint_sees_a_slip(actionlint: str, tmp_path: Path) -> None:
    file = tmp_path / "slip.yaml"
    file.write_text(WORKFLOWS[0].read_text().replace("steps.push.outputs.digest", "steps.pushed.outputs.digest"))
    assert 'property "pushed" is not defined' in _findings(actionlint, file)


def test_no_job_may_do_more_than_it_says() -> None:
    for file in WORKFLOWS:
        workflow: dict[str, Any] = yaml.safe_load(file.read_text())
        assert workflow["permissions"] == {}
        for name, job in workflow["jobs"].items():
            assert job["permissions"]["contents"] == "read", name
