"""A trained policy as a folder: weights that are nothing but numbers, and a card that says what they are.

``weights.safetensors`` holds named float32 arrays; ``card.json`` holds sizes, origin, evaluation and the weights'
digest. Loading believes neither: the card is checked field by field, the digest, every name, shape and number of the
weights as well, and nothing is unpickled. Whoever loads an artifact gets all of it or one line that says why not.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
from pydantic import Field, ValidationError

from marlin.api.errors import InputError, MarlinError
from marlin.api.plan import Dispatch
from marlin.api.values import ApiModel
from marlin.policy.networks.conditioning import Conditioning
from marlin.policy.networks.parameters import NetworkSettings, Parameters, actor_shapes, critic_shapes

FORMAT: Final = 1
WEIGHTS_FILE: Final = "weights.safetensors"
CARD_FILE: Final = "card.json"
_MOST_CARD_BYTES: Final = 1 << 20
_MOST_WEIGHT_BYTES: Final = 256 << 20
_MOST_HIDDEN: Final = 4096

_Size = Annotated[int, Field(ge=1, le=_MOST_HIDDEN)]
_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Networks(ApiModel):
    """Sizes of the networks."""

    actor_hidden: _Size = Field(description="Width of the actors.")
    critic_hidden: _Size = Field(description="Width of the critics.")
    pooled: _Size = Field(description="Numbers that a pool passes on.")
    film_hidden: _Size = Field(description="Width of what modulates the actors.")
    fleet: tuple[_Size, _Size] | None = Field(
        default=None, description="Models and sites of the one fleet that plain networks know. Default: any fleet."
    )

    def settings(self) -> NetworkSettings:
        """As the networks take them."""
        return NetworkSettings(**self.model_dump())


class Card(ApiModel):
    """What an artifact is."""

    format: int = Field(description="Version of this format.")
    marlin_version: str = Field(description="Version of the code that made it.")
    scenario_sha256: _Digest = Field(description="Digest of scenario and fleets it was trained in.")
    seed: int = Field(description="Of everything that was drawn.")
    dispatch: tuple[Dispatch, ...] = Field(min_length=1, description="Ways its plans were carried out in training.")
    conditioning: Conditioning = Field(description="What each agent goes by.")
    networks: Networks = Field(description="Sizes of the networks.")
    hyper_parameters: dict[str, Any] = Field(default_factory=dict, description="Of the training.")
    data_sources: tuple[str, ...] = Field(default=(), description="Whose data it was trained on.")
    evaluation: tuple[dict[str, Any], ...] = Field(default=(), description="What it was seen to do, row by row.")
    weights_sha256: _Digest = Field(description="Digest of the weights' file.")


@dataclass(frozen=True, slots=True)
class Artifact:
    """A policy that may be trusted to be what its card says."""

    card: Card
    parameters: Parameters


def save(folder: Path, card: Mapping[str, Any], parameters: Parameters) -> Artifact:
    """Writes an artifact; the folder appears whole or not at all.

    Args:
        folder: must not be there, or be an artifact, which is then replaced.
        card: fields of ``Card`` but for format and digest.
        parameters: as ``card["networks"]`` says.

    Raises:
        InputError: card or parameters are not as described, or the folder is something else.
        MarlinError: it cannot be written.
    """
    from safetensors.numpy import save as serialised  # noqa: PLC0415 only whoever has artifacts needs it

    if folder.exists() and not (folder / CARD_FILE).is_file():
        raise InputError(f"{folder}: is there and is no artifact; name another folder")
    data = serialised({name: np.ascontiguousarray(value, dtype=np.float32) for name, value in parameters.items()})
    whole = {**card, "format": FORMAT, "weights_sha256": hashlib.sha256(data).hexdigest()}
    checked = _card(whole, str(folder))
    _check_weights(parameters, checked, str(folder))
    try:
        work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise MarlinError(f"{folder}: cannot be written: {error.strerror or error}") from error
    try:
        (work / WEIGHTS_FILE).write_bytes(data)
        (work / CARD_FILE).write_text(json.dumps(checked.to_document(), indent=2) + "\n", encoding="utf-8")
        work.chmod(0o755)
        if folder.exists():
            old = work.with_name(work.name + ".old")
            os.replace(folder, old)  # noqa: PTH105 says more plainly that nothing is in its place for a moment
            os.replace(work, folder)  # noqa: PTH105
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(work, folder)  # noqa: PTH105
    except OSError as error:
        raise MarlinError(f"{folder}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return Artifact(checked, parameters)


def load(folder: Path) -> Artifact:
    """Reads and checks an artifact.

    Raises:
        InputError: it is newer than this code, incomplete, changed, or does not fit together; one line says which.
    """
    from safetensors import SafetensorError  # noqa: PLC0415
    from safetensors.numpy import load as parsed  # noqa: PLC0415

    written = _read(folder / CARD_FILE, _MOST_CARD_BYTES)
    try:
        given = json.loads(written)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{folder / CARD_FILE}: is not JSON: {error}".splitlines()[0]) from None
    version = given.get("format") if isinstance(given, dict) else None
    if isinstance(version, int) and version > FORMAT:
        raise InputError(f"{folder}: was made by a newer MARLIN (format {version}, this one reads {FORMAT}); upgrade")
    card = _card(given, str(folder / CARD_FILE))
    data = _read(folder / WEIGHTS_FILE, _MOST_WEIGHT_BYTES)
    if hashlib.sha256(data).hexdigest() != card.weights_sha256:
        raise InputError(f"{folder / WEIGHTS_FILE}: is incomplete or was changed: its digest is not the card's")
    try:
        parameters = parsed(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise InputError(f"{folder / WEIGHTS_FILE}: cannot be read: {error}".splitlines()[0]) from None
    _check_weights(parameters, card, str(folder / WEIGHTS_FILE))
    return Artifact(card, parameters)


def _read(file: Path, most: int) -> bytes:
    try:
        if file.stat().st_size > most:
            raise InputError(f"{file}: is larger than {most >> 20} MiB, so it is no artifact's")
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror or error}; an artifact is a folder") from error


def _card(given: object, where: str) -> Card:
    try:
        card = Card.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"])) or "card"
        raise InputError(f"{where}: {key}: {first['msg'][:1].lower()}{first['msg'][1:]}") from None
    if card.format != FORMAT:
        raise InputError(f"{where}: format: {card.format} is not known; this MARLIN reads {FORMAT}")
    return card


def _check_weights(parameters: Parameters, card: Card, where: str) -> None:
    settings = card.networks.settings()
    expected = actor_shapes(settings) | critic_shapes(settings)
    if missing := sorted(set(expected) - set(parameters)):
        raise InputError(f"{where}: has no {missing[0]}")
    if unknown := sorted(set(parameters) - set(expected)):
        raise InputError(f"{where}: has {unknown[0]}, which no network of this card has")
    for name, shape in expected.items():
        value = parameters[name]
        if value.shape != shape or value.dtype != np.float32:
            raise InputError(f"{where}: {name} is {value.dtype} {value.shape}, not float32 {shape}")
        if not np.isfinite(value).all():
            raise InputError(f"{where}: {name} has numbers that are not finite")
