"""``router.*``: what the router costs, beside a reference that only passes bytes on (``router_parts``).

CPU time of the router's whole process tree, divided by the requests or events of the run; everything is switched on:
choice, breaker, metrics, access log. Rounds alternate between reference, router and reference again, and the lowest of
each counts, because neighbours on a machine only ever add. The ratio of the reference to itself is measured in the same
rounds: where it exceeds ``MAX_SELF_RATIO``, the machine was too restless, and the figure is left out.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from figures import Figure, Group

HERE = Path(__file__).resolve().parent
PARTS = str(HERE / "router_parts.py")
ROUNDS = 5
SECONDS = 1.5
MAX_SELF_RATIO = 1.05

SCENARIOS: dict[str, dict[str, float]] = {
    "json": {"clients": 64, "stream": 0, "delay_ms": 0},
    "sse_burst": {"clients": 64, "stream": 1, "delay_ms": 0},
    "sse_paced": {"clients": 256, "stream": 1, "delay_ms": 10},
}


def measure() -> Mapping[str, float]:
    """Runs everything."""
    values: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="marlin-bench-") as folder:
        upstream_port = _free_port()
        with _process(sys.executable, PARTS, "upstream", str(upstream_port), core=1, port=upstream_port):
            table = Path(folder) / "table.json"
            table.write_text(json.dumps(_table(upstream_port)))
            for name, load in SCENARIOS.items():
                values |= _ratios(name, load, table, upstream_port)
            values |= _sizes(table)
    return values


def _ratios(name: str, load: dict[str, float], table: Path, upstream_port: int) -> dict[str, float]:
    """CPU per request or event over the reference's."""
    costs: dict[str, list[float]] = {}
    who = ["reference", "router", "again"] + (["two workers"] if name == "json" else [])
    for _ in range(ROUNDS):
        for contestant in who:
            costs.setdefault(contestant, []).append(_cost_us(contestant, load, table, upstream_port))
    lowest = {contestant: min(values) for contestant, values in costs.items()}
    pair = (lowest["reference"], lowest["again"])
    self_ratio = max(pair) / min(pair)
    unit = "event" if load["stream"] else "request"
    print(
        f"router.{name}: us of CPU for each {unit}: "
        + ", ".join(f"{contestant} {value:.2f}" for contestant, value in lowest.items())
        + f"; reference to itself {self_ratio:.3f}"
        + (" (void)" if self_ratio > MAX_SELF_RATIO else ""),
        file=sys.stderr,
    )
    if self_ratio > MAX_SELF_RATIO:
        return {}
    values = {f"router.{name}.vs_proto_pass": lowest["router"] / min(pair)}
    if name == "json":
        values["router.two_workers.cpu_ratio"] = lowest["two workers"] / lowest["router"]
    return values


def _cost_us(contestant: str, load: dict[str, float], table: Path, upstream_port: int) -> float:
    port = _free_port()
    if contestant in {"reference", "again"}:
        command = [sys.executable, PARTS, "pass", str(port), str(upstream_port)]
    else:
        command = _router(table, port, workers=2 if contestant == "two workers" else 1)
    with _process(*command, core=0, port=port) as pid:
        _wait_until_ready(command, port)
        _load(port, load | {"seconds": 0.5})
        before_us = _cpu_us(pid)
        result = _load(port, load | {"seconds": SECONDS})
        used_us = _cpu_us(pid) - before_us
    done = result["events" if load["stream"] else "replies"]
    if result["errors"] or not done:
        raise RuntimeError(f"{contestant}: {result}")
    return used_us / done


def _sizes(table: Path) -> dict[str, float]:
    """Start-up and memory."""
    port = _free_port()
    began_s = time.monotonic()
    command = _router(table, port, workers=1)
    with _process(*command, core=None, port=port) as pid:
        _wait_until_ready(command, port)
        ready_s = time.monotonic() - began_s
        time.sleep(0.5)
        control, worker = _tree(pid)[:2]
        idle_mb, control_mb = _rss_mb(worker), _rss_mb(control)
        busy = subprocess.Popen(
            [
                sys.executable,
                PARTS,
                "load",
                str(port),
                json.dumps({"clients": 1000, "stream": 1, "delay_ms": 50, "seconds": 3}),
            ],
            stdout=subprocess.DEVNULL,
        )
        highest_mb = 0.0
        while busy.poll() is None:
            highest_mb = max(highest_mb, _rss_mb(worker))
            time.sleep(0.1)
    return {
        "router.ready_seconds": ready_s,
        "router.worker_rss_idle_mb": idle_mb,
        "router.worker_rss_1000_streams_mb": highest_mb,
        "router.control_rss_mb": control_mb,
    }


