"""Names in one object that another should have.

A cluster resolves references at run time and shows a condition; in a file everything is there at once, so a dangling
name is an error that can be told before anything starts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from marlin.api.documents import Documents
    from marlin.api.policy import MarlinPolicy
    from marlin.api.pool import InferencePool


def dangling_references(documents: Documents) -> list[str]:
    """One line for each name that leads nowhere, in the order of the documents."""
    return [*_pool_problems(documents), *_policy_problems(documents)]


def selected_pools(policy: MarlinPolicy, pools: tuple[InferencePool, ...]) -> tuple[InferencePool, ...]:
    """The pools of the policy's namespace that it plans."""
    mine = [pool for pool in pools if pool.metadata.namespace == policy.metadata.namespace]
    if policy.spec.pool_selector is not None:
        return tuple(pool for pool in mine if policy.spec.pool_selector.matches(pool.metadata.labels))
    wanted = {ref.name for ref in policy.spec.pool_refs or ()}
    return tuple(pool for pool in mine if pool.metadata.name in wanted)


def _pool_problems(documents: Documents) -> Iterator[str]:
    sites = {site.metadata.name: site for site in documents.datacenters}
    for pool in documents.pools:
        for backend in pool.spec.backends:
            where = f"InferencePool {pool.metadata.name}: backend {backend.name}"
            site = sites.get(backend.datacenter_name)
            if site is None:
                yield f"{where}: there is no Datacenter {backend.datacenter_name} in these files"
                continue
            groups = {group.name for group in site.spec.node_groups}
            if backend.capacity is not None and groups and backend.capacity.node_group not in groups:
                yield (
                    f"{where}: Datacenter {backend.datacenter_name} has no node group "
                    f"{backend.capacity.node_group}; it has {', '.join(sorted(groups))}"
                )


def _policy_problems(documents: Documents) -> Iterator[str]:
    regions = {site.spec.location.region for site in documents.datacenters}
    for policy in documents.policies:
        where = f"MarlinPolicy {policy.metadata.name}"
        chosen = {pool.metadata.name for pool in selected_pools(policy, documents.pools)}
        for ref in policy.spec.pool_refs or ():
            if ref.name not in chosen:
                yield f"{where}: there is no InferencePool {ref.name} in its namespace"
        if policy.spec.pool_selector is not None and not chosen:
            yield f"{where}: poolSelector selects no InferencePool of its namespace"
        for rule in policy.spec.residency:
            for region in rule.allowed_regions:
                if region not in regions:
                    yield f"{where}: residency {rule.name}: no Datacenter is in region {region}"
