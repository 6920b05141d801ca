"""``marlin operator`` as a process: signals, logs, and the pages that a kubelet and Prometheus ask for."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from marlin.api.errors import InputError
from marlin.operator.kube.access import Access, KubeconfigError, from_kubeconfig, in_cluster
from marlin.operator.plan_pages import plan_routes
from marlin.operator.running import Operator, Settings
from marlin.operator.telemetry.catalogue import MEASURES, PREFIX

_log: Final = logging.getLogger(__name__)


def find_access(kubeconfig: Path | None, environment: Mapping[str, str]) -> Access:
    """The cluster to watch.

    Raises:
        InputError: there is no kubeconfig and no service account.
    """
    if kubeconfig is not None:
        try:
            text = kubeconfig.expanduser().read_text(encoding="utf-8")
        except OSError as error:
            raise KubeconfigError(f"{kubeconfig}: {error.strerror}") from None
        return from_kubeconfig(text, where=str(kubeconfig), may_name_files=True)
    access = in_cluster(environment)
    if access is None:
        raise InputError("no cluster: give --kubeconfig, or run in a pod with a service account")
    return access


MOST_PORT: Final = 65_535


def serve(access: Access, settings: Settings, *, health_address: str, log_level: str) -> None:
    """Runs the operator until SIGTERM or SIGINT.

    Raises:
        MarlinError: the Lease was lost, a right stayed missing, or an address cannot be used.
    """
    logging.basicConfig(level=log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    host, _, port = health_address.rpartition(":")
    if not host or not (port.isascii() and port.isdigit() and int(port) <= MOST_PORT):
        raise InputError(f"--health-address: {health_address!r} should look like 127.0.0.1:8081")
    # Modules stay: a full collection that looks at them again would hold up a decision for tens of milliseconds.
    gc.collect()
    gc.freeze()
    asyncio.run(_serve(Operator(access, settings), host.strip("[]"), int(port)))


async def _serve(operator: Operator, host: str, port: int) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    runner = web.AppRunner(pages(operator), access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as error:
            raise InputError(f"--health-address: {host}:{port} cannot be used: {error.strerror}") from None
        _log.info("health on %s", ", ".join(str(address) for address in runner.addresses))
        await operator.run(stop)
    finally:
        await runner.cleanup()


def pages(operator: Operator) -> web.Application:
    """``/healthz`` (restart it when not 200), ``/readyz``, ``/metrics``, and plans to look at (``plan_pages``)."""
    registry = CollectorRegistry()
    registry.register(Collected(operator))

    async def healthz(_: web.Request) -> web.Response:
        wrong = operator.health(time.monotonic())
        return web.Response(text=wrong or "ok", status=503 if wrong else 200)

    async def readyz(_: web.Request) -> web.Response:
        if operator.last_failure:
            return web.Response(text=operator.last_failure, status=503)
        if operator.is_leader and not operator.rounds:
            return web.Response(text="no round yet", status=503)
        refused = list(operator.writer.refused.values()) if operator.writer is not None else []
        return web.Response(text="\n".join(["leader" if operator.is_leader else "standby", *refused[:10]]))

    async def metrics(_: web.Request) -> web.Response:
        # In a thread: a thousand pools over a dozen sites are many lines, and a Lease is renewed meanwhile.
        body = await asyncio.to_thread(lambda: generate_latest(registry) + generate_latest(operator.ledger.registry))
        return web.Response(body=body, content_type="text/plain", charset="utf-8")

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", metrics)])
    app.add_routes(plan_routes(operator))
    return app


class Collected(Collector):
    """What the process knows of itself, and what is so in the world."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client."""
        operator = self._operator
        yield _gauge("is_leader", float(operator.is_leader))
        yield _counter("rounds", operator.rounds)
        yield _counter("failed_rounds", operator.failed_rounds)
        if (writer := operator.writer) is not None:
            yield _gauge("refused_writes", len(writer.refused))
            yield _counter("refused_events", writer.events_refused)
        yield _counter("watch_restarts", operator.watch.restarts if operator.watch is not None else 0)
        if operator.last_round_s is not None:
            yield _gauge("last_round_age_seconds", time.monotonic() - operator.last_round_s)
        if operator.is_leader:  # what a standby knew once is not so any more
            yield from operator.levels.families(datetime.now(UTC))


def _gauge(name: str, value: float) -> Metric:
    return GaugeMetricFamily(f"{PREFIX}{name}", MEASURES[name].help, value=value)


def _counter(name: str, value: float) -> Metric:
    return CounterMetricFamily(f"{PREFIX}{name}", MEASURES[name].help, value=value)
