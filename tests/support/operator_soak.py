"""``make soak-operator``: a day of faults for the operator, with a clock that is passed in.

Every simulated minute something may break, and a round is done where one can be: signals fail or come late, the API
server is away, writes are refused, an operator is killed between two writes and another one begins without memory,
sites are drained, routers go down, the clock jumps, people edit specs. What is checked after every round, and for every
epoch of the day:

- the plan in every routing table is whole: valid, with the hash of its content, of the table's sites and pools;
- a round that was finished leaves the epoch planned and published, or a condition that says why not;
- an epoch that no round could plan is one in which the API server or the operator was away;
- the memory of rounds holds no more at the end than in the first hour, and the process is at most 10 MB larger than
  after its first four hours.

It drives ``reconcile``, ``Reader`` and what ``Writer`` remembers, against objects in this process: a whole API server
takes the same faults in ``tests/controlplane``, one by one.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import resource
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from worlds import Cluster, Raw, sample, the

from marlin.api.datacenter import Datacenter
from marlin.api.policy import MarlinPolicyStatus
from marlin.operator.core.fleet import Forecast
from marlin.operator.core.memory import Memory
from marlin.operator.core.reconcile import reconcile
from marlin.operator.epochs import epoch_at, epoch_to_plan
from marlin.operator.members.sighting import Finding, Sighting
from marlin.operator.signals.http import RateLimitedError, SignalError
from marlin.operator.signals.reader import Reader
from marlin.operator.signals.values import Answer, Point

EPOCH_S = 900.0
POLICY = ("default", "balanced")
POOL = ("default", "llama-2-70b")
SITES = ("frankfurt", "oregon", "singapore")
START = datetime(2026, 5, 4, 0, 0, 30, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
WARM_HOURS = 4
MOST_GROWTH_MB = 10.0
"""After the first hours, in which every kind of plan is made for the first time."""


@dataclass(slots=True)
class Soak:
    """One run."""

    dice: random.Random
    cluster: Cluster = field(init=False)
    memory: Memory = field(default_factory=Memory)
    faults: Counter[str] = field(default_factory=Counter)
    planned: set[int] = field(default_factory=set)
    """Epochs whose plan was published before they were over."""
    excused: set[int] = field(default_factory=set)
    """Epochs of which a condition said that they are not planned, or not carried out."""
    away: set[int] = field(default_factory=set)
    """Epochs in which a round could not be done, or not to its end."""
    sizes: list[int] = field(default_factory=list)
    """What the memory held after each round."""
    resident_mb: list[float] = field(default_factory=list)
    """What the process held at the end of each hour."""
    _reader: Reader = field(init=False)
    _until: dict[str, datetime] = field(default_factory=dict)
    """Fault to when it ends."""

    def __post_init__(self) -> None:
        self.cluster = Cluster(_objects(), START)
        self._reader = Reader(lambda *_: self)

    async def fetch(self, now: datetime) -> Answer:
        """As a provider: what it answers now."""
        if self._has("provider away"):
            raise SignalError("away")
        if self._has("rate limit"):
            raise RateLimitedError("asked too often", 120.0)
        late = timedelta(hours=3) if self._has("old values") else timedelta(0)
        return Answer(Point(now - late, 100.0 + 20.0 * self.dice.random()))

    async def run(self, hours: float) -> None:
        """Goes through the hours, minute by minute.

        Raises:
            AssertionError: something is not as promised; the message says when.
        """
        end = START + timedelta(hours=hours)
        while self.cluster.now < end:
            self._disturb()
            if self._has("API server away"):
                self.away.add(epoch_to_plan(self.cluster.now, EPOCH_S).number)
            else:
                await self._round()
            self.cluster.now += MINUTE
            if self.cluster.now - START >= (len(self.resident_mb) + 1) * 60 * MINUTE:
                self.resident_mb.append(resident_mb())
        first, last = epoch_at(START, EPOCH_S).number, epoch_at(end, EPOCH_S).number
        missed = set(range(first, last)) - self.planned - self.excused - self.away
        assert not missed, f"epochs {sorted(missed)} were missed and nothing said so"
        hour = 60
        if len(self.sizes) > 2 * hour:
            assert max(self.sizes[-hour:]) <= max(self.sizes[:hour]), "the memory of rounds grows"
        if len(self.resident_mb) > WARM_HOURS:
            grown_mb = self.resident_mb[-1] - self.resident_mb[WARM_HOURS - 1]
            assert grown_mb <= MOST_GROWTH_MB, f"the process grew by {grown_mb:.1f} MB"

    async def _round(self) -> None:
        cluster, now = self.cluster, self.cluster.now
        sites = [Datacenter.model_validate({k: o[k] for k in ("metadata", "spec")}) for o in _sites(cluster)]
        await self._reader.refresh(sites, now)
        cluster.known["feeds"] = self._reader.feeds(sites)
        actions = reconcile(cluster.world(), self.memory)
        refused, stops = self._has("tables refused"), len(actions.applies)
        if self._happens("killed between two writes", 0.02):
            stops = self.dice.randrange(len(actions.applies) + 1)
        problems = {}
        for apply in actions.applies[:stops]:
            if refused and apply.body["kind"] == "ConfigMap":
                problems[POLICY] = "no right"
            elif not (POLICY in problems and apply.policy == POLICY):
                cluster.write(apply)
        cluster.known["write_problems"] = problems
        if stops < len(actions.applies):
            self.memory, self._reader = Memory(), Reader(lambda *_: self)
            cluster.known["write_problems"] = {}
            self.away.add(epoch_to_plan(now, EPOCH_S).number)
        elif problems:
            self._look_for_a_refusal()
        else:
            self._check()
        self._check_tables()
        self.sizes.append(self.memory.size)

    def _check(self) -> None:
        """What a finished round promises."""
        cluster, now = self.cluster, self.cluster.now
        status = MarlinPolicyStatus.model_validate(cluster.status("MarlinPolicy"))
        conditions = {condition.type: condition for condition in status.conditions}
        epoch = epoch_to_plan(now, EPOCH_S).number
        said = [conditions[name] for name in ("Accepted", "Planned", "Applied") if conditions[name].status != "True"]
        if said:
            assert all(condition.reason for condition in said)
            self.excused.add(epoch)
            return
        assert status.plan is not None, now
        assert status.plan.epoch == epoch, f"{now}: the plan is that of epoch {status.plan.epoch}, not {epoch}"
        tables = cluster.tables.values()
        assert {table.plan and table.plan.hash for table in tables} == {status.plan.hash}, now
        self.planned.add(epoch)

    def _look_for_a_refusal(self) -> None:
        """Tables that are refused for a whole epoch are what a condition says from the second round on."""
        status = MarlinPolicyStatus.model_validate(self.cluster.status("MarlinPolicy"))
        applied = next(condition for condition in status.conditions if condition.type == "Applied")
        if (applied.status, applied.reason) == ("False", "PartiallyApplied"):
            self.excused.add(epoch_to_plan(self.cluster.now, EPOCH_S).number)

    def _check_tables(self) -> None:
        for name, table in self.cluster.tables.items():
            type(table).model_validate_json(table.model_dump_json(by_alias=True))
            if (plan := table.plan) is not None:
                assert plan.hash == plan.content_hash(), name
                assert plan.valid_from < plan.valid_until, name
                assert {row.name for row in plan.pools} == {row.name for row in table.pools}, name

    def _disturb(self) -> None:
        cluster, dice, now = self.cluster, self.dice, self.cluster.now
        for fault, chance, most in (
            ("provider away", 0.01, 300),
            ("rate limit", 0.01, 60),
            ("old values", 0.005, 240),
            ("API server away", 0.005, 5),
            ("tables refused", 0.005, 20),
        ):
            if not self._has(fault) and self._happens(fault, chance):
                self._until[fault] = now + dice.randint(1, most) * MINUTE
        edits: tuple[tuple[str, float, Callable[[], None]], ...] = (
            ("drained", 0.01, lambda: cluster.change("Datacenter", dice.choice(SITES), serviceState="Drained")),
            ("active again", 0.03, lambda: cluster.change("Datacenter", dice.choice(SITES), serviceState="Active")),
            ("planner changed", 0.01, self._other_planner),
            ("mode changed", 0.004, lambda: cluster.change("MarlinPolicy", mode=dice.choice(["DryRun", "Paused"]))),
            ("enforced again", 0.05, lambda: cluster.change("MarlinPolicy", mode="Enforce")),
            ("routers", 0.02, self._other_sightings),
            ("load", 0.1, self._other_load),
            ("table deleted", 0.005, cluster.tables.clear),
            ("clock jumped", 0.003, self._jump),
        )
        for name, chance, edit in edits:
            if self._happens(name, chance):
                edit()

    def _other_planner(self) -> None:
        kind = self.dice.choice(["MeritOrder", "RoundRobin", "CapacityProportional", "LeastLoaded"])
        rule = self.dice.choice(["KeepLastPlan", "CapacityProportional", "ExcludeDatacenter"])
        change = {"maxWeightChangePercent": self.dice.choice([5, 25, 100]), "staleSignalPolicy": rule}
        self.cluster.change("MarlinPolicy", planner={"kind": kind}, guardrails=change)

    def _other_sightings(self) -> None:
        down = Finding(False, "Timeout", "no answer")
        self.cluster.known["sightings"] = {
            site: Sighting(router=down, is_router_down=True) for site in SITES if self.dice.random() < 0.4
        }

    def _other_load(self) -> None:
        requests = 20_000.0 * self.dice.random()
        self.cluster.known["forecasts"] = {POOL: Forecast(requests, 1.3 * requests, 500.0, 150.0)}

    def _jump(self) -> None:
        """The clock is put forward; what it leaps over nobody could plan."""
        before = self.cluster.now
        self.cluster.now += self.dice.randint(2, 40) * MINUTE
        epochs = range(epoch_at(before, EPOCH_S).number, epoch_at(self.cluster.now, EPOCH_S).number + 1)
        self.away.update(epochs)

    def _has(self, fault: str) -> bool:
        return self.cluster.now < self._until.get(fault, START)

    def _happens(self, fault: str, chance: float) -> bool:
        if self.dice.random() >= chance:
            return False
        self.faults[fault] += 1
        return True


def resident_mb() -> float:
    """Memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def _objects() -> list[Raw]:
    objects = sample()
    the(objects, "MarlinPolicy")["spec"]["mode"] = "Enforce"
    for site in (o for o in objects if o["kind"] == "Datacenter"):
        site["spec"].setdefault("signals", {})["carbonIntensity"] = {
            "provider": "Prometheus",
            "prometheus": {"url": f"https://prometheus.{site['metadata']['name']}.example", "query": "carbon"},
            "refreshPeriodSeconds": 300,
            "staleAfterSeconds": 3600,
        }
    return objects


def _sites(cluster: Cluster) -> list[Raw]:
    return [o for o in cluster.objects if o["kind"] == "Datacenter"]


def main(arguments: list[str]) -> int:
    """Runs; says what happened."""
    parser = argparse.ArgumentParser(description="A day of faults for the operator, on a simulated clock.")
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    logging.disable(logging.WARNING)  # what fails is meant to
    soak = Soak(random.Random(options.seed))
    asyncio.run(soak.run(options.hours))
    print(f"{options.hours:g} h: {len(soak.sizes)} rounds; epochs: {len(soak.planned)} planned, ", end="")
    print(f"{len(soak.excused - soak.planned)} with a condition, {len(soak.away - soak.planned)} while away")
    hours = soak.resident_mb
    if hours:
        warm = hours[min(WARM_HOURS, len(hours)) - 1]
        print(f"resident: {warm:.1f} MB after {min(WARM_HOURS, len(hours))} h, {hours[-1]:.1f} MB at the end")
    print(", ".join(f"{name} {count}" for name, count in sorted(soak.faults.items())))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
