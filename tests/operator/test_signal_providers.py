"""Each provider against a local server that answers in its documented shape, errors included."""

from __future__ import annotations

import base64
import logging
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from own_secrets import OwnSecrets
from worlds import NOON

from marlin.api.datacenter import Datacenter
from marlin.api.sending import SEND_TO
from marlin.operator.signals.http import RateLimitedError, RefusedError, Request, SignalError, WebHttp
from marlin.operator.signals.ladder import live_signal
from marlin.operator.signals.providers import Provider, provider_for
from marlin.operator.signals.reader import Reader
from marlin.operator.signals.values import Answer, Point

KEY = "s3cret-key-that-must-not-be-seen"


class Namespace(OwnSecrets):
    """The operator's namespace, as a table."""

    def __init__(self) -> None:
        super().__init__(key={"token": KEY}, login={"username": "ann", "password": KEY})
        self.config = {("carbon", "value"): "321"}

    async def config_map(self, name: str, key: str) -> str:
        if (name, key) not in self.config:
            raise SignalError(f"ConfigMap {name} has no key {key}")
        return self.config[name, key]


class Provided:
    """A server whose answers a test sets, by path; it keeps the requests."""

    def __init__(self) -> None:
        self.answers: dict[str, Callable[[web.Request], web.StreamResponse]] = {}
        self.requests: list[web.Request] = []
        self.namespace = Namespace()
        self.url = ""
        self.http = WebHttp(timeout_s=5)

    def json(self, path: str, body: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.answers[path] = lambda _: web.json_response(body, status=status, headers=headers)

    def text(self, path: str, body: str, status: int = 200) -> None:
        self.answers[path] = lambda _: web.Response(text=body, status=status)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        if request.path not in self.answers:
            return web.Response(status=404)
        return self.answers[request.path](request)

    def provider(self, field: str, **signal: Any) -> Provider:
        site = site_with(field, **signal)
        live = live_signal(site, field)
        assert live is not None
        return provider_for(live, site.spec.location.zone, self.http, self.namespace)

    async def answer(self, field: str, **signal: Any) -> Answer:
        return await self.provider(field, **signal).fetch(NOON)


def site_with(field: str, name: str = "frankfurt", **signal: Any) -> Datacenter:
    location = {"region": "eu", "zone": "DE-LU"}
    return Datacenter.model_validate(
        {"metadata": {"name": name}, "spec": {"location": location, "signals": {field: signal}}}
    )


@pytest.fixture
async def web_api() -> AsyncIterator[Provided]:
    provided = Provided()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", provided.handle)
    async with TestServer(app) as server:
        provided.url = f"http://{server.host}:{server.port}"
        for secret in provided.namespace.secrets.values():
            secret[SEND_TO] = provided.url
        yield provided
        await provided.http.close()


def prometheus_signal(api: Provided, **more: Any) -> dict[str, Any]:
    source = {"url": api.url, "query": "carbon{site='fra'}", "tokenSecretRef": {"name": "key"}}
    return {"provider": "Prometheus", "prometheus": source, **more}


def emaps_signal(api: Provided, **more: Any) -> dict[str, Any]:
    source = {"url": api.url, "tokenSecretRef": {"name": "key"}}
    return {"provider": "ElectricityMaps", "electricityMaps": source, **more}


def watt_time_signal(api: Provided) -> dict[str, Any]:
    source = {"url": api.url, "region": "CAISO_NORTH", "credentialsSecretRef": {"name": "login"}}
    return {"provider": "WattTime", "wattTime": source}


def entsoe_signal(api: Provided) -> dict[str, Any]:
    source = {"url": api.url, "area": "10Y1001A1001A82H", "tokenSecretRef": {"name": "key"}}
    return {
        "provider": "ENTSOE",
        "entsoe": source,
        "unit": "PerMWh",
        "currency": "EUR",
        "usdPerCurrencyUnit": "1.1",
    }


def vector(*values: str) -> dict[str, Any]:
    result = [{"metric": {}, "value": [NOON.timestamp(), value]} for value in values]
    return {"status": "success", "data": {"resultType": "vector", "result": result}}


async def test_prometheus_one_sample_converted(web_api: Provided) -> None:
    web_api.json("/api/v1/query", vector("1000"))
    answer = await web_api.answer("carbonIntensity", **prometheus_signal(web_api, unit="lbCO2eq/MWh"))
    assert answer.current is not None
    assert answer.current.value == pytest.approx(453.59237)
    assert answer.current.at == NOON
    assert web_api.requests[0].query["query"] == "carbon{site='fra'}"
    assert web_api.requests[0].headers["Authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (vector(), "yields 0 series"),
        (vector("1", "2"), "yields 2 series"),
        (vector("NaN"), "not finite"),
        ({"status": "error", "errorType": "bad_data", "error": "x"}, "bad_data"),
        ({"status": "success", "data": {"resultType": "matrix", "result": []}}, "yields a matrix"),
        ([], "not an object"),
    ],
)
async def test_prometheus_anything_but_one_number_is_an_error(web_api: Provided, body: Any, said: str) -> None:
    web_api.json("/api/v1/query", body)
    with pytest.raises(SignalError, match=said):
        await web_api.answer("carbonIntensity", **prometheus_signal(web_api))


