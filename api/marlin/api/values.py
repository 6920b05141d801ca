"""The small values that the three kinds are made of, and the base class of every model.

A field is written in snake_case here and in camelCase in YAML. A rule that spans several fields is a ``Rule``: the
CEL text that the API server runs and the Python predicate that everyone else runs stand side by side, so that a file
read on a laptop and an object applied to a cluster are refused for the same reason in the same words.

There are no floats in a spec but coordinates: an API server, a YAML parser and a JSON printer do not agree on them.
Physical values are quantities, as in Kubernetes: ``"1.2"``, ``"350m"``, ``"140Gi"``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Self

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import core_schema

if TYPE_CHECKING:
    from pydantic.json_schema import JsonSchemaValue

GROUP: Final = "marlin.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = "marlin.dev/v1alpha1"

SHARE_SCALE: Final = 10_000
"""Weights are integers out of this many, so that a row adds up exactly, in every language that reads it."""

MAX_DATACENTERS: Final = 64
MAX_POOLS: Final = 64
MAX_ORIGINS: Final = 16


@dataclass(frozen=True, slots=True)
class Rule:
    """A condition on a whole object, once for the API server and once for Python."""

    cel: str
    message: str
    holds: Callable[[Any], bool]


class ApiModel(BaseModel):
    """Immutable, strict about unknown fields, camelCase outside, snake_case inside."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=False,
        ser_json_inf_nan="constants",
    )
    rules: ClassVar[tuple[Rule, ...]] = ()
    """Conditions over several fields; uniqueness in a ``list_map`` is checked without being listed here."""

    @model_validator(mode="after")
    def _obey_rules(self) -> Self:
        for name, keys in _list_maps(type(self)):
            entries = [tuple(getattr(entry, key) for key in keys) for entry in getattr(self, name) or ()]
            if len(set(entries)) != len(entries):
                raise ValueError(f"{to_camel(name)}: no two entries may have the same {' and '.join(keys)}")
        for rule in self.rules:
            if not rule.holds(self):
                raise ValueError(rule.message)
        return self

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        json_schema = handler.resolve_ref_schema(handler(schema))
        for name, field in cls.model_fields.items():
            # An absent object is filled with its own defaults, as in Python, so that rules may look inside it. They
            # are written out, because an API server checks a default against the rules before it fills it further.
            if isinstance(field.default_factory, type) and issubclass(field.default_factory, ApiModel):
                json_schema["properties"][field.alias or name]["default"] = {
                    key: value for key, value in field.default_factory().to_document().items() if value not in ([], {})
                }
        if cls.rules:
            json_schema["x-kubernetes-validations"] = [{"rule": r.cel, "message": r.message} for r in cls.rules]
        return json_schema

    def to_document(self) -> dict[str, Any]:
        """The object as it stands in YAML or JSON: camelCase, nothing that was left unset."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


@cache
def _list_maps(model: type[ApiModel]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Fields that are list maps, and their keys; looked up once, because every object that is made asks."""
    found = ((name, _list_map_keys(field.json_schema_extra)) for name, field in model.model_fields.items())
    return tuple((name, keys) for name, keys in found if keys is not None)


def list_map(*keys: str) -> dict[str, Any]:
    """Schema of a list whose entries are told apart by ``keys``, so that server-side apply can merge it."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)}


def _list_map_keys(extra: object) -> tuple[str, ...] | None:
    keys = extra.get("x-kubernetes-list-map-keys") if isinstance(extra, dict) else None
    return tuple(_snake(key) for key in keys) if isinstance(keys, list) else None


def _snake(camel: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in camel)


LIST_ATOMIC: Final[dict[str, Any]] = {"x-kubernetes-list-type": "atomic"}
LIST_SET: Final[dict[str, Any]] = {"x-kubernetes-list-type": "set"}
MAP_ATOMIC: Final[dict[str, Any]] = {"x-kubernetes-map-type": "atomic"}

_DNS_LABEL = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
_DNS_NAME = r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$"

Label = Annotated[str, Field(min_length=1, max_length=63, pattern=_DNS_LABEL)]
"""A DNS label: lower case letters, digits and inner dashes, at most 63."""

ObjectName = Annotated[str, Field(min_length=1, max_length=253, pattern=_DNS_NAME)]
"""A Kubernetes object's name: DNS labels joined by dots, at most 253 characters."""

