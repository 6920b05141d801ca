"""A table is watched on an API server: resumed, begun anew, waited for, and never lost."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from fake_backend import FakeBackend
from router_client import Start, table, write

from marlin.api.errors import InputError
from marlin.router.control import Control, Offer
from marlin.router.settings import Settings
from marlin.router.table_place import place_of
from marlin.router.table_watch import FIRST_PAUSE_S, LONGEST_PAUSE_S, MOST_BYTES, TableWatch

TOKEN = "t0k3n"


def config_map(version: int, text: str = "{}", uid: str = "u1", **more: Any) -> dict[str, Any]:
    metadata = {"namespace": "marlin", "name": "t", "uid": uid, "resourceVersion": str(version)}
    return {"metadata": metadata, "data": {"routing-table.json": text}} | more


def event(kind: str, found: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": found}).encode() + b"\n"


class ApiServer:
    """Answers each watch with the next of its scripts, and then with silence."""

    def __init__(self) -> None:
        self.scripts: list[list[bytes] | int] = []
        self.asked: list[dict[str, str]] = []
        self.headers: list[str] = []
        self.over = asyncio.Event()

    async def watch(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(dict(request.query))
        self.headers.append(request.headers["Authorization"])
        if not self.scripts:
            self.over.set()
        script = self.scripts.pop(0) if self.scripts else []
        if isinstance(script, int):
            return web.Response(status=script, headers={"Retry-After": "7", "Location": "/elsewhere"})
        response = web.StreamResponse()
        await response.prepare(request)
        for part in script:
            await response.write(part)
        if self.over.is_set():
            await asyncio.sleep(60)
        return response


class Watched:
    """A watch of such a server, until its scripts are over."""

    def __init__(self, url: str, server: ApiServer, folder: Path) -> None:
        self.server = server
        self.offers: list[Offer] = []
        self.pauses_s: list[float] = []
        self.token_file = folder / "token"
        self.token_file.write_text(TOKEN + "\n")
        place = place_of("marlin/t", "https://api", None, self.token_file, {})
        object.__setattr__(place, "server", url)  # a test's server has no certificate
        self.watch = TableWatch(place, self.offers.append, self.pause, lambda: 0.5)

    async def pause(self, pause_s: float) -> None:
        self.pauses_s.append(pause_s)

    async def until_over(self, *scripts: list[bytes] | int) -> None:
        self.server.scripts = list(scripts)
        running = asyncio.create_task(self.watch.run())
        await asyncio.wait_for(self.server.over.wait(), 10)
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running

    @property
    def texts(self) -> list[str]:
        return [offer.content.decode() for offer in self.offers]

    @property
    def versions(self) -> list[str | None]:
        return [asked.get("resourceVersion") for asked in self.server.asked]


@pytest.fixture
async def watched(tmp_path: Path) -> AsyncIterator[Watched]:
    server = ApiServer()
    app = web.Application()
    app.router.add_get("/api/v1/namespaces/marlin/configmaps", server.watch)
    async with TestServer(app, shutdown_timeout=0) as running:
        yield Watched(f"http://{running.host}:{running.port}", server, tmp_path)


async def test_a_watch_asks_for_one_object_and_goes_on_from_the_last_version_it_heard_of(watched: Watched) -> None:
    await watched.until_over(
        [event("ADDED", config_map(5, "a")), event("MODIFIED", config_map(9, "b"))],
        [event("BOOKMARK", {"metadata": {"resourceVersion": "30"}})],
        [],
    )
    assert watched.texts == ["a", "b"]
    assert watched.versions == [None, "9", "30", "30"]
    assert {asked["fieldSelector"] for asked in watched.server.asked} == {"metadata.name=t"}
    assert {asked["allowWatchBookmarks"] for asked in watched.server.asked} == {"true"}


@pytest.mark.parametrize("gone", [410, [event("ERROR", {"code": 410, "message": "too old resource version"})]])
async def test_a_version_that_is_forgotten_begins_the_watch_anew(watched: Watched, gone: Any) -> None:
    await watched.until_over([event("ADDED", config_map(5, "a"))], gone, [event("ADDED", config_map(80, "b"))])
    assert watched.texts == ["a", "b"]
    assert watched.versions == [None, "5", None, "80"]


async def test_an_object_of_a_megabyte_in_pieces_is_whole(watched: Watched) -> None:
    text = "\u00e4" * 500_000
    line = event("ADDED", config_map(5, text))
    await watched.until_over([line[i : i + 7001] for i in range(0, len(line), 7001)])
    assert watched.texts == [text]


async def test_a_line_without_end_is_given_up(watched: Watched) -> None:
    await watched.until_over([b"x" * (MOST_BYTES // 4)] * 5)
    assert watched.texts == []
    assert "cannot be watched" in (watched.watch.last_error or "")


@pytest.mark.parametrize("status", [302, 401, 403, 404, 429, 500, 503])
async def test_while_it_is_refused_it_asks_less_and_less_often_and_says_why_once(
    watched: Watched, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    await watched.until_over(*[status] * 10)
    growing = [min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**n) * 0.75 for n in range(10)]
    assert watched.pauses_s == [max(7.0, pause_s) for pause_s in growing]
    assert f"answered {status}" in (watched.watch.last_error or "")
    ours = [record for record in caplog.records if record.name == "marlin.router"]
    assert len(ours) == 1
    assert TOKEN not in ours[0].getMessage()


async def test_after_it_was_heard_again_pauses_are_short_again(watched: Watched) -> None:
    await watched.until_over(503, 503, 503, [event("ADDED", config_map(5))], 503)
    assert watched.pauses_s[-1] == pytest.approx(max(7.0, FIRST_PAUSE_S))


@pytest.mark.parametrize("odd", [b"{}\n", b"[]\n", b'{"type":"ADDED","object":{}}\n', b"\xff\n", b"<html>\n", b"1\n"])
async def test_what_no_api_server_says_changes_nothing_and_is_asked_again(watched: Watched, odd: bytes) -> None:
    await watched.until_over([event("ADDED", config_map(5, "a")), odd], [event("MODIFIED", config_map(6, "b"))])
    assert watched.texts == ["a", "b"]


async def test_a_table_that_is_deleted_or_lacks_its_key_stays(watched: Watched) -> None:
    other = config_map(7) | {"data": {"other": "x"}}
    await watched.until_over(
        [event("ADDED", config_map(5, "a")), event("MODIFIED", other), event("DELETED", config_map(8, "a"))]
    )
    assert watched.texts == ["a"]


async def test_the_token_is_read_anew_for_each_request(watched: Watched) -> None:
    async def rotate(pause_s: float) -> None:
        watched.token_file.write_text(f"{TOKEN}-{len(watched.server.headers)}")

    watched.watch._sleep = rotate
    await watched.until_over(401, [])
    assert watched.server.headers == [f"Bearer {TOKEN}", f"Bearer {TOKEN}-1", f"Bearer {TOKEN}-2"]


async def test_a_token_that_is_not_there_is_named_and_waited_for(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    async def mount(pause_s: float) -> None:
        watched.token_file.write_text(TOKEN)

    watched.token_file.unlink()
    watched.watch._sleep = mount
    await watched.until_over([])
    assert f"FileNotFoundError: {watched.token_file}" in caplog.text
    assert watched.server.headers[0] == f"Bearer {TOKEN}"


PLACES: dict[str, tuple[tuple[Any, ...], str]] = {
    "one-part": (("t", None, None, None, {}), "NAMESPACE/NAME"),
    "empty-part": (("marlin/", None, None, None, {}), "NAMESPACE/NAME"),
    "no-pod": (("marlin/t", None, None, None, {}), "--table-server"),
    "not-in-a-pod": (("./t", "https://api", None, None, {}), "name the namespace"),
    "plain": (("marlin/t", "http://api", None, None, {}), "https://"),
}


@pytest.mark.parametrize("case", PLACES)
def test_a_place_that_cannot_be_is_refused(case: str) -> None:
    options, said = PLACES[case]
    with pytest.raises(InputError, match=said):
        place_of(*options)


def test_in_a_pod_the_service_account_is_what_is_used() -> None:
    place = place_of("marlin/t/k", None, None, None, {"KUBERNETES_SERVICE_HOST": "::1", "KUBERNETES_SERVICE_PORT": "9"})
    account = Path("/var/run/secrets/kubernetes.io/serviceaccount")
    assert (place.server, place.key, place.ca_file) == ("https://[::1]:9", "k", account / "ca.crt")
    assert place.token_file == account / "token"


def offer_of(document: dict[str, Any], uid: str = "u1") -> Offer:
    return Offer(json.dumps(document).encode(), "marlin/t", uid)


async def served_by(client: Any, *backends: FakeBackend) -> FakeBackend:
    before = [len(backend.seen) for backend in backends]
    async with client.post() as response:
        assert response.status == 200
    (one,) = (b for b, count in zip(backends, before, strict=True) if len(b.seen) > count)
    return one


async def test_an_offered_table_takes_the_place_of_the_files_and_is_kept(start: Start, tmp_path: Path) -> None:
    kept = tmp_path / "kept.json"
    async with FakeBackend() as a, FakeBackend() as b, start(table(a.url, generation=5), table_cache=kept) as client:
        control = client.control
        control.offer(offer_of(table(b.url, generation=6)))
        await control.step()
        assert await served_by(client, a, b) is b
        write(client.config, table(a.url, generation=9))
        await control.step()
        assert await served_by(client, a, b) is b, "the kubelet's copy is not looked at any more"
        control.offer(offer_of(table(a.url, generation=5)))
        await control.step()
        assert await served_by(client, a, b) is b, "an older table of the same object"
        control.offer(Offer(b"{", "marlin/t", "u1"))
        await control.step()
        assert await served_by(client, a, b) is b
        assert "marlin/t" in (control.status.last_error or "")
        assert json.loads(kept.read_text())["generation"] == 6, "what was not taken is not kept"
        control.offer(offer_of(table(a.url, generation=1), uid="u2"))
        await control.step()
        assert await served_by(client, a, b) is a, "another object begins its generations anew"
        assert json.loads(kept.read_text())["generation"] == 1


async def test_a_table_in_force_is_kept_even_by_a_router_that_is_stopped_at_that_moment(tmp_path: Path) -> None:
    config, kept, free = tmp_path / "table.json", tmp_path / "kept.json", threading.Event()
    write(config, table("http://127.0.0.1:9", generation=1))
    with ThreadPoolExecutor(1) as threads:
        asyncio.get_running_loop().set_default_executor(threads)
        is_in_force = asyncio.Event()

        def taken(now: Any) -> None:
            if now.generation == 2:  # all threads are busy when it is to be kept
                threads.submit(free.wait)
                is_in_force.set()

        control = Control(Settings(config=config, table_cache=kept), time.monotonic, taken, lambda _: None)
        control.offer(offer_of(table("http://127.0.0.1:9", generation=2)))
        looking = asyncio.create_task(control.step())
        try:
            async with asyncio.timeout(10):
                await is_in_force.wait()
            looking.cancel()
            with suppress(asyncio.CancelledError):
                await looking
        finally:
            free.set()
    assert json.loads(kept.read_text())["generation"] == 2


@pytest.mark.parametrize(
    ("file", "kept", "first"),
    [(5, 6, "kept"), (6, 5, "file"), (5, None, "file"), (5, "broken", "file"), ("broken", 5, "kept")],
)
async def test_the_first_table_is_the_newer_of_the_file_and_the_one_that_was_kept(
    start: Start, tmp_path: Path, file: Any, kept: Any, first: str
) -> None:
    path = tmp_path / "kept.json"

    def text(url: str, generation: Any) -> str:
        return "{" if generation == "broken" else json.dumps(table(url, generation=generation))

    async with FakeBackend() as a, FakeBackend() as b:
        if kept is not None:
            path.write_text(text(b.url, kept))
        document = {"kind": "Nothing"} if file == "broken" else table(a.url, generation=file)
        async with start(document, table_cache=path) as client:
            assert await served_by(client, a, b) is (b if first == "kept" else a)
