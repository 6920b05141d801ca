from __future__ import annotations

import asyncio
import selectors
from typing import Any, cast

import pytest
from worlds import NOON

from marlin.operator.kube.client import ApiError, Client
from marlin.operator.kube.lease import LEASE_S, RENEW_S, RETRY_S, Elector, Seen, held, may_lead

KEY = ("marlin-system", "marlin-operator")


def lease_of(holder: str) -> dict[str, Any]:
    return held(None, KEY, holder, NOON)


def test_whoever_holds_it_may_renew_and_an_empty_one_may_be_taken() -> None:
    assert may_lead(lease_of("me"), "me", Seen("1", 0.0), 0.0)
    assert may_lead(lease_of(""), "me", Seen("1", 0.0), 0.0)


def test_somebody_elses_is_left_alone_until_it_was_seen_unchanged_for_its_whole_length() -> None:
    seen = Seen("1", 100.0)
    assert not may_lead(lease_of("other"), "me", seen, 100.0 + LEASE_S - 0.1)
    assert may_lead(lease_of("other"), "me", seen, 100.0 + LEASE_S)


def test_the_lease_itself_says_how_long_it_lasts() -> None:
    lease = lease_of("other")
    lease["spec"]["leaseDurationSeconds"] = 60
    assert not may_lead(lease, "me", Seen("1", 0.0), 59.0)


def test_taking_over_counts_and_renewing_does_not() -> None:
    mine = held(None, KEY, "me", NOON)
    assert mine["spec"]["leaseTransitions"] == 1
    assert held(mine, KEY, "me", NOON)["spec"]["leaseTransitions"] == 1
    theirs = held(mine, KEY, "other", NOON)
    assert theirs["spec"]["leaseTransitions"] == 2
    assert theirs["spec"]["renewTime"] == "2026-05-04T12:03:07.000000Z"


class Leases:
    """An API server for one Lease, as one client sees it: what it answers is given, the last answer for ever."""

    def __init__(self, *answers: int | None) -> None:
        self.answers = list(answers)
        """Status of each attempt: 200, an error, or None for an answer that never comes."""

    async def get(self, path: str) -> dict[str, Any]:
        return {**lease_of("me"), "metadata": {"resourceVersion": "1"}}

    async def replace(self, path: str, body: dict[str, Any]) -> None:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer is None:
            await asyncio.Event().wait()
        elif answer != 200:
            raise ApiError(answer, "no")


class Skipping(selectors.SelectSelector):
    """Waits for nothing: a loop's clock is put on by what it would have slept."""

    slept_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.slept_s += timeout or 0.0
        return super().select(0)


def led(*answers: int | None) -> tuple[float, str]:
    """How long a leader goes on whose renewals are answered so, s, and what it says of them in the end."""
    selector = Skipping()
    loop = asyncio.SelectorEventLoop(selector)
    loop.time = lambda: selector.slept_s  # type: ignore[method-assign]

    elector = Elector(cast("Client", Leases(200, *answers)), *KEY, "me", loop.time)

    async def lead() -> None:
        assert await elector.attempt()
        assert not await elector.hold(asyncio.Event())
        assert not elector.is_leader

    try:
        loop.run_until_complete(lead())
    finally:
        loop.close()
    return selector.slept_s, elector.last_problem


@pytest.mark.parametrize("answers", [(503,), (None,), (409,), (503, 503, None), (409, 409, 409, None)])
def test_a_leader_whose_renewals_fail_stops_before_anybody_else_may_begin(answers: tuple[int | None, ...]) -> None:
    assert led(*answers)[0] == pytest.approx(RENEW_S)
    assert RENEW_S + RETRY_S < LEASE_S


def test_a_renewal_counts_from_when_it_began() -> None:
    assert led(200, 200, 200, None)[0] == pytest.approx(3 * RETRY_S + RENEW_S)


def test_a_refusal_is_said_in_the_end_even_where_the_last_answer_did_not_come() -> None:
    assert led(403, 403, None)[1] == "no"
    assert led(None)[1] == "the API server did not answer in time"
