"""Every metric of the operator: one table for the code that fills them, the reference page and the tests.

Names carry their unit. An object is named by two labels, because one of them alone is not unique: ``policy_namespace``
and ``policy``, ``pool_namespace`` and ``pool``; plain ``namespace`` is what a scrape puts there for the operator's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

PREFIX: Final = "marlin_operator_"

POLICY: Final = ("policy_namespace", "policy")
POOL: Final = ("pool_namespace", "pool")
ROW: Final = (*POLICY, "pool", "datacenter")

RUNGS: Final = ("Measured", "Estimated", "Forecast", "History", "Fallback")
"""Rungs of a signal's ladder, by the number that stands for each."""

_LADDER: Final = ", ".join(f"{i} {rung}" for i, rung in enumerate(RUNGS))

DECISION_BUCKETS_S: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
ROUND_BUCKETS_S: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


Kind = Literal["gauge", "counter", "histogram"]


@dataclass(frozen=True, slots=True)
class Measure:
    """One metric."""

    name: str
    """As it is exposed, without ``PREFIX``; a counter's without ``_total`` too."""
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    group: str = "Process"
    """Heading of the reference page."""

    @property
    def exposed(self) -> str:
        """The name that a query has."""
        return f"{PREFIX}{self.name}{'_total' if self.kind == 'counter' else ''}"


def _of(group: str, *measures: tuple[str, Kind, tuple[str, ...], str]) -> list[Measure]:
    return [Measure(name, kind, text, labels, group) for name, kind, labels, text in measures]


