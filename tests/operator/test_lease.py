from __future__ import annotations

from typing import Any

from worlds import NOON

from marlin.operator.kube.lease import LEASE_S, RENEW_S, RETRY_S, Seen, held, may_lead

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


def test_a_leader_stops_before_anybody_else_may_begin() -> None:
    # A renewal may begin RETRY_S after the last one and hang for half of RENEW_S before it is given up.
    assert RENEW_S + RETRY_S < LEASE_S