async def test_a_config_map_holds_a_number_or_a_forecast(web_api: Provided) -> None:
    signal: dict[str, Any] = {"provider": "ConfigMap", "configMap": {"name": "carbon"}}
    assert (await web_api.answer("carbonIntensity", **signal)).current == Point(NOON, 321.0)
    web_api.namespace.config["carbon", "value"] = (
        '{"forecast": [{"time": "2026-05-04T13:00:00Z", "value": 7}, {"time": "2026-05-04T12:00:00Z", "value": 5}]}'
    )
    answer = await web_api.answer("carbonIntensity", **signal)
    assert answer.current is not None
    assert [answer.current.value, *(point.value for point in answer.forecast)] == [5.0, 5.0, 7.0]
    del web_api.namespace.config["carbon", "value"]
    with pytest.raises(SignalError, match="has no key"):
        await web_api.answer("carbonIntensity", **signal)


LATEST = {
    "zone": "DE-LU",
    "carbonIntensity": 302,
    "datetime": "2026-05-04T12:00:00.000Z",
    "updatedAt": "2026-05-04T11:41:02.408Z",
    "emissionFactorType": "direct",
    "isEstimated": True,
    "estimationMethod": "TIME_SLICER_AVERAGE",
}
FORECAST = {
    "zone": "DE-LU",
    "forecast": [
        {"carbonIntensity": 290, "datetime": "2026-05-04T13:00:00.000Z"},
        {"carbonIntensity": 270, "datetime": "2026-05-04T14:00:00.000Z"},
    ],
    "updatedAt": "2026-05-04T11:41:02.408Z",
}


async def test_electricity_maps_now_and_forecast(web_api: Provided) -> None:
    web_api.json("/v3/carbon-intensity/latest", LATEST)
    web_api.json("/v3/carbon-intensity/forecast", FORECAST)
    answer = await web_api.answer("carbonIntensity", **emaps_signal(web_api, emissionFactor="Lifecycle"))
    assert answer.current == Point(NOON.replace(minute=0, second=0), 302.0)
    assert answer.is_estimated
    assert [point.value for point in answer.forecast] == [290.0, 270.0]
    assert web_api.requests[0].headers["auth-token"] == KEY
    assert dict(web_api.requests[0].query) == {"zone": "DE-LU", "emissionFactorType": "lifecycle"}


async def test_electricity_maps_without_the_paid_forecast_still_has_a_value(web_api: Provided) -> None:
    web_api.json("/v3/carbon-intensity/latest", LATEST)
    web_api.json("/v3/carbon-intensity/forecast", {"error": "no"}, status=403)
    answer = await web_api.answer("carbonIntensity", **emaps_signal(web_api))
    assert answer.current is not None
    assert answer.forecast == ()


async def test_electricity_maps_that_answers_for_another_zone_is_not_believed(web_api: Provided) -> None:
    web_api.json("/v3/carbon-intensity/latest", LATEST | {"zone": "FR"})
    with pytest.raises(SignalError, match="zone 'FR', not DE-LU"):
        await web_api.answer("carbonIntensity", **emaps_signal(web_api))


WATT_TIME = {
    "data": [
        {"point_time": "2026-05-04T12:00:00+00:00", "value": 1000.0},
        {"point_time": "2026-05-04T12:05:00+00:00", "value": 900.0},
    ],
    "meta": {"region": "CAISO_NORTH", "signal_type": "co2_moer", "units": "lbs_co2_per_mwh"},
}


async def test_watt_time_logs_in_once_and_converts_pounds(web_api: Provided) -> None:
    web_api.json("/login", {"token": "t-1"})
    web_api.json("/v3/forecast", WATT_TIME)
    provider = web_api.provider("carbonIntensity", **watt_time_signal(web_api))
    answer = await provider.fetch(NOON)
    await provider.fetch(NOON + timedelta(minutes=20))
    assert answer.current is not None
    assert answer.current.value == pytest.approx(453.59237)
    assert [r.path for r in web_api.requests] == ["/login", "/v3/forecast", "/v3/forecast"]
    expected = base64.b64encode(f"ann:{KEY}".encode()).decode()
    assert web_api.requests[0].headers["Authorization"] == f"Basic {expected}"
    assert web_api.requests[1].headers["Authorization"] == "Bearer t-1"


