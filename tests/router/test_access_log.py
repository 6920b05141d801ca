"""One line for each request, whatever a client wrote into it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from fake_backend import FakeBackend
from router_client import table
from router_process import running

ODD_ID = b'a "quoted" \\ \xff id'
BODY = b'{"model":"m"}'


@pytest.mark.parametrize("log_format", ["text", "json"])
async def test_a_line_tells_a_request_and_stays_one_line_whatever_its_id_is(
    tmp_path: Path, backend: FakeBackend, log_format: str
) -> None:
    async with running(tmp_path, table(backend.url), "--log-format", log_format) as process:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(process.url.rsplit(":", 1)[1]))
        for request_id in (ODD_ID, b"plain"):
            writer.write(
                b"POST /v1/completions?secret=1 HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
                b"x-request-id: %b\r\nContent-Length: %d\r\n\r\n%b" % (request_id, len(BODY), BODY)
            )
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
            await reader.readexactly(length)
        writer.close()
    assert "secret" not in process.log
    odd, plain = [line for line in process.log.splitlines() if "bytes_in" in line]
    if log_format == "json":
        entry = json.loads(odd)
        assert entry["request_id"] == ODD_ID.decode("latin-1")
        assert (entry["path"], entry["status"], entry["bytes_in"]) == ("/v1/completions", 200, len(BODY))
        assert (entry["pool"], entry["datacenter"], entry["backend"], entry["attempts"]) == ("chat", "dc0", "b0", 1)
        assert 0 < entry["ttft_ms"] <= entry["duration_ms"] or entry["duration_ms"] == 0
        assert json.loads(plain)["request_id"] == "plain"
    else:
        assert odd.endswith(f" request_id={json.dumps(ODD_ID.decode('latin-1'))}")
        assert plain.endswith(" request_id=plain")
        assert " info request method=POST path=/v1/completions status=200 duration_ms=" in plain
        assert " pool=chat datacenter=dc0 backend=b0 attempts=1 bytes_in=13 " in plain