KeyName = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")]
"""A key inside a Secret or ConfigMap."""

ZoneCode = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[A-Za-z0-9][-_A-Za-z0-9]*$")]
"""A grid zone as Electricity Maps names it, for example ``DE-LU``."""

HttpUrl = Annotated[str, Field(min_length=8, max_length=512, pattern=r"^https?://[^\s/$.?#][^\s]*$")]
"""An absolute http or https address."""

Text = Annotated[str, Field(max_length=1024)]
"""One line for a person to read."""

DecimalText = Annotated[str, Field(max_length=24, pattern=r"^-?[0-9]+(\.[0-9]+)?$")]
"""A measured number in a status: a decimal string, because a status holds no floats either."""

Sha256 = Annotated[str, Field(min_length=64, max_length=64, pattern=r"^[0-9a-f]{64}$")]
"""A SHA-256 digest in lower-case hexadecimal."""

Percent = Annotated[int, Field(ge=0, le=100, json_schema_extra={"format": "int32"})]
Count = Annotated[int, Field(ge=0, le=2_147_483_647, json_schema_extra={"format": "int32"})]
Share = Annotated[int, Field(ge=0, le=SHARE_SCALE, json_schema_extra={"format": "int32"})]
"""A share in parts per 10,000."""

_SUFFIXES: Final[dict[str, Decimal]] = {
    "": Decimal(1),
    "m": Decimal("0.001"),
    "k": Decimal(10) ** 3,
    "M": Decimal(10) ** 6,
    "G": Decimal(10) ** 9,
    "T": Decimal(10) ** 12,
    "Ki": Decimal(2) ** 10,
    "Mi": Decimal(2) ** 20,
    "Gi": Decimal(2) ** 30,
    "Ti": Decimal(2) ** 40,
}
_QUANTITY_PATTERN: Final = r"^-?[0-9]+(\.[0-9]{1,6})?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$"
_QUANTITY = re.compile(r"(-?[0-9]+(?:\.[0-9]{1,6})?)(m|k|M|G|T|Ki|Mi|Gi|Ti)?")


def quantity_value(quantity: int | str) -> float:
    """The number a quantity stands for: ``"350m"`` is 0.35, ``"140Gi"`` is 150,323,855,360.

    Raises:
        ValueError: the text is not a quantity.
    """
    match = _QUANTITY.fullmatch(str(quantity))
    if match is None:
        raise ValueError(f'{quantity!r} is not a quantity such as 2, "1.2", "350m" or "140Gi"')
    return float(Decimal(match[1]) * _SUFFIXES[match[2] or ""])


