"""What a worker counts: plain numbers, added to as requests end, sent to the control process when it asks.

Adding is all that happens here; names, texts and sums over workers are in ``metrics``, in the control process. A
``Cell`` belongs to one pool at one datacenter; labels hold names from the table only, never what a client sent.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Any, Final

import msgspec

from marlin.api.footprint import Footprint, request_energy_kwh
from marlin.router.view import Datacenter

if TYPE_CHECKING:
    from marlin.router.balancer import LiveBackend

SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""Upper bounds of the histograms' buckets; one more bucket holds what is beyond."""


class Times(msgspec.Struct):
    """A histogram of durations."""

    buckets: list[int] = msgspec.field(default_factory=lambda: [0] * (len(SECONDS) + 1))
    """(17,) counts, not cumulative."""
    sum_s: float = 0.0

    def add(self, duration_s: float) -> None:
        """Counts one."""
        self.buckets[bisect_left(SECONDS, duration_s)] += 1
        self.sum_s += duration_s


class Cell(msgspec.Struct):
    """The counts of a pool at a datacenter; both names empty for requests that found none."""

    pool: str = ""
    datacenter: str = ""
    codes: dict[int, int] = {}
    """Requests ended, by status."""
    ttft: Times = msgspec.field(default_factory=Times)
    duration: Times = msgspec.field(default_factory=Times)
    upstream_errors: dict[str, int] = {}
    """Failures of backends, by reason."""
    retries: dict[str, int] = {}
    """Requests sent to another backend, by reason."""
    prompt_tokens: int = 0
    output_tokens: int = 0
    no_estimate: dict[str, int] = {}
    """Replies without an estimate, by reason."""
    energy_kwh: float = 0.0
    carbon_gco2: float = 0.0
    water_l: float = 0.0
    cost_usd: float = 0.0

    def count_request(self, status: int, duration_s: float, ttft_s: float | None) -> None:
        """Counts a request that has ended."""
        codes = self.codes
        codes[status] = codes.get(status, 0) + 1
        duration = self.duration
        duration.buckets[bisect_left(SECONDS, duration_s)] += 1  # not by a call: this is what every request pays
        duration.sum_s += duration_s
        if ttft_s is not None and status < 300:
            self.ttft.add(ttft_s)

    def count_upstream_error(self, reason: str) -> None:
        """Counts a backend's failure."""
        self.upstream_errors[reason] = self.upstream_errors.get(reason, 0) + 1

    def count_retry(self, reason: str) -> None:
        """Counts a request that is sent to another backend."""
        self.retries[reason] = self.retries.get(reason, 0) + 1

    def count_usage(
        self, live: LiveBackend, datacenter: Datacenter, usage: tuple[int, int] | None, now_s: float
    ) -> float | None:
        """Counts what a 2xx reply cost, or in one word why nobody knows.

        Args:
            live: says what a token takes now.
            datacenter: holds what a kWh brings with it, and until when.
            usage: prompt and output tokens; None where the reply did not say.
            now_s: Unix time, s.

        Returns:
            Energy, kWh; None where nobody knows.
        """
        if usage is None:
            kwh: float | str = "no_usage"
        else:
            prompt, output = usage
            self.prompt_tokens += prompt
            self.output_tokens += output
            kwh = estimated_kwh(live, datacenter, prompt, output, now_s)
        if isinstance(kwh, str):
            self.no_estimate[kwh] = self.no_estimate.get(kwh, 0) + 1
            return None
        # As ``footprint_of`` has it, without an object that nobody keeps: making one takes as long as all the rest.
        intensity = datacenter.intensity
        self.energy_kwh += kwh
        self.carbon_gco2 += kwh * intensity.carbon_gco2_per_kwh
        self.water_l += kwh * intensity.water_l_per_kwh
        self.cost_usd += kwh * intensity.price_usd_per_kwh
        return kwh


