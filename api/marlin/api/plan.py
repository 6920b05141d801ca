"""``RoutingPlan``: who gets which share of each model's requests during one epoch.

A plan is a value. The planner makes it, ``MarlinPolicy.status.plan`` and the ``RoutingTable`` carry it, the router
carries it out, and whoever reads one validates it first and keeps the last good one when it is bad or late. All
datacenters are named once, in ``datacenters``; rows, orders, caps and replicas refer to them by position, so that
64 pools times 16 origins still fit into one Kubernetes object.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Annotated, ClassVar, Final, Self

from pydantic import Field, model_validator

from marlin.api.values import (
    LIST_ATOMIC,
    MAX_DATACENTERS,
    MAX_ORIGINS,
    MAX_POOLS,
    SHARE_SCALE,
    ApiModel,
    Count,
    Label,
    ObjectName,
    Rule,
    Sha256,
    Share,
    list_map,
)

PUBLISH_LEAD_S: Final = 5.0
"""A plan is published at least this long before it takes effect, so that every router has it in time."""


class Dispatch(StrEnum):
    """How a router turns a plan into choices."""

    ORDERED = "Ordered"
    SHARES = "Shares"


class PlannerKind(StrEnum):
    """Who makes a plan. The command line spells these in kebab case: ``merit-order``."""

    MARLIN = "Marlin"
    ORACLE = "Oracle"
    MERIT_ORDER = "MeritOrder"
    CAPACITY_PROPORTIONAL = "CapacityProportional"
    NEAREST = "Nearest"
    LEAST_LOADED = "LeastLoaded"
    ROUND_ROBIN = "RoundRobin"
    BEST_STATIC = "BestStatic"

    @property
    def option(self) -> str:
        """The name on the command line."""
        return "".join(f"-{c.lower()}" if c.isupper() else c for c in self.value).lstrip("-")


class Scheme(StrEnum):
    """What a planner leans towards."""

    BALANCED = "Balanced"
    MIN_TTFT = "MinTTFT"
    MIN_CARBON = "MinCarbon"
    MIN_WATER = "MinWater"
    MIN_COST = "MinCost"
    CUSTOM = "Custom"

    @property
    def option(self) -> str:
        """The name on the command line."""
        return {"MinTTFT": "min-ttft"}.get(
            self.value, "".join(f"-{c.lower()}" if c.isupper() else c for c in self.value).lstrip("-")
        )


Row = Annotated[tuple[Share, ...], Field(min_length=1, max_length=MAX_DATACENTERS)]
Position = Annotated[int, Field(ge=0, lt=MAX_DATACENTERS, json_schema_extra={"format": "int32"})]


def largest_remainder(shares: Sequence[float], total: int = SHARE_SCALE) -> tuple[int, ...]:
    """Integers proportional to ``shares`` that add up to exactly ``total``.

    Ties go to the earlier entry, so that equal input gives equal output everywhere. A share of zero stays zero.

    Args:
        shares: (D,) non-negative numbers with a positive sum; they need not add up to one.
        total: what the result adds up to.

    Raises:
        ValueError: a share is negative or not finite, or all are zero.
    """
    if not all(math.isfinite(share) and share >= 0 for share in shares):
        raise ValueError("shares must be finite and not negative")
    sum_of_shares = math.fsum(shares)
    if sum_of_shares <= 0:
        raise ValueError("at least one share must be positive")
    exact = [share / sum_of_shares * total for share in shares]
    rounded = [math.floor(value) for value in exact]
    candidates = sorted((i for i, share in enumerate(shares) if share > 0), key=lambda i: (rounded[i] - exact[i], i))
    for i in candidates[: total - sum(rounded)]:
        rounded[i] += 1
    return tuple(rounded)


class PoolPlan(ApiModel):
    """One pool's row of the plan."""

    name: ObjectName = Field(description="Name of the InferencePool.")
    dispatch: Dispatch = Field(
        description=(
            "Shares: fixed fractions; what exceeds a datacenter's capacity or the pool's service level spills to the "
            "next allowed one by free capacity. Ordered: datacenters are filled in turn, each up to its cap, live."
        )
    )
    weights: Row = Field(
        json_schema_extra=LIST_ATOMIC,
        description="Share of the pool's requests each datacenter gets, out of 10,000; adds up to 10,000. With "
        "Ordered: the shares that are expected.",
    )
    order: Annotated[tuple[Position, ...], Field(max_length=MAX_DATACENTERS)] = Field(
        default=(),
        json_schema_extra=LIST_ATOMIC,
        description="With Ordered: positions in datacenters, first to be filled first; one that is missing gets "
        "nothing. Default: none.",
    )
    cap: Annotated[tuple[Share, ...], Field(max_length=MAX_DATACENTERS)] = Field(
        default=(),
        json_schema_extra=LIST_ATOMIC,
        description="With Ordered: share of each datacenter's live capacity it is filled to, out of 10,000. "
        "Default: none.",
    )
    replicas: Annotated[tuple[Count, ...], Field(max_length=MAX_DATACENTERS)] = Field(
        default=(),
        json_schema_extra=LIST_ATOMIC,
        description="Replicas wanted awake at each datacenter, where the pool can power down. Default: none are named.",
    )
    by_origin: Annotated[tuple[Row, ...], Field(max_length=MAX_ORIGINS)] = Field(
        default=(),
        json_schema_extra=LIST_ATOMIC,
        description="One row of shares for each of the plan's origins; their volume-weighted sum is weights. "
        "Default: none, every origin uses weights.",
    )

    @model_validator(mode="after")
    def _rows_fit(self) -> Self:
        size = len(self.weights)
        rows = {"weights": self.weights} | {f"byOrigin[{i}]": row for i, row in enumerate(self.by_origin)}
        for field, row in rows.items():
            if len(row) != size:
                raise ValueError(f"{field} has {len(row)} entries, weights has {size}")
            if sum(row) != SHARE_SCALE:
                raise ValueError(f"{field} adds up to {sum(row)}, not {SHARE_SCALE}")
        for field, values in (("cap", self.cap), ("replicas", self.replicas)):
            if values and len(values) != size:
                raise ValueError(f"{field} has {len(values)} entries, weights has {size}")
        if len(set(self.order)) != len(self.order) or any(i >= size for i in self.order):
            raise ValueError(f"order must name each of the {size} datacenters at most once")
        if self.dispatch is Dispatch.ORDERED and not (self.order and self.cap):
            raise ValueError("dispatch Ordered needs order and cap")
        return self


