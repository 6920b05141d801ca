from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marlin.api.footprint import Intensity
from marlin.router.balancer import BACK_OFF_S, MAX_SLOWDOWN, Balancer
from marlin.router.view import Backend, Datacenter, Pool, Shares, Site


class Clock:
    """Time that a test sets."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def backend(name: str, **changes: Any) -> Backend:
    fields: dict[str, Any] = {
        "pool": "chat",
        "name": name,
        "datacenter": name,
        "url": f"http://{name}.example",
        "capacity_rps": 2.0,
    }
    return Backend(**(fields | changes))


def pool(*backends: Backend) -> Pool:
    share = 1.0 / len(backends)
    return Pool(
        name="chat",
        model_name="m",
        sites=tuple(Site(Datacenter(b.datacenter, "eu", "Active", Intensity(1.0, 1.0, 1.0)), (b,)) for b in backends),
        rule=Shares((share,) * len(backends)),
        shares=(share,) * len(backends),
        is_planned=False,
    )


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def balancer(clock: Clock) -> Balancer:
    return Balancer(clock=clock, random=Random(1))


@given(st.lists(st.sampled_from(["ok", "error", "cancel"]), max_size=30))
def test_requests_in_flight_return_to_zero_however_they_end(ends: list[str]) -> None:
    balancer, one = Balancer(clock=Clock()), backend("a")
    for end in ends:
        try:
            with balancer.lease(one) as lease:
                assert balancer.counters(one).in_flight == 1
                lease.is_sample = end == "ok"
                if end == "error":
                    raise RuntimeError  # noqa: TRY301 the body of the lease is what fails
                if end == "cancel":
                    raise KeyboardInterrupt  # noqa: TRY301
        except (RuntimeError, KeyboardInterrupt):
            pass
    assert balancer.counters(one).in_flight == 0
    assert sum(balancer.in_flight().values()) == 0


def serve(balancer: Balancer, clock: Clock, one: Backend, duration_s: float) -> None:
    with balancer.lease(one) as lease:
        clock.now_s += duration_s
        lease.is_sample = True


def test_concurrency_is_what_the_table_states(balancer: Balancer, clock: Clock) -> None:
    stated = backend("a", concurrency_at_capacity=21.5, max_concurrent_requests=99)
    serve(balancer, clock, stated, 1000.0)
    assert balancer.concurrency(stated) == 21.5
    assert balancer.concurrency(backend("b", max_concurrent_requests=7)) == 7.0


def test_without_a_statement_it_is_capacity_times_service_time(balancer: Balancer, clock: Clock) -> None:
    one = backend("a")
    serve(balancer, clock, one, 3.0)
    assert balancer.concurrency(one) == pytest.approx(6.0)


def test_a_backend_that_only_gets_slower_does_not_grow_without_end(balancer: Balancer, clock: Clock) -> None:
    one = backend("a")
    serve(balancer, clock, one, 3.0)
    for _ in range(200):
        serve(balancer, clock, one, 300.0)
    assert balancer.concurrency(one) == pytest.approx(6.0 * MAX_SLOWDOWN)


def test_a_backend_that_refused_is_left_alone_for_a_while(balancer: Balancer, clock: Clock) -> None:
    a, b = backend("a"), backend("b")
    both = pool(a, b)
    balancer.back_off(a)
    assert {balancer.choose(both).name for _ in range(5)} == {"b"}  # type: ignore[union-attr]
    clock.now_s += BACK_OFF_S
    assert {balancer.choose(both).name for _ in range(5)} == {"a", "b"}  # type: ignore[union-attr]


def test_a_probe_takes_a_backend_out_and_brings_it_back(balancer: Balancer) -> None:
    only = pool(backend("a"))
    balancer.report_probe(only.sites[0].backends[0], is_well=False)
    assert balancer.choose(only) is None
    balancer.report_probe(only.sites[0].backends[0], is_well=True)
    assert balancer.choose(only) is not None


def test_what_was_tried_for_a_request_is_not_tried_again(balancer: Balancer) -> None:
    both = pool(backend("a"), backend("b"))
    first = balancer.choose(both)
    assert first is not None
    second = balancer.choose(both, [first.key])
    assert second is not None
    assert second != first
    assert balancer.choose(both, [first.key, second.key]) is None


def test_a_forwarded_request_never_goes_to_a_member_router(balancer: Balancer) -> None:
    both = pool(backend("a", is_member_router=True), backend("b"))
    assert {balancer.choose(both, is_forwarded=True).name for _ in range(5)} == {"b"}  # type: ignore[union-attr]
