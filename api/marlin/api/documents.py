"""YAML text to checked objects, and one line for each thing that is wrong with it.

A configuration file is a stream of the same documents that ``kubectl apply`` takes. Text comes in (whoever calls this
read the file), validated models go out; an error names the file, the line where the document starts, the object and
the field, and says what to do. Unknown fields are refused with the nearest known name, because a mistyped field that
is silently ignored is the worst kind of configuration.
"""

from __future__ import annotations

import difflib
import json
from base64 import b64decode
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from marlin.api.datacenter import Datacenter
from marlin.api.errors import InputError
from marlin.api.policy import MarlinPolicy
from marlin.api.pool import InferencePool
from marlin.api.table import CONFIG_MAP_KEY, RoutingTable
from marlin.api.tenants import TENANTS_ENTRY, TenantList
from marlin.api.values import API_VERSION, ApiModel

KINDS: Final[dict[str, type[Datacenter | InferencePool | MarlinPolicy | RoutingTable | TenantList]]] = {
    "Datacenter": Datacenter,
    "InferencePool": InferencePool,
    "MarlinPolicy": MarlinPolicy,
    "RoutingTable": RoutingTable,
    "TenantList": TenantList,
}

M = TypeVar("M", bound=BaseModel)

MAX_DOCUMENT_BYTES: Final = 32 * 1024 * 1024
"""More text than this is no configuration; it is refused before it is parsed."""


class DocumentError(InputError):
    """Something in a document is wrong; ``str()`` is one line a person can act upon."""


@dataclass(frozen=True, slots=True)
class Documents:
    """What a configuration held, by kind."""

    datacenters: tuple[Datacenter, ...] = ()
    pools: tuple[InferencePool, ...] = ()
    policies: tuple[MarlinPolicy, ...] = ()
    tables: tuple[RoutingTable, ...] = ()
    tenant_lists: tuple[TenantList, ...] = ()
    warnings: tuple[str, ...] = field(default=())


def load_documents(text: str, source: str) -> Documents:
    """Reads a stream of YAML (or JSON) documents.

    Args:
        text: the content of a file.
        source: its name, for messages.

    Raises:
        DocumentError: the text is not YAML, a document is of another kind, or an object is not valid.
    """
    found: dict[str, list[Any]] = {kind: [] for kind in KINDS}
    for where, document in _objects(text, source):
        kind = _kind_of(document, where)
        if kind == "ConfigMap":
            found["RoutingTable"].append(_table_of_config_map(document, where))
        elif kind == "Secret":
            found["TenantList"].append(_tenants_of_secret(document, where))
        else:
            found[kind].append(validate(KINDS[kind], document, where))
    _refuse_duplicates(found, source)
    return Documents(
        datacenters=tuple(found["Datacenter"]),
        pools=tuple(found["InferencePool"]),
        policies=tuple(found["MarlinPolicy"]),
        tables=tuple(found["RoutingTable"]),
        tenant_lists=tuple(found["TenantList"]),
    )


def dump_documents(objects: Iterable[ApiModel]) -> str:
    """The YAML stream that ``load_documents`` reads back."""
    return yaml.safe_dump_all((o.to_document() for o in objects), sort_keys=False, allow_unicode=True)


def validate(model: type[M], document: object, where: str) -> M:
    """``document`` as a ``model``.

    Raises:
        DocumentError: the first thing that is wrong, and how many more there are.
    """
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise DocumentError(f"{where}: {describe(error, model, document)}") from None