class Spending(msgspec.Struct):
    """The counts of a tenant in a pool at a datacenter; the last two names empty for requests that found none."""

    tenant: str = ""
    pool: str = ""
    datacenter: str = ""
    codes: dict[int, int] = {}
    """Requests ended, by status."""
    refused: dict[str, int] = {}
    """Requests not admitted, by reason."""
    prompt_tokens: int = 0
    output_tokens: int = 0
    energy_kwh: float = 0.0
    carbon_gco2: float = 0.0
    water_l: float = 0.0
    cost_usd: float = 0.0
    streams: int = 0
    """Event streams that were begun, and"""
    ttft_sum_s: float = 0.0
    """the sum of the times to their first byte. No histogram: there may be many tenants."""

    def count(self, status: int, prompt_tokens: int, output_tokens: int, cost: Footprint) -> None:
        """Counts a request that has ended."""
        self.codes[status] = self.codes.get(status, 0) + 1
        self.prompt_tokens += prompt_tokens
        self.output_tokens += output_tokens
        self.energy_kwh += cost.energy_kwh
        self.carbon_gco2 += cost.carbon_gco2
        self.water_l += cost.water_l
        self.cost_usd += cost.cost_usd

    def count_first_token(self, status: int, ttft_s: float | None) -> None:
        """Counts when the first byte of an event stream came."""
        if ttft_s is not None and status < 300:
            self.streams += 1
            self.ttft_sum_s += ttft_s


def estimated_kwh(
    live: LiveBackend, datacenter: Datacenter, prompt_tokens: int, output_tokens: int, now_s: float
) -> float | str:
    """Energy that a request took, kWh, or in one word why nobody knows what it cost.

    Args:
        live: says what a token takes now.
        datacenter: says until when what a kWh brings with it is known.
        prompt_tokens: of the request.
        output_tokens: of its reply.
        now_s: Unix time, s.
    """
    backend = live.backend
    of_prompt, of_output = backend.joules_per_prompt_token, backend.joules_per_output_token
    if of_prompt == 0 and of_output == 0:
        return "no_energy_figures"
    if datacenter.signals_valid_until_s is not None and now_s >= datacenter.signals_valid_until_s:
        return "signals_expired"
    return request_energy_kwh(prompt_tokens, output_tokens, of_prompt, of_output) * live.energy_factor


class Tally:
    """All that a worker counts."""

    def __init__(self) -> None:
        self._cells: dict[tuple[str, str], Cell] = {}
        self._spendings: dict[tuple[str, str, str], Spending] = {}

    def cell(self, pool: str, datacenter: str) -> Cell:
        """The cell of a pool at a datacenter, made when first asked for."""
        found = self._cells.get((pool, datacenter))
        if found is None:
            found = self._cells[pool, datacenter] = Cell(pool, datacenter)
        return found

    def cells(self) -> list[Cell]:
        """All of them."""
        return list(self._cells.values())

    def spending(self, tenant: str, pool: str, datacenter: str) -> Spending:
        """The counts of a tenant in a pool at a datacenter, made when first asked for."""
        key = (tenant, pool, datacenter)
        found = self._spendings.get(key)
        if found is None:
            found = self._spendings[key] = Spending(*key)
        return found

    def spendings(self) -> list[Spending]:
        """All of them."""
        return list(self._spendings.values())


_SUMS: Final = ("prompt_tokens", "output_tokens", "energy_kwh", "carbon_gco2", "water_l", "cost_usd")


def add_cells(into: dict[tuple[str, str], Cell], cells: list[Cell]) -> None:
    """Adds ``cells`` to the sums in ``into``."""
    for cell in cells:
        total = into.setdefault((cell.pool, cell.datacenter), Cell(cell.pool, cell.datacenter))
        for name in ("codes", "upstream_errors", "retries", "no_estimate"):
            _add_counts(getattr(total, name), getattr(cell, name))
        for name in ("ttft", "duration"):
            times, more = getattr(total, name), getattr(cell, name)
            times.buckets = [a + b for a, b in zip(times.buckets, more.buckets, strict=True)]
            times.sum_s += more.sum_s
        for name in _SUMS:
            setattr(total, name, getattr(total, name) + getattr(cell, name))


def add_spendings(into: dict[tuple[str, str, str], Spending], spendings: list[Spending]) -> None:
    """Adds ``spendings`` to the sums in ``into``."""
    for spending in spendings:
        key = (spending.tenant, spending.pool, spending.datacenter)
        total = into.setdefault(key, Spending(*key))
        _add_counts(total.codes, spending.codes)
        _add_counts(total.refused, spending.refused)
        for name in (*_SUMS, "streams", "ttft_sum_s"):
            setattr(total, name, getattr(total, name) + getattr(spending, name))


def _add_counts(into: dict[Any, int], counts: dict[Any, int]) -> None:
    for key, value in counts.items():
        into[key] = into.get(key, 0) + value
