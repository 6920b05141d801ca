"""Documents to a ``RoutingTable``, and a ``RoutingTable`` to the plain ``view.Table`` that the hot path reads.

``control`` calls this with the text of a file. A file holds a RoutingTable, a ConfigMap that carries one, or the
Datacenter, InferencePool and MarlinPolicy documents that people write (``table_from_documents``); all that can be
resolved once is resolved here: the origin's row, residency, drained sites, positions in the plan, secrets. Nothing
here opens a file: secrets come from a function that is passed in.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from datetime import datetime
from ipaddress import ip_address
from typing import Final
from urllib.parse import SplitResult, urlsplit

from marlin.api.documents import MAX_DOCUMENT_BYTES, DocumentError, Documents, load_documents, validate
from marlin.api.plan import Dispatch, PoolPlan, RoutingPlan
from marlin.api.sending import SEND_TO, Destination, why_withheld
from marlin.api.table import RoutingTable, TableBackend, TableDatacenter, TablePool
from marlin.api.values import SHARE_SCALE, Tls, Verification
from marlin.router.fleet import table_of_fleet
from marlin.router.view import Backend, BackendTls, Datacenter, Ordered, PlanInfo, Pool, Shares, Site, Table

Secrets = Callable[[str], str]
"""Content of the secret file at a path ``secret/key``; raises DocumentError when it cannot be read."""

_EQUAL_CAPACITY: Final = 1.0


def read_table(text: str, source: str, origin: str | None = None, namespace: str | None = None) -> RoutingTable:
    """The table that a file's text stands for.

    Args:
        text: the file's content.
        source: its name, for messages.
        origin: name of the router's origin.
        namespace: namespace whose pools and policies are read; None: of all.

    Raises:
        DocumentError: it stands for none.
    """
    if text.lstrip()[:1] == "{" and len(text) <= MAX_DOCUMENT_BYTES:
        # A table written by a program is JSON: the YAML parser would take a hundred times as long for it.
        try:
            document = json.loads(text)
        except (ValueError, RecursionError):
            document = None
        if isinstance(document, dict) and document.get("kind") == "RoutingTable":
            return validate(RoutingTable, document, source)
    return table_from_documents(load_documents(text, source), source, origin, namespace)


def table_from_documents(
    documents: Documents, source: str = "configuration", origin: str | None = None, namespace: str | None = None
) -> RoutingTable:
    """The one table among ``documents``, or the one that its Datacenters, InferencePools and MarlinPolicies make.

    The plan is the ``status.plan`` of the MarlinPolicy with mode Enforce; without one, routers go by capacity.

    Args:
        documents: what was read.
        source: where from, for messages.
        origin: name of the router's origin, for residency rules that hold for some origins only.
        namespace: namespace whose pools and policies are read; None: of all.

    Raises:
        DocumentError: there is no table in it, or more than one.
    """
    if documents.tenant_lists:
        raise DocumentError(f"{source}: holds a TenantList; give it with --tenants")
    if len(documents.tables) > 1:
        raise DocumentError(f"{source}: holds {len(documents.tables)} RoutingTables; a router reads one")
    if documents.tables:
        if documents.datacenters or documents.pools or documents.policies:
            raise DocumentError(f"{source}: holds a RoutingTable and other kinds; give either, not both")
        return documents.tables[0]
    return table_of_fleet(documents, source, origin, namespace)


def view_of(table: RoutingTable, plan: RoutingPlan | None, origin: str | None, secrets: Secrets) -> Table:
    """The table as the hot path reads it, with ``plan`` in force.

    Args:
        table: the validated table; its own plan is ignored, because it may not have begun.
        plan: the plan in force; None: by capacity.
        origin: name of the router's origin; its row of the plan is used where there is one.
        secrets: looks up a mounted secret.

    Raises:
        DocumentError: a secret is missing, or an address holds credentials.
    """
    datacenters = {d.name: _datacenter(d) for d in table.datacenters}
    return Table.of(
        generation=table.generation,
        pools=tuple(_pool(pool, datacenters, plan, origin, secrets) for pool in table.pools),
        datacenters=tuple(datacenters.values()),
        plan=None if plan is None else _plan_info(plan),
    )


def secret_paths(table: RoutingTable) -> set[str]:
    """Paths below the mount of Secrets that ``view_of`` asks for or that connections read."""
    paths = set()
    for backend in (backend for pool in table.pools for backend in pool.backends):
        if backend.credentials_mount is not None:
            paths |= {backend.credentials_mount, _send_to_path(backend.credentials_mount)}
        paths |= {path for path in _tls_paths(backend.tls) if path is not None}
    return paths


def _plan_info(plan: RoutingPlan) -> PlanInfo:
    return PlanInfo(
        epoch=plan.epoch,
        decided_s=plan.decided_time.timestamp(),
        valid_from_s=plan.valid_from.timestamp(),
        valid_until_s=plan.valid_until.timestamp(),
        planner=plan.planner.value,
        content_hash=plan.hash or plan.content_hash(),
    )


def _datacenter(datacenter: TableDatacenter) -> Datacenter:
    return Datacenter(
        name=datacenter.name,
        region=datacenter.region,
        service_state=datacenter.service_state.value,
        intensity=datacenter.intensity(),
        signals_valid_until_s=_unix_s(datacenter.signals_valid_until),
    )


def _pool(
    pool: TablePool, datacenters: dict[str, Datacenter], plan: RoutingPlan | None, origin: str | None, secrets: Secrets
) -> Pool:
    backends = [_backend(pool, backend, secrets) for backend in pool.backends]
    if not any(backend.capacity_rps > 0 for backend in backends):
        backends = [_backend(pool, backend, secrets, _EQUAL_CAPACITY) for backend in pool.backends]
    sites = tuple(
        Site(datacenter, here)
        for datacenter in datacenters.values()
        if datacenter.service_state == "Active"
        and (not pool.allowed_regions or datacenter.region in pool.allowed_regions)
        and (here := tuple(backend for backend in backends if backend.datacenter == datacenter.name))
    )
    slo_s = pool.service_level.time_to_first_token_milliseconds / 1000
    row = plan.pool(pool.name) if plan is not None else None
    if plan is not None and row is not None:
        weights = [weight / SHARE_SCALE for weight in _aligned(plan, _row_of(plan, row, origin), sites)]
        if any(weights):
            shares = _normalised(weights)
            rule = _rule(plan, row, sites, shares)
            return Pool(pool.name, pool.model_name, sites, rule, shares, is_planned=True, ttft_slo_s=slo_s)
    # No plan, none for this pool, or one whose datacenters are all drained, forbidden or gone: by capacity.
    capacities = [math.fsum(backend.capacity_rps for backend in site.backends) for site in sites]
    shares = _normalised(capacities if any(capacities) else [_EQUAL_CAPACITY] * len(sites))
    return Pool(pool.name, pool.model_name, sites, Shares(shares), shares, is_planned=False, ttft_slo_s=slo_s)


def _row_of(plan: RoutingPlan, row: PoolPlan, origin: str | None) -> Sequence[int]:
    if origin is not None and row.by_origin and origin in plan.origins:
        return row.by_origin[plan.origins.index(origin)]
    return row.weights


def _rule(plan: RoutingPlan, row: PoolPlan, sites: tuple[Site, ...], shares: tuple[float, ...]) -> Shares | Ordered:
    if row.dispatch is Dispatch.SHARES:
        return Shares(shares)
    positions = {site.name: i for i, site in enumerate(sites)}
    order = tuple(positions[name] for i in row.order if (name := plan.datacenters[i]) in positions)
    if not order:
        return Shares(shares)
    return Ordered(order, tuple(cap / SHARE_SCALE for cap in _aligned(plan, row.cap, sites)))


def _aligned(plan: RoutingPlan, values: Sequence[int], sites: tuple[Site, ...]) -> list[int]:
    """(S,) a row of the plan in the order of the pool's sites; 0 for a site that the plan does not know."""
    by_name = dict(zip(plan.datacenters, values, strict=True))
    return [by_name.get(site.name, 0) for site in sites]


