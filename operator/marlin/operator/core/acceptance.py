"""Which policy plans which pools over which sites, or why it does not.

Two policies may select the same pool; the older one has it (then the one that is first by name), and the other is not
accepted at all: half a policy would surprise more than none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from marlin.api.datacenter import Datacenter
from marlin.api.policy import MarlinPolicy
from marlin.api.pool import InferencePool
from marlin.api.references import selected_pools
from marlin.api.values import MAX_DATACENTERS, MAX_POOLS
from marlin.operator.core.observed import Key, ObservedPolicy, ObservedPool, ObservedSite


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a policy's selection."""

    reason: str
    """Of the condition Accepted."""
    message: str
    pools: tuple[InferencePool, ...] = ()
    sites: tuple[Datacenter, ...] = ()
    """In the order of their names, so that positions in a plan do not depend on how objects were listed."""

    @property
    def is_accepted(self) -> bool:
        """Whether there is something to plan."""
        return self.reason == "Accepted"


def verdicts(
    policies: Sequence[ObservedPolicy], pools: Sequence[ObservedPool], sites: Sequence[ObservedSite]
) -> dict[Key, Verdict]:
    """The verdict on each policy, by its key."""
    readable_pools = tuple(pool.model for pool in sorted(pools, key=lambda p: p.key) if pool.model is not None)
    readable_sites = tuple(site.model for site in sorted(sites, key=lambda s: s.key) if site.model is not None)
    taken: dict[Key, str] = {}
    result: dict[Key, Verdict] = {}
    for policy in sorted(policies, key=lambda p: p.age_order):
        verdict = _verdict(policy, readable_pools, readable_sites, taken)
        result[policy.key] = verdict
        if verdict.is_accepted:
            taken.update({(policy.key[0], pool.metadata.name): policy.name for pool in verdict.pools})
    return result


def _verdict(
    policy: ObservedPolicy,
    pools: tuple[InferencePool, ...],
    sites: tuple[Datacenter, ...],
    taken: Mapping[Key, str],
) -> Verdict:
    if policy.model is None:
        return Verdict("InvalidSpec", policy.problem)
    chosen = selected_pools(policy.model, pools)
    if problem := _missing_pools(policy.model, chosen):
        return Verdict("PoolNotFound", problem)
    if len(chosen) > MAX_POOLS:
        return Verdict("TooManyPools", f"{len(chosen)} pools are selected; a policy plans at most {MAX_POOLS}")
    for pool in chosen:
        if owner := taken.get((policy.key[0], pool.metadata.name)):
            return Verdict(
                "OverlappingPolicy", f"InferencePool {pool.metadata.name} is planned by the older MarlinPolicy {owner}"
            )
    used = {backend.datacenter_name for pool in chosen for backend in pool.spec.backends}
    selector = policy.model.spec.datacenter_selector
    over = tuple(
        site
        for site in sites
        if site.metadata.name in used and (selector is None or selector.matches(site.metadata.labels))
    )
    if len(over) > MAX_DATACENTERS:
        return Verdict(
            "TooManyDatacenters", f"{len(over)} datacenters are selected; a policy plans over {MAX_DATACENTERS}"
        )
    if not over:
        return Verdict("DatacenterNotFound", "no backend of the selected pools is in a Datacenter that is selected")
    # What a cluster is made of is not known before it was seen; the others do not wait for it.
    unseen = tuple(site for site in over if not site.spec.node_groups and site.spec.cluster is not None)
    if len(unseen) == len(over):
        names = ", ".join(site.metadata.name for site in unseen[:5])
        return Verdict("DatacenterNotFound", f"no nodes with accelerators have been seen yet in {names}")
    over = tuple(site for site in over if site not in unseen)
    return Verdict(
        "Accepted", f"plans {_counted(len(chosen), 'pool')} over {_counted(len(over), 'datacenter')}", chosen, over
    )


def _missing_pools(policy: MarlinPolicy, chosen: tuple[InferencePool, ...]) -> str:
    found = {pool.metadata.name for pool in chosen}
    missing = [ref.name for ref in policy.spec.pool_refs or () if ref.name not in found]
    if missing:
        return f"there is no usable InferencePool {', '.join(missing[:5])} in namespace {policy.metadata.namespace}"
    return "" if chosen else "poolSelector selects no usable InferencePool of this namespace"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
