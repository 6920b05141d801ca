"""Asks for samples: at an address, behind whose host there may be several servers, or at a Prometheus."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from socket import SOCK_STREAM
from typing import Final

from yarl import URL

from marlin.api.policy import PrometheusObservation
from marlin.api.values import Tls
from marlin.operator.scraping.samples import Scrape, of_query
from marlin.operator.sending import Credentials, destination, tls_context
from marlin.operator.signals.http import Http, Request, SignalError

_MOST_BYTES: Final = 16 * 2**20
_LOOKBACK: Final = "5m"
"""How old a series' last sample may be: Prometheus' own default."""

INSTANCE: Final = ("instance", "pod")
"""Labels that tell whose series these are."""


@dataclass(frozen=True, slots=True)
class Scraper:
    """Reads pages and asks Prometheus servers."""

    http: Http
    secrets: Credentials

    async def pages(self, url: str, tls: Tls) -> tuple[dict[str, bytes], SignalError | None]:
        """The pages of all servers behind an address, by their own addresses, and what went wrong with one of them.

        Raises:
            SignalError: the host cannot be resolved, or a Secret is missing.
        """
        address = URL(url)
        assert address.host is not None
        context = await tls_context(tls, self.secrets)
        try:
            entries = await asyncio.get_running_loop().getaddrinfo(address.host, address.port or 80, type=SOCK_STREAM)
        except OSError:
            raise SignalError(f"{address.host} cannot be resolved") from None
        found: dict[str, bytes] = {}
        problem: SignalError | None = None
        for host in sorted({str(entry[4][0]) for entry in entries}):
            request = Request(
                str(address.with_host(host)),
                headers={"Host": address.authority},
                context=context,
                server_name=(tls.server_name or address.host) if address.scheme == "https" else None,
                most_bytes=_MOST_BYTES,
            )
            try:
                found[host] = await self.http.get(request)
            except SignalError as error:
                problem = error
        return found, problem

    async def query(
        self, source: PrometheusObservation, names: Iterable[str], matchers: Mapping[str, str] | None = None
    ) -> dict[str, Scrape]:
        """The newest samples of some metrics, by who exposed them.

        Args:
            source: the Prometheus.
            names: of the metrics.
            matchers: labels that series must have, beside those that the source states.

        Raises:
            SignalError: it cannot be asked, or does not understand.
        """
        headers = {}
        if (ref := source.token_secret_ref) is not None:
            to = destination(source.url, source.tls)
            headers["Authorization"] = f"Bearer {await self.secrets.credential(ref.name, ref.key, to)}"
        labels = {one.label: one.value for one in source.matchers} | dict(matchers or {})
        parts = [f'__name__=~"{"|".join(names)}"', *(f'{label}="{_quoted(v)}"' for label, v in sorted(labels.items()))]
        request = Request(
            f"{source.url.rstrip('/')}/api/v1/query",
            # The samples themselves, with the times they were scraped at: an instant's value would hide their age.
            {"query": f"{{{','.join(parts)}}}[{_LOOKBACK}]"},
            headers,
            await tls_context(source.tls, self.secrets),
            source.tls.server_name,
            _MOST_BYTES,
        )
        return of_query(await self.http.get(request), INSTANCE)


def _quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
