"""A scenario: everything ``marlin simulate`` may be told about an experiment, as one checked value.

It comes from a YAML file with the single key ``scenario``, from the command line, or from a file of which the command
line changes a part. All three are checked here, so that a mistake is refused with the same words: the file and line or
the option, and the nearest name that is known. Where results go is no part of a scenario. Nothing but the scenario
file is read; ``policy.simulating`` makes an experiment of it.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Annotated, Any, Final

import yaml
from pydantic import AfterValidator, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic_core import CoreSchema, core_schema

from marlin.api.documents import MAX_DOCUMENT_BYTES
from marlin.api.errors import InputError
from marlin.api.plan import Dispatch, PlannerKind, Scheme
from marlin.api.pool import PowerDown
from marlin.api.values import ApiModel
from marlin.simulator.constants import CONSTANTS, Balancer, Reading, Settings
from marlin.simulator.demand import Origins
from marlin.simulator.fluid import Form
from marlin.simulator.outages import outage
from marlin.simulator.scenario import PRESETS
from marlin.simulator.signals import CarbonAccounting, PriceKind
from marlin.simulator.workload.scaling import LOADS

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


def _settings(given: Mapping[str, object]) -> Mapping[str, object]:
    for name, value in given.items():
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
        elif f.name == "wakes_on_demand":
            properties[f.name] = {"type": "boolean", "default": True}
        elif f.name in SETTINGS:
            properties[f.name] = {"enum": list(Reading), "default": Reading.OURS}
    return {"properties": properties, "additionalProperties": False}


_OutageText = Annotated[str, AfterValidator(_outage)]
_Count = Annotated[int, Field(ge=0, strict=True)]
_Base = Annotated[str, OneOf(tuple(PRESETS))]
_Load = Annotated[str, OneOf(tuple(LOADS))]
_Planner = Annotated[str, OneOf(tuple(kind.option for kind in PlannerKind))]
_Scheme = Annotated[str, OneOf(tuple(scheme.option for scheme in Scheme if scheme is not Scheme.CUSTOM))]
_Dispatch = Annotated[str, OneOf(tuple(dispatch.value.lower() for dispatch in Dispatch))]
_Origins = Annotated[str, OneOf(tuple(Origins))]
_PowerDown = Annotated[str, OneOf(tuple(PowerDown))]
_Balancer = Annotated[str, OneOf(tuple(Balancer))]
_Engine = Annotated[str, OneOf(ENGINES)]
_Form = Annotated[str, OneOf(tuple(Form))]
_Carbon = Annotated[str, OneOf(tuple(CarbonAccounting))]
_Price = Annotated[str, OneOf(tuple(PriceKind))]


class Scenario(ApiModel):
    """An experiment."""

    base: _Base | None = Field(default=None, description="A built-in fleet. Default: paper-8, where no fleet is named.")
    fleet: str | None = Field(
        default=None,
        description="Instead: a file of Datacenter, InferencePool and MarlinPolicy documents, from where the scenario "
        "file lies.",
    )
    datacenters: tuple[str, ...] = Field(default=(), description="Keep only these sites. Default: all of the fleet's.")
    pools: tuple[str, ...] = Field(default=(), description="Keep only these pools. Default: all of the fleet's.")
    planner: _Planner = Field(default="capacity-proportional", description="Who plans.")
    scheme: _Scheme = Field(default="balanced", description="What the planner leans towards.")
    dispatch: _Dispatch | None = Field(
        default=None,
        description="How plans are carried out: shares are fixed; ordered fills one site after the other. Default: "
        "ordered for merit-order, shares for planners that look at no signal.",
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
    first_date: date = Field(default=date(2023, 6, 12), description="Date whose signals the first day is paired with.")
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


class _File(ApiModel):
    """A scenario file."""

    scenario: Scenario = Field(description="The experiment.")


Where = Callable[[tuple[int | str, ...]], str]
"""The place of a value in what a person wrote, for the beginning of a message."""


def checked(values: Mapping[str, object], where: Where) -> Scenario:
    """A scenario from keys as a file has them.

    Raises:
        InputError: the first value that is wrong; ``where`` says where it stands.
    """
    try:
        scenario = Scenario.model_validate(dict(values))
    except ValidationError as error:
        raise InputError(_first_problem(error, where)) from None
    if scenario.base is not None and scenario.fleet is not None:
        raise InputError(f"{where(('fleet',))}: give either base or fleet")
    return scenario


def load_scenario(text: str, source: str) -> dict[str, Any]:
    """The keys of a scenario file, checked.

    Args:
        text: its content.
        source: its name, for messages; paths in it are meant from where it lies.

    Raises:
        InputError: it is not YAML, or a key or value is wrong: file, line, key, and the nearest known name.
    """
    if len(text) > MAX_DOCUMENT_BYTES:
        raise InputError(f"{source}: larger than {MAX_DOCUMENT_BYTES // 2**20} MiB")
    try:
        node: yaml.Node | None = yaml.compose(text, yaml.SafeLoader)
        document: object = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InputError(f"{source}:{line}: not valid YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{source}: not valid YAML: {error or type(error).__name__}".splitlines()[0]) from None
    values = document.get("scenario") if isinstance(document, dict) and len(document) == 1 else None
    if not isinstance(values, dict):
        raise InputError(f"{source}:1: a scenario file has one key, scenario, and under it what is to be simulated")

    def where(location: tuple[int | str, ...]) -> str:
        path = ("scenario", *location)
        return f"{source}:{_line(node, path)}: {'.'.join(map(str, path))}"

    _refuse_doubles(node, source)
    checked(values, where)
    return _with_paths(values, Path(source).parent)


def scenario_schema() -> str:
    """The JSON schema of a scenario file, for editors."""
    schema = _File.model_json_schema(by_alias=True)
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "MARLIN scenario"} | schema
    return json.dumps(schema, indent=2) + "\n"


def scenario_keys() -> list[tuple[str, str, str]]:
    """(key, default, description) of each key, for the reference."""
    rows = []
    for name, f in Scenario.model_fields.items():
        default = f.get_default(call_default_factory=True)
        shown = "" if default in (None, (), {}, "") else json.dumps(default, default=str)
        rows.append((f.alias or name, shown, f.description or ""))
    return rows


def _with_paths(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Paths in a file are relative to it; a trace may be a path, with or without a name before it."""
    moved = dict(values)
    for key in ("fleet", "data"):
        if isinstance(moved.get(key), str):
            moved[key] = str(folder / moved[key])
    word, colon, path = str(moved.get("trace", "")).rpartition(":")
    if path and "=" not in path and (folder / path).exists():
        moved["trace"] = f"{word}{colon}{folder / path}"
    return moved


