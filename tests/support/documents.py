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
