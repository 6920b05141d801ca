"""Per-request traces from files: recognised by their header, counted, streamed; a bad row is refused or counted."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marlin.api.errors import InputError
from marlin.simulator.workload import columns
from marlin.simulator.workload.bad_rows import RowJudge
from marlin.simulator.workload.burstgpt import burstgpt_requests
from marlin.simulator.workload.columns import Column, read_columns
from marlin.simulator.workload.names import trace_by_name

BURSTGPT = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
DAY_S = 86_400


def burstgpt_file(folder: Path, rows: list[str], name: str = "trace.csv") -> Path:
    path = folder / name
    path.write_text(BURSTGPT + "".join(f"{row}\n" for row in rows))
    return path


def three_days(folder: Path) -> Path:
    """A request every hour, each asking with 10 tokens more than the one before; GPT-4 every fourth."""
    return burstgpt_file(
        folder,
        [
            f"{h * 3600 + 5},{'GPT-4' if h % 4 == 0 else 'ChatGPT'},{10 * h + 10},20,{10 * h + 30},"
            f"{'API log' if h % 2 else 'Conversation log'}"
            for h in range(72)
        ],
    )


def test_burstgpt_s_own_file_is_counted_by_model_and_kind(tmp_path: Path) -> None:
    trace = trace_by_name(str(three_days(tmp_path)))
    assert trace.counts.sum() == 72
    assert dict(zip(trace.classes, trace.counts.sum(axis=0).tolist(), strict=True)) == {
        "conversation, ChatGPT": 18,
        "conversation, GPT-4": 18,
        "api, ChatGPT": 36,
        "api, GPT-4": 0,
    }
    assert trace.large_share.tolist() == [0.0, 1.0, 0.0, 1.0], "the file says which model was asked"
    assert trace.mean_tokens[0].tolist() == [pytest.approx(10 * 11.5 + 10), 20.0]


def test_a_failed_request_arrived_and_has_no_size(tmp_path: Path) -> None:
    rows = [f"{h * 3600},ChatGPT,100,{0 if h % 2 else 50},{0},Conversation log" for h in range(72)]
    trace = trace_by_name(str(burstgpt_file(tmp_path, rows)))
    assert trace.counts.sum() == 72
    assert trace.mean_tokens[1].tolist() == [100.0, 50.0]


def test_azure_s_file_is_read_by_its_dates_from_the_first_midnight_on(tmp_path: Path) -> None:
    path = tmp_path / "azure.csv"
    rows = [f"2023-11-{16 + h // 24} {h % 24:02}:15:46.6805900,{100 + h},{10}\n" for h in range(18, 66)]
    path.write_text(AZURE + "".join(rows))
    trace = trace_by_name(str(path))
    assert trace.days >= 2
    assert trace.counts[: 18 * 4].sum() == 0
    assert trace.counts[18 * 4 + 1, 0] == 1
    assert trace.counts.sum() == 48


def test_a_compressed_file_is_the_same_trace(tmp_path: Path) -> None:
    plain = three_days(tmp_path)
    packed = tmp_path / "trace.csv.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    one, other = trace_by_name(str(plain)), trace_by_name(str(packed))
    assert np.array_equal(one.counts, other.counts)
    assert np.array_equal(one.mean_tokens, other.mean_tokens)


def test_a_trace_shorter_than_a_day_is_repeated_and_says_so(tmp_path: Path) -> None:
    rows = [f"{60 * m},ChatGPT,100,50,150,Conversation log" for m in range(120)]
    trace = trace_by_name(str(burstgpt_file(tmp_path, rows)))
    assert trace.days == 1
    assert trace.name.endswith("(shorter than a day, repeated)")
    assert trace.counts.sum() == pytest.approx(60 * 48)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("100,ChatGPT,many,20,30,Conversation log", "Request tokens is not a number"),
        ("100,ChatGPT,10,-1,30,Conversation log", "Response tokens is not between 0"),
        ("100,ChatGPT,1.5,20,30,Conversation log", "Request tokens is not a whole number"),
        ("100,Claude,10,20,30,Conversation log", "Model is none of ChatGPT, GPT-4"),
        ("1,ChatGPT,10,20,30,Conversation log", "Timestamp goes back"),
        ("100,ChatGPT,10,20", "fields"),
        ("nan,ChatGPT,10,20,30,Conversation log", "Timestamp"),
    ],
)
def test_a_bad_row_is_refused_with_file_line_and_reason_or_left_out_and_counted(
    tmp_path: Path, row: str, reason: str
) -> None:
    good = [f"{50 * (i + 1)},ChatGPT,10,20,30,Conversation log" for i in range(2)]
    late = [f"{DAY_S * 2 + i},ChatGPT,10,20,30,Conversation log" for i in range(3)]
    path = burstgpt_file(tmp_path, [*good, row, *late])
    with pytest.raises(InputError) as refused:
        trace_by_name(str(path))
    assert str(refused.value).startswith(f"{path}:4: ")
    assert reason in str(refused.value)
    trace = trace_by_name(str(path), skip_bad_rows=True)
    assert trace.counts.sum() == 5
    assert trace.bad_rows.total == 1
    assert f"{path}:4: " in trace.bad_rows.describe()


def test_a_row_ten_years_after_the_first_does_not_make_the_trace_ten_years_long(tmp_path: Path) -> None:
    path = burstgpt_file(tmp_path, ["0,ChatGPT,1,1,2,API log", f"{20 * 365 * DAY_S},ChatGPT,1,1,2,API log"])
    with pytest.raises(InputError, match=r"trace\.csv"):
        trace_by_name(str(path))


def test_a_file_of_another_kind_is_told_what_a_trace_has(tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match=r"other\.csv:1: is not a trace that is known; its columns must be Timestamp"):
        trace_by_name(str(path))


def test_a_name_that_is_nearly_right_is_answered_with_the_right_one() -> None:
    with pytest.raises(InputError, match="did you mean burstgpt"):
        trace_by_name("burst-gpt")


@given(st.integers(30, 400))
def test_however_the_file_is_cut_into_blocks_its_rows_are_the_same(
    tmp_path_factory: pytest.TempPathFactory, block_bytes: int
) -> None:
    path = three_days(tmp_path_factory.mktemp("blocks"))
    wanted = (Column("Timestamp", never_falls=True), Column("Request tokens", is_whole=True))

    def read(size: int) -> np.ndarray:
        judge = RowJudge(str(path), skip=False)
        return np.concatenate(
            [np.stack(block) for block in read_columns(path, wanted, judge, block_bytes=size)], axis=1
        )

    assert np.array_equal(read(block_bytes), read(10**6))


def test_without_polars_a_file_is_read_slower_and_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = three_days(tmp_path)
    fast = trace_by_name(str(path))
    monkeypatch.setattr(columns, "_polars", lambda: None)
    assert np.array_equal(trace_by_name(str(path)).counts, fast.counts)


def test_a_batch_of_requests_is_as_long_as_a_block_whatever_the_length_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    with path.open("w") as file:
        file.write(BURSTGPT)
        for i in range(400_000):
            file.write(f"{i},ChatGPT,10,20,30,Conversation log\n")
    sizes = [len(batch.time_s) for batch in burstgpt_requests(path).batches(RowJudge(str(path), skip=False))]
    assert sum(sizes) == 400_000
    assert len(sizes) > 1
    assert max(sizes) < 250_000