def describe(error: ValidationError, model: type[BaseModel], document: object) -> str:
    """A validation error as one line: object, field, what is wrong, what to do."""
    problems = error.errors(include_url=False)
    first = problems[0]
    path = _dotted(first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        known = _known_fields(model, first["loc"][:-1])
        near = difflib.get_close_matches(str(first["loc"][-1]), known, n=1)
        message = "unknown field" + (
            f"; did you mean {near[0]}?" if near else f"; known are {', '.join(sorted(known))}"
        )
    elif first["type"] == "missing":
        message = "is required"
    elif first["type"] in {"enum", "literal_error"}:
        message = f"{first['input']!r} is not one of {first.get('ctx', {}).get('expected', message)}"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{_name_of(document)}{f'{path}: ' if path else ''}{message}{more}"


def _objects(text: str, source: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each object with where it stands; a List, as ``kubectl get`` prints it, is taken apart."""
    for line, document in _parse(text, source):
        where = f"{source}:{line}"
        items = document.get("items")
        if document.get("kind") == "List" and isinstance(items, list):
            for i, item in enumerate(items):
                if not isinstance(item, dict):
                    raise DocumentError(f"{where}: items[{i}] is not an object")
                yield f"{where}: items[{i}]", item
        else:
            yield where, document


def _parse(text: str, source: str) -> Iterator[tuple[int, dict[str, Any]]]:
    if len(text) > MAX_DOCUMENT_BYTES:
        raise DocumentError(f"{source}: larger than {MAX_DOCUMENT_BYTES // 2**20} MiB")
    loader = yaml.SafeLoader(text)
    try:
        while loader.check_node():
            node = loader.get_node()
            if node is None:
                continue
            document = loader.construct_document(node)
            if document is None:
                continue
            if not isinstance(document, dict):
                raise DocumentError(f"{source}:{node.start_mark.line + 1}: not an object with apiVersion and kind")
            yield node.start_mark.line + 1, document
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise DocumentError(f"{source}:{line}: not valid YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, DocumentError):
            raise
        raise DocumentError(f"{source}: not valid YAML: {error or type(error).__name__}".splitlines()[0]) from None
    finally:
        loader.dispose()


def _kind_of(document: Mapping[str, Any], where: str) -> str:
    kind, version = document.get("kind"), document.get("apiVersion")
    if kind in {"ConfigMap", "Secret"} and version == "v1":
        return str(kind)
    if kind is None and "scenario" in document:
        raise DocumentError(f"{where}: this is a scenario file, which marlin simulate --scenario checks and runs")
    if kind not in KINDS:
        near = difflib.get_close_matches(str(kind), KINDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(KINDS)}"
        raise DocumentError(f"{where}: kind {kind!r} is not known; {hint}")
    if version != API_VERSION:
        raise DocumentError(f"{where}: {kind}: apiVersion must be {API_VERSION}, not {version!r}")
    return str(kind)


def _table_of_config_map(document: Mapping[str, Any], where: str) -> RoutingTable:
    data = document.get("data")
    content = data.get(CONFIG_MAP_KEY) if isinstance(data, dict) else None
    if not isinstance(content, str):
        raise DocumentError(f"{where}: ConfigMap has no data.{CONFIG_MAP_KEY}")
    try:
        table = json.loads(content)
    except ValueError as error:
        raise DocumentError(f"{where}: data.{CONFIG_MAP_KEY} is not valid JSON: {error}") from None
    return validate(RoutingTable, table, where)


def _tenants_of_secret(document: Mapping[str, Any], where: str) -> TenantList:
    """The list that a Secret carries, as text or in base64. Its content is never repeated in an error."""
    field_name = "stringData" if "stringData" in document else "data"
    data = document.get(field_name)
    content = data.get(TENANTS_ENTRY) if isinstance(data, dict) else None
    if not isinstance(content, str):
        raise DocumentError(f"{where}: Secret has no {field_name}.{TENANTS_ENTRY}")
    where = f"{where}: {field_name}.{TENANTS_ENTRY}"
    if field_name == "data":
        try:
            content = b64decode(content, validate=True).decode()
        except ValueError:
            raise DocumentError(f"{where}: is not UTF-8 text in base64") from None
    lists = load_documents(content, where).tenant_lists
    if len(lists) != 1:
        raise DocumentError(f"{where}: holds {len(lists)} TenantLists; one is expected")
    return lists[0]


def _refuse_duplicates(found: Mapping[str, list[Any]], source: str) -> None:
    for kind in ("Datacenter", "InferencePool", "MarlinPolicy"):
        names = [(o.metadata.namespace, o.metadata.name) for o in found[kind]]
        for name in names:
            if names.count(name) > 1:
                raise DocumentError(f"{source}: {kind} {name[1]} is defined twice")


def _name_of(document: object) -> str:
    if not isinstance(document, Mapping):
        return ""
    metadata = document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, Mapping) else None
    return f"{document.get('kind', 'object')}{f' {name}' if name else ''}: "


def _dotted(location: tuple[int | str, ...]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.lstrip(".")


def _known_fields(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Names allowed at ``location``, following fields, lists and optional types."""
    current: Any = model
    for part in location:
        if isinstance(part, int):
            continue
        by_alias = {f.alias or name: f.annotation for name, f in current.model_fields.items()}
        current = _model_in(by_alias.get(part))
        if current is None:
            return []
    return [f.alias or name for name, f in current.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((m for a in get_args(annotation) if (m := _model_in(a)) is not None), None)
