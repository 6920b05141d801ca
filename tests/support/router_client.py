"""A router in the test's own loop, and a client that talks to it; the fixtures are in tests/router/conftest.py."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import aiohttp

from marlin.router.server import Router


def table(*backends: str, **changes: Any) -> dict[str, Any]:
    """A RoutingTable with one pool and a site for each backend's address."""
    return {
        "apiVersion": "marlin.dev/v1alpha1",
        "kind": "RoutingTable",
        "datacenters": [{"name": f"dc{i}", "region": f"region{i}"} for i in range(len(backends))],
        "pools": [
            {
                "name": "chat",
                "modelName": "m",
                "backends": [
                    {
                        "name": f"b{i}",
                        "datacenter": f"dc{i}",
                        "url": url,
                        "tls": {"verification": "Disabled"},
                        "capacityRps": 1.0,
                    }
                    for i, url in enumerate(backends)
                ],
            }
        ],
    } | changes


def write(path: Path, document: dict[str, Any]) -> None:
    """Replaces the configuration in one step, as the operator does."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(document))
    os.replace(part, path)  # noqa: PTH105


class Client:
    """A router and a session that talks to it."""

    def __init__(self, router: Router, session: aiohttp.ClientSession, config: Path) -> None:
        self.router = router
        self.session = session
        self.config = config
        self.url = f"http://127.0.0.1:{router.port}"

    def post(
        self,
        body: bytes | io.BytesIO | dict[str, Any] | None = None,
        path: str = "/v1/chat/completions",
        **kwargs: Any,
    ) -> Any:
        """A POST; without a body a request that only names the model."""
        data = body if isinstance(body, bytes | io.BytesIO) else json.dumps(body or {"model": "m"}).encode()
        headers = {"content-type": "application/json"} | kwargs.pop("headers", {})
        return self.session.post(self.url + path, data=data, headers=headers, **kwargs)

    async def metric(self, name: str) -> float:
        """Sum over the labels of a metric."""
        async with self.session.get(f"{self.url}/metrics") as response:
            text = await response.text()
        values = [
            line.rsplit(" ", 1)[1] for line in text.splitlines() if line.startswith(name) and line[len(name)] in "{ "
        ]
        return sum(map(float, values))


Start = Callable[..., AbstractAsyncContextManager[Client]]
