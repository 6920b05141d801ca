"""From a scenario to experiments: the fleet, the planner, the engine, and capacity-proportional beside them.

``prepare`` reads what a scenario names and checks that it fits together; ``Experiment.run`` then simulates one planner
and hands every epoch to whoever watches. The planner that is compared with always carries out shares: filled in turn,
sites would no longer get requests in proportion to capacity, and the name would say what is not done.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from pydantic.alias_generators import to_camel

from marlin.api.documents import Documents, dump_documents, load_documents
from marlin.api.errors import InputError, MarlinError
from marlin.api.plan import Dispatch, PlannerKind, Scheme
from marlin.api.pool import PowerDown
from marlin.policy.forecasting.studying import predicted
from marlin.policy.objective import parse_weights
from marlin.policy.origins import origin_aware
from marlin.policy.planner import Planner
from marlin.policy.planners import FILLED_IN_TURN, make_planner, planner_kind, scheme_of
from marlin.policy.sensitivity import with_power_down
from marlin.simulator.demand import Origins, day_demand
from marlin.simulator.engines import Engine, FluidEngine
from marlin.simulator.experiment import EPOCH_S, Epoch, Study, Summary, Tally, run
from marlin.simulator.fleet import Builder
from marlin.simulator.fluid import Form
from marlin.simulator.hourly_signals import HourlySignals, hourly_signals
from marlin.simulator.outages import absent, outage, without
from marlin.simulator.scenario import scenario_documents
from marlin.simulator.scenario_file import DEFAULT_BASE, Scenario, Where, nearest
from marlin.simulator.signals import CarbonAccounting, PriceKind, SignalOptions, built_in_signals
from marlin.simulator.workload.burstgpt import aggregates_from
from marlin.simulator.workload.names import trace_by_name
from marlin.simulator.workload.shipped import shipped_week

Watch = Callable[[Epoch, Tally], None]

MANY_REQUESTS: Final = 200_000_000
"""More in a day take the request-level engine minutes."""


@dataclass(frozen=True, slots=True)
class Experiment:
    """What a scenario amounts to, ready to run."""

    scenario: Scenario
    study: Study
    planner: Planner
    dispatch: Dispatch
    baseline: Planner | None
    """Capacity-proportional; None where it is not wanted, or is the planner itself."""
    engine: Engine[Any]

    def run(self, planner: Planner, watch: Sequence[Watch] = (), power_down: PowerDown | None = None) -> Summary:
        """Simulates.

        Args:
            planner: whose plans.
            watch: each hears of every epoch, with the sums so far.
            power_down: what idle replicas of every pool can do. Default: what the scenario says.

        Raises:
            MarlinError: the fleet cannot be simulated so.
        """
        study = self.study if power_down is None else with_power_down(self.study, power_down)
        tally = Tally()
        for epoch in run(study, lambda state: planner.decide(state).plan, self.engine):
            tally.add(epoch)
            for each in watch:
                each(epoch, tally)
        return tally.summary()

    @property
    def power_down(self) -> PowerDown | None:
        """What idle replicas can do in this experiment; None where pools differ."""
        if self.scenario.power_down is not None:
            return PowerDown(self.scenario.power_down)
        stated = {PowerDown(pool.spec.power_down) for pool in self.study.builder.pools}
        return stated.pop() if len(stated) == 1 else None

    def forewarning(self) -> str | None:
        """What is better known before a run than waited for."""
        if self.scenario.engine == "fluid":
            return None
        study = self.study
        trace = study.trace or shipped_week()
        if study.first_day >= trace.days:
            return None  # refused when it runs
        rng = np.random.default_rng(study.seed)
        day = day_demand(
            study.builder, trace, study.first_day, load=study.load, start=study.first_date, epoch_s=EPOCH_S, rng=rng
        )
        if (requests := int(day.requests.sum())) < MANY_REQUESTS:
            return None
        return (
            f"the request-level engine follows each of about {requests:,} requests a day; it is meant for fleets as "
            "small as 8x12, and --engine fluid takes a second"
        )

    def notes(self) -> list[str]:
        """What had to be assumed or left out; complete after a run."""
        lines = list(self.study.builder.warnings)
        if self.study.trace is not None and (bad := self.study.trace.bad_rows.describe()):
            lines.append(f"{self.study.trace.name}: {bad}")
        if isinstance(self.study.builder.signals, HourlySignals) and (
            bad := self.study.builder.signals.describe_repairs()
        ):
            lines.append(bad)
        return lines

    @property
    def bad_rows(self) -> int:
        """Rows of data files that were left out."""
        trace = 0 if self.study.trace is None else self.study.trace.bad_rows.total
        signals = self.study.builder.signals
        return trace + (signals.bad_rows.total if isinstance(signals, HourlySignals) else 0)

    def sha256(self) -> str:
        """Digest of scenario and fleet: equal digests mean the same experiment, data files aside."""
        documents = self.study.builder.documents
        fleet = dump_documents((*documents.datacenters, *documents.pools, *documents.policies))
        content = json.dumps([self.scenario.to_document(), fleet], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()


def prepare(scenario: Scenario, where: Where = lambda location: str(location[0])) -> Experiment:
    """Reads what a scenario names.

    Args:
        scenario: what to simulate.
        where: says in messages where a key was written. Default: the key.

    Raises:
        InputError: a file cannot be read, or a name in it leads nowhere.
        MarlinError: the engine's libraries are not installed.
    """
    documents = _kept(_documents(scenario), scenario, where)
    options = SignalOptions(CarbonAccounting(scenario.carbon), PriceKind(scenario.price))
    data = None if scenario.data is None else Path(scenario.data)
    signals = built_in_signals(options) if data is None else hourly_signals(
        data, options, skip_bad_rows=scenario.skip_bad_rows
    )  # fmt: skip
    trace = None
    if scenario.trace:
        trace = trace_by_name(scenario.trace, seed=scenario.seed, skip_bad_rows=scenario.skip_bad_rows)
    elif data is not None:
        trace = aggregates_from(data, skip_bad_rows=scenario.skip_bad_rows)
    study = Study(
        Builder(documents, signals),
        days=scenario.days,
        first_day=scenario.first_day,
        load=scenario.load,
        seed=scenario.seed,
        trace=trace,
        first_date=scenario.start,
        origins=Origins(scenario.origins),
        settings=scenario.twin_settings,
        forecaster=predicted if scenario.forecast == "predictor" else None,
        foresight=scenario.forecast == "perfect",
    )
    study = _with_outages(study, scenario, [site.metadata.name for site in documents.datacenters], where)
    if scenario.power_down is not None:
        study = with_power_down(study, PowerDown(scenario.power_down))
    kind = planner_kind(scenario.planner)
    own = Dispatch.ORDERED if kind in FILLED_IN_TURN else Dispatch.SHARES
    dispatch = own if scenario.dispatch is None else Dispatch(scenario.dispatch.capitalize())
    planner = _planner(kind, dispatch, scenario, where)
    if scenario.origin_aware:
        planner = origin_aware(planner, dispatch)
    is_baseline = (
        not scenario.origin_aware and kind is PlannerKind.CAPACITY_PROPORTIONAL and dispatch is Dispatch.SHARES
    )
    return Experiment(
        scenario=scenario,
        study=study,
        planner=planner,
        dispatch=dispatch,
        baseline=baseline() if scenario.compare and not is_baseline else None,
        engine=_engine(scenario),
    )


def baseline() -> Planner:
    """What planners are compared with: requests in proportion to capacity."""
    return make_planner(PlannerKind.CAPACITY_PROPORTIONAL, dispatch=Dispatch.SHARES)


def _planner(kind: PlannerKind, dispatch: Dispatch, scenario: Scenario, where: Where) -> Planner:
    weights = None
    if scenario.weights is not None:
        try:
            weights = parse_weights(scenario.weights)
        except InputError as error:
            raise InputError(f"{where(('weights',))}: {str(error).removeprefix('weights: ')}") from None
    if kind is not PlannerKind.MARLIN:
        for key in ("artifact", "best_of", "late_weight"):
            if key in scenario.model_fields_set:
                raise InputError(f"{where((to_camel(key),))}: is for planner marlin, not for {kind.option}")
        agents = None
    else:
        from marlin.policy.agents import MarlinSettings  # noqa: PLC0415 a sort needs no networks

        agents = MarlinSettings(best_of=scenario.best_of, late_weight=scenario.late_weight)
    return make_planner(
        kind,
        scheme=scheme_of(scenario.scheme) if weights is None else Scheme.CUSTOM,
        weights=weights,
        dispatch=dispatch,
        artifact=None if scenario.artifact is None else Path(scenario.artifact),
        agents=agents,
    )


def _documents(scenario: Scenario) -> Documents:
    if scenario.fleet is None:
        return scenario_documents(scenario.base or DEFAULT_BASE)
    try:
        text = Path(scenario.fleet).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{scenario.fleet}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    return load_documents(text, scenario.fleet)


def _kept(documents: Documents, scenario: Scenario, where: Where) -> Documents:
    """Without the sites and pools that are not wanted; what leads to them goes too."""
    sites = _chosen(
        where(("datacenters",)), scenario.datacenters, [site.metadata.name for site in documents.datacenters]
    )
    pools = _chosen(where(("pools",)), scenario.pools, [pool.metadata.name for pool in documents.pools])
    kept_pools = []
    for pool in documents.pools:
        backends = tuple(b for b in pool.spec.backends if b.datacenter_name in sites)
        if pool.metadata.name in pools and backends:
            kept_pools.append(pool.model_copy(update={"spec": pool.spec.model_copy(update={"backends": backends})}))
    names = {pool.metadata.name for pool in kept_pools}
    policies = []
    for policy in documents.policies:
        refs = policy.spec.pool_refs and tuple(ref for ref in policy.spec.pool_refs if ref.name in names)
        policies.append(policy.model_copy(update={"spec": policy.spec.model_copy(update={"pool_refs": refs})}))
    return replace(
        documents,
        datacenters=tuple(site for site in documents.datacenters if site.metadata.name in sites),
        pools=tuple(kept_pools),
        policies=tuple(policies),
    )


def _chosen(place: str, wanted: Sequence[str], there: Sequence[str]) -> Sequence[str]:
    for name in wanted:
        if name not in there:
            raise InputError(f"{place}: the fleet has no {name!r}; {nearest(name, there)}")
    return wanted or there


def _with_outages(study: Study, scenario: Scenario, sites: Sequence[str], where: Where) -> Study:
    drained = [outage(text) for text in scenario.drain]
    failed = [outage(text) for text in scenario.fail]
    missing = [outage(text) for text in scenario.absent]
    if missing and scenario.engine != "fluid":
        raise InputError(
            f"{where(('absent',))}: the request-level engine follows one fleet through; drain the site, or use fluid"
        )
    for key, outages in (("drain", drained), ("fail", failed), ("absent", missing)):
        for i, o in enumerate(outages):
            place = where((key, i))
            _chosen(place, [o.site], sites)
            if o.first_epoch >= study.epochs:
                raise InputError(
                    f"{place}: {o.site}@{o.first_epoch} is after the last epoch, which is {study.epochs - 1}"
                )
    if not drained and not failed and not missing:
        return study
    there = absent(missing, study.first_date)
    known = without(drained, study.first_date)
    learnt = without(failed, study.first_date, known_after=1)
    return replace(
        study,
        adjust=lambda state: learnt(known(there(state))),
        surprise=without(failed, study.first_date) if failed else None,
    )


def _engine(scenario: Scenario) -> Engine[Any]:
    try:
        if scenario.engine == "fluid":
            if scenario.form == Form.NUMBA:
                import numba  # noqa: F401, PLC0415 said here in one line rather than in the first epoch
            return FluidEngine(Form(scenario.form))
        from marlin.simulator.request_level.engine import RequestLevelEngine  # noqa: PLC0415 needs Numba

        return RequestLevelEngine()
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("marlin"):
            raise
        raise MarlinError(f"this engine needs {error.name}: pip install 'marlin[sim]'") from error
