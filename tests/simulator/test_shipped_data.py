"""The shipped tables are what the project's own script made of their sources, and nobody edited them since."""

from __future__ import annotations

import hashlib
import os
from importlib.resources import files
from pathlib import Path

import pytest

from marlin.simulator.derive.__main__ import main

DATA = Path(str(files("marlin.simulator"))) / "data"
SOURCES = os.environ.get("MARLIN_DATA")


def test_every_table_has_the_checksum_it_was_made_with() -> None:
    lines = [line.split("  ") for line in (DATA / "SHA256SUMS").read_text().splitlines()]
    manifest = {name: digest for digest, name in lines}
    tables = {path.name for path in DATA.glob("*.csv")}
    assert set(manifest) == tables
    for name, digest in manifest.items():
        assert hashlib.sha256((DATA / name).read_bytes()).hexdigest() == digest, name


def test_every_table_is_described_with_its_licence() -> None:
    readme = (DATA / "README.md").read_text()
    assert [path.name for path in DATA.glob("*.csv") if path.name not in readme] == []
    for word in ("ODbL", "CC BY 4.0", "MIT"):
        assert word in readme


def test_the_tables_together_stay_small() -> None:
    assert sum(path.stat().st_size for path in DATA.iterdir()) < 1_000_000


if SOURCES is not None:

    def test_the_script_makes_the_same_tables_from_the_sources(capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["--data", str(SOURCES), "--out", str(DATA), "--check"]) == 0, capsys.readouterr().out


def test_missing_sources_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", str(tmp_path), "--out", str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err
