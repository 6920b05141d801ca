"""What is to be written, as values: a server-side apply, or an Event.

Everything we write carries one field manager, so that the API server knows which fields are ours and leaves the others
alone. What is already there as wanted is not written again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from marlin.api.table import CONFIG_MAP_KEY
from marlin.api.values import API_VERSION, ApiModel
from marlin.operator.core.observed import PLURALS, Key, Observed
from marlin.operator.core.published import PublishedTable

FIELD_MANAGER: Final = "marlin-operator"

MANAGED_BY: Final = {"app.kubernetes.io/managed-by": FIELD_MANAGER}
"""Label of every object that the operator creates."""

RECORD_LABEL: Final = "marlin.dev/record"
"""Label of ConfigMaps that hold what the operator remembers, with what it is: these are not for routers."""


@dataclass(frozen=True, slots=True)
class Apply:
    """A server-side apply."""

    path: str
    """Path of the object, or of its status, on the API server."""
    body: Mapping[str, Any]
    policy: Key | None = None
    """The policy it is part of; None: of none."""
    subject: tuple[str, Key, str] | None = None
    """Kind, key and UID of our object that it is about, for Events; None where it is about none."""
    status: ApiModel | None = None
    """The status in it; None where it writes none."""
    table: PublishedTable | None = None
    """The routing table that it writes, which ``document`` unpacks; None where it writes none."""

    @property
    def document(self) -> Mapping[str, Any]:
        """What is sent: the body, with the text of the table."""
        return self.body if self.table is None else {**self.body, "data": {CONFIG_MAP_KEY: self.table.text}}

    @property
    def what(self) -> str:
        """The object, for logs: kind, namespace and name."""
        metadata = self.body["metadata"]
        place = f"{metadata['namespace']}/" if "namespace" in metadata else ""
        return f"{self.body['kind']} {place}{metadata['name']}"


@dataclass(frozen=True, slots=True)
class EventNote:
    """Something a person may want to know about an object."""

    kind: str
    key: Key
    uid: str
    type: str
    """Normal or Warning."""
    reason: str
    message: str


def apply_status(
    observed: Observed[Any, Any],
    kind: str,
    status: ApiModel,
    document: Mapping[str, Any],
    policy: Key | None = None,
) -> Apply:
    """The whole status of one of our objects.

    Args:
        observed: the object.
        kind: its kind.
        status: the status.
        document: the same, as it stands in JSON.
        policy: the policy it is part of; None: of none.
    """
    return Apply(
        f"{object_path(kind, observed.key)}/status",
        {"apiVersion": API_VERSION, "kind": kind, "metadata": _metadata(observed.key), "status": document},
        policy,
        subject=(kind, observed.key, observed.uid),
        status=status,
    )


def apply_table(key: Key, table: PublishedTable, owner: Mapping[str, Any], policy: Key) -> Apply:
    """A policy's routing table as a ConfigMap, which goes when its owner goes."""
    metadata = {**_metadata(key), "labels": dict(MANAGED_BY), "ownerReferences": [dict(owner)]}
    return Apply(
        f"/api/v1/namespaces/{key[0]}/configmaps/{key[1]}",
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata},
        policy,
        table=table,
    )


def apply_record(key: Key, record: str, data: Mapping[str, str], owner: Observed[Any, Any] | None = None) -> Apply:
    """A ConfigMap of what the operator has to remember; about one of our objects it goes when the object goes."""
    metadata: dict[str, Any] = {**_metadata(key), "labels": {**MANAGED_BY, RECORD_LABEL: record}}
    if owner is not None:
        kind = type(owner.model).__name__
        metadata["ownerReferences"] = [{"apiVersion": API_VERSION, "kind": kind, "name": owner.name, "uid": owner.uid}]
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": dict(data)}
    return Apply(f"/api/v1/namespaces/{key[0]}/configmaps/{key[1]}", body)


def object_path(kind: str, key: Key) -> str:
    """Path of one of our objects."""
    namespace, name = key
    middle = f"namespaces/{namespace}/" if namespace else ""
    return f"/apis/{API_VERSION}/{middle}{PLURALS[kind]}/{name}"


def event_body(note: EventNote, *, namespace: str, now: datetime, instance: str) -> dict[str, Any]:
    """The Event as the API server takes it.

    Args:
        note: what happened.
        namespace: where Events about cluster-scoped objects go; others go to their object's namespace.
        now: when.
        instance: which operator says so.
    """
    regarding: dict[str, Any] = {"apiVersion": API_VERSION, "kind": note.kind, "name": note.key[1], "uid": note.uid}
    if note.key[0]:
        regarding["namespace"] = note.key[0]
    # Events about cluster-scoped objects live in the namespace "default": where kubectl describe looks for them.
    place = note.key[0] or namespace
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"generateName": f"{note.key[1][:200].rstrip('.-')}-", "namespace": place},
        "eventTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "reportingController": f"marlin.dev/{FIELD_MANAGER}",
        "reportingInstance": instance[:128],
        "action": "Reconcile",
        "reason": note.reason[:128],
        "regarding": regarding,
        "note": note.message[:1024],
        "type": note.type,
    }


def _metadata(key: Key) -> dict[str, Any]:
    namespace, name = key
    return {"name": name, "namespace": namespace} if namespace else {"name": name}
