"""Who may come in, and how often: keys, rates, budgets and priorities."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from click.testing import CliRunner
from fake_backend import FakeBackend, Seen
from hypothesis import given
from hypothesis import strategies as st
from router_client import Client, Start, table, write
from router_process import running
from tenancy import KEY, USAGE, hash_of, listed, priced, saying, tenant, with_key

from marlin.router.cli import router
from marlin.router.ledger import NANO_USD, Ledger
from marlin.router.limits import MAX_TENANTS, MINUTE_NS, Rate, Tenant, period_end_s, period_of
from marlin.router.peers import count_peers
from marlin.router.tenant_file import TenantFile


@pytest.fixture
def guarded(start: Start, tmp_path: Path) -> Callable[..., Any]:
    @asynccontextmanager
    async def guarded(document: dict[str, Any], *tenants: dict[str, Any], **settings: Any) -> AsyncIterator[Client]:
        file = tmp_path / "tenants.json"
        file.write_text(json.dumps(listed(*tenants)))
        async with start(document, tenants=file, **settings) as client:
            yield client

    return guarded


@pytest.mark.parametrize(
    "headers",
    [
        {},
        with_key("sk-wrong"),
        {"Authorization": f"Basic {KEY}"},
        {"Authorization": hash_of(KEY)},
        {"Authorization": "Bearer "},
        {"x-api-key": "sk-wrong"},
    ],
)
async def test_without_a_key_that_somebody_has_the_answer_is_401(
    guarded: Any, backend: FakeBackend, headers: dict[str, str]
) -> None:
    async with guarded(table(backend.url), tenant()) as client, client.post(headers=headers) as response:
        assert response.status == 401
        assert response.headers["WWW-Authenticate"] == "Bearer"
        error = json.loads(await response.read())["error"]
        assert error["code"] in {"missing_api_key", "invalid_api_key"}
        assert "sk-" not in error["message"]
    assert backend.seen == []


async def test_before_a_list_was_read_nobody_comes_in(guarded: Any, backend: FakeBackend) -> None:
    async with guarded(table(backend.url)) as client, client.post(headers=with_key()) as response:
        assert response.status == 401


@pytest.mark.parametrize("header", ["Authorization", "x-api-key"])
async def test_a_client_s_key_never_goes_further(guarded: Any, backend: FakeBackend, header: str) -> None:
    value = f"Bearer {KEY}" if header == "Authorization" else KEY
    sent = {header: value, "x-other": "kept"}
    async with guarded(table(backend.url), tenant()) as client, client.post(headers=sent) as response:
        assert response.status == 200
    assert KEY.encode() not in backend.seen[0].head
    assert b"x-other: kept" in backend.seen[0].head


async def test_the_backend_s_credential_takes_the_place_of_the_client_s(
    guarded: Any, backend: FakeBackend, tmp_path: Path
) -> None:
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "token").write_text("of-the-backend\n")
    (tmp_path / "vllm" / "send-to").write_text(backend.url)
    document = table(backend.url)
    document["pools"][0]["backends"][0]["credentialsMount"] = "vllm/token"
    sent = with_key() | {"x-api-key": "another"}
    async with guarded(document, tenant(), secrets_dir=tmp_path) as client, client.post(headers=sent) as response:
        assert response.status == 200
    assert backend.seen[0].head.lower().count(b"authorization:") == 1
    assert b"Authorization: Bearer of-the-backend" in backend.seen[0].head
    assert b"another" not in backend.seen[0].head


async def test_models_are_for_those_with_a_key_and_health_is_for_everybody(guarded: Any, backend: FakeBackend) -> None:
    async with guarded(table(backend.url), tenant()) as client:
        for path, headers, status in (
            ("/v1/models", {}, 401),
            ("/v1/models", with_key(), 200),
            ("/healthz", {}, 200),
            ("/readyz", {}, 200),
        ):
            async with client.session.get(client.url + path, headers=headers) as response:
                assert response.status == status, path


async def test_an_upload_without_a_key_is_refused_at_its_head(guarded: Any, backend: FakeBackend) -> None:
    async with guarded(table(backend.url), tenant()) as client:
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n{")
        assert (await reader.readline()).startswith(b"HTTP/1.1 401 ")
        writer.close()


async def test_requests_beyond_the_burst_get_429_with_the_time_to_come_back(guarded: Any, backend: FakeBackend) -> None:
    async with guarded(table(backend.url), tenant(requestsPerMinute=1, requestBurst=3)) as client:
        codes = []
        for _ in range(5):
            async with client.post(headers=with_key()) as response:
                codes.append(response.status)
                error = json.loads(await response.read()).get("error")
        assert codes == [200, 200, 200, 429, 429]
        assert 55 <= int(response.headers["Retry-After"]) <= 60
        assert response.headers["x-marlin-error"] == "rate_limit_exceeded"
        assert (error["type"], error["code"]) == ("requests", "rate_limit_exceeded")
        assert (
            await client.metric('marlin_router_tenant_refused_total{reason="rate_limit_exceeded",tenant="first"}') == 2
        )
        assert await client.metric("marlin_router_tenant_requests_total") == 3
    assert len(backend.seen) == 3


async def test_anthropic_s_clients_get_their_own_shape_of_429(guarded: Any, backend: FakeBackend) -> None:
    async with guarded(table(backend.url), tenant(requestsPerMinute=1)) as client:
        async with client.post(path="/v1/messages", headers={"x-api-key": KEY}) as response:
            assert response.status == 200
        async with client.post(path="/v1/messages", headers={"x-api-key": KEY}) as response:
            assert response.status == 429
            assert json.loads(await response.read())["error"]["type"] == "rate_limit_error"


async def test_tokens_are_reserved_and_then_charged_as_the_reply_reports_them(
    guarded: Any, backend: FakeBackend
) -> None:
    """Of 1,000 tokens each reply takes 150, whatever was reserved; the seventh request finds less than it wants."""
    backend.behaviour = saying(USAGE)
    body = {"model": "m", "max_tokens": 120}
    async with guarded(table(backend.url), tenant(tokensPerMinute=1, tokenBurst=1000)) as client:
        codes = []
        for _ in range(8):
            async with client.post(body, headers=with_key()) as response:
                codes.append(response.status)
                answer = json.loads(await response.read())
        assert codes == [200] * 6 + [429] * 2
        assert answer["error"]["type"] == "tokens"
        assert await client.metric("marlin_router_tenant_tokens_total") == 900
        assert await client.metric("marlin_router_tenant_ttft_seconds_count") == 0, "a JSON reply shows none"


async def test_what_wants_more_tokens_at_once_than_there_are_is_not_admitted_together(
    guarded: Any, backend: FakeBackend
) -> None:
    """Two requests that reserve 600 of 1,000 tokens: one runs, the other has to wait, before either has answered."""
    go_on = asyncio.Event()

    async def slowly(seen: Seen, writer: asyncio.StreamWriter) -> None:
        await go_on.wait()
        await saying(USAGE)(seen, writer)

    backend.behaviour = slowly
    body = {"model": "m", "max_completion_tokens": 600}
    async with guarded(table(backend.url), tenant(tokensPerMinute=1, tokenBurst=1000)) as client:
        first = asyncio.ensure_future(client.post(body, headers=with_key()))
        await backend.arrived.wait()
        async with client.post(body, headers=with_key()) as response:
            assert response.status == 429
        go_on.set()
        (await first).release()


async def test_a_stream_without_usage_is_charged_by_its_size(guarded: Any, backend: FakeBackend) -> None:
    event = b"data: " + b"x" * 192 + b"\n\n"

    async def stream(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(40):
            writer.write(b"%x\r\n%b\r\n" % (len(event), event))
        writer.write(b"0\r\n\r\n")

    backend.behaviour = stream
    async with guarded(table(backend.url), tenant(tokensPerMinute=100_000)) as client:
        async with client.post(headers=with_key()) as response:
            await response.read()
        output = 'marlin_router_tenant_tokens_total{datacenter="dc0",kind="output",pool="chat",tenant="first"}'
        assert 40 <= await client.metric(output) <= 42
        assert await client.metric("marlin_router_tenant_ttft_seconds_count") == 1, "a stream shows its first token"


async def test_a_request_that_no_backend_could_take_is_not_charged(guarded: Any) -> None:
    async with guarded(table("http://127.0.0.1:9"), tenant(requestsPerMinute=1, requestBurst=2)) as client:
        codes = []
        for _ in range(4):
            async with client.post(headers=with_key()) as response:
                codes.append(response.status)
    assert codes == [502, 503, 503, 503]


@pytest.mark.parametrize("budget", [{"usd": 0.25}, {"carbonGco2": 250.0}])
async def test_a_budget_stops_the_first_request_after_it_is_used_up(
    guarded: Any, backend: FakeBackend, budget: dict[str, float]
) -> None:
    backend.behaviour = saying(USAGE)
    async with guarded(priced(backend.url), tenant(budget=budget)) as client:
        codes = []
        for _ in range(5):
            async with client.post(headers=with_key()) as response:
                codes.append(response.status)
                answer = json.loads(await response.read())
        assert codes == [200, 200, 200, 429, 429]
        assert answer["error"]["code"] == "insufficient_quota"
        assert 0 < int(response.headers["Retry-After"]) <= 86_401
        assert await client.metric("marlin_router_tenant_carbon_grams_total") == pytest.approx(300.0)


async def test_a_client_that_leaves_a_stream_has_spent_what_it_got(guarded: Any, backend: FakeBackend) -> None:
    async def endless(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + b"data: 1\n\n" * 400)
        await asyncio.Event().wait()

    backend.behaviour = endless
    async with guarded(table(backend.url), tenant(tokensPerMinute=1000)) as client:
        response = await client.post(headers=with_key())
        while await response.content.read(1200) and response.content.total_bytes < 3600:
            pass
        response.close()
        await asyncio.wait_for(client.plane.wait_until_idle(), 5)
        assert await client.metric("marlin_router_tenant_tokens_total") >= 18


async def test_the_last_places_of_a_pool_are_for_higher_priorities(guarded: Any, backend: FakeBackend) -> None:
    go_on = asyncio.Event()

    async def wait(seen: Seen, writer: asyncio.StreamWriter) -> None:
        await go_on.wait()
        await saying(b"{}")(seen, writer)

    backend.behaviour = wait
    document = table(backend.url)
    document["pools"][0]["backends"][0]["maxConcurrentRequests"] = 40
    tenants = [tenant(name, f"sk-{name}", priority=name.title()) for name in ("low", "normal", "high")]
    async with guarded(document, *tenants) as client:
        running: list[asyncio.Future[Any]] = []
        for name, until in (("low", 32), ("normal", 38), ("high", 40)):
            while len(running) < until:
                running.append(asyncio.ensure_future(client.post(headers=with_key(f"sk-{name}"))))
                while len(backend.seen) < len(running):  # noqa: ASYNC110 requests arrive one by one
                    await asyncio.sleep(0)
            async with client.post(headers=with_key(f"sk-{name}")) as response:
                assert response.status == 503, name
                assert response.headers["Retry-After"] == "1"
                assert response.headers["x-marlin-error"] == ("no_backend" if name == "high" else "priority")
        go_on.set()
        for response in await asyncio.gather(*running):
            response.release()


async def test_a_changed_list_takes_over_and_forgives_nobody_what_was_used(
    guarded: Any, backend: FakeBackend, tmp_path: Path
) -> None:
    limits: dict[str, Any] = {"requestsPerMinute": 1, "requestBurst": 2}
    async with guarded(table(backend.url), tenant(**limits), reload_interval_s=0.01) as client:

        async def status(key: str) -> int:
            async with client.post(headers=with_key(key)) as response:
                return int(response.status)

        async def change(*tenants: dict[str, Any] | str) -> None:
            text = tenants[0] if isinstance(tenants[0], str) else json.dumps(listed(*tenants))  # type: ignore[arg-type]
            before = await client.metric("marlin_router_tenant_reloads_total")
            (tmp_path / "part").write_text(text)
            os.replace(tmp_path / "part", tmp_path / "tenants.json")  # noqa: PTH105
            while await client.metric("marlin_router_tenant_reloads_total") == before:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

        assert await status(KEY) == 200
        await change(tenant("other", "sk-other"), tenant(key="sk-new", **limits))
        assert [await status(key) for key in (KEY, "sk-other", "sk-new", "sk-new")] == [401, 200, 200, 429]
        await change("kind: TenantList\napiVersion: marlin.dev/v1alpha1\ntenants: [{name: x}]\n")
        assert await status("sk-other") == 200
        async with client.session.get(f"{client.admin_url}/readyz") as response:
            assert "keyHashes" in (await response.json())["tenants"]["lastReloadError"]


async def test_the_access_log_names_the_tenant_and_nothing_names_the_key(tmp_path: Path, backend: FakeBackend) -> None:
    (tmp_path / "tenants.json").write_text(json.dumps(listed(tenant())))
    options = ("--tenants", str(tmp_path / "tenants.json"))
    async with running(tmp_path, table(backend.url), *options) as process, aiohttp.ClientSession() as session:
        url = f"{process.url}/v1/completions"
        for key in (KEY, "sk-wrong"):
            async with session.post(url, json={"model": "m"}, headers=with_key(key)) as response:
                await response.read()
    assert "tenant=first" in process.log
    assert "sk-" not in process.log


@pytest.mark.parametrize("workers", [1, 2, 4])
async def test_a_rate_is_exact_whichever_worker_serves_a_request(
    tmp_path: Path, backend: FakeBackend, workers: int
) -> None:
    """Of 300 requests at once, each on a connection of its own, exactly the 100 that are granted come through."""
    (tmp_path / "tenants.json").write_text(json.dumps(listed(tenant(requestsPerMinute=1, requestBurst=100))))
    options = ("--tenants", str(tmp_path / "tenants.json"), "--workers", str(workers))
    async with (
        running(tmp_path, table(backend.url), *options) as process,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True, limit=50)) as session,
    ):
        began_s = asyncio.get_running_loop().time()

        async def status() -> int:
            async with session.post(
                f"{process.url}/v1/completions", json={"model": "m"}, headers=with_key()
            ) as response:
                return int(response.status)

        codes = await asyncio.gather(*(status() for _ in range(300)))
        refilled = int((asyncio.get_running_loop().time() - began_s) / 60)
        assert set(codes) == {200, 429}
        assert codes.count(200) == len(backend.seen)
        assert 100 <= codes.count(200) <= 100 + refilled


async def test_a_budget_adds_up_over_workers(tmp_path: Path, backend: FakeBackend) -> None:
    """Two workers serve one after another, so nothing is in flight: the tenth request is the last that is paid for."""
    backend.behaviour = saying(USAGE)
    (tmp_path / "tenants.json").write_text(json.dumps(listed(tenant(budget={"usd": 0.95}))))
    options = ("--tenants", str(tmp_path / "tenants.json"), "--workers", "2")
    async with running(tmp_path, priced(backend.url), *options) as process:
        codes = []
        for _ in range(14):
            async with (
                aiohttp.ClientSession() as session,
                session.post(f"{process.url}/v1/completions", json={"model": "m"}, headers=with_key()) as response,
            ):
                await response.read()
                codes.append(response.status)
    assert codes == [200] * 10 + [429] * 4


def test_a_worker_that_dies_with_a_row_locked_does_not_stop_the_others() -> None:
    fd = Ledger.create()
    ledger = Ledger(fd, is_shared=True)
    pid = os.fork()
    if pid == 0:
        ledger.lock(3)
        os._exit(0)
    os.waitpid(pid, 0)
    ledger.lock(3)
    ledger.cells[ledger.row_at(3)] += 1
    ledger.unlock(3)
    ledger.close()


def test_the_ledger_has_a_row_for_every_tenant_a_list_may_have() -> None:
    from marlin.api import tenants

    assert tenants.MAX_TENANTS == MAX_TENANTS


@given(
    st.integers(1, 10**6),
    st.integers(1, 10**4),
    st.integers(1, 9),
    st.lists(st.tuples(st.integers(0, MINUTE_NS), st.integers(1, 50)), max_size=60),
)
def test_over_any_time_no_more_is_granted_than_burst_and_rate(
    per_minute: int, burst: int, pods: int, arrivals: list[tuple[int, int]]
) -> None:
    rate, now_ns, full_at_ns = Rate(per_minute, burst), 0, 0
    granted: list[tuple[int, int]] = []
    for gap_ns, units in arrivals:
        now_ns += gap_ns
        if not rate.wait_ns(full_at_ns, now_ns, units, pods):
            full_at_ns = max(full_at_ns, now_ns) + rate.cost_ns(units, pods)
            granted.append((now_ns, units))
    for i, (since_ns, _) in enumerate(granted):
        for until, (until_ns, last) in enumerate(granted[i:], i):
            # What is more than the burst may go into debt once; all before it stays within the bound.
            total = sum(units for _, units in granted[i:until]) + min(last, burst)
            first = max(burst / pods, 1) if granted[i][1] <= burst / pods else granted[i][1]
            allowed = first + (until_ns - since_ns) * per_minute / pods / MINUTE_NS
            assert total <= allowed + max(last, 1) + 1e-3


@given(st.integers(1, 10**6), st.integers(1, 10**4), st.integers(1, 10**6))
def test_whoever_waits_as_long_as_told_is_granted_and_not_a_moment_sooner(
    per_minute: int, burst: int, debt: int
) -> None:
    rate = Rate(per_minute, burst)
    full_at_ns = rate.cost_ns(debt, 1)
    wait_ns = rate.wait_ns(full_at_ns, 0, 1, 1)
    assert not rate.wait_ns(full_at_ns, wait_ns, 1, 1)
    assert not wait_ns or rate.wait_ns(full_at_ns, wait_ns - 1, 1, 1)


def test_periods_are_days_and_months_in_utc() -> None:
    before, after = (datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC))
    for is_monthly in (False, True):
        assert period_of(before.timestamp(), is_monthly=is_monthly) != period_of(
            after.timestamp(), is_monthly=is_monthly
        )
        assert period_end_s(before.timestamp(), is_monthly=is_monthly) == after.timestamp()


async def test_routers_that_come_and_go_change_how_limits_are_divided() -> None:
    answers: list[set[str] | OSError] = [{"a"}, {"a", "b"}, OSError("no such name"), set(), {"a", "b"}, {"a"}]
    counts: list[int] = []
    done = asyncio.Event()

    async def lookup(name: str) -> set[str]:
        assert name == "routers"
        if not answers:
            done.set()
            await asyncio.Event().wait()
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    task = asyncio.create_task(count_peers("routers", counts.append, lookup, interval_s=0.0))
    await done.wait()
    task.cancel()
    assert counts == [1, 2, 1]


async def test_two_routers_grant_half_each(guarded: Any, backend: FakeBackend) -> None:
    async with guarded(table(backend.url), tenant(requestsPerMinute=1, requestBurst=8)) as client:
        client.ledger.pods = 2
        codes = []
        for _ in range(6):
            async with client.post(headers=with_key()) as response:
                codes.append(response.status)
    assert codes == [200] * 4 + [429] * 2


@pytest.mark.parametrize(
    ("option", "value", "needed"),
    [
        ("--peers", "routers", "--tenants"),
        ("--budget-store", "redis://x", "--tenants"),
        ("--budget-store-password-file", __file__, "--budget-store"),
    ],
)
def test_an_option_that_would_limit_nobody_is_refused(option: str, value: str, needed: str) -> None:
    result = CliRunner().invoke(router, ["--config", __file__, option, value])
    assert result.exit_code == 2
    assert f"{option} needs {needed}\n" in result.output


def test_a_tenant_that_comes_back_finds_what_it_has_used_and_nobody_else_gets_its_row(tmp_path: Path) -> None:
    path, ledger = tmp_path / "tenants.json", Ledger(Ledger.create(), is_shared=False)
    lists: list[tuple[Tenant, ...]] = []

    def take(*names: str) -> dict[str, int]:
        write(path, listed(*(tenant(name, key=f"sk-{name}-0123456789") for name in names)))
        asyncio.run(tenant_file.step())
        return {taken.name: taken.slot for taken in lists[-1]}

    write(path, listed(tenant("first")))
    tenant_file = TenantFile(path, ledger, lists.append, lambda _: None)
    row = ledger.row_at(lists[-1][0].slot)
    ledger.cells[row + NANO_USD] = 5
    assert take("second", "third").keys() == {"second", "third"}
    slots = take("first", "second", "fourth")
    assert len(set(slots.values())) == 3
    assert ledger.row_at(slots["first"]) == row
    assert ledger.cells[row + NANO_USD] == 5
    ledger.close()
