from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fake_backend import OK, FakeBackend, Seen
from router_client import Client, Start, table, write

from marlin.api.documents import DocumentError
from marlin.api.plan import Dispatch, PlannerKind, PoolPlan, RoutingPlan
from marlin.router.schedule import Schedule
from marlin.router.tables import read_table, view_of
from marlin.router.view import Ordered, Shares, Table

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "router" / "fleet.yaml"


def plan(weights: tuple[int, ...], *, epoch: int = 1, starts_in_s: float = -10.0, **changes: Any) -> dict[str, Any]:
    start = datetime.now(UTC) + timedelta(seconds=starts_in_s)
    pool = {"name": "chat", "dispatch": Dispatch.SHARES, "weights": weights} | changes.pop("pool", {})
    fields: dict[str, Any] = {
        "epoch": epoch,
        "decided_time": start,
        "valid_from": start,
        "valid_until": start + timedelta(minutes=15),
        "planner": PlannerKind.MERIT_ORDER,
        "datacenters": tuple(f"dc{i}" for i in range(len(weights))),
        "pools": (PoolPlan.model_validate(pool),),
    }
    return RoutingPlan.model_validate(fields | changes).sealed().to_document()


def view(document: dict[str, Any], origin: str | None = None) -> Table:
    parsed = read_table(json.dumps(document), "table.json", origin)
    return view_of(parsed, parsed.plan, origin, lambda name: URLS[0] if "send-to" in name else f"secret of {name}")


URLS = ("http://127.0.0.1:1", "http://127.0.0.1:2", "http://127.0.0.1:3")


def test_without_a_plan_the_shares_are_those_of_capacity() -> None:
    document = table(*URLS)
    for backend, capacity in zip(document["pools"][0]["backends"], (1.0, 2.0, 5.0), strict=True):
        backend["capacityRps"] = capacity
    assert view(document).pools[0].rule == Shares((0.125, 0.25, 0.625))


def test_an_origin_s_own_row_is_used_and_the_common_one_by_everybody_else() -> None:
    rows = {"by_origin": ((10_000, 0, 0), (0, 0, 10_000))}
    document = table(*URLS, plan=plan((5000, 0, 5000), origins=("eu", "us"), pool=rows))
    assert view(document, "us").pools[0].rule == Shares((0.0, 0.0, 1.0))
    assert view(document, "eu").pools[0].rule == Shares((1.0, 0.0, 0.0))
    assert view(document, "mars").pools[0].rule == Shares((0.5, 0.0, 0.5))
    assert view(document).pools[0].rule == Shares((0.5, 0.0, 0.5))


def test_a_drained_site_and_one_outside_the_allowed_regions_are_not_there() -> None:
    document = table(*URLS)
    document["datacenters"][0]["serviceState"] = "Drained"
    document["pools"][0]["allowedRegions"] = ["region0", "region2"]
    assert [site.name for site in view(document).pools[0].sites] == ["dc2"]


def test_an_ordered_plan_keeps_its_order_and_caps_for_the_sites_that_are_left() -> None:
    ordered = {"dispatch": Dispatch.ORDERED, "order": (2, 0, 1), "cap": (9500, 5000, 9000)}
    document = table(*URLS, plan=plan((0, 0, 10_000), pool=ordered))
    document["datacenters"][0]["serviceState"] = "Drained"
    assert view(document).pools[0].rule == Ordered((1, 0), (0.5, 0.9))


def test_a_plan_for_other_datacenters_leaves_those_it_does_not_name_without_a_share() -> None:
    document = table(*URLS, plan=plan((4000, 6000)))
    assert view(document).pools[0].rule == Shares((0.4, 0.6, 0.0))


def test_credentials_are_looked_up_and_never_shown() -> None:
    document = table(URLS[0])
    document["pools"][0]["backends"][0]["credentialsMount"] = "vllm/token"
    shown = view(document)
    assert shown.backends()[0].authorization == "Bearer secret of vllm/token"
    assert "secret" not in repr(shown)


