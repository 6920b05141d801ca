"""Python in the how-to pages is run as it stands."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from marlin.api.datacenter import Datacenter
from marlin.api.policy import MarlinPolicy

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("page", ["docs/how-to/write-a-planner.md"])
def test_the_code_of_a_page_runs_from_top_to_bottom(page: str) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)
    assert blocks
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks)], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "carbon_gco2=" in done.stdout


@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", ["bring-your-own", "train-a-policy"])
def test_the_commands_of_a_page_run_as_they_stand(page: str, tmp_path: Path) -> None:
    text = (ROOT / "docs" / "how-to" / f"{page}.md").read_text()
    commands = re.findall(r"^\$ marlin (.*)$", text, flags=re.MULTILINE)
    assert commands
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    for command in commands:
        run = [sys.executable, "-m", "marlin.api.cli", *shlex.split(command)]
        done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 0, f"{command}: {done.stderr}"


@pytest.mark.parametrize("page", ["add-a-datacenter"])
def test_the_documents_of_a_page_are_valid(page: str, tmp_path: Path) -> None:
    text = (ROOT / "docs" / "how-to" / f"{page}.md").read_text()
    documents = [block for block in re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL) if "apiVersion:" in block]
    assert documents
    file = tmp_path / "documents.yaml"
    file.write_text("---\n".join(documents))
    run = [sys.executable, "-m", "marlin.api.cli", "validate", str(file)]
    done = subprocess.run(run, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


PAGES_WITH_PATCHES = ["add-a-datacenter", "shadow-then-enforce"]


@pytest.mark.parametrize("page", PAGES_WITH_PATCHES)
def test_every_patch_of_a_page_sets_fields_that_there_are(page: str) -> None:
    """Each is merged into an object of the samples, which then has to be valid."""
    text = (ROOT / "docs" / "how-to" / f"{page}.md").read_text()
    patches = re.findall(r"kubectl patch (mdc|mpol) \S+ --type merge -p '(.*?)'", text)
    assert patches
    samples = list(yaml.safe_load_all((ROOT / "manifests" / "samples" / "three-regions.yaml").read_text()))
    for short, patch in patches:
        model = {"mdc": Datacenter, "mpol": MarlinPolicy}[short]
        sample = next(one for one in samples if one["kind"] == model.__name__)
        model.model_validate(sample | {"spec": sample["spec"] | json.loads(patch)["spec"]})


def test_every_link_of_the_readme_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.md").read_text())
    missing = [link for link in links if not link.startswith("http") and not (ROOT / link).exists()]
    assert links
    assert missing == []


def test_the_site_builds_strictly(tmp_path: Path) -> None:
    mkdocs = Path(sys.executable).parent / "mkdocs"
    done = subprocess.run(
        [str(mkdocs), "build", "--strict", "--quiet", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env={"NO_MKDOCS_2_WARNING": "1", "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "reference" / "crds.html").exists()
