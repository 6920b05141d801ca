"""Fleets that nobody has, for agents that are to serve any: other zones, sizes, machines, models and capabilities each.

A fleet is drawn as the documents that people write, so that it goes the very way that a user's own takes. The zones of
no preset (``scenario.ZONES``) are left out here too: they show what a policy does on places it has never seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import Any, Final

import numpy as np

from marlin.api.datacenter import Datacenter
from marlin.api.documents import Documents
from marlin.api.plan import Dispatch
from marlin.api.policy import MarlinPolicy
from marlin.api.pool import InferencePool, PowerDown
from marlin.policy.sensitivity import with_power_down
from marlin.simulator import tables
from marlin.simulator.experiment import Study
from marlin.simulator.fleet import Builder
from marlin.simulator.profiles import available_profiles
from marlin.simulator.scenario import NODE_TYPES, ZONES
from marlin.simulator.signals import available_zones
from marlin.simulator.workload.scaling import LOADS

MOST_SITES: Final = len(ZONES)
MOST_POOLS: Final = 3

_BUILT_IN: Final = ("Llama-2-7b", "Llama-2-70b")
_POWER_DOWN: Final[Mapping[PowerDown, float]] = {
    PowerDown.NONE: 0.4,
    PowerDown.IDLE_P_STATE: 0.1,
    PowerDown.SLEEP: 0.3,
    PowerDown.SCALE_TO_ZERO: 0.2,
}
_HOSTED: Final = 0.85
"""Chance that a site has machines for a pool."""


class Purpose(IntEnum):
    """What episodes are drawn for: other fleets, other days and other signals."""

    TRAIN = 0
    TUNE = 1


_SIGNAL_DAYS: Final = {
    Purpose.TRAIN: (datetime(2023, 1, 1, tzinfo=UTC), 270),
    Purpose.TUNE: (datetime(2023, 10, 1, tzinfo=UTC), 45),
}
"""First day of signals, and how many days there are (marlin-model, section 8)."""
_EPISODES: Final = {Purpose.TRAIN: 2, Purpose.TUNE: 1}
"""Days of each fleet."""


@dataclass(frozen=True, slots=True)
class _Group:
    """A node group of one site, split among pools."""

    site: str
    name: str
    accelerator: str
    gpus: int
    nodes: tuple[int, ...]  # by pool


def random_fleet(rng: np.random.Generator, name: str) -> Documents:
    """A fleet of 2 to 12 sites and 1 to 3 pools."""
    sites = int(rng.integers(2, MOST_SITES + 1))
    pools = int(rng.integers(1, MOST_POOLS + 1))
    zones = [ZONES[i] for i in rng.choice(len(ZONES), sites, replace=False)]
    kinds = [NODE_TYPES[i] for i in rng.choice(len(NODE_TYPES), int(rng.integers(1, 5)), replace=False)]
    hosted = rng.random((sites, pools)) < _HOSTED
    for v in range(pools):  # a pool at fewer than two sites leaves nothing to decide
        hosted[rng.choice(sites, 2, replace=False), v] = True
    groups = [group for s, zone in enumerate(zones) for group in _groups(rng, zone, kinds, hosted[s])]
    models = [_model(rng, v) for v in range(pools)]
    return Documents(
        datacenters=tuple(Datacenter.model_validate(_site(rng, zone, groups)) for zone in zones),
        pools=tuple(InferencePool.model_validate(_pool(v, model, groups)) for v, model in enumerate(models)),
        policies=(MarlinPolicy.model_validate(_policy(name, models)),),
    )


def random_episodes(
    base: Study, purpose: Purpose, seed: int, number: int, *, tune_days: int
) -> tuple[list[Study], Dispatch]:
    """Days of one random fleet, and how its plans are carried out.

    Args:
        base: gives trace, its days and where signals come from; the last ``tune_days`` of its days are for tuning.
        purpose: what for.
        seed: of the training.
        number: of the fleet.
        tune_days: days at the end of ``base`` that are not trained on.
    """
    # Fleets that judge are the same whatever the seed of the training: seeds can be compared.
    rng = np.random.default_rng([purpose, seed if purpose is Purpose.TRAIN else 0, number])
    builder = Builder(random_fleet(rng, f"random-{purpose.name.lower()}-{number}"), base.builder.signals)
    power_down, load = power_down_of(rng), str(rng.choice(list(LOADS)))
    dispatch = Dispatch.ORDERED if rng.random() < 0.5 else Dispatch.SHARES
    middle = base.days - tune_days
    first, count = (0, middle) if purpose is Purpose.TRAIN else (middle, tune_days)
    signals_from, signal_days = _SIGNAL_DAYS[purpose]
    studies = [
        replace(
            base,
            builder=builder,
            days=1,
            first_day=base.first_day + first + int(rng.integers(count)),
            first_date=signals_from + timedelta(days=int(rng.integers(signal_days))),
            load=load,
            adjust=None,
            surprise=None,
        )
        for _ in range(_EPISODES[purpose])
    ]
    return [with_power_down(study, power_down) for study in studies], dispatch


def power_down_of(rng: np.random.Generator) -> PowerDown:
    """What the idle replicas of a fleet can do."""
    return list(_POWER_DOWN)[int(rng.choice(len(_POWER_DOWN), p=list(_POWER_DOWN.values())))]


def _groups(
    rng: np.random.Generator, zone: str, kinds: list[tuple[str, int]], hosted: np.ndarray[Any, Any]
) -> Iterator[_Group]:
    """Groups of one site: sizes differ from site to site by an order of magnitude, as they do."""
    here = [kind for kind in kinds if rng.random() < 0.7] or kinds[:1]
    for accelerator, gpus in here:
        size = float(np.exp(rng.uniform(np.log(4.0), np.log(60.0))))
        parts = rng.dirichlet(np.ones(len(hosted))) * hosted * size
        nodes = tuple(int(n) for n in np.ceil(parts))
        if sum(nodes):
            name = f"{accelerator.split('-')[0].lower()}x{gpus}"
            yield _Group(zone.lower(), name, accelerator, gpus, nodes)


def _site(rng: np.random.Generator, zone: str, groups: list[_Group]) -> dict[str, Any]:
    cop = float(next(row["cooling_cop"] for row in tables.rows("zones.csv") if row["zone"] == zone))
    facility = (
        {"coolingPerformance": f"{cop * rng.uniform(0.6, 1.6):.2f}"}
        if rng.random() < 0.5
        else {"powerUsageEffectiveness": f"{rng.uniform(1.08, 1.7):.2f}"}
    )
    return {
        "metadata": {"name": zone.lower()},
        "spec": {
            "location": {"region": zone.lower(), "zone": zone},
            "facility": facility,
            "nodeGroups": [
                {
                    "name": group.name,
                    "accelerator": group.accelerator,
                    "acceleratorsPerNode": group.gpus,
                    "nodes": sum(group.nodes),
                }
                for group in groups
                if group.site == zone.lower()
            ]
            or [{"name": "none", "accelerator": "A100-80GB", "acceleratorsPerNode": 8, "nodes": 0}],
        },
    }


def _model(rng: np.random.Generator, v: int) -> dict[str, Any]:
    """A built-in profile, or figures of its own: from a small fast model to a large slow one."""
    limit = int(rng.choice((1000, 2000, 5000, 8000)))
    if rng.random() < 0.6:
        name = _BUILT_IN[int(rng.integers(len(_BUILT_IN)))]
        return {"name": f"{name.lower()}-{v}", "built_in": name, "profile": {"builtIn": name}, "limit": limit}
    speed = float(np.exp(rng.uniform(np.log(0.2), np.log(4.0))))
    profile = {
        "prefillTokensPerSecond": round(6000 * speed),
        "decodeTokensPerSecond": round(900 * speed * rng.uniform(0.6, 1.6)),
        "singleStreamTokensPerSecond": round(28 * speed**0.5 + 5),
        "maxBatch": int(rng.choice((32, 64, 128))),
        "kvCapacityTokens": int(rng.uniform(60_000, 500_000)),
    }
    return {"name": f"own-{v}", "built_in": None, "profile": profile, "limit": limit}


def _pool(v: int, model: Mapping[str, Any], groups: list[_Group]) -> dict[str, Any]:
    backends = []
    for group in groups:
        tensor_parallel = _tensor_parallel(model["built_in"], group)
        replicas = group.nodes[v] * (group.gpus // tensor_parallel) if tensor_parallel else 0
        if replicas:
            backends.append(
                {
                    "name": f"{group.site}-{group.name}",
                    "datacenterName": group.site,
                    "url": f"https://{group.site}.example",
                    "capacity": {"nodeGroup": group.name, "replicas": replicas, "tensorParallel": tensor_parallel},
                }
            )
    return {
        "metadata": {"name": model["name"], "namespace": "default"},
        "spec": {
            "modelName": model["name"],
            "profile": model["profile"],
            "serviceLevel": {"timeToFirstTokenMilliseconds": model["limit"]},
            "backends": backends,
        },
    }


def _tensor_parallel(built_in: str | None, group: _Group) -> int:
    """GPUs of a replica; 0 where the model does not fit the nodes."""
    if built_in is None:
        return min(4, group.gpus)
    fits = [
        gpus
        for name, accelerator, gpus in available_profiles()
        if (name, accelerator) == (built_in, group.accelerator) and gpus <= group.gpus
    ]
    return min(fits, default=0)


def _policy(name: str, models: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "poolRefs": [{"name": model["name"]} for model in models],
            "planner": {"kind": "MeritOrder"},
            "origins": [{"name": zone.lower(), "zone": zone} for zone in available_zones()],
        },
    }
