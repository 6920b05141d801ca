"""Routers' counters become a history, a history becomes a forecast, and a restart forgets neither."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from socket import AF_INET, SOCK_STREAM
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from own_secrets import OwnSecrets
from worlds import Cluster, sample, the

from marlin.operator.arrivals.counting import Counts, increase, page_of
from marlin.operator.arrivals.expecting import forecasts
from marlin.operator.arrivals.history import MOST_EPOCHS, History, history_of
from marlin.operator.arrivals.task import KEY, Arrivals, Watcher
from marlin.operator.core.applies import Apply
from marlin.operator.core.observed import read_policy
from marlin.operator.scraping.sources import Scraper
from marlin.operator.signals.http import Request, SignalError

EPOCH_S = 900.0
PAGE = """
# TYPE marlin_router_requests counter
marlin_router_requests_total{pool="a",datacenter="x",code="200"} 10
marlin_router_requests_total{pool="a",datacenter="y",code="503"} 2
marlin_router_requests_total{pool="b",datacenter="x",code="200"} 1
# TYPE marlin_router_requests_without_estimate counter
marlin_router_requests_without_estimate_total{pool="a",datacenter="x",reason="no_usage"} 4
marlin_router_requests_without_estimate_total{pool="a",datacenter="x",reason="signals_expired"} 1
# TYPE marlin_router_tokens counter
marlin_router_tokens_total{pool="a",datacenter="x",kind="prompt"} 600
marlin_router_tokens_total{pool="a",datacenter="x",kind="output"} 60
"""


def page(requests: float) -> bytes:
    """A router's page after some requests to pool llama-2-70b, of 100 prompt and 10 output tokens each."""
    labels = 'pool="llama-2-70b",datacenter="x"'
    return (
        "# TYPE marlin_router_requests counter\n"
        f'marlin_router_requests_total{{{labels},code="200"}} {requests}\n'
        "# TYPE marlin_router_tokens counter\n"
        f'marlin_router_tokens_total{{{labels},kind="prompt"}} {100 * requests}\n'
        f'marlin_router_tokens_total{{{labels},kind="output"}} {10 * requests}\n'
    ).encode()


def test_a_page_is_read_by_pool_and_tokens_count_for_those_requests_that_tell_them() -> None:
    counts = page_of(PAGE.encode()).counts
    assert counts.requests == {"a": 12.0, "b": 1.0}
    assert counts.measured == {"a": 6.0, "b": 1.0}
    assert counts.prompt_tokens == {"a": 600.0}


@pytest.mark.parametrize("body", [b"\xff", b"<html>", b"# TYPE up gauge\nup 1\n", b""])
def test_another_page_is_refused(body: bytes) -> None:
    with pytest.raises(SignalError):
        page_of(body)


def test_a_counter_that_fell_was_started_anew() -> None:
    assert increase(Counts({"a": 3.0, "b": 9.0}), Counts({"a": 10.0, "b": 4.0})).requests == {"a": 3.0, "b": 5.0}


def test_an_epoch_that_was_not_watched_long_enough_is_a_gap_and_not_a_quiet_one() -> None:
    history = History(EPOCH_S).heard({"": Counts({"a": 90.0})}, 0.0, EPOCH_S)
    history = history.heard({"": Counts({"a": 1.0})}, EPOCH_S, EPOCH_S + 30.0)  # then nobody looks
    history = history.heard({"": Counts({"a": 60.0})}, 2 * EPOCH_S + 300, 3 * EPOCH_S).until(3 * EPOCH_S)
    assert history.requests == {"a": (90.0, None, 90.0)}  # two thirds were watched, so a half is added


def test_a_clock_that_goes_back_changes_nothing_that_is_over() -> None:
    history = History(EPOCH_S).heard({"": Counts({"a": 90.0})}, 0.0, EPOCH_S).until(EPOCH_S)
    assert history.until(10.0) == history
    assert history.heard({"": Counts({"a": 5.0})}, 0.0, 30.0).requests == history.requests


@given(st.lists(st.tuples(st.floats(1.0, 2000.0), st.floats(0.0, 1e4)), min_size=1, max_size=20))
def test_no_request_is_lost_or_doubled_however_readings_lie_across_epochs(readings: list[tuple[float, float]]) -> None:
    history, at_s = History(EPOCH_S), 0.0
    for lasts_s, requests in readings:
        history = history.heard({"": Counts({"a": requests})}, at_s, at_s + lasts_s)
        at_s += lasts_s
    assert history.running is not None
    open_ = history.running.requests().get("a", 0.0)
    closed = sum(count or 0.0 for count in history.requests.get("a", ()))
    total = sum(requests for _, requests in readings)
    assert closed + open_ == pytest.approx(total, abs=0.1 * (len(history.requests.get("a", ())) + 1), rel=1e-6)


