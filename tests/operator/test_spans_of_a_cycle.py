"""A round that decides or writes is a trace: reading, deciding, each policy's plan, writing."""

from __future__ import annotations

import itertools

from worlds import Cluster, sample, the

from marlin.api.tracing import Span
from marlin.operator.telemetry.spans import Phases, cycle_spans

AHEAD_S = 1_700_000_000.0


def spans_of(cluster: Cluster) -> dict[str, Span]:
    """The spans of a round that took from second 10 to 14, each by its name."""
    numbers = itertools.count(1)
    actions = cluster.reconcile()
    spans = cycle_spans(
        Phases(10.0, 11.0, 13.0, 14.0), actions, AHEAD_S, lambda size: next(numbers).to_bytes(size, "big")
    )
    assert len({span.span_id for span in spans}) == len(spans)
    assert len({span.trace_id for span in spans}) <= 1
    return {span.name: span for span in spans}


def test_a_cycle_says_what_it_did_when_and_within_what() -> None:
    spans = spans_of(Cluster(sample()))
    assert {name: span.parent_id for name, span in spans.items()} == {
        "round": "",
        "read": spans["round"].span_id,
        "decide": spans["round"].span_id,
        "plan": spans["decide"].span_id,
        "write": spans["round"].span_id,
    }
    seconds = {n: (s.began_ns / 1e9 - AHEAD_S, s.ended_ns / 1e9 - AHEAD_S) for n, s in spans.items() if n != "plan"}
    assert seconds == {"round": (10, 14), "read": (10, 11), "decide": (11, 13), "write": (13, 14)}
    plan = spans["plan"]
    assert plan.ended_ns > plan.began_ns
    assert plan.attributes["marlin.policy"] == "balanced"
    assert plan.attributes["marlin.planner"] == "MeritOrder"
    assert plan.error == ""
    assert spans["round"].attributes["marlin.writes"] == 9


def test_a_plan_that_was_not_made_says_why() -> None:
    objects = sample()
    del the(objects, "InferencePool")["spec"]["backends"][0]["capacity"]
    assert spans_of(Cluster(objects))["plan"].error.startswith("PlannerError: ")


def test_a_round_that_found_everything_as_it_was_is_no_trace() -> None:
    cluster = Cluster(sample())
    cluster.reconcile()
    assert spans_of(cluster) == {}
