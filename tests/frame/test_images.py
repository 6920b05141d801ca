"""The images' Dockerfiles: two stages on a base that is given, nothing as root, no network, and no torch."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("router", "operator")


def _instructions(name: str) -> list[str]:
    text = (ROOT / name / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize("name", NAMES)
def test_an_image_is_its_base_and_one_folder_and_does_not_run_as_root(name: str) -> None:
    lines = _instructions(name)
    assert lines[0].startswith("ARG BASE=")
    last_stage = lines[max(i for i, line in enumerate(lines) if line.startswith("FROM ")) :]
    assert last_stage[0] == "FROM ${BASE}"
    assert [line for line in last_stage if line.startswith(("COPY", "ADD", "RUN"))] == [
        "COPY --from=build /opt/marlin /opt/marlin"
    ]
    (user,) = [line.split()[1] for line in last_stage if line.startswith("USER")]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    assert 'ENTRYPOINT ["marlin"]' in last_stage


@pytest.mark.parametrize("name", NAMES)
def test_a_base_without_a_shell_will_do(name: str) -> None:
    (run,) = [line for line in _instructions(name) if line.startswith("RUN")]
    assert run == f'RUN ["python3", "/build/install_in_image.py", "{name}", "/build/wheels"]'


def _with_what_it_needs(extra: str) -> set[str]:
    """Names of the distributions that ``marlin[extra]`` brings, as far as they are installed here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    open_ = [Requirement(text) for text in [*project["dependencies"], *project["optional-dependencies"][extra]]]
    seen: set[str] = set()
    while open_:
        one = open_.pop()
        if one.name == "marlin":
            open_ += [Requirement(text) for inner in one.extras for text in project["optional-dependencies"][inner]]
            continue
        if one.name in seen or (one.marker is not None and not one.marker.evaluate({"extra": ""})):
            continue
        seen.add(one.name)
        open_ += [Requirement(text) for text in importlib.metadata.requires(one.name) or ()]
    return seen


@pytest.mark.parametrize(("name", "absent"), [("router", {"torch", "numpy", "kopf"}), ("operator", {"torch", "numba"})])
def test_nothing_heavy_comes_into_an_image(name: str, absent: set[str]) -> None:
    there = _with_what_it_needs(name)
    assert {"click", "pydantic", "aiohttp"} <= there
    assert not there & absent


@pytest.mark.skipif(shutil.which("docker") is None, reason="docker: not there")
@pytest.mark.parametrize(("name", "limit_mb"), [("router", 80), ("operator", 300)])
def test_an_image_that_was_built_is_as_small_as_it_should_be(name: str, limit_mb: int) -> None:
    """Looks at what `make images` left; builds nothing."""

    def size(image: str) -> int | None:
        said = subprocess.run(
            ["docker", "image", "inspect", "--format", "{{.Size}}", image], capture_output=True, text=True, check=False
        )
        return int(said.stdout) if said.returncode == 0 else None

    built, base = size(f"marlin/{name}:{importlib.metadata.version('marlin')}"), size("marlin/base:bookworm")
    if built is None or base is None:
        pytest.skip("not built: scripts/base_image.sh && BASE=marlin/base:bookworm make images")
    assert built - base < limit_mb * 1_000_000
