"""Condition types and reasons: one table for the code that writes them, the docs and the tests.

The vocabulary is the Gateway API's (Accepted, ResolvedRefs, Programmed) with one summary, ``Ready``. A condition is
set on first visit, ``Unknown`` included; ``reason`` is one of those listed here and nothing else.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final

from pydantic import Field

from marlin.api.values import ApiModel, list_map


class ConditionStatus(StrEnum):
    """Kubernetes' three truth values."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(ApiModel):
    """One statement about an object, with since when and why."""

    type: Annotated[str, Field(min_length=1, max_length=316)] = Field(description="What the statement is about.")
    status: ConditionStatus = Field(description="True, False or Unknown.")
    reason: Annotated[
        str, Field(min_length=1, max_length=1024, pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$")
    ] = Field(description="Why, as one CamelCase word from the documented table.")
    message: Annotated[str, Field(max_length=32768)] = Field(description="Why, for a person; may be empty.")
    last_transition_time: datetime = Field(description="When status last changed.")
    observed_generation: Annotated[int, Field(ge=0, json_schema_extra={"format": "int64"})] | None = Field(
        default=None, description="metadata.generation the statement was made of."
    )


Conditions = Annotated[
    tuple[Condition, ...],
    Field(
        max_length=16,
        json_schema_extra=list_map("type"),
        description="Statements about this object, one per type.",
    ),
]

REASONS: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "Datacenter": {
        "Ready": (
            "Ready",
            "ClusterUnreachable",
            "RouterUnreachable",
            "CredentialsInvalid",
            "SignalsStale",
            "Drained",
            "InvalidSpec",
        ),
        "CredentialsValid": (
            "Valid",
            "SecretNotFound",
            "ClusterProfileNotFound",
            "ProviderNotSupported",
            "KubeconfigRejected",
            "Withheld",
            "Unauthorized",
            "NotConfigured",
            "NotChecked",
        ),
        "ClusterReachable": ("Reachable", "Timeout", "TLSError", "Forbidden", "NotConfigured", "NotChecked"),
        "RouterReachable": (
            "Reachable",
            "Timeout",
            "TLSError",
            "Withheld",
            "Unauthorized",
            "NotConfigured",
            "NotChecked",
        ),
        "SignalsFresh": ("Fresh", "Stale", "ProviderError", "RateLimited", "FallbackInUse"),
    },
    "InferencePool": {
        "Accepted": ("Accepted", "DatacenterNotFound", "Conflicted", "InvalidSpec"),
        "ResolvedRefs": ("ResolvedRefs", "BackendNotFound", "KindNotSupported"),
        "Programmed": ("Programmed", "RouterRejected", "Pending", "NotPlanned"),
        "ProfileCalibrated": (
            "Stated",
            "Calibrated",
            "Collecting",
            "PoorFit",
            "EnginesUnreachable",
            "NotObserved",
        ),
        "Ready": ("Ready", "NoReadyBackend", "NotAccepted", "NotResolved"),
    },
    "MarlinPolicy": {
        "Accepted": (
            "Accepted",
            "PoolNotFound",
            "DatacenterNotFound",
            "OverlappingPolicy",
            "TooManyPools",
            "TooManyDatacenters",
            "InvalidSpec",
        ),
        "ArtifactAccepted": ("Accepted", "ArtifactRejected", "NotNeeded"),
        "Adapting": (
            "NotNeeded",
            "AdaptUnavailable",
            "NoRecording",
            "Collecting",
            "Learning",
            "TookOver",
            "Discarded",
            "Refused",
            "Failed",
        ),
        "Observed": ("Observed", "Unreadable", "NotReadYet", "NotConfigured"),
        "Planned": ("Planned", "InsufficientData", "PlannerError", "Paused", "NotAccepted"),
        "Applied": ("Applied", "DryRun", "Paused", "PartiallyApplied", "NotPlanned", "TableRejected"),
        "Degraded": ("FallbackInUse", "SignalsStale", "ServiceLevelViolated", "AsExpected"),
        "Ready": ("Ready", "NotAccepted", "NotPlanned", "NotApplied", "Degraded"),
    },
}
"""Kind, then condition type, then its reasons."""