def test_what_is_kept_is_what_comes_back_and_no_more_than_a_week() -> None:
    history = History(EPOCH_S)
    for epoch in range(MOST_EPOCHS + 5):
        counts = Counts({"a": 100.0 + epoch}, {"a": 100.0}, {"a": 5e4}, {"a": 1e4})
        history = history.heard({"eu": counts}, epoch * EPOCH_S, (epoch + 1) * EPOCH_S)
    history = history.until((MOST_EPOCHS + 5) * EPOCH_S)
    back = history_of(history.to_json(), EPOCH_S)
    assert len(back.requests["a"]) == MOST_EPOCHS
    assert back == history_of(back.to_json(), EPOCH_S)
    assert back.last == history.last
    assert back.tokens["a"] == (500.0, 100.0)
    assert back.origins["a"] == {"eu": 1.0}


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"epochSeconds":900.0,"lastEpoch":3,"requests":{"a":[-1]},"meanTokens":{},"originShares":{}}'],
)
def test_what_is_not_whole_starts_anew(text: str) -> None:
    assert history_of(text, EPOCH_S) == History(EPOCH_S)
    good = History(EPOCH_S).heard({"": Counts({"a": 1.0})}, 0.0, EPOCH_S).until(EPOCH_S).to_json()
    assert history_of(good, EPOCH_S).last == 0
    assert history_of(good, 60.0) == History(60.0)


def test_a_steady_pool_is_expected_to_go_on_and_an_unknown_one_is_missing() -> None:
    history = History(EPOCH_S, 9, {"a": (1000.0,) * 10, "b": (None,) * 10})
    found = forecasts(history, 10)
    assert found.keys() == {"a"}
    assert found["a"].requests == pytest.approx(1000.0, rel=0.1)
    assert found["a"].upper_requests > found["a"].requests


def test_the_epoch_that_runs_counts_for_the_next_once_most_of_it_was_watched() -> None:
    history = History(EPOCH_S, 9, {"a": (1000.0,) * 10})
    begun = history.heard({"": Counts({"a": 100.0})}, 10 * EPOCH_S, 10 * EPOCH_S + 90)
    assert forecasts(begun, 11)["a"].requests == pytest.approx(1000.0, rel=0.1)
    nearly = history.heard({"": Counts({"a": 4850.0})}, 10 * EPOCH_S, 11 * EPOCH_S - 30)
    assert forecasts(nearly, 11)["a"].requests > 2500.0


class Pages:
    """Routers' pages, as a test sets them."""

    def __init__(self) -> None:
        self.pages: dict[str, bytes] = {}

    async def get(self, request: Request) -> bytes:
        path = request.url.rsplit("/", 1)[1]
        if path not in self.pages:
            raise SignalError("away")
        return self.pages[path]


class Hub:
    """Takes applies."""

    def __init__(self) -> None:
        self.kept: list[Mapping[str, Any]] = []

    async def apply(self, apply: Apply) -> dict[str, Any]:
        self.kept.append(apply.body)
        return {}


def observing() -> list[dict[str, Any]]:
    objects = sample()
    tls = {"verification": "Disabled"}
    the(objects, "MarlinPolicy")["spec"]["observation"] = {
        "routers": [
            {"name": "eu", "origin": "europe", "metricsUrl": "http://127.0.0.1:1/eu", "tls": tls},
            {"name": "asia", "origin": "asia", "metricsUrl": "http://127.0.0.1:1/asia", "tls": tls},
        ]
    }
    return objects


async def by_hand(arrivals: Arrivals) -> Watcher:
    """The only policy's watcher, which looks when the test says so and never by itself."""
    (watcher,) = arrivals._watchers.values()
    await asyncio.gather(watcher.close(), return_exceptions=True)
    return watcher


