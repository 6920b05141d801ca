"""What the operator exposes: read as Prometheus would, against rounds over the shipped sample."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from agents import small_artifact
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from worlds import NOON, Cluster, Raw, sample, the

from marlin.api.policy import AdaptationStatus, AdaptDecision
from marlin.operator.arrivals.history import Ended
from marlin.operator.core.adapting import Adapting
from marlin.operator.core.artifact_use import ArtifactUse
from marlin.operator.core.planning import Planned
from marlin.operator.core.reconcile import Actions
from marlin.operator.kube.access import Access
from marlin.operator.members.sighting import Finding
from marlin.operator.running import Operator, Settings
from marlin.operator.serving import Collected
from marlin.operator.telemetry.catalogue import MEASURES, PREFIX
from marlin.operator.telemetry.levels import Levels

POLICY = {"policy_namespace": "default", "policy": "balanced"}
KEY = ("default", "balanced")
DECISION = AdaptationStatus(
    decision=AdaptDecision.TOOK_OVER,
    decided_time=NOON,
    serving_value="0.86",
    adapted_value="0.85",
    learnt_from_epochs=96,
    held_back_epochs=96,
    artifact_sha256="a" * 64,
)


class Exposed:
    """An operator that heard of rounds, and its page."""

    def __init__(self) -> None:
        self.operator = Operator(Access("https://hub", ""), Settings("marlin-system", "one"))
        self.operator.is_leader = True

    def hear(self, actions: Actions, ended: dict[tuple[str, str], Ended] | None = None) -> None:
        self.operator.ledger.heard(actions.report)
        self.operator.levels = Levels(actions.report, self.operator.ledger.last, ended or {})

    def samples(self) -> Iterator[tuple[str, dict[str, str], float]]:
        registry = CollectorRegistry()
        registry.register(Collected(self.operator))
        for source in (registry, self.operator.ledger.registry):
            for family in text_string_to_metric_families(generate_latest(source).decode()):
                for sample_ in family.samples:
                    yield sample_.name, dict(sample_.labels), sample_.value

    def __getitem__(self, name: str) -> list[tuple[dict[str, str], float]]:
        """Samples of a name, with what their labels have beyond the policy's."""
        return [
            ({k: v for k, v in labels.items() if k not in POLICY}, value)
            for found, labels, value in self.samples()
            if found == PREFIX + name
        ]

    def value(self, name: str, **labels: str) -> float:
        values = [value for found, value in self[name] if found == labels]
        assert len(values) == 1, (name, labels, self[name])
        return values[0]


@pytest.fixture
def exposed() -> Exposed:
    return Exposed()


@pytest.fixture
def objects() -> list[Raw]:
    objects = sample()
    the(objects, "MarlinPolicy")["spec"]["mode"] = "Enforce"
    return objects


def negotiating(objects: list[Raw], folder: Path) -> Cluster:
    small_artifact(folder)
    the(objects, "MarlinPolicy")["spec"]["planner"] = {"kind": "Marlin", "scheme": "Balanced"}
    cluster = Cluster(objects)
    cluster.known["artifacts"] = {(KEY, "planner"): ArtifactUse(folder)}
    return cluster


def test_the_plan_in_force_is_told_with_shares_that_add_up_for_each_pool(exposed: Exposed, objects: list[Raw]) -> None:
    cluster = Cluster(objects)
    exposed.hear(cluster.reconcile())
    plan = cluster.status("MarlinPolicy")["plan"]
    shares = {labels["datacenter"]: value for labels, value in exposed["plan_share"]}
    weights = dict(zip(plan["datacenters"], plan["pools"][0]["weights"], strict=True))
    assert shares == {site: weight / 10_000 for site, weight in weights.items() if weight}
    assert sum(shares.values()) == pytest.approx(1.0)
    assert exposed.value("plan_epoch") == plan["epoch"]
    assert exposed.value("plan_info", mode="Enforce", planner=plan["planner"], scheme=plan["scheme"]) == 1.0
    estimate = cluster.status("MarlinPolicy")["estimate"]
    assert exposed.value("estimate_carbon_grams", of="plan") == float(estimate["carbonGrams"])
    assert exposed.value("estimate_ttft_seconds", of="baseline") > 0
    assert exposed.value("decisions_total", result="planned") == 1.0
    assert exposed.value("last_decision_seconds") > 0


