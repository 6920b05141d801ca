"""One table of mistakes: each is refused in one line that names the object and the field."""

from __future__ import annotations

from typing import Any

import pytest
from documents import GOOD, changed

from marlin.api.documents import DocumentError, dump_documents, load_documents

MISTAKES: list[tuple[str, str, Any, str]] = [
    # kind, field, value (... removes it), what the message must say
    ("Datacenter", "spec.location", ..., "spec.location: is required"),
    ("Datacenter", "spec.location.region", "EU Central", "spec.location.region"),
    ("Datacenter", "spec.location.zone", "DE LU", "spec.location.zone"),
    ("Datacenter", "spec.location.coordinates.latitude", 91, "spec.location.coordinates.latitude"),
    ("Datacenter", "spec.location.coordinates.longitude", -181, "spec.location.coordinates.longitude"),
    ("Datacenter", "spec.location.coordinates.longitude", ..., "spec.location.coordinates.longitude: is required"),
    ("Datacenter", "spec.serviceState", "Resting", "'Resting' is not one of 'Active', 'Cordoned' or 'Drained'"),
    ("Datacenter", "spec.serviceStat", "Active", "spec.serviceStat: unknown field; did you mean serviceState?"),
    ("Datacenter", "spec.cluster.inCluster", {}, "spec.cluster: set exactly one of inCluster"),
    ("Datacenter", "spec.cluster", {"tokenSecretRef": {"name": "x"}}, "server is required with tokenSecretRef"),
    ("Datacenter", "spec.cluster.requestTimeoutSeconds", 0, "spec.cluster.requestTimeoutSeconds"),
    ("Datacenter", "spec.router.url", "ftp://x.example", "spec.router.url"),
    ("Datacenter", "spec.router.url", "http://x.example", "plain http needs tls.verification: Disabled"),
    ("Datacenter", "spec.router.tls", {"verification": "Maybe"}, "spec.router.tls.verification"),
    ("Datacenter", "spec.facility.powerUsageEffectiveness", 1.2, 'a quoted decimal such as "1.2", not 1.2'),
    ("Datacenter", "spec.facility.powerUsageEffectiveness", "0.9", "must be at least 1"),
    ("Datacenter", "spec.facility.powerUsageEffectiveness", "-2", "must be at least 1"),
    ("Datacenter", "spec.facility.powerUsageEffectiveness", "fast", "'fast' is not a quantity"),
    ("Datacenter", "spec.facility.coolingPerformance", 4, "set either powerUsageEffectiveness or coolingPerformance"),
    ("Datacenter", "spec.facility.cyclesOfConcentration", 1, "must be above 1"),
    ("Datacenter", "spec.nodeGroups.0.acceleratorsPerNode", 0, "spec.nodeGroups[0].acceleratorsPerNode"),
    ("Datacenter", "spec.nodeGroups.1.name", "a100x4", "nodeGroups: no two entries may have the same name"),
    ("Datacenter", "spec.nodeGroups.0.nodes", 2.5, "spec.nodeGroups[0].nodes"),
    ("Datacenter", "spec.signals.carbonIntensity.provider", ..., "spec.signals.carbonIntensity.provider: is required"),
    ("Datacenter", "spec.signals.carbonIntensity.static", ..., "static goes with provider Static"),
    ("Datacenter", "spec.signals.carbonIntensity.static.value", -1, "static.value must be at least 0"),
    ("Datacenter", "spec.signals.carbonIntensity.provider", "BuiltIn", "static goes with provider Static"),
    ("Datacenter", "spec.signals.energyPrice.provider", "WattTime", "'WattTime' is not one of"),
    ("Datacenter", "spec.signals.energyPrice.currency", "EUR", "usdPerCurrencyUnit is required unless currency is USD"),
    ("Datacenter", "spec.signals.energyPrice.schedule.timeZone", "Mars/Phobos", "is not an IANA time zone"),
    ("Datacenter", "spec.signals.energyPrice.schedule.entries", [], "spec.signals.energyPrice.schedule.entries"),
    ("Datacenter", "spec.signals.waterIntensity.staleAfterSeconds", 200, "refreshPeriodSeconds must be below"),
    ("Datacenter", "metadata.name", "Frank Furt", "metadata.name"),
    ("InferencePool", "spec.modelName", "", "spec.modelName"),
    ("InferencePool", "spec.modelMemory", "0", "must be above 0"),
    ("InferencePool", "spec.modelMemory", "many", "is not a quantity"),
    ("InferencePool", "spec.profile.prefillTokensPerSecond", 100, "set either builtIn or prefillTokensPerSecond"),
    ("InferencePool", "spec.profile", {"prefillTokensPerSecond": 5}, "go together"),
    ("InferencePool", "spec.serviceLevel.percentile", 42, "spec.serviceLevel.percentile"),
    ("InferencePool", "spec.powerDown", "Maybe", "spec.powerDown"),
    ("InferencePool", "spec.scaling.minReplicas", 30, "minReplicas must not exceed maxReplicas"),
    ("InferencePool", "spec.backends", [], "spec.backends"),
    ("InferencePool", "spec.backends.1.name", "fra", "backends: no two entries may have the same name"),
    ("InferencePool", "spec.backends.0.url", ..., "set exactly one of url, serviceRef, poolRef"),
    ("InferencePool", "spec.backends.1.url", "https://x.example", "set exactly one of url, serviceRef, poolRef"),
    ("InferencePool", "spec.backends.0.url", "http://x.example", "plain http needs tls.verification: Disabled"),
    ("InferencePool", "spec.backends.0.maxSharePercent", 5, "minSharePercent must not exceed maxSharePercent"),
    ("InferencePool", "spec.backends.1.minSharePercent", 95, "the minimum shares exceed 100 percent"),
    ("InferencePool", "spec.backends.1.serviceRef.port", 70000, "spec.backends[1].serviceRef.port"),
    ("InferencePool", "spec.backends.0.scaleTargetRef", {"namespace": "a", "name": "b"}, "scaleTargetRef needs"),
    ("MarlinPolicy", "spec.poolRefs", ..., "set exactly one of poolRefs and poolSelector"),
    ("MarlinPolicy", "spec.poolSelector", {"matchLabels": {}}, "set exactly one of poolRefs and poolSelector"),
    ("MarlinPolicy", "spec.mode", "On", "spec.mode"),
    ("MarlinPolicy", "spec.epochSeconds", 10, "spec.epochSeconds"),
    ("MarlinPolicy", "spec.planner.kind", "Magic", "'Magic' is not one of"),
    ("MarlinPolicy", "spec.planner.artifactRef", {"builtIn": {}}, "artifactRef is for kind Marlin only"),
    ("MarlinPolicy", "spec.shadow.artifactRef", {}, "set exactly one of builtIn, configMapRef"),
    ("MarlinPolicy", "spec.shadow.artifactRef", {"http": {"url": "https://a.example/x", "sha256": "00"}}, "sha256"),
    (
        "MarlinPolicy",
        "spec.shadow.artifactRef",
        {"persistentVolumeClaim": {"claimName": "c", "path": "/etc/passwd"}},
        "path",
    ),
    ("MarlinPolicy", "spec.objectives", ..., "objectives go with scheme Custom"),
    ("MarlinPolicy", "spec.planner.scheme", "Balanced", "objectives go with scheme Custom"),
    ("MarlinPolicy", "spec.objectives", {"carbon": {"weight": 0}}, "at least one objective needs a weight above 0"),
    ("MarlinPolicy", "spec.objectives.carbon.weight", -1, "spec.objectives.carbon.weight"),
    ("MarlinPolicy", "spec.guardrails.maxWeightChangePercent", 0, "spec.guardrails.maxWeightChangePercent"),
    ("MarlinPolicy", "spec.origins.0.zone", ..., "set zone or coordinates"),
    ("MarlinPolicy", "spec.residency.0.allowedRegions", [], "spec.residency[0].allowedRegions"),
    ("MarlinPolicy", "spec.overrides.0.endTime", "2026-12-31T17:00:00Z", "startTime must precede endTime"),
    ("MarlinPolicy", "spec.overrides.0.startTime", "new year", "spec.overrides[0].startTime"),
    ("MarlinPolicy", "apiVersion", "marlin.dev/v2", "apiVersion must be marlin.dev/v1alpha1"),
    ("MarlinPolicy", "kind", "MarlinPolcy", "did you mean MarlinPolicy?"),
]


@pytest.mark.parametrize(("kind", "path", "value", "message"), MISTAKES)
def test_a_mistake_is_refused_in_one_line_that_names_file_object_and_field(
    kind: str, path: str, value: Any, message: str
) -> None:
    with pytest.raises(DocumentError) as refused:
        load_documents(changed(GOOD[kind], path, value), "fleet.yaml")
    line = str(refused.value)
    assert line.startswith("fleet.yaml:1: ")
    assert message in line
    assert "\n" not in line
    assert len(line) < 500


@pytest.mark.parametrize("kind", GOOD)
def test_a_good_document_is_accepted_and_reads_back_as_it_was_written(kind: str) -> None:
    once = load_documents(GOOD[kind], "fleet.yaml")
    assert len(once.datacenters + once.pools + once.policies) == 1
    again = load_documents(dump_documents(once.datacenters + once.pools + once.policies), "again.yaml")
    assert (again.datacenters, again.pools, again.policies) == (once.datacenters, once.pools, once.policies)


def test_a_scenario_file_is_sent_to_the_command_that_takes_it() -> None:
    with pytest.raises(DocumentError, match=r"study.yaml:1: this is a scenario file, which marlin simulate --scenario"):
        load_documents("scenario: {base: demo-3}", "study.yaml")
