"""What goes through unchanged, what is added, what is answered here."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json

import pytest
from fake_backend import FakeBackend, Seen, reply
from router_client import Start, table

BODY = b'{ "model":"m",\n "unknown": [1.0, 1e5],"text":"\xc3\xa4\\u00e4", "vllm_xargs":{"a":null} }'


async def test_a_body_goes_through_byte_for_byte(start: Start, backend: FakeBackend) -> None:
    async with start(table(backend.url)) as client, client.post(BODY) as response:
        assert response.status == 200
    assert backend.seen[0].body == BODY
    assert backend.seen[0].request_line == "POST /v1/chat/completions HTTP/1.1"


async def test_a_body_of_megabytes_goes_through_byte_for_byte(start: Start, backend: FakeBackend) -> None:
    body = b'{"model":"m","prompt":"' + bytes(range(97, 123)) * 150_000 + b'"}'
    async with start(table(backend.url)) as client, client.post(io.BytesIO(body)) as response:
        assert response.status == 200
    assert backend.seen[0].body == body


async def test_a_body_of_100_megabytes_goes_through_and_one_byte_more_does_not(
    start: Start, backend: FakeBackend
) -> None:
    """The default limit is 100 MiB; it is said at the head, before a byte of the body is taken."""
    beginning, end = b'{"model":"m","prompt":"', b'"}'
    body = beginning + b"x" * (100 * 2**20 - len(beginning) - len(end)) + end
    async with start(table(backend.url)) as client:
        async with client.post(io.BytesIO(body)) as response:
            assert response.status == 200
        assert hashlib.sha256(backend.seen[0].body).digest() == hashlib.sha256(body).digest()
        backend.seen.clear()
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (len(body) + 1))
        assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")
        writer.close()
    assert not backend.seen


async def test_path_and_query_are_not_encoded_again(start: Start, backend: FakeBackend) -> None:
    import aiohttp
    from yarl import URL

    async with start(table(backend.url)) as client:
        url = URL(f"{client.url}/v1/x%20y/z?a=b%20c&d=%C3%A4", encoded=True)
        async with aiohttp.ClientSession() as session, session.post(url, data=b'{"model":"m"}') as response:
            assert response.status == 200
    assert backend.seen[0].request_line == "POST /v1/x%20y/z?a=b%20c&d=%C3%A4 HTTP/1.1"


async def test_headers_go_through_but_those_of_one_connection_and_ours(start: Start, backend: FakeBackend) -> None:
    sent = {
        "traceparent": "00-abc-def-01",
        "X-Request-Id": "r-1",
        "Authorization": "Bearer secret",
        "X-Custom": "a, b",
        "Connection": "keep-alive, X-Hop",
        "X-Hop": "gone",
        "TE": "trailers",
        "x-marlin-origin": "spoofed",
    }
    async with start(table(backend.url)) as client, client.post(headers=sent) as response:
        assert response.status == 200
    got = {name.lower(): value for name, value in backend.seen[0].headers}
    assert got["traceparent"] == "00-abc-def-01"
    assert got["x-request-id"] == "r-1"
    assert got["authorization"] == "Bearer secret"
    assert got["x-custom"] == "a, b"
    assert not {"x-hop", "te", "x-marlin-origin"} & set(got)


async def test_a_backend_is_told_the_router_s_origin(start: Start, backend: FakeBackend) -> None:
    spoofed = {"x-marlin-origin": "spoofed"}
    async with start(table(backend.url), origin="eu") as client, client.post(headers=spoofed) as response:
        assert response.status == 200
    assert [value for name, value in backend.seen[0].headers if name.lower() == "x-marlin-origin"] == ["eu"]


async def test_a_reply_goes_through_with_its_status_headers_and_bytes(start: Start, backend: FakeBackend) -> None:
    backend.behaviour = reply(
        b"HTTP/1.1 418 I'm a teapot\r\nX-Own: 1\r\nX-Own: 2\r\nServer: uvicorn\r\nContent-Length: 4\r\n\r\n\x00\xff{}"
    )
    async with start(table(backend.url)) as client, client.post() as response:
        assert response.status == 418
        assert response.reason == "I'm a teapot"
        assert await response.read() == b"\x00\xff{}"
        assert response.headers.getall("X-Own") == ["1", "2"]
        assert response.headers["Server"] == "uvicorn"
        assert "Content-Type" not in response.headers
        assert response.headers["x-marlin-datacenter"] == "dc0"
        assert response.headers["x-marlin-backend"] == "b0"


async def test_a_compressed_reply_is_not_touched(start: Start, backend: FakeBackend) -> None:
    backend.behaviour = reply(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\n\x1f\x8b\x08")
    async with start(table(backend.url)) as client, client.post() as response:
        assert await response.read() == b"\x1f\x8b\x08"
        assert response.headers["Content-Encoding"] == "gzip"


async def test_a_stream_is_passed_on_as_it_comes(start: Start, backend: FakeBackend) -> None:
    go_on = asyncio.Event()

    async def stream(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        writer.write(b"d\r\ndata: first\n\n\r\n")
        await writer.drain()
        await go_on.wait()
        writer.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")

    backend.behaviour = stream
    async with start(table(backend.url)) as client, client.post() as response:
        assert await response.content.readany() == b"data: first\n\n"
        go_on.set()
        assert await response.content.read() == b"data: [DONE]\n\n"


@pytest.mark.parametrize("sent", ["events", "the head of a stream", "nothing, for a stream", "nothing, for JSON"])
async def test_of_twenty_clients_that_leave_every_one_takes_its_request_at_the_backend_along(
    start: Start, backend: FakeBackend, sent: str
) -> None:
    arrived, cancelled = 0, 0

    async def never_ending(seen: Seen, writer: asyncio.StreamWriter) -> None:
        nonlocal arrived, cancelled
        arrived += 1
        if not sent.startswith("nothing"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
            writer.write(b"data: 1\n\n" if sent == "events" else b"")
            await writer.drain()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled += 1
            raise

    backend.behaviour = never_ending
    async with start(table(backend.url)) as client:
        asked = {"model": "m", "stream": sent != "nothing, for JSON"}
        requests = [asyncio.ensure_future(client.post(asked)) for _ in range(20)]
        async with asyncio.timeout(20):
            while arrived < 20:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            if sent == "events":
                for request in requests:
                    response = await request
                    await response.content.readany()
                    response.close()
            else:
                for request in requests:
                    request.cancel()
                await asyncio.gather(*requests, return_exceptions=True)
            await client.plane.wait_until_idle()
            while cancelled < 20:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert client.plane.balancer.in_flight() == 0


async def test_a_stream_that_its_backend_breaks_off_ends_with_an_error_and_without_done(
    start: Start, backend: FakeBackend
) -> None:
    async def die(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        writer.write(b"9\r\ndata: 1\n\n\r\n")
        await writer.drain()
        writer.close()

    backend.behaviour = die
    async with start(table(backend.url)) as client, client.post() as response:
        body = await response.read()
    events = body.strip().split(b"\n\n")
    assert events[0] == b"data: 1"
    error = json.loads(events[1].removeprefix(b"data: "))["error"]
    assert error["code"] == "died_mid_reply"
    assert b"[DONE]" not in body


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b'{"model": "m"', 400, "bad_json"),
        (b'["m"]', 400, "bad_json"),
        (b"\xff\xfe", 400, "bad_json"),
        (b"[" * 100_000, 400, "bad_json"),
        (b'{"model": 7}', 400, "model_missing"),
        (b'{"model": "gpt"}', 404, "unknown_model"),
        (b'{"model": "m", "x": "' + b"y" * 2_000_000 + b'"}', 413, "body_too_large"),
    ],
)
async def test_what_cannot_be_served_gets_a_clear_error_in_openai_s_shape(
    start: Start, backend: FakeBackend, body: bytes, status: int, reason: str
) -> None:
    async with start(table(backend.url), max_body_bytes=1_000_000) as client, client.post(io.BytesIO(body)) as response:
        assert response.status == status
        assert response.headers["x-marlin-error"] == reason
        error = json.loads(await response.read())["error"]
        assert set(error) == {"message", "type", "param", "code"}
    assert backend.seen == []


async def test_an_unknown_path_is_not_passed_on(start: Start, backend: FakeBackend) -> None:
    async with start(table(backend.url)) as client, client.post(path="/admin/shutdown") as response:
        assert response.status == 404
        assert response.headers["x-marlin-error"] == "unknown_path"
    assert backend.seen == []


async def test_models_are_listed_from_the_table(start: Start) -> None:
    async with start(table("http://127.0.0.1:9")) as client:
        async with client.session.get(f"{client.url}/v1/models") as response:
            assert [model["id"] for model in (await response.json())["data"]] == ["m"]
        async with client.session.get(f"{client.url}/v1/models/gpt") as response:
            assert response.status == 404


async def test_a_backend_that_refuses_is_replaced_by_another(start: Start, backend: FakeBackend) -> None:
    async with start(table("http://127.0.0.1:9", backend.url)) as client:
        for _ in range(4):
            async with client.post() as response:
                assert response.status == 200
                assert response.headers["x-marlin-backend"] == "b1"
        assert await client.metric("marlin_router_upstream_errors_total") >= 1


async def test_without_any_backend_the_answer_is_503_with_a_time_to_come_back(start: Start) -> None:
    async with start(table("http://127.0.0.1:9")) as client:
        async with client.post() as response:
            assert response.status == 502
        async with client.post() as response:
            assert response.status == 503
            assert response.headers["Retry-After"] == "1"
            assert response.headers["x-marlin-error"] == "no_backend"


async def test_usage_in_a_reply_becomes_an_estimate_of_energy_and_carbon(start: Start, backend: FakeBackend) -> None:
    usage = b'{"usage":{"prompt_tokens":1000,"completion_tokens":200,"total_tokens":1200}}'
    backend.behaviour = reply(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(usage), usage))
    document = table(backend.url)
    document["datacenters"][0] |= {"carbonGco2PerKwh": 360.0, "waterLPerKwh": 2.0, "priceUsdPerKwh": 0.1}
    document["pools"][0]["backends"][0] |= {"joulesPerPromptToken": 1.0, "joulesPerOutputToken": 5.0}
    async with start(document) as client:
        async with client.post() as response:
            await response.read()
            assert response.headers["x-marlin-energy-joules"] == "2000"
            assert response.headers["x-marlin-carbon-grams"] == "0.2"
        assert await client.metric("marlin_router_estimated_energy_joules_total") == 2000.0
        assert await client.metric("marlin_router_estimated_carbon_grams_total") == pytest.approx(0.2)


async def test_what_a_token_takes_is_told_of_sites_that_answered_nothing_too(
    start: Start, backend: FakeBackend
) -> None:
    document = table(backend.url, "http://127.0.0.1:9")
    for number, site in enumerate(document["datacenters"]):
        site |= {"carbonGco2PerKwh": 100.0 + number, "waterLPerKwh": 2.0, "priceUsdPerKwh": 0.1}
    for number, one in enumerate(document["pools"][0]["backends"]):
        one |= {"joulesPerPromptToken": 1.0 + number, "joulesPerOutputToken": 5.0}
    async with start(document) as client:
        for site, joules, carbon in (("dc0", 1.0, 100.0), ("dc1", 2.0, 101.0)):
            rate = f'marlin_router_joules_per_token{{datacenter="{site}",kind="prompt",pool="chat"}}'
            assert await client.metric(rate) == joules
            grams = f'marlin_router_per_kwh{{datacenter="{site}",figure="carbon_grams"}}'
            assert await client.metric(grams) == carbon


async def test_signals_that_expired_are_no_rate(start: Start, backend: FakeBackend) -> None:
    document = table(backend.url)
    document["datacenters"][0] |= {"carbonGco2PerKwh": 100.0, "signalsValidUntil": "2020-01-01T00:00:00Z"}
    async with start(document) as client:
        assert await client.metric("marlin_router_per_kwh") == 0, "none is exposed"


async def test_only_an_event_stream_shows_when_its_first_token_came(start: Start, backend: FakeBackend) -> None:
    """A JSON reply begins when generation ends: among first tokens it would tell of whole replies."""
    async with start(table(backend.url)) as client:
        async with client.post() as response:
            assert response.status == 200
        assert await client.metric("marlin_router_ttft_seconds_count") == 0
        backend.behaviour = reply(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 14\r\n\r\ndata: [DONE]\n\n"
        )
        async with client.post() as response:
            await response.read()
        assert await client.metric("marlin_router_ttft_seconds_count") == 1


async def test_a_stream_s_usage_is_counted_from_its_last_events(start: Start, backend: FakeBackend) -> None:
    async def stream(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        usage = b'data: {"usage":{"prompt_tokens":7,"total_tokens":12,"completion_tokens":5}}\n\n'
        for event in (b"data: {}\n\n", usage, b"data: [DONE]\n\n"):
            writer.write(b"%x\r\n%b\r\n" % (len(event), event))
            await writer.drain()
        writer.write(b"0\r\n\r\n")

    backend.behaviour = stream
    async with start(table(backend.url)) as client:
        async with client.post() as response:
            await response.read()
        assert await client.metric('marlin_router_tokens_total{datacenter="dc0",kind="output",pool="chat"}') == 5


FIGURES = (
    b": x-marlin-energy-joules: 2000\n: x-marlin-carbon-grams: 0.2\n"
    b": x-marlin-water-liters: 0.00111111\n: x-marlin-cost-usd: 5.55556e-05\n\n"
)
EVENTS = (
    b"data: {}\n\n",
    b'data: {"usage":{"prompt_tokens":1000,"total_tokens":1200,"completion_tokens":200}}\n\n',
    b"data: [DONE]\n\n",
)


@pytest.mark.parametrize(
    ("head", "ending"),
    [
        pytest.param(b"Transfer-Encoding: chunked\r\n\r\n", b"0\r\n\r\n", id="in chunks"),
        pytest.param(b"\r\n", b"", id="until the connection ends"),
    ],
)
@pytest.mark.parametrize("pause_s", [None, 0.005])
@pytest.mark.parametrize("is_wanted", [True, False])
async def test_a_stream_ends_with_what_it_cost_where_that_is_wanted_and_its_events_are_unchanged(
    start: Start, backend: FakeBackend, head: bytes, ending: bytes, pause_s: float | None, is_wanted: bool
) -> None:
    async def stream(seen: Seen, writer: asyncio.StreamWriter) -> None:
        pieces = [b"%x\r\n%b\r\n" % (len(event), event) if ending else event for event in EVENTS]
        for piece in (b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n" + head, *pieces, ending):
            writer.write(piece)
            if pause_s is not None:
                await writer.drain()
                await asyncio.sleep(pause_s)
        if not ending:
            writer.close()

    backend.behaviour = stream
    document = table(backend.url)
    document["datacenters"][0] |= {"carbonGco2PerKwh": 360.0, "waterLPerKwh": 2.0, "priceUsdPerKwh": 0.1}
    document["pools"][0]["backends"][0] |= {"joulesPerPromptToken": 1.0, "joulesPerOutputToken": 5.0}
    async with start(document, has_stream_estimates=is_wanted) as client, client.post() as response:
        text = await response.read()
    assert text == b"".join(EVENTS) + (FIGURES if is_wanted else b"")


async def test_shares_are_told_in_requests_and_in_tokens(start: Start) -> None:
    def usage(tokens: int) -> bytes:
        text = b'{"usage":{"prompt_tokens":%d,"completion_tokens":0,"total_tokens":%d}}' % (tokens, tokens)
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text)

    async with (
        FakeBackend(reply(usage(30))) as one,
        FakeBackend(reply(usage(90))) as two,
        start(table(one.url, two.url)) as client,
    ):
        for _ in range(10):
            async with client.post() as response:
                assert response.status == 200
        async with client.session.get(f"{client.admin_url}/metrics") as response:
            lines = (await response.text()).splitlines()
    name = 'marlin_router_realised_share{datacenter="dc1",pool="chat",unit="%s"}'
    assert f"{name % 'requests'} 0.5" in lines
    assert f"{name % 'tokens'} 0.75" in lines


async def test_errors_on_messages_have_anthropic_s_shape_and_a_request_id(start: Start) -> None:
    document, unknown, mine = table("http://127.0.0.1:9"), {"model": "x"}, {"X-Request-Id": "mine"}
    async with start(document) as client, client.post(unknown, path="/v1/messages") as response:
        assert response.status == 404
        body = json.loads(await response.read())
        assert body["type"] == "error"
        assert body["error"]["type"] == "not_found_error"
        assert len(response.headers["x-request-id"]) == 32
    async with start(document) as client, client.post(unknown, headers=mine) as response:
        assert response.headers["x-request-id"] == "mine"