@pytest.mark.parametrize(("mode", "paused"), [("Enforce", 0.0), ("Paused", 1.0)])
def test_a_policy_that_makes_no_plans_on_purpose_says_so(
    exposed: Exposed, objects: list[Raw], mode: str, paused: float
) -> None:
    the(objects, "MarlinPolicy")["spec"]["mode"] = mode
    exposed.hear(Cluster(objects).reconcile())
    assert exposed.value("paused") == paused


def test_a_plan_that_was_found_after_a_start_is_told_of_without_a_decision(objects: list[Raw]) -> None:
    cluster = Cluster(objects)
    cluster.reconcile()
    restarted = Exposed()
    restarted.hear(cluster.reconcile())
    assert restarted["plan_share"]
    assert restarted["decisions_total"] == []
    assert restarted["last_decision_seconds"] == []


def test_age_and_delay_of_a_plan_grow_with_the_clock(exposed: Exposed, objects: list[Raw]) -> None:
    cluster = Cluster(objects)
    exposed.hear(cluster.reconcile())
    values = {}
    for minutes in (5, 20):
        families = exposed.operator.levels.families(NOON + timedelta(minutes=minutes))
        found = {family.name.removeprefix(PREFIX): family.samples for family in families}
        values[minutes] = [found[name][0].value for name in ("plan_age_seconds", "plan_overdue_seconds")]
    assert values[5] == [300.0, 0.0]
    # Epochs are quarter hours: the plan of 12:00 was valid until 12:15, eight minutes and seven seconds before.
    assert values[20] == [1200.0, 487.0]


def test_a_negotiation_is_told_agent_by_agent(exposed: Exposed, objects: list[Raw], tmp_path: Path) -> None:
    cluster = negotiating(objects, tmp_path / "artifact")
    actions = cluster.reconcile()
    exposed.hear(actions)
    agents = {"ttft", "carbon", "water", "cost"}
    for name in ("agent_capital", "agent_utility", "agent_worth", "agent_weight", "agent_veto_pull"):
        assert {labels["agent"] for labels, _ in exposed[name]} == agents
    assert sum(value for _, value in exposed["agent_weight"]) == pytest.approx(1.0, abs=1e-5)
    planned = exposed.operator.ledger.last[KEY].planned
    assert planned is not None
    assert planned.negotiation is not None
    vetoes = {labels["agent"]: value for labels, value in exposed["agent_vetoes_total"]}
    assert vetoes == dict.fromkeys(planned.negotiation.pulls, 1.0)


def test_vetoes_and_the_guard_add_up_and_go_when_their_policy_goes(
    exposed: Exposed, objects: list[Raw], tmp_path: Path
) -> None:
    actions = negotiating(objects, tmp_path / "artifact").reconcile()
    policy = actions.report.policies[0]
    outcome = policy.outcome
    assert isinstance(outcome, Planned)
    assert outcome.negotiation is not None
    game = replace(outcome.negotiation, pulls={"water": 0.2}, guard="merit-order")
    told = replace(policy, outcome=replace(outcome, negotiation=game))
    actions = replace(actions, report=replace(actions.report, policies=(told,)))
    for _ in range(3):
        exposed.hear(actions)
    assert exposed.value("agent_vetoes_total", agent="water") == 3.0
    assert exposed.value("guard_interventions_total", instead="merit-order") == 3.0
    exposed.hear(replace(actions, report=replace(actions.report, policies=())))
    assert exposed["agent_vetoes_total"] == []
    assert exposed["plan_share"] == []


def test_what_was_predicted_for_an_epoch_stands_beside_what_routers_saw_of_it(
    exposed: Exposed, objects: list[Raw]
) -> None:
    cluster = Cluster(objects)
    first = cluster.reconcile()
    outcome = first.report.policies[0].outcome
    assert isinstance(outcome, Planned)
    epoch = int(NOON.timestamp()) // 900
    exposed.hear(first)
    assert exposed["predicted_ttft_seconds"] == []
    cluster.now = NOON + timedelta(minutes=15)
    exposed.hear(
        cluster.reconcile(), {KEY: Ended(epoch, {"llama-2-70b": 900.0}, {"llama-2-70b": 0.4}, {"llama-2-70b": 120.0})}
    )
    assert exposed.value("observed_ttft_seconds", pool="llama-2-70b") == 0.4
    assert exposed.value("observed_requests", pool="llama-2-70b") == 900.0
    expected = outcome.predicted["llama-2-70b"]
    assert exposed.value("predicted_ttft_seconds", pool="llama-2-70b") == expected.ttft_s > 0
    assert exposed.value("observed_tokens_per_second", pool="llama-2-70b") == 120.0
    predicted = exposed.value("predicted_tokens_per_second", pool="llama-2-70b")
    (state,) = [pool for pool in outcome.state.pools if pool.name == "llama-2-70b"] if outcome.state else []
    assert predicted == pytest.approx(sum(state.forecast_requests) * state.mean_output_tokens / 900.0, rel=0.01)
    # Of an epoch that nobody planned here nothing is predicted.
    exposed.hear(cluster.reconcile(), {KEY: Ended(epoch - 1, {}, {"llama-2-70b": 0.4})})
    assert exposed["predicted_ttft_seconds"] == []


