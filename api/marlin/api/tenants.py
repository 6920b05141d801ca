"""``TenantList``: who may send requests to a router, and how many.

A file of its own, mounted from a Secret, because it changes at other times and is read by fewer people than the
``RoutingTable``. It holds no key, only their SHA-256: keys are long random texts, for which a slow hash adds nothing.
The router reads it with ``--tenants``, ``marlin validate`` checks it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from marlin.api.values import API_VERSION, ApiModel, Label, list_map

TENANTS_ENTRY: Final = "tenants.yaml"
"""Key under which a Secret carries the list."""

MAX_TENANTS: Final = 4096

KeyHash = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
"""``sha256:`` and the hash of an API key, as ``sha256sum`` prints it."""

PerMinute = Annotated[int, Field(ge=1, le=10**9)]


class Priority(StrEnum):
    """Who gives way when a pool fills up."""

    HIGH = "High"
    NORMAL = "Normal"
    LOW = "Low"


class BudgetPeriod(StrEnum):
    """After what a budget begins anew; in UTC."""

    DAY = "Day"
    MONTH = "Month"


class Budget(ApiModel):
    """What a tenant's requests may cost, as the router estimates it, in one period."""

    period: BudgetPeriod = Field(default=BudgetPeriod.DAY, description="Day or Month, in UTC. Default: Day.")
    usd: Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)] | None = Field(
        default=None, description="Energy cost, USD. Default: no limit."
    )
    carbon_gco2: Annotated[float, Field(gt=0, le=1e12, allow_inf_nan=False)] | None = Field(
        default=None, description="Carbon, gCO2eq. Default: no limit."
    )

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if self.usd is None and self.carbon_gco2 is None:
            raise ValueError("set usd, carbonGco2 or both")
        return self


class Tenant(ApiModel):
    """A client, or a group of them that share what is granted."""

    name: Label = Field(description="Its name, in metrics and the access log.")
    key_hashes: Annotated[tuple[KeyHash, ...], Field(min_length=1, max_length=16)] = Field(
        description="SHA-256 of each of its keys; several while keys are exchanged."
    )
    priority: Priority = Field(
        default=Priority.NORMAL,
        description="Low is refused first when a pool fills up, High last. Default: Normal.",
    )
    requests_per_minute: PerMinute | None = Field(
        default=None, description="Requests granted per minute. Default: no limit."
    )
    request_burst: PerMinute | None = Field(
        default=None, description="Requests that may come at once. Default: a minute's."
    )
    tokens_per_minute: PerMinute | None = Field(
        default=None, description="Prompt and output tokens granted per minute. Default: no limit."
    )
    token_burst: PerMinute | None = Field(default=None, description="Tokens at once. Default: a minute's.")
    budget: Budget | None = Field(default=None, description="What its requests may cost. Default: no limit.")

    @model_validator(mode="after")
    def _bursts_are_of_rates(self) -> Self:
        if self.request_burst is not None and self.requests_per_minute is None:
            raise ValueError("requestBurst needs requestsPerMinute")
        if self.token_burst is not None and self.tokens_per_minute is None:
            raise ValueError("tokenBurst needs tokensPerMinute")
        return self


class TenantList(ApiModel):
    """Everybody who may send requests."""

    api_version: Literal["marlin.dev/v1alpha1"] = Field(default=API_VERSION, description="Always marlin.dev/v1alpha1.")
    kind: Literal["TenantList"] = Field(default="TenantList", description="Always TenantList.")
    tenants: Annotated[tuple[Tenant, ...], Field(max_length=MAX_TENANTS)] = Field(
        json_schema_extra=list_map("name"), description="The tenants; without any, every request is refused."
    )

    @model_validator(mode="after")
    def _no_key_is_shared(self) -> Self:
        owners: dict[str, str] = {}
        for tenant in self.tenants:
            for key_hash in tenant.key_hashes:
                owner = owners.setdefault(key_hash, tenant.name)
                if owner != tenant.name:
                    raise ValueError(f"tenants {owner} and {tenant.name} have the same key")
        return self
