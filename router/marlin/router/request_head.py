"""The model's name, out of a request's body. The body is read, never rewritten."""

from __future__ import annotations

import json
from dataclasses import dataclass

from marlin.router.errors import BadRequestError, UnknownModelError
from marlin.router.view import Pool, Table


@dataclass(frozen=True, slots=True)
class RequestHead:
    """What decides where a request goes."""

    model: str | None
    """The model it names; None where it names none."""
    is_readable: bool = True
    """Whether a model could have been read: False for a body that is not plain JSON."""


def read_head(body: bytes, content_type: str, content_encoding: str) -> RequestHead:
    """What a request says about itself.

    Raises:
        BadRequestError: the body is not JSON, or its ``model`` is not a string.
    """
    if not body:
        return RequestHead(None)
    is_json = content_type.split(";", 1)[0].strip().lower() not in {
        "multipart/form-data",
        "application/x-www-form-urlencoded",
        "application/octet-stream",
    }
    if not is_json or content_encoding.strip().lower() not in {"", "identity"}:
        return RequestHead(None, is_readable=False)
    try:
        document = json.loads(body)
    except RecursionError:
        raise BadRequestError("the body is nested too deeply") from None
    except ValueError as error:  # covers invalid UTF-8 too
        raise BadRequestError(f"the body is not valid JSON: {error}") from None
    if not isinstance(document, dict):
        raise BadRequestError("the body must be a JSON object")
    model = document.get("model")
    if model is not None and not isinstance(model, str):
        raise BadRequestError("model must be a string", reason="model_missing", param="model")
    return RequestHead(model)


def pool_of(table: Table, head: RequestHead) -> Pool:
    """The pool that serves a request; one that names no model goes to the only pool, as with a lone vLLM.

    Raises:
        UnknownModelError: the model is served by no pool.
        BadRequestError: no model is named, and there are several pools.
    """
    if head.model is not None:
        pool = table.by_model.get(head.model)
        if pool is None:
            served = ", ".join(list(table.by_model)[:10])
            raise UnknownModelError(
                f"The model `{head.model[:200]}` does not exist. Models served here: {served}.", param="model"
            )
        return pool
    if len(table.pools) == 1:
        return table.pools[0]
    if not head.is_readable:
        raise BadRequestError(
            "the model can only be read from a JSON body so far, and several models are served here; "
            "send this request to a router that serves one",
            reason="model_unreadable",
            param="model",
        )
    raise BadRequestError("model is required: several models are served here", reason="model_missing", param="model")
