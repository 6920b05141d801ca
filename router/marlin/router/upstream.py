"""Connections to backends: one aiohttp session, and errors told apart by whether a request may have been seen.

``proxy`` sends requests, ``probes`` asks for health. Nothing is decoded, no cookie is kept, no redirect followed, no
proxy setting of the environment read: what a backend says goes to the client that asked.
"""

from __future__ import annotations

import io
import ssl
from pathlib import Path
from typing import Final

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from marlin.router.headers import ORIGIN, Headers
from marlin.router.view import Backend, BackendTls

KEEP_ALIVE_S: Final = 4.0
"""How long an idle connection is kept: less than the 5 s after which vLLM closes it, so that none is reused that is
about to be closed."""

CHUNK_BYTES: Final = 2**18

_LARGE_BYTES: Final = 2**19
"""Above this a body is written piece by piece."""


class ConnectError(Exception):
    """No connection was made: the backend has seen nothing, another may be tried."""


class DisconnectError(Exception):
    """The connection broke after the request was sent: it may have been worked on, so it is not sent again."""


class Upstream:
    """The way to the backends.

    Args:
        connect_timeout_s: longest wait for a connection, TLS included.
        secrets_dir: where certificates are mounted.
        origin: name of this router's origin, told to every backend; None: it stands for none.
    """

    def __init__(self, connect_timeout_s: float, secrets_dir: Path | None, origin: str | None = None) -> None:
        self._secrets_dir = secrets_dir
        self._ssl: dict[BackendTls, ssl.SSLContext | bool] = {}
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S, ttl_dns_cache=10),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout_s),
            headers=None if origin is None else {ORIGIN: origin},
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            read_bufsize=CHUNK_BYTES,
            max_line_size=65_536,
            max_field_size=65_536,
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
        )

    async def close(self) -> None:
        """Closes all connections."""
        await self._session.close()

    def forget_certificates(self) -> None:
        """Reads certificates again at the next connection; they may have been exchanged."""
        self._ssl.clear()

    async def send(
        self, backend: Backend, method: str, target: str, headers: Headers, body: bytes | None
    ) -> aiohttp.ClientResponse:
        """Sends a request and waits for the head of its reply.

        Args:
            backend: where to.
            method: HTTP method.
            target: path and query as they came, not encoded again.
            headers: all headers but Host and Content-Length.
            body: the body; None: there is none.

        Raises:
            ConnectError: no connection was made.
            DisconnectError: the connection broke before the reply's head was complete.
        """
        try:
            return await self._session.request(
                method,
                URL(backend.url + target, encoded=True),
                headers=CIMultiDict(headers),
                data=_payload(body),
                allow_redirects=False,
                ssl=self._ssl_of(backend.tls),
                server_hostname=backend.tls.server_name if backend.url.startswith("https:") else None,
            )
        except (aiohttp.ClientConnectorError, aiohttp.ClientSSLError, aiohttp.ConnectionTimeoutError) as error:
            raise ConnectError(str(error) or type(error).__name__) from error
        except (aiohttp.ClientError, OSError) as error:
            raise DisconnectError(str(error) or type(error).__name__) from error

    def _ssl_of(self, tls: BackendTls) -> ssl.SSLContext | bool:
        found = self._ssl.get(tls)
        if found is None:
            found = self._ssl[tls] = self._make_ssl(tls)
        return found

    def _make_ssl(self, tls: BackendTls) -> ssl.SSLContext | bool:
        if tls.ca_file is None and tls.certificate_file is None:
            return tls.is_verified
        try:
            context = ssl.create_default_context(cafile=self._path(tls.ca_file))
            if not tls.is_verified:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            if tls.certificate_file is not None:
                context.load_cert_chain(self._path(tls.certificate_file) or "", self._path(tls.key_file))
        except OSError as error:  # ssl.SSLError is one
            raise ConnectError(f"certificates cannot be used: {error}") from error
        return context

    def _path(self, name: str | None) -> str | None:
        if name is None:
            return None
        return str((self._secrets_dir or Path()) / name)


def _payload(body: bytes | None) -> bytes | io.BytesIO | None:
    """The body as the client library sends it best: a large one in pieces, so that streams do not stand still."""
    return io.BytesIO(body) if body is not None and len(body) > _LARGE_BYTES else body
