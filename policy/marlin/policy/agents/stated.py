"""The game as it is stated in a policy's ``spec.negotiation``, and as text on a command line.

What plans and what judges a policy that learnt on go by the same statement, so that it is judged as it would serve.
"""

from __future__ import annotations

from dataclasses import replace

from pydantic import ValidationError

from marlin.api.errors import InputError
from marlin.api.policy import Negotiation
from marlin.policy.game import GameSettings


def game_of(stated: Negotiation) -> GameSettings:
    """The settings of the game; what is not stated is as by default."""
    usual = GameSettings()
    veto = replace(usual.veto, capital=float(stated.veto_capital_threshold), most=stated.veto_max_pull_percent / 100)
    return replace(usual, steps=stated.gradient_steps, veto=veto)


def text_of(stated: Negotiation) -> str:
    """As ``parse_negotiation`` reads it."""
    return ",".join(f"{name}={value}" for name, value in stated.model_dump(by_alias=True).items())


def parse_negotiation(text: str) -> Negotiation:
    """What ``gradientSteps=5,vetoCapitalThreshold=150`` states; names are those of ``spec.negotiation``.

    Raises:
        InputError: a name is not known, or a number not in its range.
    """
    document: dict[str, str] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        if name.strip() in document:
            raise InputError(f"negotiation {text!r}: {name.strip()} is given twice")
        document[name.strip()] = value.strip()
    names = [field.alias for field in Negotiation.model_fields.values()]
    for name in document:
        if name not in names:
            raise InputError(f"negotiation {text!r}: {name!r} is not one of {', '.join(map(str, names))}")
    try:
        return Negotiation.model_validate(document, strict=False)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise InputError(f"negotiation {text!r}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
