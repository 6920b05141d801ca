"""What a router is started with: one value, made by the command line and read by everybody else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

BACKLOG: Final = 4096
"""Connections that may wait in a listening socket's queue: more than come at once while a worker is replaced."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Options of ``marlin router``. Times are seconds."""

    config: Path | None
    """File that holds the table, or the documents that make one; None: the first one is ``table_cache`` or watched."""
    host: str = "127.0.0.1"
    port: int = 8080
    """0: any free one, written to ``port_file``."""
    admin_host: str = "127.0.0.1"
    admin_port: int = 8081
    """Port of /metrics, /healthz, /readyz and /debug; 0: any free one."""
    workers: int = 1
    """Processes that serve requests. One core each is what they can use."""
    origin: str | None = None
    """Name of this router's origin; its row of the plan is used."""
    namespace: str | None = None
    """Namespace whose pools and policies are read from a file of documents; None: of all."""
    secrets_dir: Path | None = None
    """Folder under which Secrets are mounted, as NAME/KEY."""
    tls_certificate_file: Path | None = None
    """Certificate for clients, with its chain; None: they speak HTTP without TLS."""
    tls_key_file: Path | None = None
    tls_client_ca_file: Path | None = None
    """Authorities whose certificates clients must have; None: they need none."""
    tenants: Path | None = None
    """File that holds a list of tenants; None: everybody may send requests, and their credentials go on to backends."""
    peers: str | None = None
    """Name whose addresses are the routers that divide tenants' limits: a headless Service. None: there is one."""
    budget_store: str | None = None
    """Address of a Redis-protocol store in which routers add up tenants' budgets; None: each has its part."""
    budget_store_password_file: Path | None = None
    session_prompt_bytes: int = 0
    """Of a request without a session key, this much of its prompt's beginning is one; 0: it has none, and is drawn."""
    has_stream_estimates: bool = False
    """Whether an event stream ends with a comment that says what it cost."""
    connect_timeout_s: float = 2.0
    """Longest wait for a connection; then another backend is tried."""
    request_timeout_s: float = 1800.0
    """Longest a request may take. A JSON reply's first byte comes when its last token is made, so this is long."""
    stream_idle_timeout_s: float = 300.0
    """Longest silence of an event stream."""
    max_body_bytes: int = 100 * 2**20
    probe_interval_s: float = 2.0
    """Between two health probes of a backend; 0: none."""
    scrape_interval_s: float = 1.0
    """Between two looks at an engine's metrics; 0: none, and member routers are not asked either."""
    table_config_map: str | None = None
    """ConfigMap NAMESPACE/NAME[/KEY] to watch on an API server; once it was heard the file is not looked at."""
    table_server: str | None = None
    """Address of that API server; None: the pod's."""
    table_ca_file: Path | None = None
    table_token_file: Path | None = None
    table_cache: Path | None = None
    """File that the newest watched table is kept in, for a start while the API server is away."""
    reload_interval_s: float = 0.5
    """Between two looks at the file."""
    drain_grace_s: float = 3.0
    """After SIGTERM, how long new requests are still accepted, so that a load balancer sees /readyz first."""
    drain_timeout_s: float = 600.0
    """After that, how long running requests may take to end."""
    otlp_endpoint: str | None = None
    """Address of an OpenTelemetry collector that takes spans over HTTP; None: no traces."""
    trace_ratio: float = 1.0
    """Part of the requests without a ``traceparent`` that is traced."""
    has_access_log: bool = True
    log_format: str = "text"
    seed: int | None = None
    """Phase of the draws; None: a random one, so that routers do not march in step."""
    port_file: Path | None = None
    """Written when the router listens: its port, and on a second line the admin port."""