@pytest.mark.parametrize(
    ("url", "tls"),
    [
        ("https://127.0.0.1:1", {}),
        ("http://127.0.0.1:11", {"verification": "Disabled"}),
        ("http://127.0.0.1:1@127.0.0.1:2", {"verification": "Disabled"}),
        ("http://127.0.0.1", {"verification": "Disabled"}),
        ("http://127.0.0.1:1", {"verification": "Disabled", "serverName": "evil.example"}),
    ],
)
def test_a_table_cannot_have_a_credential_sent_where_its_secret_does_not_say(url: str, tls: dict[str, str]) -> None:
    document = table(url)
    document["pools"][0]["backends"][0] |= {"credentialsMount": "vllm/token", "tls": tls}
    with pytest.raises(DocumentError, match=r"is not sent to|holds credentials") as error:
        view(document)
    assert "secret of" not in str(error.value)


async def test_a_credential_is_sent_once_its_secret_says_where_to(start: Start, tmp_path: Path) -> None:
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "token").write_text("hunter2")
    async with FakeBackend() as good, FakeBackend() as evil, start(table(good.url), secrets_dir=tmp_path) as client:
        document = table(evil.url, generation=2)
        document["pools"][0]["backends"][0]["credentialsMount"] = "vllm/token"
        for listed in (None, good.url):
            if listed is not None:
                (tmp_path / "vllm" / "send-to").write_text(listed)
            write(client.config, document)
            await client.control.step()
            await served(client, 1)
            error = client.control.status.last_error
            assert error is not None
            assert f"Secret vllm/token is not sent to {evil.url}: its key send-to does not list {evil.url}" in error
        assert evil.seen == []
        (tmp_path / "vllm" / "send-to").write_text(f"{good.url}\n{evil.url}\n")
        await client.control.step()
        await served(client, 1)
        assert ("Authorization", "Bearer hunter2") in evil.seen[0].headers


def test_people_s_documents_make_a_table() -> None:
    parsed = read_table(EXAMPLE.read_text(), "fleet.yaml")
    shares = view_of(parsed, None, None, lambda name: name).pools[0].rule
    assert shares == Shares((0.75, 0.25))


def test_a_file_that_makes_no_table_is_refused() -> None:
    for text, message in (("{}", "kind"), ("", "holds no RoutingTable"), ("[" * 100, "not valid YAML")):
        with pytest.raises(DocumentError, match=message):
            read_table(text, "x.yaml")


@pytest.mark.parametrize("host", ["169.254.169.254", "[fe80::1]"])
def test_a_backend_where_clouds_keep_credentials_is_refused(host: str) -> None:
    with pytest.raises(DocumentError, match="link-local"):
        view(table(f"http://{host}"))


def test_a_plan_waits_for_its_time_and_the_one_before_stays_until_then() -> None:
    now_s = datetime.now(UTC).timestamp()
    first = RoutingPlan.model_validate(plan((10_000,), epoch=1))
    second = RoutingPlan.model_validate(plan((10_000,), epoch=2, starts_in_s=60))
    empty: Schedule[RoutingPlan] = Schedule()
    schedule = empty.offer(first, now_s).offer(second, now_s)
    assert schedule.at(now_s + 59).current is first
    assert schedule.at(now_s + 61).current is second
    assert schedule.at(now_s + 10_000).current is second, "an overdue plan stays in force"
    assert schedule.offer(None, now_s).current is None


async def served(client: Client, requests: int) -> Counter[str]:
    counts: Counter[str] = Counter()
    for _ in range(requests):
        async with client.post() as response:
            assert response.status == 200
            counts[response.headers["x-marlin-datacenter"]] += 1
    return counts


async def test_realised_shares_follow_the_plan_within_one_request(start: Start) -> None:
    async with FakeBackend() as one, FakeBackend() as two, FakeBackend() as three:
        document = table(one.url, two.url, three.url, plan=plan((6100, 2900, 1000), epoch=7))
        async with start(document) as client:
            counts = await served(client, 100)
            assert all(abs(counts[f"dc{i}"] - share) <= 1 for i, share in enumerate((61, 29, 10)))
            assert await client.metric("marlin_router_plan_epoch") == 7
            async with client.post() as response:
                assert response.headers["x-marlin-plan-epoch"] == "7"


