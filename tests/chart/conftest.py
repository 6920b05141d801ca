"""The programs that chart tests use where they are there: built by `make helm`, `make kube-score` and
`make dashboard-check`, fetched by `make promtool`."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from chart_values import ROOT


def _found(script: str, *what: str) -> Path:
    run = subprocess.run(
        [ROOT / "scripts" / script, *what, "--find"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    if run.returncode != 0:
        pytest.skip(run.stderr.strip())
    return Path(run.stdout.strip())


@pytest.fixture(scope="session")
def helm() -> Path:
    """Helm; tests that need it are skipped, with the line that says how to get it, where it is missing."""
    return _found("helm.sh")


@pytest.fixture(scope="session")
def kube_score() -> Path:
    """The linter of Kubernetes objects; skips like ``helm``."""
    return _found("kube_score.sh")


@pytest.fixture(scope="session")
def dashboard_check() -> Path:
    """Grafana's own types, reading dashboards; skips like ``helm``."""
    return _found("dashboard_check.sh")


@pytest.fixture(scope="session")
def promtool() -> Path:
    """Prometheus' checker; skips like ``helm``."""
    return _found("debian_tool.sh", "promtool")


@pytest.fixture(scope="session")
def kubectl() -> Path:
    """kubectl, for what Kustomize makes of the bases; skips where it is missing."""
    found = shutil.which("kubectl")
    if found is None:
        pytest.skip("kubectl: not there; https://kubernetes.io/docs/tasks/tools")
    return Path(found)
