"""Renders the chart with Helm: each profile of values under tests/chart/rendered, and bases for Kustomize.

scripts/render_chart.py           write them; needs Helm (`make helm`)
scripts/render_chart.py --check   write nothing; exit with 1 when one differs

The renderings are kept so that a change of the chart shows what it does to every profile, and so that their tests need
no Helm. Each carries the hash of what it was made from: without Helm, --check compares that, with Helm the whole text.
The kinds are left out of them; they are 170 KB and a test of their own.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
CHART: Final = ROOT / "charts" / "marlin"
RENDERED: Final = ROOT / "tests" / "chart" / "rendered"
KUSTOMIZE_BASES: Final = {
    ROOT / "manifests" / "router" / "router.yaml": "operator.enabled=false,rbac.aggregate=false,crds.enabled=false",
    ROOT / "manifests" / "operator" / "operator.yaml": "router.enabled=false,rbac.aggregate=false,crds.enabled=false",
}
"""Renderings of a component alone, and the values that leave the rest out."""
KUBERNETES: Final = "1.35.0"
_HELM_LABELS: Final = re.compile(r"^ *(helm\.sh/chart|app\.kubernetes\.io/managed-by): .*\n", re.MULTILINE)


class RenderError(Exception):
    """Helm is missing, or refuses the chart."""


def main(arguments: list[str]) -> int:
    """Writes or compares; returns the exit code."""
    helm = find_helm()
    is_check = "--check" in arguments
    if helm is None and not is_check:
        print("render_chart: Helm is needed: make helm", file=sys.stderr)
        return 1
    head = f"# Rendered from charts/marlin by scripts/render_chart.py (sources {sources_digest()}). Do not edit.\n"
    stale = []
    for path, profile in targets().items():
        old = path.read_text(encoding="utf-8") if path.exists() else ""
        if helm is None:
            is_stale = not old.startswith(head)
        else:
            text = head + _rendering(helm, path, profile)
            is_stale = old != text
            if is_stale and not is_check:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
                print(f"wrote {path.relative_to(ROOT)}")
        if is_stale:
            stale.append(str(path.relative_to(ROOT)))
    if is_check and stale:
        print(f"the chart has changed since {', '.join(stale)}: make helm && make generate-chart", file=sys.stderr)
    return int(is_check and bool(stale))


def targets() -> dict[Path, Path]:
    """Each rendering's path, and the profile of values it is made with."""
    profiles = sorted((CHART / "ci").glob("*-values.yaml"))
    rendered = {RENDERED / f"{profile.name.removesuffix('-values.yaml')}.yaml": profile for profile in profiles}
    return rendered | dict.fromkeys(KUSTOMIZE_BASES, CHART / "ci" / "default-values.yaml")


def find_helm() -> Path | None:
    """The program that `make helm` built, or the one in MARLIN_HELM; None where there is none."""
    found = subprocess.run(
        [ROOT / "scripts" / "helm.sh", "--find"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    return Path(found.stdout.strip()) if found.returncode == 0 else None


def sources_digest() -> str:
    """Hash of all that a rendering is made from, the kinds excepted."""
    digest = hashlib.sha256()
    files = [Path(__file__), CHART / "Chart.yaml", CHART / "values.yaml", CHART / "values.schema.json"]
    for folder in ("ci", "templates", "files/dashboards", "files/rules"):
        files += sorted(path for path in (CHART / folder).rglob("*") if path.is_file())
    for path in files:
        digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def template(helm: Path, profile: Path, *options: str) -> str:
    """What `helm template` prints for a release called marlin.

    Raises:
        RenderError: with what Helm says.
    """
    command = [str(helm), "template", "marlin", str(CHART), "--namespace", "marlin", "--kube-version", KUBERNETES]
    run = subprocess.run([*command, "--values", str(profile), *options], capture_output=True, text=True, check=False)
    if run.returncode != 0:
        raise RenderError(run.stderr.strip())
    return run.stdout


def _rendering(helm: Path, path: Path, profile: Path) -> str:
    if values := KUSTOMIZE_BASES.get(path):
        # For kubectl, which adds no labels of Helm's. The namespace is an overlay's to say; where an account is bound
        # to roles it has to be said here, and overlays change it there too.
        text = _HELM_LABELS.sub("", template(helm, profile, "--skip-tests", "--set", values))
        return text.replace("\n  namespace: marlin\n", "\n").replace(
            "    namespace: marlin\n", "    namespace: marlin-system\n"
        )
    documents = template(helm, profile).split("\n---\n")
    return "\n---\n".join(d for d in documents if "\nkind: CustomResourceDefinition\n" not in d)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
