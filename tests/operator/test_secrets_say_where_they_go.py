"""A Secret goes only where it says itself that it may: naming it beside an address is not enough."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st
from own_secrets import OwnSecrets
from worlds import NOON, sample, the

from marlin.api.datacenter import Datacenter, MemberRouter
from marlin.api.policy import PrometheusObservation
from marlin.api.sending import SEND_TO, why_withheld
from marlin.api.values import SecretKeyRef, SecretRef, Tls, Verification
from marlin.operator.artifacts import Artifacts
from marlin.operator.core.observed import read_policy
from marlin.operator.kube.access import Access
from marlin.operator.kube.client import ApiError, Client
from marlin.operator.members.looking import look_at_router
from marlin.operator.scraping.sources import Scraper
from marlin.operator.sending import destination
from marlin.operator.signals.http import SignalError, WebHttp
from marlin.operator.signals.ladder import live_signal
from marlin.operator.signals.providers import provider_for

TOKEN = "a-token-of-somebody-else"
ADDRESS = "https://good.example:8443/api"
PLAIN = Tls(verification=Verification.DISABLED)

ALLOWED = {
    "alone": ("https://good.example:8443", ADDRESS),
    "among-others": ("https://a.example, https://good.example:8443\nhttp://b.example:9090", ADDRESS),
    "usual-port": ("https://good.example", "https://good.example:443/x"),
    "usual-port-stated": ("https://good.example:443/", "https://good.example/x"),
    "any-case": ("https://GOOD.example", "https://Good.Example"),
    "address": ("https://[2001:DB8::1]:6443", "https://[2001:db8::1]:6443"),
}


@pytest.mark.parametrize("case", ALLOWED)
def test_it_goes_where_it_says(case: str) -> None:
    listed, url = ALLOWED[case]
    assert why_withheld(listed, destination(url, Tls())) == ""


HOSTILE = {
    "nothing-said": (None, ADDRESS, Tls()),
    "empty": (" \n", ADDRESS, Tls()),
    "another-host": ("https://good.example:8443", "https://evil.example:8443", Tls()),
    "another-port": ("https://good.example", ADDRESS, Tls()),
    "another-scheme": ("https://good.example:80", "http://good.example", Tls()),
    "longer-host": ("https://good.example", "https://good.example.evil.example", Tls()),
    "sub-host": ("https://good.example", "https://evil.good.example", Tls()),
    "name-as-user": ("https://good.example", "https://good.example@evil.example", Tls()),
    "name-as-user-and-port": ("https://good.example", "https://good.example:443@evil.example:443", Tls()),
    "name-in-path": ("https://good.example", "https://evil.example/https://good.example", Tls()),
    "letter-that-looks-alike": ("https://good.example", "https://g\u043eod.example", Tls()),
    "not-verified": ("https://good.example:8443", ADDRESS, PLAIN),
    "verified-for-another": ("https://good.example", "https://good.example", Tls(server_name="evil.example")),
    "verified-but-elsewhere": ("https://good.example", "https://evil.example", Tls(server_name="good.example")),
    "a-star": ("*", ADDRESS, Tls()),
    "a-star-host": ("https://*:8443", ADDRESS, Tls()),
    "no-scheme": ("good.example:8443", ADDRESS, Tls()),
    "a-path": ("https://good.example:8443/api", ADDRESS, Tls()),
    "one-bad-entry": ("https://good.example:8443 https://good.example:99999", ADDRESS, Tls()),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_it_goes_nowhere_else(case: str) -> None:
    listed, url, tls = HOSTILE[case]
    said = why_withheld(listed, destination(url, tls))
    assert said
    assert "\n" not in said


HOSTS = st.from_regex(r"[a-z]{1,3}(\.[a-z]{1,3}){0,2}", fullmatch=True)
ORIGINS = st.tuples(st.sampled_from(["http", "https"]), HOSTS, st.integers(1, 65535))


@given(st.lists(ORIGINS, max_size=4), ORIGINS)
def test_what_is_not_listed_is_withheld_and_what_is_listed_is_not(
    listed: list[tuple[str, str, int]], to: tuple[str, str, int]
) -> None:
    text = " ".join("{}://{}:{}".format(*origin) for origin in listed)
    assert (why_withheld(text, destination("{}://{}:{}/x?y".format(*to), Tls())) == "") == (to in listed)


class Thief:
    """A server that would like to have a token; it keeps what it is sent."""

    def __init__(self) -> None:
        self.url = ""
        self.http = WebHttp(timeout_s=5)
        self.secrets = OwnSecrets(key={"token": TOKEN, "username": TOKEN, "password": TOKEN})
        self.heard: list[web.Request] = []
        self.leads_to = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.heard.append(request)
        if self.leads_to:
            raise web.HTTPTemporaryRedirect(self.leads_to)
        return web.json_response({})

    def signal(self, field: str, provider: str, source: dict[str, Any]) -> Callable[[], Awaitable[object]]:
        site = the(sample(), "Datacenter")
        name = provider[0].lower() + provider[1:] if provider != "ENTSOE" else "entsoe"
        site["spec"]["signals"] = {field: {"provider": provider, name: {"url": self.url} | source}}
        found = live_signal(Datacenter.model_validate(site), field)
        assert found is not None

        async def config_map(name: str, key: str) -> str:
            raise SignalError(name + key)

        return lambda: provider_for(found, "DE", self.http, self.secrets).fetch(NOON)

    async def observe(self) -> object:
        source = PrometheusObservation(url=self.url, tls=PLAIN, token_secret_ref=SecretKeyRef(name="key"))
        return await Scraper(self.http, self.secrets).query(source, ["up"])

    async def look(self) -> object:
        router = MemberRouter(url=self.url, tls=PLAIN, token_secret_ref=SecretKeyRef(name="key"))
        finding = await look_at_router(self.http, self.secrets, router)
        if finding.reason == "Withheld":
            raise SignalError(finding.message)
        return finding

    async def fetch(self) -> object:
        objects = sample()
        http = {"url": f"{self.url}/a.tar", "sha256": hashlib.sha256().hexdigest(), "tokenSecretRef": {"name": "key"}}
        planner = {"kind": "Marlin", "artifactRef": {"http": http}}
        the(objects, "MarlinPolicy")["spec"]["planner"] = planner
        artifacts = Artifacts(self.secrets, self.http, Path("/nowhere"), None, lambda: None)
        (use,) = (await artifacts.uses([read_policy(the(objects, "MarlinPolicy"))])).values()
        await artifacts.close()
        raise SignalError(use.problem)

    def reference(self, kind: str) -> Callable[[], Awaitable[object]]:
        token = {"tokenSecretRef": {"name": "key"}}
        login = {"credentialsSecretRef": {"name": "key"}, "region": "BPA"}
        asked: dict[str, Callable[[], Awaitable[object]]] = {
            "artifact": self.fetch,
            "observation": self.observe,
            "member-router": self.look,
            "prometheus": self.signal(
                "carbonIntensity", "Prometheus", token | {"query": "x", "tls": PLAIN.to_document()}
            ),
            "electricity-maps": self.signal("carbonIntensity", "ElectricityMaps", token | {"zone": "DE"}),
            "watt-time": self.signal("carbonIntensity", "WattTime", login),
            "entsoe": self.signal("energyPrice", "ENTSOE", token | {"area": "10Y1001A1001A82H"}),
        }
        return asked[kind]


REFERENCES = ("artifact", "observation", "member-router", "prometheus", "electricity-maps", "watt-time", "entsoe")


@pytest.fixture
async def thief() -> AsyncIterator[Thief]:
    one = Thief()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", one.handle)
    async with TestServer(app) as server:
        one.url = f"http://{server.host}:{server.port}"
        yield one
        await one.http.close()


@pytest.mark.parametrize("kind", REFERENCES)
async def test_whoever_names_anothers_secret_gets_nothing_of_it_and_the_owner_is_told_what_to_do(
    thief: Thief, kind: str
) -> None:
    with pytest.raises(SignalError) as error:
        await thief.reference(kind)()
    assert thief.heard == []
    said = str(error.value)
    assert f"Secret key is not sent to {thief.url}" in said
    assert f"""kubectl -n marlin-system patch secret key -p '{{"stringData":{{"send-to":"{thief.url}"}}}}'""" in said
    assert TOKEN not in said
    assert "\n" not in said


@pytest.mark.parametrize("kind", REFERENCES)
async def test_a_secret_that_lists_the_address_is_sent_and_a_redirect_carries_it_no_further(
    thief: Thief, kind: str
) -> None:
    thief.secrets.secrets["key"][SEND_TO] = thief.url
    thief.leads_to = thief.url.replace("127.0.0.1", "localhost") + "/again"
    with suppress(SignalError):
        await thief.reference(kind)()
    assert len(thief.heard) == 1


@pytest.mark.parametrize("where", ["ca.crt", "token"])
async def test_an_authority_is_read_out_of_a_secret_and_nothing_else_is(thief: Thief, where: str) -> None:
    secrets = OwnSecrets(key={"token": TOKEN} | ({"ca.crt": "no certificate"} if where == "ca.crt" else {}))
    tls = Tls(ca_secret_ref=SecretRef(name="key"))
    source = PrometheusObservation(url="https://127.0.0.1:9", tls=tls)
    with pytest.raises(SignalError, match=r"Secret key") as error:
        await Scraper(thief.http, secrets).query(source, ["up"])
    assert TOKEN not in str(error.value)


async def test_an_api_server_that_leads_elsewhere_is_not_followed(thief: Thief) -> None:
    thief.leads_to = thief.url + "/again"
    async with Client(Access(thief.url, "", token=TOKEN)) as client:
        with pytest.raises(ApiError, match="307"):
            await client.get("/version")
    assert len(thief.heard) == 1