async def test_watt_time_logs_in_again_when_its_token_is_not_taken_any_more(web_api: Provided) -> None:
    web_api.json("/login", {"token": "t"})
    web_api.json("/v3/forecast", WATT_TIME)
    provider = web_api.provider("carbonIntensity", **watt_time_signal(web_api))
    await provider.fetch(NOON)
    web_api.json("/v3/forecast", {}, status=401)
    with pytest.raises(RefusedError):
        await provider.fetch(NOON)
    assert [r.path for r in web_api.requests[2:]] == ["/v3/forecast", "/login", "/v3/forecast"]


async def test_watt_time_in_other_units_is_not_believed(web_api: Provided) -> None:
    web_api.json("/login", {"token": "t"})
    web_api.json("/v3/forecast", WATT_TIME | {"meta": {"region": "CAISO_NORTH", "units": "percentile"}})
    with pytest.raises(SignalError, match="percentile"):
        await web_api.answer("carbonIntensity", **watt_time_signal(web_api))


async def test_carbon_aware_sdk_newest_emissions_and_forecast(web_api: Provided) -> None:
    at = "2026-05-04T{}:00:00+00:00"
    emissions = [
        {"location": "eastus", "time": at.format(h), "rating": r, "duration": "01:00:00"}
        for h, r in ((11, 70), (12, 80), (10, 60))
    ]
    web_api.json("/emissions/bylocation", emissions)
    data = [{"location": "eastus", "timestamp": at.format(13), "duration": 5, "value": 90.5}]
    web_api.json("/emissions/forecasts/current", [{"location": "eastus", "forecastData": data}])
    source = {"url": web_api.url, "location": "eastus", "tls": {"verification": "Disabled"}}
    answer = await web_api.answer("carbonIntensity", provider="CarbonAwareSDK", carbonAwareSdk=source)
    assert answer.current == Point(NOON.replace(minute=0, second=0), 80.0)
    assert [point.value for point in answer.forecast] == [90.5]


def entsoe_document(*series: tuple[str, dict[int, str]], currency: str = "EUR") -> str:
    xml = ""
    for resolution, points in series:
        rows = "".join(
            f"<Point><position>{n}</position><price.amount>{price}</price.amount></Point>"
            for n, price in points.items()
        )
        xml += (
            f"<TimeSeries><currency_Unit.name>{currency}</currency_Unit.name>"
            "<price_Measure_Unit.name>MWH</price_Measure_Unit.name><curveType>A03</curveType>"
            "<Period><timeInterval><start>2026-05-04T12:00Z</start><end>2026-05-04T14:00Z</end></timeInterval>"
            f"<resolution>{resolution}</resolution>{rows}</Period></TimeSeries>"
        )
    space = "urn:iec62325.351:tc57wg16:451-3:publicationdocument:7:3"
    return f'<?xml version="1.0"?><Publication_MarketDocument xmlns="{space}">{xml}</Publication_MarketDocument>'


async def test_entsoe_takes_the_finer_series_repeats_what_is_left_out_and_converts(web_api: Provided) -> None:
    hourly, quarters = ("PT60M", {1: "999", 2: "999"}), ("PT15M", {1: "100", 3: "-50", 5: "20"})
    web_api.text("/api", entsoe_document(hourly, quarters))
    answer = await web_api.answer("energyPrice", **entsoe_signal(web_api))
    assert answer.current is not None
    assert answer.current.value == pytest.approx(0.110)
    assert [round(point.value, 4) for point in answer.forecast] == [0.11, 0.11, -0.055, -0.055, *[0.022] * 4]
    assert web_api.requests[0].query["documentType"] == "A44"
    assert web_api.requests[0].query["securityToken"] == KEY


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (entsoe_document(("PT60M", {1: "1"}), currency="GBP"), "GBP"),
        (
            "<Acknowledgement_MarketDocument><Reason><text>No matching data found</text></Reason>"
            "</Acknowledgement_MarketDocument>",
            "No matching data found",
        ),
        ('<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "declares entities"),
        ("<a", "not XML"),
        (entsoe_document(), "without prices"),
    ],
)
async def test_entsoe_anything_else_is_an_error_that_says_what(web_api: Provided, body: str, said: str) -> None:
    web_api.text("/api", body)
    with pytest.raises(SignalError, match=said):
        await web_api.answer("energyPrice", **entsoe_signal(web_api))


