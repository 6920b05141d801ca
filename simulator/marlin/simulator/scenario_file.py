"""A scenario: everything ``marlin simulate`` may be told about an experiment, as one checked value.

It comes from a YAML file (``scenario_text``), from the command line, or from a file of which the command line changes a
part. All three are checked here, so that a mistake is refused with the same words: the file and line or the option, and
the nearest name that is known. The JSON schema for editors and the reference page are made from the same fields. Where
results go is no part of a scenario. Nothing is read here; ``policy.simulating`` makes an experiment of it.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime, time
from types import MappingProxyType
from typing import Annotated, Any, Final

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
    WithJsonSchema,
)
from pydantic_core import CoreSchema, core_schema

from marlin.api.errors import InputError
from marlin.api.plan import Dispatch, PlannerKind, Scheme
from marlin.api.pool import PowerDown
from marlin.api.values import ApiModel
from marlin.simulator.constants import CONSTANTS, Balancer, Reading, Settings
from marlin.simulator.demand import Origins
from marlin.simulator.expectations import FORECASTS
from marlin.simulator.fluid import Form
from marlin.simulator.outages import outage
from marlin.simulator.scenario import PRESETS
from marlin.simulator.signals import CarbonAccounting, PriceKind
from marlin.simulator.workload.scaling import LOADS

FIRST_DATE: Final = date(1970, 1, 1)
LAST_DATE: Final = date(2999, 12, 31)
"""Between these epochs can be numbered, and signals are those of the same day in a year that is known."""

DEFAULT_BASE: Final = "paper-8"
"""The fleet where none is named."""

ENGINES: Final = ("fluid", "request-level")

SETTINGS: Final = tuple(f.name for f in fields(Settings) if f.name != "balancer")
"""What ``settings`` may change; the balancer has a key of its own."""


def nearest(given: object, known: Iterable[str]) -> str:
    """What to say to somebody who wrote ``given`` where one of ``known`` was asked for."""
    names = list(known)
    near = difflib.get_close_matches(str(given).lower(), {name.lower(): name for name in names}, n=1, cutoff=0.5)
    by_lower = {name.lower(): name for name in names}
    return f"did you mean {by_lower[near[0]]}?" if near else f"there are {', '.join(names)}"


@dataclass(frozen=True, slots=True)
class OneOf:
    """Marks a text that is one of a few, in any case."""

    names: tuple[str, ...]

    def check(self, given: object) -> str:
        """The name as it is known.

        Raises:
            ValueError: there is none like it.
        """
        for name in self.names:
            if str(given).lower() == name.lower():
                return name
        raise ValueError(f"{str(given)!r} is not known; {nearest(given, self.names)}")

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), "enum": list(self.names)}


def _outage(text: str) -> str:
    outage(text)
    return text


def _date(given: object) -> date:
    """Text as a date; a number is refused, which pydantic would take for seconds since 1970."""
    try:
        found = date.fromisoformat(given) if isinstance(given, str) else given
    except ValueError:
        found = None
    if type(found) is not date:
        raise ValueError(f"{given!r}: write a date, such as 2023-06-12")
    if not FIRST_DATE <= found <= LAST_DATE:
        raise ValueError(f"{found} is not between {FIRST_DATE} and {LAST_DATE}")
    return found


def _settings(given: Mapping[str, object]) -> Mapping[str, object]:
    for name, value in given.items():
        if name == "balancer":
            raise ValueError("balancer is no setting but a key of its own")
        if name not in SETTINGS:
            raise ValueError(f"{name} is not known; {nearest(name, SETTINGS)}")
        _check_setting(name, value)
    return given


def _check_setting(name: str, value: object) -> None:
    constant = CONSTANTS.get(name)
    if constant is not None:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"{name}: {value!r} is not a number")
        if not constant.low <= value <= constant.high:
            unit = "" if constant.unit == "1" else f" {constant.unit}"
            raise ValueError(f"{name}: {value:g} is not between {constant.low:g} and {constant.high:g}{unit}")
    elif name == "wakes_on_demand":
        if not isinstance(value, bool):
            raise ValueError(f"{name}: {value!r} is neither true nor false")
    elif value not in set(Reading):
        raise ValueError(f"{name}: {value!r} is not known; {nearest(value, Reading)}")


_MEANINGS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "blowdown": "Cooling water let off: evaporation / (cycles of concentration - 1), or the paper's / (1 - phi).",
        "first_token": "Time to it: reading the prompt and one decode step, or the paper's execution time / tokens.",
        "gpu_power": "Fractions of the GPUs' TDP and the host beside them, or the paper's equation (4) on the node's.",
        "wakes_on_demand": "Whether a site wakes more replicas than the plan keeps awake when requests have to wait.",
    }
)
"""What the settings that are no numbers say."""


def _settings_schema() -> dict[str, Any]:
    properties: dict[str, Any] = {}
    for f in fields(Settings):
        constant = CONSTANTS.get(f.name)
        if constant is not None:
            unit = "" if constant.unit == "1" else f", {constant.unit}"
            properties[f.name] = {
                "type": "number",
                "minimum": constant.low,
                "maximum": constant.high,
                "default": constant.value,
                "description": f"{constant.source}{unit}.",
            }
        elif f.name in SETTINGS:
            kind = {"type": "boolean"} if f.name == "wakes_on_demand" else {"enum": list(Reading)}
            properties[f.name] = {**kind, "default": f.default, "description": _MEANINGS[f.name]}
    return {"properties": properties, "additionalProperties": False}


_OutageText = Annotated[
    str,
    AfterValidator(_outage),
    WithJsonSchema({"type": "string", "pattern": r"^[a-z0-9][a-z0-9.-]*(@[0-9]{1,6}(-[0-9]{1,6})?)?$"}),
]
_Date = Annotated[date, BeforeValidator(_date)]
_Count = Annotated[int, Field(ge=0, strict=True)]
_Base = Annotated[str, OneOf(tuple(PRESETS))]
_Load = Annotated[str, OneOf(tuple(LOADS))]
_Planner = Annotated[str, OneOf(tuple(kind.option for kind in PlannerKind))]
_Scheme = Annotated[str, OneOf(tuple(scheme.option for scheme in Scheme if scheme is not Scheme.CUSTOM))]
_Dispatch = Annotated[str, OneOf(tuple(dispatch.value.lower() for dispatch in Dispatch))]
_Forecast = Annotated[str, OneOf(FORECASTS)]
_Origins = Annotated[str, OneOf(tuple(Origins))]
_PowerDown = Annotated[str, OneOf(tuple(PowerDown))]
_Balancer = Annotated[str, OneOf(tuple(Balancer))]
_Engine = Annotated[str, OneOf(ENGINES)]
_Form = Annotated[str, OneOf(tuple(Form))]
_Carbon = Annotated[str, OneOf(tuple(CarbonAccounting))]
_Price = Annotated[str, OneOf(tuple(PriceKind))]


class Scenario(ApiModel):
    """An experiment."""

    model_config = ConfigDict(json_schema_extra={"not": {"required": ["base", "fleet"]}})

    base: _Base | None = Field(
        default=None, description=f"A built-in fleet. Default: {DEFAULT_BASE}, where no fleet is named."
    )
    fleet: str | None = Field(
        default=None,
        description="Instead: a file of Datacenter, InferencePool and MarlinPolicy documents, from where the scenario "
        "file lies.",
    )
    datacenters: tuple[str, ...] = Field(default=(), description="Keep only these sites. Default: all of the fleet's.")
    pools: tuple[str, ...] = Field(default=(), description="Keep only these pools. Default: all of the fleet's.")
    planner: _Planner = Field(default="capacity-proportional", description="Who plans.")
    scheme: _Scheme = Field(default="balanced", description="What the planner leans towards.")
    weights: str | None = Field(
        default=None, description="Weights of the metrics instead of a scheme, such as carbon=2,cost=1."
    )
    artifact: str | None = Field(
        default=None, description="Folder of the trained policy, for marlin. Default: the one shipped with the package."
    )
    best_of: Annotated[int, Field(ge=0, le=4096, strict=True)] = Field(
        default=8, description="For marlin: samples that are tried beside each agent's own proposal; 0 tries none."
    )
    late_weight: Annotated[float, Field(ge=0.0, le=100.0, strict=True, allow_inf_nan=False)] = Field(
        default=1.0,
        description="For marlin: what late requests cost beside the objective, of which capacity-proportional is 1; "
        "more keeps more replicas awake.",
    )
    dispatch: _Dispatch | None = Field(
        default=None,
        description="How plans are carried out: shares are fixed; ordered fills one site after the other. Default: "
        "ordered for marlin, merit-order and oracle, shares for planners that look at no signal.",
    )
    origin_aware: bool = Field(
        default=False,
        strict=True,
        description="Under shares: plans also say where each origin's requests go, at the least network time.",
    )
    forecast: _Forecast = Field(
        default="smoothed",
        description="What plans are made from: a moving average, the workload predictor with its bounds, or the truth "
        "(perfect: shows what foresight would be worth, and makes oracle clairvoyant).",
    )
    compare: bool = Field(
        default=True,
        strict=True,
        description="Also run capacity-proportional on the same requests, and say what differs.",
    )
    trace: str = Field(
        default="",
        description="Whose arrivals: a name, a file, or a generator such as mmpp:burst_ratio=20. Default: the days "
        "under data, else the shipped week of BurstGPT.",
    )
    data: str | None = Field(
        default=None,
        description="Folder of full data: signals hour by hour. Default: the shipped means of hour and month.",
    )
    load: _Load = Field(default="peak95", description="How each day is scaled to the fleet.")
    days: Annotated[int, Field(ge=1, le=3650, strict=True)] = Field(default=1, description="Days simulated.")
    first_day: _Count = Field(default=0, description="Day of the trace to begin with.")
    first_date: _Date = Field(default=date(2023, 6, 12), description="Date whose signals the first day is paired with.")
    origins: _Origins = Field(
        default="uniform", description="Where requests come from: evenly, or more where it is day (local-hour)."
    )
    skip_bad_rows: bool = Field(
        default=False,
        strict=True,
        description="Leave bad rows of data files out and count them. Default: refuse the file.",
    )
    seed: _Count = Field(default=0, description="Of everything that is drawn.")
    power_down: _PowerDown | None = Field(
        default=None, description="What idle replicas of every pool can do. Default: what each pool says."
    )
    balancer: _Balancer = Field(default="spread", description="How a site spreads requests over its awake replicas.")
    drain: tuple[_OutageText, ...] = Field(
        default=(), description="Sites that get nothing and planners know it: sg, or sg@8-20 for epochs 8 to 20."
    )
    fail: tuple[_OutageText, ...] = Field(
        default=(), description="Sites that fail: as drain, but the first epoch's plan still counts on them."
    )
    absent: tuple[_OutageText, ...] = Field(
        default=(), description="Sites that are not there, so draw nothing: sg@0-47 joins in epoch 48, sg@48-95 leaves."
    )
    carbon: _Carbon = Field(default="direct", description="Emissions at the power plant, or of the whole life cycle.")
    price: _Price = Field(default="tariff", description="What a kWh is paid by.")
    engine: _Engine = Field(
        default="fluid", description="Requests as a flow, or each one followed (slow: for small fleets)."
    )
    form: _Form = Field(
        default="numpy", description="Of the fluid engine; both give the same. numba pays off over some months."
    )
    settings: Annotated[dict[str, Any], AfterValidator(_settings)] = Field(
        default_factory=dict,
        json_schema_extra=_settings_schema(),
        description="Constants of the twin that are to have another value, within their plausible range.",
    )

    @property
    def start(self) -> datetime:
        """When the first epoch starts."""
        return datetime.combine(self.first_date, time(tzinfo=UTC))

    @property
    def twin_settings(self) -> Settings:
        """The constants as the engines take them."""
        given: dict[str, Any] = {
            name: Reading(value) if isinstance(value, str) else value for name, value in self.settings.items()
        }
        return Settings(balancer=Balancer(self.balancer), **given)


class ScenarioFile(ApiModel):
    """A scenario file."""

    scenario: Scenario = Field(description="The experiment.")


KEYS: Final = tuple(f.alias or name for name, f in Scenario.model_fields.items())
"""The keys of a scenario as a file has them."""

Where = Callable[[tuple[int | str, ...]], str]
"""The place of a value in what a person wrote, for the beginning of a message."""


def checked(values: Mapping[str, object], where: Where) -> Scenario:
    """A scenario from keys as a file has them.

    Raises:
        InputError: the first key or value that is wrong; ``where`` says where it stands.
    """
    for key in values:
        if key not in KEYS:
            raise InputError(f"{where((key,))}: unknown key; {nearest(key, KEYS)}")
    try:
        scenario = Scenario.model_validate(dict(values))
    except ValidationError as error:
        raise InputError(_first_problem(error, where)) from None
    if scenario.base is not None and scenario.fleet is not None:
        raise InputError(f"{where(('fleet',))}: give either base or fleet")
    if scenario.weights is not None and "scheme" in scenario.model_fields_set:
        raise InputError(f"{where(('weights',))}: give either scheme or weights")
    return scenario


def scenario_schema() -> str:
    """The JSON schema of a scenario file, for editors."""
    schema = _without_titles(ScenarioFile.model_json_schema(by_alias=True))
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "MARLIN scenario"}
    return json.dumps(head | schema, indent=2) + "\n"


def _without_titles(node: Any) -> Any:
    """A schema without the titles that pydantic makes of names: an editor would show them beside the same names."""
    if isinstance(node, dict):
        return {k: _without_titles(v) for k, v in node.items() if not (k == "title" and isinstance(v, str))}
    return [_without_titles(item) for item in node] if isinstance(node, list) else node


def scenario_keys() -> list[tuple[str, str, str]]:
    """(key, default, description) of each key, for the reference."""
    rows = []
    for key, f in zip(KEYS, Scenario.model_fields.values(), strict=True):
        default = f.get_default(call_default_factory=True)
        shown = "" if default in (None, (), {}, "") else json.dumps(default, default=str)
        rows.append((key, shown, f.description or ""))
    return rows


_WANTED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "tuple_type": "write a list, such as [sg, gb]",
        "dict_type": "write names and values, such as patience_s: 30",
        "string_type": "write a text",
        "int_type": "write a whole number",
        "int_from_float": "write a whole number",
        "float_type": "write a number",
        "bool_type": "write true or false",
    }
)
"""What to do, in a person's words, where pydantic speaks of Python's types."""


def _first_problem(error: ValidationError, where: Where) -> str:
    problem = error.errors(include_url=False)[0]
    location = problem["loc"]
    message = _WANTED.get(problem["type"], problem["msg"].removeprefix("Value error, "))
    if problem["type"] in _WANTED and problem["input"] is not None:
        message = f"{problem['input']!r}: {message}"
    elif problem["type"] == "value_error" and location == ("settings",) and isinstance(problem["input"], dict):
        # The message begins with the setting that is wrong; its line is nearer to the mistake than that of settings.
        name = message.split(":")[0].split(" ")[0]
        location = (*location, name) if name in problem["input"] else location
        message = message.removeprefix(f"{name}: ")
    return f"{where(location)}: {message[:1].lower()}{message[1:]}"