def _first_problem(error: ValidationError, where: Where) -> str:
    problem = error.errors(include_url=False)[0]
    location = problem["loc"]
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        known = [f.alias or name for name, f in Scenario.model_fields.items()]
        message = f"unknown key; {nearest(location[-1], known)}"
    elif problem["type"] == "value_error" and location == ("settings",) and isinstance(problem["input"], dict):
        # The message begins with the setting that is wrong; its line is nearer to the mistake than that of settings.
        name = message.split(":")[0].split(" ")[0]
        location = (*location, name) if name in problem["input"] else location
        message = message.removeprefix(f"{name}: ")
    return f"{where(location)}: {message[:1].lower()}{message[1:]}"


def _line(node: yaml.Node | None, path: tuple[int | str, ...]) -> int:
    """The line of the last part of a path that is there."""
    line = 1 if node is None else node.start_mark.line + 1
    for part in path:
        if isinstance(node, yaml.MappingNode):
            pair = next(((key, value) for key, value in node.value if key.value == str(part)), None)
            if pair is None:
                break
            line, node = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
    return line


def _refuse_doubles(node: yaml.Node | None, source: str) -> None:
    """YAML takes the last of two equal keys without a word; a person meant one of them."""
    if not isinstance(node, yaml.MappingNode):
        return
    seen: set[str] = set()
    for key, value in node.value:
        if key.value in seen:
            raise InputError(f"{source}:{key.start_mark.line + 1}: {key.value} is there twice")
        seen.add(key.value)
        _refuse_doubles(value, source)