def _normalised(values: Sequence[float]) -> tuple[float, ...]:
    total = math.fsum(values)
    return tuple(value / total for value in values) if total > 0 else tuple(values)


def _backend(pool: TablePool, backend: TableBackend, secrets: Secrets, capacity_rps: float | None = None) -> Backend:
    url = urlsplit(backend.url)
    if url.username is not None or url.password is not None:
        raise DocumentError(
            f"pool {pool.name}: backend {backend.name}: url holds credentials; use credentialsMount instead"
        )
    if _is_link_local(url.hostname or ""):
        # Where clouds keep their machines' credentials: never an inference backend.
        raise DocumentError(f"pool {pool.name}: backend {backend.name}: {url.hostname} is a link-local address")
    if url.query or url.fragment:
        raise DocumentError(f"pool {pool.name}: backend {backend.name}: url must end with the path, without ? or #")
    token = None if backend.credentials_mount is None else secrets(backend.credentials_mount).strip()
    if backend.credentials_mount is not None:
        origin = _destination(url, backend.tls)
        if problem := why_withheld(secrets(_send_to_path(backend.credentials_mount)), origin):
            raise DocumentError(
                f"pool {pool.name}: backend {backend.name}: Secret {backend.credentials_mount} is not sent to "
                f"{origin.origin}: {problem}; whoever owns the Secret may add it"
            )
    if token is not None and not (token and token.isascii() and token.isprintable()):
        raise DocumentError(
            f"pool {pool.name}: backend {backend.name}: {backend.credentials_mount} does not hold a token in one line"
        )
    return Backend(
        pool=pool.name,
        name=backend.name,
        datacenter=backend.datacenter,
        url=backend.url.rstrip("/"),
        capacity_rps=backend.capacity_rps if capacity_rps is None else capacity_rps,
        concurrency_at_capacity=backend.concurrency_at_capacity,
        max_concurrent_requests=backend.max_concurrent_requests,
        is_member_router=backend.is_member_router,
        joules_per_prompt_token=backend.joules_per_prompt_token,
        joules_per_output_token=backend.joules_per_output_token,
        energy_in_flight=() if (curve := backend.energy_by_load) is None else curve.in_flight,
        energy_factor=() if curve is None else curve.factor,
        rtt_s=backend.rtt_ms / 1000.0,
        tls=_tls(backend.tls),
        authorization=None if token is None else f"Bearer {token}",
    )