@pytest.mark.parametrize("status", [302, 401, 403, 404, 429, 500, 503])
async def test_no_key_is_in_an_error_or_a_log(web_api: Provided, status: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    web_api.json(
        "/api", {}, status=status, headers={"Location": "http://elsewhere.example/"} if status == 302 else None
    )
    reader = Reader(lambda signal, zone: provider_for(signal, zone, web_api.http, web_api.namespace))
    site = site_with("energyPrice", **entsoe_signal(web_api))
    await reader.refresh([site], NOON)
    problem = reader.feeds([site])["frankfurt", "energyPrice"].problem
    assert problem is not None
    assert str(status) in problem.message
    assert KEY not in problem.message
    # The server of this test writes an access log of its own.
    ours = [record.getMessage() for record in caplog.records if record.name != "aiohttp.access"]
    assert ours
    assert KEY not in "".join(ours)
    assert len(web_api.requests) == 1


async def test_no_key_is_in_the_error_of_a_connection_that_fails(web_api: Provided) -> None:
    request = Request("http://127.0.0.1:1/api", {"securityToken": KEY}, {"auth-token": KEY})
    with pytest.raises(SignalError) as caught:
        await web_api.http.get(request)
    assert KEY not in f"{caught.value!r} {request!r}"
    assert "127.0.0.1/api cannot be reached" in str(caught.value)


@pytest.mark.parametrize("url", ["http://169.254.169.254/latest/meta-data", "http://[fe80::1]/", "ftp://a.example/"])
async def test_addresses_that_no_provider_has_are_not_asked(web_api: Provided, url: str) -> None:
    with pytest.raises(SignalError, match="not an address that is asked"):
        await web_api.http.get(Request(url))


async def test_an_answer_without_end_is_cut_off(web_api: Provided) -> None:
    web_api.text("/api", "x" * (3 * 1024 * 1024))
    with pytest.raises(SignalError, match="more than 2 MiB"):
        await web_api.http.get(Request(f"{web_api.url}/api"))


async def test_a_provider_that_says_how_long_to_wait_is_obeyed(web_api: Provided) -> None:
    web_api.json("/api/v1/query", {}, status=429, headers={"Retry-After": "120"})
    with pytest.raises(RateLimitedError) as caught:
        await web_api.answer("carbonIntensity", **prometheus_signal(web_api))
    assert caught.value.retry_after_s == 120.0


class Scripted:
    """A provider whose answers a test sets."""

    def __init__(self, *answers: Answer | SignalError) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def fetch(self, now: object) -> Answer:
        self.asked += 1
        answer = self.answers.pop(0)
        if isinstance(answer, SignalError):
            raise answer
        return answer


STATED: dict[str, Any] = {"provider": "Prometheus", "prometheus": {"url": "https://p.example", "query": "q"}}


async def test_sites_that_state_the_same_source_share_one_answer() -> None:
    provider = Scripted(Answer(Point(NOON, 5.0)))
    reader = Reader(lambda signal, zone: provider)
    sites = [site_with("carbonIntensity", name, **STATED, fallbackValue=value) for name, value in (("a", 1), ("b", 2))]
    assert await reader.refresh(sites, NOON) == 1
    feeds = reader.feeds(sites)
    assert feeds["a", "carbonIntensity"] == feeds["b", "carbonIntensity"]
    assert provider.asked == 1


async def test_a_source_is_asked_again_when_its_period_is_over() -> None:
    reader = Reader(lambda signal, zone: Scripted(Answer(Point(NOON, 5.0)), Answer(Point(NOON, 6.0))))
    sites = [site_with("carbonIntensity", **STATED, refreshPeriodSeconds=300)]
    asked = [await reader.refresh(sites, NOON + timedelta(seconds=s)) for s in (0, 299, 300)]
    assert asked == [1, 0, 1]


async def test_a_failing_source_is_asked_less_and_less_often() -> None:
    provider = Scripted(*(SignalError("no") for _ in range(20)))
    reader = Reader(lambda signal, zone: provider)
    sites = [site_with("carbonIntensity", **STATED)]
    now, waits = NOON, []
    for _ in range(8):
        await reader.refresh(sites, now)
        due = reader.next_due(sites, now)
        assert due is not None
        waits.append((due - now).total_seconds())
        now = due
    assert waits == [30, 60, 120, 240, 480, 960, 1800, 1800]


async def test_a_source_that_nobody_states_any_more_is_forgotten() -> None:
    reader = Reader(lambda signal, zone: Scripted(Answer(Point(NOON, 5.0))))
    site = site_with("carbonIntensity", **STATED)
    await reader.refresh([site], NOON)
    await reader.refresh([], NOON)
    assert reader.feeds([site])["frankfurt", "carbonIntensity"].current is None
