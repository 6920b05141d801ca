"""Objects as the API server holds them, read as far as they can be.

A spec is read apart from its status: a status that an older version wrote, or that somebody broke, must not make the
object unreadable. What cannot be read is kept with the one line that says why, because it too gets a condition.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Generic, TypeVar

from pydantic import ValidationError

from marlin.api.datacenter import Datacenter, DatacenterStatus
from marlin.api.documents import describe
from marlin.api.policy import MarlinPolicy, MarlinPolicyStatus
from marlin.api.pool import InferencePool, InferencePoolStatus

M = TypeVar("M", Datacenter, InferencePool, MarlinPolicy)
S = TypeVar("S", DatacenterStatus, InferencePoolStatus, MarlinPolicyStatus)

_STATUS_MODELS: Final[dict[type[Any], type[Any]]] = {
    Datacenter: DatacenterStatus,
    InferencePool: InferencePoolStatus,
    MarlinPolicy: MarlinPolicyStatus,
}

Key = tuple[str, str]
"""Namespace (empty for cluster-scoped kinds) and name."""

PLURALS: Final = {"Datacenter": "datacenters", "InferencePool": "inferencepools", "MarlinPolicy": "marlinpolicies"}


@dataclass(frozen=True, slots=True)
class Observed(Generic[M, S]):
    """One object."""

    key: Key
    uid: str
    generation: int
    created: str
    """RFC 3339; sorts by age."""
    model: M | None
    """The object without its status; None when the spec cannot be read."""
    problem: str
    """Why not, in one line; empty when it can."""
    status: S | None
    """The last status, None when there is none or it cannot be read."""
    raw_status: Mapping[str, Any]
    """The last status as it stands."""

    @property
    def name(self) -> str:
        """The object's name."""
        return self.key[1]

    @property
    def age_order(self) -> tuple[str, str, str]:
        """Sorts objects: older first, then by name and namespace."""
        return (self.created, self.key[1], self.key[0])


ObservedSite = Observed[Datacenter, DatacenterStatus]
ObservedPool = Observed[InferencePool, InferencePoolStatus]
ObservedPolicy = Observed[MarlinPolicy, MarlinPolicyStatus]

AnyObserved = TypeVar("AnyObserved", ObservedSite, ObservedPool, ObservedPolicy)


def read_site(raw: Mapping[str, Any]) -> ObservedSite:
    """A Datacenter as the API server holds it."""
    return _read(raw, Datacenter, DatacenterStatus)


def read_pool(raw: Mapping[str, Any]) -> ObservedPool:
    """An InferencePool as the API server holds it."""
    return _read(raw, InferencePool, InferencePoolStatus)


def read_policy(raw: Mapping[str, Any]) -> ObservedPolicy:
    """A MarlinPolicy as the API server holds it."""
    return _read(raw, MarlinPolicy, MarlinPolicyStatus)


def _read(raw: Mapping[str, Any], model: type[M], status_model: type[S]) -> Observed[M, S]:
    metadata = raw["metadata"]
    kept = {key: metadata[key] for key in ("name", "namespace", "labels", "uid", "generation") if key in metadata}
    # In a list the API server leaves kind and apiVersion to the list.
    document = {"kind": model.__name__, "apiVersion": raw.get("apiVersion", "marlin.dev/v1alpha1")} | {
        "metadata": kept,
        "spec": raw.get("spec", {}),
    }
    read, problem = None, ""
    try:
        read = model.model_validate(document)
    except ValidationError as error:
        problem = describe(error, model, document)
    raw_status = raw.get("status") or {}
    status = _status(raw_status, status_model)
    return Observed(
        key=(metadata.get("namespace", ""), metadata["name"]),
        uid=metadata.get("uid", ""),
        generation=metadata.get("generation", 0),
        created=metadata.get("creationTimestamp", ""),
        model=read,
        problem=problem,
        status=status,
        raw_status=raw_status,
    )


def with_status(read: AnyObserved, raw_status: Mapping[str, Any]) -> AnyObserved:
    """A readable object with another status, its spec as it was read before."""
    assert read.model is not None
    status: Any = _status(raw_status, _STATUS_MODELS[type(read.model)])
    return replace(read, status=status, raw_status=raw_status)


def _status(raw_status: Mapping[str, Any], model: type[S]) -> S | None:
    try:
        return model.model_validate(raw_status) if raw_status else None
    except ValidationError:
        return None  # it is written anew
