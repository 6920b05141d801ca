"""Who may come in: keys, rates, budgets and priorities of tenants. Only there when the router has ``--tenants``.

``flow`` asks whose request it is (``tenant_of``) and whether it may be sent now (``admit``), and says at its end what
it used (``settle``). Where no list was read yet, everybody is refused.

Tokens are reserved when a request is admitted, from what it asks for, and set right when its reply says what it used; a
reply that does not say is charged by its size, so that nobody pays less by leaving usage out. A budget stops the first
request after it is used up: what is in flight then still ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from hmac import compare_digest
from typing import TYPE_CHECKING, Final

from marlin.api.footprint import Footprint, footprint_of
from marlin.router.balancer import LivePool
from marlin.router.body_fields import wanted_tokens
from marlin.router.errors import CLIENT_CLOSED, InvalidKeyError, LimitError, NoBackendError
from marlin.router.heads import RequestHead
from marlin.router.ledger import (
    ELSEWHERE_MICRO_GCO2,
    ELSEWHERE_NANO_USD,
    ELSEWHERE_PERIOD,
    MICRO_GCO2,
    NANO_USD,
    PERIOD,
    REQUESTS_FULL_AT,
    TOKENS_FULL_AT,
    Ledger,
)
from marlin.router.limits import MICRO_GCO2 as MICRO
from marlin.router.limits import NANO_USD as NANO
from marlin.router.limits import Budget, Tenant, period_end_s, period_of
from marlin.router.tally import Tally, estimated_kwh

if TYPE_CHECKING:
    from marlin.router.flow import Flow

BYTES_PER_PROMPT_TOKEN: Final = 4
BYTES_PER_STREAMED_TOKEN: Final = 200
"""What a token takes in a request, and in an event stream: for replies that do not say how many there were."""

USUAL_OUTPUT_TOKENS: Final = 256
"""Reserved for a request that does not say how many tokens it wants."""

LOW_LOAD: Final = 0.8
NORMAL_LOAD: Final = 0.95
"""Parts of a pool's capacity that requests of these priorities may fill; what is beyond is for those above them. Normal
requests are only held back where backends state a limit: otherwise an engine's own queue takes them."""

_LIMITED: Final = {"Low": LOW_LOAD, "Normal": NORMAL_LOAD}
_FIRST_BYTES: Final = 8


@dataclass(slots=True)
class Ticket:
    """A request that was admitted."""

    tenant: Tenant
    reserved_tokens: int