class RoutingPlan(ApiModel):
    """The plan of one epoch for all pools of a policy."""

    epoch: Annotated[int, Field(ge=0, json_schema_extra={"format": "int64"})] = Field(
        description="Number of the epoch: its start, divided by its length, counted from the Unix epoch."
    )
    decided_time: datetime = Field(description="When it was decided.")
    valid_from: datetime = Field(description="When it takes effect; at least 5 s after it was published.")
    valid_until: datetime = Field(
        description="When the next one should have taken over; a router keeps it until then "
        "and, when none comes, goes on with it and says so."
    )
    planner: PlannerKind = Field(description="Who made it.")
    scheme: Scheme = Field(default=Scheme.BALANCED, description="What it leans towards. Default: Balanced.")
    artifact_sha256: Sha256 | None = Field(
        default=None, description="Digest of the trained artifact that made it. Default: none was used."
    )
    datacenters: Annotated[tuple[Label, ...], Field(min_length=1, max_length=MAX_DATACENTERS)] = Field(
        json_schema_extra=LIST_ATOMIC, description="Names of the datacenters, in the order of every row."
    )
    origins: Annotated[tuple[Label, ...], Field(max_length=MAX_ORIGINS)] = Field(
        default=(),
        json_schema_extra=LIST_ATOMIC,
        description="Names of the origins, in the order of byOrigin.",
    )
    pools: Annotated[tuple[PoolPlan, ...], Field(min_length=1, max_length=MAX_POOLS)] = Field(
        json_schema_extra=list_map("name"), description="One row per pool."
    )
    explanation: Annotated[str, Field(max_length=512)] = Field(
        default="", description="Why, in one line for a person. Default: empty."
    )
    hash: Sha256 | None = Field(
        default=None,
        description="Digest of all the fields above, so that two readers can tell they hold the same plan.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.validFrom < self.validUntil",
            "validFrom must precede validUntil",
            lambda p: p.valid_from < p.valid_until,
        ),
    )

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if len(set(self.datacenters)) != len(self.datacenters):
            raise ValueError("datacenters must be different")
        for moment in (self.decided_time, self.valid_from, self.valid_until):
            if moment.tzinfo is None:
                raise ValueError("times need a time zone, e.g. 2026-01-31T12:00:00Z")
        for pool in self.pools:
            if len(pool.weights) != len(self.datacenters):
                raise ValueError(
                    f"pool {pool.name}: {len(pool.weights)} weights for {len(self.datacenters)} datacenters"
                )
            if pool.by_origin and len(pool.by_origin) != len(self.origins):
                raise ValueError(f"pool {pool.name}: {len(pool.by_origin)} rows for {len(self.origins)} origins")
        if self.hash is not None and self.hash != self.content_hash():
            raise ValueError("hash does not match the content: the plan was changed after it was decided")
        return self

    def content_hash(self) -> str:
        """SHA-256 over the canonical JSON of everything but ``hash``."""
        content = self.model_dump(mode="json", by_alias=True, exclude={"hash"}, exclude_none=True)
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def sealed(self) -> RoutingPlan:
        """The same plan with its hash filled in."""
        return self.model_copy(update={"hash": self.content_hash()})

    def pool(self, name: str) -> PoolPlan | None:
        """The row of the pool called ``name``."""
        return next((pool for pool in self.pools if pool.name == name), None)