def _table(upstream_port: int) -> dict[str, object]:
    backend = {
        "name": "b0",
        "datacenter": "dc0",
        "url": f"http://127.0.0.1:{upstream_port}",
        "tls": {"verification": "Disabled"},
        "capacityRps": 1.0,
    }
    return {
        "apiVersion": "marlin.dev/v1alpha1",
        "kind": "RoutingTable",
        "datacenters": [{"name": "dc0", "region": "r0"}],
        "pools": [{"name": "bench", "modelName": "bench", "backends": [backend]}],
    }


def _router(table: Path, port: int, workers: int) -> list[str]:
    options = ["--config", str(table), "--port", str(port), "--admin-port", "0", "--workers", str(workers)]
    return [sys.executable, "-m", "marlin.api.cli", "router", *options, "--drain-grace-s", "0"]


def _wait_until_ready(command: list[str], port: int) -> None:
    """A router's socket is there before its workers are: it is ready when it answers."""
    if PARTS not in command:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=120) as answer:
            answer.read()


@contextmanager
def _process(*command: str, core: int | None, port: int) -> Iterator[int]:
    """A process on one core, for as long as the block runs, from when it listens; what it writes goes to a file."""
    pin = ["taskset", "-c", str(core)] if core is not None and (os.cpu_count() or 1) > 1 else []
    with tempfile.TemporaryFile() as log, subprocess.Popen([*pin, *command], stdout=log, stderr=log) as process:
        try:
            deadline_s = time.monotonic() + 120
            while not _answers(port):
                if process.poll() is not None or time.monotonic() > deadline_s:
                    log.seek(0)
                    said = log.read().decode(errors="replace")[-500:]
                    raise RuntimeError(f"{' '.join(command)} does not listen: {said or 'it said nothing'}")
                time.sleep(0.02)
            yield process.pid
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def _load(port: int, options: dict[str, float]) -> dict[str, float]:
    pin = ["taskset", "-c", "1"] if (os.cpu_count() or 1) > 1 else []
    command = [*pin, sys.executable, PARTS, "load", str(port), json.dumps(options)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    return dict(json.loads(done.stdout))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _tree(pid: int) -> list[int]:
    found, at = [pid], 0
    while at < len(found):
        for task in Path(f"/proc/{found[at]}/task").iterdir():
            found += [int(child) for child in (task / "children").read_text().split()]
        at += 1
    return found


def _cpu_us(pid: int) -> float:
    """CPU time of a process and its descendants so far, all threads."""
    nanoseconds = 0
    for process in _tree(pid):
        for task in Path(f"/proc/{process}/task").iterdir():
            nanoseconds += int((task / "schedstat").read_text().split()[0])
    return nanoseconds / 1000


def _rss_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


GROUP = Group(
    name="router",
    figures=(
        Figure("router.json.vs_proto_pass", "x", "CPU per request, 1,000 bytes in and 380 out, over the reference's"),
        Figure("router.two_workers.cpu_ratio", "x", "the same with two workers, over one worker's"),
        Figure("router.sse_burst.vs_proto_pass", "x", "CPU per event, as fast as they go, over the reference's"),
        Figure("router.sse_paced.vs_proto_pass", "x", "CPU per event, 256 streams of one event each 10 ms"),
        Figure("router.ready_seconds", "s", "from the command to the first connection"),
        Figure("router.worker_rss_idle_mb", "MB", "memory of an idle worker"),
        Figure("router.worker_rss_1000_streams_mb", "MB", "highest memory of a worker with 1,000 open streams"),
        Figure("router.control_rss_mb", "MB", "memory of the control process"),
    ),
    measure=measure,
)
