"""The tutorial on Kubernetes, word for word: from no cluster to a routed request, and how long that takes.

Run by ``make e2e-kind``. The images are there already, and the cluster gets the node image of the environment; all
else is what the page says.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from clusters import ROOT, Kind, MissingError, Stopwatch, run
from page_commands import commands_of

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.environ.get("MARLIN_E2E_CLUSTERS") != "kind", reason="it makes a cluster with kind"),
]


def test_from_no_cluster_to_a_routed_request_in_ten_minutes(tmp_path: Path) -> None:
    try:
        Kind.from_environment(tmp_path)
    except MissingError as error:
        pytest.exit(str(error), returncode=2)
    build, create, *others, delete = commands_of("tutorials/on-kind")
    assert (build, create[:19], delete[:19]) == ("make images", "kind create cluster", "kind delete cluster")
    if image := os.environ.get("MARLIN_KIND_NODE_IMAGE"):
        create += f" --image {image}"
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "helm").symlink_to(run(ROOT / "scripts" / "helm.sh", "--find").strip())
    path = f"{programs}:{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}"
    environment = os.environ | {"KUBECONFIG": str(tmp_path / "kubeconfig"), "PATH": path}
    behind: list[subprocess.Popen[bytes]] = []
    watch, answered_s, said = Stopwatch(), 0.0, ""
    try:
        for command in (create, *others):
            if command.endswith("&"):
                background = ["bash", "-c", f"exec {command[:-1]}"]
                behind.append(subprocess.Popen(background, cwd=ROOT, env=environment))
                continue
            patiently = command.replace("curl", "curl --retry 20 --retry-connrefused --retry-delay 1")
            done = subprocess.run(
                ["bash", "-o", "pipefail", "-c", patiently],
                capture_output=True,
                text=True,
                check=False,
                timeout=300,
                cwd=ROOT,
                env=environment,
            )
            assert done.returncode == 0, f"{command}: {done.stderr[-1000:]}"
            if command.startswith("curl"):
                answered_s, said = watch.seconds(), done.stdout
    finally:
        for one in behind:
            one.terminate()
            one.wait()
        subprocess.run(["bash", "-c", delete], env=environment, capture_output=True, check=False)
    headers = dict(re.findall(r"^(x-marlin-[a-z-]+): (\S+)", said.lower(), re.MULTILINE))
    print(
        f"quickstart: {len(others) + 2} commands; from no cluster to a reply of {headers.get('x-marlin-datacenter')} "
        f"{answered_s:.0f} s",
        flush=True,
    )
    assert said.startswith("HTTP/1.1 200")
    assert headers["x-marlin-datacenter"] in {"north", "south"}
    assert answered_s < 600