async def test_arrivals_are_counted_by_origin_kept_beside_the_policy_and_found_again() -> None:
    policy = read_policy(the(observing(), "MarlinPolicy"))
    http, hub, clock_s = Pages(), Hub(), 1000 * EPOCH_S
    arrivals = Arrivals(hub, Scraper(http, OwnSecrets()), 3600.0, {}, clock_s=lambda: clock_s)
    assert arrivals.forecasts((policy,)) == {}
    watcher = await by_hand(arrivals)
    for second in range(0, 1000, 100):
        clock_s = 1000 * EPOCH_S + second
        http.pages = {"eu": page(3.0 * second), "asia": page(1.0 * second)}
        await watcher.look()
    kept = hub.kept[-1]
    assert kept["metadata"]["name"] == "marlin-balanced.arrivals"
    assert kept["metadata"]["ownerReferences"][0]["kind"] == "MarlinPolicy"
    document = json.loads(kept["data"][KEY])
    assert document["requests"] == {"llama-2-70b": [3600.0]}
    assert document["originShares"]["llama-2-70b"] == {"asia": 0.25, "europe": 0.75}
    assert document["meanTokens"]["llama-2-70b"] == [100.0, 10.0]
    await arrivals.close()

    kept_now = {("default", "marlin-balanced.arrivals"): kept["data"][KEY]}
    again = Arrivals(hub, Scraper(http, OwnSecrets()), 3600.0, kept_now, lambda: clock_s)
    found = again.forecasts((policy,))["default", "llama-2-70b"]
    await again.close()
    assert found.requests == pytest.approx(3600.0, rel=0.2)
    cluster = Cluster(observing())
    cluster.known["forecasts"] = {("default", "llama-2-70b"): found}
    cluster.reconcile()
    assert "assumed" not in cluster.status("MarlinPolicy")["plan"]["explanation"]
    assert cluster.status("MarlinPolicy")["forecastRequests"] == round(found.requests)


async def test_with_a_router_missing_the_while_is_not_watched() -> None:
    policy = read_policy(the(observing(), "MarlinPolicy"))
    http, clock_s = Pages(), 0.0
    arrivals = Arrivals(Hub(), Scraper(http, OwnSecrets()), 3600.0, {}, clock_s=lambda: clock_s)
    arrivals.forecasts((policy,))
    watcher = await by_hand(arrivals)
    for clock_s in (0.0, 300.0, 600.0, 900.0):
        http.pages = {"eu": page(clock_s)} | ({"asia": page(clock_s)} if clock_s != 300.0 else {})
        await watcher.look()
    await arrivals.close()
    assert watcher.history.requests == {"llama-2-70b": (None,)}
    assert arrivals.failures > 0


async def test_a_source_of_several_routers_is_read_whole_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of its routers would look like half of its requests."""

    async def resolved(*_: object, **__: object) -> list[tuple[object, ...]]:
        return [(AF_INET, SOCK_STREAM, 6, "", (host, 80)) for host in ("127.0.0.1", "127.0.0.2")]

    class OneIsDown(Pages):
        async def get(self, request: Request) -> bytes:
            if is_down and "127.0.0.2" in request.url:
                raise SignalError("127.0.0.2 cannot be reached")
            return page(1.0)

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolved)
    model = read_policy(the(observing(), "MarlinPolicy")).model
    assert model is not None
    assert model.spec.observation is not None
    arrivals = Arrivals(Hub(), Scraper(OneIsDown(), OwnSecrets()), 3600.0, {}, clock_s=lambda: 0.0)
    is_down = False
    assert len(await arrivals.read(model.spec.observation.routers[0])) == 2
    is_down = True
    with pytest.raises(SignalError, match=r"127\.0\.0\.2"):
        await arrivals.read(model.spec.observation.routers[0])
    assert arrivals.failures == 1
    await arrivals.close()


async def test_a_router_that_is_gone_is_forgotten_and_one_that_could_not_be_read_is_not() -> None:
    policy = read_policy(the(observing(), "MarlinPolicy"))
    http, clock_s = Pages(), 0.0
    arrivals = Arrivals(Hub(), Scraper(http, OwnSecrets()), 3600.0, {}, clock_s=lambda: clock_s)
    arrivals.forecasts((policy,))
    watcher = await by_hand(arrivals)
    http.pages = {"eu": page(1.0), "asia": page(1.0)}
    await watcher.look()
    del http.pages["asia"]
    await watcher.look()
    assert len(watcher._counters) == 2
    assert policy.model is not None
    observation = policy.model.spec.observation
    assert observation is not None
    fewer = observation.model_copy(update={"routers": observation.routers[:1]})
    spec = policy.model.spec.model_copy(update={"observation": fewer})
    watcher.policy = replace(policy, model=policy.model.model_copy(update={"spec": spec}))
    await watcher.look()
    await arrivals.close()
    assert len(watcher._counters) == 1


def test_tokens_of_an_epoch_that_is_over_are_told_per_second_that_was_watched() -> None:
    counts = Counts(requests={"chat": 90.0}, measured={"chat": 60.0}, output_tokens={"chat": 6000.0})
    silent = Counts(requests={"mute": 5.0}, measured={"mute": 0.0}, output_tokens={"mute": 0.0})
    history = History(900.0).heard({"": counts.plus(silent)}, 0.0, 600.0).until(900.0)
    assert history.ended is not None
    assert history.ended.output_tokens_per_s == {"chat": pytest.approx(10.0)}
