"""nginx's verdict on each odd or malformed request, beside the router's: what nginx refuses, the router refuses too.

The other way round there are differences, and they are wanted; each is named here with its reason, and the test fails
when one appears or goes away. A real nginx is asked (``make nginx``).
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from control_plane import free_port
from fake_backend import FakeBackend
from odd_requests import ODD, REFUSED, first_status

ROOT = Path(__file__).resolve().parents[2]

_LINE_END = "RFC 9112, 2.2 allows a bare LF, and two servers that differ on it are what smuggling lives on"
_HOST = "RFC 9112, 3.2: a Host that is no host gets 400"

STRICTER: dict[str, str] = {
    "two spaces after the method": "RFC 9112, 3: one space",
    "a space at the end": "RFC 9112, 3: nothing follows the version",
    "bytes beyond ASCII in the target": "RFC 3986: a target is ASCII",
    "HTTP/1.2": "there is no such version",
    "a bare line feed between headers": _LINE_END,
    "only bare line feeds": _LINE_END,
    "no colon": "nginx drops such a line; nobody knows what the client meant",
    "a name that is no token": "nginx drops such a line",
    "a name beyond ASCII": "nginx drops such a line",
    "a control character in a value": "RFC 9110, 5.5: dangerous, to be rejected or replaced",
    "too many headers": "nginx bounds their bytes alone",
    "a chunk that ends with a bare line feed": _LINE_END,
    "a size that ends with a bare line feed": _LINE_END,
    "a trailer that is no header": "nginx reads no trailers",
    "an expectation nobody knows": "RFC 9110, 10.1.1 allows 417 or ignoring it",
    "a host with a user": _HOST,
    "a host with two ports": _HOST,
    "a host with a port that is no number": _HOST,
    "a host beyond ASCII": _HOST,
    "a host with half a bracket": _HOST,
}
"""What nginx lets through and the router refuses, and why."""

LOOSER: dict[str, str] = {
    "a lower-case method": "RFC 9110, 9.1: any token is a method, and its backend says 405",
    "an empty host": "RFC 9112, 3.2: valid, for a target without an authority",
}
"""What nginx refuses and the router lets through, and why."""

CONFIGURATION = """
daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log crit;
events {{}}
http {{
  access_log off; client_header_timeout 1s; client_body_timeout 1s;
  client_max_body_size 1000000; large_client_header_buffers 8 8k;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass {upstream}; proxy_http_version 1.1; }} }}
}}
"""


def program() -> str:
    found = subprocess.run(
        ["scripts/debian_tool.sh", "nginx", "--find"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if found.returncode:
        pytest.skip(found.stderr.strip())
    return found.stdout.strip()


@asynccontextmanager
async def nginx(folder: Path, upstream: str) -> AsyncIterator[int]:
    """The port of an nginx before ``upstream``."""
    port = free_port()
    (folder / "nginx.conf").write_text(CONFIGURATION.format(folder=folder, port=port, upstream=upstream))
    user = ("-g", "user root;") if os.geteuid() == 0 else ()
    process = await asyncio.create_subprocess_exec(
        *(program(), "-e", str(folder / "error.log"), "-c", str(folder / "nginx.conf"), *user)
    )
    try:
        while True:
            assert process.returncode is None
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                break
        yield port
    finally:
        process.terminate()
        await process.wait()


async def test_what_nginx_refuses_is_refused_and_each_difference_has_its_reason(
    tmp_path: Path, backend: FakeBackend
) -> None:
    async with nginx(tmp_path, backend.url) as port:
        requests = {name: raw for name, (raw, _) in REFUSED.items()} | ODD
        # Together: what it waits for the rest of, it gives up after a second.
        statuses = await asyncio.gather(*(first_status(port, raw) for raw in requests.values()))
        passed = {name for name, status in zip(requests, statuses, strict=True) if status == 200}
    assert passed & set(REFUSED) == set(STRICTER)
    assert set(ODD) - passed == set(LOOSER)
