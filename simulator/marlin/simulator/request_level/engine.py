"""The request-level engine behind ``engines.Engine``: draws an epoch's requests, runs them, and says what they did."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from marlin.api.plan import RoutingPlan
from marlin.simulator.engines import Left
from marlin.simulator.fluid import Plans, per_request, plans_of
from marlin.simulator.fluid.coefficients import footprint_per_joule
from marlin.simulator.outcome import Outcome
from marlin.simulator.request_level.fleet import RequestFleet, RequestState, carried, fleet_from, initial_state
from marlin.simulator.request_level.kernel import Arrivals, RequestPlan, run_epoch
from marlin.simulator.request_level.tally import TallyArrays, counted_at, empty_tally, quantiles_s
from marlin.simulator.twin_state import TwinState
from marlin.simulator.workload.requests import Requests, draw_requests

QUANTILES = (0.5, 0.95, 0.99)


@dataclass(frozen=True, slots=True)
class Inside:
    """What the engine carries from epoch to epoch."""

    fleet: RequestFleet
    """That ``state`` was laid out for."""
    state: RequestState
    now_s: float
    """Time since the start."""


@dataclass(frozen=True, slots=True)
class RequestLevelEngine:
    """Every request as events."""

    def run(
        self, twin: TwinState, plan: RoutingPlan, before: Left[Inside] | None, rng: np.random.Generator
    ) -> tuple[Outcome, Left[Inside]]:
        """See ``engines.Engine.run``. The twin's requests are rounded to whole ones."""
        counts = np.rint(twin.requests).astype(np.int64)  # (V, R)
        sizes = np.stack([twin.prompt_tokens, twin.output_tokens], axis=1)  # (V, 2)
        requests = draw_requests(counts, sizes, twin.epoch_s, rng)
        return self.replay(twin, plans_of(twin, plan), before, requests, twin.epoch_s)

    def run_out(self, twin: TwinState, plan: RoutingPlan, before: Left[Inside]) -> tuple[Outcome, Left[Inside]] | None:
        """See ``engines.Engine.run_out``."""
        if not before.waiting.any():
            return None
        none = np.zeros(twin.requests.shape, dtype=np.int64)
        nobody = draw_requests(none, np.ones((len(none), 2)), 1.0, np.random.default_rng(0))
        return self.replay(twin, plans_of(twin, plan), before, nobody, twin.settings.patience_s)

    def replay(
        self, twin: TwinState, plans: Plans, before: Left[Inside] | None, requests: Requests, duration_s: float
    ) -> tuple[Outcome, Left[Inside]]:
        """Carries given requests out.

        Args:
            twin: the fleet.
            plans: one plan.
            before: what was left; none at the start.
            requests: in order of arrival, since the start of the epoch.
            duration_s: length of the epoch.

        Raises:
            ValueError: the fleet has other replicas than before.
        """
        fleet = fleet_from(twin, None if before is None else before.inside.state.sites["queue_length"])
        inside = Inside(fleet, initial_state(fleet), 0.0) if before is None else before.inside
        state = carried(inside.state, inside.fleet, fleet)
        waiting = 0 if before is None else round(float(before.waiting.sum()))
        models, sites = twin.all_replicas.shape
        tally = empty_tally(models, sites)
        start_s, end_s = inside.now_s, inside.now_s + duration_s
        arrivals = Arrivals(
            requests.arrival_s + start_s,
            requests.model,
            requests.origin,
            requests.prompt_tokens,
            requests.output_tokens,
        )
        run_epoch(fleet, state, plan_of(twin, fleet, plans), arrivals, start_s, end_s, tally)
        expected, counted = (
            len(requests) + waiting,
            int(tally.sites["served"].sum() + tally.sites["waiting"].sum() + tally.models["rejected"].sum()),
        )
        assert counted == expected, f"requests were lost or made up: {counted}, not {expected}"
        left = Left(
            tally.sites["waiting"].reshape(models, sites).astype(np.float64),
            state.sites["awake"].reshape(models, sites).astype(np.float64),
            Inside(fleet, state, end_s),
        )
        return _outcome(twin, tally, state, duration_s), left


def plan_of(twin: TwinState, fleet: RequestFleet, plans: Plans) -> RequestPlan:
    """The first plan as the events read it."""
    models, sites = twin.all_replicas.shape
    origins = len(twin.origins)
    count = fleet.places["last_replica"] - fleet.places["first_replica"]  # (S,)
    awake = count if plans.awake is None else np.rint(plans.awake[0].reshape(-1)).astype(np.int64)
    awake = np.where(np.repeat(twin.can_sleep, sites), np.clip(awake, 0, count), count)
    place = fleet.replicas["site"][fleet.groups["first_replica"]]  # (G,)
    before = fleet.groups["first_replica"] - fleet.places["first_replica"][place]
    kept = np.clip(awake[place] - before, 0, fleet.groups["size"])
    places = np.bincount(place, kept * fleet.groups["in_flight_limit"], minlength=len(count)).astype(np.float64)
    if plans.cap is not None:
        places = places * np.minimum(plans.cap[0].reshape(-1) / max(twin.max_utilization, 1e-12), 1.0)
    shares = plans.shares[0][:, None, :] if plans.by_origin is None else plans.by_origin
    total = shares.sum(axis=2, keepdims=True)
    shares = np.broadcast_to(shares / np.maximum(total, 1e-12), (models, origins, sites))
    order = np.full((models, sites), -1, dtype=np.int64) if plans.order is None else plans.order[0].astype(np.int64)
    return RequestPlan(plans.order is not None, np.ascontiguousarray(shares), order, places, awake)


def _outcome(twin: TwinState, tally: TallyArrays, state: RequestState, duration_s: float) -> Outcome:
    models, sites = twin.all_replicas.shape
    served = tally.sites["served"].reshape(models, sites).astype(np.float64)
    rejected = tally.models["rejected"].astype(np.float64)
    joules = tally.joules + twin.base_w * duration_s
    footprint = joules[:, None] * footprint_per_joule(twin)  # (D, 4)
    counted = served.sum() + rejected.sum()
    seconds = tally.sites["ttft_s"].sum() + twin.settings.patience_s * rejected.sum()
    charge = twin.settings.unserved_charge_factor * per_request(twin) * rejected.sum() if rejected.any() else 0.0
    histogram = tally.histogram.sum(axis=0)
    awake = state.sites["awake"].reshape(models, sites).astype(np.float64)
    capacity = twin.capacity_rps * awake / np.maximum(twin.all_replicas, 1.0)
    ttft_s = tally.sites["ttft_s"].reshape(models, sites)
    return Outcome(
        metrics=np.array([seconds / max(counted, 1.0), *(footprint[:, 1:].sum(axis=0) + charge)]),
        served=served,
        queued=tally.sites["waiting"].reshape(models, sites).sum(axis=1).astype(np.float64),
        rejected=rejected,
        energy_kwh=footprint[:, 0],
        carbon_gco2=footprint[:, 1],
        water_l=footprint[:, 2],
        cost_usd=footprint[:, 3],
        ttft_s=np.divide(ttft_s, served, out=np.zeros_like(served), where=served > 0),
        ttft_quantiles_s=quantiles_s(counted_at(histogram, twin.settings.patience_s, int(rejected.sum())), QUANTILES),
        late_share=float(tally.models["late"].sum() / max(counted, 1.0)),
        utilization=np.divide(served / duration_s, capacity, out=np.zeros_like(served), where=capacity > 0),
        awake=awake,
        awake_share=float(awake.sum() / max(twin.all_replicas.sum(), 1.0)),
    )
