"""One request on its way to a backend and back.

Bytes go through as they are: the body is sent on unchanged, the reply is passed on chunk by chunk as it comes. A
backend that cannot be connected to is replaced by another one; a request that may have reached a backend is never sent
again. Whatever happens, the client gets the backend's reply or a clear error, a client that leaves takes its request
at the backend with it, and the backend's count of requests in flight goes back down. ``proxy`` calls it.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

import aiohttp
from aiohttp import web

from marlin.router import headers as names
from marlin.router.balancer import BackendKey, Balancer, Lease
from marlin.router.errors import (
    BadRequestError,
    NoBackendError,
    RouterError,
    UpstreamFailedError,
    UpstreamTimeoutError,
)
from marlin.router.exchange import CLIENT_CLOSED, Exchange
from marlin.router.headers import request_headers, response_headers
from marlin.router.metrics import Metrics
from marlin.router.upstream import ConnectError, DisconnectError, Upstream
from marlin.router.usage import Tail, find_usage
from marlin.router.view import Backend, Pool

_LOG = logging.getLogger("marlin.router")

MAX_ATTEMPTS: Final = 3
"""Backends tried for one request: the first, and at most two others when no connection could be made."""

_RETRY_AFTER_S: Final = 1


class PassedOn(web.StreamResponse):
    """A backend's reply. Headers that aiohttp would add for want of the backend's are taken out again."""

    def __init__(self, status: int, reason: str | None, headers: names.Headers) -> None:
        super().__init__(status=status, reason=reason)
        self.headers.extend(headers)
        self.unsaid = [name for name in ("Server", "Content-Type") if name not in self.headers]


async def leave_unsaid(_: web.Request, response: web.StreamResponse) -> None:
    """A signal handler: headers the backend did not send are not made up."""
    for name in response.unsaid if isinstance(response, PassedOn) else ("Server",):
        response.headers.popall(name, None)


class _ClientGoneError(Exception):
    """The client hung up while it was being written to."""


class Forwarding:
    """One request on its way to a backend and back."""

    def __init__(
        self,
        request: web.Request,
        body: bytes,
        pool: Pool,
        plan_epoch: int | None,
        exchange: Exchange,
        deadline_s: float,
        idle_timeout_s: float,
    ) -> None:
        self._request = request
        self._body = body or None
        self._pool = pool
        self._plan_epoch = plan_epoch
        self._exchange = exchange
        self._deadline_s = deadline_s
        self._idle_timeout_s = idle_timeout_s

    async def run(self, balancer: Balancer, upstream: Upstream, metrics: Metrics) -> web.StreamResponse:
        """Tries backends until one can be connected to, and passes on what it says."""
        tried: list[BackendKey] = []
        is_forwarded = names.HOP in self._request.headers
        while len(tried) < MAX_ATTEMPTS:
            backend = balancer.choose(self._pool, tried, is_forwarded=is_forwarded)
            if backend is None:
                break
            self._exchange.datacenter, self._exchange.backend = backend.datacenter, backend.name
            self._exchange.attempts += 1
            with balancer.lease(backend) as lease:
                try:
                    reply = await self._send(upstream, backend)
                except ConnectError as error:
                    _LOG.warning("backend %s of pool %s cannot be reached: %s", backend.name, backend.pool, error)
                    metrics.count_upstream_error(backend, "connect")
                    balancer.back_off(backend)
                    tried.append(backend.key)
                    continue
                except RouterError as error:
                    metrics.count_upstream_error(backend, error.reason)
                    raise
                try:
                    return await self._pass_on(reply, lease, metrics)
                finally:
                    # Where the reply was not read to its end this closes the connection, and so stops the backend.
                    reply.close()
        if tried:
            raise UpstreamFailedError(
                f"none of {len(tried)} backends tried could be reached",
                reason="upstream_connect",
                retry_after_s=_RETRY_AFTER_S,
            )
        raise NoBackendError(
            f"no backend of model {self._pool.model_name} is up and below its limit; try again soon",
            retry_after_s=_RETRY_AFTER_S,
        )

    async def _send(self, upstream: Upstream, backend: Backend) -> aiohttp.ClientResponse:
        request = self._request
        headers = request_headers(request.raw_headers, backend.authorization, to_member_router=backend.is_member_router)
        try:
            async with asyncio.timeout_at(self._deadline_s):
                return await upstream.send(backend, request.method, request.raw_path, headers, self._body)
        except TimeoutError:
            raise UpstreamTimeoutError("the backend did not answer in time") from None
        except DisconnectError as error:
            raise UpstreamFailedError(f"the backend closed the connection: {error}") from None
        except UnicodeEncodeError:
            raise BadRequestError("a header cannot be passed on", reason="bad_header") from None

    async def _pass_on(self, reply: aiohttp.ClientResponse, lease: Lease, metrics: Metrics) -> web.StreamResponse:
        backend, exchange = lease.backend, self._exchange
        headers = response_headers(reply.raw_headers, backend.datacenter, backend.name, self._plan_epoch)
        out = PassedOn(reply.status, reply.reason, headers)
        exchange.status = reply.status
        exchange.error = reply.headers.get(names.ERROR, "")
        is_stream = reply.content_type == "text/event-stream"
        tail = Tail()
        try:
            await self._write_head(out)
            try:
                await self._copy(reply, out, tail, is_stream=is_stream)
            except RouterError as error:
                exchange.error = error.reason
                metrics.count_upstream_error(backend, error.reason)
                await self._break_off(out, error, tail, is_stream=is_stream)
                return out
            await _write(out, None)
        except _ClientGoneError:
            exchange.status, exchange.error = CLIENT_CLOSED, "client_disconnected"
            return out
        exchange.is_complete = True
        if reply.status < 300:
            lease.is_sample = True
            is_plain = "Content-Encoding" not in reply.headers
            exchange.usage = find_usage(tail.content()) if is_plain else None
            if self._request.method == "POST":
                site = next(site for site in self._pool.sites if site.name == backend.datacenter)
                metrics.observe_footprint(backend, site.datacenter, exchange.usage)
        return out

    async def _write_head(self, out: PassedOn) -> None:
        try:
            await out.prepare(self._request)
        except (OSError, aiohttp.ClientError):
            raise _ClientGoneError from None

    async def _copy(self, reply: aiohttp.ClientResponse, out: PassedOn, tail: Tail, *, is_stream: bool) -> None:
        """Passes the body on until it ends; raises a RouterError when the backend breaks it off."""
        loop = asyncio.get_running_loop()
        exchange = self._exchange
        idle_s = self._idle_timeout_s if is_stream else float("inf")
        try:
            async with asyncio.timeout_at(self._deadline_s) as timer:
                while True:
                    if is_stream:
                        timer.reschedule(min(loop.time() + idle_s, self._deadline_s))
                    try:
                        chunk = await reply.content.readany()
                    except (aiohttp.ClientError, OSError) as error:
                        raise UpstreamFailedError(
                            f"the backend broke off its reply: {error}", reason="died_mid_reply"
                        ) from None
                    if not chunk:
                        return
                    if exchange.first_byte_s is None:
                        exchange.first_byte_s = loop.time()
                    exchange.bytes_out += len(chunk)
                    tail.feed(chunk)
                    await _write(out, chunk)
        except TimeoutError:
            if loop.time() >= self._deadline_s:
                raise UpstreamTimeoutError("the reply took longer than the router allows") from None
            raise UpstreamTimeoutError(f"the stream was silent for {idle_s:g} s", reason="stream_idle") from None

    async def _break_off(self, out: PassedOn, error: RouterError, tail: Tail, *, is_stream: bool) -> None:
        """Ends a reply that has begun: an error event where there can be one, else a torn connection."""
        can_append = "Content-Length" not in out.headers and "Content-Encoding" not in out.headers
        if is_stream and can_append:
            # An event that was cut in two is ended by an empty line, so that ours stands alone.
            end = tail.content()[-4:]
            is_between_events = not end or end.endswith((b"\n\n", b"\r\n\r\n", b"\r\r"))
            await _write(out, (b"" if is_between_events else b"\n\n") + error.event())
            await _write(out, None)
            out.force_close()
        elif self._request.transport is not None:
            # A clean end would make a cut reply look complete.
            self._request.transport.close()


async def _write(out: web.StreamResponse, chunk: bytes | None) -> None:
    try:
        if chunk is None:
            await out.write_eof()
        else:
            await out.write(chunk)
    except (OSError, aiohttp.ClientError):
        raise _ClientGoneError from None