async def test_a_changed_file_takes_over_and_a_bad_one_changes_nothing(start: Start) -> None:
    async with FakeBackend() as one, FakeBackend() as two, start(table(one.url)) as client:
        write(client.config, table(two.url, generation=2))
        await client.control.step()
        assert (await served(client, 1))["dc0"] == 1
        assert len(two.seen) == 1

        client.config.write_text('{"kind": "RoutingTable", "datacenters": ')
        await client.control.step()
        await served(client, 1)
        assert len(two.seen) == 2
        async with client.session.get(f"{client.admin_url}/readyz") as response:
            body = await response.text()
            assert response.status == 200
        assert "not valid" in body
        assert await client.metric('marlin_router_table_reloads_total{result="invalid"}') == 1

        write(client.config, table(one.url, generation=1))
        await client.control.step()
        await served(client, 1)
        assert len(two.seen) == 3, "a table of an older generation is ignored"


async def test_connections_to_a_backend_that_left_the_table_are_closed_as_their_replies_end(
    start: Start, backend: FakeBackend
) -> None:
    go_on = asyncio.Event()

    async def think(seen: Seen, writer: asyncio.StreamWriter) -> None:
        await go_on.wait()
        writer.write(OK)

    async with FakeBackend(think) as leaving, start(table(leaving.url)) as client:
        asking = asyncio.ensure_future(client.post())
        await leaving.arrived.wait()
        (live,) = client.plane.balancer.all_live()
        for generation in (2, 3):
            write(client.config, table(backend.url, generation=generation))
            await client.control.step()
        go_on.set()
        async with await asking as response:
            assert response.status == 200
            await response.read()
        assert not live.peer.idle, "nobody looks after connections that are kept for nobody"


async def test_a_plan_is_taken_over_at_its_time(start: Start) -> None:
    async with FakeBackend() as one, FakeBackend() as two:
        document = table(one.url, two.url, plan=plan((10_000, 0), epoch=1))
        async with start(document) as client:
            write(
                client.config, table(one.url, two.url, plan=plan((0, 10_000), epoch=2, starts_in_s=1.0), generation=2)
            )
            await client.control.step()
            assert (await served(client, 3))["dc0"] == 3
            deadline_s = time.monotonic() + 10
            while (await served(client, 1))["dc1"] == 0:
                assert time.monotonic() < deadline_s, "the plan never took over"


async def test_draining_says_not_ready_first(start: Start, backend: FakeBackend) -> None:
    async with start(table(backend.url)) as client:
        client.admin.is_draining = True
        async with client.session.get(f"{client.admin_url}/readyz") as response:
            assert response.status == 503
        async with client.session.get(f"{client.admin_url}/healthz") as response:
            assert response.status == 200
        assert (await served(client, 1))["dc0"] == 1, "what still arrives is served"


async def test_a_client_between_two_requests_is_not_hung_up_on_by_a_router_that_drains(
    start: Start, backend: FakeBackend
) -> None:
    """It may be sending the next one: that is answered, and its answer ends the connection."""
    request = b"POST /v1/chat/completions HTTP/1.1\r\nHost: m\r\nContent-Length: 13\r\n\r\n" + b'{"model":"m"}'
    async with start(table(backend.url)) as client:
        host, port = client.url.removeprefix("http://").split(":")
        busy, idle = [await asyncio.open_connection(host, int(port)) for _ in range(2)]
        for reader, writer in (busy, idle):
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            assert b"200 OK" in head
            assert b"Connection: close" not in head
        client.plane.drain()
        reader, writer = busy
        writer.write(request)
        said = await asyncio.wait_for(reader.read(), 5)  # to its end
        assert b"HTTP/1.1 200 OK" in said
        assert b"connection: close" in said.lower()
        assert len(client.plane.clients) == 1, "the other one may still ask"
        client.plane.drain(is_final=True)
        await asyncio.wait_for(idle[0].read(), 5)
        assert not client.plane.clients
        for _, writer in (busy, idle):
            writer.close()


async def test_the_debug_page_shows_addresses_and_no_secret(start: Start, backend: FakeBackend, tmp_path: Path) -> None:
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "token").write_text("hunter2")
    (tmp_path / "vllm" / "send-to").write_text(backend.url)
    document = table(backend.url)
    document["pools"][0]["backends"][0]["credentialsMount"] = "vllm/token"
    async with start(document, secrets_dir=tmp_path) as client:
        await served(client, 1)
        for page in ("/debug/table", "/metrics", "/readyz"):
            async with client.session.get(client.admin_url + page) as response:
                assert "hunter2" not in await response.text()
    assert ("Authorization", "Bearer hunter2") in backend.seen[0].headers
