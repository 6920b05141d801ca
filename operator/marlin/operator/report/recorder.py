"""An interval out of a recorder's file: the epochs as they were planned and as requests came, lived in the twin.

A recorder writes the fleet's state, the plan and the requests of each epoch (``marlin simulate --history``), not what
machines drew. So the twin carries the recorded plans out on the recorded requests, and capacity-proportional plans on
the same requests beside them: with the same machines, and the same ability to power them down. The twin knows energy by
site; what its pools have of it is in proportion to what the twin says that each one's replicas draw there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

import numpy as np

from marlin.api.errors import InputError
from marlin.api.history import RecordedEpoch
from marlin.api.plan import Dispatch, PlannerKind, RoutingPlan
from marlin.api.state import FleetState
from marlin.operator.report.method import FIGURES, Counterfactual, Key, Usage, saved_percent
from marlin.operator.report.seen import Seen
from marlin.policy.history import read as read_history
from marlin.policy.planners import make_planner
from marlin.simulator.experiment import Epoch
from marlin.simulator.fluid import plans_of, site_outcomes
from marlin.simulator.physics import FloatArray
from marlin.simulator.recorded import replay
from marlin.simulator.twin_state import TwinState, arrays_from

METHOD: Final = (
    "Energy, carbon, water, cost and times are the digital twin's, which carries the recorded plans out on the "
    "requests that were recorded, with the recorded signals; cooling, idle machines and what sleeps are counted.",
    "The counterfactual is the twin under plans in proportion to capacity, on the same requests and machines, with the "
    "same ability to power them down.",
    "A site's energy is divided among its pools in proportion to what the twin says that their replicas draw.",
    "SCI (ISO/IEC 21031): operational carbon and the stated embodied carbon, per 1,000 tokens.",
    "Uncertainty: no meter was read. The twin's energy per token is within 22 % of what was published of models that "
    "it was not fitted on, and publications differ by 1.4 to 1.7 x (docs/explanation/validation-measurements.md). "
    "Times of a pool at a site leave out the wait for a site; the total's mean holds it, and its percentiles are means "
    "of the epochs' own. Errors that both sides share cancel in what was saved.",
)
UNKNOWN: Final = (
    "Tenants: a recorder does not know whose requests they were.",
    "Tokens: requests times the pool's mean lengths.",
    "Failures: only requests that the twin cannot serve in time are counted; what really failed is not recorded.",
)


def read(file: Path, start: datetime, end: datetime) -> Seen:
    """The epochs of a recorder's file that begin in [``start``, ``end``).

    Raises:
        InputError: the file cannot be read, holds none of this interval, or one without its plan.
    """
    history = [one for one in read_history(file) if start <= one.state.start_time < end]
    if not history:
        raise InputError(f"{file}: holds no epoch that begins in this interval")
    plans: dict[int, RoutingPlan] = {}
    for one in history:
        if one.plan is None:
            raise InputError(
                f"{file}: epoch {one.state.epoch} has no plan, so nobody knows where its requests went; record again"
            )
        plans[one.state.epoch] = one.plan
    routed = _lived(history, lambda state: plans[state.epoch])
    by_capacity = make_planner(PlannerKind.CAPACITY_PROPORTIONAL, dispatch=Dispatch.SHARES)
    other = _lived(history, lambda state: by_capacity.decide(state).plan)
    mine, theirs = routed.footprint(), other.footprint()
    return Seen(
        sites={key: Usage(**sums) for key, sums in routed.usages().items()},
        method=METHOD,
        unknown=UNKNOWN,
        unreached=Usage(requests=routed.unserved, failed=routed.unserved),
        all_ttft=routed.times(),
        other=Counterfactual(**theirs, covered=1.0, ttft_mean_s=other.times().get("ttft_mean_s")),
        saved_percent=saved_percent(mine, theirs),
    )


@dataclass(slots=True)
class _Sums:
    """What epochs add up to."""

    sites: dict[Key, dict[str, float]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(float)))
    epochs: int = 0
    unserved: float = 0.0
    counted: float = 0.0
    times_s: FloatArray = field(default_factory=lambda: np.zeros(4))  # (4,) mean, p50, p95, p99, times requests

    def add(self, twin: TwinState, epoch: Epoch) -> None:
        """Counts an epoch of the twin."""
        outcome = epoch.outcome
        parts = _parts(twin, epoch)  # (V, D)
        tokens = outcome.served * (twin.prompt_tokens + twin.output_tokens)[:, None]  # (V, D)
        site = np.array([getattr(outcome, name) for name in FIGURES])  # (4, D)
        for v, pool in enumerate(twin.pool_names):
            for d, datacenter in enumerate(twin.datacenter_names):
                served = float(outcome.served[v, d])
                if not served and not parts[v, d]:
                    continue
                sums = self.sites[pool, datacenter]
                sums["requests"] += served
                sums["tokens"] += float(tokens[v, d])
                sums["ttft_sum_s"] += served * float(outcome.ttft_s[v, d]) if served else 0.0
                for name, value in zip(FIGURES, site[:, d], strict=True):
                    sums[name] += float(value * parts[v, d])
        if not epoch.is_run_out:
            self.epochs += 1
            held = (twin.replicas * twin.in_flight_knots[..., -1]).sum(axis=2) * twin.allowed  # (V, D) at full load
            for v, pool in enumerate(twin.pool_names):
                for d, datacenter in enumerate(twin.datacenter_names):
                    if held[v, d]:
                        self.sites[pool, datacenter]["capacity_requests"] += float(held[v, d])
        self.unserved += float(outcome.rejected.sum())
        self.counted += outcome.counted
        self.times_s += outcome.counted * np.array([outcome.metrics[0], *outcome.ttft_quantiles_s])

    def usages(self) -> dict[Key, dict[str, float]]:
        """Fields of ``Usage``."""
        found = {}
        for key, sums in self.sites.items():
            served = sums["requests"]
            fields = {name: sums[name] for name in ("requests", "tokens", *FIGURES)} | {"timed": served}
            fields["capacity_requests"] = sums["capacity_requests"] / max(self.epochs, 1)
            found[key] = fields | ({"ttft_mean_s": sums["ttft_sum_s"] / served} if served else {})
        return found

    def footprint(self) -> dict[str, float]:
        """Of all sites."""
        return {name: sum(sums[name] for sums in self.sites.values()) for name in FIGURES}

    def times(self) -> Mapping[str, float]:
        """Over all requests; nothing where there were none."""
        names = ("ttft_mean_s", "ttft_p50_s", "ttft_p95_s", "ttft_p99_s")
        return dict(zip(names, (self.times_s / self.counted).tolist(), strict=True)) if self.counted else {}


def _lived(history: Sequence[RecordedEpoch], decide: Callable[[FleetState], RoutingPlan]) -> _Sums:
    sums, twin = _Sums(), None
    states = iter(history)
    for epoch in replay(history, decide):
        if not epoch.is_run_out or twin is None:
            twin = arrays_from(next(states).state)
        sums.add(twin, epoch)
    return sums


def _parts(twin: TwinState, epoch: Epoch) -> FloatArray:
    """(V, D) each pool's part of a site's energy; columns add up to one. A site without replicas is shared evenly."""
    outcome = epoch.outcome
    kept = plans_of(twin, epoch.plan).awake
    awake = twin.all_replicas if kept is None else np.minimum(kept[0], twin.all_replicas)  # (V, D)
    rate_rps = outcome.served / twin.epoch_s
    drawn_j = np.stack(
        [
            site_outcomes(twin, v, rate_rps[v][:, None], awake[v][:, None]).it_j[:, 0]
            for v in range(len(twin.pool_names))
        ]
    )
    whole = drawn_j.sum(axis=0, keepdims=True)
    parts: FloatArray = np.divide(drawn_j, whole, out=np.full_like(drawn_j, 1.0 / len(drawn_j)), where=whole > 0)
    return parts
