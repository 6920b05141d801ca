"""Full data by path: read as documented, and a bad row refused with file, line and reason."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from marlin.api.errors import InputError
from marlin.simulator.hourly_signals import hourly_signals
from marlin.simulator.signals import zone_signals
from marlin.simulator.workload.burstgpt import aggregates_from
from marlin.simulator.workload.epochs import epoch_requests

GRID = "utc,zone,ci_lca_g_per_kwh,ci_direct_g_per_kwh,price_usd_per_mwh\n"


def folder(tmp_path: Path, *, grid: str = "", hourly: str | None = None) -> Path:
    """A folder of full data with two days of arrivals and the given grid rows."""
    (tmp_path / "grid").mkdir()
    (tmp_path / "burstgpt").mkdir()
    with gzip.open(tmp_path / "grid" / "zones_hourly_2023.csv.gz", "wt") as file:
        file.write(GRID + grid)
    rows = "".join(f"{h // 24},{h % 24},{h},{2 * h},{3 * h}\n" for h in range(48))
    text = "day,hour,conversation,api,all\n" + (rows if hourly is None else hourly)
    (tmp_path / "burstgpt" / "burstgpt1_hourly_counts.csv").write_text(text)
    daily = "day,requests,total_tokens,mean_tokens_per_request\n0,1,1,800\n1,1,1,900\n"
    (tmp_path / "burstgpt" / "burstgpt1_daily.csv").write_text(daily)
    return tmp_path


def test_signals_are_those_of_the_very_hour_with_the_tariff_s_floor_and_adder(tmp_path: Path) -> None:
    data = folder(tmp_path, grid="2023-03-01T05:00Z,DE-LU,500,400,100\n2023-03-01T06:00Z,DE-LU,300,200,-50\n")
    source = hourly_signals(data)
    five = source("DE-LU", datetime(2026, 3, 1, 5, 40, tzinfo=UTC))
    assert (five.carbon_gco2_per_kwh, five.carbon_lifecycle_gco2_per_kwh) == (400.0, 500.0)
    assert five.price_usd_per_kwh == pytest.approx(0.14, abs=0.002), "a percent of its prices is winsorised"
    assert five.water_l_per_kwh == zone_signals("DE-LU", datetime(2026, 3, 1, tzinfo=UTC)).water_l_per_kwh
    assert source("DE-LU", datetime(2023, 3, 1, 6, tzinfo=UTC)).price_usd_per_kwh == pytest.approx(0.04)
    with pytest.raises(InputError, match="nothing for zone DE-LU at 03-02 06:00"):
        source("DE-LU", datetime(2023, 3, 2, 6, tzinfo=UTC))


def test_every_day_of_the_trace_is_there_from_midnight_utc_on(tmp_path: Path) -> None:
    trace = aggregates_from(folder(tmp_path))
    assert trace.days == 1, "48 local hours at UTC+8 hold one whole UTC day"
    requests = epoch_requests(trace, 0, 3600, np.random.default_rng(0))
    assert requests[:, 0].tolist() == list(range(8, 32))
    first_16_h, last_8_h = requests[:16].sum(), requests[16:].sum()
    mean = (800 * first_16_h + 900 * last_8_h) / (first_16_h + last_8_h)
    assert trace.day_sizes(0).sum() == pytest.approx(mean), "a day UTC has requests of two local days"


@pytest.mark.parametrize(
    ("hourly", "message"),
    [
        ("0,0,1,2,3\n0,1,many,2,3\n", r"hourly_counts.csv:3: conversation is not a number \(it says 'many'\)"),
        ("0,0\n", r"hourly_counts.csv:2: the line has not 5 fields"),
    ],
)
def test_a_bad_row_is_refused_with_file_line_and_reason(tmp_path: Path, hourly: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        aggregates_from(folder(tmp_path, hourly=hourly))


def test_a_bad_grid_row_is_refused_with_file_line_and_reason(tmp_path: Path) -> None:
    data = folder(tmp_path, grid="2023-03-01T05:00Z,DE-LU,500,400,100\nyesterday,DE-LU,1,1,1\n")
    with pytest.raises(InputError, match=r"zones_hourly_2023.csv.gz:3: utc is not a date and time"):
        hourly_signals(data)


def test_a_folder_without_the_files_is_told_what_it_should_be(tmp_path: Path) -> None:
    for read in (aggregates_from, hourly_signals):
        with pytest.raises(InputError, match="--data names a folder of full data"):
            read(tmp_path)
