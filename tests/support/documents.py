"""Good documents of each kind, for tests to change one thing in."""

from __future__ import annotations

from typing import Any

import yaml

DATACENTER = """
apiVersion: marlin.dev/v1alpha1
kind: Datacenter
metadata: {name: frankfurt}
spec:
  serviceState: Active
  location: {region: eu-central, zone: DE-LU, coordinates: {latitude: 50.1, longitude: 8.7}}
  cluster: {kubeconfigSecretRef: {name: fra}}
  router: {url: "https://marlin.fra.example", tokenSecretRef: {name: fra}}
  facility: {powerUsageEffectiveness: "1.2"}
  nodeGroups:
    - {name: a100x4, accelerator: A100-80GB, acceleratorsPerNode: 4, nodes: 10}
    - {name: h100x8, accelerator: H100-80GB, acceleratorsPerNode: 8, nodes: 2}
  signals:
    carbonIntensity: {provider: Static, static: {value: 380}}
    waterIntensity: {provider: BuiltIn}
    energyPrice: {provider: Schedule, schedule: {timeZone: Europe/Berlin, entries: [{fromHour: 0, value: "0.1"}]}}
"""

POOL = """
apiVersion: marlin.dev/v1alpha1
kind: InferencePool
metadata: {name: llama-70b, namespace: default, labels: {tier: gold}}
spec:
  modelName: llama-70b
  modelMemory: 140Gi
  profile: {builtIn: Llama-2-70b}
  serviceLevel: {timeToFirstTokenMilliseconds: 3000, percentile: 95}
  powerDown: Sleep
  scaling: {mode: Recommend, minReplicas: 1, maxReplicas: 20}
  backends:
    - name: fra
      datacenterName: frankfurt
      url: https://vllm.fra.example
      capacity: {nodeGroup: a100x4, replicas: 10, tensorParallel: 4}
      minSharePercent: 10
    - name: fra-canary
      datacenterName: frankfurt
      serviceRef: {namespace: default, name: canary, port: 8000}
      scaleTargetRef: {namespace: default, name: canary}
"""

POLICY = """
apiVersion: marlin.dev/v1alpha1
kind: MarlinPolicy
metadata: {name: green, namespace: default}
spec:
  mode: DryRun
  poolRefs: [{name: llama-70b}]
  planner: {kind: MeritOrder, scheme: Custom}
  objectives: {carbon: {weight: 2}, cost: {weight: 1}}
  shadow: {kind: Marlin, artifactRef: {builtIn: {}}}
  origins: [{name: eu, zone: DE-LU}]
  residency: [{name: gdpr, origins: [eu], allowedRegions: [eu-central]}]
  overrides:
    - {name: gala, startTime: "2026-12-31T18:00:00Z", endTime: "2027-01-01T06:00:00Z", mode: LatencyOnly}
"""

GOOD = {"Datacenter": DATACENTER, "InferencePool": POOL, "MarlinPolicy": POLICY}


MISTAKES: list[tuple[str, str, Any, str]] = [
    # kind, field, value (... removes it), what our own message must say
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
    ("MarlinPolicy", "spec.planner.lateWeight", 3, "lateWeight is for kind Marlin only"),
    ("MarlinPolicy", "spec.shadow.lateWeight", 101, "lateWeight"),
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
    ("MarlinPolicy", "spec.originAware", True, "originAware needs dispatch Shares"),
    ("MarlinPolicy", "spec.origins.0.zone", ..., "set zone or coordinates"),
    ("MarlinPolicy", "spec.residency.0.allowedRegions", [], "spec.residency[0].allowedRegions"),
    ("MarlinPolicy", "spec.residency.0.origins", ["europe"], "origins of residency rules must be listed in origins"),
    ("MarlinPolicy", "spec.origins", ..., "origins of residency rules must be listed in origins"),
    ("MarlinPolicy", "spec.overrides.0.endTime", "2026-12-31T17:00:00Z", "startTime must precede endTime"),
    ("MarlinPolicy", "spec.overrides.0.startTime", "new year", "spec.overrides[0].startTime"),
    ("MarlinPolicy", "apiVersion", "marlin.dev/v2", "apiVersion must be marlin.dev/v1alpha1"),
    ("MarlinPolicy", "kind", "MarlinPolcy", "did you mean MarlinPolicy?"),
]
"""What people get wrong, one change each in a good document."""


def changed(text: str, path: str, value: Any) -> str:
    """The document with the field at a dotted ``path`` set to ``value``; ``...`` removes it."""
    document = yaml.safe_load(text)
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    node = document
    for part in parents:
        node = node.setdefault(part, {}) if isinstance(node, dict) else node[part]
    if value is ...:
        del node[last]
    else:
        node[last] = value
    return yaml.safe_dump(document)