def test_signals_are_told_with_rung_and_age_and_conditions_with_their_truth(
    exposed: Exposed, objects: list[Raw]
) -> None:
    the(objects, "Datacenter", "oregon")["spec"]["signals"]["energyPrice"] = {
        "provider": "Prometheus",
        "prometheus": {"url": "https://prometheus.example", "query": "price"},
        "fallbackValue": "0.1",
    }
    exposed.hear(Cluster(objects).reconcile())
    assert exposed.value("signal_value", datacenter="oregon", signal="carbonIntensity", unit="gCO2eq/kWh") == 120.0
    assert exposed.value("signal_rung", datacenter="oregon", signal="carbonIntensity") == 0.0
    assert exposed.value("signal_rung", datacenter="oregon", signal="energyPrice") == 4.0
    assert exposed.value("datacenter_condition", datacenter="oregon", type="SignalsFresh") == 0.0
    assert math.isnan(exposed.value("datacenter_condition", datacenter="oregon", type="ClusterReachable"))
    assert exposed.value("policy_condition", type="Accepted") == 1.0


def test_what_a_policy_that_learnt_on_came_to_is_told_while_it_is_to_learn(
    exposed: Exposed, objects: list[Raw], tmp_path: Path
) -> None:
    cluster = negotiating(objects, tmp_path / "artifact")
    cluster.change("MarlinPolicy", planner={"kind": "Marlin", "learning": "Adapt"})
    cluster.known["adapting"] = {KEY: Adapting(Finding(True, "Learning"), DECISION)}
    exposed.hear(cluster.reconcile())
    assert exposed.value("adapt_running") == 1.0
    assert exposed.value("adapt_value", of="serving") == 0.86
    assert exposed.value("adapt_value", of="adapted") == 0.85
    cluster.change("MarlinPolicy", planner={"kind": "Marlin"})
    cluster.known["adapting"] = {}
    exposed.hear(cluster.reconcile())
    assert exposed["adapt_running"] == exposed["adapt_value"] == []


def test_a_standby_tells_of_no_plan(exposed: Exposed, objects: list[Raw]) -> None:
    exposed.hear(Cluster(objects).reconcile())
    exposed.operator.is_leader = False
    assert exposed["plan_share"] == []
    assert exposed.value("is_leader") == 0.0


def test_every_exposed_metric_is_documented_and_has_the_documented_labels(
    exposed: Exposed, objects: list[Raw], tmp_path: Path
) -> None:
    cluster = negotiating(objects, tmp_path / "artifact")
    the(cluster.objects, "MarlinPolicy")["spec"]["planner"]["learning"] = "Adapt"
    cluster.known["adapting"] = {KEY: Adapting(Finding(True, "TookOver"), DECISION)}
    actions = cluster.reconcile()
    epoch = int(NOON.timestamp()) // 900
    exposed.hear(actions, {KEY: Ended(epoch, {"llama-2-70b": 1.0}, {"llama-2-70b": 1.0}, {"llama-2-70b": 1.0})})
    exposed.operator.ledger.learnt([(KEY, "TookOver")])
    documented = {measure.exposed: set(measure.labels) for measure in MEASURES.values()}
    told = set()
    for name, labels, _ in exposed.samples():
        base = name
        for end in ("_bucket", "_sum", "_count", "_created"):
            if base.removesuffix(end) in documented:
                base = base.removesuffix(end)
        if name.endswith("_created"):
            continue
        assert labels.keys() - {"le"} == documented[base], name
        told.add(base)
    unexplained = {m.exposed for m in MEASURES.values()} - told
    # Nothing was refused, nobody objected, there is neither a writer nor a shadow: these had nothing to tell.
    assert {name.removeprefix(PREFIX) for name in unexplained} <= {
        "round_seconds",
        "refused_writes",
        "refused_events_total",
        "last_round_age_seconds",
        "agent_vetoes_total",
        "guard_interventions_total",
        "plan_replicas",
    }
