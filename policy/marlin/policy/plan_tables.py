"""A decision as tables for a terminal: the plan, what the twin expects of it, and the planner's account of why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from marlin.api.metrics import METRIC_NAMES
from marlin.api.plan import PoolPlan, RoutingPlan
from marlin.api.values import SHARE_SCALE
from marlin.policy.agents.account import account_of
from marlin.policy.agents.record import key_of
from marlin.policy.planner import Decision

_METRICS = ("time to first token, s", "carbon, gCO2", "water, L", "cost, USD")


def plan_of(decision: Decision) -> Iterator[RenderableType]:
    """Each pool's sites, and what the twin expects of the plan."""
    plan = decision.plan
    yield f"epoch {plan.epoch}, {plan.valid_from:%Y-%m-%d %H:%M} to {plan.valid_until:%H:%M} UTC"
    for pool in plan.pools:
        yield _sites(plan, pool)
        if pool.by_origin:
            yield _origins(plan, pool)
    title = "expected by the twin, if what is forecast comes"
    yield _expected(title, decision.estimate.as_tuple(), decision.baseline_estimate.as_tuple())
    if "late" in decision.record:
        yield _over_demands(decision.record)


def why(decision: Decision) -> Iterator[RenderableType]:
    """The account of whoever planned: agents, a sort, or the best of some candidates."""
    record = decision.record
    if "proposals" in record:
        yield from account_of(record)
    elif "candidates" in record:
        yield _candidates(record["candidates"])
    elif "pools" in record:
        yield from (_sorted(pool) for pool in record["pools"])
    else:
        yield f"{decision.plan.planner.option} looks at no signal, so that there is no more to say"


def _table(title: str, *headings: str) -> Table:
    """Words to the left, numbers to the right; the first column holds words."""
    table = Table(title=title, title_justify="left")
    for n, heading in enumerate(headings):
        table.add_column(heading, justify="right" if n else "left")
    return table


def _sites(plan: RoutingPlan, pool: PoolPlan) -> Table:
    awake = ("awake",) if pool.replicas else ()
    table = _table(f"{pool.name}: {pool.dispatch.value}", "datacenter", "share", "order", "up to", *awake)
    for d, name in enumerate(plan.datacenters):
        place = str(pool.order.index(d) + 1) if d in pool.order else ""
        cap = _percent(pool.cap[d], digits=0) if pool.cap and d in pool.order else ""
        kept = (str(pool.replicas[d]),) if pool.replicas else ()
        table.add_row(name, _percent(pool.weights[d]), place, cap, *kept)
    return table


def _origins(plan: RoutingPlan, pool: PoolPlan) -> Table:
    """Where each origin's requests go, the largest part first."""
    table = Table(title=f"{pool.name}: requests from ...", title_justify="left")
    table.add_column("origin")
    table.add_column("go to")
    for origin, row in zip(plan.origins, pool.by_origin, strict=True):
        parts = sorted(zip(row, plan.datacenters, strict=True), key=lambda part: -part[0])
        table.add_row(origin, ", ".join(f"{name} {_percent(weight)}" for weight, name in parts if weight))
    return table


def _expected(title: str, plan: Sequence[float], proportional: Sequence[float]) -> Table:
    """The four metrics under a plan and under capacity-proportional routing."""
    table = _table(title, "", "this plan", "capacity-proportional", "difference")
    for name, value, base in zip(_METRICS, plan, proportional, strict=True):
        table.add_row(name, f"{value:,.3f}", f"{base:,.3f}", _change(value, base))
    return table


def _over_demands(record: Mapping[str, Any]) -> Table:
    """The same over all demands that may come instead, by which agents and guard choose: surges count there."""
    expected, late, guard = record["expected"], record["late"], record["guard"]
    ours = "plan" if guard is None else key_of(guard)
    plan, proportional = ([expected[key][name] for name in METRIC_NAMES] for key in (ours, "capacity_proportional"))
    table = _expected("over all that may come instead", plan, proportional)
    table.add_row("late", f"{late['share']:.2%}", f"{late['capacity_proportional_share']:.2%}", "")
    worth = expected["value" if guard is None else f"{ours}_value"]
    base = expected["capacity_proportional_value"]
    table.add_row("weighed, less is better", f"{worth:.4f}", f"{base:.4f}", _change(worth, base))
    return table


def _sorted(pool: Mapping[str, Any]) -> Table:
    """What more requests cost at each site, in the order in which sites are filled."""
    title = f"{pool['name']}: what a thousand more requests cost, and the score that sorts sites"
    table = _table(title, "datacenter", "score", "mean TTFT, s", "gCO2", "mL", "milli-USD")
    scales = (1.0, 1e3, 1e6, 1e6)  # of a request, in s, gCO2, L and USD
    for site in pool["order"]:
        costs = (f"{site[name] * scale:.4g}" for name, scale in zip(METRIC_NAMES, scales, strict=True))
        table.add_row(site["datacenter"], f"{site['score']:.4f}", *costs)
    return table


def _candidates(candidates: list[Mapping[str, Any]]) -> Table:
    table = _table("plans that were tried; less is better", "plan", "expected")
    for candidate in candidates:
        table.add_row(candidate["name"], f"{candidate['expected']:.4f}")
    return table


def _change(value: float, base: float) -> str:
    return f"{(value - base) / base:+.1%}" if base else ""


def _percent(weight: int, digits: int = 1) -> str:
    return f"{100 * weight / SHARE_SCALE:.{digits}f} %"
