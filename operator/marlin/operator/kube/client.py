"""A few verbs of one API server over aiohttp: what the operator needs, at a fraction of an official client's memory.

Writes are server-side applies with our field manager, so a write is the same whether the object is there or not. A
failed call is an ``ApiError`` with the server's own reason; whether to try again is the caller's to say.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Self

import aiohttp

from marlin.api.errors import MarlinError
from marlin.operator.core.applies import FIELD_MANAGER, Apply
from marlin.operator.kube.access import Access

REQUEST_TIMEOUT_S: Final = 30.0
CONNECT_TIMEOUT_S: Final = 10.0
_LONGEST_RETRY_AFTER_S: Final = 60.0

_METADATA_OF_LIST: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"
_METADATA: Final = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
"""Asks for metadata alone; a server that cannot leaves the rest in."""


class ApiError(MarlinError):
    """An API server refused, or could not be reached (``status`` 0)."""

    def __init__(self, status: int, message: str, retry_after_s: float | None = None, *, is_tls: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.is_tls = is_tls
        """Whether it could not be reached because its certificate does not verify."""
        self.retry_after_s = retry_after_s
        """How long it asked us to wait; None where it did not."""

    @property
    def is_passing(self) -> bool:
        """Whether it is about the API server and not about what was asked: away, starting, or too busy."""
        return self.status in {0, 429, 502, 503, 504}

    @property
    def is_denial(self) -> bool:
        """Whether a right, a credential or a kind is missing, which somebody has to mend."""
        return self.status in {401, 403, 404}

    @property
    def advice(self) -> str:
        """What to do about it, to be put behind the message; may be empty."""
        return {
            401: "; its token is not accepted",
            403: "; the operator's role lacks this: kubectl apply -f manifests/rbac",
            404: "; are the CustomResourceDefinitions installed? kubectl apply -f manifests/crds",
        }.get(self.status, "")


class Client:
    """Speaks to one API server; an async context manager.

    Args:
        access: how.
        timeout_s: longest wait for one answer, s.
        requests_per_s: most requests in a second. Default: as many as are asked for.
    """

    def __init__(
        self, access: Access, timeout_s: float = REQUEST_TIMEOUT_S, requests_per_s: float | None = None
    ) -> None:
        self._access = access
        self._between_s = 0.0 if requests_per_s is None else 1.0 / requests_per_s
        self._next_s = 0.0
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=access.context(), limit=16),
            timeout=aiohttp.ClientTimeout(total=timeout_s, sock_connect=CONNECT_TIMEOUT_S),
            headers={"User-Agent": FIELD_MANAGER, "Accept": "application/json"},
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes all connections."""
        await self._session.close()

    async def get(self, path: str, params: Mapping[str, str] | None = None) -> dict[str, Any]:
        """An object or a list."""
        return await self._call("GET", path, params=params)

    async def get_bytes(
        self, path: str, params: Mapping[str, str] | None = None, *, is_metadata_only: bool = False
    ) -> bytes:
        """A list as it comes, for whoever needs a part of it only."""
        return await self._answer("GET", path, params=params, accept=_METADATA_OF_LIST if is_metadata_only else None)

    async def apply(self, apply: Apply) -> dict[str, Any]:
        """A server-side apply, which takes our fields from whoever has them; the object's metadata."""
        return _document(
            await self._answer(
                "PATCH",
                apply.path,
                params={"fieldManager": FIELD_MANAGER, "force": "true"},
                body=apply.document,
                content_type="application/apply-patch+yaml",
                accept=_METADATA,
            )
        )

    async def create(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """A new object."""
        return await self._call("POST", path, body=body)

    async def replace(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """An object whose ``resourceVersion`` must still be the one that was read."""
        return await self._call("PUT", path, body=body)

    async def _call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        return _document(await self._answer(method, path, params=params, body=body))

    async def _answer(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
        accept: str | None = None,
    ) -> bytes:
        headers = {}
        if token := self._access.bearer():
            headers["Authorization"] = f"Bearer {token}"
        if accept is not None:
            headers["Accept"] = accept
        data = None
        if body is not None:
            data, headers["Content-Type"] = json.dumps(body).encode(), content_type
        what = f"{method} {path}"
        if self._between_s:
            now_s = asyncio.get_running_loop().time()
            self._next_s = max(now_s, self._next_s) + self._between_s
            await asyncio.sleep(self._next_s - self._between_s - now_s)
        try:
            async with self._session.request(
                method,
                self._access.server + path,
                params=dict(params or {}),
                data=data,
                headers=headers,
                allow_redirects=False,
            ) as response:
                answer = await response.read()
                status = response.status
                retry_after = response.headers.get("Retry-After", "")
        except TimeoutError:
            raise ApiError(0, f"{what}: the API server did not answer in time") from None
        except (aiohttp.ClientSSLError, ssl.SSLError) as error:
            why = f"the API server's certificate is not accepted ({type(error).__name__})"
            raise ApiError(0, f"{what}: {why}", is_tls=True) from None
        except (aiohttp.ClientError, OSError) as error:
            raise ApiError(0, f"{what}: the API server cannot be reached ({type(error).__name__})") from None
        if status >= 300:  # nothing that an API server says leads elsewhere: a redirect would carry the token there
            said = _document(answer).get("message")
            wait_s = min(float(retry_after), _LONGEST_RETRY_AFTER_S) if retry_after.isdigit() else None
            raise ApiError(status, f"{what}: {status} {said or ''}".strip(), wait_s)
        return answer


def _document(answer: bytes) -> dict[str, Any]:
    """The object in an answer; empty where there is none."""
    try:
        document = json.loads(answer) if answer else {}
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
