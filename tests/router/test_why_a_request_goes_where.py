"""/debug/decision tells what requests do, because it goes by their rules."""

from __future__ import annotations

from typing import Any

from fake_backend import FakeBackend
from router_client import Client, Start, table

from marlin.api.footprint import Intensity
from marlin.router.explain import decision
from marlin.router.messages import BackendReport
from marlin.router.view import Backend, Datacenter, Ordered, Pool, Shares, Site


def pool(rule: Ordered | Shares) -> Pool:
    sites = tuple(
        Site(Datacenter(n, "eu", "Active", Intensity(1.0, 1.0, 1.0)), (Backend("chat", n, n, f"http://{n}", 2.0),))
        for n in ("a", "b", "c")
    )
    return Pool("chat", "m", sites, rule, (0.5, 0.25, 0.25), is_planned=True, ttft_slo_s=5.0)


def reports(**states: dict[str, Any]) -> dict[tuple[str, str, str], BackendReport]:
    usual = {"in_flight": 0, "is_usable": True, "concurrency": 10.0, "service_time_s": None}
    found = {}
    for name in ("a", "b", "c"):
        report = BackendReport(pool="chat", name=name, url=f"http://{name}", **(usual | states.get(name, {})))
        found[report.pool, report.name, report.url] = report
    return found


def reasons(shown: dict[str, Any]) -> dict[str, str]:
    return {site["datacenter"]: site["reason"] for site in shown["sites"]}


def test_ordered_says_who_is_chosen_and_why_not_those_before() -> None:
    rule = Ordered((2, 0, 1), (0.9, 0.9, 0.5))
    shown = decision(pool(rule), reports(c={"in_flight": 3, "outside": 2}, a={"is_usable": False}))
    assert shown["datacenter"] == "b"
    assert reasons(shown) == {
        "c": "at its cap: 5 of 5.0 in flight",
        "a": "no backend is up",
        "b": "chosen: 0 of 9.0 in flight",
    }


def test_a_late_site_is_named_so_and_passed_over() -> None:
    shown = decision(pool(Ordered((0, 1), (0.9, 0.9, 0.0))), reports(a={"waiting": 11}))
    assert shown["datacenter"] == "b"
    assert reasons(shown)["a"] == "a first token would come too late"
    assert reasons(shown)["c"] == "not in the plan's order"


def test_shares_say_what_part_each_usable_site_gets() -> None:
    shown = decision(pool(Shares((0.5, 0.25, 0.25))), reports(b={"is_usable": False}))
    assert reasons(shown) == {
        "a": "gets 66.67 % of requests",
        "b": "no backend is up",
        "c": "gets 33.33 % of requests",
    }


def test_a_site_without_a_share_is_said_to_have_none() -> None:
    assert reasons(decision(pool(Shares((0.75, 0.25, 0.0))), reports()))["c"] == "the plan gives it no share"
    nobody = reports(a={"is_usable": False}, b={"is_usable": False})
    assert "most free capacity" in reasons(decision(pool(Shares((0.75, 0.25, 0.0))), nobody))["c"]


async def page(client: Client, query: str) -> tuple[int, dict[str, Any]]:
    async with client.session.get(f"{client.admin_url}/debug/decision{query}") as response:
        return response.status, await response.json()


async def test_the_page_shows_a_model_and_says_which_there_are(start: Start, backend: FakeBackend) -> None:
    async with start(table(backend.url)) as client:
        status, shown = await page(client, "?model=m")
        assert status == 200
        assert reasons(shown) == {"dc0": "gets 100.00 % of requests"}
        status, shown = await page(client, "?model=gpt")
        assert status == 404
        assert "known are m" in shown["error"]
