"""Faults a user can switch on, at start or while the server runs.

``FaultBoard`` holds the faults that are on and decides for each request which of them strike it: always, for the next
N requests, or with a probability from a seeded generator. What a fault does to a request is the business of ``gate``
and ``generate``; this module only decides.

In JSON (``POST /emulator/faults``): ``{"fault": "die-mid-stream", "afterTokens": 5, "requests": 3}``.
On the command line: ``--fault die-mid-stream,after-tokens=5,requests=3``. The reference page explains each.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, cast, get_args

from marlin.api.errors import InputError

FaultName = Literal["refuse", "stall", "die-mid-stream", "slow", "queue-full", "silent-stream", "engine-dead"]
Scope = Literal["inference", "all"]

NAMES: Final = cast("tuple[FaultName, ...]", get_args(FaultName))
SCOPES: Final = cast("tuple[Scope, ...]", get_args(Scope))


class FaultError(InputError):
    """What was asked for is no fault; the message says what is possible."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault and whom it strikes."""

    name: FaultName
    requests: int | None = None
    """Strikes the next that many requests, then is over. None: until it is cleared."""
    probability: float = 1.0
    """Chance that it strikes a request."""
    seed: int = 0
    """Of the generator behind ``probability``."""
    scope: Scope = "inference"
    """``inference``: POSTs to the endpoints of the model. ``all``: every path but the emulator's own."""
    after_tokens: int = 1
    """die-mid-stream, silent-stream, engine-dead: tokens that still arrive."""
    factor: float = 2.0
    """slow: times longer."""


_KEYS: Final[Mapping[str, tuple[str, type]]] = {
    "requests": ("requests", int),
    "probability": ("probability", float),
    "seed": ("seed", int),
    "scope": ("scope", str),
    "aftertokens": ("after_tokens", int),
    "factor": ("factor", float),
}


def fault_from(document: Mapping[str, Any]) -> Fault:
    """Reads a fault from JSON or from the parts of a command-line option.

    Raises:
        FaultError: an unknown name or key, or a value out of range.
    """
    name = str(document.get("fault", "")).replace("_", "-")
    if name not in NAMES:
        raise FaultError(f"no fault {name!r}; there are {', '.join(NAMES)}")
    values: dict[str, Any] = {}
    for key, value in document.items():
        if key == "fault" or value is None:
            continue
        known = _KEYS.get(key.replace("_", "").replace("-", "").lower())
        if known is None:
            raise FaultError(f"a fault has no {key!r}; it has requests, probability, seed, scope, afterTokens, factor")
        attribute, kind = known
        try:
            values[attribute] = kind(value)
        except (TypeError, ValueError):
            raise FaultError(f"{key}: {value!r} is not a number") from None
    fault = Fault(name, **values)
    if fault.scope not in SCOPES:
        raise FaultError(f"scope: {fault.scope!r} is neither {' nor '.join(SCOPES)}")
    if not 0.0 <= fault.probability <= 1.0:
        raise FaultError(f"probability: {fault.probability:g} is not between 0 and 1")
    if fault.requests is not None and fault.requests < 1:
        raise FaultError(f"requests: {fault.requests} is not at least 1")
    if fault.after_tokens < 0 or fault.factor < 1.0:
        raise FaultError("afterTokens must be at least 0 and factor at least 1")
    return fault


def fault_from_option(text: str) -> Fault:
    """Reads ``NAME[,key=value...]``.

    Raises:
        FaultError: as ``fault_from``, or a part is not key=value.
    """
    name, *parts = (part.strip() for part in text.split(","))
    document: dict[str, Any] = {"fault": name}
    for part in parts:
        key, equals, value = part.partition("=")
        if not equals:
            raise FaultError(f"{part!r} is not key=value")
        document[key] = value
    return fault_from(document)


@dataclass(slots=True)
class _Active:
    fault: Fault
    generator: random.Random
    hits: int = 0

    def strikes(self) -> bool:
        if self.fault.probability < 1.0 and self.generator.random() >= self.fault.probability:
            return False
        self.hits += 1
        return True

    @property
    def over(self) -> bool:
        return self.fault.requests is not None and self.hits >= self.fault.requests


@dataclass(slots=True)
class FaultBoard:
    """The faults that are on, one of each name at most."""

    _active: dict[FaultName, _Active] = field(default_factory=dict)

    def set(self, fault: Fault) -> None:
        """Switches a fault on, in place of one with the same name."""
        self._active[fault.name] = _Active(fault, random.Random(fault.seed))

    def clear(self, name: FaultName | None = None) -> None:
        """Switches one fault off, or all."""
        if name is None:
            self._active.clear()
        else:
            self._active.pop(name, None)

    def strike(self, *, inference: bool) -> Mapping[FaultName, Fault]:
        """The faults that strike the request at hand; counts them."""
        if not self._active:
            return {}
        struck: dict[FaultName, Fault] = {}
        for name, active in list(self._active.items()):
            if (inference or active.fault.scope == "all") and not active.over and active.strikes():
                struck[name] = active.fault
        return struck

    @property
    def dead(self) -> bool:
        """Whether the engine is dead for everybody, not for some requests only: /health is 503 too."""
        active = self._active.get("engine-dead")
        return active is not None and active.fault.requests is None and active.fault.probability >= 1.0

    def document(self) -> dict[str, Any]:
        """What ``GET /emulator/faults`` shows."""
        shown = []
        for active in self._active.values():
            fault = active.fault
            shown.append(
                {
                    "fault": fault.name,
                    "requests": fault.requests,
                    "probability": fault.probability,
                    "seed": fault.seed,
                    "scope": fault.scope,
                    "afterTokens": fault.after_tokens,
                    "factor": fault.factor,
                    "hits": active.hits,
                    "over": active.over,
                }
            )
        return {"faults": shown, "known": list(NAMES)}
