"""Results files: whole or not at all, and the same figures in every format."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from marlin.api.errors import InputError, MarlinError
from marlin.policy.simulating import baseline
from marlin.simulator.experiment import Epoch, Study, run
from marlin.simulator.fleet import Builder
from marlin.simulator.results import TABLES, ResultsWriter
from marlin.simulator.scenario import scenario_documents

METADATA = {"marlin.seed": "0"}


@pytest.fixture(scope="module")
def epochs() -> list[Epoch]:
    planner = baseline()
    return list(run(Study(Builder(scenario_documents("demo-3"))), lambda state: planner.decide(state).plan))


def write(out: Path, epochs: list[Epoch], *, detail: bool = False) -> None:
    with ResultsWriter(out, METADATA, detail=detail) as writer:
        for epoch in epochs:
            writer.add(epoch)


def test_parquet_and_csv_hold_the_same(tmp_path: Path, epochs: list[Epoch]) -> None:
    write(tmp_path / "run.parquet", epochs, detail=True)
    write(tmp_path / "run.csv", epochs, detail=True)
    for table in TABLES:
        middle = "" if table.name == "sites" else f".{table.name}"
        frame = pl.read_parquet(tmp_path / f"run{middle}.parquet")
        rows = list(csv.reader((tmp_path / f"run{middle}.csv").read_text().splitlines()))
        assert rows[0] == frame.columns == [column.name for column in table.columns]
        assert len(rows) - 1 == frame.height > 0
        for name, column in zip(rows[0], zip(*rows[1:], strict=True), strict=True):
            if frame[name].dtype == pl.Float64:
                assert [float(cell) for cell in column] == pytest.approx(frame[name].to_list(), rel=1e-8)


def test_tables_agree_with_each_other_and_with_the_epochs(tmp_path: Path, epochs: list[Epoch]) -> None:
    write(tmp_path / "run.parquet", epochs, detail=True)
    sites, by_epoch, pools, routes = (
        pl.read_parquet(tmp_path / name)
        for name in ("run.parquet", "run.epochs.parquet", "run.pools.parquet", "run.routes.parquet")
    )
    served = sum(float(epoch.outcome.served.sum()) for epoch in epochs)
    for frame in (sites, by_epoch, pools, routes):
        assert frame["served"].sum() == pytest.approx(served)
    assert sites["energy_kwh"].sum() == pytest.approx(by_epoch["energy_kwh"].sum())
    shares = routes.group_by("epoch", "pool").agg(pl.col("share_planned").sum())
    assert shares["share_planned"].to_list() == pytest.approx([1.0] * shares.height)
    planned = sites.group_by("epoch").agg(pl.col("share_planned").sum())["share_planned"].to_list()
    assert max(planned) <= 1 + 1e-9


def test_parquet_says_what_made_it_and_what_its_columns_mean(tmp_path: Path, epochs: list[Epoch]) -> None:
    write(tmp_path / "run.parquet", epochs[:2])
    metadata = pl.read_parquet_metadata(tmp_path / "run.parquet")
    assert metadata["marlin.seed"] == "0"
    assert metadata["column.water_l"].endswith(", L.")


def test_a_run_longer_than_one_part_is_whole_and_in_order(tmp_path: Path, epochs: list[Epoch]) -> None:
    write(tmp_path / "run.parquet", epochs * 40)
    frame = pl.read_parquet(tmp_path / "run.parquet")
    assert frame["epoch"].to_list() == [n for n in range(len(epochs) * 40) for _ in range(3)]


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_an_experiment_that_fails_leaves_what_was_there_before(
    tmp_path: Path, epochs: list[Epoch], suffix: str
) -> None:
    out = tmp_path / f"run{suffix}"
    out.write_text("of yesterday")

    def fails_after_an_epoch() -> None:
        with ResultsWriter(out, METADATA) as writer:
            writer.add(epochs[0])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails_after_an_epoch()
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    assert out.read_text() == "of yesterday"


def test_a_path_that_cannot_be_written_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(MarlinError, match=r"missing/run.csv: cannot be written: No such file"):
        ResultsWriter(tmp_path / "missing" / "run.csv", METADATA)
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(MarlinError, match="it is a folder"):
        ResultsWriter(tmp_path / "folder.csv", METADATA)
    with pytest.raises(InputError, match=r"results end in \.parquet or \.csv"):
        ResultsWriter(tmp_path / "run.txt", METADATA)


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_a_disk_that_fills_up_is_one_line_and_leaves_no_half_file(tmp_path: Path, suffix: str) -> None:
    """A limit on the size of files stands for the disk: the write fails in the system, as it would there."""
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))\n"
        "from marlin.api.cli import main; main(['simulate', '--scenario', 'demo-3', '--no-compare', '--quiet',"
        f" '--out', {str(tmp_path / ('run' + suffix))!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert f"run{suffix}: cannot be written: " in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
