from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from marlin.api.plan import Dispatch, PlannerKind, PoolPlan, RoutingPlan, Scheme, largest_remainder
from marlin.api.policy import MarlinPolicyStatus
from marlin.api.table import RoutingTable

START = datetime(2026, 1, 1, tzinfo=UTC)
positive = st.floats(min_value=0, max_value=1e9, allow_nan=False)
rows = st.lists(positive, min_size=1, max_size=64).filter(lambda row: sum(row) > 1e-6)


def plan(**changes: Any) -> RoutingPlan:
    fields: dict[str, Any] = {
        "epoch": 3,
        "decided_time": START,
        "valid_from": START,
        "valid_until": START + timedelta(minutes=15),
        "planner": PlannerKind.MERIT_ORDER,
        "datacenters": ("a", "b"),
        "pools": (PoolPlan(name="chat", dispatch=Dispatch.SHARES, weights=(7000, 3000)),),
    }
    return RoutingPlan.model_validate(fields | changes)


@given(rows)
def test_rounded_shares_add_up_exactly_stay_within_one_and_keep_zeros(row: list[float]) -> None:
    rounded = largest_remainder(row)
    assert sum(rounded) == 10_000
    for share, weight in zip(row, rounded, strict=True):
        assert abs(weight - share / sum(row) * 10_000) < 1 + 1e-6
        assert weight == 0 or share > 0


@given(rows, st.sampled_from([0.5, 3.0, 1024.0]))
def test_only_ratios_matter_up_to_a_tie(row: list[float], factor: float) -> None:
    one, other = largest_remainder(row), largest_remainder([share * factor for share in row])
    assert all(abs(a - b) <= 1 for a, b in zip(one, other, strict=True))


def test_ties_go_to_the_earlier_entry() -> None:
    assert largest_remainder([1, 1, 1]) == (3334, 3333, 3333)


@pytest.mark.parametrize("row", [[], [0.0, 0.0], [-1.0, 2.0], [float("nan")], [float("inf"), 1.0]])
def test_what_is_no_row_of_shares_is_refused(row: list[float]) -> None:
    with pytest.raises(ValueError, match="shar"):
        largest_remainder(row)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": (7000, 2999)}, "adds up to 9999"),
        ({"weights": (7000, 3000), "by_origin": ((10_000,),)}, r"byOrigin\[0\] has 1 entries"),
        ({"weights": (7000, 3000), "by_origin": ((5000, 4000),)}, r"byOrigin\[0\] adds up to 9000"),
        ({"weights": (7000, 3000), "cap": (1,)}, "cap has 1 entries"),
        ({"weights": (7000, 3000), "replicas": (1, 2, 3)}, "replicas has 3 entries"),
        ({"weights": (7000, 3000), "order": (0, 0)}, "at most once"),
        ({"weights": (7000, 3000), "order": (2,)}, "at most once"),
        ({"weights": (7000, 3000), "dispatch": Dispatch.ORDERED}, "needs order and cap"),
        ({"weights": (12_000, -2000)}, "weights"),
    ],
)
def test_a_row_that_cannot_be_carried_out_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PoolPlan.model_validate({"name": "chat", "dispatch": Dispatch.SHARES} | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"datacenters": ("a", "a")}, "must be different"),
        ({"datacenters": ("a", "b", "c")}, "2 weights for 3 datacenters"),
        ({"valid_until": START}, "validFrom must precede validUntil"),
        ({"valid_from": START.replace(tzinfo=None), "valid_until": START.replace(tzinfo=None, day=2)}, "time zone"),
        ({"hash": "0" * 64}, "hash does not match"),
        ({"epoch": -1}, "epoch"),
    ],
)
def test_a_plan_that_contradicts_itself_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        plan(**changes)


def test_a_sealed_plan_survives_json_and_a_changed_one_does_not() -> None:
    sealed = plan().sealed()
    assert RoutingPlan.model_validate_json(sealed.model_dump_json(by_alias=True)) == sealed
    document = sealed.to_document()
    document["pools"][0]["weights"] = [3000, 7000]
    with pytest.raises(ValidationError, match="was changed after it was decided"):
        RoutingPlan.model_validate(document)


def test_equal_plans_have_equal_hashes_whenever_they_were_read() -> None:
    assert plan().content_hash() == RoutingPlan.model_validate(plan().to_document()).content_hash()
    assert plan().content_hash() != plan(epoch=4).content_hash()


def test_names_on_the_command_line_are_the_documented_ones() -> None:
    assert [kind.option for kind in PlannerKind] == [
        "marlin",
        "oracle",
        "merit-order",
        "capacity-proportional",
        "nearest",
        "least-loaded",
        "round-robin",
        "best-static",
    ]
    assert [scheme.option for scheme in Scheme] == [
        "balanced",
        "min-ttft",
        "min-carbon",
        "min-water",
        "min-cost",
        "custom",
    ]


def largest_plan() -> RoutingPlan:
    """64 pools, 64 datacenters, 16 origins, every optional field in use, the longest names."""
    sites = tuple(f"{'d' * 60}{i:03d}" for i in range(64))
    row = (157,) * 16 + (156,) * 48
    pool = {
        "dispatch": Dispatch.ORDERED,
        "weights": row,
        "order": tuple(range(64)),
        "cap": (9500,) * 64,
        "replicas": (99_999,) * 64,
        "by_origin": (row,) * 16,
    }
    return plan(
        datacenters=sites,
        origins=tuple(f"{'o' * 60}{i:03d}" for i in range(16)),
        pools=tuple(PoolPlan.model_validate(pool | {"name": f"{'p' * 250}{i:03d}"}) for i in range(64)),
        explanation="e" * 512,
    ).sealed()


def test_the_largest_plan_fits_into_a_status_twice_with_room_to_spare() -> None:
    largest = largest_plan()
    one = len(largest.model_dump_json(by_alias=True))
    status = MarlinPolicyStatus.model_validate({"plan": largest, "shadow": {"plan": largest}})
    assert one < 450_000
    assert len(status.model_dump_json(by_alias=True, exclude_none=True)) < 1024 * 1024


def test_the_largest_table_of_one_backend_per_pool_and_site_is_counted() -> None:
    """64 pools x 64 sites are 4,096 backends: more than one ConfigMap can hold, 16 pools x 64 sites are not."""
    largest = largest_plan()

    def size(pools: int) -> int:
        table = RoutingTable.model_validate(
            {
                "datacenters": [{"name": name, "region": "eu-central"} for name in largest.datacenters],
                "pools": [
                    {
                        "name": pool.name,
                        "modelName": f"model-{i}",
                        "backends": [
                            {
                                "name": f"backend-{d}",
                                "datacenter": name,
                                "url": f"https://marlin.site-{d:03d}.example.com",
                                "capacityRps": 12.345,
                            }
                            for d, name in enumerate(largest.datacenters)
                        ],
                    }
                    for i, pool in enumerate(largest.pools[:pools])
                ],
                "plan": largest,
            }
        )
        return len(table.to_config_map("t", "n")["data"]["routing-table.json"])

    assert size(16) < 1024 * 1024 < size(64)
