"""The repository itself: nothing hides the standard library, and imports go one way."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMPONENTS = ("api", "simulator", "policy", "operator", "router")


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def test_repository_root_leaves_stdlib_operator_alone() -> None:
    code = "import operator, collections; assert hasattr(operator, 'itemgetter')"
    subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, check=True)


def test_no_package_stands_where_it_would_hide_other_modules() -> None:
    forbidden = [
        *(ROOT / component / "__init__.py" for component in COMPONENTS),
        *(ROOT / component / "marlin" / "__init__.py" for component in COMPONENTS),
        ROOT / "__init__.py",
        *(ROOT / "tests").rglob("__init__.py"),
    ]
    assert [path for path in forbidden if path.exists()] == []


def test_a_spawned_process_starts_from_the_root() -> None:
    code = (
        "import multiprocessing as m\n"
        "if __name__ == '__main__':\n"
        "    c = m.get_context('spawn'); p = c.Process(target=print, args=('spawned',)); p.start(); p.join()\n"
        "    raise SystemExit(p.exitcode)"
    )
    script = ROOT / ".cache" / "spawn_test.py"
    script.parent.mkdir(exist_ok=True)
    script.write_text(code)
    try:
        done = subprocess.run(
            [sys.executable, str(script)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
        )
    finally:
        script.unlink()
    assert "spawned" in done.stdout


@pytest.mark.parametrize("component", COMPONENTS)
def test_every_component_imports_and_says_what_is_in_it(component: str) -> None:
    code = f"import marlin.{component} as m; assert len(m.__doc__) > 100; print(m.__file__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert f"/{component}/marlin/{component}/__init__.py" in done.stdout


def test_imports_go_the_documented_way() -> None:
    linter = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([str(linter)], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout
    assert "7 kept, 0 broken" in done.stdout


def test_the_linter_catches_an_import_in_the_wrong_direction(tmp_path: Path) -> None:
    """Break it once: the same contracts over a copy in which the contract imports the twin."""
    for component in COMPONENTS:
        subprocess.run(["cp", "-r", str(ROOT / component), str(tmp_path / component)], check=True)
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    wrong = tmp_path / "api" / "marlin" / "api" / "errors.py"
    wrong.write_text(wrong.read_text() + "\nimport marlin.simulator.profiles\n")
    path = ":".join(str(tmp_path / component) for component in COMPONENTS)
    code = (
        "import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in repr(f).lower()]\n"
        f"sys.path[:0] = {path.split(':')!r}\n"
        "from importlinter.cli import lint_imports_command; lint_imports_command()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode != 0
    assert "marlin.api.errors -> marlin.simulator.profiles" in done.stdout


def test_pins_name_no_index_and_pin_exactly() -> None:
    text = (ROOT / "constraints.txt").read_text()
    assert not re.search(r"https?://|--(extra-)?index-url|--find-links|@ file", text)
    pins = [line for line in text.splitlines() if line and not line.startswith((" ", "#"))]
    assert len(pins) > 80
    assert [line for line in pins if "==" not in line] == []
    assert "uv pip compile" in text.splitlines()[1]


def test_no_file_names_a_place_on_somebody_s_machine() -> None:
    # Written in pieces, so that this file does not find itself.
    places = re.compile("|".join(["/" + "work/", "/" + "root/", "/" + "home/[a-z]"]))
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()[:80]}"
        for path in tracked()
        if path.suffix not in {".png", ".whl", ".gz"}
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines()
        if places.search(line)
    ]
    assert found == []