class Gate:
    """The tenants of a router.

    Args:
        ledger: what they have used.
        tally: where their requests are counted.
    """

    def __init__(self, ledger: Ledger, tally: Tally) -> None:
        self._ledger = ledger
        self._tally = tally
        self._by_beginning: dict[bytes, tuple[tuple[bytes, Tenant], ...]] = {}

    def adopt(self, tenants: Sequence[Tenant]) -> None:
        """Takes a list over; requests that were admitted end as they began."""
        index: dict[bytes, tuple[tuple[bytes, Tenant], ...]] = {}
        for tenant in tenants:
            for digest in tenant.digests:
                beginning = digest[:_FIRST_BYTES]
                index[beginning] = (*index.get(beginning, ()), (digest, tenant))
        self._by_beginning = index

    def tenant_of(self, head: RequestHead) -> Tenant:
        """Whose key a request carries.

        Raises:
            InvalidKeyError: it carries none, or one that nobody has.
        """
        key = _key_of(head)
        if not key:
            raise InvalidKeyError("an API key is needed: Authorization: Bearer KEY", reason="missing_api_key")
        digest = sha256(key).digest()
        found = None
        # What can be told from the time of the look-up is a hash, whose beginning nobody can choose.
        for known, tenant in self._by_beginning.get(digest[:_FIRST_BYTES], ()):
            if compare_digest(known, digest):
                found = tenant
        if found is None:
            raise InvalidKeyError("the API key is not valid")
        return found

    def admit(self, tenant: Tenant, body: bytes, pool: LivePool, now_s: float, wall_s: float) -> Ticket:
        """Takes a request into account, or says what it has to wait for.

        Args:
            tenant: whose request it is.
            body: its body.
            pool: where it is to be sent.
            now_s: monotonic time, s; of the same clock in all workers.
            wall_s: Unix time, s.

        Raises:
            LimitError: a rate or a budget is used up.
            NoBackendError: the pool's last places are for others.
        """
        share = _LIMITED.get(tenant.priority)
        if share is not None and pool.is_fuller_than(share, only_if_limited=tenant.priority == "Normal"):
            self.refused(tenant, "priority")
            raise NoBackendError(
                f"the model is busy; its last places are for requests of a higher priority than {tenant.priority}",
                reason="priority",
                retry_after_s=1,
            )
        reserved = _reservation(body) if tenant.tokens is not None else 0
        if tenant.requests is None and tenant.tokens is None and tenant.budget is None:
            return Ticket(tenant, reserved)
        self._ledger.lock(tenant.slot)
        try:
            error = self._take(tenant, reserved, int(now_s * 1e9), wall_s)
        finally:
            self._ledger.unlock(tenant.slot)
        if error is not None:
            self.refused(tenant, error.reason)
            raise error
        return Ticket(tenant, reserved)

    def _take(self, tenant: Tenant, tokens: int, now_ns: int, wall_s: float) -> LimitError | None:
        """Takes a request out of all buckets, or out of none."""
        cells, row, pods = self._ledger.cells, self._ledger.row_at(tenant.slot), self._ledger.pods
        if tenant.budget is not None and (error := self._over_budget(tenant, tenant.budget, row, wall_s)) is not None:
            return error
        wait_ns, what = 0, ""
        if tenant.requests is not None:
            wait_ns, what = tenant.requests.wait_ns(cells[row + REQUESTS_FULL_AT], now_ns, 1, pods), "requests"
        if tenant.tokens is not None:
            more_ns = tenant.tokens.wait_ns(cells[row + TOKENS_FULL_AT], now_ns, tokens, pods)
            if more_ns > wait_ns:
                wait_ns, what = more_ns, "tokens"
        if wait_ns:
            rate = tenant.requests if what == "requests" else tenant.tokens
            assert rate is not None
            shared = f", divided among {pods} routers" if pods > 1 else ""
            return LimitError(
                f"rate limit of tenant {tenant.name} reached: {rate.per_minute} {what} per minute{shared}",
                reason="rate_limit_exceeded",
                retry_after_s=-(-wait_ns // 1_000_000_000),
                kind=what,
            )
        for rate, at, units in (
            (tenant.requests, row + REQUESTS_FULL_AT, 1),
            (tenant.tokens, row + TOKENS_FULL_AT, tokens),
        ):
            if rate is not None:
                cells[at] = max(cells[at], now_ns) + rate.cost_ns(units, pods)
        return None

    def _over_budget(self, tenant: Tenant, budget: Budget, row: int, wall_s: float) -> LimitError | None:
        cells = self._ledger.cells
        period = period_of(wall_s, is_monthly=budget.is_monthly)
        is_stored = cells[row + ELSEWHERE_PERIOD] == period
        # Without a store nobody knows what the other pods spent: each has its part.
        parts = 1 if is_stored else self._ledger.pods
        for limit, own, elsewhere, name in (
            (budget.nano_usd, NANO_USD, ELSEWHERE_NANO_USD, "cost"),
            (budget.micro_gco2, MICRO_GCO2, ELSEWHERE_MICRO_GCO2, "carbon"),
        ):
            if limit is None:
                continue
            spent = cells[row + own] if cells[row + PERIOD] == period else 0
            spent += cells[row + elsewhere] if is_stored else 0
            if spent * parts >= limit:
                every = "month" if budget.is_monthly else "day"
                return LimitError(
                    f"the {name} budget of tenant {tenant.name} is used up for this {every}",
                    reason="insufficient_quota",
                    retry_after_s=int(period_end_s(wall_s, is_monthly=budget.is_monthly) - wall_s) + 1,
                    kind="insufficient_quota",
                )
        return None

    def settle(self, ticket: Ticket, flow: Flow, now_s: float, wall_s: float) -> None:
        """Says what an admitted request used.

        Args:
            ticket: what ``admit`` gave.
            flow: the request, which is over.
            now_s: monotonic time, s.
            wall_s: Unix time, s.
        """
        tenant, live = ticket.tenant, flow.last_live
        backend = None if live is None else live.backend
        prompt, output = _used(flow)
        cost = Footprint()
        if backend is not None and live is not None and (prompt or output):
            datacenter = live.site.site.datacenter
            kwh = estimated_kwh(live, datacenter, prompt, output, wall_s)
            cost = cost if isinstance(kwh, str) else footprint_of(kwh, datacenter.intensity)
        spending = self._tally.spending(
            tenant.name, *(("", "") if backend is None else (backend.pool, backend.datacenter))
        )
        spending.count(flow.status, prompt, output, cost)
        spending.count_first_token(flow.status, flow.first_token_s)
        if tenant.tokens is None and tenant.budget is None and (tenant.requests is None or flow.attempts):
            return
        self._ledger.lock(tenant.slot)
        try:
            self._charge(ticket, prompt + output, cost, flow.attempts > 0, int(now_s * 1e9), wall_s)
        finally:
            self._ledger.unlock(tenant.slot)

    def _charge(self, ticket: Ticket, tokens: int, cost: Footprint, was_sent: bool, now_ns: int, wall_s: float) -> None:
        tenant = ticket.tenant
        cells, row, pods = self._ledger.cells, self._ledger.row_at(tenant.slot), self._ledger.pods
        if tenant.requests is not None and not was_sent:
            # Refused for want of a backend: that was not the tenant's doing.
            cells[row + REQUESTS_FULL_AT] -= tenant.requests.cost_ns(1, pods)
        if tenant.tokens is not None:
            change_ns = tenant.tokens.cost_ns(abs(tokens - ticket.reserved_tokens), pods)
            if tokens < ticket.reserved_tokens:
                cells[row + TOKENS_FULL_AT] -= change_ns
            else:
                cells[row + TOKENS_FULL_AT] = max(cells[row + TOKENS_FULL_AT], now_ns) + change_ns
        if tenant.budget is not None:
            period = period_of(wall_s, is_monthly=tenant.budget.is_monthly)
            if cells[row + PERIOD] != period:
                cells[row + NANO_USD] = cells[row + MICRO_GCO2] = 0
                cells[row + PERIOD] = period
            cells[row + NANO_USD] += round(cost.cost_usd * NANO)
            cells[row + MICRO_GCO2] += round(cost.carbon_gco2 * MICRO)

    def refused(self, tenant: Tenant, reason: str) -> None:
        """Counts a request that was not admitted."""
        refused = self._tally.spending(tenant.name, "", "").refused
        refused[reason] = refused.get(reason, 0) + 1


def _key_of(head: RequestHead) -> bytes:
    """The key a request carries, as OpenAI's clients send it or as Anthropic's do; empty where there is none."""
    if head.authorization_at:
        scheme, _, key = head.lines[head.authorization_at].partition(b":")[2].strip(b" \t").partition(b" ")
        return key.strip(b" \t") if scheme.lower() == b"bearer" else b""
    if head.api_key_at:
        return head.lines[head.api_key_at].partition(b":")[2].strip(b" \t")
    return b""


def _reservation(body: bytes) -> int:
    wanted = wanted_tokens(body)
    return len(body) // BYTES_PER_PROMPT_TOKEN + (USUAL_OUTPUT_TOKENS if wanted is None else wanted)


def _used(flow: Flow) -> tuple[int, int]:
    """Prompt and output tokens of a request that is over: as its reply says, else by its size; none for an error."""
    if flow.usage is not None:
        return flow.usage
    if not flow.attempts or (flow.status >= 400 and flow.status != CLIENT_CLOSED):
        return 0, 0
    return len(flow.body) // BYTES_PER_PROMPT_TOKEN, flow.bytes_out // BYTES_PER_STREAMED_TOKEN if flow.is_stream else 0