@dataclass(frozen=True, slots=True)
class QuantityBounds:
    """Marks a field as a quantity between two bounds, both included unless said otherwise."""

    minimum: str | None = None
    maximum: str | None = None
    exclusive_minimum: bool = False

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self._check, serialization=core_schema.plain_serializer_function_ser_schema(lambda value: value)
        )

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        json_schema: JsonSchemaValue = {
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "x-kubernetes-int-or-string": True,
            "maxLength": 20,
            "pattern": _QUANTITY_PATTERN,
        }
        if bounds := self._bounds():
            json_schema["x-kubernetes-validations"] = [{"rule": r.cel, "message": r.message} for r in bounds]
        return json_schema

    def _bounds(self) -> list[Rule]:
        """The bounds that are set, each as CEL over the quantity and as Python over its number."""
        bounds = []
        if (low := self.minimum) is not None:
            strict, least = self.exclusive_minimum, quantity_value(low)
            bounds.append(
                Rule(
                    f"quantity(string(self)).compareTo(quantity('{low}')) {'>' if strict else '>='} 0",
                    f"must be {'above' if strict else 'at least'} {low}",
                    lambda number: number > least if strict else number >= least,
                )
            )
        if (high := self.maximum) is not None:
            most = quantity_value(high)
            bounds.append(
                Rule(
                    f"quantity(string(self)).compareTo(quantity('{high}')) <= 0",
                    f"must be at most {high}",
                    lambda number: number <= most,
                )
            )
        return bounds

    def _check(self, value: object) -> int | str:
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise ValueError(f'must be a whole number or a quoted decimal such as "1.2", not {value!r}')  # noqa: TRY004
        number = quantity_value(value)
        for bound in self._bounds():
            if not bound.holds(number):
                raise ValueError(bound.message)
        return value


PositiveQuantity = Annotated[int | str, QuantityBounds(minimum="0", exclusive_minimum=True)]
NonNegativeQuantity = Annotated[int | str, QuantityBounds(minimum="0")]
AnyQuantity = Annotated[int | str, QuantityBounds()]


class ObjectMeta(BaseModel):
    """The part of Kubernetes' object metadata that MARLIN reads; the rest is kept as it came."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="allow", frozen=True)

    name: ObjectName = Field(description="The object's name, unique among its kind (and namespace).")
    namespace: Label | None = Field(default=None, description="The namespace; cluster-scoped kinds have none.")
    labels: dict[str, str] = Field(default_factory=dict, description="Labels, for selectors.")
    annotations: dict[str, str] = Field(default_factory=dict, description="Annotations.")
    uid: str | None = Field(default=None, description="Set by the API server.")
    generation: int | None = Field(default=None, description="Set by the API server: counts changes of spec.")


class SecretRef(ApiModel):
    """A Secret in the operator's own namespace; it is read by name and never copied anywhere.

    What of it is sent somewhere goes only to the origins that its key ``send-to`` lists.
    """

    name: ObjectName = Field(description="Name of the Secret. It must be in the operator's namespace.")


class SecretKeyRef(SecretRef):
    """One key of a Secret in the operator's own namespace."""

    key: KeyName = Field(
        default="token",
        description="Key inside the Secret. Default: token. The Secret lists under its key send-to the origins it may"
        " go to, such as https://host:port; without it, it is sent nowhere.",
    )


class LabelSelector(ApiModel):
    """Selects objects that carry all the given labels; an empty selector selects all."""

    match_labels: dict[str, Annotated[str, Field(max_length=63)]] = Field(
        default_factory=dict,
        max_length=32,
        description="Labels an object must carry, with these values. Default: none, which selects everything.",
    )

    def matches(self, labels: dict[str, str]) -> bool:
        """Whether an object with ``labels`` is selected."""
        return all(labels.get(key) == value for key, value in self.match_labels.items())


class Verification(StrEnum):
    """Whether a peer has to prove who it is."""

    REQUIRED = "Required"
    DISABLED = "Disabled"


class Tls(ApiModel):
    """How a connection is verified."""

    verification: Verification = Field(
        default=Verification.REQUIRED,
        description=(
            "Required: the peer's certificate must verify. Disabled: plain http, or any certificate, is accepted; "
            "say so only inside a network you trust. Default: Required."
        ),
    )
    server_name: Annotated[str, Field(max_length=253)] | None = Field(
        default=None, description="Name the certificate must carry. Default: the host of the address."
    )
    ca_secret_ref: SecretRef | None = Field(
        default=None,
        description="Secret with key ca.crt to verify the peer with. Default: the system's authorities.",
    )
    client_certificate_secret_ref: SecretRef | None = Field(
        default=None,
        description="Secret with keys tls.crt and tls.key to present. Default: none is presented.",
    )
