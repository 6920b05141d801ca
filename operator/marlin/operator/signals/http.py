"""The one place that asks a provider over the network.

Addresses come out of objects that people write, so a fetch is kept on a short lead: http and https only, no redirects,
no link-local addresses (where clouds keep their machines' credentials), ten seconds, a bounded body. Errors say which
host and path failed and how; the query string and headers, where keys are, are in no message and in no log.
"""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

MOST_BYTES: Final = 2 * 1024 * 1024
"""A day of prices is 200 KB of XML."""

TIMEOUT_S: Final = 10.0

_LONGEST_RETRY_AFTER_S: Final = 3600.0


class SignalError(Exception):
    """A provider gave no usable answer; ``str()`` holds no secret."""

    reason: Final = "ProviderError"

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RefusedError(SignalError):
    """The provider does not know the credentials, or does not let them have this."""


class WithheldError(SignalError):
    """A credential's Secret does not say that it may be sent there, so that nothing was."""


class TlsRefusedError(SignalError):
    """The other side's certificate does not verify."""


class RateLimitedError(SignalError):
    """The provider has been asked too often."""


@dataclass(frozen=True, slots=True, repr=False)
class Request:
    """One GET. It has no ``repr`` of its fields: it holds keys."""

    url: str
    """Base address and path."""
    params: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    context: ssl.SSLContext | bool = True
    """True: the system's authorities; False: anything."""
    server_name: str | None = None
    most_bytes: int = MOST_BYTES

    @property
    def place(self) -> str:
        """Host and path, for messages."""
        url = URL(self.url)
        return f"{url.host}{url.path}"


class Http(Protocol):
    """What a provider needs of the network."""

    async def get(self, request: Request) -> bytes:
        """The body of a good answer.

        Raises:
            SignalError: there was none.
        """


class _GuardedResolver(AbstractResolver):
    """Resolves names, and refuses those that lead to the machine's own network link."""

    def __init__(self) -> None:
        self._inner = ThreadedResolver()

    async def resolve(self, host: str, port: int = 0, family: Any = 0) -> list[ResolveResult]:
        """See aiohttp."""
        found = await self._inner.resolve(host, port, family)
        if any(_is_link_local(entry["host"]) for entry in found):
            raise OSError(f"{host} resolves to a link-local address")
        return found

    async def close(self) -> None:
        """See aiohttp."""
        await self._inner.close()


class WebHttp:
    """``Http`` over aiohttp; close it when done."""

    def __init__(self, timeout_s: float = TIMEOUT_S) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(resolver=_GuardedResolver(), limit_per_host=4),
            timeout=aiohttp.ClientTimeout(total=timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": "marlin-operator"},
        )

    async def close(self) -> None:
        """Closes all connections."""
        await self._session.close()

    async def get(self, request: Request) -> bytes:
        """See ``Http.get``."""
        url = URL(request.url)
        if url.scheme not in {"http", "https"} or url.host is None or _is_link_local(url.host):
            raise SignalError(f"{request.place} is not an address that is asked")
        try:
            async with self._session.get(
                url,
                params=dict(request.params),
                headers=dict(request.headers),
                ssl=request.context,
                server_hostname=request.server_name,
                allow_redirects=False,
            ) as response:
                _raise_for(response.status, response.headers.get("Retry-After"), request)
                return await _body(response, request)
        except TimeoutError:
            raise SignalError(f"{request.place} did not answer in time") from None
        except (aiohttp.ClientSSLError, ssl.SSLError) as error:
            raise TlsRefusedError(
                f"{request.place}: its certificate is not accepted ({type(error).__name__})"
            ) from None
        except (aiohttp.ClientError, OSError, asyncio.IncompleteReadError, ValueError) as error:
            # Not the error's own words: some hold the whole address.
            raise SignalError(f"{request.place} cannot be reached ({type(error).__name__})") from None


def _raise_for(status: int, retry_after: str | None, request: Request) -> None:
    if status == 200:
        return
    said = f"{request.place} answered {status}"
    if status == 429:
        raise RateLimitedError(said, _seconds(retry_after))
    if status in {401, 403}:
        raise RefusedError(f"{said}: the credentials are not accepted for this")
    if 300 <= status < 400:
        raise SignalError(f"{said}: redirects are not followed; give the final address")
    raise SignalError(said, _seconds(retry_after))


async def _body(response: aiohttp.ClientResponse, request: Request) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_chunked(65_536):
        body += chunk
        if len(body) > request.most_bytes:
            raise SignalError(f"{request.place} answered with more than {request.most_bytes // 2**20} MiB")
    return bytes(body)


def _seconds(retry_after: str | None) -> float | None:
    """``Retry-After`` in seconds; its other form, a date, is left to our own back-off."""
    if retry_after is None or not retry_after.strip().isdigit():
        return None
    return min(float(retry_after), _LONGEST_RETRY_AFTER_S)


def _is_link_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_link_local
    except ValueError:
        return False
