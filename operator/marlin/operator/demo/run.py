"""Directs the demo: start, replay once per planner, sum up, end everything.

Each planner's column is a replay of the same requests against the same processes, one after the other, so that two
cores serve one replay at a time. ``serve_demo`` leaves the load to the person at the keyboard.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import time
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, TypeVar

import numpy as np
from rich.console import Console

from marlin.api.errors import MarlinError
from marlin.api.plan import Dispatch, PlannerKind, Scheme
from marlin.operator.demo.display import ReplayDisplay, make_console, print_result
from marlin.operator.demo.fleet import Fleet
from marlin.operator.demo.load import Outcome, replay
from marlin.operator.demo.loop import Arrivals, PlanningLoop, write_table
from marlin.operator.demo.processes import Processes, Service
from marlin.operator.demo.report import Column, make_column, to_json
from marlin.operator.demo.schedule import PlannedRequest, make_schedule
from marlin.operator.demo.settings import DemoSettings
from marlin.policy.planner import Planner
from marlin.policy.planners import FILLED_IN_TURN, make_planner

T = TypeVar("T")

START_DELAY_S: Final = 1.0
"""From the first plan to the first request: routers look for a new table more often than that."""

WARM_UP_REQUESTS: Final = 12
"""Sent and forgotten before the first replay, so that no planner pays for first connections."""


@dataclass(frozen=True, slots=True)
class Stack:
    """What runs: routers by origin, and the files they read their tables from."""

    processes: Processes
    fleet: Fleet
    routers: dict[str, Service]
    table_files: dict[str, Path]

    def addresses(self) -> dict[str, str]:
        """Origin to base address."""
        return {origin: service.url for origin, service in self.routers.items()}


def run_demo(settings: DemoSettings, json_file: Path | None) -> int:
    """Runs all columns and prints the table.

    Returns:
        Exit code: 0, or 1 when a request failed or was lost.
    """
    console = make_console(is_stdout_taken=str(json_file) == "-")
    started_s = time.monotonic()
    try:
        columns = asyncio.run(_until_told_to_stop(_replays(settings, console)))
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("interrupted; everything that was started has been ended")
        return 130
    seconds = time.monotonic() - started_s
    reference = PlannerKind.CAPACITY_PROPORTIONAL.option
    print_result(console, columns, reference, _notes(settings, seconds, reference))
    if json_file is not None:
        result = to_json(columns, seconds=round(seconds, 2), seed=settings.seed, epochs=settings.epochs)
        text = json.dumps(result, indent=2) + "\n"
        if str(json_file) == "-":
            sys.stdout.write(text)
        else:
            json_file.write_text(text, encoding="utf-8")
    return _verdict(console, columns)


def serve_demo(settings: DemoSettings, port: int) -> None:
    """Stays up until Ctrl-C or SIGTERM, planning epoch after epoch."""
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(settings, port, make_console(is_stdout_taken=False)))


async def _until_told_to_stop(work: Coroutine[Any, Any, T]) -> T:
    """Does the work; SIGTERM, and the SIGHUP of a terminal that is closed, cancel it so that it cleans up."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, task.cancel)
    return await task


async def _replays(settings: DemoSettings, console: Console) -> list[Column]:
    columns: list[Column] = []
    planners = {kind: _planner(kind, settings) for kind in settings.planners}  # before anything is started
    async with _stack(settings, console) as stack:
        requests = stack.fleet.requests_per_epoch(settings)
        rng = np.random.default_rng(settings.seed)
        schedule = make_schedule(
            rng,
            requests_per_epoch=requests[1:],
            epoch_s=settings.epoch_wall_s,
            origins=stack.fleet.origins,
            token_sizes=stack.fleet.token_sizes(settings),
            stream_fraction=settings.stream_fraction,
        )
        await _warm_up(stack, schedule)
        if console.is_terminal:
            console.print(f"answered, hour (UTC), plan for {'/'.join(stack.fleet.sites)}, time to first token:")
        for number, planner in enumerate(planners.values()):
            columns.append(await _replay_column(planner, number, stack, schedule, requests[0], settings, console))
            if (name := stack.processes.ended()) is not None:
                raise MarlinError(f"{name} ended during the replay")
    return columns


