from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marlin.operator.demo.load import Outcome
from marlin.operator.demo.report import Column, make_column, percentile, rows, to_json
from marlin.operator.demo.schedule import PlannedRequest


def outcome(ttft_s: float, *, datacenter: str = "a", is_stream: bool = True, error: str | None = None) -> Outcome:
    request = PlannedRequest(0, 0.0, "eu", 10, 10, is_stream=is_stream)
    return Outcome(request, datacenter, ttft_s, 10, 10, error)


def column(planner: str, *outcomes: Outcome, sent: int | None = None, carbon_gco2: float = 100.0) -> Column:
    return make_column(
        planner,
        len(outcomes) if sent is None else sent,
        outcomes,
        (1.0, carbon_gco2, 3.0, 0.2),
        sites=("a", "b"),
        compression=4.0,
    )


def test_times_to_first_token_are_of_answered_streams_only_and_at_fleet_scale() -> None:
    result = column("p", outcome(0.1), outcome(9.0, is_stream=False), outcome(8.0, error="HTTP 503"))
    assert result.ttft_p50_s == pytest.approx(0.4)
    assert result.ttft_p95_s == pytest.approx(0.4)


def test_sent_is_answered_plus_failed_plus_lost() -> None:
    result = column("p", outcome(0.1), outcome(0.1, error="HTTP 503"), sent=5)
    assert (result.sent, result.answered, result.failed, result.lost) == (5, 1, 1, 3)
    assert result.first_error == "HTTP 503"


def test_served_counts_answers_by_site() -> None:
    assert column("p", outcome(0.1), outcome(0.1, datacenter="b"), outcome(0.1)).served == {"a": 2, "b": 1}


def test_metrics_are_shown_against_the_reference_and_say_whether_they_were_measured() -> None:
    lines = rows([column("p", outcome(0.1), carbon_gco2=80.0), column("ref", outcome(0.2))], "ref")
    carbon = next(line for line in lines if line.name.startswith("carbon"))
    assert carbon.basis == "modelled"
    assert carbon.cells == ("80 (-20%)", "100")
    ttft = next(line for line in lines if line.name.startswith("TTFT p50"))
    assert ttft.basis == "measured"
    assert ttft.cells == ("0.40 (-50%)", "0.80")


def test_a_replay_without_answers_is_shown_and_not_a_crash() -> None:
    empty = column("p", sent=0)
    assert math.isnan(empty.ttft_p50_s)
    assert rows([empty, column("ref", outcome(0.1))], "ref")
    assert json.loads(json.dumps(to_json([empty])))["columns"][0]["ttft_p50_s"] is None


@given(st.lists(st.floats(0, 100), min_size=1, max_size=50), st.floats(0.01, 1.0))
def test_a_percentile_is_a_value_that_enough_values_do_not_exceed(values: list[float], share: float) -> None:
    result = percentile(values, share)
    assert result in values
    assert sum(value <= result for value in values) >= share * len(values)
