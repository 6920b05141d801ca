"""A real Prometheus, as a process, that scrapes every second and has the chart's rules."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from chart_values import CHART, ROOT
from control_plane import free_port

RULES = sorted((CHART / "files" / "rules").glob("*.yaml"))


def program() -> Path:
    """Where it is; a test without it is skipped."""
    command = [str(ROOT / "scripts" / "debian_tool.sh"), "promtool", "--find"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        pytest.skip(run.stderr.strip())
    program = Path(run.stdout.strip()).parent / "prometheus"
    if not program.exists():
        pytest.skip("prometheus: not beside promtool")
    return program


class Prometheus:
    """One that scrapes every second and has the chart's rules."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url, self._session = url, session

    async def ask(self, path: str, **params: str) -> Any:
        async with self._session.get(f"{self.url}/api/v1/{path}", params=params) as response:
            answer = await response.json()
        assert answer["status"] == "success", answer
        return answer["data"]

    async def query(self, expression: str) -> list[dict[str, Any]]:
        return list((await self.ask("query", query=expression))["result"])

    async def until(self, expression: str) -> list[dict[str, Any]]:
        """Its value, once it has one."""
        for _ in range(300):
            if found := await self.query(expression):
                return found
            await asyncio.sleep(0.1)
        raise AssertionError(f"no value: {expression}")


@asynccontextmanager
async def prometheus_over(
    folder: Path, targets: Mapping[str, str], labels: Mapping[str, str] | None = None
) -> AsyncIterator[Prometheus]:
    """One over these jobs, a target each.

    Args:
        folder: where its configuration and data go.
        targets: job to HOST:PORT.
        labels: of every target.
    """
    labels = dict(labels or {"namespace": "marlin", "pod": "one"})
    jobs = [
        {"job_name": job, "static_configs": [{"targets": [address], "labels": labels}]}
        for job, address in targets.items()
    ]
    for file in RULES:
        (folder / file.name).write_text(file.read_text())
    every_second = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    config = {"global": every_second, "rule_files": [file.name for file in RULES], "scrape_configs": jobs}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    begin = (  # skips where there is none, before anything is opened
        str(program()),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
    )
    with (folder / "prometheus.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(*begin, stdout=log, stderr=log)
        try:
            async with aiohttp.ClientSession() as session:
                for _ in range(200):
                    with suppress(aiohttp.ClientError):
                        async with session.get(f"http://{address}/-/ready") as response:
                            if response.status == 200:
                                break
                    await asyncio.sleep(0.1)
                yield Prometheus(f"http://{address}", session)
        finally:
            process.terminate()
            await process.wait()
