"""A week of each live signal outlives the operator: the rung "history" works after a restart."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import pytest
from worlds import NOON

from marlin.api.datacenter import Datacenter
from marlin.operator.core.applies import Apply
from marlin.operator.kube.client import ApiError
from marlin.operator.signals.background import SignalTask
from marlin.operator.signals.http import SignalError
from marlin.operator.signals.keeping import Histories, digest, histories_of, newest_hour, text_of
from marlin.operator.signals.ladder import site_readings
from marlin.operator.signals.reader import Reader
from marlin.operator.signals.values import Answer, Point

HOUR = timedelta(hours=1)
TOP = NOON.replace(minute=0, second=0)
SITE = Datacenter.model_validate(
    {
        "metadata": {"name": "frankfurt"},
        "spec": {
            "location": {"region": "eu", "zone": "DE-LU"},
            "signals": {
                "carbonIntensity": {
                    "provider": "Prometheus",
                    "prometheus": {"url": "https://prometheus.example", "query": "carbon"},
                    "staleAfterSeconds": 3600,
                }
            },
        },
    }
)


def week(hours: int = 168, end: datetime = TOP) -> tuple[Point, ...]:
    return tuple(Point(end - i * HOUR, 100.0 + i % 24) for i in reversed(range(hours)))


def test_a_record_gives_back_what_was_kept_gaps_included() -> None:
    gappy = tuple(point for i, point in enumerate(week()) if i % 5)
    histories = {"a": week(), "b": gappy}
    assert histories_of(text_of(histories), TOP) == histories


def test_what_is_older_than_a_week_or_of_a_clock_ahead_is_left_out() -> None:
    text = text_of({"a": week()})
    assert [p.at for p in histories_of(text, TOP + timedelta(days=6))["a"]] == [p.at for p in week()[-24:]]
    assert histories_of(text, TOP + timedelta(days=8)) == {}
    assert histories_of(text, TOP - HOUR)["a"] == week()[:-1]


@pytest.mark.parametrize(
    "text",
    ["", "[]", "no", '{"a": 3}', '{"a": {"lastHour": "x", "values": [1]}}', '{"a": {"lastHour": 1e99, "values": [1]}}'],
)
def test_what_is_damaged_is_left_out(text: str) -> None:
    assert histories_of(text, TOP) == {}


def test_many_signals_fit_into_one_config_map_at_the_cost_of_the_oldest_days() -> None:
    many = {digest(str(i)): week() for i in range(600)}
    assert len(text_of(many)) < 2**20
    kept = histories_of(text_of(many, most_bytes=400_000), TOP)
    assert kept.keys() == many.keys()
    assert all(24 <= len(points) < 168 and points[-1].at == TOP for points in kept.values())


class Provider:
    """Answers, or does not."""

    def __init__(self) -> None:
        self.answer: float | None = 321.0
        self.now = NOON

    async def fetch(self, now: datetime) -> Answer:
        if self.answer is None:
            raise SignalError("away")
        return Answer(Point(now, self.answer))


async def test_after_a_restart_a_provider_that_is_away_is_stood_in_for_by_the_week_that_was_kept() -> None:
    provider = Provider()
    first = Reader(lambda *_: provider)
    for day in range(4):
        await first.refresh([SITE], NOON - timedelta(days=4 - day))
    record = text_of(first.histories())
    provider.answer = None
    for kept, quality in ((histories_of(record, NOON), "History"), ({}, "Fallback")):
        restarted = Reader(lambda *_: provider, kept)
        await restarted.refresh([SITE], NOON)
        feeds = {field: feed for (_, field), feed in restarted.feeds([SITE]).items()}
        assert site_readings(SITE, feeds, NOON, NOON).carbon.quality.value == quality


class Hub:
    """Takes applies, or refuses them."""

    def __init__(self) -> None:
        self.applied: list[Mapping[str, Any]] = []
        self.refuses = False

    async def apply(self, apply: Apply) -> dict[str, Any]:
        if self.refuses:
            raise ApiError(403, "no right")
        self.applied.append(apply.body)
        return {}


async def test_a_week_is_written_once_an_hour_and_again_after_a_refusal() -> None:
    reader, hub = Reader(lambda *_: Provider()), Hub()
    task = SignalTask(reader, lambda: None)
    await task.keep(hub, "marlin-system")
    assert hub.applied == []
    for minutes, refuses, written in ((0, True, 0), (1, False, 1), (20, False, 1), (65, False, 2)):
        hub.refuses = refuses
        await reader.refresh([SITE], NOON + timedelta(minutes=minutes))
        await task.keep(hub, "marlin-system")
        assert len(hub.applied) == written, minutes
    body = hub.applied[-1]
    assert body["metadata"]["labels"]["marlin.dev/record"] == "signals"
    assert "ownerReferences" not in body["metadata"]
    kept: Histories = histories_of(json.loads(json.dumps(body["data"]))["signals.json"], NOON + timedelta(hours=2))
    assert newest_hour(kept) == int(TOP.timestamp()) // 3600 + 1