MEASURES: Final[dict[str, Measure]] = {
    measure.name: measure
    for measure in (
        *_of(
            "Process",
            ("is_leader", "gauge", (), "Whether this process leads: 1 or 0."),
            ("rounds", "counter", (), "Rounds read and decided."),
            ("failed_rounds", "counter", (), "Rounds that could not be read or written."),
            ("round_seconds", "histogram", ("phase",), "Time that a round took, s, by phase: read, decide, write."),
            ("last_round_age_seconds", "gauge", (), "Since the last round was decided, s."),
            ("refused_writes", "gauge", (), "Objects whose last write was refused."),
            ("refused_events", "counter", (), "Events that were refused."),
            ("watch_restarts", "counter", (), "Times the watch was started again."),
        ),
        *_of(
            "Decisions",
            (
                "decisions",
                "counter",
                (*POLICY, "result"),
                "Attempts to plan an epoch, by result: planned, or the reason of the condition Planned.",
            ),
            (
                "decision_seconds",
                "histogram",
                (),
                "Time that planning one epoch of one policy took, shadow included, s.",
            ),
            ("last_decision_seconds", "gauge", POLICY, "The same, of the last one, s."),
            ("paused", "gauge", POLICY, "Whether no plans are made, by its mode or a window of overrides: 1 or 0."),
            ("held_pools", "gauge", POLICY, "Pools whose row the last plan held back: maxWeightChangePercent."),
            (
                "assumed_pools",
                "gauge",
                POLICY,
                "Pools whose demand the last plan assumed, because nothing was observed.",
            ),
        ),
        *_of(
            "Plan in force",
            (
                "plan_info",
                "gauge",
                (*POLICY, "mode", "planner", "scheme"),
                "1, with who made the plan and what becomes of it.",
            ),
            ("plan_epoch", "gauge", POLICY, "Number of its epoch."),
            ("plan_age_seconds", "gauge", POLICY, "Since it was decided, s."),
            (
                "plan_overdue_seconds",
                "gauge",
                POLICY,
                "Since the plan should have been followed by another, s; 0 while it is valid.",
            ),
            (
                "plan_share",
                "gauge",
                ROW,
                "Share of a pool's requests that a site is meant to get, 0 to 1; sites that get none are missing.",
            ),
            ("plan_replicas", "gauge", ROW, "Replicas wanted awake, where the pool can power down."),
            ("forecast_requests", "gauge", POLICY, "Requests forecast for its epoch."),
        ),
        *_of(
            "Expected by the twin, for the plan's epoch",
            (
                "estimate_ttft_seconds",
                "gauge",
                (*POLICY, "of"),
                "Mean time to first token, s, of: plan (before it was held back), baseline (by capacity), shadow.",
            ),
            ("estimate_carbon_grams", "gauge", (*POLICY, "of"), "Carbon, gCO2eq."),
            ("estimate_water_liters", "gauge", (*POLICY, "of"), "Water, L."),
            ("estimate_cost_usd", "gauge", (*POLICY, "of"), "Cost of energy, USD."),
        ),
        *_of(
            "Predicted against observed, of the last epoch that is over",
            (
                "predicted_ttft_seconds",
                "gauge",
                (*POLICY, "pool"),
                "Mean time to first token that the twin expected of the plan in force, s.",
            ),
            (
                "observed_ttft_seconds",
                "gauge",
                (*POLICY, "pool"),
                "Mean time to first token of event streams that its routers measured, s.",
            ),
            ("predicted_requests", "gauge", (*POLICY, "pool"), "Requests that were forecast."),
            ("observed_requests", "gauge", (*POLICY, "pool"), "Requests that its routers counted."),
            (
                "predicted_tokens_per_second",
                "gauge",
                (*POLICY, "pool"),
                "Output tokens of the requests that the twin expected to be served, per second.",
            ),
            (
                "observed_tokens_per_second",
                "gauge",
                (*POLICY, "pool"),
                "Output tokens that its routers counted, per second; of replies that tell their length.",
            ),
        ),
        *_of(
            "Negotiation, where planner or shadow is of kind Marlin",
            (
                "agent_capital",
                "gauge",
                (*POLICY, "agent"),
                "Capital before the next epoch, 0 to 300; agents are ttft, carbon, water and cost.",
            ),
            ("agent_utility", "gauge", (*POLICY, "agent"), "What its proposal was worth to it."),
            ("agent_worth", "gauge", (*POLICY, "agent"), "What the consensus is worth to it."),
            (
                "agent_weight",
                "gauge",
                (*POLICY, "agent"),
                "Weight of its proposal in the consensus, vetoes included, 0 to 1.",
            ),
            (
                "agent_veto_pull",
                "gauge",
                (*POLICY, "agent"),
                "How far its veto pulled the last plan, 0 to 1; 0 without one.",
            ),
            ("agent_vetoes", "counter", (*POLICY, "agent"), "Vetoes that pulled a plan."),
            (
                "guard_interventions",
                "counter",
                (*POLICY, "instead"),
                "Epochs in which the guard published another plan than the agents', and which.",
            ),
        ),
        *_of(
            "Learning on, of policies with learning: Adapt",
            (
                "adapt_runs",
                "counter",
                (*POLICY, "result"),
                "Attempts that ended, by result: a reason of the condition Adapting.",
            ),
            ("adapt_running", "gauge", POLICY, "Whether it learns now, in a process of its own: 1 or 0."),
            (
                "adapt_value",
                "gauge",
                (*POLICY, "of"),
                "Objective on the epochs held back at the last decision, less is better, of: serving, adapted.",
            ),
        ),
        *_of(
            "Signals and objects",
            ("signal_value", "gauge", ("datacenter", "signal", "unit"), "The value now, in unit."),
            ("signal_rung", "gauge", ("datacenter", "signal"), f"Rung of its ladder: {_LADDER}."),
            ("signal_age_seconds", "gauge", ("datacenter", "signal"), "Since the value was true, s."),
            (
                "datacenter_condition",
                "gauge",
                ("datacenter", "type"),
                "A condition of a Datacenter: 1 True, 0 False, NaN Unknown.",
            ),
            ("pool_condition", "gauge", (*POOL, "type"), "The same of an InferencePool."),
            ("policy_condition", "gauge", (*POLICY, "type"), "The same of a MarlinPolicy."),
        ),
    )
}
"""Name without prefix to the metric."""
