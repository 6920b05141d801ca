"""The few fields of a request's body that decide where it goes. The body is read, never rewritten.

``flow`` asks for them. Everything else in a body is skipped without being built, at about 1 us for 1 KB; what the
backend would refuse is left for it to refuse, as long as the body is JSON and names a model.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from marlin.router.errors import BadRequestError


class BodyFields(msgspec.Struct, gc=False):
    """What is read of a body; None where it is not said."""

    model: str | None = None
    stream: bool | None = None
    user: str | None = None
    prompt_cache_key: str | None = None


class _Loose(msgspec.Struct, gc=False):
    """The same for a body in which one of them has another type than it should."""

    model: Any = None
    stream: Any = None
    user: Any = None
    prompt_cache_key: Any = None


NO_FIELDS: Final = BodyFields()
_DECODER = msgspec.json.Decoder(BodyFields)
_LOOSE_DECODER = msgspec.json.Decoder(_Loose)


def read_fields(body: bytes) -> BodyFields:
    """The fields of a JSON body.

    Raises:
        BadRequestError: it is not a JSON object, or its ``model`` is not a string.
    """
    if not body:
        return NO_FIELDS
    try:
        return _DECODER.decode(body)
    except msgspec.ValidationError:
        return _read_loosely(body)
    except msgspec.DecodeError as error:
        raise BadRequestError(f"the body is not valid JSON: {error}") from None
    except UnicodeDecodeError:
        raise BadRequestError("the body is not valid UTF-8") from None
    except RecursionError:
        raise BadRequestError("the body is nested too deeply") from None


def _read_loosely(body: bytes) -> BodyFields:
    try:
        loose = _LOOSE_DECODER.decode(body)
    except msgspec.ValidationError:
        raise BadRequestError("the body must be a JSON object") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequestError(f"the body is not valid JSON: {error}") from None
    if loose.model is not None and not isinstance(loose.model, str):
        raise BadRequestError("model must be a string", reason="model_missing", param="model")
    return BodyFields(
        model=loose.model,
        stream=loose.stream is True,
        user=_text(loose.user),
        prompt_cache_key=_text(loose.prompt_cache_key),
    )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
