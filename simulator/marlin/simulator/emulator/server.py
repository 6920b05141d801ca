"""The HTTP server: what every request passes, where it goes, and how the server starts and ends.

One handler serves every path, so that an unknown path, a wrong method and a missing key are answered as by vLLM. In
order: faults that break connections, the API key, the path, the state of the engine, then the endpoint. Everything
under ``/emulator/`` is the emulator's own and passes none of these.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
import zlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from aiohttp import web

from marlin.simulator.emulator.batching import Limits
from marlin.simulator.emulator.control import Control
from marlin.simulator.emulator.engine import Engine
from marlin.simulator.emulator.errors import RequestError, busy, dead, read_json, shutting_down
from marlin.simulator.emulator.faults import Fault, FaultBoard, FaultName
from marlin.simulator.emulator.generate import Generator, forever
from marlin.simulator.emulator.pooling import Pooler, count_tokens_reply, detokenize_reply, tokenize_reply
from marlin.simulator.emulator.protocols import PROTOCOLS
from marlin.simulator.emulator.protocols.base import Context, random_id
from marlin.simulator.emulator.replies import (
    dress,
    empty_reply,
    error_reply,
    json_reply,
    reset,
    text_reply,
    unauthorized,
)
from marlin.simulator.emulator.settings import Settings
from marlin.simulator.emulator.telemetry import Telemetry
from marlin.simulator.emulator.timing import Compressed

VERSION: Final = "0.32.0"
"""The vLLM that is emulated."""

KEEP_ALIVE_S: Final = 5.0
"""How long an idle connection is kept, as uvicorn does; a client that reuses a later one finds it closed."""

MAX_BODY_BYTES: Final = 64 * 2**20

ORIGIN_HEADER: Final = "x-marlin-origin"
"""Where a request came from, as the router tells its backends."""

CLOSING_S: Final = 0.5
"""After all sequences are aborted: time for the replies to be written."""

CUTTING_S: Final = 0.1
"""After that: time for what hangs, such as a stalled request, to be cancelled."""

UNCOUNTED: Final = frozenset({"/metrics", "/health", "/load", "/ping", "/version"})
"""Paths that the http_* metrics leave out."""

Endpoint = Callable[[web.Request, Mapping[FaultName, Fault]], Awaitable[web.StreamResponse]]


class Server:
    """An emulated vLLM; made inside a running event loop."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.faults = FaultBoard()
        self.telemetry = Telemetry(settings.model, settings.max_model_len)
        profile = settings.profile
        limits = Limits(
            max_num_seqs=min(settings.max_num_seqs, profile.max_batch),
            kv_capacity_tokens=profile.kv_capacity_tokens,
            max_num_batched_tokens=settings.max_num_batched_tokens,
        )
        self.engine = Engine(
            limits,
            Compressed(profile, settings.time_compression),
            self.telemetry,
            replicas=settings.replicas,
            max_num_queued_reqs=settings.max_num_queued_reqs,
        )
        self._generator = Generator(settings, self.engine, random.Random(settings.seed))
        self._pooler = Pooler(settings, self.engine)
        self._control = Control(self.faults, self.engine)
        self._created_s = int(time.time())
        self._fingerprint = f"vllm-{VERSION}-{zlib.crc32(f'{settings.model} {settings.max_model_len}'.encode()):08x}"
        self._load = 0
        self._draining = False
        self._routes = self._table()
        self._runner: web.AppRunner | None = None
        for fault in settings.faults:
            self.faults.set(fault)

    async def start(self, host: str, port: int) -> int:
        """Begins to listen; returns the port.

        Raises:
            OSError: the address cannot be had.
        """
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.router.add_route("*", "/{path:.*}", self._handle)
        app.on_response_prepare.append(self._dress)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            handler_cancellation=True,
            keepalive_timeout=KEEP_ALIVE_S,
            shutdown_timeout=CUTTING_S,
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port, backlog=1024)
        await site.start()
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Ends as vLLM does on SIGTERM.

        With a shutdown timeout running requests are finished within it, while new ones get 500. Whatever then runs is
        aborted: a stream ends with the finish reason ``abort``.
        """
        self._draining = True
        await self._replies(self.settings.shutdown_timeout_s)
        self.engine.abort_all()
        await self._replies(CLOSING_S)
        if self._runner is not None:
            await self._runner.cleanup()
        self.engine.close()

    async def _replies(self, timeout_s: float) -> None:
        """Waits until no reply is under way, at most so long."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + timeout_s
        while self._load and loop.time() < deadline_s:  # noqa: ASYNC110  the timeout ends it too
            await asyncio.sleep(0.01)

    async def _dress(self, _: web.Request, reply: web.StreamResponse) -> None:
        dress(reply, self.settings.datacenter)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        if path.startswith("/emulator/"):
            return await self._control.handle(request)
        known = self._routes.get(path)
        inference = path in self._inference and request.method == "POST"
        struck = self.faults.strike(inference=inference)
        if "refuse" in struck:
            reset(request)
            return empty_reply()  # goes nowhere
        if "stall" in struck:
            await forever()
        started_s = time.perf_counter()
        status, size = 500, 0
        try:
            reply = await self._answer(request, known, struck, inference=inference)
            status, size = reply.status, reply.content_length or 0
        finally:
            if path not in UNCOUNTED:
                self._count(request, path if known else "none", status, size, time.perf_counter() - started_s)
        return reply

    async def _answer(
        self,
        request: web.Request,
        known: Mapping[str, Endpoint] | None,
        struck: Mapping[FaultName, Fault],
        *,
        inference: bool,
    ) -> web.StreamResponse:
        """The reply, errors included."""
        if not self._allowed(request):
            return unauthorized()
        if known is None:
            return json_reply({"detail": "Not Found"}, 404)
        endpoint = known.get(request.method)
        if endpoint is None:
            return json_reply({"detail": "Method Not Allowed"}, 405, {"allow": ", ".join(known)})
        protocol = PROTOCOLS.get(request.path)
        anthropic = protocol is not None and protocol.anthropic_errors
        try:
            if request.method == "POST":
                if self._draining:
                    raise shutting_down(vary=anthropic)
                if self.faults.dead:
                    raise dead()
                if "queue-full" in struck:
                    self.telemetry.count("vllm:admission_rejections_total", "max_num_queued_reqs")
                    raise busy()
            if not inference:
                return await endpoint(request, struck)
            self._load += 1
            try:
                if (latency_s := self._latency_s(request)) > 0:
                    await asyncio.sleep(latency_s)
                return await endpoint(request, struck)
            finally:
                self._load -= 1
        except RequestError as error:
            return error_reply(error, anthropic=anthropic)

    def _latency_s(self, request: web.Request) -> float:
        """What stands for the distance between this server and whoever asks, s."""
        origin = request.headers.get(ORIGIN_HEADER, "")
        return self.settings.added_latency_s + self.settings.origin_latency_s.get(origin, 0.0)

    def _allowed(self, request: web.Request) -> bool:
        key = self.settings.api_key
        if key is None or not request.path.startswith("/v1") or request.method == "OPTIONS":
            return True
        return request.headers.get("authorization") == f"Bearer {key}"

    def _context(self, request: web.Request, document: Mapping[str, Any]) -> Context:
        return Context(
            model=self.settings.model,
            fingerprint=self._fingerprint,
            created_s=int(time.time()),
            request_id=request.headers.get("x-request-id") or str(document.get("request_id") or random_id()),
            prompt_details=self.settings.prompt_tokens_details,
        )

    def _count(self, request: web.Request, handler: str, status: int, size: int, took_s: float) -> None:
        count, observe = self.telemetry.count, self.telemetry.observe
        count("http_requests_total", handler, request.method, f"{status // 100}xx")
        observe("http_request_size_bytes", request.content_length or 0, handler)
        observe("http_response_size_bytes", size, handler)
        observe("http_request_duration_highr_seconds", took_s)
        observe("http_request_duration_seconds", took_s, handler, request.method)

    def _table(self) -> dict[str, dict[str, Endpoint]]:
        """Path to method to endpoint, for the runner chosen."""
        posts: dict[str, Endpoint] = {}
        if self.settings.runner == "generate":
            posts.update(dict.fromkeys(PROTOCOLS, self._generate))
            self._inference = frozenset(posts)
            posts["/v1/messages/count_tokens"] = self._json(count_tokens_reply)
        else:
            pooler = self._pooler
            posts["/v1/embeddings"] = self._pool(pooler.embeddings)
            posts["/pooling"] = self._pool(pooler.pooling)
            posts.update(dict.fromkeys(("/score", "/v1/score"), self._pool(pooler.score)))
            posts.update(dict.fromkeys(("/rerank", "/v1/rerank", "/v2/rerank"), self._pool(pooler.rerank)))
            self._inference = frozenset(posts)
        posts["/tokenize"] = self._json(tokenize_reply)
        posts["/detokenize"] = self._json(detokenize_reply)
        table: dict[str, dict[str, Endpoint]] = {path: {"POST": endpoint} for path, endpoint in posts.items()}
        gets: dict[str, Endpoint] = {
            "/health": self._health,
            "/ping": self._health,
            "/version": self._version,
            "/load": self._show_load,
            "/metrics": self._metrics,
            "/v1/models": self._models,
            "/openapi.json": self._openapi,
        }
        table.update({path: {"GET": endpoint} for path, endpoint in gets.items()})
        table["/ping"]["POST"] = self._health
        return table

    async def _generate(self, request: web.Request, struck: Mapping[FaultName, Fault]) -> web.StreamResponse:
        document = read_json(await request.read(), request.headers.get("content-type", ""))
        context = self._context(request, document)
        return await self._generator.serve(request, PROTOCOLS[request.path], document, context, struck)

    def _pool(self, serve: Callable[[dict[str, Any], Context], Awaitable[dict[str, Any]]]) -> Endpoint:
        async def endpoint(request: web.Request, _: Mapping[FaultName, Fault]) -> web.StreamResponse:
            document = read_json(await request.read(), request.headers.get("content-type", ""))
            return json_reply(await serve(document, self._context(request, document)))

        return endpoint

    def _json(self, serve: Callable[[dict[str, Any], Settings], dict[str, Any]]) -> Endpoint:
        async def endpoint(request: web.Request, _: Mapping[FaultName, Fault]) -> web.StreamResponse:
            document = read_json(await request.read(), request.headers.get("content-type", ""))
            return json_reply(serve(document, self.settings))

        return endpoint

    async def _health(self, request: web.Request, _: Mapping[FaultName, Fault]) -> web.StreamResponse:
        return empty_reply(503 if self.faults.dead else 200)

    async def _version(self, request: web.Request, _: Mapping[FaultName, Fault]) -> web.StreamResponse:
        return json_reply({"version": VERSION})

    async def _show_load(self, request: web.Request, _: Mapping[FaultName, Fault]) -> web.StreamResponse:
        return json_reply({"server_load": self._load})

    async def _metrics(self, request: web.Request, _: Mapping[FaultName, Fault]) -> web.StreamResponse:
        return text_reply(self.telemetry.text(), "text/plain; version=1.0.0; charset=utf-8")

    async def _models(self, request: web.Request, _: Mapping[FaultName, Fault]) -> web.StreamResponse:
        permission = {
            "id": f"modelperm-{random_id()}",
            "object": "model_permission",
            "created": self._created_s,
            "allow_create_engine": False,
            "allow_sampling": True,
            "allow_logprobs": True,
            "allow_search_indices": False,
            "allow_view": True,
            "allow_fine_tuning": False,
            "organization": "*",
            "group": None,
            "is_blocking": False,
        }
        model = {
            "id": self.settings.model,
            "object": "model",
            "created": int(time.time()),
            "owned_by": "vllm",
            "root": self.settings.model,
            "parent": None,
            "max_model_len": self.settings.max_model_len,
            "permission": [permission],
        }
        return json_reply({"object": "list", "data": [model]})

    async def _openapi(self, request: web.Request, _: Mapping[FaultName, Fault]) -> web.StreamResponse:
        paths = {
            path: {method.lower(): {"responses": {"200": {"description": "Successful Response"}}} for method in methods}
            for path, methods in self._routes.items()
            if path != "/openapi.json"
        }
        return json_reply({"openapi": "3.1.0", "info": {"title": "FastAPI", "version": "0.1.0"}, "paths": paths})


async def serve(settings: Settings, host: str, port: int, ready: Callable[[int], None], stop: asyncio.Event) -> None:
    """Runs a server until ``stop`` is set.

    Args:
        settings: what to serve.
        host: address to listen on.
        port: 0 for any.
        ready: called with the port once requests are answered.
        stop: set by the signal handlers.

    Raises:
        OSError: the address cannot be had.
    """
    server = Server(settings)
    ready(await server.start(host, port))
    with contextlib.suppress(asyncio.CancelledError):
        await stop.wait()
    await server.stop()
