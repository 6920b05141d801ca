"""``router.*``: what the router costs, beside a reference that only passes bytes on (``router_parts``).

CPU time of the router's whole process tree, divided by the requests or events of the run; everything is switched on:
choice, breaker, metrics, access log. Contestants run side by side, a load of a third of a second goes to one after the
other, in turns. A ratio is taken in each turn, of the router's to the mean of the reference's two rounds before and
after it, and the median over all turns is the figure: what neighbours on a machine take comes and goes more slowly than
a turn lasts, so that it is the same above and below. (The lowest of each contestant, compared at last, differed by a
tenth between the reference and itself; it is still printed.) All are started anew for each sitting, because how a
process lies in memory is luck. Where the reference's two rounds differ by more than ``MAX_SELF_RATIO`` in the median,
the machine was too restless, and the figure is left out. Latencies are compared in the same way, beside nginx and
beside no router at all.
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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from figures import Figure, Group

HERE = Path(__file__).resolve().parent
PARTS = str(HERE / "router_parts.py")
SITTINGS = 3
ROUNDS = 8
MAX_SELF_RATIO = 1.05

REFERENCE, AGAIN, ROUTER, TWO_WORKERS = "reference", "reference again", "router", "router, two workers"
NGINX, DIRECT = "nginx", "no router"


@dataclass(frozen=True, slots=True)
class Scenario:
    """A load, and who bears it."""

    load: Mapping[str, float]
    contestants: Sequence[str]
    rounds: int = ROUNDS


SCENARIOS: dict[str, Scenario] = {
    "json": Scenario(
        {"clients": 64, "stream": 0, "delay_ms": 0, "warm_s": 0.1, "seconds": 0.3},
        (REFERENCE, ROUTER, AGAIN, TWO_WORKERS),
    ),
    "sse_burst": Scenario(
        {"clients": 64, "stream": 1, "delay_ms": 0, "warm_s": 0.1, "seconds": 0.3},
        (REFERENCE, ROUTER, AGAIN, TWO_WORKERS),
    ),
    "sse_paced": Scenario(
        {"clients": 256, "stream": 1, "delay_ms": 10, "spread": 1, "warm_s": 0.3, "seconds": 0.5},
        (REFERENCE, ROUTER, AGAIN),
    ),
    "streams_500": Scenario(
        {"clients": 500, "stream": 1, "delay_ms": 10, "spread": 1, "warm_s": 0.7, "seconds": 0.7},
        (DIRECT, REFERENCE, ROUTER, AGAIN, NGINX),
        rounds=4,
    ),
    "streams_500_at_once": Scenario(
        {"clients": 500, "stream": 1, "delay_ms": 10, "warm_s": 0.3, "seconds": 0.9},
        (REFERENCE, ROUTER, AGAIN),
        rounds=4,
    ),
    "idle": Scenario(
        {"clients": 1, "stream": 1, "delay_ms": 1, "events": 2, "warm_s": 0.1, "seconds": 0.4},
        (DIRECT, REFERENCE, ROUTER),
    ),
}

Results = Mapping[str, Mapping[str, Sequence[float]]]
"""What each contestant came to in each turn, by figure."""


def measure() -> Mapping[str, float]:
    """Runs everything."""
    values: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="marlin-bench-") as name:
        folder, upstream_port = Path(name), _free_port()
        table = folder / "table.json"
        table.write_text(json.dumps(_table(upstream_port)))
        with _process(sys.executable, PARTS, "upstream", str(upstream_port), core=1, port=upstream_port):
            for scenario in SCENARIOS:
                results = _run(scenario, folder, upstream_port)
                values |= _figures(scenario, results)
            values |= _sizes(table)
    return values


def _run(name: str, folder: Path, upstream_port: int) -> Results:
    """Runs a scenario."""
    scenario = SCENARIOS[name]
    results: dict[str, dict[str, list[float]]] = {}
    for _ in range(SITTINGS):
        with ExitStack() as stack:
            load = stack.enter_context(_loading())
            pids, ports = {}, {}
            for contestant in scenario.contestants:
                command, port = _command(contestant, folder, upstream_port)
                ports[contestant] = port
                if command:
                    pids[contestant] = stack.enter_context(_process(*command, core=0, port=port))
                    _wait_until_ready(command, port)
            for _ in range(scenario.rounds):
                for contestant, port in ports.items():
                    found = _round(load, dict(scenario.load) | {"port": port}, pids.get(contestant))
                    for figure, value in found.items():
                        results.setdefault(contestant, {}).setdefault(figure, []).append(value)
    for contestant, figures in results.items():
        print(f"router.{name}: {contestant}: {_text(figures)}", file=sys.stderr)
    return results


def _text(figures: Mapping[str, Sequence[float]]) -> str:
    return ", ".join(f"{figure} {median(values):.3f} (lowest {min(values):.3f})" for figure, values in figures.items())


def _round(load: subprocess.Popen[str], options: Mapping[str, float], pid: int | None) -> Mapping[str, float]:
    """One load on one contestant: CPU for each reply and event, and times."""
    assert load.stdin is not None
    assert load.stdout is not None
    load.stdin.write(json.dumps(options) + "\n")
    load.stdin.flush()
    load.stdout.readline()
    before_us = _cpu_us(pid) if pid is not None else 0.0
    result = json.loads(load.stdout.readline())
    used_us = _cpu_us(pid) - before_us if pid is not None else 0.0
    done = result["events" if options["stream"] else "replies"]
    if result["errors"] or not done:
        raise RuntimeError(f"{options}: {result}")
    times = {figure: value for figure, value in result.items() if figure.endswith("_ms")}
    return times | ({} if pid is None else {"cpu_us": used_us / done})


def _figures(name: str, results: Results) -> dict[str, float]:
    """The figures of a scenario that are not void."""
    if name == "idle":
        added_ms = median(results[ROUTER]["first_event_p50_ms"]) - median(results[DIRECT]["first_event_p50_ms"])
        return {"router.ttft_added_ms": added_ms}
    if name.startswith("streams_500"):
        found = _ratio(name, results, "first_event_p50_ms", f"router.{name}.first_event_vs_proto_pass")
        if NGINX in results:
            transits = {contestant: figures["transit_p99_ms"] for contestant, figures in results.items()}
            found["router.streams_500.transit_p99_ms"] = median(transits[ROUTER])
            found["router.streams_500.transit_p99_vs_nginx"] = _paired(transits[ROUTER], transits[NGINX])
        return found
    found = _ratio(name, results, "cpu_us", f"router.{name}.vs_proto_pass")
    if found and TWO_WORKERS in results:
        kind = "" if name == "json" else "sse_"
        ratio = _paired(results[TWO_WORKERS]["cpu_us"], results[ROUTER]["cpu_us"])
        found[f"router.two_workers.{kind}cpu_ratio"] = ratio
    return found


def _paired(values: Sequence[float], others: Sequence[float]) -> float:
    """The median of the ratios of each turn."""
    return median(value / other for value, other in zip(values, others, strict=True))


def _ratio(name: str, results: Results, figure: str, called: str) -> dict[str, float]:
    """The router's over the reference's, unless the reference is too unlike itself."""
    router, first, again = (results[contestant][figure] for contestant in (ROUTER, REFERENCE, AGAIN))
    both = [(one + other) / 2 for one, other in zip(first, again, strict=True)]
    self_ratio, ratio = _paired(again, first), _paired(router, both)
    self_ratio = max(self_ratio, 1 / self_ratio)
    void = " (void)" if self_ratio > MAX_SELF_RATIO else ""
    lowest = min(router) / min(*first, *again)
    lowest_self = max(min(first), min(again)) / min(*first, *again)
    print(
        f"router.{name}: {figure}: {ratio:.3f}; reference to itself {self_ratio:.3f}{void}; "
        f"of the lowest {lowest:.3f} and {lowest_self:.3f}",
        file=sys.stderr,
    )
    return {} if void else {called: ratio}


def _command(contestant: str, folder: Path, upstream_port: int) -> tuple[list[str], int]:
    """How a contestant is started, and where it listens; no command for what runs already."""
    if contestant == DIRECT:
        return [], upstream_port
    port = _free_port()
    if contestant == NGINX:
        return _nginx(folder, port, upstream_port), port
    if contestant in {REFERENCE, AGAIN}:
        return [sys.executable, PARTS, "pass", str(port), str(upstream_port)], port
    return _router(folder / "table.json", port, workers=2 if contestant == TWO_WORKERS else 1), port


def _nginx(folder: Path, port: int, upstream_port: int) -> list[str]:
    """Nginx as a proxy of event streams, with one worker.

    Raises:
        RuntimeError: there is none; the message says how to get one.
    """
    found = subprocess.run(
        [HERE.parent / "scripts/debian_tool.sh", "nginx", "--find"], capture_output=True, text=True, check=False
    )
    if found.returncode:
        raise RuntimeError(found.stderr.strip())
    home = folder / f"nginx-{port}"
    home.mkdir()
    file = home / "nginx.conf"
    file.write_text(_NGINX.format(home=home, port=port, upstream_port=upstream_port))
    return [found.stdout.strip(), "-c", str(file), "-p", str(home), "-e", str(home / "error.log")]


_NGINX = """
daemon off; worker_processes 1; pid {home}/pid; error_log {home}/error.log crit; worker_rlimit_nofile 16384;
events {{ worker_connections 8192; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 600s;
  client_body_temp_path {home}/body; proxy_temp_path {home}/proxy; fastcgi_temp_path {home}/fastcgi;
  uwsgi_temp_path {home}/uwsgi; scgi_temp_path {home}/scgi;
  upstream backend {{ server 127.0.0.1:{upstream_port}; keepalive 1024; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
    }}
  }}
}}
"""


@contextmanager
def _loading() -> Iterator[subprocess.Popen[str]]:
    """A load generator, beside the upstream."""
    pin = ["taskset", "-c", "1"] if (os.cpu_count() or 1) > 1 else []
    command = [*pin, sys.executable, PARTS, "load"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


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
        load = {"port": port, "clients": 1000, "stream": 1, "delay_ms": 50, "warm_s": 0, "seconds": 3}
        busy = subprocess.Popen(
            [sys.executable, PARTS, "load"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )
        assert busy.stdin is not None
        busy.stdin.write(json.dumps(load) + "\n")
        busy.stdin.close()
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
    if "router" in command:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=120) as answer:
            answer.read()


@contextmanager
def _process(*command: str, core: int | None, port: int) -> Iterator[int]:
    """A process on one core, for as long as the block runs, from when it listens; what it writes goes to a file."""
    pin = ["taskset", "-c", str(core)] if core is not None and (os.cpu_count() or 1) > 1 else []
    # As anywhere else, modules are compiled once and not at every start.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen([*pin, *command], stdout=log, stderr=log, env=environment) as process,
    ):
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
        Figure("router.two_workers.sse_cpu_ratio", "x", "the same with two workers, over one worker's"),
        Figure("router.sse_paced.vs_proto_pass", "x", "CPU per event, 256 streams of one event each 10 ms"),
        Figure(
            "router.streams_500.first_event_vs_proto_pass",
            "x",
            "500 streams of an event each 10 ms, begun at any time: median time to the first, over the reference's",
        ),
        Figure(
            "router.streams_500_at_once.first_event_vs_proto_pass",
            "x",
            "the same where all 500 begin in one moment, again and again",
        ),
        Figure("router.streams_500.transit_p99_ms", "ms", "the first: an event's way from upstream to client, p99"),
        Figure("router.streams_500.transit_p99_vs_nginx", "x", "the same, over nginx's"),
        Figure("router.ttft_added_ms", "ms", "one stream: median time to the first event, less that without a router"),
        Figure("router.ready_seconds", "s", "from the command to the first connection"),
        Figure("router.worker_rss_idle_mb", "MB", "memory of an idle worker"),
        Figure("router.worker_rss_1000_streams_mb", "MB", "highest memory of a worker with 1,000 open streams"),
        Figure("router.control_rss_mb", "MB", "memory of the control process"),
    ),
    measure=measure,
)
