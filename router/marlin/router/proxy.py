"""The clients' side of a request: reads it, finds its pool, and answers what a backend cannot or need not answer.

``server`` routes every request here but those for ``admin``; ``forwarding`` takes it to a backend and back. Here is
also where each request is counted and logged, once, however it ended.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable

from aiohttp import web

from marlin.router import headers as names
from marlin.router.balancer import Balancer
from marlin.router.errors import (
    BadRequestError,
    BodyTooLargeError,
    InternalError,
    RouterError,
    UnknownModelError,
    UnknownPathError,
)
from marlin.router.exchange import CLIENT_CLOSED, Exchange
from marlin.router.forwarding import Forwarding
from marlin.router.logs import log_access
from marlin.router.metrics import Metrics
from marlin.router.paths import is_passed_on
from marlin.router.request_head import pool_of, read_head
from marlin.router.settings import Settings
from marlin.router.upstream import Upstream
from marlin.router.view import Table

_LOG = logging.getLogger("marlin.router")


class Proxy:
    """Serves the requests of clients.

    Args:
        settings: limits and timeouts.
        table: the table in force.
        balancer: chooses and counts.
        upstream: the way to the backends.
        metrics: what is counted.
    """

    def __init__(
        self,
        settings: Settings,
        table: Callable[[], Table],
        balancer: Balancer,
        upstream: Upstream,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._table = table
        self._balancer = balancer
        self._upstream = upstream
        self._metrics = metrics
        self._idle = asyncio.Event()
        self._idle.set()
        self.active = 0
        """Requests being served."""
        self.is_draining = False
        """Set on SIGTERM: connections are closed when their request has ended."""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answers one request."""
        loop = asyncio.get_running_loop()
        exchange = Exchange(
            method=request.method,
            path=request.raw_path.split("?", 1)[0],
            began_s=loop.time(),
            request_id=request.headers.get("x-request-id", ""),
        )
        self.active += 1
        self._idle.clear()
        try:
            response = await self._serve(request, exchange)
        except RouterError as error:
            response = _own_answer(error, exchange)
        except asyncio.CancelledError:
            exchange.status = exchange.status or CLIENT_CLOSED
            exchange.error = exchange.error or "client_disconnected"
            raise
        except Exception:  # noqa: BLE001 - a mistake of ours must be answered too
            _LOG.exception("request failed")
            response = _own_answer(InternalError("the router made a mistake; its log has the details"), exchange)
        finally:
            self.active -= 1
            if not self.active:
                self._idle.set()
            exchange.ended_s = loop.time()
            self._metrics.observe(exchange)
            if self._settings.has_access_log:
                log_access(exchange)
        if self.is_draining:
            response.force_close()
        return response

    async def wait_until_idle(self) -> None:
        """Returns when no request is being served."""
        await self._idle.wait()

    async def _serve(self, request: web.Request, exchange: Exchange) -> web.StreamResponse:
        table = self._table()
        if request.method == "GET" and (request.path == "/v1/models" or request.path.startswith("/v1/models/")):
            return _models(table, request.path, exchange)
        if not is_passed_on(request.raw_path):
            raise UnknownPathError(f"{exchange.path[:200]} is not a path that is passed on to backends")
        deadline_s = exchange.began_s + self._settings.request_timeout_s
        try:
            async with asyncio.timeout_at(deadline_s):
                body = await self._read_body(request)
        except TimeoutError:
            raise BadRequestError("the body did not arrive in time", reason="request_timeout") from None
        exchange.bytes_in = len(body)
        head = read_head(body, request.headers.get("Content-Type", ""), request.headers.get("Content-Encoding", ""))
        pool = pool_of(table, head)
        exchange.pool = pool.name
        plan_epoch = table.plan.epoch if table.plan is not None and pool.is_planned else None
        return await Forwarding(
            request, body, pool, plan_epoch, exchange, deadline_s, self._settings.stream_idle_timeout_s
        ).run(self._balancer, self._upstream, self._metrics)

    async def _read_body(self, request: web.Request) -> bytes:
        limit = self._settings.max_body_bytes
        too_large = BodyTooLargeError(
            f"the body is larger than {limit} bytes; the router's --max-body-mb says how much"
        )
        if (request.content_length or 0) > limit:
            raise too_large
        chunks, size = [], 0
        try:
            async for chunk in request.content.iter_any():
                size += len(chunk)
                if size > limit:
                    raise too_large
                chunks.append(chunk)
        except web.RequestPayloadError as error:
            raise BadRequestError(f"the body cannot be read: {error}", reason="bad_body") from None
        except OSError:
            # The connection broke in mid-upload: nobody is left to answer.
            raise asyncio.CancelledError from None
        return b"".join(chunks)


def _own_answer(error: RouterError, exchange: Exchange) -> web.Response:
    exchange.status, exchange.error = error.status, error.reason
    response = web.Response(status=error.status, body=error.body(), content_type="application/json")
    response.headers[names.ERROR] = error.reason
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, BodyTooLargeError):
        response.force_close()  # the rest of the body is not waited for
    return response


def _models(table: Table, path: str, exchange: Exchange) -> web.Response:
    """OpenAI's list of models, or one of them, from the table: true even while every backend is down."""
    entries = {
        name: {"id": name, "object": "model", "created": 0, "owned_by": "marlin"}
        for name, pool in table.by_model.items()
    }
    wanted = path.removeprefix("/v1/models").removeprefix("/")
    if not wanted:
        answer: object = {"object": "list", "data": list(entries.values())}
    elif wanted in entries:
        answer = entries[wanted]
    else:
        raise UnknownModelError(f"The model `{wanted[:200]}` does not exist.", param="model")
    exchange.status = 200
    return web.Response(body=json.dumps(answer).encode(), content_type="application/json")