def _send_to_path(mount: str) -> str:
    """Where a mounted Secret says what it may be sent to."""
    return f"{mount.rpartition('/')[0]}/{SEND_TO}"


def _destination(url: SplitResult, tls: Tls) -> Destination:
    port = url.port or (443 if url.scheme == "https" else 80)
    is_verified = tls.verification is Verification.REQUIRED
    return Destination(url.scheme, url.hostname or "", port, is_verified, tls.server_name)


def _is_link_local(host: str) -> bool:
    try:
        return ip_address(host).is_link_local
    except ValueError:  # a name
        return False


def _tls(tls: Tls) -> BackendTls:
    ca_file, certificate_file, key_file = _tls_paths(tls)
    return BackendTls(
        is_verified=tls.verification is Verification.REQUIRED,
        server_name=tls.server_name,
        ca_file=ca_file,
        certificate_file=certificate_file,
        key_file=key_file,
    )


def _tls_paths(tls: Tls) -> tuple[str | None, str | None, str | None]:
    ca, client = tls.ca_secret_ref, tls.client_certificate_secret_ref
    return (
        None if ca is None else f"{ca.name}/ca.crt",
        None if client is None else f"{client.name}/tls.crt",
        None if client is None else f"{client.name}/tls.key",
    )


def _unix_s(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()