async def _replay_column(
    planner: Planner,
    number: int,
    stack: Stack,
    schedule: tuple[PlannedRequest, ...],
    requests_before: int,
    settings: DemoSettings,
    console: Console,
) -> Column:
    name = _column_name(planner.kind, settings)
    display = ReplayDisplay(console, name, len(schedule), settings.compression, settings.hours_per_epoch)
    origins = stack.fleet.origins
    arrivals = Arrivals(origins, dict.fromkeys(origins, requests_before / len(origins)))
    loop = PlanningLoop(
        fleet=stack.fleet,
        planner=planner,
        settings=settings,
        arrivals=arrivals,
        table_files=stack.table_files,
        first_generation=(number + 1) * 10_000,
        on_plan=display.on_plan,
    )

    def on_sent(request: PlannedRequest) -> None:
        display.on_sent()
        arrivals.note(int(request.at_s // settings.epoch_wall_s), request.origin)

    with display.running():
        started_at = datetime.now(UTC) + timedelta(seconds=START_DELAY_S)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(loop.run(started_at, settings.epochs))
            await asyncio.sleep((started_at - datetime.now(UTC)).total_seconds())
            outcomes = await replay(
                schedule, stack.addresses(), stack.fleet.model, on_sent=on_sent, on_outcome=display.on_outcome
            )
    return make_column(
        name,
        display.sent,
        outcomes,
        stack.fleet.footprint(outcomes, settings),
        sites=stack.fleet.sites,
        compression=settings.compression,
    )


@contextlib.asynccontextmanager
async def _stack(settings: DemoSettings, console: Console, port: int = 0) -> AsyncIterator[Stack]:
    """Emulators and routers, started and in the end ended."""
    fleet = Fleet.shipped()
    with TemporaryDirectory(prefix="marlin-demo-") as folder:
        async with Processes(Path(folder)) as processes:
            with console.status(f"starting {len(fleet.sites)} emulated datacenters and {len(fleet.origins)} routers"):
                emulators = await asyncio.gather(
                    *(
                        processes.start(site, *fleet.emulator_arguments(site, settings), ready_path="/health")
                        for site in fleet.sites
                    )
                )
                fleet = fleet.with_addresses({service.name: service.url for service in emulators})
                files = {origin: Path(folder) / f"table-{origin}.json" for origin in fleet.origins}
                state = fleet.state(0, (0.0,) * len(fleet.origins), settings)
                for origin, file in files.items():
                    write_table(file, fleet.table(state, None, origin, settings, generation=1))
                routers = await asyncio.gather(
                    *(
                        processes.start(
                            f"router-{origin}",
                            *("router", "--config", str(files[origin]), "--origin", origin, "--no-access-log"),
                            *("--admin-port", "0", "--scrape-interval-s", str(settings.scrape_interval_wall_s)),
                            ready_path="/readyz",
                            port=port + i if port else 0,
                        )
                        for i, origin in enumerate(fleet.origins)
                    )
                )
            yield Stack(processes, fleet, dict(zip(fleet.origins, routers, strict=True)), files)


async def _warm_up(stack: Stack, schedule: tuple[PlannedRequest, ...]) -> None:
    def ignore(_: PlannedRequest | Outcome) -> None:
        """Warm-up requests count nowhere."""

    some = [
        PlannedRequest(i, 0.0, stack.fleet.origins[i % len(stack.fleet.origins)], 64, 4, is_stream=i % 2 == 0)
        for i in range(min(WARM_UP_REQUESTS, len(schedule)))
    ]
    await replay(some, stack.addresses(), stack.fleet.model, on_sent=ignore, on_outcome=ignore)


async def _serve(settings: DemoSettings, port: int, console: Console) -> None:
    planner = _planner(settings.planner, settings)
    async with _stack(settings, console, port) as stack:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, stop.set)
        display = ReplayDisplay(console, "plan", 0, settings.compression, settings.hours_per_epoch)
        planning = PlanningLoop(
            fleet=stack.fleet,
            planner=planner,
            settings=settings,
            arrivals=Arrivals(stack.fleet.origins, dict.fromkeys(stack.fleet.origins, 1.0)),
            table_files=stack.table_files,
            first_generation=10_000,
            on_plan=display.on_plan if console.is_terminal else lambda *_: None,
        )
        task = asyncio.create_task(planning.run(datetime.now(UTC)))
        console.print(_serve_help(stack), highlight=False, soft_wrap=True)
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
        for pending in (task, stopping):
            pending.cancel()
        await asyncio.gather(stopping, return_exceptions=True)
        with contextlib.suppress(asyncio.CancelledError):
            await task
    console.print("ended")


def _planner(kind: PlannerKind, settings: DemoSettings) -> Planner:
    scheme = settings.scheme if kind in FILLED_IN_TURN else Scheme.BALANCED
    # Nearest means fixed rows by origin; filling one order for everybody would be another planner.
    dispatch = Dispatch.ORDERED if kind in FILLED_IN_TURN else Dispatch.SHARES
    artifact = settings.artifact if kind is PlannerKind.MARLIN else None
    return make_planner(kind, scheme=scheme, dispatch=dispatch, artifact=artifact)


def _column_name(kind: PlannerKind, settings: DemoSettings) -> str:
    return f"{kind.option} {settings.scheme.option}" if kind in FILLED_IN_TURN else kind.option


def _notes(settings: DemoSettings, seconds: float, reference: str) -> list[str]:
    fleet_s = settings.epochs * settings.epoch_fleet_s
    return [
        f"Measured over real HTTP on this machine: GPU and network times are compressed {settings.compression:g}x and "
        f"shown at fleet scale; TTFT of the streamed requests.",
        f"Modelled by the twin from what each site served: {fleet_s:g} s of fleet time spread over a day of carbon, "
        f"water and price, idle power included. (%) is against {reference}.",
        f"Seed {settings.seed}, {seconds:.0f} s.",
    ]


def _verdict(console: Console, columns: list[Column]) -> int:
    for column in columns:
        if column.failed or column.lost:
            console.print(
                f"{column.planner}: {column.failed} failed, {column.lost} lost of {column.sent}; first error: "
                f"{column.first_error}",
                highlight=False,
                soft_wrap=True,
            )
    return int(any(column.failed or column.lost or not column.answered for column in columns))


def _serve_help(stack: Stack) -> str:
    first = next(iter(stack.addresses().values()))
    admin = next(iter(stack.routers.values())).admin_url
    others = "\n".join(f"  {origin:<6} {url}" for origin, url in stack.addresses().items())
    model = stack.fleet.model
    return f"""
A router listens for each region that requests come from:
{others}

With curl:
  curl -sN {first}/v1/chat/completions -H 'content-type: application/json' -D - \\
    -d '{{"model": "{model}", "stream": true, "max_tokens": 16, "messages": [{{"role": "user", "content": "Hello"}}]}}'

With the openai package:
  from openai import OpenAI
  client = OpenAI(base_url="{first}/v1", api_key="none")
  print(client.chat.completions.create(model="{model}", max_tokens=16,
        messages=[{{"role": "user", "content": "Hello"}}]).choices[0].message.content)

The header x-marlin-datacenter says who answered, {admin}/metrics what happened. Ctrl-C ends it.
"""
