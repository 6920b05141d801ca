"""What a token takes follows what a backend holds: a mean that chance does not move and a step does, and a curve."""

from __future__ import annotations

import random

import pytest
from fake_backend import FakeBackend, reply
from hypothesis import given
from hypothesis import strategies as st
from router_client import Start, table

from marlin.router.energy import WINDOW, HeldMean, factor_at

CURVE = ((1.0, 10.0, 100.0), (8.0, 2.0, 0.5))
USAGE = b'{"usage":{"prompt_tokens":1000,"total_tokens":1200,"completion_tokens":200}}'


def after(*looks: float) -> float:
    mean = HeldMean()
    for held in looks:
        mean.add(held)
    return mean.value


@given(st.floats(0.0, 1e6))
def test_a_factor_lies_on_the_curve_and_never_grows_with_the_load(held: float) -> None:
    assert 0.5 <= factor_at(*CURVE, 1.1 * held) <= factor_at(*CURVE, held) <= 8.0


@pytest.mark.parametrize(
    ("held", "factor"), [(0, 8.0), (1, 8.0), (10**0.5, 4.0), (10, 2.0), (10**1.5, 1.0), (500, 0.5)]
)
def test_between_points_the_curve_is_read_on_logarithmic_scales(held: float, factor: float) -> None:
    assert factor_at(*CURVE, held) == pytest.approx(factor)


def test_without_a_curve_the_tables_figure_holds_at_every_load() -> None:
    assert factor_at((), (), 1000.0) == 1.0


def test_chance_hardly_moves_the_mean() -> None:
    rng = random.Random(1)
    assert after(*(rng.choice((7, 8, 9, 10, 11, 12, 13)) for _ in range(4 * WINDOW))) == pytest.approx(10.0, abs=0.7)


def test_after_a_step_the_mean_is_there_at_once() -> None:
    assert after(*[10.0] * WINDOW, 40.0) == 40.0
    assert after(*[40.0] * WINDOW, 2.0) == 2.0


def test_a_single_request_is_no_step() -> None:
    assert after(*[0.0] * WINDOW, 1.0) < 0.1


async def test_a_reply_and_the_metrics_say_what_a_token_takes_at_this_load(start: Start) -> None:
    async with FakeBackend(reply(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(USAGE), USAGE))) as backend:
        document = table(backend.url)
        document["pools"][0]["backends"][0] |= {
            "joulesPerPromptToken": 1.0,
            "joulesPerOutputToken": 5.0,
            "energyByLoad": {"inFlight": [1, 10, 100], "factor": [8, 2, 0.5]},
        }
        async with start(document) as client:
            # Ten requests of another router: this backend said so.
            client.page.write_held(0, 10, 0, 0.0)
            client.plane.balancer.look_at_energy()
            async with client.post() as response:
                await response.read()
                assert response.headers["x-marlin-energy-joules"] == "4000"
            assert await client.metric("marlin_router_estimated_energy_joules_total") == 4000.0
            assert await client.metric("marlin_router_energy_factor") == 2.0
            assert (
                await client.metric('marlin_router_joules_per_token{datacenter="dc0",kind="prompt",pool="chat"}') == 1
            )
