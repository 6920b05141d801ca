"""Requests are counted and logged many at a time, and yet as they would have been at once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from marlin.api.footprint import Intensity
from marlin.router.endings import MAX_HELD
from marlin.router.plane import Plane
from marlin.router.settings import Settings
from marlin.router.upstream import Link
from marlin.router.view import Backend, Datacenter, Pool, Shares, Site, Table

USAGE = b'{"usage":{"prompt_tokens":1000,"total_tokens":1200,"completion_tokens":200}}'
REPLY = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(USAGE), USAGE)
REQUEST = b'POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 13\r\n\r\n{"model":"m"}'


class Wire(asyncio.Transport):
    """A connection whose other end is the test."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        """Nothing to close."""

    abort = pause_reading = resume_reading = close


def table_of(carbon_gco2_per_kwh: float) -> Table:
    backend = Backend(
        "chat", "b0", "dc0", "http://127.0.0.1:1", 1.0, joules_per_prompt_token=1.0, joules_per_output_token=5.0
    )
    datacenter = Datacenter("dc0", "r0", "Active", Intensity(carbon_gco2_per_kwh, 0.0, 0.0))
    pool = Pool("chat", "m", (Site(datacenter, (backend,)),), Shares((1.0,)), (1.0,), is_planned=False)
    return Table.of(1, (pool,), (datacenter,), None)


class Played:
    """A plane without sockets, and one client that asks again and again."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.plane = Plane(Settings(config=Path("x")), lambda: 100.0, lambda: 1e9, None, self.lines.append)
        self.adopt(360.0)
        peer = next(iter(self.plane.balancer.all_live())).peer
        self._link = Link(peer)
        self._link.connection_made(Wire())
        peer.keep(self._link, 100.0)
        self._client = self.plane.accept()
        self.wire = Wire()
        self._client.connection_made(self.wire)

    def adopt(self, carbon_gco2_per_kwh: float) -> None:
        self.plane.adopt(table_of(carbon_gco2_per_kwh))

    def ask(self, times: int) -> None:
        for _ in range(times):
            self._client.data_received(REQUEST)
            self._link.data_received(REPLY)

    @property
    def counted(self) -> tuple[int, int]:
        """Requests and tokens, as they stand."""
        cell = self.plane.tally.cell("chat", "dc0")
        return cell.codes.get(200, 0), cell.prompt_tokens + cell.output_tokens


@pytest.fixture
def played() -> Played:
    return Played()


def test_a_request_is_counted_when_a_report_is_asked_for(played: Played) -> None:
    played.ask(3)
    assert played.counted == (0, 0)
    played.plane.count_endings()
    assert played.counted == (3, 3600)


def test_no_more_than_so_many_wait_to_be_counted(played: Played) -> None:
    played.ask(MAX_HELD + 5)
    assert played.counted == (MAX_HELD, MAX_HELD * 1200)


def test_what_ended_before_a_new_table_is_priced_by_the_old_one(played: Played) -> None:
    played.ask(2)
    played.adopt(720.0)
    played.ask(1)
    played.plane.count_endings()
    # 2,000 joules a request: 0.2 g at 360 g/kWh, 0.4 g at 720.
    assert played.plane.tally.cell("chat", "dc0").carbon_gco2 == pytest.approx(2 * 0.2 + 0.4)


def test_what_ended_before_a_look_at_the_load_is_priced_by_what_a_token_took_until_then(played: Played) -> None:
    played.ask(1)
    (live,) = played.plane.balancer.all_live()
    played.plane.balancer.look_at_energy = lambda: setattr(live, "energy_factor", 3.0)  # type: ignore[method-assign]
    played.plane.look_at_clock()
    assert played.plane.tally.cell("chat", "dc0").energy_kwh == pytest.approx(2000 / 3.6e6)


def test_the_head_of_a_reply_tells_at_once_what_is_counted_later(played: Played) -> None:
    played.ask(1)
    assert b"\r\nx-marlin-energy-joules: 2000\r\nx-marlin-carbon-grams: 0.2\r\n" in played.wire.written
    played.plane.count_endings()
    assert played.plane.tally.cell("chat", "dc0").carbon_gco2 == pytest.approx(0.2)


def test_each_has_its_line_with_its_usage(played: Played) -> None:
    played.ask(2)
    played.plane.flush()
    lines = b"".join(played.lines).splitlines()
    assert len(lines) == 2
    assert all(b" status=200 " in line and line.endswith(b" prompt_tokens=1000 output_tokens=200") for line in lines)
