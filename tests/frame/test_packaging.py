"""The wheel, and what installing it brings: built and installed for real, in environments of their own."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
UV = str(Path(sys.executable).parent / "uv")

pytestmark = [pytest.mark.packaging, pytest.mark.timeout(300), pytest.mark.xdist_group("packaging")]


def call(*command: str, cwd: Path = ROOT) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    call(UV, "build", "--wheel", "--quiet", "--out-dir", str(folder))
    return next(folder.glob("marlin-*.whl"))


def installed(folder: Path, wheel: Path, extra: str) -> Path:
    """The bin folder of a fresh environment that holds the wheel with one extra."""
    call(UV, "venv", "--quiet", "--python", sys.executable, str(folder))
    requirement = f"marlin[{extra}] @ {wheel.as_uri()}"
    constraints = str(ROOT / "constraints.txt")
    call(UV, "pip", "install", "--quiet", "-p", str(folder / "bin/python"), "-c", constraints, requirement)
    return folder / "bin"


def test_the_wheel_holds_every_component_with_its_data_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for component in ("api", "simulator", "policy", "operator", "router"):
        assert f"marlin/{component}/__init__.py" in names
    for data in (
        "simulator/data/serving_profiles.csv",
        "simulator/data/README.md",
        "operator/demo/fleet.yaml",
        "policy/default_artifact/weights.safetensors",
    ):
        assert f"marlin/{data}" in names
    top = {name.split("/")[0] for name in names}
    assert top == {"marlin", next(name for name in top if name.endswith(".dist-info"))}
    assert "marlin/__init__.py" not in names
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_router_alone_brings_neither_torch_nor_numpy_nor_kopf(wheel: Path, tmp_path: Path) -> None:
    environment = installed(tmp_path / "venv", wheel, "router")
    packages = call(UV, "pip", "list", "--quiet", "-p", str(environment / "python"))
    assert "aiohttp" in packages
    for heavy in ("torch", "numpy", "kopf", "scipy", "numba", "polars"):
        assert f"\n{heavy} " not in packages
    assert "Examples:" in call(str(environment / "marlin"), "router", "--help", cwd=tmp_path)
    refused = subprocess.run(
        [str(environment / "marlin"), "plan", "--scenario", "demo-3"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 1
    assert "marlin plan needs numpy: pip install 'marlin[demo]'" in refused.stderr


def test_demo_and_simulate_run_from_the_wheel_outside_the_repository(wheel: Path, tmp_path: Path) -> None:
    environment = installed(tmp_path / "venv", wheel, "demo")
    simulate = (str(environment / "marlin"), "simulate", "--scenario", "demo-3", "--quiet")
    assert "wrote run.csv" in call(*simulate, "--out", "run.csv", cwd=tmp_path)
    for option, needs in (("--out=run.parquet", "polars"), ("--plot=figures", "matplotlib"), ("--form=numba", "numba")):
        refused = subprocess.run((*simulate, option), cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
        assert f"needs {needs}: pip install 'marlin[sim]'" in refused.stderr.replace("need ", "needs ")
    shown = call(str(environment / "marlin"), "demo", "--epochs", "2", "--epoch-seconds", "1.5", cwd=tmp_path)
    assert "carbon, gCO2" in shown
    packages = call(UV, "pip", "list", "--quiet", "-p", str(environment / "python"))
    for heavy in ("torch", "numba", "scipy", "kopf", "polars", "pandas", "matplotlib"):
        assert f"\n{heavy} " not in packages
